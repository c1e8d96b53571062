"""Linear systems of up to three unknowns in JAX, entry by entry, whose decisions may be made twice and differ.

XLA computes what several fusions need in each of them, and rounds it as each one's multiply-adds fall: a comparison of
two pivots that tie may be true in one fusion and false in the next. Rows exchanged entry by entry by such a comparison
would be mixed, and no barrier keeps XLA from it. So nothing is exchanged here: the system is solved with each pivot,
and a comparison chooses between solutions, each entry of which is right by either.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

#: So many unknowns are solved for entry by entry. More are faster by LAPACK, and compile faster.
MOST_UNKNOWNS = 3


def solve_small(matrix: Sequence[Sequence], right: Sequence) -> list:
    """x of A x = b for up to three unknowns, with arrays or numbers, whose shapes broadcast, as entries.

    By elimination with scaled partial pivoting; entries of A that are the number 0.0 cost nothing. A singular matrix
    gives numbers that are not finite. Derivatives of every order are those of A⁻¹ b.
    """
    absent = [[type(a) is float and a == 0.0 for a in row] for row in matrix]
    entries = [a for row, zero in zip(matrix, absent, strict=True) for a, z in zip(row, zero, strict=True) if not z]
    entries = jnp.broadcast_arrays(*entries, *right)
    return _solve(tuple(map(tuple, absent)), entries[: -len(right)], entries[-len(right) :])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _solve(absent: tuple, entries: Sequence, right: Sequence) -> list:
    rows = []
    for row, b in zip(_matrix(absent, entries), right, strict=True):
        # No power of two: fusions that round differently could scale one row by two of them.
        scale = 1.0 / sum(abs(a) for a in row if a is not None)
        rows.append([a if a is None else scale * a for a in (*row, b)])
    return _with_each_pivot(rows)


@_solve.defjvp
def _derivative(absent, primals, tangents):
    (entries, right), (d_entries, d_right) = primals, tangents
    x, rates = _solve(absent, entries, right), []
    for row, rate in zip(_matrix(absent, d_entries), d_right, strict=True):
        rates.append(rate - sum(a * y for a, y in zip(row, x, strict=True) if a is not None))
    return x, _solve(absent, entries, rates)


def _matrix(absent: tuple, entries: Sequence) -> list[list]:
    """Rows of entries, None for those that are absent."""
    left = iter(entries)
    return [[None if zero else next(left) for zero in row] for row in absent]


def _with_each_pivot(rows: Sequence[Sequence]) -> list:
    """x of the rows [A b], whose absent entries are None."""
    chosen, largest = [jnp.full_like(rows[0][-1], jnp.nan)] * len(rows), 0.0
    for i, (pivot, *top) in enumerate(rows):
        if pivot is None:
            continue
        below = []
        for row in (*rows[:i], *rows[i + 1 :]):
            factor = None if row[0] is None else row[0] / pivot
            below.append([_less(a, factor, b) for a, b in zip(row[1:], top, strict=True)])
        others = _with_each_pivot(below) if below else []
        total = top[-1]
        for a, x in zip(top[:-1], others, strict=True):
            total = _less(total, a, x)
        better = abs(pivot) > largest
        chosen = [jnp.where(better, new, old) for new, old in zip([total / pivot, *others], chosen, strict=True)]
        largest = jnp.maximum(abs(pivot), largest)
    return chosen


def _less(a: Any, factor: Any, b: Any) -> Any:
    """a - factor b, of which any may be absent."""
    if factor is None or b is None:
        return a
    return -factor * b if a is None else a - factor * b
