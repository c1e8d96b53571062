"""What is missing in known equations, learned from noisy recordings of a part of the states; fields kept on invariants.

    python -m ndae.experiments.studies.learned_terms [--only tanks] [--seeds 0 1 2]
    python -m ndae.experiments.studies.learned_terms --table

Each run is a JSON in experiments/results/learned_terms; the table is of those that are there.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ndae.experiments.files import read_json, write_json
from ndae.experiments.studies.missing.circuits import grid, rectifier
from ndae.experiments.studies.missing.conserved import FIELDS, learn_field
from ndae.experiments.studies.missing.learning import learn
from ndae.experiments.studies.missing.mechanisms import arm, bead, four_bar, pendulum
from ndae.experiments.studies.missing.missing import Missing
from ndae.experiments.studies.missing.processes import batch_reactor, robertson, tanks

RESULTS = Path(__file__).parent.parent / "results" / "learned_terms"
PROBLEMS: dict[str, Callable[[], Missing]] = {
    "reactor": batch_reactor, "tanks": tanks, "rectifier": rectifier, "bead": bead, "robertson": robertson,
    "four_bar": four_bar, "grid": grid, "arm": arm, "pendulum": pendulum,
}  # fmt: skip
# Relative errors of White et al. (2023), the best of their methods.
THEIRS = {"two_body": 0.13, "rigid_body": 0.15, "double_pendulum": 0.28, "converter": 0.05}
EVERY = [*PROBLEMS, *FIELDS]


def table(folder: Path) -> str:
    """What was learned so far, a row a problem: every seed's figure, in the order of seeds."""
    lines = [
        "| problem | error of the function, % | at its worst point, % | re-simulated | largest residual | besides |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, problem in PROBLEMS.items():
        if runs := _runs(folder, name):
            cells = [
                ", ".join(f"{100 * run['relative']:.2g}" for run in runs if "relative" in run),
                ", ".join(f"{100 * run['largest']:.2g}" for run in runs if "largest" in run),
                ", ".join(f"{max(run['resimulated']):.2g}" for run in runs),
                f"{max(run['residual'] for run in runs):.1g}",
                "; ".join(_besides(runs)),
            ]
            lines.append(f"| {problem.__doc__ or name} | {' | '.join(cells)} |")
    fields = [(name, _runs(folder, name)) for name in FIELDS]
    if any(runs for _, runs in fields):
        lines += ["", "| field | relative error | of the median trajectory | theirs | change of the invariant |"]
        lines += ["| --- | --- | --- | --- | --- |"]
    for name, runs in fields:
        if runs:
            errors, medians = (", ".join(f"{run[key]:.2g}" for run in runs) for key in ("error", "median"))
            kept = f"{max(run['violation'] for run in runs):.1g}"
            lines.append(f"| {FIELDS[name].__doc__} | {errors} | {medians} | {THEIRS[name]} | {kept} |")
    return "\n".join(lines)


def _runs(folder: Path, name: str) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(folder.glob(f"{name}-s*.json"))]


def _besides(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What else was measured."""
    found = []
    for key in runs[0].get("parameters", {}):
        off = ", ".join(f"{100 * run['parameters'][key]:.2g}" for run in runs)
        found.append(f"{key} off by {off} %")
    for key in runs[0].get("off_truth", {}):
        off = ", ".join(f"{run['off_truth'][key]:.2g}" for run in runs)
        least = ", ".join(f"{run['off_least_squares'][key]:.2g}" for run in runs)
        found.append(f"{key} off by {off} standard errors, from least squares of the true form by {least}")
    if "ahead" in runs[0]:
        ahead = ", ".join(f"{1000 * run['ahead']:.2g}" for run in runs)
        found.append(f"2 s ahead off by {ahead} mm")
    if "permitted_rmse" in runs[0]:
        own, best, expected = (
            ", ".join(f"{run[key]:.2g}" for run in runs) for key in ("rmse", "permitted_rmse", "permitted_expected")
        )
        found.append(f"RMSE {own}; of the true form by least squares {best}, to be expected of it {expected}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the problems asked for, and write a JSON each."""
    parser = argparse.ArgumentParser(description="Learn what is missing in known equations.")
    parser.add_argument("--only", nargs="+", choices=EVERY, default=EVERY)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there, and learn nothing")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.out))
        return
    torch.set_num_threads(1)
    for name in options.only:
        for seed in options.seeds:
            of_field = name in FIELDS
            found = learn_field(name, seed) if of_field else learn(name, PROBLEMS[name](), seed)
            write_json(options.out / f"{name}-s{seed}.json", found)
            print(json.dumps(found))


if __name__ == "__main__":
    main()
