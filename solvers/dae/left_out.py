"""Differential variables that a user need not give: the equations determine them from the others.

The hidden constraints C(y, t) = 0 leave so many of the entries of y free, whatever they are. Where rows of a DAE are
mixed, y also holds more than the differential variables that the user wrote: x_dot where no row says x' = u alone, or a
multiplier whose equation has to be differentiated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ndae.solvers.dae.descent import RANK, Descended, Linearised, descended, far_starts, starts
from ndae.symbolic.backends.supplied_numpy import GenericSupplied

# So many times as far from a root as rounding of the equations may put it slopes are the same; not of a double root.
NEAR = 1e3


def not_written(system: Any) -> Bool[np.ndarray, " n_y"]:
    """Which entries of the reduced y are no state whose derivative the user wrote."""
    reduced = system.reduce()
    symbols = set().union(*(e.free_symbols for e in system.equations))
    entries = [entry for s in symbols if (entry := system.derivative_of(s)) is not None]
    written = {state for state, order in entries if order > 0}
    held = {symbol for state, symbol in zip(system.states, reduced.states, strict=True) if state in written}
    return np.array([symbol not in held for symbol in reduced.y], dtype=bool)


def left_open(reduced: Any, columns: Sequence[int], given_w: Sequence[int] = ()) -> list[int]:
    """Those of some entries of y that the equations do not determine from all the others, at points in general.

    They are C(y, t) = 0, and, of given entries `given_w` of w, T(y, w, t) = 0.
    """
    columns, random, n = list(columns), np.random.default_rng(0), len(reduced.y)
    if not columns:
        return []
    if not reduced.constraints and not given_w:
        return columns
    with_leading = bool(given_w)
    others = [n + j for j in range(len(reduced.w)) if j not in set(given_w)] if with_leading else []
    best = np.ones(len(columns), dtype=bool)
    for _ in range(4):
        parameters: dict[str, Any] = {
            s.name: random.uniform(0.5, 1.5) for s, v in reduced.parameters.items() if v is None
        }
        parameters |= {u.name: GenericSupplied(u, n) for u, n in reduced.system.unknowns.items()}
        linearised = _equations(reduced, random.uniform(0.5, 1.5), parameters, with_leading)
        with np.errstate(all="ignore"):
            jacobian = linearised(random.uniform(0.5, 1.5, n + len(reduced.w)))[1][:, [*columns, *others]]
        if np.all(np.isfinite(jacobian)):
            free = _undetermined(jacobian)[: len(columns)]
            best = free if free.sum() < best.sum() else best
    return [column for column, free in zip(columns, best, strict=True) if free]


def filled_in(
    reduced: Any,
    y: Float[np.ndarray, " n_y"],
    unknown: Bool[np.ndarray, " n_y"],
    t: float,
    parameters: Mapping[str, Any] | None,
    w: Float[np.ndarray, " n_w"] | None = None,
) -> tuple[Float[np.ndarray, " n_y"], list[int]]:
    """y with its unknown entries from C(y, t) = 0, and those of them that it does not determine at this y.

    Where C leaves some open at any y, they follow from entries of `w` that are no NaN, by T(y, w, t) = 0.
    Damped Gauss-Newton steps from their values in y, the others held; where it has NaN, from each of `starts`, and if
    these lead nowhere of `far_starts`. Of what they find it is where the equations hold and determine most, then what
    is smallest, then what was found first. Where the others are not consistent, they hold in the sense of least
    squares, each in units of its own.
    """
    places = np.flatnonzero(unknown)
    by_w = needed(reduced, places.tolist(), w)
    if not unknown.any() or not (reduced.constraints or by_w):
        return np.where(unknown & np.isnan(y), 0.0, y), places.tolist()
    linearised = _equations(reduced, t, parameters, bool(by_w))
    z, sought = y, unknown
    if by_w and w is not None:
        z, sought = np.concatenate([y, w]), np.concatenate([unknown, ~np.isin(np.arange(w.size), by_w)])
    missing, size = np.isnan(z), max(1.0, np.abs(np.nan_to_num(z)).max(initial=0.0))
    found, free = [], []
    for begin in (starts(z.size, size), far_starts(z.size)):
        for start in np.where(missing, np.stack(begin), z) if missing.any() else z[None]:
            found.append(descended(linearised, start, sought))
            free.append(_undetermined_at(linearised, found[-1], sought) if found[-1].holds else [])
        if not missing.any() or any(at.holds for at in found):
            break

    def rank(k: int) -> tuple:
        at = found[k]
        # Roots of the same size are told apart by their order, not by rounding.
        return not at.holds, len(free[k]), np.round(np.log(size + np.abs(at.z[sought]).max()), 6), k

    best = min(range(len(found)), key=rank)
    at, open_ = found[best], free[best]
    if not np.isfinite(at.misfit) or (by_w and not at.holds):
        return np.where(unknown, np.nan, y), places.tolist() if by_w else []
    return at.z[: y.size], [i for i in open_ if i < y.size]


def needed(reduced: Any, columns: list[int], w: np.ndarray | None) -> list[int]:
    """Entries of w, of those that are no NaN, without which the entries `columns` of y are open."""
    given = [] if w is None else np.flatnonzero(~np.isnan(w)).tolist()
    n_open = [len(left_open(reduced, columns, by)) for by in ([], given)] if given and columns else [0, 0]
    if n_open[0] == n_open[1]:
        return []
    for j in list(given):
        rest = [k for k in given if k != j]
        given = rest if len(left_open(reduced, columns, rest)) == n_open[1] else given
    return given


def _equations(reduced: Any, t: float, parameters: Any, with_leading: bool) -> Linearised:
    """C(y, t), and T(y, w, t) where it is asked for, at z = (y, w), and their Jacobian by z; without T by y alone."""
    functions, n = reduced.numpy(), len(reduced.y)

    def linearised(z):
        y, parts = z[:n], [(np.zeros(0), np.zeros((0, n)))]
        if reduced.constraints:
            parts = [(functions.constraints(y, t, parameters), functions.constraints_jacobian(y, t, parameters))]
        if not with_leading:
            return parts[0]
        w = z[n:]
        by = [functions.leading_jacobian(y, w, t, parameters, by=key) for key in ("y", "w")]
        wide = np.pad(parts[0][1], [(0, 0), (0, w.size)])
        values = np.concatenate([parts[0][0], functions.leading_system(y, w, t, parameters)])
        return values, np.concatenate([wide, np.concatenate(by, axis=1)])

    return linearised


def _undetermined_at(linearised: Linearised, at: Descended, unknown: np.ndarray) -> list[int]:
    """Places of unknown entries that take part in a null vector at a root, or whose slopes vanish at a double one."""
    jacobian = at.jacobian[:, unknown]
    free = _undetermined(jacobian)
    if not free.any():
        rounding = _moved_by(jacobian, at.terms)
        near = at.z.copy()
        near[unknown] += NEAR * rounding
        with np.errstate(all="ignore"):
            there = linearised(near)[1][:, unknown]
        free = ~alike(rounding, _moved_by(there, at.terms) if np.all(np.isfinite(there)) else np.inf)
    return np.flatnonzero(unknown)[free].tolist()


def _moved_by(jacobian: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """How far rounding of equations of such terms may move each unknown."""
    scaled, rows, columns = _scaled(jacobian)
    inverse = np.abs(np.linalg.pinv(scaled, rcond=RANK)) / columns[:, None]
    return inverse @ (np.finfo(float).eps * terms / rows)


def alike(here: Any, near: Any) -> Any:
    """Whether rounding moves unknowns as far at a root as near it. At a double one slopes are as small as it is off."""
    return (near < 2 * here) & (here < 2 * near) | (here == 0)


def _undetermined(jacobian: np.ndarray) -> np.ndarray:
    """Which columns take part in a null vector, rows and columns in units of their own."""
    _, sizes, directions = np.linalg.svd(_scaled(jacobian)[0])
    sizes = np.append(sizes, np.zeros(jacobian.shape[1] - sizes.size))
    return np.abs(directions[sizes <= RANK * max(1.0, sizes[0])]).max(axis=0, initial=0.0) > 1e-6


def _scaled(jacobian: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrix by the largest entry of each row, then of each column, and these."""
    rows = np.abs(jacobian).max(axis=1, initial=0.0)
    rows = np.where(rows > 0, rows, 1.0)
    scaled = jacobian / rows[:, None]
    columns = np.abs(scaled).max(axis=0, initial=0.0)
    columns = np.where(columns > 0, columns, 1.0)
    return scaled / columns, rows, columns
