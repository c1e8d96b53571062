"""Studies: many runs side by side, each made once, then the table and the figures from their records."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndae.experiments.problems.registry import to_learn
from ndae.experiments.runs.records import Record, read_run, record_name, run_name, write_record
from ndae.experiments.terminal import UserError, note, one_line
from ndae.experiments.variants import CHOICES_OF, Setting, Variant


@dataclass(frozen=True)
class Study:
    """The runs to make: every variant with every seed, all else equal.

    `settings`: further fields of `RunConfig`, such as `batch_size` or `trajectory`.
    """

    problem: str
    network: str
    n_train: int
    horizon: int
    epochs: int
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    settings: Mapping = field(default_factory=dict)

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
        given = {name: self.settings[name] for name in ("schedule", "trajectory", "keep") if self.settings.get(name)}
        return Setting(self.problem, self.network, self.n_train, self.horizon, self.epochs, **given)

    def config(self, variant: Variant, seed: int):
        """The full configuration of one run."""
        from ndae.experiments.runs.config import RunConfig

        settings = {name: value for name, value in self.setting._asdict().items() if name != "trajectory"}
        settings |= self.settings
        if variant.method not in CHOICES_OF["max_step"]:  # the others have no steps in time
            settings.pop("max_step", None)
        return RunConfig(**dataclasses.asdict(variant), **settings, seed=seed)


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


def sweep_variants(
    over: str, values: str, method: str | None, gamma: float | None, eta: float | None
) -> tuple[Variant, ...]:
    """The variants of a sweep over `gamma` or `eta`, whose comma-separated `values` come as text.

    Raises `ValueError` for a value that is no number of at least 0, or a method without that strength.
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
        strengths: dict[str, Any] = {"gamma": gamma, "eta": eta} | {over: value}
        variants.append(Variant.of(method, **strengths))
        if getattr(variants[-1], over) != value:
            raise ValueError(f"{method} has no {over} to vary: expected --method {_HAVE[over]}")
    return tuple(variants)


_HAVE = {"gamma": "penalty, end, smooth or multiplier", "eta": "auxiliary, end, smooth or multiplier"}


def _summary(record: Record) -> str:
    result, problem = record.result, to_learn(record.setting.problem)
    return (
        f"error {record.error:.3g} {problem.error_unit[0]}, "
        f"largest violation {result['violation_max']:.1e} {problem.violation_unit}, "
        f"trained {result['train_seconds']:.0f} s"
    )
