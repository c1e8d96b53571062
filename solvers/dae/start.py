"""Consistent initial values of a DAE: read from what a user gives, checked at every level, and found from a guess."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.solvers.arguments import named_once, numbers
from ndae.solvers.batches import Refused, at_index, broadcast_parameters, common_shape, refuse
from ndae.solvers.dae.algebraic import leading_at_start
from ndae.solvers.dae.left_out import filled_in, left_open, not_written
from ndae.solvers.dae.start_of_points import read_points
from ndae.solvers.dae.switching import check_asked
from ndae.symbolic.ground.words import check_known, listed, shortened
from ndae.symbolic.systems.system import System

# An algebraic variable may differ from what its equations give by this many times the tolerance of the start: it
# repeats, multiplied by the condition of those equations, what is left of the constraints.
ALGEBRAIC_SLACK = 1e3
_EPS = np.finfo(float).eps


class UndeterminedError(ValueError):
    """A start leaves out differential variables, `names`, that no equation determines from the others."""

    def __init__(self, message: str, names: list[str]) -> None:
        super().__init__(message)
        self.names = names

    def __reduce__(self):
        return type(self), (self.args[0], self.names)


@dataclass(frozen=True, eq=False, repr=False)  # arrays have no one truth value
class ConsistentStart:
    """Initial values that satisfy the equations of a DAE and all that follows from them.

    - `names`, `states` (*batch, n_states): the states in the system's order.
    - `rates` (*batch, n_states): the states' derivatives, NaN where the equations do not determine them.
    - `residual`: by level, what is left of the equations.
    - `given`: by name, the values that it was made from.
    - `y` (*batch, N), `w` (*batch, n): the states as the reduced system holds them, and its leading unknowns; None of
      points, which are solved without it.
    - `groups`: columns of states that belong together, as those of a Solution: "q", "v", "multiplier" of points.

    Printed, it says which values are as given, which had to move, and which were found.
    """

    names: tuple[str, ...]
    states: Float[np.ndarray, "*batch n_states"]
    rates: Float[np.ndarray, "*batch n_states"]
    residual: Mapping[str, np.ndarray] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    y: Float[np.ndarray, "*batch n_y"] | None = None
    w: Float[np.ndarray, "*batch n_w"] | None = None
    groups: Mapping[str, slice] = field(default_factory=dict)

    def __repr__(self) -> str:
        kept = [name for name in self.given if name not in self.moved]
        lines = {
            "as given": [f"{name} = {_number(self[name])}" for name in kept],
            "moved": [f"{name} from {_number(old)} to {_number(new)}" for name, (old, new) in self.moved.items()],
            "found": [f"{name} = {_number(value)}" for name, value in self.found.items()],
        }
        texts = [f"  {what:9} {', '.join(entries)}" for what, entries in lines.items() if entries]
        return "\n".join(["ConsistentStart", *texts])

    @property
    def moved(self) -> dict[str, tuple[Any, Any]]:
        """By name, the given values that are not consistent, and what they became: more than rounding away."""
        moved, size = {}, np.abs(np.nan_to_num(self.states)).max(initial=0.0)
        for name, old in self.given.items():
            new = self[name]
            # Of zero nothing says what is small but the other values.
            rounding = np.where(np.asarray(old) != 0, 1e-12 * np.maximum(np.abs(old), np.abs(new)), 16 * _EPS * size)
            if np.any(np.abs(new - old) > rounding):
                moved[name] = (old, new)
        return moved

    @property
    def found(self) -> dict[str, Any]:
        """By name, the values that were found for what was not given."""
        return {name: value for name, value in self.as_dict().items() if name not in self.given}

    def __getitem__(self, name: Any) -> float | Float[np.ndarray, "*batch"]:
        """The value of one state, by its name or symbol. Raises KeyError with the names there are."""
        name = str(name)
        if name not in self.names:
            raise KeyError(f"no state {name!r}; there are {listed(self.names)}")
        value = self.states[..., self.names.index(name)]
        return value if value.ndim else float(value)

    def as_dict(self) -> dict[str, float | Float[np.ndarray, "*batch"]]:
        """The states by name."""
        return {name: self[name] for name in self.names}

    @property
    def q(self) -> Float[np.ndarray, "*batch n"] | None:
        """Coordinates of a system of points, None of another."""
        return self.states[..., self.groups["q"]] if "q" in self.groups else None

    @property
    def v(self) -> Float[np.ndarray, "*batch n"] | None:
        """Velocities of a system of points, None of another."""
        return self.states[..., self.groups["v"]] if "v" in self.groups else None


def resolve_start(
    system: Any,
    start: Any,
    t0: float,
    parameters: Mapping[str, Any] | None,
    start_tol: float,
    refused: Refused = None,
) -> tuple[Float[np.ndarray, "*batch n_y"], Float[np.ndarray, "*batch n_w"]]:
    """y and w of a consistent start, given as a ConsistentStart, a mapping by name or an array of all states.

    Algebraic variables follow from the others, and values of theirs are guesses; a warning names those that the
    equations do not give. Raises ValueError for missing or unknown names, and for a start that violates an equation or
    a hidden constraint: a residual counts as zero if a change of `start_tol` in one state (relative above 1) could make
    it so. What is wrong with one sample alone is noted in `refused` instead, by its index, if there is such a mapping.
    """
    reduced = system.reduce()
    if not reduced.y:
        raise ValueError(
            f"{system.name!r} has no differential variable, so there is nothing to integrate: its equations determine "
            "the states at every time; solve them by system.reduce().numpy().solve_leading(np.zeros(0), t)"
        )
    y, w = read_states(system, start)
    left_out = np.asarray(np.isnan(y).reshape(-1, y.shape[-1]).all(axis=0))
    shapes = {f"parameter {name!r}": np.shape(value) for name, value in (parameters or {}).items()}
    batch = common_shape({"start": y.shape[:-1]} | shapes)
    if 0 in batch:
        raise ValueError(f"start and parameters have batch shape {batch}: an empty batch; give at least one start")
    parameters = broadcast_parameters(parameters, batch)
    y, w = np.broadcast_to(y, batch + y.shape[-1:]).copy(), np.broadcast_to(w, batch + w.shape[-1:]).copy()
    guess = w.copy()
    for index in np.ndindex(batch):
        own = at_index(parameters, index)
        try:
            check_asked(reduced, t0, t0, own)
            _check_each(system, y[index], w[index], left_out, index)
            if np.isnan(y[index]).any():
                y[index], free = filled_in(reduced, y[index], np.isnan(y[index]), t0, own, w[index])
                _check_filled_in(system, free, t0, index)
            check_constraints(reduced, y[index], t0, own, start_tol, index)
            w[index], trouble = leading_at_start(reduced, y[index], guess[index], t0, own)
            if trouble:
                raise ValueError(f"the start{of_sample(index)} of {system.name!r}: {trouble}")
        except ValueError as error:
            if refused is None:
                raise
            refuse(refused, index, str(error))
    own, places = {s.name for s in system.states}, name_places(system)
    columns = {name: j for name, (array, j) in places.items() if array == "w" and name in own}
    warn_of_guesses(system, columns, guess, w, start_tol, t0)
    return y, w


def check_start_of(system: System, start: ConsistentStart) -> None:
    """Raises ValueError for a start of other states than the system's."""
    if start.names != tuple(s.name for s in system.states):
        raise ValueError(f"the ConsistentStart is one of another system than {system.name!r}; make one of this")


