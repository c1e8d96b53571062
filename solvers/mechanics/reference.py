"""Reference solutions of constrained mechanical systems in float64, by diffrax with projection after every step.

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

from ndae.solvers.arguments import check_settings, float64_on_cpu, numbers, output_times, parameter_arrays
from ndae.solvers.batches import Refused, refuse, stand_in
from ndae.solvers.dae.leading import SETTLED
from ndae.solvers.mechanics.motion_jax import ConstrainedMotion
from ndae.solvers.solution import LEVELS, SUCCESS, Solution, SolveError
from ndae.solvers.stepping.kernel import Outcome, Progress, ReferenceKernel, joined

# Level, its equation, and what its units are divided by.
_START_LEVELS = (("position", "c(q, t)", ""), ("velocity", "J v + ∂c/∂t", "/s"))


def reference_solution(
    system: Any,
    q0: Any,
    v0: Any,
    ts: Any,
    *,
    rtol: float = 1e-10,
    atol: float = 1e-10,
    parameters: Mapping[str, Any] | None = None,
    project: bool = True,
    solver: str = "dopri8",
    progress: Progress | None = None,
    max_steps: int | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
) -> Solution:
    """The motion of a constrained mechanical system from a consistent start, at the times `ts`, in float64.

    Solves q' = v, M v' = F(q, v, t) - J(q, t)ᵀ λ, c(q, t) = 0 by eliminating λ from J v' + curvature(q, v, t) = 0, with
    an adaptive solver whose steps end on every output time and, if `project`, a projection of q and v onto
    c = 0 and J v + ∂c/∂t = 0 after each (the recipe of Hairer, Lubich and Wanner, Geometric Numerical Integration,
    IV.4). Without projection the solution drifts off at the rate of the tolerance.

    - `system`: a symbolic.MechanicalSystem.
    - `q0`, `v0` (*batch, n_states): start; each of a batch is solved with its own steps. It must satisfy both levels
      within `start_tol` (in the constraint's units, and those over s); what is left of it is projected away.
    - `ts` (n_times,): output times (s), strictly increasing, at least two; the start is at `ts[0]`.
    - `rtol`, `atol`: tolerances of a step's local error, relative and absolute.
    - `parameters`: values by name, instead of the system's own.
    - `solver`: "dopri8", "dopri5", "tsit5", or "radau13" and "kvaerno5" (implicit, for stiff forces).
    - `progress(fraction, text)`: called now and then while it runs.
    - `max_steps`: attempts after which a solve gives up; default a million, or twenty an output time if that is more.

    Returns a Solution with multipliers, energy and the residuals of all three levels at every output time.
    Raises ValueError for a bad argument or an inconsistent start, and SolveError when a solve stops early;
    with `throw=False` the reason is in `solution.result`, and the outputs end where the last solve stopped. A start
    that is inconsistent or not finite, also one of a batch, is then a result too: its reason, `n_reached` 0 and NaN,
    while the others are solved.
    """
    ts = output_times(ts)
    q0, v0 = _start(system, q0, v0, finite=throw)
    batch, refused = q0.shape[:-1], None if throw else {}
    check_settings(solver, max_steps, rtol=rtol, atol=atol, start_tol=start_tol)
    max_steps = max(1_000_000, 20 * ts.size) if max_steps is None else int(max_steps)
    with float64_on_cpu():
        kernel = compiled_kernel(system, solver, bool(project), q0.ndim > 1)
        parameters = parameter_arrays(parameters)
        y0 = np.concatenate([q0, v0], axis=-1)
        described = kernel.call("describe", ts[0], y0, parameters)
        for index in [()] if throw else np.ndindex(batch):
            _check_start({name: value[index] for name, value in described.items()}, system, start_tol, refused, index)
        if refused and len(refused) == math.prod(batch):
            return _never_begun(ts, y0, described).without(refused)
        y0 = stand_in(y0, batch, refused)
        solution = _solution(kernel.solve(y0, ts, rtol, atol, max_steps, parameters, progress)).without(refused or {})
    if throw and not np.all(solution.succeeded):
        raise SolveError(_failure(solution), solution)
    return solution


def consistent_initial_condition(
    system: Any,
    q0: Any,
    v0: Any,
    *,
    t0: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    max_iterations: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """The consistent start nearest to (q0, v0): q with c(q, t0) = 0, and then v with J v + ∂c/∂t = 0 at that q.

    Nearest in the metric of the masses. `q0`, `v0` are guesses of shape (*batch, n_states); two arrays of that shape
    come back. Raises ValueError for a bad argument and SolveError where no consistent start is found.
    """
    q0, v0 = _start(system, q0, v0)
    with float64_on_cpu():
        kernel = compiled_kernel(system, "dopri8", True, q0.ndim > 1)
        y0 = np.concatenate([q0, v0], axis=-1)
        y, converged = kernel.call("project", float(t0), y0, parameter_arrays(parameters), max_iterations)
        q, v = np.split(y, 2, axis=-1)
    if not np.all(converged):
        where = "" if q0.ndim == 1 else f" for {np.size(converged) - np.sum(converged)} of {np.size(converged)} starts"
        raise SolveError(
            f"no consistent start was found within {max_iterations} Newton steps{where}: either c(q) = 0 has no point "
            "near q0, or its Jacobian loses rank there; give a q0 closer to the manifold"
        )
    return q, v


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
    rows = {name: np.expand_dims(value, none.ndim) for name, value in ({"y": y0} | described).items()}
    stats = dict.fromkeys(("n_steps", "n_accepted", "n_rejected", "n_f_evals"), none)
    return _solution(Outcome(ts[:1], rows, stats, "", none, np.full(none.shape, ts[0]), y0))


def _start(system: Any, q0: Any, v0: Any, finite: bool = True) -> tuple[np.ndarray, np.ndarray]:
    n_states = system.constraint.n_states
    q0, v0 = numbers("q0", q0, finite=finite), numbers("v0", v0, finite=finite)
    for name, value in (("q0", q0), ("v0", v0)):
        if value.ndim < 1 or value.shape[-1] != n_states:
            raise ValueError(
                f"{name} has shape {value.shape}; expected (*batch, {n_states}), one number for each coordinate of "
                f"{_name(system)}"
            )
    if q0.shape != v0.shape:
        raise ValueError(f"q0 has shape {q0.shape} and v0 {v0.shape}; give both the same batch dimensions")
    if not q0.size:
        raise ValueError(f"q0 has shape {q0.shape}: an empty batch; give at least one start")
    return q0, v0


def _check_start(
    described: Mapping[str, np.ndarray], system: Any, start_tol: float, refused: Refused, index: tuple[int, ...]
) -> None:
    """Refuse what is wrong with the start at that index, or with the worst of a batch, where all are described."""
    if refused is not None and not np.isfinite([*described["position"], *described["velocity"]]).all():
        return refuse(refused, index, f"the start{f' {index}' if index else ''} or its residual is not finite")
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
                f"{worst[-1]}{of_start} of {_name(system)}, more than start_tol = {start_tol:g}; write "
                "`q0, v0 = consistent_initial_condition(system, q0, v0)` first",
            )
            return
    bad = ~np.isfinite(described["multiplier"]).all(axis=-1)
    if bad.any():
        which = index + tuple(int(i) for i in np.argwhere(bad)[0])
        of_start = f" {which}" if which else ""
        refuse(
            refused,
            index,
            f"the multipliers of start{of_start} of {_name(system)} are not finite: either the force is not, or the "
            "constraint Jacobian loses rank there; drop redundant constraints or start elsewhere",
        )


def _failure(solution: Solution) -> str:
    if isinstance(solution.result, str):
        return f"the reference solve stopped: {solution.result}"
    failed = np.argwhere(solution.result != SUCCESS)
    first = tuple(int(i) for i in failed[0])
    return f"{len(failed)} of {solution.result.size} reference solves stopped; start {first}: {solution.result[first]}"


def _name(system: Any) -> str:
    return repr(getattr(system, "name", None) or "the system")


@lru_cache(maxsize=16)  # compiling takes seconds, so the same system is compiled once
def compiled_kernel(system: Any, solver: str, project: bool, batched: bool) -> "ReferenceKernel":
    return ReferenceKernel(ConstrainedMotion(system, project), solver, batched)
