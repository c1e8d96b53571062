"""What methods reach on water, for each number of samples of the paper's Table 2.

    python -m ndae.experiments.studies.water_table  # soft constraint: the runs that are missing (an hour)
    python -m ndae.experiments.studies.water_table --paper  # the paper's five methods, small equivariant network
    python -m ndae.experiments.studies.water_table [--paper] --table  # from finished runs alone

The first are those of `ndae train water --method soft --network molecular --horizon 50 --schedule cosine
--learning-rate 0.02`, with three seeds; the others of `ndae compare water --methods none,auxiliary,penalty,end,smooth
--network equivariant-small --horizon 50 --schedule cosine --learning-rate 5e-3`, with as many seeds as `--seeds` says.
The epochs below are all that differs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ndae.experiments.drawing.table import make_tables, to_markdown
from ndae.experiments.paper import PAPER_TABLE_2
from ndae.experiments.runs.records import Record, Spread, read_records
from ndae.experiments.runs.settings import Settings
from ndae.experiments.runs.study import Study, run_study
from ndae.experiments.variants import Variant

SEEDS = (0, 1, 2)
HORIZON = 50
WATER = Settings(problem="water", horizon=HORIZON, schedule="cosine")
RESULTS = Path("experiments/results/water")
# n_train: epochs, in batches of 10.
EPOCHS = {100: 300, 1_000: 50, 10_000: 8}
PAPER_EPOCHS = {100: 40, 1_000: 8}
PAPER_METHODS = ("none", "auxiliary", "penalty", "end", "smooth")


def study(n_train: int) -> Study:
    """The three runs of one row of the table."""
    settings = replace(WATER, network="molecular", n_train=n_train, epochs=EPOCHS[n_train], learning_rate=0.02)
    return Study(settings, (Variant("soft"),), SEEDS)


def paper_study(n_train: int, seeds: int) -> Study:
    """The paper's five methods with so many samples."""
    epochs, variants = PAPER_EPOCHS[n_train], tuple(Variant.of(method) for method in PAPER_METHODS)
    settings = replace(WATER, network="equivariant-small", n_train=n_train, epochs=epochs, learning_rate=5e-3)
    return Study(settings, variants, tuple(range(seeds)))


def paper_table(records: Sequence[Record]) -> str:
    """The finished runs of the paper's methods as Markdown."""
    settings = [paper_study(n_train, 1).setting for n_train in PAPER_EPOCHS]
    return to_markdown(make_tables(r for r in records if r.setting in settings and r.variant.method in PAPER_METHODS))


def table(records: Sequence[Record]) -> str:
    """The finished rows as Markdown; errors in pm, mean ± standard deviation of the seeds."""
    lines = [
        "| samples | time-blocked (pm) | other seed (pm) | random (pm) | of a molecule (pm) | the paper's best (pm) | "
        "ratio | training (s) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for n_train in EPOCHS:
        setting = study(n_train).setting
        runs = [r for r in records if r.setting == setting and r.variant == Variant("soft") and r.seed in SEEDS]
        if not runs:
            continue
        best = min(PAPER_TABLE_2[HORIZON, n_train].values())
        splits = [r.result["splits"] for r in runs]
        errors = {name: Spread.of(s[name]["test_mae_pm"] for s in splits) for name in splits[0]}
        molecule = Spread.of(s["time-blocked"]["molecule_pm"] for s in splits)
        cells = [*(errors[name] for name in ("time-blocked", "other seed", "random")), molecule]
        shown = " | ".join(
            f"{x.mean:.3f} ± {x.std:.3f}" if len(runs) > 1 else f"{x.mean:.3f} (one seed)" for x in cells
        )
        ratio = best / errors["time-blocked"].mean
        seconds = Spread.of(r.result["train_seconds"] for r in runs).mean
        lines.append(f"| {n_train:,} | {shown} | {best:g} | {ratio:.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are finished")
    parser.add_argument("--paper", action="store_true", help="the paper's five methods")
    parser.add_argument("--seeds", type=int, default=3, help="of those")
    parser.add_argument("--out", type=Path, default=Path("runs/water"), help="folder for the runs themselves")
    options = parser.parse_args()
    studies = [study(n) for n in EPOCHS]
    if options.paper:
        studies = [paper_study(n, options.seeds) for n in PAPER_EPOCHS]
    if not options.table:
        for each in studies:
            run_study(each, options.out, results=RESULTS)
    print((paper_table if options.paper else table)(read_records(RESULTS)))


if __name__ == "__main__":
    main()
