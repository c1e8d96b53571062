"""Left null vectors of a square matrix of expressions that is singular everywhere."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast

import numpy as np
import sympy as sp
from sympy.polys.domains import QQ
from sympy.polys.matrices import DomainMatrix

from ndae.symbolic.numeric.modular import is_regular
from ndae.symbolic.numeric.ranks import RANK, balanced, is_clearly_regular
from ndae.symbolic.numeric.rounded import joined, sum_apart
from ndae.symbolic.numeric.sampling import ROUNDING, Evaluator
from ndae.symbolic.reduction.graphs import StructureError

_NULL = 1e-9  # entries of a null vector below it, beside one, count as zero
_SIMPLE = 64  # largest denominator of a number that is taken for a fraction
_EXPANDED = 300  # operations of an expression that is multiplied out
_LARGEST = 8  # rows of one dependence whose coefficients vary

Matrix = Sequence[Sequence[sp.Expr]]


def rank_defects(matrix: Matrix, evaluator: Evaluator) -> bool:
    """Whether the matrix is singular: exactly for rational numbers, else at every point with finite entries."""
    exact = _exact(matrix)
    if exact is not None:
        return not is_regular(exact) and bool(_exact_null_space(exact))
    values = _finite_values(matrix, evaluator)
    singular = len(values) > 0 and all(len(_scaled_null_space(v)[0]) for v in values)
    return singular and not any(is_clearly_regular(v) for v in values)


def constant_null_vectors(matrix: Matrix, classes: Sequence, evaluator: Evaluator) -> list[dict[int, sp.Expr]]:
    """Null vectors that are the same at all points, in echelon form.

    Each maps rows to coefficients, first the row with coefficient 1 that no other vector contains: one of the least
    class in it.
    """
    terms, rational = _terms(matrix)
    space = _echelon(_exact_null_space(terms), classes, 0)
    if space or _exact(matrix) is not None:
        number = (lambda u: sp.Rational(u.numerator, u.denominator)) if rational else (lambda u: _simple(float(u)))
        return [{i: number(u) for i, u in vector.items()} for vector in space]
    values = _finite_values(matrix, evaluator)
    if not len(values):
        return []
    found = [_verified(vector, values) for vector in _scaled_echelon(np.concatenate(list(values), axis=1), classes)]
    return [vector for vector in found if vector is not None]


def _verified(vector: dict[int, float], values: np.ndarray) -> dict[int, sp.Expr] | None:
    """The vector in fractions, or where these do not cancel the rows in numbers; None where they do not either.

    Entries of very different sizes make the numbers inaccurate, and fractions close to them right.
    """
    exact: dict[int, sp.Expr] = {i: _fraction(u) for i, u in vector.items()}
    for u, result, tolerance in ((exact, exact, ROUNDING), (vector, {i: _simple(v) for i, v in vector.items()}, _NULL)):
        parts = np.array(list(u.values()), dtype=float)[:, None] * values[:, list(u)]
        if (np.abs(parts.sum(axis=1)) <= tolerance * np.abs(parts).sum(axis=1)).all():
            return result
    return None


def varying_null_vectors(matrix: Matrix, classes: Sequence, evaluator: Evaluator) -> list[dict[int, sp.Expr]]:
    """Null vectors by cofactors, each over as few rows as an echelon form gives; ordered as the constant ones.

    Raises StructureError where more than 8 rows depend on one another.
    """
    values = _finite_values(matrix, evaluator)
    spaces = [_scaled_echelon(v, classes) for v in values]
    rank = min(len(s) for s in spaces)
    best = next(i for i, s in enumerate(spaces) if len(s) == rank)
    result = []
    for vector in spaces[best]:
        rows = list(vector)
        if len(rows) > _LARGEST:
            raise StructureError(
                f"depend on one another, {len(rows)} with coefficients that vary: combine them by hand"
            )
        columns = _independent_columns(values[best][rows], len(rows) - 1)
        result.append(_cofactors([[matrix[i][j] for j in columns] for i in rows], rows))
    sums = [sum_apart(vector.values(), [matrix[i][j] for i in vector]) for vector in result for j in range(len(matrix))]
    if not all(evaluator.vanish(sums)):
        raise StructureError("depend on one another in a way that no combination was found for: combine them by hand")
    return result


def _cofactors(matrix: Matrix, rows: Sequence[int]) -> dict[int, sp.Expr]:
    """The vector u with u · matrix = 0 for one row more than columns, as polynomials without a common factor."""
    if any(e.has(sp.Float) for row in matrix for e in row):
        minors = _minors(matrix, lambda minor: _rounded_determinant(minor, {}))
    else:
        minors = _polynomial_minors(matrix)
    pivot = minors[0]
    if sum(m.count_ops() for m in minors) < 400:
        ratios = [sp.cancel(m / pivot) for m in minors]
        common = sp.S.One
        for ratio in ratios:
            common = sp.lcm(common, sp.fraction(ratio)[1])
        shorter = [sp.cancel(r * common) for r in ratios]
        if sum(m.count_ops() for m in shorter) <= sum(m.count_ops() for m in minors):
            minors = shorter
    return {i: m for i, m in zip(rows, minors, strict=True) if m != 0}


def _minors(matrix: Sequence, determinant: Callable) -> list:
    without = ([row for i, row in enumerate(matrix) if i != left_out] for left_out in range(len(matrix)))
    return [(-1) ** left_out * determinant(minor) for left_out, minor in enumerate(without)]


def _rounded_determinant(matrix: Matrix, known: dict, columns: tuple[int, ...] | None = None) -> sp.Expr:
    """By its first row, with what cancels up to rounding left out; `known` has those of the last rows by columns."""
    columns = tuple(range(len(matrix))) if columns is None else columns
    if not columns:
        return sp.S.One
    if columns not in known:
        row, terms = matrix[len(matrix) - len(columns)], []
        for k, j in enumerate(columns):
            if row[j] != 0:
                rest = _rounded_determinant(matrix, known, columns[:k] + columns[k + 1 :])
                terms += sp.Add.make_args(sp.expand((-1) ** k * row[j] * rest))
        known[columns] = joined(terms)
    return known[columns]


def _polynomial_minors(matrix: Matrix) -> list[sp.Expr]:
    """Minors, but for a common factor, as polynomials in t, x, sin(t), 1/x and whatever else the entries are made of.

    As expressions they would be nested: of eight rows, millions of operations.
    """
    if len(matrix) == 1:
        return [sp.S.One]
    generators: dict[sp.Expr, sp.Symbol] = {}
    rows = [[_polynomial(e, generators) for e in row] for row in matrix]
    values = DomainMatrix.from_Matrix(sp.Matrix(rows))
    domain, columns = values.domain, range(len(rows) - 1)
    minors = _minors(
        range(len(rows)), lambda kept: values.extract(list(kept), list(columns)).charpoly()[-1] * (-1) ** len(columns)
    )
    common = domain.zero
    for minor in minors:
        common = domain.gcd(common, minor)
    back = {symbol: e for e, symbol in generators.items()}
    return [domain.to_sympy(domain.exquo(minor, common)).xreplace(back) for minor in minors]


def _polynomial(e: sp.Expr, generators: dict[sp.Expr, sp.Symbol]) -> sp.Expr:
    """The expression with all that is no sum, product or power of symbols and numbers under a symbol of its own."""
    if isinstance(e, sp.Symbol) or e.is_Rational:
        return e
    if isinstance(e, (sp.Add, sp.Mul)):
        return e.func(*[_polynomial(a, generators) for a in e.args])
    if isinstance(e, sp.Pow) and e.exp.is_Integer:
        base = e.base if e.exp > 0 else 1 / e.base
        power = abs(int(e.exp))
        if e.exp > 0 and isinstance(base, (sp.Symbol, sp.Add, sp.Mul)):
            return _polynomial(base, generators) ** power
        return generators.setdefault(base, sp.Dummy()) ** power
    return generators.setdefault(e, sp.Dummy())


def _independent_columns(values: np.ndarray, rank: int) -> list[int]:
    from scipy.linalg import qr

    scaled = values / np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-300)
    _, _, order = cast("tuple[np.ndarray, np.ndarray, np.ndarray]", qr(scaled, pivoting=True))
    return sorted(int(j) for j in order[:rank])


# -- null spaces -----------------------------------------------------------------------------------------------------


def _exact(matrix: Matrix) -> list[list[Fraction]] | None:
    if not all(e.is_Rational for row in matrix for e in row):
        return None
    return [[_as_fraction(cast(sp.Rational, e)) for e in row] for row in matrix]


def _as_fraction(number: sp.Rational) -> Fraction:
    return Fraction(int(number.p), int(number.q))


def _terms(matrix: Matrix) -> tuple[list[list[Fraction]], bool]:
    """Each row in coordinates, coefficients of the terms f in its entries Σ number · f; and whether all are rational.

    What cancels in these cancels everywhere, whatever the size of the functions f.
    """
    places: dict[tuple[int, sp.Expr], int] = {}
    rows: list[dict[int, Fraction]] = []
    rational = True
    for row in matrix:
        rows.append({})
        for j, e in enumerate(row):
            for term in sp.Add.make_args(sp.expand_mul(e) if e.count_ops() < _EXPANDED else e):
                number, rest = term.as_coeff_Mul()
                if number == 0:
                    continue
                rational &= bool(number.is_Rational)
                value = _as_fraction(number) if isinstance(number, sp.Rational) else Fraction(float(number))
                place = places.setdefault((j, rest), len(places))
                rows[-1][place] = rows[-1].get(place, Fraction(0)) + value
    zero = Fraction(0)
    return [[row.get(place, zero) for place in range(max(len(places), 1))] for row in rows], rational


def _finite_values(matrix: Matrix, evaluator: Evaluator) -> np.ndarray:
    """(n_finite_points, n, m)."""
    n, m = len(matrix), len(matrix[0])
    values = evaluator([e for row in matrix for e in row])[0].T.reshape(-1, n, m)
    return values[np.isfinite(values).all(axis=(1, 2))]


def _scaled_null_space(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A basis, in rows, of the left null space once rows and columns are of size one, and the factors of the rows."""
    scaled, rows = balanced(matrix)
    left, singular, _ = np.linalg.svd(scaled)
    return left[:, singular < RANK * max(singular[0], 1e-300)].T, rows


