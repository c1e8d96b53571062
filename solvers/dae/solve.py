"""Solutions of differential-algebraic systems in float64, by diffrax on their index-reduced form.

A System is reduced to y' = rates(y, w), T(y, w, t) = 0 with hidden constraints C(y, t) = 0; the leading
unknowns w are solved for in every evaluation, y is integrated with adaptive steps, and a formulation says how the
constraints are kept. Steps end on the output times: between them no interpolant stays on the constraints.

64-bit JAX on the CPU is switched on inside these functions alone, and results are NumPy arrays.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from optimistix import max_norm

from ndae.solvers.arguments import (
    check_settings,
    check_system,
    checked_parameters,
    float64_on_cpu,
    numeric_defaults,
    output_times,
)
from ndae.solvers.batches import at_index, broadcast_parameters, stand_in
from ndae.solvers.dae.crossing import IN_GAP, solved_across
from ndae.solvers.dae.describe import absolute_tolerances, describe_states, never_begun
from ndae.solvers.dae.diagnosis import _cause, _failure
from ndae.solvers.dae.formulations import Formulation, formulation_named
from ndae.solvers.dae.leading import SETTLED, settled, unsettled
from ndae.solvers.dae.reduced_motion import ReducedMotion
from ndae.solvers.dae.start import resolve_start
from ndae.solvers.dae.switching import find_jumps
from ndae.solvers.progress import Progress
from ndae.solvers.solution import SUCCESS, Solution, SolveError
from ndae.solvers.stepping.kernel import Outcome, ReferenceKernel
from ndae.solvers.threads import one_blas_thread
from ndae.symbolic.forms.reduced import level_of

__all__ = ["describe_states", "output_times", "resolve_start", "solve_dae"]


@one_blas_thread()
def solve_dae(
    system: Any,
    start: Any,
    ts: Any,
    *,
    method: Any = "projection",
    integrator: str = "dopri8",
    rtol: float = 1e-10,
    atol: Any = None,
    parameters: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """The solution of a DAE from a consistent start, at the times `ts`, in float64.

    - `system`: a System of any index.
    - `start`: its initial values at `ts[0]`: a mapping by name, an array (*batch, n_states) in the order of its
      states, or a ConsistentStart. Algebraic variables may be left out (NaN in an array), and so may derivatives that
      are no states, where the equations determine them; where equations of algebraic variables are nonlinear, values
      of these are the guess from which they are solved. It must satisfy the equations and the constraints
      hidden in them within `start_tol` (see ndae.solvers.dae.start.resolve_start).
    - `ts` (n_times,): output times, strictly increasing, at least two.
    - `method`: "projection", "plain", "baumgarte", "ggl", or an object of ndae.solvers.dae.formulations.
    - `integrator`: "dopri8", "dopri5", "tsit5" for equations that are not stiff, "radau13" or "kvaerno5" (implicit) for
      stiff ones: the first needs far fewer steps for many digits, the second less work in a step.
    - `rtol`, `atol`: tolerances of a step's local error, |error_i| ≤ atol_i + rtol |y_i| for every differential
      variable. `atol` is one number, a mapping from names of states, or an array (N,) over
      `system.reduce().y`; where it is not given it is 1e-4 rtol, so that a variable counts relatively down to 1e-4.
      For digits of variables that are smaller, give their size times rtol.
    - `parameters`: values by name instead of the system's own: one number, or an array of the batch's shape.
    - `max_steps`: attempts after which a solve gives up; default a million, or twenty an output time if that is more.
    - `progress(fraction, text)`: called now and then while it runs.

    Each of a batch is solved with its own steps. A single solve that stops where constraints lose rank at one instant
    goes on behind it where the motion is smooth (ndae.solvers.dae.crossing), with a warning. Returns a Solution of all
    states, with the residuals of all levels and the invariants at every output time. Raises ValueError for a bad
    argument or an inconsistent start, and SolveError when a solve stops early; with `throw=False` the reason is in
    `solution.result`, and the outputs end where the last solve stopped. A start that is inconsistent, also one of a
    batch, is then a result too: its reason, `n_reached` 0 and NaN, while the others are solved.
    """
    check_system(system)
    ts = output_times(ts)
    check_settings(integrator, max_steps, rtol=rtol, start_tol=start_tol)
    formulation = formulation_named(method)
    reduced = system.reduce()
    # Defaults are arguments too: other values, here or in a system written anew, are not compiled again.
    parameters = numeric_defaults(system.parameters) | (checked_parameters(system, parameters) or {})
    refused = None if throw else {}
    y0, w0 = resolve_start(system, start, float(ts[0]), parameters, start_tol, refused)
    atol = absolute_tolerances(system, atol, rtol)
    max_steps = max(1_000_000, 20 * ts.size) if max_steps is None else int(max_steps)
    batch = y0.shape[:-1]
    parameters = broadcast_parameters(parameters, batch)
    with float64_on_cpu():
        jumps = find_jumps(system, y0, ts, parameters, start_tol, refused)
        if refused and len(refused) == math.prod(batch):
            return never_begun(system, ts, y0, w0, parameters, refused)
        if refused:
            parameters = {name: stand_in(p, batch, refused) for name, p in (parameters or {}).items()} or None
            y0, w0 = (stand_in(part, batch, refused) for part in (y0, w0))
            jumps = jax.tree.map(lambda at: stand_in(at, batch, refused), jumps)
        flat = {name: np.reshape(p, -1) if p.ndim else p for name, p in (parameters or {}).items()}
        held, names = reduced.base, getattr(formulation, "invariants", ())
        if names:
            held = held.holding(names)
            found = reduced.numpy().invariants(y0, w0, float(ts[0]), parameters)
            flat |= {level_of(name): np.reshape(found[name], -1) if batch else found[name] for name in names}
        batched_names = tuple(sorted(name for name, p in flat.items() if p.ndim))
        kernel = _kernel(held, formulation, integrator, bool(batch), batched_names)
        guessed = kernel.motion.guessed
        tolerances = np.concatenate([atol, np.ones(guessed.size)])  # guesses have no error
        given = reduced.jax().with_functions(flat)

        def run(y, w, ts):
            state = np.concatenate([y, w[..., guessed]], axis=-1)
            outcome = kernel.solve(state, ts, rtol, tolerances, max_steps, given or None, progress, jumps)
            outcome.rows.update(_described(reduced, guessed, outcome, parameters))
            return outcome

        if batch:
            outcome = run(y0, w0, ts)
        else:
            outcome = solved_across(reduced, run, y0, w0, ts, rtol, at_index(parameters, ()), jumps)
    solution = _solution(system, outcome, parameters).without(refused or {})
    if throw and not np.all(solution.succeeded):
        raise SolveError(_failure(system, solution), solution)
    return solution


class _Steps(ReducedMotion):
    """What is compiled: what is known of a state besides is found outside of it, for all outputs at once."""

    def describe(self, t: Any, state: Any, parameters: Any) -> dict[str, Any]:
        return {}


def _described(
    reduced: Any, guessed: np.ndarray, outcome: Outcome, parameters: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
    """y and w at the outputs, w NaN where it is not found."""
    y, guesses = np.split(outcome.rows["y"], [len(reduced.y)], axis=-1)
    guess = np.zeros((*y.shape[:-1], len(reduced.w)))
    guess[..., guessed] = guesses
    spread = {name: np.asarray(p)[..., None] if np.ndim(p) else float(p) for name, p in (parameters or {}).items()}
    with np.errstate(all="ignore"):
        w, found = reduced.numpy().solve_leading(y, outcome.ts, spread, guess=guess)
    return {"y": y, "w": np.array(np.broadcast_to(np.where(found[..., None], w, np.nan), guess.shape))}


@lru_cache(maxsize=32)  # compiling takes seconds, so the same system is compiled once
def _kernel(
    reduced: Any, formulation: Formulation, integrator: str, batched: bool, batched_parameters: tuple[str, ...]
) -> ReferenceKernel:
    motion, name = _Steps(reduced, formulation), reduced.system.name
    recipe = reduced.recipe()
    recipe = None if recipe is None else repr((recipe, formulation))
    return ReferenceKernel(motion, integrator, batched, batched_parameters, max_norm, name, motion.jacobians, recipe)


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
    w = np.where(there[..., None], w, np.nan)
    again, error = settled(system, y, w, outcome.ts, parameters)
    in_gap = outcome.rows.get(IN_GAP, np.zeros(outcome.ts.size, dtype=bool))
    w, error = np.where(in_gap[:, None], w, again), np.where(in_gap, 0.0, error)
    for index in np.ndindex(batch):
        bad = np.flatnonzero(error[index] > SETTLED)
        if bad.size:
            reached[index] = bad[0]
            result[index] = unsettled(float(outcome.ts[bad[0]]), float(error[index][bad[0]]))
    n_times = max(1, int(reached.max()))
    ts = outcome.ts[:n_times]
    last = np.minimum(np.arange(n_times), np.maximum(reached, 1)[..., None] - 1)[..., None]
    y, w = (np.take_along_axis(value, last, axis=-2) for value in (y, w))
    if not batch:
        result, reached = str(result), int(reached)
    else:
        result = result.astype(str)
    return describe_states(system, ts, y, w, parameters, stats=outcome.stats, result=result, n_reached=reached)
