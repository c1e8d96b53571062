"""The demonstration: a constraint, a reference, four networks, a table, plots and an animation, in minutes."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ndae.experiments.drawing.of_study import write_results, write_snapshots
from ndae.experiments.drawing.table import print_table
from ndae.experiments.problems.pendulum_data import (
    DT,
    N_TEST,
    N_VAL,
    RUN_IN,
    constraint,
    potential_range,
    simulate,
    violation,
)
from ndae.experiments.runs.records import Record
from ndae.experiments.runs.settings import Settings
from ndae.experiments.runs.study import Study, run_study
from ndae.experiments.terminal import console
from ndae.experiments.variants import Variant
from ndae.progress import reporting

# Small enough for two cores and two minutes, large enough to show what the paper's Table 1 shows.
VARIANTS = (Variant("none"), Variant("penalty", gamma=10.0), Variant("smooth", 10.0, 10.0), Variant("multiplier"))
N_TRAIN, HORIZON, EPOCHS, SEED = 100, 20, 50, 0
FRAMES, FRAME_STEPS = 120, 2

Say = Callable[..., None]


def run_demo(out: Path, *, fresh: bool = False) -> list[Path]:
    """Tell the whole story on the terminal, write its pictures to `out` and return the files written.

    Networks trained by an earlier demonstration in `out` are used again, unless `fresh`.
    """
    begin = time.perf_counter()
    say = console().print
    out.mkdir(parents=True, exist_ok=True)
    settings = Settings(network="mimetic-small", n_train=N_TRAIN, horizon=HORIZON, epochs=EPOCHS)
    study = Study(settings, VARIANTS, (SEED,))
    written = _derive(out, say)
    _simulate(say)
    written += _train(study, out, fresh, say)
    written += _animate(study, out, say)
    say(f"\n[bold]Written[/bold] (all in {time.perf_counter() - begin:.0f} s)")
    for path, what in written:
        say(f"  {path!s:<32} {what}", markup=False, soft_wrap=True)
    return [path for path, _ in written]


def _derive(out: Path, say: Say) -> list[tuple[Path, str]]:
    say("[bold]1. A constraint[/bold]")
    say(
        "Five bodies hang from each other by rigid links. One SymPy expression says so for one link and is laid over "
        "all five. Its derivatives follow, the hidden constraints on velocity and acceleration, and fast code:\n"
    )
    links = constraint()
    say(links.describe(levels=2), markup=False, soft_wrap=True)
    return [(links.save(out / "constraint_torch.py", "torch"), "what was generated from it, to run without SymPy")]


def _simulate(say: Say) -> None:
    say("[bold]2. A reference[/bold]")
    with reporting(True) as report:
        trajectory = simulate(RUN_IN + 2_000, progress=report)
    drift = np.ptp(trajectory.energy) / potential_range()
    say(
        "The true motion from rest at the horizontal, by a solver that puts every step back onto the constraint. Over "
        f"{trajectory.ts[-1]:.0f} s the links keep their length within {violation(trajectory.r).max():.0e} m and the "
        f"energy stays within {drift:.0e} of its range.\n"
    )


def _train(study: Study, out: Path, fresh: bool, say: Say) -> list[tuple[Path, str]]:
    say("[bold]3. Four networks[/bold]")
    say(
        f"Each learns from {N_TRAIN} examples where the bodies will be in {HORIZON * DT:g} s, given where they are and "
        "how fast they move:\n"
        "  no constraint      nothing tells it that links are rigid\n"
        "  penalty            its vector field also flows towards the constraint (eq. 14)\n"
        "  smooth projection  every layer ends on the constraint (eq. 12)\n"
        "  multiplier         only forces are learned: what the links pull is solved for, exactly (eq. 6)\n"
    )
    outcome = run_study(study, out, fresh=fresh)
    outcome.check()
    records = outcome.records
    (table,), (csv, *curves) = write_results(records, out)
    data, picture = write_snapshots(study, out)
    say()
    print_table(table, say)
    say()
    say(_verdict(records), markup=False)
    return [
        (csv, "the table"),
        *((curve, "error and violation against epoch, the paper's Figure 5") for curve in curves),
        (data, "predictions of three test samples"),
        (picture, "drawn over the truth, the paper's Figure 6"),
    ]


def _verdict(records: list[Record]) -> str:
    """What the numbers say, whichever way they come out."""
    plain, *others = records
    best = min(records, key=lambda record: record.result["test_mae_cm"])
    worst = plain.result["violation_max"]
    rubber = ": rubber, not rods" if worst >= 0.05 else ""
    lines = [f"Without constraint a predicted link is wrong by up to {_centimetres(worst)} of its 100 cm{rubber}."]
    for record in others:
        change = 100 * (record.result["test_mae_cm"] / plain.result["test_mae_cm"] - 1)
        lines.append(
            f"{record.variant.title}: by at most {_centimetres(record.result['violation_max'])}, "
            f"and the error is {abs(change):.0f} % {'larger' if change > 0 else 'smaller'}."
        )
    lines.append(f"Smallest error: {best.variant.title} (one seed; `ndae compare` runs more).")
    return "\n".join(lines)


def _centimetres(metres: float) -> str:
    return f"{100 * metres:.0f} cm" if metres >= 0.01 else f"{100 * metres:.1g} cm"


def _animate(study: Study, out: Path, say: Say) -> list[tuple[Path, str]]:
    from ndae.experiments.drawing.animation import animate
    from ndae.experiments.drawing.figures import drift_figure
    from ndae.experiments.drawing.predictions import sequence

    say("\n[bold]4. Pictures[/bold]")
    folders = {variant: out / "runs" / study.name(variant, SEED) for variant in study.variants}
    first = RUN_IN + N_TRAIN + N_VAL + N_TEST + HORIZON
    frames = sequence(folders, first + FRAME_STEPS * np.arange(FRAMES), HORIZON)
    errors = ", ".join(f"{name} {frames.errors_cm(name).mean():.0f} cm" for name in frames.predictions)
    say(
        f"They show what comes after all samples, from t = {frames.times[0]:.1f} to {frames.times[-1]:.1f} s, where "
        f"predicting is harder than between the samples. Mean errors there: {errors}.",
        markup=False,
    )
    title = f"Predictions {HORIZON * DT:g} s ahead, later than all samples"
    drift = drift_figure(frames, out / "drift.png", dt=DT, title=title)
    with reporting(True) as report:
        film = animate(frames, out / "pendulum.gif", dt=DT, report=report)
    return [
        (drift, "error and link lengths against time, all methods in one"),
        (film, "the animation: predictions over the reference"),
    ]