def _scaled_echelon(matrix: np.ndarray, classes: Sequence) -> list[dict[int, float]]:
    """The left null space in echelon form. What counts as zero in it is judged where rows have size one."""
    space, rows = _scaled_null_space(matrix)
    result = []
    for vector in _echelon(space, classes, _NULL):
        pivot = next(iter(vector))
        result.append({i: float(u * (rows[i] / rows[pivot])) for i, u in vector.items()})
    return result


def _exact_null_space(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """Left null space in rational numbers."""
    transposed = DomainMatrix(
        [[QQ(e.numerator, e.denominator) for e in row] for row in zip(*matrix, strict=True)],
        (len(matrix[0]), len(matrix)),
        QQ,
    )
    return [[Fraction(int(e.numerator), int(e.denominator)) for e in row] for row in transposed.nullspace().to_list()]


def _echelon(space, classes: Sequence, tolerance: float) -> list[dict]:
    """Reduced echelon form, pivots in the columns of the lowest class that has any; the pivot stands first."""
    vectors = [list(v) for v in space]
    if tolerance:
        vectors = [[a / max(map(abs, v)) for a in v] for v in vectors]
    done: list[tuple[int, list]] = []
    for level in sorted(set(classes)):
        columns = [i for i, c in enumerate(classes) if c == level]
        while vectors:
            size, k, j = max((abs(v[j]), -k, -j) for k, v in enumerate(vectors) for j in columns)
            if size <= tolerance:
                break
            chosen = vectors.pop(-k)
            chosen = [a / chosen[-j] for a in chosen]

            def cleared(v, chosen=chosen, j=-j):
                result = [a - v[j] * b for a, b in zip(v, chosen, strict=True)]
                result[j] = 0 * result[j]
                return result

            vectors = [cleared(v) for v in vectors]
            done = [(p, cleared(v)) for p, v in done] + [(-j, chosen)]
    result = []
    for pivot, v in done:
        entries = {pivot: v[pivot]}
        entries |= {i: a for i, a in enumerate(v) if i != pivot and abs(a) > tolerance * max(map(abs, v))}
        result.append(entries)
    return result


def _fraction(value: float) -> sp.Rational:
    fraction = Fraction(value).limit_denominator(_SIMPLE)
    return cast(sp.Rational, sp.Rational(fraction.numerator, fraction.denominator))


def _simple(value: float) -> sp.Expr:
    fraction = _fraction(value)
    return fraction if abs(float(fraction) - value) <= 1e-12 * abs(value) else sp.Float(value)
