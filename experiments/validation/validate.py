"""`ndae validate`: a trained network against the reference, from held-out states, and what causes its error.

The reference, the network, and the network with the true field in the learned one's place start from the same states,
of motion later than all samples (the pendulum) or of trajectories of their own (other problems). Two questions are
asked:

- *One period on*: the network is given the reference's state at every time, and predicts the next. Nothing
  accumulates; this is the test error of a run, on motion of its own.
- *Rolled out*: the network goes on from what it predicted itself. A network over positions alone gives no velocities;
  see `propagators.HorizonMap` for what it is taken to say about them.

Errors split along the way by the triangle inequality, |network − reference| ≤ learning + (velocities +) integrator:
"integrator" is the true field under the same method and step against the reference, "velocities" is what having to
reconstruct them adds to that, and "learning" is the network against its counterpart with the true field.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndae.experiments.validation.report import Validation
from ndae.solvers.progress import Progress

if TYPE_CHECKING:
    from ndae.experiments.problems.mechanics import MotionProblem
    from ndae.experiments.runs.config import RunConfig
    from ndae.experiments.validation.propagators import Propagator
    from ndae.experiments.validation.truth import Truth
    from ndae.symbolic import System

TRAJECTORIES, SECONDS = 50, 5.0
# The reference, and what it is checked against.
_TOLERANCE, _LOOSER = 1e-12, 1e-11
# A multiplier that is nowhere a larger share of the largest one is zero.
_NOTHING = 1e-12


@dataclass(frozen=True)
class HeldOut:
    """States that no sample came from, and the scales of their system.

    `q`, `v` (n, n_states) are states at `times` (s) of a motion whose samples end at `samples_end` (s), or, if that is
    None, of motions of their own. `size` (m) is the size of the system, called `size_of`; `energy_range` (J) what its
    potential energy can differ by, None where there is no such thing.
    """

    system: "System | MotionProblem"
    q: np.ndarray
    v: np.ndarray
    times: np.ndarray
    samples_end: float | None
    size: float
    size_of: str
    energy_range: float | None


@dataclass(frozen=True)
class Contest:
    """The propagators that a run's model is judged by.

    `model` itself; `integrator`: the true field in place of the learned one, under the same method and step;
    `velocities`: that again, with its velocities reconstructed in the way that the model's are, or None where the model
    has velocities of its own.
    """

    model: "Propagator"
    integrator: "Propagator"
    velocities: "Propagator | None" = None


def validate(
    run: Path | str,
    *,
    trajectories: int = TRAJECTORIES,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Validation:
    """Compare the network of the run folder `run` with the reference over `seconds`, from as many held-out states.

    Raises ValueError for a folder without a run, a problem without known equations, a count below one, or a time
    shorter than the network's horizon; `ndae.training.CheckpointError` where there is no sound checkpoint; and
    `solvers.SolveError`.
    """
    from ndae.experiments.problems.mechanics import MotionProblem
    from ndae.experiments.runs.run import load_model, problem_of, read_config

    problem: Any = problem_of(read_config(run))
    if problem.name != "pendulum" and not isinstance(problem, MotionProblem):
        raise ValueError(
            f"{run} is a run of {problem.name}, whose equations are not known here, and validate compares with their "
            "solution: see the further tests in its result.json, or validate a run of a problem with known equations"
        )
    config, model = load_model(run)
    period = config.horizon * problem.dt
    if isinstance(trajectories, bool) or not isinstance(trajectories, int) or trajectories < 1:
        raise ValueError(f"trajectories is a whole number of at least 1, not {trajectories!r}")
    if not (np.isfinite(seconds) and seconds >= period):
        raise ValueError(
            f"seconds={seconds:g} is shorter than the {period:g} s that this network predicts ahead: give at least that"
        )
    say = progress or _silent
    say(0.0, "the motion that the states are from")
    if config.problem == "pendulum":
        held_out = pendulum_held_out(config, trajectories, seconds)
    else:
        held_out = new_starts(problem, trajectories, config.seed)
    contest = contest_of(model, held_out.system, period)
    return compare(contest, held_out, seconds, dataclasses.asdict(config), say)


def pendulum_held_out(config: "RunConfig", n: int, seconds: float) -> HeldOut:
    """`n` states of the pendulum's motion, `seconds` apart, after the last sample of a run's data.

    What follows them for `seconds` are then pieces of one long motion that do not overlap.
    """
    from ndae.experiments.problems import pendulum_data as pendulum

    # The last target is a horizon after the last of the inputs.
    samples_end = pendulum.RUN_IN + config.n_train + config.n_val + config.n_test - 1 + config.horizon
    index = samples_end + 1 + math.ceil(seconds / pendulum.DT) * np.arange(n)
    trajectory = pendulum.simulate(int(index[-1]))
    return HeldOut(
        pendulum.system(),
        trajectory.r[index].reshape(n, -1),
        trajectory.v[index].reshape(n, -1),
        trajectory.ts[index],
        float(trajectory.ts[samples_end]),
        size=pendulum.N_BODIES * pendulum.LENGTH,
        size_of="the chain's length",
        energy_range=pendulum.potential_range(),
    )


def new_starts(problem: "MotionProblem", n: int, seed: int) -> HeldOut:
    """`n` starts of trajectories that are in none of the sets of samples which `seed` draws."""
    from ndae.experiments.problems.trajectories import starts

    q, v = starts(problem, n, seed, part=3)  # the sets are parts 0 to 2
    return HeldOut(problem, q, v, np.zeros(n), None, problem.size, problem.size_of, energy_range=None)


def contest_of(model: Any, system: "System | MotionProblem", period: float) -> Contest:
    """What a network that predicts one `period` (s) ahead is compared with."""
    from ndae import NeuralMotion
    from ndae.experiments.validation.propagators import HorizonMap, MotionMap, TrueFieldMap, with_true_force
    from ndae.experiments.validation.truth import truth_of

    motion = truth_of(system).motion
    if isinstance(model, NeuralMotion):
        return Contest(MotionMap(model), MotionMap(with_true_force(model, motion)))
    true_field = TrueFieldMap(model, motion, period)
    return Contest(HorizonMap(model, motion, period), true_field, HorizonMap(true_field.network, motion, period))


def compare(
    contest: Contest,
    held_out: HeldOut,
    seconds: float,
    about: Mapping[str, Any] | None = None,
    say: Progress | None = None,
) -> Validation:
    """Roll a contest's propagators out from held-out states, beside the reference; `about` says what the model is.

    The times compared are the multiples of the model's period up to `seconds`.
    """
    from ndae.experiments.validation.propagators import one_period_on, roll_out
    from ndae.experiments.validation.truth import truth_of

    say = say or _silent
    period = contest.model.period
    ts = period * np.arange(int(seconds / period * (1 + 1e-9)) + 1)
    say(0.25, "the reference")
    truth = truth_of(held_out.system)
    true_q, true_v, energy = truth.solve(held_out.q, held_out.v, ts, _TOLERANCE)
    looser_q, *_ = truth.solve(held_out.q, held_out.v, ts, _LOOSER)
    measure = _Measure(truth, ts, energy, contest.model, true_q, true_v)
    distance = measure.distance

    say(0.5, "one period on")
    model, true = (one_period_on(p, true_q, true_v) for p in (contest.model, contest.integrator))
    one_period = {
        "error": distance(model[0], true_q),
        "learning": distance(model[0], true[0]),
        "integrator": distance(true[0], true_q),
        **measure.of_motion(*model),
    }

    say(0.75, "rolled out")
    propagators = {name: propagator for name, propagator in vars(contest).items() if propagator is not None}
    rolled = {name: roll_out(p, held_out.q, held_out.v, len(ts) - 1) for name, p in propagators.items()}
    rollout = _shares({name: motion[0] for name, motion in rolled.items()} | {"reference": true_q}, distance)

    n = len(held_out.q)
    return Validation(
        about=dict(about or {}),
        ts=ts,
        period=period,
        held_out_times=held_out.times,
        samples_end=held_out.samples_end,
        size=held_out.size,
        size_of=held_out.size_of,
        energy_range=held_out.energy_range,
        multiplier_scale=measure.multiplier_scale,
        reference_error=distance(looser_q, true_q).max(0),
        unrelated=float(distance(true_q, np.roll(true_q, n // 2, 0)).mean()) if n > 1 else None,
        one_period={name: curve[:, 1:] for name, curve in one_period.items()},  # the first time has no prediction
        rollout=rollout | measure.of_motion(*rolled["model"]),
        control_errors={name: distance(q, true_q) for name, (q, *_) in rolled.items() if name != "model"},
        projections=getattr(contest.model, "projections", 0),
        unconverged=getattr(contest.model, "unconverged", 0),
    )


def _shares(q: Mapping[str, np.ndarray], distance: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    """The error of the model's positions, and what learning, velocities and the integrator have of it."""
    chain = [name for name in ("model", "velocities", "integrator", "reference") if name in q]
    links = zip(["learning", *chain[1:]], chain, chain[1:], strict=False)
    return {"error": distance(q["model"], q["reference"])} | {part: distance(q[a], q[b]) for part, a, b in links}


