"""Consistent initial values of a DAE: read from what a user gives, checked at every level, and found from a guess."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from solvers.arguments import check_system, checked_parameters, named_once, numbers
from solvers.left_out import filled_in, left_open, may_be_left_out
from solvers.solution import ReferenceSolveError

# An algebraic variable may differ from what its equations give by this many times the tolerance of the start: it
# repeats, multiplied by the condition of those equations, what is left of the constraints.
ALGEBRAIC_SLACK = 1e3
_CONVERGED = 1e-13  # a last correction, relative to the guess
_NEARLY = 1e-2  # a correction after which the values may be taken that are consistent, if not the nearest
_KEPT = "; keep fewer components, or give other values for them"


@dataclass(frozen=True, eq=False)  # arrays have no one truth value
class ConsistentStart:
    """Initial values that satisfy the equations of a DAE and all that follows from them.

    - `names`, `states` (n_states,): the states in the system's order.
    - `y` (N,), `w` (n,): the same as the reduced system holds them, its states and its leading unknowns.
    - `rates` (n_states,): the states' derivatives, NaN where the equations do not determine them.
    - `residual`: by level, what is left of the equations.
    - `moved`: by name, by how much each differential state differs from the guess.
    """

    names: tuple[str, ...]
    states: Float[np.ndarray, "n_states"]
    y: Float[np.ndarray, "n_y"]
    w: Float[np.ndarray, "n_w"]
    rates: Float[np.ndarray, "n_states"]
    residual: Mapping[str, np.ndarray] = field(default_factory=dict)
    moved: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: Any) -> float:
        """The value of one state, by its name or symbol. Raises KeyError with the names there are."""
        name = str(name)
        if name not in self.names:
            raise KeyError(f"no state {name!r}; there are {_list(self.names)}")
        return float(self.states[self.names.index(name)])

    def as_dict(self) -> dict[str, float]:
        """The states by name."""
        return dict(zip(self.names, map(float, self.states), strict=True))


def consistent_initial_condition(
    system: Any,
    guess: Any = None,
    v0: Any = None,
    *,
    keep: Any = (),
    t0: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    max_iterations: int = 100,
    **mechanical: Any,
) -> Any:
    """Consistent initial values near a guess, some of them kept.

    Of a symbolic.DAESystem: `guess` gives every differential state by name (a mapping), or all states in their order
    (an array, NaN for algebraic variables that have none). States named in `keep`, one or several, differential or
    algebraic, stay as they are; of the others the differential ones change as little as possible, each relative to its
    guess (absolutely where that is 0), and the algebraic ones follow. Returns a ConsistentStart.

    Of a symbolic.MechanicalSystem: `(system, q0, v0)`, nearest in the metric of the masses, with the batches and
    results of solvers.reference.consistent_initial_condition.

    Raises ValueError for unknown names and for more kept than can be, with the equations that then do not hold, and
    ReferenceSolveError where Newton's iteration finds no consistent values.
    """
    if hasattr(system, "constraint"):
        from solvers.reference import consistent_initial_condition as of_motion

        q0 = mechanical.pop("q0", guess)
        return of_motion(system, q0, v0, t0=t0, parameters=parameters, max_iterations=max_iterations, **mechanical)
    if v0 is not None or mechanical:
        raise ValueError("a DAE system takes one guess of all its states, (system, guess, keep=[...])")
    return _Search(system, guess, keep, t0, parameters).run(max_iterations)


def resolve_start(
    system: Any, start: Any, t0: float, parameters: Mapping[str, Any] | None, start_tol: float
) -> tuple[Float[np.ndarray, "*batch n_y"], Float[np.ndarray, "*batch n_w"]]:
    """y and w of a consistent start, given as a ConsistentStart, a mapping by name or an array of all states.

    Raises ValueError for missing or unknown names, and for a start that violates an equation or a hidden constraint:
    a residual counts as zero if a change of `start_tol` in one state (relative above 1) could make it so.
    """
    reduced = system.reduce()
    if not reduced.y:
        raise ValueError(
            f"{system.name!r} has no differential variable, so there is nothing to integrate: its equations determine "
            "the states at every time; solve them by system.reduce().numpy().solve_leading(np.zeros(0), t)"
        )
    y, w = read_states(system, start)
    shapes = {f"parameter {name!r}": np.shape(value) for name, value in (parameters or {}).items()}
    batch = _common_shape({"start": y.shape[:-1]} | shapes)
    if 0 in batch:
        raise ValueError(f"start and parameters have batch shape {batch}: an empty batch; give at least one start")
    parameters = broadcast_parameters(parameters, batch)
    y, w = np.broadcast_to(y, batch + y.shape[-1:]).copy(), np.broadcast_to(w, batch + w.shape[-1:]).copy()
    for index in np.ndindex(batch):
        own = at_index(parameters, index)
        if np.isnan(y[index]).any():
            y[index], free = filled_in(reduced, y[index], np.isnan(y[index]), t0, own)
            _check_filled_in(system, free, t0, index)
        check_constraints(reduced, y[index], t0, own, start_tol, index)
        w[index] = _leading(reduced, y[index], w[index], t0, own, start_tol, index)
    return y, w


def read_states(system: Any, start: Any) -> tuple[np.ndarray, np.ndarray]:
    """y (*batch, N) and w (*batch, n) as given, NaN where they are not: w, and what `may_be_left_out` of y."""
    reduced = system.reduce()
    if isinstance(start, ConsistentStart):
        if start.y.shape != (len(reduced.y),) or start.w.shape != (len(reduced.w),):
            raise ValueError(f"the ConsistentStart is one of another system than {system.name!r}; make one of this")
        return start.y, start.w
    names = [s.name for s in system.states]
    if isinstance(start, Mapping):
        given = {
            name: numbers(f"start[{name!r}]", value, finite=False) for name, value in named_once("start", start).items()
        }
    else:
        array = numbers("start", start, finite=False)
        if array.ndim < 1 or array.shape[-1] != len(names):
            raise ValueError(
                f"start has shape {array.shape}; expected (*batch, {len(names)}), one number for each state of "
                f"{system.name!r}: {_list(names)}; or a mapping from their names"
            )
        given = {name: array[..., i] for i, name in enumerate(names)}
    places = name_places(system)
    unknown = [name for name in given if name not in places]
    if unknown:
        raise ValueError(f"start names {_list(unknown)}; the states of {system.name!r} are {_list(names)}")
    batch = _common_shape({f"start[{name!r}]": value.shape for name, value in given.items()})
    y, w = np.full((*batch, len(reduced.y)), np.nan), np.full((*batch, len(reduced.w)), np.nan)
    for name, value in given.items():
        array, column = places[name]
        (y if array == "y" else w)[..., column] = value
    without = np.isnan(y).any(axis=tuple(range(y.ndim - 1)))
    check_given(system, np.flatnonzero(without).tolist())
    if np.any(np.isinf(y)) or np.any(np.isinf(w)):
        bad = [name for name, value in given.items() if np.any(np.isinf(value))]
        raise ValueError(f"start must be finite, but {_list(bad)} is not")
    return y, w


def check_given(system: Any, without: Any) -> None:
    """Raises ValueError unless all those entries of y may be left out that a start leaves out."""
    optional = may_be_left_out(system)
    missing = [i for i in without if not optional[i]]
    missing = missing or left_open(system.reduce(), [i for i in without if optional[i]])
    if missing:
        names = [_name_of(system, "y", i) for i in missing]
        raise ValueError(
            f"start gives no value for {_list(names)}; give one for every differential state of {system.name!r} "
            "(algebraic ones may be left out, and derivatives that the equations determine)"
        )


def _check_filled_in(system: Any, free: Any, t0: float, index: tuple[int, ...] = ()) -> None:
    if free:
        names = _list([_name_of(system, "y", i) for i in free])
        raise ValueError(
            f"the start{_of(index)} of {system.name!r} gives no value for {names}, and the equations at t = {t0:g} do "
            "not determine it there; give one"
        )


def broadcast_parameters(parameters: Mapping[str, Any] | None, batch: tuple[int, ...]) -> dict[str, Any] | None:
    """Parameters with a value for each of the batch in the batch's shape; the others as they are."""
    if not parameters:
        return None
    return {name: np.broadcast_to(value, batch) if np.ndim(value) else value for name, value in parameters.items()}