def read_states(system: Any, start: Any) -> tuple[np.ndarray, np.ndarray]:
    """y (*batch, N) and w (*batch, n) as given, NaN where they are not, with all of y that does not follow.

    Of y that is what a mapping does not name and the hidden constraints determine from the others, and what no user
    wrote. What is given for some of a batch alone, or finite for some alone, is for the caller to refuse.
    """
    y, w, named = read_given(system, start)
    if 0 not in y.shape[:-1]:
        samples = tuple(range(y.ndim - 1))
        without, not_by = (np.isnan(values).all(axis=samples) for values in (y, w))
        check_given(system, np.flatnonzero(without).tolist(), named, np.flatnonzero(~not_by).tolist())
    return y, w


def read_given(system: Any, start: Any, what: str = "start") -> tuple[np.ndarray, np.ndarray, list[int]]:
    """y and w as given, whatever is not given, and those entries of y that are named."""
    reduced = system.reduce()
    names = [s.name for s in system.states]
    if isinstance(start, ConsistentStart):
        check_start_of(system, start)
        if start.y is not None and start.w is not None:
            return start.y, start.w, list(range(start.y.shape[-1]))
        start = start.states
    if system.points is not None:
        start = read_points(system, start)
    if isinstance(start, Mapping):
        given = {
            name: numbers(f"{what}[{name!r}]", value, finite=False) for name, value in named_once(what, start).items()
        }
    else:
        array = numbers(what, start, finite=False)
        if array.ndim < 1 or array.shape[-1] != len(names):
            raise ValueError(
                f"{what} has shape {array.shape}; expected (*batch, {len(names)}), one number for each state of "
                f"{system.name!r}: {listed(names)}; or a mapping from their names"
            )
        given = {name: array[..., i] for i, name in enumerate(names)}
    places = name_places(system)
    check_known(given, places, f"{what}: {system.name!r}", "state", names)
    batch = common_shape({f"{what}[{name!r}]": value.shape for name, value in given.items()})
    y, w = np.full((*batch, len(reduced.y)), np.nan), np.full((*batch, len(reduced.w)), np.nan)
    for name, value in given.items():
        array, column = places[name]
        (y if array == "y" else w)[..., column] = value
    bad = [name for name, value in given.items() if value.size and np.all(np.isinf(value))]
    if bad:
        raise ValueError(f"{what} must be finite, but {listed(bad)} is not")
    return y, w, [column for array, column in map(places.__getitem__, given) if array == "y"]


