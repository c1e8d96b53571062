"""The search for the nearest consistent state."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ndae.solvers.arguments import check_system, checked_parameters, numbers
from ndae.solvers.batches import at_index
from ndae.solvers.dae.algebraic import leading_at_start
from ndae.solvers.dae.left_out import filled_in, not_written
from ndae.solvers.dae.start import (
    ConsistentStart,
    _check_filled_in,
    _constraint,
    check_given,
    name_places,
    read_given,
    redundant_excess,
    redundant_name,
)
from ndae.solvers.dae.switching import check_asked
from ndae.solvers.solution import SolveError
from ndae.symbolic.ground.words import check_known, listed

_CONVERGED = 1e-13  # a last correction, relative to the guess
_REDUNDANT = 1e-8  # of the states: farther off an equation does not follow from the others
_NEARLY = 1e-2  # a correction after which the values may be taken that are consistent, if not the nearest
_KEPT = "; keep fewer components, or give other values for them"


class _Search:
    """Gauss-Newton for the consistent values nearest to a guess."""

    def __init__(self, system: Any, given: Any, guess: Any, keep: Any, t0: Any, parameters: Any) -> None:
        check_system(system)
        t0 = numbers("t0", t0)
        if t0.ndim:
            raise ValueError(f"t0 has shape {t0.shape}; give one number, the time at which the values are consistent")
        self.system, self.reduced, self.t0 = system, system.reduce(), float(t0)
        self.functions = self.reduced.numpy()
        parameters = checked_parameters(system, parameters) or {}
        batched = [str(name) for name, value in parameters.items() if value.ndim]
        if batched:
            raise ValueError(f"parameter {batched[0]!r} has a batch of values; consistent values are found one by one")
        self.parameters = at_index(parameters, ())
        check_asked(self.reduced, self.t0, self.t0, self.parameters)
        y, w, named = read_given(system, given)
        y_guess, w_guess, _ = (y * np.nan, w * np.nan, []) if guess is None else read_given(system, guess, "guess")
        for what, values in (("start", y), ("guess", y_guess)):
            if values.ndim != 1:
                raise ValueError(f"the {what} has batch shape {values.shape[:-1]}; give one at a time")
        self.given = y, w
        self.y0, self.w0 = np.where(np.isnan(y), y_guess, y), np.where(np.isnan(w), w_guess, w)
        check_given(
            system, np.flatnonzero(np.isnan(self.y0)).tolist(), named, np.flatnonzero(~np.isnan(self.w0)).tolist()
        )
        keep = [keep] if isinstance(keep, str) or not hasattr(keep, "__iter__") else list(dict.fromkeys(keep))
        places = name_places(system)
        check_known(map(str, keep), places, f"keep: {system.name!r}", "state", system.states)
        self.free = np.ones(self.y0.size, dtype=bool)
        self.kept_w: list[int] = []
        self.kept_names = [str(name) for name in keep]
        for name in self.kept_names:
            array, column = places[name]
            if np.isnan((y if array == "y" else w)[column]):
                raise ValueError(f"keep names {name!r}, but the start gives no value of it")
            if array == "y":
                self.free[column] = False
            else:
                self.kept_w.append(column)
        # What follows from the others moves at no cost.
        self.follows = np.isnan(self.y0) | not_written(system) & _is_state(self.reduced)
        self.follows &= self.free
        if self.follows.any():
            missing = np.isnan(self.y0)
            self.y0, free = filled_in(self.reduced, self.y0, self.follows, self.t0, self.parameters, self.w0)
            _check_filled_in(system, [i for i in free if missing[i] or np.isnan(self.y0[i])], self.t0)
        self.order = _orders(self.reduced)
        self.turns = self._turns(np.isnan(y) & ~np.isnan(y_guess))
        # Relative changes; absolute ones of what is zero.
        self.scale = np.where(self.y0 != 0, np.abs(self.y0), 1.0)

    def _turns(self, guessed: np.ndarray) -> list[np.ndarray]:
        """Free variables in the order in which they stay: given ones of higher order first, then guesses, then others.

        The order is how often a variable is differentiated until a leading unknown comes: 2 of a position, 1 of its
        velocity.
        """
        turn = self.order.max(initial=0) - self.order
        turn = np.where(guessed, turn + turn.max(initial=0) + 1, turn)
        turn = np.where(self.follows, turn.max(initial=0) + 1, turn)[self.free]
        return [turn == k for k in np.unique(turn)]

    def run(self, max_iterations: int) -> ConsistentStart:
        y, w = self.y0.copy(), self.w0
        # Constraints of positions alone first: far from them velocities mean nothing.
        orders = dict(zip(self.reduced.y, self.order.tolist(), strict=True))
        lowest = [min((orders[s] for s in c.free_symbols if s in orders), default=0) for c in self.reduced.constraints]
        for order in sorted(set(lowest), reverse=True)[:-1]:
            self.rows = np.array(lowest) >= order
            with suppress(SolveError, ValueError):  # then all levels together find it, or say why not
                y, w = self._near(y, w, max_iterations)
        self.rows = np.ones(len(self.reduced.constraints), dtype=bool)
        if not np.all(self.free) or self.kept_w or self.reduced.constraints:
            y, w = self._near(y, w, max_iterations)
        y = self._as_given(y, w)
        w, trouble = leading_at_start(self.reduced, y, w, self.t0, self.parameters)
        if trouble:
            raise SolveError(f"the consistent start of {self.system.name!r}: {trouble}")
        number, off = redundant_excess(self.reduced, y, self.t0, self.parameters)
        if off > _REDUNDANT:
            raise SolveError(
                f"no consistent values of {self.system.name!r} were found: {redundant_name(self.reduced, number)} is "
                f"off by {off:.1e} of the states where the others hold; with these parameters it contradicts them, or "
                "their branch is another: give values nearer to one on which all hold"
            )
        return self._result(y, w)

    def _near(self, y, w, max_iterations) -> tuple[np.ndarray, np.ndarray]:
        """The nearest values; of a start so far away that the iteration leads round and round, near ones."""
        try:
            return self._iterate(y, w, max_iterations, nearest=True)
        except SolveError:
            with suppress(SolveError):
                return self._iterate(y, w, max_iterations, nearest=False)
            raise

    def _iterate(self, y, w, max_iterations, nearest: bool) -> tuple[np.ndarray, np.ndarray]:
        if self.kept_w and np.isnan(w).any():
            solved, trouble = leading_at_start(self.reduced, y, w, self.t0, self.parameters)
            w = np.where(np.isnan(w), 0.0 if trouble else solved, w)
        correction, free = np.inf, self.free
        for _ in range(max_iterations):
            residual, jacobian, top = self._linearised(y, w)
            if not (np.all(np.isfinite(residual)) and np.all(np.isfinite(jacobian))):
                break
            # In units of their own, both equations and variables; the rank is then one of numbers near 1.
            a, units = _in_units(jacobian, free, self.scale)
            base = self.y0 if nearest else y
            rhs = (residual + jacobian[:, free] @ (base - y)[free]) / units
            step = _least(a, rhs, self.turns) if a.size else np.zeros(a.shape[1])
            target = base.copy()
            target[free] -= self.scale[free] * step
            left = a @ ((target - y) / self.scale)[free] + residual / units
            # No farther than the guess, or what it has become, is long.
            correction = np.max(np.abs(target - y) / np.maximum(self.scale, np.abs(y)), initial=0.0)
            move = (target - y) / max(1.0, correction)
            w, response = self._followed(w, top, move)
            if max(correction, response) <= _CONVERGED * 1e4:
                self._check_held(left, residual, target, w)
                return self._polished(target, w)
            y = y + move
        if correction < _NEARLY:  # to a nearest point that many others are almost as near as
            y, w = self._polished(y, w)
            residual, jacobian, _ = self._linearised(y, w)
            if np.all(np.abs(residual) <= _CONVERGED * np.max(np.abs(jacobian) * np.abs(y), axis=1, initial=0.0)):
                return y, w
        raise SolveError(
            f"no consistent values of {self.system.name!r} were found near the given ones within {max_iterations} "
            f"Newton steps (the last changed a state by {correction:.1e} of its size): either there are none"
            f"{self._kept()}, or the constraints lose rank there; give other values"
        )

    def _polished(self, y, w) -> tuple[np.ndarray, np.ndarray]:
        """The same values to rounding in their own size, which a far guess is much larger than."""
        before = np.inf
        for _ in range(5):
            residual, jacobian, top = self._linearised(y, w)
            size = np.abs(y) + 1e-6 * np.max(np.abs(y), initial=0.0)
            a, units = _in_units(jacobian, self.free, np.where(size > 0, size, 1.0))
            worst = np.max(np.abs(residual / units), initial=0.0)
            if not 4 * np.finfo(float).eps < worst < 0.5 * before:
                break
            before, move = worst, np.zeros(y.size)
            move[self.free] = -size[self.free] * np.linalg.lstsq(a, residual / units, rcond=1e-12)[0]
            y, (w, _) = y + move, self._followed(w, top, move)
        return y, w

    def _as_given(self, y, w) -> np.ndarray:
        """The same without rounding of what could stay as it was."""
        size = np.where(self.y0 != 0, np.abs(self.y0), np.max(np.abs(y), initial=0.0))
        still = np.where((np.abs(y - self.y0) <= 16 * np.finfo(float).eps * size) & ~self.follows, self.y0, y)
        before, (residual, jacobian, _) = self._linearised(y, w)[0], self._linearised(still, w)
        rounding = 4 * np.finfo(float).eps * (np.abs(jacobian) @ np.abs(still))
        return still if np.all(np.abs(residual) <= np.abs(before) + rounding) else y

    def _linearised(self, y, w) -> tuple[np.ndarray, np.ndarray, Any]:
        """Residuals of the constraints, then what of the leading equations is left to y, and their Jacobian by y.

        The leading equations hold with the kept unknowns at their values: as many of their combinations are free of
        the others. Third are they themselves, with their Jacobians by y and by the other unknowns.
        """
        f, t, p = self.functions, self.t0, self.parameters
        residual, jacobian, top = np.zeros(0), np.zeros((0, y.size)), None
        with np.errstate(all="ignore"):
            if self.reduced.constraints:
                residual, jacobian = f.constraints(y, t, p)[self.rows], f.constraints_jacobian(y, t, p)[self.rows]
            if self.kept_w and np.all(self.rows):
                values, by_y = f.leading_system(y, w, t, p), f.leading_jacobian(y, w, t, p, by="y")
                by_w = np.delete(f.leading_jacobian(y, w, t, p), self.kept_w, axis=1)
                units = np.max(np.abs(np.concatenate([by_y, by_w], axis=1)), axis=1, initial=0.0)
                if not np.all(np.isfinite(units)):
                    return np.full(1, np.nan), np.full((1, y.size), np.nan), None
                units = np.where(units > 0, units, 1.0)
                free_of_others = np.linalg.svd(by_w / units[:, None])[0][:, by_w.shape[1] :].T / units
                residual = np.concatenate([residual, free_of_others @ values])
                jacobian = np.concatenate([jacobian, free_of_others @ by_y])
                top = values, by_y, by_w
        return residual, jacobian, top

    def _followed(self, w, top, move) -> tuple[np.ndarray, float]:
        """The leading unknowns after a move of y, by how much they change relative to their size."""
        if top is None:
            return w, 0.0
        values, by_y, by_w = top
        change = np.zeros(w.size)
        others = np.delete(np.arange(w.size), self.kept_w)
        units = np.max(np.abs(by_w), axis=1, initial=0.0)
        units = np.where(units > 0, units, np.inf)  # an equation without them says nothing of them
        change[others] = -np.linalg.lstsq(by_w / units[:, None], (values + by_y @ move) / units, rcond=1e-14)[0]
        size = np.abs(w) + 1e-3 * np.max(np.abs(w)) + np.finfo(float).tiny
        return w + change, float(np.max(np.abs(change) / size))

    def _check_held(self, left: np.ndarray, residual: np.ndarray, y: np.ndarray, w: np.ndarray) -> None:
        """The iteration has converged, but in least squares only if what is kept leaves equations unsatisfied."""
        bad = np.flatnonzero(np.abs(left) > 1e-8)
        if not bad.size:
            return
        if not self.kept_names:
            worst = _constraint(self.reduced, np.flatnonzero(self.rows)[bad[0]])
            raise SolveError(
                f"no consistent values of {self.system.name!r} were found: the constraints lose rank at the given "
                f"values, where {worst} = {residual[bad[0]]:.3g}; give other values"
            )
        own = np.flatnonzero(self.rows)
        rows = [f"{_constraint(self.reduced, own[r])} = {residual[r]:.3g}" for r in bad if r < own.size]
        if np.any(bad >= own.size):
            solved, _ = leading_at_start(self.reduced, y, w, self.t0, self.parameters)
            rows += [f"{self.reduced.w[j].name} is off by {solved[j] - self.w0[j]:.3g}" for j in self.kept_w]
        raise ValueError(
            f"too much is kept of {self.system.name!r}: with {listed(self.kept_names)} as given, these "
            f"cannot hold: {'; '.join(rows[:5])}{_KEPT}"
        )

    def _kept(self) -> str:
        return f" with {listed(self.kept_names)} as given" if self.kept_names else ""

    def _result(self, y: np.ndarray, w: np.ndarray) -> ConsistentStart:
        f, t, p = self.functions, self.t0, self.parameters
        names = tuple(s.name for s in self.system.states)
        given = dict(zip(names, np.asarray(f.states(*self.given)), strict=True))
        return ConsistentStart(
            names=names,
            states=np.asarray(f.states(y, w, t, p)),
            y=y,
            w=np.asarray(w),
            rates=np.asarray(f.state_rates(y, w)),
            residual={level: np.asarray(value) for level, value in f.levels(y, w, t, p).items()},
            given={name: float(value) for name, value in given.items() if not np.isnan(value)},
        )


def _orders(reduced: Any) -> np.ndarray:
    """How often each entry of y is differentiated until a leading unknown comes."""
    rate, orders = dict(zip(reduced.y, reduced.rates, strict=True)), []
    for symbol in reduced.y:
        order = 0
        while symbol in rate:
            symbol, order = rate[symbol], order + 1
        orders.append(order)
    return np.array(orders, dtype=int)


def _is_state(reduced: Any) -> np.ndarray:
    return np.array([symbol in set(reduced.states) for symbol in reduced.y], dtype=bool)


def _least(a: np.ndarray, rhs: np.ndarray, turns: Sequence[np.ndarray]) -> np.ndarray:
    """x of A x = b, in least squares, with the smallest entries of the first turn, then of the second, and so on."""
    x, left = np.zeros(a.shape[1]), rhs
    for n, turn in enumerate(turns):
        later = a[:, np.any(turns[n + 1 :], axis=0)] if turns[n + 1 :] else a[:, :0]
        rest = np.eye(len(a))
        if later.size:
            directions, sizes, _ = np.linalg.svd(later)
            rest = directions[:, int((sizes > 1e-12 * sizes[0]).sum()) :].T  # combinations without them
        x[turn] = np.linalg.lstsq(rest @ a[:, turn], rest @ left, rcond=1e-12)[0]
        left = left - a[:, turn] @ x[turn]
    return x


def _in_units(jacobian: np.ndarray, free: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the free variables in units of `scale`, rows in units of their own, and these."""
    a = jacobian[:, free] * scale[free]
    rows = np.max(np.abs(a), axis=1, initial=0.0)
    units = np.where(rows > 0, rows, np.max(np.abs(jacobian * scale), axis=1, initial=1e-300))
    return a / units[:, None], units
