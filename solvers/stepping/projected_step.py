"""A diffrax solver that projects after every step, and a step size controller that ends steps on the save times.

Diffrax has no constraints of its own. Its interpolants leave a manifold that its steps are kept on (a projected
Tsit5 at 1e-6: 6e-7 between its steps, 2e-12 at them), so output is taken at ends of steps only.
"""

from collections.abc import Callable
from typing import Any, cast

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jaxtyping import Array, Float64, Int64, PyTree

from ndae.solvers._jax_types import Count, Flag, PhaseState, Time, Times
from ndae.solvers.stepping.end_of_step import EndOfStep
from ndae.solvers.stepping.jumps import Jumps


class ProjectedSolver(diffrax.AbstractWrappedSolver):
    """`solver`, with `project(t, y, args) -> (y on the manifold, converged)` applied at the end of every step.

    A step whose projection does not converge gets an infinite error estimate: the controller rejects it and tries a
    shorter one. Hairer, Lubich and Wanner, Geometric Numerical Integration, IV.4: projection once, at the end of a
    step, keeps the order of the solver.
    """

    solver: diffrax.AbstractSolver
    project: Callable[[Any, PhaseState, Any], tuple[PhaseState, Flag]]

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):
        return EndOfStep

    @property
    def term_compatible_contr_kwargs(self):
        return self.solver.term_compatible_contr_kwargs

    # diffrax forwards isinstance checks to the wrapped solver and then asks for what such solvers carry: the first
    # of all Runge-Kutta methods, the other two of the implicit ones.
    @property
    def scan_kind(self):
        return cast(Any, self.solver).scan_kind

    @property
    def root_finder(self):
        return cast(Any, self.solver).root_finder

    @property
    def root_find_max_steps(self):
        return cast(Any, self.solver).root_find_max_steps

    def order(self, terms):
        return self.solver.order(terms)

    def strong_order(self, terms):
        return self.solver.strong_order(terms)

    def error_order(self, terms):
        return self.solver.error_order(terms)

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms, t0, t1, y0, args)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        # Always a jump: a first-same-as-last solver would reuse the derivative at the unprojected end of its last step.
        del made_jump
        made: Any = self.solver.step(terms, t0, t1, y0, args, solver_state, True)
        y1, error, _, solver_state, result = made
        y1, error = self.end(t1, y1, error, args)
        return y1, error, {"y1": y1}, solver_state, result

    def end(self, t1: Any, y1: Any, error: Any, args: Any) -> tuple[PhaseState, Array]:
        """What a step ends with, from what the solver gave: the projected state, and the error."""
        y1, converged = self.project(t1, y1, args)
        # A NaN would pass through the controller into the step size.
        good = converged & jnp.all(jnp.isfinite(y1)) & jnp.all(jnp.isfinite(error))
        return y1, jnp.where(good, error, jnp.inf)


# A solve has stalled if so many attempts, of which so many were rejected, move it by less than this share of the time
# behind it, and the time before it would take this many times the attempts that it is allowed. Bursts of a smooth
# solution have few rejections, and a stiff one has its small steps all the way.
STALL_ATTEMPTS, _STALL_REJECTED, _STALL_SHARE, _STALL_TIMES = 20_000, 5_000, 1e-3, 10


_Number = Float64[Array | np.ndarray, ""]
_Count = Int64[Array | np.ndarray, ""]


class StepState(eqx.Module):
    """What one solve hands to the next one that goes on from its end: a chunk boundary then changes no step."""

    dt: _Number  # length of the next step, before it is cut to end on a save time; NaN: still to be chosen
    inner: PyTree[Array | np.ndarray]
    n_steps: _Count
    begin: _Number  # where the solve began; NaN: it has not
    mark: _Number  # where it was when attempts were a multiple of STALL_ATTEMPTS,
    rejected: _Count  # and how many have been rejected since

    @classmethod
    def fresh(cls) -> "StepState":
        # Types are given, or JAX takes them for weak ones and compiles the first solve apart from those that resume it.
        # A PIDController starts from two inverse errors of one, and not at its smallest step.
        one, nan, none = np.ones((), dtype=np.float64), np.full((), np.nan), np.zeros((), dtype=np.int64)
        return cls(nan, (one, one, np.zeros((), dtype=bool)), none, nan, nan, none)


