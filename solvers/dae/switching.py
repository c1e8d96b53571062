"""Where an input of time switches, a step ends and the next one begins: no error test sees a pulse between its stages.

The equations are smooth on either side of such a time and may jump there; y does not. A step ends some roundings before
it, where every condition still has its old value, and the next begins as far behind it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ndae.solvers._jax_types import Flag, PhaseState, Time
from ndae.solvers.arguments import float64_on_cpu
from ndae.solvers.batches import Refused, at_index, refuse
from ndae.solvers.stepping.jumps import Jumps
from ndae.symbolic.forms.switching_times import SwitchingTimes
from ndae.symbolic.ground.words import shortened

Parameters = Mapping[str, Any] | None

# By how much a constraint may change at once, in the units in which a start may be inconsistent.
TOLERATED = 1e-8
# Conditions that are not affine in time are looked at so many times over the span of a solve, ...
_N_LOOKS, _N_AT_ONCE = 8192, 128
# ... may change so often, ...
MAX_CHANGES = 1024
# ... and their changes are found by so many bisections, which no interval of numbers survives.
_N_BISECTIONS = 80


class Switching:
    """Switching times of a reduced system (symbolic.ReducedSystem) in JAX."""

    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced
        expressions = [*reduced.equations, *reduced.constraints]
        self._times = SwitchingTimes(expressions, reduced.time, reduced.parameters)
        self._of_constraints = bool(SwitchingTimes(reduced.constraints, reduced.time, reduced.parameters))
        if self._times:
            self._roots, self._others = self._times.roots_function().jax(), self._times.others_function().jax()

    def __bool__(self) -> bool:
        return bool(self._times)

    def find(self, t0: Any, t1: Any, parameters: Parameters) -> tuple[Jumps, Flag]:
        """The times in [t0, t1), and whether they are all; derivatives by parameters are those of the times."""
        at = self._roots(jnp.zeros(0), parameters=parameters)
        at = jnp.where((at >= t0) & (at < t1), at, jnp.inf)
        complete = jnp.asarray(True)
        if self._times.others:
            found, complete = self._search(t0, t1, at, parameters)
            at = jnp.concatenate([at, found])
        return Jumps.around(jnp.sort(at)), complete

    def _search(self, t0: Any, t1: Any, known: Array, parameters: Parameters) -> tuple[Array, Flag]:
        """Changes of the conditions that are not affine in time: looked for, bisected."""
        frozen = jax.lax.stop_gradient(parameters)

        def holds(times):
            return self._others(times[..., None], parameters=frozen) > 0

        known = jax.lax.stop_gradient(known)
        known = jnp.where(jnp.isinf(known), t1, known)
        known = jnp.concatenate([known, jnp.broadcast_to(t1, (-known.size % _N_AT_ONCE,))])
        looks = jnp.sort(jnp.concatenate([jnp.linspace(t0, t1, _N_LOOKS), known]))
        # In a loop, whose results are kept: a change at a time that is looked at would be missed or put elsewhere if
        # the condition there were computed for each use, and came out differently.
        held = jax.lax.map(holds, looks.reshape(-1, _N_AT_ONCE)).reshape(looks.size, -1)
        change = held[1:] != held[:-1]
        interval, which = jnp.nonzero(change, size=MAX_CHANGES, fill_value=looks.size)
        found = interval < looks.size
        interval, which = jnp.minimum(interval, looks.size - 2), jnp.minimum(which, change.shape[1] - 1)
        low, high = looks[interval], looks[interval + 1]

        def of_each(values):
            return jnp.take_along_axis(values, which[:, None], axis=1)[:, 0]

        old = of_each(held[interval])

        def halve(k, high):
            # One end and a width, not two ends: each would be chosen by a comparison of its own, which where a
            # condition ties with its bound might not agree with the other's.
            middle = high - 0.5 ** (k + 1.0) * width
            return jnp.where(of_each(holds(middle)) == old, high, middle)

        width = high - low
        at = jax.lax.fori_loop(0, _N_BISECTIONS, halve, high)
        at = jax.lax.stop_gradient(at)
        # A step of Newton's method that does not move: its derivative is that of the root.
        slope = of_each(self._others.jacobian("t", at[:, None], parameters=frozen)[..., 0])
        value = of_each(self._others(at[:, None], parameters=parameters))
        at = at - (value - jax.lax.stop_gradient(value)) / jnp.where(slope == 0, jnp.inf, slope)
        return jnp.where(found, at, jnp.inf), jnp.sum(change) <= MAX_CHANGES

    def broken(self, jumps: Jumps, y: PhaseState, parameters: Parameters, tol: Any) -> Array:
        """Whether each constraint (n_times, n_constraints) jumps at each time, by more than `tol`, judged at y.

        y would have to jump with it, which no solution of the equations does.
        """
        if not self._of_constraints:
            return jnp.zeros((jumps.at.size, len(self.reduced.constraints)), dtype=bool)

        def at_time(before, after):
            finite = jnp.isfinite(before)
            ends = jnp.where(finite, before, 0.0), jnp.where(finite, after, 0.0)
            return finite & self._broken_between(*ends, y, parameters, tol)

        return jax.vmap(at_time)(jumps.before, jumps.after)

    def breaks(self, jumps: Jumps, t: Time, y: PhaseState, parameters: Parameters) -> Flag:
        """Whether t, where a step from a state on the constraints ends, is before a jump that takes y off them."""
        if not self._of_constraints:
            return jnp.asarray(False)
        _, after, inside = jumps.inside(t)
        between = lambda: jnp.any(self._broken_between(t, after, y, parameters, TOLERATED))  # noqa: E731
        return jax.lax.cond(inside, between, lambda: jnp.asarray(False))

    def _broken_between(self, before: Time, after: Time, y: PhaseState, parameters: Parameters, tol: Any) -> Array:
        functions = self.reduced.jax()
        change = functions.constraints(y, after, parameters) - functions.constraints(y, before, parameters)
        jacobian = jnp.abs(functions.constraints_jacobian(y, after, parameters))
        return jnp.abs(change) > tol * jnp.max(jacobian * jnp.maximum(1.0, jnp.abs(y)), axis=-1)


def find_jumps(
    system: Any, y0: np.ndarray, ts: np.ndarray, parameters: Parameters, tol: float, refused: Refused = None
) -> Jumps | None:
    """Where the equations of a System switch between the first and the last of `ts`; None if nowhere.

    `y0` (*batch, N) are starts of the reduced system, `parameters` arrays of the batch's shape or numbers. Raises
    ValueError where a constraint jumps by more than `tol`, which is noted in `refused` instead if there is such a
    mapping, and where there are too many times to find.
    """
    switching = switching_of(system.reduce())
    if not switching:
        return None
    batch, single = y0.shape[:-1], {}
    found: Any = np.empty(batch, dtype=object)
    for index in np.ndindex(batch):
        own = at_index(parameters, index) or None
        key = () if own is None else tuple(own.values())
        if key not in single:
            single[key], complete = _find(switching)(float(ts[0]), float(ts[-1]), own)
            if not complete:
                raise ValueError(
                    f"conditions on time in {system.name!r} change more than {MAX_CHANGES} times between {ts[0]:g} and "
                    f"{ts[-1]:g}: solve shorter spans, one after the other"
                )
        found[index] = single[key]
        broken = np.argwhere(_broken(switching)(found[index], y0[index], own, tol))
        if broken.size:
            refuse(refused, index, _jumps_of_constraint(system.reduce(), found[index], *map(int, broken[0])))
    return jax.tree.map(lambda *parts: jnp.stack(parts).reshape(*batch, -1), *found.reshape(-1))


def find_gaps(
    system: Any, y0: np.ndarray, ts: np.ndarray, parameters: Parameters, tol: float, refused: Refused = None
) -> list[tuple[float, float]]:
    """The gaps (before, after) of `find_jumps`, of a whole batch in order, as numbers."""
    if not switching_of(system.reduce()):
        return []
    with float64_on_cpu():
        jumps = find_jumps(system, y0, ts, parameters, tol, refused)
        assert jumps is not None  # there are some to look for
        gaps = zip(np.ravel(jumps.before).tolist(), np.ravel(jumps.after).tolist(), strict=True)
    return sorted({gap for gap in gaps if np.isfinite(gap[0])})


@lru_cache(maxsize=32)
def switching_of(reduced: Any) -> Switching:
    """The switching times of a reduced system; compiled once."""
    return Switching(reduced)


@lru_cache(maxsize=32)
def _find(switching: Switching) -> Any:
    return jax.jit(switching.find)


@lru_cache(maxsize=32)
def _broken(switching: Switching) -> Any:
    return jax.jit(switching.broken)


def jump_near(reduced: Any, y: np.ndarray, t: float, parameters: Parameters) -> str:
    """What to say of a solve that stopped at t with the state y: which constraint jumps there; empty if none does."""
    switching = switching_of(reduced)
    if not switching:
        return ""
    with float64_on_cpu():
        near = 1e-6 * max(abs(t), np.finfo(float).tiny)
        jumps, _ = _find(switching)(t - near, t + near, parameters or None)
        broken = np.argwhere(_broken(switching)(jumps, y, parameters or None, TOLERATED))
        return _jumps_of_constraint(reduced, jumps, *map(int, broken[0])) if broken.size else ""


def _jumps_of_constraint(reduced: Any, jumps: Jumps, which: int, row: int) -> str:
    t = float(jumps.at[which])
    i, k = reduced.constraint_of[row]
    times = {0: "", 1: ", differentiated once,", 2: ", differentiated twice,"}.get(k, f", differentiated {k} times,")
    text = shortened(reduced.constraints[row], 80)
    origins = ", ".join(map(str, reduced.origins[i] if reduced.origins else (i,)))
    return (
        f"a constraint of {reduced.system.name!r} jumps at t = {t:.9g}, so its variables would have to: 0 = {text} "
        f"(equation {origins}{times} see reduce().describe()); smooth the input, or solve up to there and go on from "
        f"consistent_initial_condition(system, ..., t0={t:.9g})"
    )
