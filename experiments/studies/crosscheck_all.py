"""Every built-in problem cross-checked at one tolerance, and the table of what came out.

    python -m ndae.experiments.studies.crosscheck_all [--out experiments/results/crosscheck] [--rtol 1e-10] [--fresh]

One JSON file a problem, made where it is missing; the table, in Markdown, is made from the files alone.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

_OURS = (("projection",), ("ggl", "baumgarte"), ("plain",))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("experiments/results/crosscheck"))
    parser.add_argument("--rtol", type=float, default=1e-10)
    parser.add_argument("--fresh", action="store_true", help="solve again what there is")
    options = parser.parse_args()
    from ndae.experiments.files import read_json
    from ndae.experiments.problems import problem_names

    for name in (name for name, origin in problem_names().items() if origin == "built in"):
        path = options.out / f"{name}.json"
        if options.fresh or not path.exists():
            _check(name, options.rtol, path)
    print(markdown([read_json(path) for path in sorted(options.out.glob("*.json"))]))


def _check(name: str, rtol: float, path: Path) -> None:
    from ndae.experiments.crosscheck.check import crosscheck
    from ndae.experiments.crosscheck.report import to_json
    from ndae.experiments.files import write_json
    from ndae.experiments.problems import load_problem

    data = to_json(crosscheck(load_problem(name), tolerances=[rtol]))
    for run in data["runs"]:  # of a large problem, most of the file
        for by_component in ("digits", "relative_digits"):
            run.pop(by_component, None)
    write_json(path, data, indent=1)


def markdown(checks: list[Mapping[str, Any]]) -> str:
    """A line for each problem: digits of the worst differential variable, and the largest residual of the constraints.

    Stabilised are "ggl" and "baumgarte"; of IDA and Radau the form with the most digits counts. Seconds are those of
    the first formulation, projection where anything is hidden and plain elsewhere.
    """
    from ndae.experiments.crosscheck.report import digits_text, size_text

    lines = [
        "| problem | index | variables | projection | stabilised | plain | torch | IDA | Radau | published | "
        "residuals: projection | stabilised | plain | s |",
        "| --- " + "| ---: " * 13 + "|",
    ]
    for check in checks:
        runs = check["runs"]
        ours = {run["formulation"]: run for run in runs if run["solver"] == check["solver"]}
        ways = [[ours[name] for name in names if name in ours] for names in _OURS]
        outside = [_best([run for run in runs if run["solver"] == name]) for name in ("torch", "IDA", "Radau")]
        published = check["reference"]["published_digits"]
        said = [published[name] for name in check["differential"] if name in published]
        cells = [
            check["problem"],
            str(check["index"]),
            str(len(check["states"])),
            *(digits_text(min((run["digits_differential"] or 0.0 for run in way), default=None)) for way in ways),
            *map(digits_text, outside),
            "exact" if check["reference"]["kind"] == "exact" else digits_text(min(said, default=None)),
            *(size_text(_worst_drift(way)) for way in ways),
            f"{next(iter(ours.values()))['seconds']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _worst_drift(runs: list[Mapping[str, Any]]) -> float | None:
    """The largest residual of the constraints: all levels but the last, which is solved for and keeps itself."""
    values = [value for run in runs for value in list(run["drift"].values())[:-1] if value is not None]
    return max(values, default=None)


def _best(runs: list[Mapping[str, Any]]) -> float | None:
    return max((run["digits_differential"] for run in runs if run["digits_differential"] is not None), default=None)


if __name__ == "__main__":
    main()