def _common_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that all broadcast to; raises ValueError, with each that has one, if they do not."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(f"the batch shapes do not go together: {given}; give the same, or one value for all") from None


def at_index(parameters: Mapping[str, Any] | None, index: tuple[int, ...]) -> dict[str, float]:
    """The parameters of one of a batch: the value itself where there is one for all."""
    return {
        name: float(np.asarray(value)[index]) if np.ndim(value) else float(value)
        for name, value in (parameters or {}).items()
    }


def check_constraints(reduced: Any, y: np.ndarray, t0: float, parameters: Any, tol: float, index: tuple = ()) -> None:
    """Raises ValueError, naming level and equation, unless C(y, t0) = 0 within `tol`."""
    if not reduced.constraints:
        return
    functions = reduced.numpy()
    residual = np.abs(functions.constraints(y, t0, parameters))
    jacobian = np.abs(functions.constraints_jacobian(y, t0, parameters))
    allowed = tol * np.max(jacobian * np.maximum(1.0, np.abs(y)), axis=-1)
    excess = np.nan_to_num(residual / np.maximum(allowed, np.finfo(float).tiny), nan=np.inf)
    if np.max(excess) <= 1:
        return
    level = min(reduced.constraint_of[row][1] for row in np.flatnonzero(excess > 1))  # others may follow from it
    row = max((r for r, (_, k) in enumerate(reduced.constraint_of) if k == level), key=lambda r: excess[r])
    raise ValueError(
        f"the start{_of(index)} of {reduced.system.name!r} is inconsistent at level {level}: "
        f"{_constraint(reduced, row)} is {residual[row]:.3g} at t = {t0:g}, more than start_tol = {tol:g} of the "
        "states allows; write `start = consistent_initial_condition(system, start)` first, with keep=[...] for what "
        "must stay"
    )


