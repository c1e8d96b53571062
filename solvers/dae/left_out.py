"""Differential variables that a user need not give: the equations determine them from the others.

The hidden constraints C(y, t) = 0 leave so many of the entries of y free, whatever they are. Where rows of a DAE are
mixed, y also holds more than the differential variables that the user wrote: x_dot where no row says x' = u alone, or a
multiplier whose equation has to be differentiated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

_RANK = 1e-10  # relative singular value below which an unknown is not determined
_MAX_ITERATIONS = 50
_HOLDS = 1e-8  # a residual, relative to the terms of its equation
# So many times as far from a root as rounding of the equations may put it slopes are the same; not of a double root.
_NEAR = 1e3


def not_written(system: Any) -> Bool[np.ndarray, " n_y"]:
    """Which entries of the reduced y are no state whose derivative the user wrote."""
    reduced = system.reduce()
    symbols = set().union(*(e.free_symbols for e in system.equations))
    entries = [entry for s in symbols if (entry := system.derivative_of(s)) is not None]
    written = {state for state, order in entries if order > 0}
    held = {symbol for state, symbol in zip(system.states, reduced.states, strict=True) if state in written}
    return np.array([symbol not in held for symbol in reduced.y], dtype=bool)


def left_open(reduced: Any, columns: Sequence[int]) -> list[int]:
    """Those of some entries of y that C(y, t) = 0 does not determine from all the others, at points in general."""
    columns, random = list(columns), np.random.default_rng(0)
    if not columns:
        return []
    if not reduced.constraints:
        return columns
    best = np.ones(len(columns), dtype=bool)
    for _ in range(4):
        y = random.uniform(0.5, 1.5, len(reduced.y))
        parameters = {s.name: random.uniform(0.5, 1.5) for s, v in reduced.parameters.items() if v is None}
        with np.errstate(all="ignore"):
            jacobian = reduced.numpy().constraints_jacobian(y, random.uniform(0.5, 1.5), parameters)[:, columns]
        if np.all(np.isfinite(jacobian)):
            free = _undetermined(jacobian)
            best = free if free.sum() < best.sum() else best
    return [column for column, free in zip(columns, best, strict=True) if free]


def filled_in(
    reduced: Any,
    y: Float[np.ndarray, " n_y"],
    unknown: Bool[np.ndarray, " n_y"],
    t: float,
    parameters: Mapping[str, Any] | None,
) -> tuple[Float[np.ndarray, " n_y"], list[int]]:
    """y with its unknown entries from C(y, t) = 0, and those of them that it does not determine at this y.

    Damped Gauss-Newton steps from their values in y, the others held; where it has NaN, from each of `_starts`. Of what
    they find it is where the equations hold and determine most, then what is smallest, then what was found first. Where
    the others are not consistent, the equations hold in the sense of least squares, each in units of its own.
    """
    missing = np.isnan(y)
    if not unknown.any() or not reduced.constraints:
        return np.where(unknown & missing, 0.0, y), np.flatnonzero(unknown).tolist()
    size = max(1.0, np.abs(np.nan_to_num(y)).max(initial=0.0))
    starts = np.where(missing, np.stack(_starts(y.size, size)), y) if missing.any() else y[None]
    found = [_descended(reduced.numpy(), start, unknown, t, parameters) for start in starts]

    def rank(k: int) -> tuple:
        values, free, holds = found[k]
        # Roots of the same size are told apart by their order, not by rounding.
        return not holds, len(free), np.round(np.log(size + np.abs(values[unknown]).max()), 6), k

    best = min(range(len(found)), key=rank)
    return found[best][0], found[best][1]


def _starts(n: int, size: Any) -> list:
    """Where to search from: zero, where many slopes vanish, and around, the positive side first."""
    random = np.random.default_rng(0).normal(size=(2, n))
    return [np.zeros(n), np.ones(n), *(size * x for x in (np.ones(n), *random))]


def _descended(functions: Any, y: np.ndarray, unknown: np.ndarray, t: float, parameters: Any) -> tuple:
    """y, those unknown entries that are not determined there if all equations hold, and whether they do."""
    damping = 1.0

    def linearised(y):
        with np.errstate(all="ignore"):
            return functions.constraints(y, t, parameters), functions.constraints_jacobian(y, t, parameters)

    residual, whole = linearised(y)
    if not (np.all(np.isfinite(whole)) and np.all(np.isfinite(residual))):
        return np.where(unknown, np.nan, y), [], False
    for _ in range(_MAX_ITERATIONS):
        jacobian = whole[:, unknown]
        rows = np.abs(jacobian).max(axis=1)
        units = np.where(rows > 0, rows, np.inf)  # an equation without them says nothing of them
        size = np.linalg.norm(residual / units)
        step = np.linalg.lstsq(jacobian / units[:, None], residual / units, rcond=_RANK)[0]
        if size == 0 or not np.all(np.isfinite(step)):
            break
        while True:
            trial = y.copy()
            trial[unknown] -= damping * step
            new_residual, new_whole = linearised(trial)
            finite = np.all(np.isfinite(new_residual)) and np.all(np.isfinite(new_whole))
            if finite and np.linalg.norm(new_residual / units) < size:
                break
            damping /= 4
            if damping < 1e-9:
                break
        if damping < 1e-9:
            break
        y, residual, whole, damping = trial, new_residual, new_whole, min(1.0, 2 * damping)
    terms = np.abs(whole) @ np.maximum(1.0, np.abs(y))
    if not np.all(np.abs(residual) <= _HOLDS * terms):
        return y, [], False
    free = _undetermined(whole[:, unknown])
    if not free.any():
        rounding = _moved_by(whole[:, unknown], terms)
        near = y.copy()
        near[unknown] += _NEAR * rounding
        there = linearised(near)[1][:, unknown]
        free = ~_alike(rounding, _moved_by(there, terms) if np.all(np.isfinite(there)) else np.inf)
    return y, np.flatnonzero(unknown)[free].tolist(), True


def fill_in(functions: Any, y: Array, optional: np.ndarray, t: Any, parameters: Any) -> tuple[Array, Array]:
    """`filled_in` in JAX, for those entries `optional` of y that are NaN, and whether they are determined.

    Full Gauss-Newton steps find them; two more, with a matrix that has no derivative, carry those of first and second
    order of the implicit function.
    """
    import jax
    import jax.numpy as jnp

    unknown = jnp.isnan(y[optional])
    held = jax.lax.stop_gradient(jnp.nan_to_num(y))
    size = jnp.maximum(1.0, jnp.max(jnp.abs(held)))
    starts = jnp.stack(_starts(len(optional), size))

    def inverse(y, t, parameters):
        """The inverse of the Jacobian by the unknown entries, whether it has full rank, and the equations' terms."""
        whole = functions.constraints_jacobian(y, t, parameters)
        jacobian = whole[:, optional] * unknown
        rows = jnp.max(jnp.abs(jacobian), axis=1, keepdims=True)
        rows = jnp.where(rows > 0, rows, 1.0)
        columns = jnp.max(jnp.abs(jacobian / rows), axis=0, keepdims=True)
        columns = jnp.where(columns > 0, columns, 1.0)
        left, sizes, right = jnp.linalg.svd(jacobian / rows / columns, full_matrices=False)
        kept = sizes > _RANK * jnp.maximum(1.0, sizes[0])
        inverted = (right.T * jnp.where(kept, 1 / jnp.where(kept, sizes, 1.0), 0.0)) @ left.T
        inverted = inverted / columns.T / rows.T
        return inverted, jnp.sum(kept) == jnp.sum(unknown), jnp.abs(whole) @ jnp.maximum(1.0, jnp.abs(y))

    def judged(y, t, parameters):
        """The inverse, and whether it determines the unknown entries and the equations hold, at a root."""
        inverted, full, terms = inverse(y, t, parameters)
        rounding = jnp.abs(inverted) @ (np.finfo(float).eps * terms)
        near = y.at[optional].add(jnp.where(unknown, _NEAR * rounding, 0.0))
        there = jnp.abs(inverse(near, t, parameters)[0]) @ (np.finfo(float).eps * terms)
        holds = jnp.all(jnp.abs(functions.constraints(y, t, parameters)) <= _HOLDS * terms)
        return inverted, full & jnp.all(_alike(rounding, there) | ~unknown), holds

    def moved(y, matrix, t, parameters):
        step = jnp.where(unknown, matrix @ functions.constraints(y, t, parameters), 0.0)
        return y.at[optional].add(-step), jnp.max(jnp.abs(step)), jnp.max(jnp.abs(jnp.where(unknown, y[optional], 0.0)))

    def unfinished(carry):
        _, step, size, iteration = carry
        return (iteration < _MAX_ITERATIONS) & ~(step <= 1e-14 * size)

    frozen_t, frozen = jax.lax.stop_gradient((t, parameters))

    def correct(carry):
        y, _, _, iteration = carry
        return *moved(y, inverse(y, frozen_t, frozen)[0], frozen_t, frozen), iteration + 1

    def search(start):
        y = held.at[optional].set(jnp.where(unknown, start, held[optional]))
        y = jax.lax.while_loop(unfinished, correct, (y, jnp.asarray(jnp.inf), jnp.asarray(0.0), jnp.asarray(0)))[0]
        _, determined, holds = judged(y, frozen_t, frozen)
        length = jnp.max(jnp.where(unknown, jnp.abs(y[optional]), 0.0))
        badness = 1e6 * (2.0 * ~holds + 1.0 * ~determined) + jnp.round(jnp.log(size + length), 6)
        return y, jnp.where(jnp.isfinite(badness), badness, jnp.inf)

    def find():
        found, badness = jax.lax.map(search, starts)
        return found[jnp.argmin(badness)]

    found = jax.lax.cond(jnp.any(unknown), find, lambda: held)
    matrix, determined, _ = judged(found, frozen_t, frozen)
    y = y.at[optional].set(jnp.where(unknown, found[optional], y[optional]))
    for _ in range(2):
        y = moved(y, jax.lax.stop_gradient(matrix), t, parameters)[0]
    return y, determined


