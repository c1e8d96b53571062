"""Steps of a diffrax solver from stop to stop, as `diffrax.diffeqsolve` makes them, and no more than a kernel needs.

Compiled code without calls back to Python, so that it can be kept: `diffeqsolve` has some, for checks of output times
that callers here have made already. And half of the code, for steps that end on all output times.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from diffrax import RESULTS
from jaxtyping import Array

from ndae.solvers._jax_types import Count, Flag, PhaseState, Time, Times
from ndae.solvers.stepping.projected_step import ProjectedSolver

# The first step that is tried, as diffrax does where none is given; the error test shortens it.
_FIRST = 0.01


class Ended(NamedTuple):
    """Where steps ended and what they were; `rows` (n_stops + 1, n) are the states at the start and at the first stops,
    of which `n_stops` were reached."""

    t: Time
    y: PhaseState
    rows: Array
    n_stops: Count
    n_accepted: Count
    result: Any
    controller_state: Any
    solver_state: Any


def steps_to(
    solver: ProjectedSolver,
    derivative: Callable,
    controller: diffrax.AbstractAdaptiveStepSizeController,
    t0: Time,
    stops: Times,
    y0: PhaseState,
    args: Any,
    begins: Flag,
) -> Ended:
    """Integrate y' = derivative(t, y, args) from t0 until the last of the stops (in order, some perhaps equal), or a
    failure. The controller ends steps on every stop. Where it `begins`, the start is projected first."""
    terms = diffrax.ODETerm(derivative)
    order: Any = solver.error_order(terms)
    t_next, controller_state = controller.init(terms, t0, stops[-1], y0, _FIRST, args, solver.func, order)
    solver_state = solver.init(terms, t0, t_next, y0, args)
    # Of equal stops the last one is written, once: what is written twice has no place in a buffer.
    written_at = jnp.searchsorted(stops, stops, side="right")

    def unfinished(carry) -> Flag:
        begins, _, ended = carry
        return (begins | (ended.t < stops[-1])) & (ended.result == RESULTS.successful)

    def step(carry):
        # The start is projected by the code of the steps: a second copy would be compiled as a second one.
        begins, t1, before = carry
        made: Any = solver.solver.step(terms, before.t, t1, before.y, args, before.solver_state, True)
        y, error, _, solver_state, of_step = made
        y, error = solver.end(
            jnp.where(begins, before.t, t1), jnp.where(begins, before.y, y), jnp.where(begins, 0.0, error), args
        )
        chosen: Any = controller.adapt_step_size(before.t, t1, before.y, y, args, error, order, before.controller_state)
        keep, t, t_next, _, controller_state, of_controller = chosen
        solver_state = jax.tree.map(lambda a, b: jnp.where(keep, a, b), solver_state, before.solver_state)
        result = RESULTS.where(keep, of_step, RESULTS.successful)
        result = RESULTS.where(result == RESULTS.successful, of_controller, result)
        n_stops = jnp.sum(stops <= t)
        place = jnp.where(keep & (n_stops > before.n_stops), n_stops, stops.size + 1)  # behind all: of what is no stop
        rows = before.rows.at[jnp.where(begins, 0, place)].set(y)
        y, n_accepted = jnp.where(keep | begins, y, before.y), before.n_accepted + keep
        stepped = t_next, t, n_stops, n_accepted, result, controller_state, solver_state
        stayed = t1, before.t, *before[3:]
        t_next, t, *rest = jax.tree.map(lambda a, b: jnp.where(begins, a, b), stayed, stepped)
        return jnp.asarray(False), t_next, Ended(t, y, rows, *rest)

    rows = jnp.broadcast_to(y0, (stops.size + 2, y0.size))
    zero = jnp.zeros((), jnp.int64)
    first = Ended(t0, y0, rows, zero, zero, RESULTS.successful, controller_state, solver_state)
    _, _, ended = eqxi.while_loop(
        unfinished, step, (begins, t_next, first), kind="lax", buffers=lambda carry: carry[2].rows
    )
    return ended._replace(rows=ended.rows[jnp.concatenate([jnp.zeros(1, written_at.dtype), written_at])])