class EndOnSaveTimes(diffrax.AbstractAdaptiveStepSizeController):
    """`controller`, with steps cut to end on every time of `ts` (all after the start of the solve) and before `jumps`.

    Differs from diffrax.ClipStepSizeController in four ways: its state can be carried from one solve to the next,
    which has other `ts`; a step that would leave a sliver before a save time is stretched or halved instead; a step
    size that falls below rounding ends the solve with that reason; and so do more than `max_steps` attempts, or fewer
    if they get nowhere, as past a singularity. Save
    times are not inside gaps of jumps, but may be at their beginnings.
    """

    controller: diffrax.PIDController
    ts: Times
    t_end: Time  # the end of the last solve, where no step is missing however few were allowed
    max_steps: Count
    resume: StepState
    jumps: Jumps

    @property
    def rtol(self):
        return self.controller.rtol

    @property
    def atol(self):
        return self.controller.atol

    @property
    def norm(self):
        return self.controller.norm

    def wrap(self, direction):
        return self  # solves go forward in time only

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        first, _ = self.controller.init(terms, t0, t1, y0, dt0, args, func, error_order)
        # A first step is guessed from a trial beyond the start, where the equations may have no values.
        first = jnp.where(jnp.isfinite(first), first - t0, 1e-6 * (t1 - t0))
        old = self.resume
        dt = jnp.where(jnp.isnan(old.dt), first, old.dt)
        begin, mark = (jnp.where(jnp.isnan(old.begin), t0, known) for known in (old.begin, old.mark))
        return self._end_of_step(t0, dt), StepState(dt, old.inner, old.n_steps, begin, mark, old.rejected)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state):
        chosen: Any = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state.inner
        )
        keep, next_t0, next_t1, made_jump, inner, result = chosen
        dt = next_t1 - next_t0
        n_steps = controller_state.n_steps + 1
        collapsed = ~keep & ~(dt > 16 * jnp.finfo(dt.dtype).eps * jnp.abs(t0))  # or is no number
        begin, mark = controller_state.begin, controller_state.mark
        looked = n_steps % STALL_ATTEMPTS == 0
        share = STALL_ATTEMPTS / (_STALL_TIMES * jnp.asarray(self.max_steps, dt.dtype))
        stalled = next_t0 - mark < jnp.minimum(_STALL_SHARE * (mark - begin), share * (self.t_end - next_t0))
        rejected = controller_state.rejected + ~keep
        stalled = stalled & looked & (rejected >= _STALL_REJECTED)
        mark, rejected = jnp.where(looked, next_t0, mark), jnp.where(looked, 0, rejected)
        exhausted = ((n_steps >= self.max_steps) & (next_t0 < self.t_end)) | stalled
        result = RESULTS.where(exhausted, RESULTS.max_steps_reached, result)
        result = RESULTS.where(collapsed, RESULTS.dt_min_reached, result)
        next_t0, state = self.jumps.over(next_t0), StepState(dt, inner, n_steps, begin, mark, rejected)
        return keep, next_t0, self._end_of_step(next_t0, dt), made_jump, state, result

    def _end_of_step(self, t, dt):
        goal = jnp.minimum(jnp.min(jnp.where(self.ts > t, self.ts, jnp.inf)), self.jumps.next_before(t))
        left = goal - t
        # One step where up to 1 % more than `dt` reaches the goal, two equal ones where two are enough.
        end = t + jnp.where(dt < left, jnp.minimum(dt, 0.5 * left), dt)
        return jnp.where(left <= 1.01 * dt, goal, end)
