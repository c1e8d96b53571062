"""Ranks of rational matrices modulo a prime: quick, and never above the true ones.

A rank modulo the prime p = 2³¹ − 1 is less than the rational one only where p divides all the minors of that size:
never for the small numbers that people write, and for others with a chance of about n / p.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

PRIME = 2**31 - 1  # products of two residues fit into 64 bits


def residues(matrix: Sequence[Sequence[Fraction]]) -> np.ndarray | None:
    """The matrix modulo the prime, int64; None where the prime divides a denominator."""
    if any(e.denominator % PRIME == 0 for row in matrix for e in row):
        return None
    rows = [[e.numerator * pow(e.denominator, -1, PRIME) % PRIME if e else 0 for e in row] for row in matrix]
    return np.array(rows, dtype=np.int64).reshape(len(rows), -1)


def row_reduced(matrix: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """By row operations, the rank of the first `width` columns and a matrix that is zero in them below that row."""
    a, rank = matrix.copy(), 0
    for column in range(width):
        nonzero = np.flatnonzero(a[rank:, column]) + rank
        if not nonzero.size:
            continue
        pivot = nonzero[np.count_nonzero(a[nonzero], axis=1).argmin()]  # fills a sparse matrix least
        a[[rank, pivot]] = a[[pivot, rank]]
        below = np.flatnonzero(a[rank + 1 :, column]) + rank + 1
        factors = a[below, column] * pow(int(a[rank, column]), -1, PRIME) % PRIME
        columns = np.flatnonzero(a[rank])
        part = np.ix_(below, columns)
        a[part] = (a[part] - factors[:, None] * a[rank, columns] % PRIME) % PRIME
        rank += 1
    return a, rank


def is_regular(matrix: Sequence[Sequence[Fraction]]) -> bool:
    """Whether a square matrix is regular modulo the prime; it then is."""
    values = residues(matrix)
    return values is not None and row_reduced(values, len(values))[1] == len(values)


def shuffle_index(leading: np.ndarray, rest: np.ndarray, upper: int) -> int:
    """The index of E x' + A x = f, at most `upper`: how often rows without x' are differentiated until E is regular.

    The shuffle algorithm (D. G. Luenberger, Time-invariant descriptor systems, Automatica 14 (1978) 473).
    """
    n = len(leading)
    pencil = np.concatenate([leading, rest], axis=1)
    for nu in range(upper):
        pencil, rank = row_reduced(pencil, n)
        if rank == n:
            return nu
        pencil[rank:, :n], pencil[rank:, n:] = pencil[rank:, n:].copy(), 0
    return upper