def _leading(reduced, y, given, t0, parameters, tol, index) -> np.ndarray:
    """w at a consistent y, from the given values as a guess, which must agree with it."""
    w, converged = _solve_leading(reduced, y, given, t0, parameters)
    if not converged:
        raise ValueError(
            f"the start{_of(index)} of {reduced.system.name!r}: the equations at t = {t0:g} give no values of "
            f"{_list([s.name for s in reduced.w])}: they are singular there, or Newton's iteration needs a guess of "
            "the algebraic variables nearer to a solution"
        )
    system = reduced.system
    for name, (array, j) in name_places(system).items():
        if array != "w" or np.isnan(given[j]) or name not in {s.name for s in system.states}:
            continue
        if not abs(given[j] - w[j]) <= ALGEBRAIC_SLACK * tol * max(1.0, abs(w[j])):
            raise ValueError(
                f"the start{_of(index)} of {system.name!r} is inconsistent at the level of the algebraic variables: "
                f"{name} = {given[j]:.9g}, but the equations at t = {t0:g} give {w[j]:.9g}; leave it out, or write "
                "`start = consistent_initial_condition(system, start)` first"
            )
    return w


def _solve_leading(reduced, y, guess, t0, parameters) -> tuple[np.ndarray, bool]:
    guess = None if np.all(np.isnan(guess)) else np.nan_to_num(guess, nan=0.0)
    with np.errstate(all="ignore"):
        w, converged = reduced.numpy().solve_leading(y, t0, parameters, guess=guess)
    return w, bool(np.all(converged)) and bool(np.all(np.isfinite(w)))


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
        unknown = [str(name) for name in keep if str(name) not in places]
        if unknown:
            raise ValueError(f"keep names {_list(unknown)}; the states are {_list(s.name for s in system.states)}")
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
        self.follows = np.isnan(self.y0) | may_be_left_out(system) & _is_state(self.reduced)
        self.follows &= self.free
        if self.follows.any():
            self.y0, free = filled_in(self.reduced, self.y0, self.follows, self.t0, self.parameters)
            _check_filled_in(system, [i for i in free if np.isnan(self.y0[i])], self.t0)
        # Relative changes; absolute ones of what is zero.
        self.scale = np.where(self.y0 != 0, np.abs(self.y0), 1.0)

    def run(self, max_iterations: int) -> ConsistentStart:
        y, w = self.y0.copy(), self.w0
        if not np.all(self.free) or self.kept_w or self.reduced.constraints:
            y, w = self._iterate(y, w, max_iterations)
        w, converged = _solve_leading(self.reduced, y, w, self.t0, self.parameters)
        if not converged:
            raise ReferenceSolveError(
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
        raise ReferenceSolveError(
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
            raise ReferenceSolveError(
                f"no consistent values of {self.system.name!r} were found: the constraints lose rank at the guess, "
                f"where {_constraint(self.reduced, bad[0])} = {residual[bad[0]]:.3g}; give another guess"
            )
        n = len(self.reduced.constraints)
        rows = [f"{_constraint(self.reduced, r)} = {residual[r]:.3g}" for r in bad if r < n]
        if np.any(bad >= n):
            solved, _ = _solve_leading(self.reduced, y, w, self.t0, self.parameters)
            rows += [f"{self.reduced.w[j].name} is off by {solved[j] - self.w0[j]:.3g}" for j in self.kept_w]
        raise ValueError(
            f"too much is kept of {self.system.name!r}: with {_list(self.kept_names)} as given, these "
            f"cannot hold: {'; '.join(rows[:5])}{_KEPT}"
        )

    def _kept(self) -> str:
        return f" with {_list(self.kept_names)} as given" if self.kept_names else ""

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


def name_places(system: Any) -> dict[str, tuple[str, int]]:
    """Where the variable of a name is held: ("y", its number) or ("w", its number)."""
    reduced = system.reduce()
    symbols = {symbol: ("y", i) for i, symbol in enumerate(reduced.y)}
    symbols |= {symbol: ("w", j) for j, symbol in enumerate(reduced.w)}
    named = {symbol.name: place for symbol, place in symbols.items()}
    return named | {s.name: symbols[held] for s, held in zip(system.states, reduced.states, strict=True)}


def _name_of(system: Any, array: str, i: int) -> str:
    """The user's name of an entry of y or w."""
    reduced = system.reduce()
    symbol = (reduced.y if array == "y" else reduced.w)[i]
    return next((s.name for s, held in zip(system.states, reduced.states, strict=True) if held == symbol), symbol.name)


def _constraint(reduced: Any, row: Any) -> str:
    i, k = reduced.constraint_of[row]
    origins = reduced.origins[i] if reduced.origins else (i,)  # the user's equations
    named = f"equation {origins[0]}" if len(origins) == 1 else f"combined of equations {_list(origins)}"
    text = str(reduced.constraints[row])
    text = text if len(text) <= 80 else text[:77] + "..."
    times = {0: "", 1: ", differentiated once", 2: ", differentiated twice"}.get(k, f", differentiated {k} times")
    return f"{text} ({named}{times})"


def _of(index: tuple[int, ...]) -> str:
    return f" {tuple(int(i) for i in index)}" if index else ""


def _list(names: Any) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
