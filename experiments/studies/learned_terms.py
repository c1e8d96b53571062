"""One function missing in known equations, learned from noisy recordings of a part of the states: ten problems.

    python -m ndae.experiments.studies.learned_terms [--only tanks] [--seeds 0 1 2]
    python -m ndae.experiments.studies.learned_terms --table

Each run is a JSON in experiments/results/learned_terms; the table is of those that are there.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ndae.experiments.files import read_json, write_json
from ndae.experiments.studies.missing.circuits import grid, rectifier
from ndae.experiments.studies.missing.learning import learn
from ndae.experiments.studies.missing.mechanisms import arm, bead, four_bar, pendulum
from ndae.experiments.studies.missing.missing import Missing
from ndae.experiments.studies.missing.processes import batch_reactor, robertson, tanks

RESULTS = Path(__file__).parent.parent / "results" / "learned_terms"
PROBLEMS: dict[str, Callable[[], Missing]] = {
    "reactor": batch_reactor, "tanks": tanks, "rectifier": rectifier, "bead": bead, "robertson": robertson,
    "four_bar": four_bar, "grid": grid,
    "arm": arm, "pendulum": pendulum,
}  # fmt: skip


def table(folder: Path) -> str:
    """What was learned so far, a row a problem: every seed's figure, in the order of seeds."""
    lines = [
        "| problem | error of the function, % of its largest value | the same at its worst point, % | re-simulated | "
        "largest residual |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, problem in PROBLEMS.items():
        runs = [read_json(file) for file in sorted(folder.glob(f"{name}-s*.json"))]
        if not runs:
            continue
        cells = [
            ", ".join(f"{100 * run['relative']:.2g}" for run in runs),
            ", ".join(f"{100 * run['largest']:.2g}" for run in runs),
            ", ".join(f"{max(run['resimulated']):.2g}" for run in runs),
            f"{max(run['residual'] for run in runs):.1g}",
        ]
        lines.append(f"| {problem.__doc__ or name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the problems asked for, and write a JSON each."""
    parser = argparse.ArgumentParser(description="Learn what is missing in known equations.")
    parser.add_argument("--only", nargs="+", choices=[*PROBLEMS], default=[*PROBLEMS])
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
            found = learn(name, PROBLEMS[name](), seed)
            write_json(options.out / f"{name}-s{seed}.json", found)
            print(json.dumps(found))


if __name__ == "__main__":
    main()
