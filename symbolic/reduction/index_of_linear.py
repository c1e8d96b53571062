"""The differentiation index of a linear system by the ranks of its derivative array."""

from fractions import Fraction
from math import comb
from typing import Any, cast

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.ground.typed import symbols_of
from ndae.symbolic.numeric.modular import residues, shuffle_index
from ndae.symbolic.numeric.ranks import numerical_rank
from ndae.symbolic.numeric.sampling import Evaluator, RandomPoints

_LARGEST = 800  # rows of a derivative array
_LARGEST_EXACT = 2000  # states of a system of rational numbers


def linear_index(system, upper: int) -> int | None:
    """The index of E(t) x' + A(t) x = f(t), at most `upper`; None for systems too large or not of this form.

    The least ν for which the equations and their first ν derivatives, as a linear system for (x', x'', ...), determine
    x' (K. E. Brenan, S. L. Campbell and L. R. Petzold, Numerical solution of initial-value problems in DAEs, 1996,
    section 2.4). Structure alone can demand more differentiations than these.
    """
    matrices = _coefficients(system) if upper else None
    if matrices is None:
        return None
    if len(system.states) > _LARGEST_EXACT:
        return None
    leading, rest = map(_residues, matrices)
    if leading is not None and rest is not None:
        return shuffle_index(leading, rest, upper)
    if len(system.states) * upper > _LARGEST:
        return None
    for nu in range(upper):
        array = _derivative_array(matrices, nu, system.time)
        if _determines_first(array, len(system.states), system):
            return nu
    return upper


def _coefficients(system) -> tuple[sp.Matrix, sp.Matrix] | None:
    from ndae.symbolic.expressions.derivatives import dot

    rates = [dot(x) for x in system.states]
    inside = {*system.states, *rates}
    moving = {s for e in system.equations for s in symbols_of(e) if system.derivative_of(s) is not None}
    if not moving <= inside:
        return None
    matrices = []
    for symbols in (rates, system.states):
        matrix = sp.zeros(len(system.equations), len(symbols))
        place = {s: j for j, s in enumerate(symbols)}
        for i, e in enumerate(system.equations):
            for s, entry in partials(e, symbols_of(e) & place.keys()).items():
                matrix[i, place[s]] = entry
                if entry.free_symbols & inside:
                    return None
        matrices.append(matrix)
    return matrices[0], matrices[1]


def _residues(matrix: sp.Matrix) -> np.ndarray | None:
    rows: Any = matrix.tolist()
    if not all(e.is_Rational for row in rows for e in row):
        return None
    return residues([[Fraction(int(e.p), int(e.q)) for e in row] for row in rows])


def _derivative_array(matrices, nu: int, time) -> list[list[sp.Expr]]:
    """∂(F, F', ..., F^(ν)) / ∂(x', ..., x^(ν+1)), by Leibniz' rule."""
    leading, rest = matrices
    n = leading.shape[0]
    # With the system E x' + A x, x^(m) has in F^(k) the coefficients of E^(k-m+1) and of A^(k-m).
    rows = []
    for k in range(nu + 1):
        blocks = []
        for m in range(1, nu + 2):
            block = sp.zeros(n, n)
            if k - m + 1 >= 0:
                block += comb(k, m - 1) * _derived(leading, k - m + 1, time)
            if k - m >= 0:
                block += comb(k, m) * _derived(rest, k - m, time)
            blocks.append(block)
        rows += [[entry for block in blocks for entry in block.row(i)] for i in range(n)]
    return rows


def _derived(matrix: sp.Matrix, order: int, time) -> sp.Matrix:
    if order == 0:
        return matrix
    return sp.zeros(*matrix.shape) if time is None else cast(sp.Matrix, matrix.diff(time, order))


def _determines_first(array: list[list[sp.Expr]], n: int, system) -> bool:
    evaluator = Evaluator(RandomPoints(system.parameters, vary=False, seed=2), RandomPoints.n_points)
    values = evaluator([e for row in array for e in row])[0].T.reshape(-1, len(array), len(array[0]))
    values = np.unique(values[np.isfinite(values).all(axis=(1, 2))], axis=0)
    ranks = [numerical_rank(v) - numerical_rank(v[:, n:]) for v in values]
    return len(ranks) > 0 and max(ranks) == n