def _moved_by(jacobian: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """How far rounding of equations of such terms may move each unknown."""
    rows = np.abs(jacobian).max(axis=1, keepdims=True)
    rows = np.where(rows > 0, rows, 1.0)
    columns = np.abs(jacobian / rows).max(axis=0)
    columns = np.where(columns > 0, columns, 1.0)
    inverse = np.abs(np.linalg.pinv(jacobian / rows / columns, rcond=_RANK)) / columns[:, None]
    return inverse @ (np.finfo(float).eps * terms / rows[:, 0])


def _alike(here: Any, near: Any) -> Any:
    """Whether rounding moves unknowns as far at a root as near it. At a double one slopes are as small as it is off."""
    return (near < 2 * here) & (here < 2 * near) | (here == 0)


def _undetermined(jacobian: np.ndarray) -> np.ndarray:
    """Which columns take part in a null vector, rows and columns in units of their own."""
    tiny = np.finfo(float).tiny
    jacobian = jacobian / np.maximum(np.abs(jacobian).max(axis=1, keepdims=True, initial=0.0), tiny)
    jacobian = jacobian / np.maximum(np.abs(jacobian).max(axis=0, keepdims=True, initial=0.0), tiny)
    _, sizes, directions = np.linalg.svd(jacobian)
    sizes = np.append(sizes, np.zeros(jacobian.shape[1] - sizes.size))
    return np.abs(directions[sizes <= _RANK * max(1.0, sizes[0])]).max(axis=0, initial=0.0) > 1e-6
