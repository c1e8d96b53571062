"""Solutions of differential-algebraic systems in float64, by diffrax on their index-reduced form.

A symbolic.DAESystem is reduced to y' = rates(y, w), T(y, w, t) = 0 with hidden constraints C(y, t) = 0; the leading
unknowns w are solved for in every evaluation, y is integrated with adaptive steps, and a formulation says how the
constraints are kept. Steps end on the output times: between them no interpolant stays on the constraints.

64-bit JAX on the CPU is switched on inside these functions alone, and results are NumPy arrays.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from optimistix import max_norm

from solvers.arguments import (
    check_settings,
    check_system,
    checked_parameters,
    float64_on_cpu,
    named_once,
    numbers,
    output_times,
)
from solvers.formulations import Formulation, formulation_named
from solvers.leading import SETTLED, settled, unsettled
from solvers.reduced_motion import ReducedMotion
from solvers.reference_kernel import Outcome, Progress, ReferenceKernel
from solvers.solution import SUCCESS, ReferenceSolveError, Solution
from solvers.start import at_index, broadcast_parameters, resolve_start
from solvers.switching import find_jumps, jump_near

__all__ = ["describe_states", "output_times", "resolve_start", "solve_dae"]

# Absolute tolerance where none is given, as a share of `rtol`: components are measured relatively down to this size.
_DEFAULT_ATOL = 1e-4
# Reciprocal condition below which a solve that stopped is said to have met a singularity.
_SINGULAR = 1e-8
# A variable that is this many times as large as it was at any output is said to grow without bound.
_UNBOUNDED = 1e3


def solve_dae(
    system: Any,
    start: Any,
    ts: Any,
    *,
    formulation: Any = "projection",
    solver: str = "dopri8",
    rtol: float = 1e-10,
    atol: Any = None,
    parameters: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """The solution of a DAE from a consistent start, at the times `ts`, in float64.

    - `system`: a symbolic.DAESystem of any index.
    - `start`: its initial values at `ts[0]`: a mapping by name, an array (*batch, n_states) in the order of its
      states, or a ConsistentStart. Algebraic variables may be left out (NaN in an array), and so may derivatives that
      are no states, where the equations determine them; where equations of algebraic variables are nonlinear, values
      of these are the guess from which they are solved. It must satisfy the equations and the constraints
      hidden in them within `start_tol` (see solvers.start.resolve_start).
    - `ts` (n_times,): output times, strictly increasing, at least two.
    - `formulation`: "projection", "plain", "baumgarte", "ggl", or an object of solvers.formulations.
    - `solver`: "dopri8", "dopri5", "tsit5" for equations that are not stiff, "radau13" or "kvaerno5" (implicit) for
      stiff ones: the first needs far fewer steps for many digits, the second less work in a step.
    - `rtol`, `atol`: tolerances of a step's local error, |error_i| ≤ atol_i + rtol |y_i| for every differential
      variable. `atol` is one number, a mapping from names of states, or an array (N,) over
      `system.reduce().y`; where it is not given it is 1e-4 rtol, so that a variable counts relatively down to 1e-4.
      For digits of variables that are smaller, give their size times rtol.
    - `parameters`: values by name instead of the system's own: one number, or an array of the batch's shape.
    - `max_steps`: attempts after which a solve gives up; default a million, or twenty an output time if that is more.
    - `progress(fraction, text)`: called now and then while it runs.

    Each of a batch is solved with its own steps. Returns a Solution of all states, with the residuals of all levels and
    the invariants at every output time. Raises ValueError for a bad argument or an inconsistent start, and
    ReferenceSolveError when a solve stops early; with `throw=False` the reason is in `solution.result`, and the outputs
    end where the last solve stopped.
    """
    check_system(system)
    ts = output_times(ts)
    check_settings(solver, max_steps, rtol=rtol, start_tol=start_tol)
    formulation = formulation_named(formulation)
    reduced = system.reduce()
    parameters = checked_parameters(system, parameters)
    y0, w0 = resolve_start(system, start, float(ts[0]), parameters, start_tol)
    atol = absolute_tolerances(system, atol, rtol)
    max_steps = max(1_000_000, 20 * ts.size) if max_steps is None else int(max_steps)
    batch = y0.shape[:-1]
    parameters = broadcast_parameters(parameters, batch)
    flat = {name: np.reshape(p, -1) if p.ndim else p for name, p in (parameters or {}).items()}
    batched_names = tuple(sorted(name for name, p in flat.items() if p.ndim))
    with float64_on_cpu():
        jumps = find_jumps(system, y0, ts, parameters, start_tol)
        kernel = _kernel(reduced, formulation, solver, bool(batch), batched_names)
        guessed = kernel.motion.guessed
        state = np.concatenate([y0, w0[..., guessed]], axis=-1)
        tolerances = np.concatenate([atol, np.ones(guessed.size)])  # guesses have no error
        outcome = kernel.solve(state, ts, rtol, tolerances, max_steps, flat or None, progress, jumps)
    solution = _solution(system, outcome, parameters)
    if throw and not np.all(solution.succeeded):
        raise ReferenceSolveError(_failure(system, solution), solution)
    return solution


def describe_states(
    system: Any,
    ts: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    parameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Solution:
    """The Solution of a system whose reduced states y (*batch, n_times, N) and w (*batch, n_times, n) are known.

    `parameters` are one number each, or arrays of the batch's shape; `fields` are others of Solution, such as `stats`.
    """
    functions = system.reduce().numpy()
    batch = y.shape[:-2]

    def described(y, w, parameters):
        x = functions.states(y, w, ts, parameters)
        return x, functions.levels(y, w, ts, parameters), functions.invariants(y, w, ts, parameters)

    if any(np.ndim(p) for p in (parameters or {}).values()):
        parts = [described(y[i], w[i], at_index(parameters, i)) for i in np.ndindex(batch)]
        x = np.stack([part[0] for part in parts]).reshape(*batch, *parts[0][0].shape)
        levels, invariants = (
            {
                key: np.stack([part[n][key] for part in parts]).reshape(*batch, *value.shape)
                for key, value in one.items()
            }
            for n, one in ((1, parts[0][1]), (2, parts[0][2]))
        )
    else:
        x, levels, invariants = described(y, w, {name: float(p) for name, p in (parameters or {}).items()})
    return Solution(
        ts=ts,
        x=np.asarray(x),
        names=tuple(s.name for s in system.states),
        residual={level: np.asarray(value) for level, value in levels.items()},
        invariants={name: np.asarray(value) for name, value in invariants.items()},
        groups=variable_groups(system),
        **fields,
    )


def variable_groups(system: Any) -> dict[str, np.ndarray]:
    """Columns of the states that are "differential" and "algebraic", and of a mechanical system "q", "v", "multiplier".

    Mechanical is a system whose differential states are coordinates and their derivatives, in pairs.
    """
    reduced = system.reduce()
    held, rate = reduced.states, dict(zip(reduced.y, reduced.rates, strict=True))
    column = {symbol: i for i, symbol in reversed(list(enumerate(held)))}
    differential = [i for i, s in enumerate(held) if s in rate]
    groups = {"differential": differential, "algebraic": [i for i, s in enumerate(held) if s not in rate]}
    q = [i for i in differential if rate[held[i]] in column and rate[held[i]] in rate]
    v = [column[rate[held[i]]] for i in q]
    if q and sorted(q + v) == differential:
        groups |= {"q": q, "v": v, "multiplier": groups["algebraic"]}
    return {name: np.array(columns, dtype=int) for name, columns in groups.items()}


def absolute_tolerances(system: Any, atol: Any, rtol: float) -> np.ndarray:
    """`atol` as solve_dae takes it, (N,) over the differential variables. Raises ValueError unless it is positive."""
    reduced = system.reduce()
    n, default = len(reduced.y), _DEFAULT_ATOL * rtol
    if isinstance(atol, Mapping):
        names = {s.name: symbol for s, symbol in zip(system.states, reduced.states, strict=True)}
        names = {symbol.name: symbol for symbol in reduced.y} | names
        atol = named_once("atol", atol)
        unknown = [key for key in atol if key not in names]
        if unknown:
            states = ", ".join(s.name for s in system.states)
            raise ValueError(f"atol names {', '.join(unknown)}; the states of {system.name!r} are {states}")
        given = {names[key]: value for key, value in atol.items()}
        atol = [given.get(symbol, default) for symbol in reduced.y]
    atol = numbers("atol", default if atol is None else atol)
    if atol.shape not in ((), (n,)):
        raise ValueError(
            f"atol has shape {atol.shape}; give one number, a mapping from names of states, or an array ({n},) over "
            f"the differential variables {', '.join(s.name for s in reduced.y)}"
        )
    if not np.all(atol > 0):
        raise ValueError(f"atol must be positive, got {atol.min():g}; a variable that is never zero may have 1e-100")
    return np.broadcast_to(atol, (n,)).copy()


@lru_cache(maxsize=32)  # compiling takes seconds, so the same system is compiled once
def _kernel(
    reduced: Any, formulation: Formulation, solver: str, batched: bool, batched_parameters: tuple[str, ...]
) -> ReferenceKernel:
    return ReferenceKernel(ReducedMotion(reduced, formulation), solver, batched, batched_parameters, max_norm)


def _solution(system: Any, outcome: Outcome, parameters: Mapping[str, Any] | None) -> Solution:
    result, reached = np.array(outcome.result, dtype=object), np.array(outcome.n_reached)
    y, w = outcome.rows["y"], outcome.rows["w"]
    batch = y.shape[:-2]
    for index in np.ndindex(batch):
        own = at_index(parameters, index)
        if result[index] != SUCCESS:
            n = max(1, reached[index])
            seen = np.concatenate([np.abs(part[index][:n]).max(axis=0, initial=1.0) for part in (y, w)])
            first = (y[index][0], w[index][0], float(outcome.ts[0]))
            cause = _cause(system.reduce(), outcome.y[index], float(outcome.t[index]), own, seen, first)
            result[index] = f"{result[index]}{cause}"
        # An output where the leading unknowns were not found is none.
        bad = np.flatnonzero(~np.isfinite(w[index][: reached[index]]).all(axis=-1))
        if bad.size:
            reached[index] = bad[0]
            where = f"t = {outcome.ts[bad[0]]:.9g}"
            result[index] = f"the equations for the highest derivatives could not be solved at {where}"
    there = np.arange(outcome.ts.size) < reached[..., None]
    w, error = settled(system, y, np.where(there[..., None], w, np.nan), outcome.ts, parameters)
    for index in np.ndindex(batch):
        bad = np.flatnonzero(error[index] > SETTLED)
        if bad.size:
            reached[index] = bad[0]
            result[index] = unsettled(outcome.ts[bad[0]], error[index][bad[0]])
    n_times = max(1, int(reached.max()))
    ts = outcome.ts[:n_times]
    last = np.minimum(np.arange(n_times), np.maximum(reached, 1)[..., None] - 1)[..., None]
    y, w = (np.take_along_axis(value, last, axis=-2) for value in (y, w))
    if not batch:
        result, reached = str(result), int(reached)
    else:
        result = result.astype(str)
    return describe_states(system, ts, y, w, parameters, stats=outcome.stats, result=result, n_reached=reached)


def _cause(
    reduced: Any,
    state: np.ndarray,
    t: float,
    parameters: Mapping[str, float],
    seen: Float[np.ndarray, "_"],
    first: tuple[np.ndarray, np.ndarray, float],
) -> str:
    """What is singular where a solve stopped, as the end of a sentence; empty where nothing is.

    `seen` are the largest sizes of y and w, at least one, at the outputs, `first` is (y, w, t) at the start.
    """
    functions, y = reduced.numpy(), state[: len(reduced.y)]
    jump = jump_near(reduced, y, t, parameters)
    if jump:
        return f"; {jump}"
    guess = np.zeros(len(reduced.w))
    nonlinear = sorted(j for block in reduced.blocks if not block.linear for j in block.unknowns)
    guess[nonlinear] = state[len(reduced.y) :]
    with np.errstate(all="ignore"):
        w, converged = functions.solve_leading(y, t, parameters, guess=guess)
        top = functions.leading_jacobian(y, np.nan_to_num(w), t, parameters)
        low = functions.constraints_jacobian(y, t, parameters) if reduced.constraints else None
    names = [s.name for s in reduced.w]
    if not np.all(np.isfinite(top)):
        return "; the equations are not finite numbers there"
    rank, weak = _reciprocal_condition(top)
    if rank < _SINGULAR:
        lost = [names[j] for j in np.flatnonzero(weak > 0.1 * weak.max())][:5]
        return f"; the equations for {', '.join(lost)} become singular there (reciprocal condition {rank:.1e})"
    if not np.all(converged):
        return "; Newton's iteration for the algebraic variables does not converge there"
    if low is not None and np.all(np.isfinite(low)):
        rank, _ = _reciprocal_condition(low * (np.abs(y) + 1e-8 * np.abs(y).max()))
        if rank < _SINGULAR:
            return f"; the hidden constraints lose rank there (reciprocal condition {rank:.1e})"
    values, symbols, own = np.concatenate([y, w]), (*reduced.y, *reduced.w), set(reduced.states)
    grown = np.flatnonzero(np.abs(values) / seen > _UNBOUNDED)
    if grown.size:
        j = max(grown, key=lambda j: (symbols[j] in own, np.abs(values[j]) / seen[j]))
        return f"; {symbols[j].name} = {values[j]:.3g} there and seems to grow without bound"
    steep, before = (_steepness(functions, *point, parameters) for point in ((y, w, t), first))
    grown = np.flatnonzero(steep > _UNBOUNDED * np.maximum(before, 1.0))
    if grown.size:
        name = names[max(grown, key=lambda j: (reduced.w[j] in own, steep[j]))]
        return f"; the equations for {name} become singular there: it changes infinitely fast with the others"
    return ""


def _steepness(functions: Any, y: np.ndarray, w: np.ndarray, t: float, parameters: Mapping[str, float]) -> np.ndarray:
    """Of every leading unknown the largest derivative by an entry of y."""
    top = functions.leading_jacobian(y, w, t, parameters)
    with np.errstate(all="ignore"):
        try:
            response = np.linalg.solve(top, functions.leading_jacobian(y, w, t, parameters, by="y"))
        except np.linalg.LinAlgError:
            return np.full(w.shape, np.inf)
    return np.max(np.abs(np.nan_to_num(response)), axis=-1, initial=0.0)


def _reciprocal_condition(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Smallest over largest singular value, in units of rows and columns, and the direction of the smallest."""
    scaled = matrix / np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.finfo(float).tiny)
    if matrix.shape[0] == matrix.shape[1]:
        scaled = scaled / np.maximum(np.abs(scaled).max(axis=0, keepdims=True), np.finfo(float).tiny)
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    return float(values[-1] / max(values[0], np.finfo(float).tiny)), np.abs(directions[-1])


def _failure(system: Any, solution: Solution) -> str:
    if isinstance(solution.result, str):
        return f"the solve of {system.name!r} stopped: {solution.result}"
    failed = np.argwhere(solution.result != SUCCESS)
    first = tuple(int(i) for i in failed[0])
    return (
        f"{len(failed)} of {solution.result.size} solves of {system.name!r} stopped; start {first}: "
        f"{solution.result[first]}"
    )