def _check_each(system: Any, y: np.ndarray, w: np.ndarray, left_out: np.ndarray, index: tuple[int, ...]) -> None:
    """Raises ValueError where one sample lacks what others have, or has what is not finite."""
    held = ("y", y), ("w", w)
    infinite = [_name_of(system, array, i) for array, values in held for i in np.flatnonzero(np.isinf(values)).tolist()]
    if infinite:
        raise ValueError(f"start{of_sample(index)} must be finite, but {listed(infinite)} is not")
    by_w = np.flatnonzero(~np.isnan(w)).tolist()
    check_given(system, np.flatnonzero(np.isnan(y)).tolist(), np.flatnonzero(~left_out).tolist(), by_w, index)


def check_given(
    system: Any, without: Any, named: Any = (), by_w: Sequence[int] = (), index: tuple[int, ...] = ()
) -> None:
    """Raises ValueError unless all those entries of y may be left out that a start leaves out.

    `by_w` are the entries of w that it gives. NaN for one that it names is no way to leave it out: it comes from a
    computation that went wrong.
    """
    if not without:
        return
    reduced, optional = system.reduce(), not_written(system)
    wrong = [i for i in without if i in named and not optional[i]]
    missing = wrong or left_open(reduced, without, by_w)
    if missing:
        names = [_name_of(system, "y", i) for i in missing]
        reason = "" if wrong else f", which the equations of {system.name!r} do not determine from the others"
        unwritten = [_name_of(system, "y", i) for i in missing if optional[i]]
        instead = _instead(system, without, by_w) if unwritten else []
        advice = f"; or give {' or '.join(instead)}, from which {listed(unwritten)} can follow" if instead else ""
        raise UndeterminedError(
            f"start{of_sample(index)} gives no value for {listed(names)}{reason}; give one for every differential "
            f"state that does not follow (algebraic ones may be left out){advice}",
            names,
        )


def _instead(system: Any, without: Any, by_w: Sequence[int]) -> list[str]:
    """Algebraic states that may be given in place of derivatives that are no states."""
    reduced, own = system.reduce(), {s.name for s in system.states}
    n_open = len(left_open(reduced, without, by_w))
    columns = {name: j for name, (array, j) in name_places(system).items() if array == "w" and name in own}
    return [name for name, j in columns.items() if len(left_open(reduced, without, [*by_w, j])) < n_open]


def _check_filled_in(system: Any, free: Any, t0: float, index: tuple[int, ...] = ()) -> None:
    if free:
        names = [_name_of(system, "y", i) for i in free]
        raise UndeterminedError(
            f"the start{of_sample(index)} of {system.name!r} gives no value for {listed(names)}, and the equations at "
            f"t = {t0:g} do not determine it there; give one",
            names,
        )


