"""What was learned, solved by solvers that had no part in it, and where its errors come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndae.data.change import sizes
from ndae.data.recording import Recording
from ndae.models.depth_check import depth_check
from ndae.models.neural_dae import NeuralDAE
from ndae.models.neural_system import IMPLICIT, NeuralSystem
from ndae.models.pieces import check_recordings, sigma_of
from ndae.solvers import Solution, SolveError, consistent_initial_condition, solve
from ndae.symbolic.ground.extras import MissingExtraError

REFERENCE = "diffrax, projection"


@dataclass(frozen=True)
class RecordingCheck:
    """One recording under the learned system.

    - `solutions`: by solver, from the start that fits the recording best. "model" makes the steps it is trained with;
      "diffrax, projection", at `rtol`, is what the others are measured by.
    - `digits`: by solver, those in which it agrees with the reference at its worst variable and time, against the
      variable's largest magnitude.
    - `residual`: by solver, the largest residual of all levels; `invariants`: by solver, the largest change of any.
    - `missed`: by output, root mean square of seen − reference, in units of `sigma`, or of the output's size.
    - `integrator`: the same of the model's own steps − reference: what of it is its integrator's.
    - `failures`: by solver, why there is no solution. `shown`: what instruments would show along the reference.
    """

    name: str
    solutions: Mapping[str, Solution]
    digits: Mapping[str, float]
    residual: Mapping[str, float]
    invariants: Mapping[str, float]
    missed: Mapping[str, float]
    integrator: Mapping[str, float]
    failures: Mapping[str, str]
    shown: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LearnedCheck:
    """Checks of all recordings; printed as tables. `sigma`: whether `missed` counts standard deviations."""

    system: str
    recordings: tuple[RecordingCheck, ...]
    sigma: bool

    @property
    def least(self) -> float:
        """Digits in which the model's own steps and all solvers agree with the reference, at the worst."""
        return min((d for r in self.recordings for d in r.digits.values()), default=float("nan"))

    def __str__(self) -> str:
        lines = [f"{self.system} as it was learned, by {REFERENCE} and others"]
        for r in self.recordings:
            lines += ["", r.name, f"  {'solver':24}{'digits':>8}{'residual':>11}{'invariants':>12}"]
            for name in r.solutions:
                digits = "" if name == REFERENCE else f"{r.digits[name]:.1f}"
                kept = f"{r.invariants[name]:.1e}" if name in r.invariants else ""
                lines.append(f"  {name:24}{digits:>8}{r.residual.get(name, 0.0):>11.1e}{kept:>12}")
            lines += [f"  {name:24}{why}" for name, why in r.failures.items()]
            unit = "standard deviations" if self.sigma else "sizes of the outputs"
            lines.append(f"  missed, in {unit} (of it by the model's integrator)")
            lines += [f"    {name:22}{r.missed[name]:>8.3g}  ({r.integrator[name]:.2g})" for name in r.missed]
        return "\n".join(lines)


def crosscheck(
    model: NeuralSystem | NeuralDAE,
    recordings: Any,
    *,
    rtol: float = 1e-10,
    by: Sequence[str] = ("GGL", "torch", "IDA"),
) -> Any:
    """Solve what was learned by solvers that had no part in it.

    Of a `NeuralSystem`: the learned system, start by start of the `recordings`, by the model's own steps and by other
    solvers; a `LearnedCheck`. Of a `NeuralDAE`: its trained fields over depth, from states (batch, nodes, features) in
    the place of recordings, beside what its layers compute; a `DepthCheck` (`ndae.models.depth_check` says more).

    The reference is diffrax with projection at `rtol` (implicit where the model is). `by`: "GGL" and "plain" are
    diffrax with other formulations, "torch" is torchdiffeq with adaptive steps, "IDA" SUNDIALS' IDA and "Radau" that of
    solve-dae; those that are not installed are left out, and said so. The start is `model.estimate(recording)`. What
    the reference misses of a recording is what was not learned and noise, what the model's own steps differ from it by
    is its integrator's; with noise alone left, `missed` is one standard deviation.

    Raises ValueError for recordings of another system, and SolveError where the reference does not get to the end.
    """
    if isinstance(model, NeuralDAE):
        return depth_check(model, recordings, rtol=rtol)
    if not isinstance(model, NeuralSystem):
        raise ValueError(f"crosscheck: {type(model).__name__} is neither a NeuralSystem nor a NeuralDAE")
    recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
    check_recordings(model, recordings, "the")
    scale = sizes(recordings)
    checks = tuple(_checked(model, r, i, scale, rtol, by) for i, r in enumerate(recordings))
    return LearnedCheck(model.system.name, checks, all(set(r.sigma) >= set(r.values) for r in recordings))


