"""Reference trajectories of a MotionProblem, samples of them, and predictors that learn nothing."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import sympy as sp

from ndae.experiments.cache import cached_arrays
from ndae.experiments.problems.samples import MotionData, MotionSamples

_TOLERANCE = 1e-11
_RECIPE = {"version": 1, "solver": "dopri8, projection"}


class Motion(Protocol):
    """What is asked of a `MotionProblem` here."""

    @property
    def name(self) -> str: ...
    @property
    def q(self) -> Sequence[sp.Symbol]: ...
    @property
    def dim(self) -> int: ...
    @property
    def dt(self) -> float: ...
    @property
    def per_trajectory(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def start(self) -> Callable: ...
    @property
    def nodes(self) -> int: ...
    # A System, and a Constraint or None each: of a cached property a checker compares the descriptor, not the value.
    @property
    def system(self) -> Any: ...
    @property
    def constraint(self) -> Any: ...
    @property
    def velocity_constraint(self) -> Any: ...
    @property
    def error_unit(self) -> tuple[str, float]: ...


def split(problem: Motion, counts: Sequence[int], horizon: int, seed: int) -> list[MotionSamples]:
    """So many samples with targets `horizon` steps later, set by set, of trajectories that are each of one set alone.

    The starts of set k depend on `seed` and k. Raises ValueError for counts and horizons below one.
    """
    for name, value in (*(("a number of samples", count) for count in counts), ("horizon", horizon)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a whole number of at least 1, not {value!r}")
    many, stride = problem.per_trajectory, problem.stride
    numbers = [-(-count // many) for count in counts]
    drawn = [starts(problem, n, seed, part) for part, n in enumerate(numbers)]
    ts = problem.dt * np.arange((many - 1) * stride + horizon + 1)
    q, v = (np.concatenate(x) for x in zip(*drawn, strict=True))
    q, v = trajectories(problem, q, v, ts)
    step, ends = stride * np.arange(many), np.cumsum(numbers)
    parts = zip(counts, *(np.split(x, ends[:-1]) for x in (q, v, np.arange(len(q)))), strict=True)
    return [_samples(problem, count, q, v, trajectory, step, horizon) for count, q, v, trajectory in parts]


def _samples(problem, count, q, v, trajectory, step, horizon) -> MotionSamples:
    shape = (-1, problem.nodes, problem.dim)
    now = [x[:, step].reshape(shape)[:count] for x in (q, v)]
    return MotionSamples(
        inputs=np.concatenate(now, -1),
        targets=q[:, step + horizon].reshape(shape)[:count],
        t0=np.tile(problem.dt * step, len(q))[:count],
        trajectory=np.repeat(trajectory, len(step))[:count],
    )


def starts(problem: Motion, n: int, seed: int, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Consistent coordinates and velocities (n, n_coordinates) at t = 0, nearest to what the problem draws.

    The first ones do not depend on how many are drawn, and those of other parts or seeds are others. Raises ValueError
    where guesses are of another shape, or too far from any consistent state.
    """
    drawn = [problem.start(np.random.default_rng([seed, part, i])) for i in range(n)]
    q, v = (np.stack([np.asarray(one[k], dtype=np.float64) for one in drawn]) for k in (0, 1))
    for name, x in (("coordinates", q), ("velocities", v)):
        if x.shape != (n, len(problem.q)) or not np.isfinite(x).all():
            raise ValueError(f"{problem.name}: start draws {name} {x.shape[1:]}: expected finite ({len(problem.q)},)")
    return _consistent(problem, q, v)


def trajectories(
    problem: Motion, q: np.ndarray, v: np.ndarray, ts: np.ndarray, *, rtol: float = _TOLERANCE
) -> tuple[np.ndarray, np.ndarray]:
    """The true motion at the times `ts` (s) from starts (n, n_coordinates), as (n, n_times, n_coordinates) each.

    By solve_dae, which puts every step back onto the constraints and those hidden in them. Cached. Raises ValueError
    for a start that is not consistent, and SolveError for one from which there is no motion up to the end.
    """
    from ndae.training.description import fingerprint

    config = {"problem": problem.name, "system": fingerprint(problem.system), "rtol": rtol}
    config |= {name: fingerprint(x) for name, x in (("q", q), ("v", v), ("ts", ts))}
    arrays = cached_arrays("motion", config, lambda: _solved(problem, q, v, ts, rtol), recipe=_RECIPE)
    return arrays["q"], arrays["v"]


def baselines(problem: Motion, data: MotionData) -> dict[str, dict[str, float]]:
    """Error and violation of "no motion", "constant velocity" and "nearest training sample" on the test samples.

    Positions and velocities of the last are those of the training sample whose state is nearest, positions a horizon
    later. Velocity constraints are measured with the velocity of the input.
    """
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

    test, train = data.test, data.train
    now, v = np.split(test.inputs, 2, -1)
    known, asked = (part.inputs.reshape(len(part), -1) for part in (train, test))
    nearest = cKDTree(known).query(asked)[1]
    guesses = {
        "no motion": (now, v),
        "constant velocity": (now + data.horizon * problem.dt * v, v),
        "nearest training sample": (train.targets[nearest], train.inputs[nearest, :, problem.dim :]),
    }
    unit, scale = problem.error_unit
    table = {}
    for name, (q, v) in guesses.items():
        sizes = violations(problem, q, v, test.t0 + data.horizon * problem.dt)
        table[name] = {
            f"mae_{unit}": float(scale * np.linalg.norm(q - test.targets, axis=-1).mean()),
            "violation_mean": float(sizes.mean()),
            "violation_max": float(sizes.max()),
        }
    return table


def violations(problem: Motion, q: np.ndarray, v: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Sizes of all residuals of states (n, nodes, dim) at times (n,): of positions, then of velocity constraints."""
    q, v = (np.reshape(x, (len(x), -1)) for x in (q, v))
    found = []
    for constraint, y in ((problem.constraint, q), (problem.velocity_constraint, np.concatenate([q, v], -1))):
        if constraint is not None:
            found.append(np.abs(constraint.numpy().residual(y, t if constraint.time is not None else None)))
    return np.concatenate(found, -1)


def _consistent(problem: Motion, q: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from ndae.solvers import project
    from ndae.solvers.manifold.multipliers import tangent_velocity
    from ndae.solvers.manifold.velocity_constraints import joint_tangent_velocity

    constraint, along = (c if c is None else c.torch() for c in (problem.constraint, problem.velocity_constraint))
    at, moving = torch.as_tensor(q), torch.as_tensor(v)
    if constraint is not None:
        found = project(constraint, at, t=0.0, tol=1e-12, throw=False)
        bad = (~found.converged).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"{problem.name}: {len(bad)} of {len(q)} starts are too far from any consistent one, first number "
                f"{bad[0]}: draw starts nearer to the constraints"
            )
        at = found.y
    if along is None:
        moving = tangent_velocity(constraint, at, moving, t=0.0)
    else:
        moving = joint_tangent_velocity(constraint, along, at, moving, t=0.0)
    return at.detach().numpy(), moving.detach().numpy()


def _solved(problem: Motion, q: np.ndarray, v: np.ndarray, ts: np.ndarray, rtol: float) -> dict:
    from ndae.solvers import solve

    n = q.shape[-1]
    multipliers = np.full((len(q), problem.system.n_states - 2 * n), np.nan)
    x = solve(problem.system, np.concatenate([q, v, multipliers], -1), ts, rtol=rtol).x
    return {"q": x[..., :n], "v": x[..., n : 2 * n]}