def check_constraints(reduced: Any, y: np.ndarray, t0: float, parameters: Any, tol: float, index: tuple = ()) -> None:
    """Raises ValueError, naming level and equation, unless C(y, t0) = 0 within `tol`, and redundant equations hold."""
    if not reduced.constraints:
        return
    functions = reduced.numpy()
    residual = functions.constraints(y, t0, parameters)
    excess = np.nan_to_num(in_states(residual, functions.constraints_jacobian(y, t0, parameters), y) / tol, nan=np.inf)
    if np.max(excess) > 1:
        level = min(reduced.constraint_of[row][1] for row in np.flatnonzero(excess > 1))  # others may follow from it
        row = max((r for r, (_, k) in enumerate(reduced.constraint_of) if k == level), key=lambda r: excess[r])
        raise ValueError(
            f"the start{of_sample(index)} of {reduced.system.name!r} is inconsistent at level {level}: "
            f"{_constraint(reduced, row)} is {abs(residual[row]):.3g} at t = {t0:g}, more than start_tol = {tol:g} of "
            "the states allows; write `start = consistent_initial_condition(system, start)` first, with keep=[...] for "
            "what must stay"
        )
    number, off = redundant_excess(reduced, y, t0, parameters)
    if off > tol:
        raise ValueError(
            f"the start{of_sample(index)} of {reduced.system.name!r} violates {redundant_name(reduced, number)} by "
            f"{off:.3g} of the states at t = {t0:g}: with these values it contradicts the others, or the start is on "
            "another branch of theirs"
        )


def redundant_excess(reduced: Any, y: np.ndarray, t: float, parameters: Any) -> tuple[int, float]:
    """The redundant equation that holds worst at y (N,), and how far the states are off it, relatively above 1."""
    if not reduced.redundant:
        return 0, 0.0
    functions = reduced.numpy()
    off = in_states(functions.redundant(y, t, parameters), functions.redundant_jacobian(y, t, parameters), y)
    off = np.nan_to_num(off, nan=np.inf)
    return list(reduced.redundant)[int(np.argmax(off))], float(np.max(off))


def redundant_name(reduced: Any, number: int) -> str:
    return f"equation {number} (0 = {shortened(reduced.redundant[number], 80)}), which was taken as redundant,"


def in_states(residual: np.ndarray, jacobian: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By how much one state, relative above 1, would have to change to make up for each residual, at least."""
    by_state = np.max(np.abs(jacobian) * np.maximum(1.0, np.abs(y))[..., None, :], axis=-1, initial=0.0)
    return np.abs(residual) / np.maximum(by_state, np.finfo(float).tiny)


def check_unmoved(system: System, start: ConsistentStart, t0: float, tol: float, index: tuple[int, ...] = ()) -> None:
    """Raises ValueError for given differential values that are not consistent, and warns of algebraic ones."""
    columns = {name: j for name, (array, j) in name_places(system).items() if array == "w" and name in start.given}
    moved = [
        f"{name} from {_number(old)} to {_number(new)}"
        for name, (old, new) in start.moved.items()
        if name not in columns and abs(new - old) > tol * max(1.0, abs(old))
    ]
    if moved:
        raise ValueError(
            f"the start{of_sample(index)} of {system.name!r} is inconsistent at t = {t0:g}: it has to move "
            f"{listed(moved)}, more than start_tol = {tol:g} allows; correct these, leave some out, or write "
            "`start = consistent_initial_condition(system, start, guess=...)` first"
        )
    w = np.zeros(0) if start.w is None else start.w
    guess = np.full(w.size, np.nan)
    for name, j in columns.items():
        guess[j] = start.given[name]
    warn_of_guesses(system, columns, guess, w, tol, t0)


def warn_of_guesses(
    system: System, columns: Mapping[str, int], guess: np.ndarray, w: np.ndarray, tol: float, t0: float
) -> None:
    """Name the algebraic variables, in those columns of w, that the equations give other values than the start."""
    off = np.abs(guess - w) > ALGEBRAIC_SLACK * tol * np.maximum(1.0, np.abs(w))  # not of NaN
    texts = []
    for name, j in columns.items():
        for index in np.argwhere(off[..., j])[:1].tolist():
            old, new = (float(values[(*index, j)]) for values in (guess, w))
            texts.append(f"{name} = {old:.9g}{of_sample(tuple(index))}, and the equations give {new:.9g}")
    if texts:
        warnings.warn(
            f"the start of {system.name!r} has {'; '.join(texts)} at t = {t0:g}: taken as a guess. Leave it out, or "
            "keep it by consistent_initial_condition(system, start, keep=[...])",
            stacklevel=3,
        )


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
    named = f"equation {origins[0]}" if len(origins) == 1 else f"combined of equations {listed(origins)}"
    text = shortened(reduced.constraints[row], 80)
    times = {0: "", 1: ", differentiated once", 2: ", differentiated twice"}.get(k, f", differentiated {k} times")
    return f"{text} ({named}{times})"


def _number(value: Any) -> str:
    return f"{value:.9g}" if np.ndim(value) == 0 else f"{np.shape(value)} values"


def of_sample(index: tuple[int, ...]) -> str:
    return f" {tuple(int(i) for i in index)}" if index else ""
