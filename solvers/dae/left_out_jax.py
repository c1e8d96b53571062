"""What a start leaves out, found in JAX: under jit, vmap and grad."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ndae.solvers.dae.descent import HOLDS, MAX_ITERATIONS, RANK, starts
from ndae.solvers.dae.left_out import NEAR, alike


def fill_in(
    functions: Any,
    y: Array,
    optional: np.ndarray,
    t: Any,
    parameters: Any,
    w: Any = None,
    by_w: Sequence[int] = (),
    near: Any = None,
) -> tuple[Array, Array]:
    """`filled_in` in JAX, for those entries `optional` of y that are NaN, and whether they are determined.

    Entries of `near` (n_y,) that are no NaN are where the search for those of y begins.

    Entries `by_w` of w are given beside them where C leaves some open, and T(y, w, t) = 0 holds. Full Gauss-Newton
    steps find the unknown entries; two more, with a matrix that has no derivative, carry those of first and second
    order of the implicit function.
    """
    n, given = y.size, jnp.asarray(True)
    lacking = jnp.any(jnp.isnan(y[optional]))
    if by_w:
        others = np.setdiff1d(np.arange(w.size), by_w)
        given = ~jnp.any(jnp.isnan(w[np.array(by_w)])) | ~lacking
        y, optional = jnp.concatenate([y, w.at[others].set(jnp.nan)]), np.concatenate([optional, n + others])
    unknown = jnp.isnan(y[optional]) & lacking
    held = jax.lax.stop_gradient(jnp.nan_to_num(y))

    def values(z, t, parameters):
        constraints = functions.constraints(z[:n], t, parameters)
        return (
            jnp.concatenate([constraints, functions.leading_system(z[:n], z[n:], t, parameters)])
            if by_w
            else constraints
        )

    def jacobian_at(z, t, parameters):
        whole = functions.constraints_jacobian(z[:n], t, parameters)
        if not by_w:
            return whole
        by = [functions.leading_jacobian(z[:n], z[n:], t, parameters, by=key) for key in ("y", "w")]
        return jnp.concatenate([jnp.pad(whole, [(0, 0), (0, z.size - n)]), jnp.concatenate(by, axis=1)])

    size = jnp.maximum(1.0, jnp.max(jnp.abs(held)))
    begin = jnp.stack(starts(len(optional), size))
    if near is not None:
        near = jax.lax.stop_gradient(jnp.concatenate([near, jnp.full(y.size - n, jnp.nan)]))[optional]
        begin = jnp.where(jnp.isnan(near), begin, near)

    def inverse(y, t, parameters):
        """The inverse of the Jacobian by the unknown entries, whether it has full rank, and the equations' terms."""
        whole = jacobian_at(y, t, parameters)
        jacobian = whole[:, optional] * unknown
        rows = jnp.max(jnp.abs(jacobian), axis=1, keepdims=True)
        rows = jnp.where(rows > 0, rows, 1.0)
        columns = jnp.max(jnp.abs(jacobian / rows), axis=0, keepdims=True)
        columns = jnp.where(columns > 0, columns, 1.0)
        left, sizes, right = jnp.linalg.svd(jacobian / rows / columns, full_matrices=False)
        kept = sizes > RANK * jnp.maximum(1.0, sizes[0])
        inverted = (right.T * jnp.where(kept, 1 / jnp.where(kept, sizes, 1.0), 0.0)) @ left.T
        inverted = inverted / columns.T / rows.T
        return inverted, jnp.sum(kept) == jnp.sum(unknown), jnp.abs(whole) @ jnp.maximum(1.0, jnp.abs(y))

    def judged(y, t, parameters):
        """The inverse, and whether it determines the unknown entries and the equations hold, at a root."""
        inverted, full, terms = inverse(y, t, parameters)
        rounding = jnp.abs(inverted) @ (np.finfo(float).eps * terms)
        near = y.at[optional].add(jnp.where(unknown, NEAR * rounding, 0.0))
        there = jnp.abs(inverse(near, t, parameters)[0]) @ (np.finfo(float).eps * terms)
        holds = jnp.all(jnp.abs(values(y, t, parameters)) <= HOLDS * terms)
        return inverted, full & jnp.all(alike(rounding, there) | ~unknown), holds

    def moved(y, matrix, t, parameters):
        step = jnp.where(unknown, matrix @ values(y, t, parameters), 0.0)
        return y.at[optional].add(-step), jnp.max(jnp.abs(step)), jnp.max(jnp.abs(jnp.where(unknown, y[optional], 0.0)))

    def unfinished(carry):
        _, step, size, iteration = carry
        return (iteration < MAX_ITERATIONS) & ~(step <= 1e-14 * size)

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
        found, badness = jax.lax.map(search, begin)
        return found[jnp.argmin(badness)]

    found = jax.lax.cond(jnp.any(unknown), find, lambda: held)
    matrix, determined, _ = judged(found, frozen_t, frozen)
    y = y.at[optional].set(jnp.where(unknown, found[optional], y[optional]))
    for _ in range(2):
        y = moved(y, jax.lax.stop_gradient(matrix), t, parameters)[0]
    return y[:n], determined & given
