"""What `ndae validate` does: from what is typed to the tables, the JSON and the figure."""

import json
import sys
from pathlib import Path

from ndae.experiments.files import write_text
from ndae.experiments.terminal import console
from ndae.experiments.validation.report import print_validation
from ndae.experiments.validation.validate import validate
from ndae.progress import reporting


def run_validate(
    run: Path, *, trajectories: int, seconds: float, json_path: Path | None, figure: Path | None
) -> list[Path]:
    """Validate the network of the run folder `run`, print what came out, and return the files written.

    With neither a JSON file nor a figure named, both go into the folder of the run. `json_path` "-" is stdout, which
    then has nothing else. Raises what `validate` does.
    """
    with reporting(True, "validate") as report:
        found = validate(run, trajectories=trajectories, seconds=seconds, progress=report)
    text = json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n"
    to_stdout = str(json_path) == "-"
    if json_path is None and figure is None:
        json_path, figure = run / "validation.json", run / "validation.png"
    written = []
    # Files first: what is printed may go to a reader that leaves before its end, as `head` does.
    if json_path is not None and not to_stdout:
        write_text(json_path, text)
        written.append(json_path)
    if figure is not None:
        from ndae.experiments.validation.figure import validation_figure

        written.append(validation_figure(found, figure))
    if to_stdout:
        sys.stdout.write(text)
        return []
    print_validation(found, console().print)
    return written
