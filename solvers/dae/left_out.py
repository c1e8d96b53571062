"""Entries of a reduced state that a user need not give: their equations determine them from the others.

Where rows of a DAE are mixed, its reduced state holds more than the differential variables that the user wrote: x_dot
where no row says x' = u alone, or a multiplier whose equation has to be differentiated. These follow from the hidden
constraints C(y, t) = 0 and what is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

_RANK = 1e-10  # relative singular value below which an unknown is not determined
_MAX_ITERATIONS = 50


def may_be_left_out(system: Any) -> Bool[np.ndarray, " n_y"]:
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

    Damped Gauss-Newton steps from their values in y (zero where it has NaN), the others held. Where these are not
    consistent, the equations hold in the sense of least squares, each in units of its own.
    """
    y = np.where(unknown & np.isnan(y), 0.0, y)
    if not unknown.any() or not reduced.constraints:
        return y, np.flatnonzero(unknown).tolist()
    functions, damping = reduced.numpy(), 1.0

    def linearised(y):
        with np.errstate(all="ignore"):
            jacobian = functions.constraints_jacobian(y, t, parameters)[:, unknown]
            return functions.constraints(y, t, parameters), jacobian

    residual, jacobian = linearised(y)
    rows = np.abs(jacobian).max(axis=1, initial=0.0)
    if not (np.all(np.isfinite(rows)) and np.all(np.isfinite(residual))):
        return np.where(unknown, np.nan, y), []
    for _ in range(_MAX_ITERATIONS):
        rows = np.abs(jacobian).max(axis=1)
        units = np.where(rows > 0, rows, np.inf)  # an equation without them says nothing of them
        size = np.linalg.norm(residual / units)
        step = np.linalg.lstsq(jacobian / units[:, None], residual / units, rcond=_RANK)[0]
        if size == 0 or not np.all(np.isfinite(step)):
            break
        while True:
            trial = y.copy()
            trial[unknown] -= damping * step
            new_residual, new_jacobian = linearised(trial)
            finite = np.all(np.isfinite(new_residual)) and np.all(np.isfinite(new_jacobian))
            if finite and np.linalg.norm(new_residual / units) < size:
                break
            damping /= 4
            if damping < 1e-9:
                return y, _places(unknown, jacobian)
        y, residual, jacobian, damping = trial, new_residual, new_jacobian, min(1.0, 2 * damping)
    return y, _places(unknown, jacobian)


def fill_in(functions: Any, y: Array, optional: np.ndarray, t: Any, parameters: Any) -> tuple[Array, Array]:
    """`filled_in` in JAX, for those entries `optional` of y that are NaN, and whether they are determined.

    Full Gauss-Newton steps find them; two more, with a matrix that has no derivative, carry those of first and second
    order of the implicit function.
    """
    import jax
    import jax.numpy as jnp

    unknown = jnp.isnan(y[optional])
    y = y.at[optional].set(jnp.where(unknown, 0.0, y[optional]))

    def inverse(y, t, parameters):
        jacobian = functions.constraints_jacobian(y, t, parameters)[:, optional] * unknown
        rows = jnp.max(jnp.abs(jacobian), axis=1, keepdims=True)
        rows = jnp.where(rows > 0, rows, 1.0)
        columns = jnp.max(jnp.abs(jacobian / rows), axis=0, keepdims=True)
        columns = jnp.where(columns > 0, columns, 1.0)
        left, sizes, right = jnp.linalg.svd(jacobian / rows / columns, full_matrices=False)
        kept = sizes > _RANK * jnp.maximum(1.0, sizes[0])
        inverted = (right.T * jnp.where(kept, 1 / jnp.where(kept, sizes, 1.0), 0.0)) @ left.T
        return inverted / columns.T / rows.T, jnp.sum(kept) == jnp.sum(unknown)

    def moved(y, matrix, t, parameters):
        step = jnp.where(unknown, matrix @ functions.constraints(y, t, parameters), 0.0)
        return y.at[optional].add(-step), jnp.max(jnp.abs(step)), jnp.max(jnp.abs(jnp.where(unknown, y[optional], 0.0)))

    def unfinished(carry):
        _, step, size, iteration = carry
        return (iteration < _MAX_ITERATIONS) & ~(step <= 1e-14 * size)

    frozen_y, frozen_t, frozen = jax.lax.stop_gradient((y, t, parameters))

    def correct(carry):
        y, _, _, iteration = carry
        return *moved(y, inverse(y, frozen_t, frozen)[0], frozen_t, frozen), iteration + 1

    def find(y):
        start = (y, jnp.asarray(jnp.inf), jnp.asarray(0.0), jnp.asarray(0))
        return jax.lax.while_loop(unfinished, correct, start)[0]

    found = jax.lax.cond(jnp.any(unknown), find, lambda y: y, frozen_y)
    matrix, determined = inverse(found, frozen_t, frozen)
    y = y.at[optional].set(jnp.where(unknown, found[optional], y[optional]))
    for _ in range(2):
        y = moved(y, jax.lax.stop_gradient(matrix), t, parameters)[0]
    return y, determined


def _places(unknown: np.ndarray, jacobian: np.ndarray) -> list[int]:
    return [int(i) for i in np.flatnonzero(unknown)[_undetermined(jacobian)]]


def _undetermined(jacobian: np.ndarray) -> np.ndarray:
    """Which columns take part in a null vector, rows and columns in units of their own."""
    tiny = np.finfo(float).tiny
    jacobian = jacobian / np.maximum(np.abs(jacobian).max(axis=1, keepdims=True, initial=0.0), tiny)
    jacobian = jacobian / np.maximum(np.abs(jacobian).max(axis=0, keepdims=True, initial=0.0), tiny)
    _, sizes, directions = np.linalg.svd(jacobian)
    sizes = np.append(sizes, np.zeros(jacobian.shape[1] - sizes.size))
    return np.abs(directions[sizes <= _RANK * max(1.0, sizes[0])]).max(axis=0, initial=0.0) > 1e-6
