"""Where an input of time switches, a step ends and the next one begins: no error test sees a pulse between its stages.

The equations are smooth on either side of such a time and may jump there; y does not. A step ends some roundings before
it, where every condition still has its old value, and the next begins as far behind it.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ndae.solvers._jax_types import Flag, PhaseState, Time
from ndae.solvers.arguments import float64_on_cpu
from ndae.solvers.batches import Refused, at_index, refuse
from ndae.solvers.programs import Program
from ndae.solvers.stepping.jumps import Jumps
from ndae.symbolic.expressions.tables import Lookup, outside
from ndae.symbolic.forms.switching_times import SwitchingTimes
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.words import shortened

Parameters = Mapping[str, Any] | None

# By how much a constraint may change at once, in the units in which a start may be inconsistent.
TOLERATED = 1e-8
# Conditions that are not affine in time are looked at so many times over the span of a solve, ...
_N_LOOKS, _N_AT_ONCE = 8192, 128
# ... may change so often, as may those of periods in a flow, whose span is not known when it is compiled, ...
MAX_CHANGES = 1024
# (of a solve they may be so many) ...
_MAX_PERIODS = 2**17
# ... and their changes are found by so many bisections, which no interval of numbers survives.
_N_BISECTIONS = 80


class Switching:
    """Switching times of a reduced system (symbolic.ReducedSystem) in JAX."""

    def __init__(self, reduced: Any) -> None:
        self.reduced = reduced
        expressions = [*reduced.equations, *reduced.constraints]
        self._times = SwitchingTimes(expressions, reduced.time, reduced.parameters)
        self._of_constraints = bool(SwitchingTimes(reduced.constraints, reduced.time, reduced.parameters))
        if self._times.asked:
            self._asked = self._times.asked_function().numpy()
        if self._times:
            self._roots, self._others = self._times.roots_function().jax(), self._times.others_function().jax()
            self._lines = self._times.lines_function()
            self._knots = [self._times.knots_function(k).jax() for k in range(len(self._times.knots))]
            self._in_periods = [self._times.times_function(k).jax() for k in range(len(self._times.periods))]

    def __bool__(self) -> bool:
        return bool(self._times)

    def check_asked(self, t0: float, t1: float, parameters: Parameters) -> None:
        """What the function of this name does."""
        if not self._times.asked:
            return
        ends = np.sort(self._asked(np.array([[t0], [t1]]), parameters=parameters), axis=0)
        for (table, _), low, high in zip(self._times.asked, *ends, strict=True):
            if low < table.reach[0] or high > table.reach[1]:
                raise ValueError(f"{self.reduced.system.name!r}: {outside(table, low, high)}")

    def knows(self, t0: Any, t1: Any, parameters: Parameters) -> Flag:
        """Whether no table is asked outside of what it knows between two times, in JAX."""
        if not self._times.asked:
            return jnp.asarray(True)
        places = self._times.asked_function().jax()(jnp.stack([t0, t1])[:, None], parameters=parameters)
        low, high = np.array([table.reach for table, _ in self._times.asked]).T
        return jnp.all((jnp.min(places, axis=0) >= low) & (jnp.max(places, axis=0) <= high))

    def n_periods(self, t0: float, t1: float, parameters: Parameters) -> int:
        """How many periods of an input lie between two times, at most, as a power of two."""
        if not self._times.periods:
            return 1
        lines = self._lines.numpy()(np.zeros(0), parameters=parameters)
        most = np.max(np.abs(lines[1::2])) * (t1 - t0) + 3
        return 1 << int(np.ceil(np.log2(min(most, 2 * _MAX_PERIODS))))

    def find(self, t0: Any, t1: Any, parameters: Parameters, n_periods: int = MAX_CHANGES) -> tuple[Jumps, Flag]:
        """The times in [t0, t1], and whether they are all; derivatives by parameters are those of the times."""
        at, offset = self._roots(jnp.zeros(0), parameters=parameters), 0.0
        complete = jnp.asarray(n_periods <= _MAX_PERIODS)
        if self._times.periods or self._times.knots:
            found, offset, followed = self._periodic(t0, t1, parameters, min(n_periods, _MAX_PERIODS))
            at, complete = jnp.concatenate([at, found]), complete & followed
        at = jnp.where((at >= t0) & (at <= t1), at, jnp.inf)
        if self._times.others:
            found, followed = self._search(t0, t1, at, parameters)
            at, complete = jnp.concatenate([at, found]), complete & followed
        return Jumps.around(jnp.sort(at), offset), complete

    def _periodic(self, t0: Any, t1: Any, parameters: Parameters, n_periods: int) -> tuple[Array, Array, Flag]:
        """The times in periods and at knots, how large what is added to time there is, and whether these are all."""
        lines = self._lines.jax()(jnp.zeros(0), parameters=parameters)
        found, offsets, complete, numbers = [], [], jnp.asarray(True), []
        for (offset, slope), times in zip(lines.reshape(-1, 2), self._in_periods, strict=True):
            moving = slope != 0
            slope = jnp.where(moving, slope, 1.0)
            ends = jax.lax.stop_gradient(slope * jnp.stack([t0, t1]) + offset)
            n = jnp.floor(jnp.min(ends)) + jnp.arange(n_periods)
            numbers.append(n)
            complete = complete & ((n[-1] >= jnp.max(ends)) | ~moving)
            at = jnp.concatenate([(n - offset) / slope, times(n[:, None], parameters=parameters).reshape(-1)])
            found.append(jnp.where(moving, at, jnp.inf))
            offsets.append(jnp.where(moving, jnp.abs(offset / slope), 0.0))
        for knots, line in zip(self._times.knots, self._knots, strict=True):
            n = jnp.zeros(1) if knots.period is None else numbers[knots.period]
            offset, slope = jnp.moveaxis(line(n[:, None], parameters=parameters), -1, 0)
            at = (jnp.asarray(knots.at) - offset[:, None]) / slope[:, None]
            found.append(jnp.where(jnp.isfinite(at), at, jnp.inf).reshape(-1))
            away = jnp.abs(offset / slope)
            offsets.append(jnp.max(jnp.where(jnp.isfinite(away), away, 0.0)))
        return jnp.concatenate(found), jax.lax.stop_gradient(jnp.max(jnp.stack(offsets))), complete

    def _search(self, t0: Any, t1: Any, known: Array, parameters: Parameters) -> tuple[Array, Flag]:
        """Changes of the conditions that are not affine in time: looked for, bisected."""
        frozen = jax.lax.stop_gradient(parameters)

        counted = self._times.counted
        n_signs = len(self._times.others) - len(counted)

        def holds(times):
            value = self._others(times[..., None], parameters=frozen)
            columns = [value[..., :n_signs] > 0]
            for k, knots in enumerate(counted):
                own = value[..., n_signs + k, None]
                columns.append(jnp.floor(own) if knots is None else jnp.searchsorted(jnp.asarray(knots), own))
            return jnp.concatenate(columns, axis=-1, dtype=value.dtype)

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
        followed = jnp.all(jnp.abs(held[1:] - held[:-1]) <= 1)  # a floor that steps by more has steps in between
        return jnp.where(found, at, jnp.inf), followed & (jnp.sum(change) <= MAX_CHANGES)

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
    batch, single = y0.shape[:-1], {}
    found: Any = np.empty(batch, dtype=object)
    span = float(ts[0]), float(ts[-1])
    each = [at_index(parameters, index) or None for index in np.ndindex(batch)]
    for own in each:
        switching.check_asked(*span, own)
    if not switching:
        return None
    n_periods = max((switching.n_periods(*span, own) for own in each), default=1)
    for index, own in zip(np.ndindex(batch), each, strict=True):
        key = () if own is None else tuple(own.values())
        if key not in single:
            single[key], complete = _find(switching, n_periods)(*span, own)
            if not complete:
                raise ValueError(
                    f"conditions on time in {system.name!r} change more than {MAX_CHANGES} times between {ts[0]:g} and "
                    f"{ts[-1]:g} (of a period, {_MAX_PERIODS} times): solve shorter spans, one after the other"
                )
        found[index] = single[key]
        given = system.reduce().jax().with_functions(own)
        broken = np.argwhere(_broken(switching)(found[index], y0[index], given, tol))
        if broken.size:
            refuse(refused, index, _jumps_of_constraint(system.reduce(), found[index], *map(int, broken[0])))
    return jax.tree.map(lambda *parts: np.stack(parts).reshape(*batch, -1), *found.reshape(-1))


def find_gaps(
    system: Any, y0: np.ndarray, ts: np.ndarray, parameters: Parameters, tol: float, refused: Refused = None
) -> list[tuple[float, float]]:
    """The gaps (before, after) of `find_jumps`, of a whole batch in order, as numbers."""
    switching = switching_of(system.reduce())
    if not switching:  # then without JAX, which a process made by fork does not have
        for index in np.ndindex(y0.shape[:-1]):
            switching.check_asked(float(ts[0]), float(ts[-1]), at_index(parameters, index) or None)
        return []
    with float64_on_cpu():
        jumps = find_jumps(system, y0, ts, parameters, tol, refused)
        assert jumps is not None  # there are some to look for
        gaps = zip(np.ravel(jumps.before).tolist(), np.ravel(jumps.after).tolist(), strict=True)
    return sorted({gap for gap in gaps if np.isfinite(gap[0])})


def switching_of(reduced: Any) -> Switching:
    """The switching times of a reduced system; compiled once, whatever its functions are: they go with parameters."""
    return _switching_of(reduced.base)


@lru_cache(maxsize=32)
def _switching_of(base: Any) -> Switching:
    return Switching(base)


def check_asked(reduced: Any, t0: float, t1: float, parameters: Parameters) -> None:
    """Raise ValueError where a table is asked outside of what it knows, between two times."""
    switching_of(reduced).check_asked(t0, t1, parameters)


@lru_cache(maxsize=32)
def _find(switching: Switching, n_periods: int) -> Any:
    find = partial(switching.find, n_periods=n_periods)
    return Program(find, f"switching times of {switching.reduced.system.name!r}")


@lru_cache(maxsize=32)
def _broken(switching: Switching) -> Any:
    return Program(switching.broken, f"jumps of constraints of {switching.reduced.system.name!r}")


def jump_near(reduced: Any, y: np.ndarray, t: float, parameters: Parameters) -> str:
    """What to say of a solve that stopped at t with the state y: which constraint jumps there; empty if none does."""
    switching = switching_of(reduced)
    if not switching:
        return ""
    with float64_on_cpu():
        near = 1e-6 * max(abs(t), np.finfo(float).tiny)
        span = t - near, t + near
        n_periods = switching.n_periods(*span, parameters or None)
        jumps, _ = _find(switching, n_periods)(*span, parameters or None)
        given = reduced.jax().with_functions(parameters)
        broken = np.argwhere(_broken(switching)(jumps, y, given or None, TOLERATED))
        return _jumps_of_constraint(reduced, jumps, *map(int, broken[0])) if broken.size else ""


def asked_outside(reduced: Any, y: np.ndarray, t: float, parameters: Parameters) -> str:
    """What to say of a solve that stopped at t with the state y: which table ends there; empty if none does."""
    inputs = {"y": reduced.y, "t": () if reduced.time is None else (reduced.time,)}
    known = {*reduced.y, *inputs["t"], *reduced.parameters}
    lookups = {e for part in (*reduced.equations, *reduced.constraints) for e in part.atoms(Lookup)}
    lookups = sorted((e for e in lookups if not e.table.held and e.free_symbols <= known), key=str)
    if not lookups:
        return ""
    function = VectorFunction([e.place for e in lookups], inputs, None, reduced.parameters, "arguments of tables")
    places = function.numpy()(y, np.array([t] * len(inputs["t"])), parameters=parameters)
    for e, place in zip(lookups, places, strict=True):
        near = 1e-6 * (e.table.last - e.table.first)
        if not e.table.first + near < place < e.table.last - near:
            return outside(e.table, float(place), float(place))
    return ""


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
