"""The demonstration: a constraint, a reference, three networks, a table, plots and an animation, in minutes."""

import time
from pathlib import Path

import numpy as np

from experiments.compare import Study, run_study, write_results, write_snapshots
from experiments.pendulum import DT, RUN_IN, constraint, potential_range, simulate, violation
from experiments.records import Record, Variant, write_text
from experiments.table import to_rich
from experiments.terminal import console

# Small enough for two cores and five minutes, large enough to show what the paper's Table 1 shows.
VARIANTS = (Variant("none"), Variant("penalty", gamma=10.0), Variant("smooth", 10.0, 10.0))
N_TRAIN, HORIZON, EPOCHS, SEED = 100, 20, 50, 0
FRAMES, FRAME_STEPS = 150, 2


def run_demo(out: Path) -> list[Path]:
    """Tell the whole story on the terminal, write its pictures to `out` and return the files written."""
    begin = time.perf_counter()
    say = console().print
    out.mkdir(parents=True, exist_ok=True)
    written = _derive(out, say)
    _simulate(say)
    study = Study("pendulum", "mimetic-small", N_TRAIN, HORIZON, EPOCHS, VARIANTS, (SEED,))
    records, more = _train(study, out, say)
    written += more
    written += _animate(study, records, out, say)
    say(f"\n[bold]Written[/bold] in {time.perf_counter() - begin:.0f} s, all told:")
    for path in written:
        say(f"  {path}", soft_wrap=True)
    return written


def _derive(out: Path, say) -> list[Path]:
    links = constraint()
    say("[bold]1. A constraint[/bold]")
    say(
        "Five bodies hang from each other by rigid links. One expression in SymPy says so for one link, laid over all "
        "five;\nits derivatives, the hidden constraints on velocity and acceleration, and fast code follow from it:\n"
    )
    say(links.describe(levels=2), markup=False)
    path = out / "constraint_torch.py"
    write_text(path, links.source("torch", levels=2))
    return [path]


def _simulate(say) -> None:
    say("\n[bold]2. A reference[/bold]")
    trajectory = simulate(RUN_IN + 2_000)
    drift = np.ptp(trajectory.energy) / potential_range()
    say(
        "The true motion, from rest at the horizontal, by a solver that puts each step back on the constraint:\n"
        f"over {trajectory.ts[-1]:.0f} s the links keep their length within {violation(trajectory.r).max():.0e} m, "
        f"the energy stays within {drift:.0e} of its range."
    )


def _train(study: Study, out: Path, say) -> tuple[list[Record], list[Path]]:
    say("\n[bold]3. Three networks[/bold]")
    say(
        f"Each sees where the bodies are and how fast they move, and says where they will be {HORIZON * DT:g} s later. "
        f"It learns from {N_TRAIN} examples:\n"
        "  no constraint      a plain continuous-depth network; nothing tells it that links are rigid\n"
        "  penalty            its vector field gets a term that flows towards the constraint (the paper's eq. 14)\n"
        "  smooth projection  its state is put onto the constraint after every layer (eq. 12)\n"
    )
    records = run_study(study, out)
    (table,), written = write_results(records, out)
    written += write_snapshots(study, out)
    say()
    say(to_rich(table))
    say(_verdict(records), markup=False)
    return records, written


def _verdict(records: list[Record]) -> str:
    """What the numbers say, whichever way they come out."""
    plain, *others = records
    best = min(records, key=lambda record: record.result["test_mae_cm"])
    worst = 100 * plain.result["violation_max"]
    lines = [
        f"Without constraint a predicted link is wrong by up to {worst:.0f} cm of its 100 cm: rubber, not rods."
        if worst >= 1
        else f"Without constraint a predicted link is wrong by up to {worst:.1g} cm of its 100 cm."
    ]
    for record in others:
        change = 100 * (record.result["test_mae_cm"] / plain.result["test_mae_cm"] - 1)
        lines.append(
            f"{record.variant.title}: links wrong by at most {100 * record.result['violation_max']:.1g} cm, "
            f"error {abs(change):.0f} % {'larger' if change > 0 else 'smaller'}."
        )
    lines.append(f"The smallest error has: {best.variant.title}. One seed; `ndae compare` does more.")
    return "\n".join(lines)


def _animate(study: Study, records: list[Record], out: Path, say) -> list[Path]:
    from experiments.animation import animate
    from experiments.figures import drift_figure
    from experiments.predictions import sequence
    from ndae.progress import reporting

    say("\n[bold]4. Pictures[/bold]")
    folders = {variant: out / "runs" / study.name(variant, SEED) for variant in study.variants}
    steps = RUN_IN + FRAME_STEPS * np.arange(FRAMES)
    frames = sequence(folders, steps, HORIZON)
    drift = drift_figure(frames, out / "drift.png", dt=DT, title=f"Predictions {HORIZON * DT:g} s ahead")
    with reporting(True) as report:
        film = animate(frames, out / "pendulum.gif", dt=DT, report=report)
    return [drift, film]
