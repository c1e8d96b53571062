"""Studies: many runs side by side, each made once, then the table and the figures from their records."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndae.experiments.problems.registry import to_learn
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.records import Record, read_run, record_name, run_name, write_record
from ndae.experiments.runs.settings import Settings, foreign_choices
from ndae.experiments.terminal import UserError, note, one_line
from ndae.experiments.variants import STRENGTHS, Setting, Variant


@dataclass(frozen=True)
class Study:
    """The runs to make: every variant with every seed, all other `settings` equal."""

    settings: Settings
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]

    def __post_init__(self):
        if not self.variants or not self.seeds:
            raise ValueError("a study needs at least one method and one seed")
        twice = {variant.title for variant in self.variants if self.variants.count(variant) > 1}
        if twice:
            raise ValueError(f"given twice: {', '.join(sorted(twice))}")

    def name(self, variant: Variant, seed: int) -> str:
        """Name of a run's folder."""
        return run_name(self.setting, variant, seed)

    @property
    def setting(self) -> Setting:
        """What all its runs have in common."""
        return Setting.of(self.settings)

    def config(self, variant: Variant, seed: int) -> RunConfig:
        """The full configuration of one run; of what only some methods have, those that have it get it."""
        values = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(Settings)}
        values |= {**dataclasses.asdict(variant), "seed": seed}
        return RunConfig(**values | {name: getattr(Settings, name) for name in foreign_choices(Settings(**values))})


@dataclass(frozen=True)
class Outcome:
    """Records of the runs that finished, and one line for each that diverged."""

    records: list[Record]
    diverged: list[str]

    def check(self) -> None:
        """Raise `UserError` if a run diverged; called last, so that it costs none of the others."""
        if self.diverged:
            raise UserError(f"{len(self.diverged)} of the runs diverged and are not in the table: {self.diverged[0]}")


def run_study(study: Study, out: Path, *, results: Path | None = None, fresh: bool = False) -> Outcome:
    """Make the runs that are missing under `out/runs`, go on with unfinished ones, and return the records of all.

    Each finished run is also exported as one small JSON to `results` (by default `out/results`). Seeds are the outer
    loop, so that a study that is stopped early has compared all methods on the seeds it did. A run whose loss stops
    being finite (at a strength too large for the integrator, say) does not stop the others; raises `UserError` if
    none is left.
    """
    from ndae.experiments.runs.run import run

    records, diverged = [], []
    pairs = [(variant, seed) for seed in study.seeds for variant in study.variants]
    for count, (variant, seed) in enumerate(pairs, 1):
        folder = out / "runs" / study.name(variant, seed)
        name = f"{variant.title}, seed {seed}"
        reused = (folder / "result.json").exists() and not fresh
        label = f"{count}/{len(pairs)} {variant.name}, seed {seed}"
        try:
            run(study.config(variant, seed), folder, resume=not fresh, progress=True, label=label)
        except RuntimeError as error:
            from ndae.training.history import NonFiniteError

            if not isinstance(error, NonFiniteError):
                raise
            diverged.append(f"{name}: {one_line(error)}")
            note(f"{count}/{len(pairs)} {diverged[-1]}")
            continue
        record = read_run(folder)
        write_record(record, (results or out / "results") / record_name(record))
        note(f"{count}/{len(pairs)} {name}: {_summary(record)}{' (finished before)' * reused}")
        records.append(record)
    if not records:
        raise UserError(f"every run diverged; the last was {diverged[-1]}")
    return Outcome(records, diverged)


def train_one(study: Study, out: Path | None, *, fresh: bool = False) -> tuple[Record, Path]:
    """Make the one run of `study` in `out`, by default a folder under `runs` named after it; return its record too."""
    from ndae.experiments.runs.run import run

    ((variant, seed),) = ((variant, seed) for seed in study.seeds for variant in study.variants)
    folder = out or Path("runs") / study.name(variant, seed)
    run(study.config(variant, seed), folder, resume=not fresh, progress=True, label=variant.name)
    return read_run(folder), folder


def sweep_variants(over: str, values: str, method: str | None, **choices: Any) -> tuple[Variant, ...]:
    """The variants of a sweep over `gamma` or `eta`, whose comma-separated `values` come as text.

    `choices`: the other of the two, and what else a `Variant` takes. Raises `ValueError` for a value that is no number
    of at least 0, or a method without that strength.
    """
    method = method or {"gamma": "penalty", "eta": "auxiliary"}[over]
    variants = []
    for text in values.split(","):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"--values {values}: {text.strip()!r} is no number of at least 0")
        choices[over] = value
        variants.append(Variant.of(method, **choices))
        if getattr(variants[-1], over) != value:
            known = " or ".join(name for name, strengths in STRENGTHS.items() if over in strengths)
            raise ValueError(f"{method} has no {over} to vary: expected --method {known}")
    return tuple(variants)


def _summary(record: Record) -> str:
    result, problem = record.result, to_learn(record.setting.problem)
    return (
        f"error {record.error:.3g} {problem.error_unit[0]}, "
        f"largest violation {result['violation_max']:.1e} {problem.violation_unit}, "
        f"trained {result['train_seconds']:.0f} s"
    )
