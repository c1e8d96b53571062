"""What `ndae crosscheck` does: from what is typed to the table, the JSON and the figure."""

import json
import os
import sys
from pathlib import Path

from ndae.experiments.crosscheck.check import OUTSIDE, TOLERANCES, CrossCheck, crosscheck
from ndae.experiments.crosscheck.report import headline, notes, tables, to_json, width_of
from ndae.experiments.files import write_text
from ndae.experiments.problems import load_problem
from ndae.experiments.terminal import UserError, console
from ndae.progress import reporting

# For a diagram: from where a solver has hardly any digits on.
_FIGURE_TOLERANCES = (1e-4, 1e-6, 1e-8)
_FIGURES = (".png", ".pdf", ".svg")


def run_crosscheck(
    problem: str,
    *,
    rtol: float,
    tolerances: str | None,
    formulations: str,
    solver: str | None,
    against: str,
    consistent: str | None,
    work_precision: Path | None,
    json_path: Path | None,
    max_seconds: float,
) -> list[Path]:
    """Cross-check `problem`, print what came out, and return the files written.

    Raises UserError for what was typed wrong, and where no solve got to the end.
    """
    _check_files(work_precision, json_path)
    loaded = load_problem(problem)
    others = () if against.strip().lower() == "none" else tuple(_outside(name) for name in _names(against))
    with reporting(True) as report:
        check = crosscheck(
            loaded,
            tolerances=_tolerances(tolerances, rtol, work_precision is not None),
            formulations=_names(formulations),
            solver=solver,
            outside=others,
            consistent=None if consistent is None else _names(consistent),
            max_seconds=max_seconds,
            progress=report,
        )
    return _show(check, work_precision, json_path)


def check_network(run: Path, rtol: float, samples: int = 20) -> None:
    """Print how far a trained network over depth is from the continuous dynamics that it stands for, on test samples.

    Raises UserError for a run of another kind of model, ValueError where `run` holds none.
    """
    from ndae.experiments.runs.run import build_data, load_model
    from ndae.models.crosscheck import crosscheck as of_model
    from ndae.models.neural_dae import NeuralDAE

    config, model = load_model(run)
    if not isinstance(model, NeuralDAE):
        raise UserError(
            f"{run} learned by {config.method}, whose depth is physical time: `ndae validate {run}` compares it with "
            "the reference"
        )
    print(of_model(model, build_data(config).test.inputs[:samples], rtol=rtol))


def _show(check: CrossCheck, work_precision: Path | None, json_path: Path | None) -> list[Path]:
    data = to_json(check)
    text = json.dumps(data, indent=1) + "\n"
    written = []
    to_stdout = json_path is not None and str(json_path) == "-"
    # Files first: what is printed may go to a reader that leaves before its end, as `head` does.
    if json_path is not None and not to_stdout:
        write_text(json_path, text)
        written.append(json_path)
    succeeded = any(run.failure is None for run in check.runs)
    if work_precision is not None and succeeded:
        from ndae.experiments.crosscheck.work_precision import work_precision as draw

        written.append(draw(data, work_precision))
    if to_stdout:
        sys.stdout.write(text)
    else:
        out = console()
        out.print(headline(check), style="bold", markup=False)
        for made in tables(check, out.width):
            wide = console()
            wide.width = max(out.width, width_of(made))  # better wrapped by the terminal than cut
            wide.print(made)
        for line in notes(check):
            out.print(f"- {line}", markup=False)
    if not succeeded:
        raise UserError(f"{check.problem.name}: no solve got to the end; the first stopped: {check.runs[0].failure}")
    return [] if to_stdout else written


def _check_files(figure: Path | None, json_path: Path | None) -> None:
    """Raises UserError now rather than after minutes where a file could not be written."""
    if figure is not None and figure.suffix.lower() not in _FIGURES:
        raise UserError(f"--work-precision {figure}: write a file that ends in {' or '.join(_FIGURES)}")
    for option, path in (("--work-precision", figure), ("--json", json_path)):
        if path is None or str(path) == "-":
            continue
        if path.is_dir():
            raise UserError(f"{option} {path} is a folder: write the name of a file")
        folder = next(part for part in path.absolute().parents if part.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise UserError(f"{option} {path}: nothing can be written into {folder}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _outside(name: str) -> str:
    known = {solver.lower(): solver for solver in OUTSIDE}
    return known.get(name.lower(), name)


def _tolerances(text: str | None, rtol: float, figure: bool) -> tuple[float, ...]:
    if text is None:
        return (*(t for t in (_FIGURE_TOLERANCES if figure else TOLERANCES[:-1]) if t > rtol), rtol)
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise UserError(f"--tolerances {text!r}: write numbers with commas between them, such as 1e-6,1e-8") from None