def _checked(
    model: NeuralSystem, r: Recording, number: int, scale: Mapping[str, float], rtol: float, by: Sequence[str]
) -> RecordingCheck:
    system = model.known(r.inputs)
    numbers = {**model.parameters_now(), **{str(k): v for k, v in r.parameters.items()}}
    found = model.estimate(r)
    start = consistent_initial_condition(system, found.start, t0=float(r.times[0]), parameters=numbers)
    ts, inputs = r.times, {name: r.inputs[name] for name in model.inputs}
    stiff = {"by": "radau13"} if model.integrator == IMPLICIT else {}
    shared = {"parameters": numbers, "rtol": rtol}
    solutions = {REFERENCE: solve(system, start, ts, **stiff, **shared)}
    solutions["model"] = model.predict(start, ts, parameters=r.parameters, inputs=inputs)
    failures = {}
    ways = {
        "GGL": ("diffrax, GGL", {"method": "ggl", **stiff}),
        "plain": ("diffrax, plain", {"method": "plain", **stiff}),
        "torch": ("torchdiffeq", {"by": "torch"}),
        "IDA": ("IDA", {"by": "ida"}),
        "Radau": ("Radau", {"by": "radau"}),
    }
    for key in by:
        if key not in ways:
            raise ValueError(f"by has {key!r}: choose of {', '.join(ways)}")
        name, options = ways[key]
        try:
            solutions[name] = solve(system, start, ts, **options, **shared)
        except (SolveError, MissingExtraError) as error:
            failures[name] = str(error).splitlines()[0]
    reference = solutions[REFERENCE]
    others = {name: s for name, s in solutions.items() if name != REFERENCE}
    shown = {name: model.shown(s, r) for name, s in (("reference", reference), ("model", solutions["model"]))}
    missed, integrator = {}, {}
    for output, values in r.values.items():
        there = np.isfinite(values)
        unit = np.broadcast_to(sigma_of(r, output, scale), values.shape)[there]
        by_reference, by_model = (shown[name][output][there] for name in ("reference", "model"))
        if there.any():
            missed[output] = float(np.sqrt(np.mean(((values[there] - by_reference) / unit) ** 2)))
            integrator[output] = float(np.sqrt(np.mean(((by_model - by_reference) / unit) ** 2)))
    return RecordingCheck(
        r.name or f"recording {number}",
        solutions,
        {name: _digits(s, reference) for name, s in others.items()},
        {name: _largest(s.residual.values()) for name, s in solutions.items()},
        {name: _largest(v - v[:1] for v in s.invariants.values()) for name, s in solutions.items() if s.invariants},
        missed,
        integrator,
        failures,
        shown["reference"],
    )


def _digits(solution: Any, reference: Any) -> float:
    size = np.abs(reference.x).max(axis=0)
    there = size > 0
    error = np.abs(solution.x - reference.x).max(axis=0)[there] / size[there]
    worst = np.nan_to_num(error, nan=np.inf).max(initial=0.0)  # what has no value has no digit
    return float(-np.log10(max(worst, np.finfo(float).eps)))


def _largest(arrays: Any) -> float:
    return float(np.max([np.abs(a).max(initial=0.0) for a in arrays], initial=0.0))  # NaN where one is
