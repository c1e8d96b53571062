"""The search for the nearest consistent state."""

from typing import Any

import numpy as np

from ndae.solvers.arguments import check_system, checked_parameters, numbers
from ndae.solvers.batches import at_index
from ndae.solvers.dae.left_out import filled_in, not_written
from ndae.solvers.dae.start import (
    ConsistentStart,
    _check_filled_in,
    _constraint,
    _name_of,
    _solve_leading,
    name_places,
    read_states,
)
from ndae.solvers.solution import SolveError
from ndae.symbolic.ground.words import check_known, listed

_CONVERGED = 1e-13  # a last correction, relative to the guess


_NEARLY = 1e-2  # a correction after which the values may be taken that are consistent, if not the nearest


_KEPT = "; keep fewer components, or give other values for them"


class _Search:
    """Gauss-Newton for the consistent values nearest to a guess."""

    def __init__(self, system: Any, guess: Any, keep: Any, t0: Any, parameters: Any) -> None:
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
        self.y0, self.w0 = read_states(system, guess)
        if self.y0.ndim != 1:
            raise ValueError(f"the guess has batch shape {self.y0.shape[:-1]}; give one guess at a time")
        keep = [keep] if isinstance(keep, str) or not hasattr(keep, "__iter__") else list(dict.fromkeys(keep))
        places = name_places(system)
        check_known(map(str, keep), places, f"keep: {system.name!r}", "state", system.states)
        self.free = np.ones(self.y0.size, dtype=bool)
        self.kept_w: list[int] = []
        self.kept_names = [str(name) for name in keep]
        for name in self.kept_names:
            array, column = places[name]
            if array == "y":
                self.free[column] = False
            elif np.isnan(self.w0[column]):
                raise ValueError(f"keep names {name!r}, but the guess gives no value of it")
            else:
                self.kept_w.append(column)
        # What follows from the others moves at no cost.
        self.follows = np.isnan(self.y0) | not_written(system) & _is_state(self.reduced)
        self.follows &= self.free
        if self.follows.any():
            missing = np.isnan(self.y0)
            self.y0, free = filled_in(self.reduced, self.y0, self.follows, self.t0, self.parameters)
            _check_filled_in(system, [i for i in free if missing[i] or np.isnan(self.y0[i])], self.t0)
        # Relative changes; absolute ones of what is zero.
        self.scale = np.where(self.y0 != 0, np.abs(self.y0), 1.0)

    def run(self, max_iterations: int) -> ConsistentStart:
        y, w = self.y0.copy(), self.w0
        if not np.all(self.free) or self.kept_w or self.reduced.constraints:
            y, w = self._iterate(y, w, max_iterations)
        w, converged = _solve_leading(self.reduced, y, w, self.t0, self.parameters)
        if not converged:
            raise SolveError(
                f"the algebraic variables of {self.system.name!r} have no values at t = {self.t0:g} that Newton's "
                "iteration finds: give a guess of them nearer to a solution"
            )
        return self._result(y, w)

    def _iterate(self, y, w, max_iterations) -> tuple[np.ndarray, np.ndarray]:
        if self.kept_w:
            solved, converged = _solve_leading(self.reduced, y, w, self.t0, self.parameters)
            w = np.where(np.isnan(w), np.where(converged, solved, 0.0), w)
        correction, free = np.inf, self.free
        for _ in range(max_iterations):
            residual, jacobian, top = self._linearised(y, w)
            if not (np.all(np.isfinite(residual)) and np.all(np.isfinite(jacobian))):
                break
            # In units of their own, both equations and variables; the rank is then one of numbers near 1.
            a, units = _in_units(jacobian, free, self.scale)
            rhs = (residual + jacobian[:, free] @ (self.y0 - y)[free]) / units
            step = _least(a, rhs, self.follows[free]) if a.size else np.zeros(a.shape[1])
            target = self.y0.copy()
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
            f"no consistent values of {self.system.name!r} were found near the guess within {max_iterations} Newton "
            f"steps (the last changed a state by {correction:.1e} of its size): either there are none{self._kept()}, "
            "or the constraints lose rank there; give another guess"
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

    def _linearised(self, y, w) -> tuple[np.ndarray, np.ndarray, Any]:
        """Residuals of the constraints, then what of the leading equations is left to y, and their Jacobian by y.

        The leading equations hold with the kept unknowns at their values: as many of their combinations are free of
        the others. Third are they themselves, with their Jacobians by y and by the other unknowns.
        """
        f, t, p = self.functions, self.t0, self.parameters
        residual, jacobian, top = np.zeros(0), np.zeros((0, y.size)), None
        with np.errstate(all="ignore"):
            if self.reduced.constraints:
                residual, jacobian = f.constraints(y, t, p), f.constraints_jacobian(y, t, p)
            if self.kept_w:
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
            raise SolveError(
                f"no consistent values of {self.system.name!r} were found: the constraints lose rank at the guess, "
                f"where {_constraint(self.reduced, bad[0])} = {residual[bad[0]]:.3g}; give another guess"
            )
        n = len(self.reduced.constraints)
        rows = [f"{_constraint(self.reduced, r)} = {residual[r]:.3g}" for r in bad if r < n]
        if np.any(bad >= n):
            solved, _ = _solve_leading(self.reduced, y, w, self.t0, self.parameters)
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
        changes = {
            _name_of(self.system, "y", i): float(y[i] - self.y0[i]) for i in range(y.size) if not self.follows[i]
        }
        return ConsistentStart(
            names=names,
            states=np.asarray(f.states(y, w, t, p)),
            y=y,
            w=np.asarray(w),
            rates=np.asarray(f.state_rates(y, w)),
            residual={level: np.asarray(value) for level, value in f.levels(y, w, t, p).items()},
            moved=changes,
        )


def _is_state(reduced: Any) -> np.ndarray:
    return np.array([symbol in set(reduced.states) for symbol in reduced.y], dtype=bool)


def _least(a: np.ndarray, rhs: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """x of A x = b, in least squares, with the smallest entries but for those that follow from the others."""
    if not follows.any():
        return np.linalg.lstsq(a, rhs, rcond=1e-12)[0]
    own = a[:, follows]
    left, sizes, _ = np.linalg.svd(own)
    rest = left[:, int((sizes > 1e-12 * sizes[0]).sum()) :].T  # combinations without them
    x = np.zeros(a.shape[1])
    x[~follows] = np.linalg.lstsq(rest @ a[:, ~follows], rest @ rhs, rcond=1e-12)[0]
    x[follows] = np.linalg.lstsq(own, rhs - a[:, ~follows] @ x[~follows], rcond=1e-12)[0]
    return x


def _in_units(jacobian: np.ndarray, free: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns of the free variables in units of `scale`, rows in units of their own, and these."""
    a = jacobian[:, free] * scale[free]
    rows = np.max(np.abs(a), axis=1, initial=0.0)
    units = np.where(rows > 0, rows, np.max(np.abs(jacobian * scale), axis=1, initial=1e-300))
    return a / units[:, None], units
