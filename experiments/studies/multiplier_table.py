"""What motion with multipliers reaches on the paper's pendulum, for each number of samples and horizon of its Table 1.

    python -m ndae.experiments.studies.multiplier_table  # makes the runs that are missing (90 minutes of one core)
    python -m ndae.experiments.studies.multiplier_table --table         # from finished runs alone
    # what the steps alone make wrong, with nothing learned
    python -m ndae.experiments.studies.multiplier_table --true-force

Each run is one of `ndae train pendulum --method multiplier --network mlp --schedule cosine --learning-rate 0.01`, with
three seeds; the sizes below are all that differs. They were chosen by the validation error of a seed that is in no
table (100); steps of 0.01 s were taken after first runs in steps of 0.02 s had come down to the error of the steps
themselves.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndae.experiments.paper import PAPER_TABLE_1
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.records import Record, Spread, read_records
from ndae.experiments.runs.settings import Settings
from ndae.experiments.runs.study import Study, run_study
from ndae.experiments.terminal import note
from ndae.experiments.variants import Variant

SEEDS = (0, 1, 2)
RESULTS = Path("experiments/results")
# (horizon, n_train): epochs, batch size, longest step (s; None: 0.02).
SIZES = {
    (20, 100): (200, 20, None),
    (50, 100): (200, 20, None),
    (20, 1000): (60, 50, 0.01),
    (50, 1000): (60, 50, 0.01),
    (20, 10000): (30, 200, 0.01),
    (50, 10000): (30, 200, 0.01),
}


def study(horizon: int, n_train: int) -> Study:
    """The three runs of one cell of the table."""
    epochs, batch_size, max_step = SIZES[horizon, n_train]
    settings = Settings(
        network="mlp",
        n_train=n_train,
        horizon=horizon,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.01,
        schedule="cosine",
        max_step=max_step,
    )
    return Study(settings, (Variant("multiplier"),), SEEDS)


def table(records: Sequence[Record]) -> str:
    """The finished cells as Markdown."""
    lines = [
        "| samples | horizon | error (cm) | the paper's best (cm) | ratio | largest violation (m) | training (s) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for horizon, n_train in sorted(SIZES, key=lambda cell: cell[::-1]):
        setting = study(horizon, n_train).setting
        runs = [r for r in records if r.setting == setting and r.variant == Variant("multiplier") and r.seed in SEEDS]
        if not runs:
            continue
        error, seconds = (Spread.of(r.result[key] for r in runs) for key in ("test_mae_cm", "train_seconds"))
        best = min(PAPER_TABLE_1[horizon, n_train].values())
        worst = max(r.result["violation_max"] for r in runs)
        spread = f"{error.mean:.4f} ± {error.std:.4f}" if len(runs) > 1 else f"{error.mean:.4f} (one seed)"
        lines.append(
            f"| {n_train:,} | {horizon} | {spread} | {best:g} | {best / error.mean:,.0f} | {worst:.0e} | "
            f"{seconds.mean:.0f} |"
        )
    return "\n".join(lines)


def true_force(steps: Sequence[float] = (0.02, 0.01)) -> str:
    """Errors (cm) of the true force on the test samples of seed 0, in steps of so many seconds, as Markdown."""
    from ndae import evaluate
    from ndae.experiments.runs.models import build_model
    from ndae.experiments.runs.run import build_data
    from ndae.experiments.validation.propagators import with_true_force
    from ndae.solvers.mechanics.motion_torch import TorchMotion

    motion = TorchMotion(pendulum.system())
    titles = "".join(f" {step:g} s |" for step in steps)
    lines = [f"| samples | horizon |{titles}", "| ---: | ---: |" + " ---: |" * len(steps)]
    for horizon, n_train in sorted(SIZES, key=lambda cell: cell[::-1]):
        cells = []
        for step in steps:
            config = RunConfig(
                method="multiplier", network="mlp", n_train=n_train, horizon=horizon, max_step=step, dtype="float64"
            )
            test = build_data(config).test
            model: Any = build_model(config)
            cells.append(100 * evaluate(with_true_force(model, motion), test.inputs, test.targets).mae)
        lines.append(f"| {n_train:,} | {horizon} |" + "".join(f" {cell:.2g} |" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Make what is missing, unless only the table is asked for, and print it."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--table", action="store_true", help="only print the table of the runs that are finished")
    parser.add_argument("--true-force", action="store_true", help="only the errors of the steps, with the true force")
    parser.add_argument("--n-train", type=int, choices=sorted({n for _, n in SIZES}), help="only this many samples")
    parser.add_argument("--out", type=Path, default=Path("runs/multiplier"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for one small JSON a run")
    options = parser.parse_args()
    if options.true_force:
        return print(true_force())
    if not options.table:
        for horizon, n_train in SIZES:
            if options.n_train in (None, n_train):
                note(f"{n_train:,} training samples, {horizon} steps ahead")
                run_study(study(horizon, n_train), options.out, results=options.results)
    print(table(read_records(options.results)))


if __name__ == "__main__":
    main()