class _Measure:
    """Distances, violations, energies and multipliers of motions (n, n_times, n_states); what is not finite counts as
    infinite. Multipliers are those of the `model`, if it has such, against those of the reference q, v."""

    def __init__(
        self,
        truth: "Truth",
        ts: np.ndarray,
        energy: np.ndarray | None,
        model: "Propagator",
        true_q: np.ndarray,
        true_v: np.ndarray,
    ) -> None:
        import torch

        self._truth, self._ts, self._energy, self._model = truth, ts, energy, model
        self.multiplier_scale = None
        n_multipliers = getattr(model, "n_multipliers", 0)
        if n_multipliers:
            at = torch.as_tensor(ts).expand(true_q.shape[:-1])
            self._multiplier = truth.motion.multiplier(torch.as_tensor(true_q), torch.as_tensor(true_v), at).numpy()
            if self._multiplier.shape[-1] != n_multipliers:
                raise ValueError(
                    f"the model has {n_multipliers} multipliers and its reference {self._multiplier.shape[-1]}: to be "
                    "compared they have to be under the same constraints"
                )
            scale = np.abs(self._multiplier).max((0, 1))
            # One that is zero up to rounding has no scale of its own.
            self.multiplier_scale = np.where(scale > _NOTHING * scale.max(), scale, scale.max() or 1.0)

    def distance(self, q: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Mean distance of a point from where the other has it, in m, (n, n_times)."""
        points = (q - other).reshape(*q.shape[:-1], -1, self._truth.dim)
        return _or_infinite(np.linalg.norm(points, axis=-1).mean(-1))

    def of_motion(self, q: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
        """Largest violation at both levels, and errors of the energy and of the worst multiplier, (n, n_times) each,
        as far as there are such."""
        import torch

        at, moving = torch.as_tensor(q), torch.as_tensor(v)
        violations = self._truth.violations(at, moving, torch.as_tensor(self._ts).expand(at.shape[:-1]))
        curves = {f"{name}_violation": residual.abs().amax(-1) for name, residual in violations.items()}
        if self._energy is not None:
            energy = self._truth.motion.energy(at, moving)
            curves["energy_error"] = (energy - torch.as_tensor(self._energy)).abs()
        if self.multiplier_scale is not None:
            flat = (x.reshape(-1, x.shape[-1]) for x in (q, v))
            model: Any = self._model
            found = model.multiplier(*flat, np.tile(self._ts, len(q))).reshape(self._multiplier.shape)
            errors = np.abs(found - self._multiplier) / self.multiplier_scale
            curves["multiplier_error"] = torch.as_tensor(errors).amax(-1)
        return {name: _or_infinite(curve.numpy()) for name, curve in curves.items()}


def _or_infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)


def _silent(fraction: float, text: str) -> None:
    pass
