"""Motions of systems of points in float64, by diffrax with projection after every step.

The multipliers are eliminated at the acceleration level, M a = F - Jᵀ λ with J a + curvature = 0, an adaptive solver
of high order integrates (q, v), and both are projected onto their manifolds, c = 0 and J v + ∂c/∂t = 0, at the end of
every step. Steps end on the output times: between them no interpolant stays on the manifold.

64-bit JAX on the CPU is switched on inside these functions alone (as contexts, local to the thread), so a program that
uses JAX in float32 or on a GPU elsewhere keeps doing so. Results are NumPy arrays.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ndae.solvers.arguments import (
    check_settings,
    float64_on_cpu,
    numeric_defaults,
    output_times,
    parameter_arrays,
    points_of,
)
from ndae.solvers.batches import Refused, refuse, stand_in
from ndae.solvers.dae.describe import tolerances_by_name
from ndae.solvers.dae.leading import SETTLED
from ndae.solvers.dae.start import ConsistentStart, check_start_of, of_sample, warn_of_guesses
from ndae.solvers.dae.start_of_points import groups_of, read_points
from ndae.solvers.mechanics.motion_jax import ConstrainedMotion
from ndae.solvers.progress import Progress
from ndae.solvers.solution import LEVELS, SUCCESS, Solution, SolveError
from ndae.solvers.stepping.kernel import Outcome, ReferenceKernel, joined
from ndae.solvers.threads import one_blas_thread
from ndae.symbolic.systems.of_points import Points
from ndae.symbolic.systems.system import System

# Level, its equation, and what its units are divided by.
_START_LEVELS = (("position", "c(q, t)", ""), ("velocity", "J v + ∂c/∂t", "/s"))


@one_blas_thread()
def solve_points(
    system: System,
    start: Any,
    ts: Any,
    *,
    rtol: float = 1e-10,
    atol: Any = None,
    parameters: Mapping[str, Any] | None = None,
    project: bool = True,
    integrator: str = "dopri8",
    progress: Progress | None = None,
    max_steps: int | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
) -> Solution:
    """The motion of a system of points from a consistent start, at the times `ts`, in float64.

    Solves q' = v, M v' = F(q, v, t) - J(q, t)ᵀ λ, c(q, t) = 0 by eliminating λ from J v' + curvature(q, v, t) = 0, with
    an adaptive solver whose steps end on every output time and, if `project`, a projection of q and v onto
    c = 0 and J v + ∂c/∂t = 0 after each (the recipe of Hairer, Lubich and Wanner, Geometric Numerical Integration,
    IV.4). Without projection the solution drifts off at the rate of the tolerance.

    Arguments and result are those of ndae.solve. The start must satisfy both levels within `start_tol` (in the
    constraint's units, and those over s); what is left of it is projected away.
    """
    ts = output_times(ts)
    points = points_of(system)
    refused: Refused = None if throw else {}
    y0, given = _start(system, start, refused)
    batch = y0.shape[:-1]
    check_settings(integrator, max_steps, rtol=rtol, start_tol=start_tol)
    names = {s.name: i for i, s in enumerate(system.states[: y0.shape[-1]])}
    atol = tolerances_by_name(system, names, atol, rtol)
    max_steps = max(1_000_000, 20 * ts.size) if max_steps is None else int(max_steps)
    with float64_on_cpu():
        kernel = compiled_kernel(points, integrator, bool(project), y0.ndim > 1)
        parameters = numeric_defaults(points.parameters) | (parameter_arrays(parameters) or {})
        described = kernel.call("describe", ts[0], y0, parameters)
        for index in [()] if throw else np.ndindex(batch):
            own = {name: value[index] for name, value in described.items()}
            _check_start(own, system, start_tol, refused, index)
        columns = {s.name: j for j, s in enumerate(system.states[y0.shape[-1] :])}
        warn_of_guesses(system, columns, given, described["multiplier"], start_tol, float(ts[0]))
        if refused and len(refused) == math.prod(batch):
            return _never_begun(ts, y0, described).without(refused)
        y0 = stand_in(y0, batch, refused)
        solution = _solution(kernel.solve(y0, ts, rtol, atol, max_steps, parameters, progress)).without(refused or {})
    if throw and not np.all(solution.succeeded):
        raise SolveError(_failure(solution), solution)
    return solution


@one_blas_thread()
def consistent_points(
    system: System,
    guess: Any,
    *,
    t0: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    max_iterations: int = 100,
) -> ConsistentStart:
    """The consistent start nearest to a guess: q with c(q, t0) = 0, and then v with J v + ∂c/∂t = 0 at that q.

    Nearest in the metric of the masses. `guess` is a start (*batch), see ndae.solve. Raises ValueError for a bad
    argument and SolveError where no consistent start is found.
    """
    y0, _ = _start(system, guess)
    groups = groups_of(system)
    with float64_on_cpu():
        kernel = compiled_kernel(points_of(system), "dopri8", True, y0.ndim > 1)
        parameters = parameter_arrays(parameters)
        y, converged = kernel.call("project", float(t0), y0, parameters, max_iterations)
        if not np.all(converged):
            n = np.size(converged)
            where = "" if y0.ndim == 1 else f" for {n - np.sum(converged)} of {n} starts"
            raise SolveError(
                f"no consistent start was found within {max_iterations} Newton steps{where}: either c(q) = 0 has no "
                "point near q, or its Jacobian loses rank there; give a q closer to the manifold"
            )
        described = kernel.call("describe", float(t0), y, parameters)
        rates = kernel.call("derivative", float(t0), y, parameters)
    multiplier, given = described["multiplier"], np.moveaxis(y0, -1, 0)
    names = tuple(s.name for s in system.states)
    return ConsistentStart(
        names=names,
        states=np.concatenate([y, multiplier], axis=-1),
        rates=np.concatenate([rates, np.full_like(multiplier, np.nan)], axis=-1),
        residual={level: described[level] for level in LEVELS},
        given={name: value if value.ndim else float(value) for name, value in zip(names, given, strict=False)},
        groups=groups,
    )


def _settled(outcome: Outcome) -> Outcome:
    """The outcome up to the first output whose multipliers do not solve their equations."""
    reached, result = np.array(outcome.n_reached), np.array(outcome.result, dtype=object)
    wrong = ~(outcome.rows["error"] <= SETTLED) & (np.arange(outcome.ts.size) < reached[..., None])
    if not wrong.any():
        return outcome
    for index in map(tuple, np.argwhere(wrong.any(axis=-1))):
        first = int(np.argmax(wrong[index]))
        reached[index] = max(1, first)
        result[index] = (
            f"the multipliers solve their equations only to {outcome.rows['error'][index][first]:.1e} of what is added "
            f"up in them at t = {outcome.ts[first]:.9g}: constraints depend on one another there"
        )
    single = reached.ndim == 0
    result, n_reached = (str(result), int(reached)) if single else (result.astype(str), reached)
    rows = joined([outcome.rows], reached)
    return replace(outcome, ts=outcome.ts[: reached.max()], rows=rows, result=result, n_reached=n_reached)


def _solution(outcome: Outcome) -> Solution:
    outcome = _settled(outcome)
    rows = outcome.rows
    q, v = np.split(rows["y"], 2, axis=-1)
    return Solution.of_motion(
        outcome.ts,
        q,
        v,
        rows["multiplier"],
        energy=rows["energy"],
        residual={level: rows[level] for level in LEVELS},
        stats=outcome.stats,
        result=outcome.result,
        n_reached=outcome.n_reached,
    )


def _never_begun(ts: np.ndarray, y0: np.ndarray, described: Mapping[str, np.ndarray]) -> Solution:
    """A Solution of one output, whose values mean nothing."""
    none = np.zeros(y0.shape[:-1], dtype=int)
    rows = {name: np.expand_dims(value, none.ndim) for name, value in {"y": y0, **described}.items()}
    stats: dict[str, Any] = dict.fromkeys(("n_steps", "n_accepted", "n_rejected", "n_f_evals"), none)
    return _solution(Outcome(ts[:1], rows, stats, "", none, np.full(none.shape, ts[0]), y0))


def _start(system: System, start: Any, refused: Refused = None) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates with velocities, and the multipliers, NaN where they are not given."""
    if isinstance(start, ConsistentStart):
        check_start_of(system, start)
        start = start.states
    states = read_points(system, start)
    n = groups_of(system)["v"].stop
    y0 = states[..., :n]
    for index in map(tuple, np.argwhere(~np.isfinite(y0).all(axis=-1)).tolist()):
        which = ", ".join(system.states[i].name for i in np.flatnonzero(~np.isfinite(y0[index])))
        refuse(refused, index, f"start{of_sample(index)} must be finite, but {which} is not")
    return y0, states[..., n:]


def _check_start(
    described: Mapping[str, np.ndarray],
    system: System,
    start_tol: float,
    refused: Refused,
    index: tuple[int, ...],
) -> None:
    """Refuse what is wrong with the start at that index, or with the worst of a batch, where all are described."""
    if refused is not None and not np.isfinite([*described["position"], *described["velocity"]]).all():
        return refuse(refused, index, f"the start{of_sample(index)} or its residual is not finite")
    for level, equation, per in _START_LEVELS:
        size = np.abs(described[level])
        worst = tuple(int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(size, nan=np.inf)), size.shape))
        if not size[worst] <= start_tol:
            which = index + worst[:-1]
            of_start = f" of start {which}" if which else ""
            refuse(
                refused,
                index,
                f"the start is inconsistent at the {level} level: |{equation}| = {size[worst]:.3g}{per} at residual "
                f"{worst[-1]}{of_start} of {system.name!r}, more than start_tol = {start_tol:g}; write "
                "`start = consistent_initial_condition(system, start)` first",
            )
            return
    bad = ~np.isfinite(described["multiplier"]).all(axis=-1)
    if bad.any():
        which = index + tuple(int(i) for i in np.argwhere(bad)[0])
        of_start = f" {which}" if which else ""
        refuse(
            refused,
            index,
            f"the multipliers of start{of_start} of {system.name!r} are not finite: either the force is not, or the "
            "constraint Jacobian loses rank there; drop redundant constraints or start elsewhere",
        )
        return


def _failure(solution: Solution) -> str:
    if isinstance(solution.result, str):
        return f"the reference solve stopped: {solution.result}"
    failed = np.argwhere(solution.result != SUCCESS)
    first = tuple(int(i) for i in failed[0])
    return f"{len(failed)} of {solution.result.size} reference solves stopped; start {first}: {solution.result[first]}"


@lru_cache(maxsize=16)  # compiling takes seconds, so the same system is compiled once
def compiled_kernel(points: Points, integrator: str, project: bool, batched: bool) -> "ReferenceKernel":
    return ReferenceKernel(ConstrainedMotion(points, project), integrator, batched)
