"""Leading equations that depend on one another, and the combinations that take their place."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from ndae.symbolic.expressions.corners import as_corners
from ndae.symbolic.ground.typed import symbols_in, xreplaced
from ndae.symbolic.numeric.rounded import joined, sum_apart
from ndae.symbolic.numeric.sampling import Evaluator, RandomPoints
from ndae.symbolic.reduction.chains import Chains, Row
from ndae.symbolic.reduction.graphs import StructureError
from ndae.symbolic.reduction.null_vectors import constant_null_vectors, rank_defects, varying_null_vectors

_EXPANDED = 300  # operations of a sum that is multiplied out
_AGREE = 1e-8  # of the magnitudes that were added, where arguments as large as 1e6 are rounded too

Vector = Mapping[int, sp.Expr]  # coefficients of rows


class Dependence:
    """The leading Jacobian of some rows in numbers, and better rows where it is singular.

    `jacobian` holds, for row i and variable j, the derivative of the differentiated row by the leading derivative of j.
    """

    def __init__(self, system, chains: Chains, rows: Sequence[Row], analysis, jacobian: Mapping):
        self.system, self.chains, self.rows, self.analysis, self.jacobian = system, chains, rows, analysis, jacobian
        self.c, self.d, self.matching = analysis.offsets
        # At the given parameter values, and around them: what holds for some values alone is no basis for formulas.
        values, size = system.parameters, chains.size
        self.fixed = Evaluator(RandomPoints(values, vary=False, size=size), RandomPoints.n_points)
        self.varied = Evaluator(RandomPoints(values, vary=True, seed=1, size=size), RandomPoints.n_points)

    def better_rows(self) -> list[Row] | None:
        """Equivalent rows closer to a regular Jacobian; None if it is regular."""
        return self._without_false_entries() or self._with_combinations()

    def _without_false_entries(self) -> list[Row] | None:
        """Leave out variables that cancel in an equation though they stand in it, as x in (x + 1)² − x² − 2x."""
        places = [place for place, e in self.jacobian.items() if not e.is_number or e == 0]
        false = [
            p for p, zero in zip(places, self.varied.vanish([self.jacobian[p] for p in places]), strict=True) if zero
        ]
        rows, found = list(self.rows), False
        for i, j in false:
            gone = self.chains.symbol(j, self.d[j] - self.c[i])
            shorter = _without(rows[i].expression, {gone})
            # A derivative can be too small, where it was tried, to tell it from zero: the values must agree as well.
            if self._vanishes([sp.S.One], [rows[i].expression - shorter]):
                rows[i], found = Row(shorter, rows[i].origins, rows[i].depth), True
        return rows if found else None

    def _with_combinations(self) -> list[Row] | None:
        rows, found = list(self.rows), False
        for group in self.analysis.groups:
            if len(group) == 1:
                continue
            unknowns = sorted(self.matching.columns[i] for i in group)
            matrix = [[self.jacobian.get((i, j), sp.S.Zero) for j in unknowns] for i in group]
            if not rank_defects(matrix, self.fixed):
                continue
            found = True
            for vector in self._null_vectors(group, unknowns, matrix):
                row, combined = self._combined(vector, unknowns)
                rows[row] = combined
        return rows if found else None

    def _null_vectors(self, group, unknowns, matrix) -> list[Vector]:
        """Left null vectors of one diagonal block, each with the row that it replaces first, no two sharing that."""
        classes = [(self.c[i], -self.rows[i].depth) for i in group]
        vectors = constant_null_vectors(matrix, classes, self.varied)
        if not vectors:
            if not rank_defects(matrix, self.varied):
                values = ", ".join(f"{p} = {v}" for p, v in self.system.parameters.items() if v is not None)
                raise self._refusal(
                    group,
                    f"depend on one another at these parameter values alone ({values}): write these numbers into "
                    "the equations instead of the parameters",
                )
            try:
                vectors = varying_null_vectors(matrix, classes, self.varied)
            except StructureError as error:
                raise self._refusal(group, str(error)) from None
        found: list[Vector] = [{group[i]: u for i, u in vector.items()} for vector in vectors]
        for vector in found:
            self._check_free(group, unknowns, vector)
        return found

    def _check_free(self, group, unknowns, vector: Vector) -> None:
        """The combination has lower derivatives only if its coefficients have."""
        least = min(self.c[i] for i in vector)
        for s in symbols_in(vector.values()):
            if s not in self.chains.position:
                continue
            j, k = self.chains.position[s]
            if k > self.d[j] - least - (j in unknowns):
                raise self._refusal(
                    group,
                    f"depend on one another with coefficients that contain {s}, of too high a derivative to "
                    "combine the equations: solve one of them for it by hand",
                )

    def _combined(self, vector: Vector, unknowns) -> tuple[int, Row]:
        """The row to replace, and Σ uᵢ fᵢ^(cᵢ − least c), in which the leading derivatives of the block cancel."""
        replaced = next(iter(vector))
        least = self.c[replaced]
        gone = {self.chains.symbol(j, self.d[j] - least) for j in unknowns}
        whole = []
        for i in vector:
            whole.append(self.chains.derivative(self.rows[i].expression, self.c[i] - least))
        terms = [_without(e, gone & e.free_symbols) for e in whole]
        coefficients = list(vector.values())
        if not self._vanishes(coefficients, [e - f for e, f in zip(whole, terms, strict=True)]):
            raise self._refusal(
                vector,
                "depend on one another at some values of the unknowns, or in some branches of a Piecewise, and at "
                "others not, which changes the index on the way: replace a step or a steep slope by a gentler one",
            )
        used = [self.rows[i] for i in vector]
        return replaced, Row(
            as_corners(combine(coefficients, terms)),
            tuple(sorted({o for row in used for o in row.origins})),
            max(self.rows[i].depth + self.c[i] - least for i in vector),
        )

    def _vanishes(self, coefficients: Sequence[sp.Expr], differences: Sequence[sp.Expr]) -> bool:
        """Whether Σ uᵢ (eᵢ − fᵢ) is zero at all points where it can be compared with anything, and some can.

        What eᵢ and fᵢ share is gone from their difference, so that it is the magnitude of the rest that a small sum is
        measured by. Where that magnitude is zero, by underflow, there is nothing to compare.
        """
        if sp.Add(*[u * d for u, d in zip(coefficients, differences, strict=True)]) == 0:
            return True
        values, scales = _AnyBranch(self.system.parameters, self.chains.size)([sum_apart(coefficients, differences)])
        told = np.isfinite(values) & np.isfinite(scales) & (scales > 0)
        return bool(told.any() and (np.abs(values) <= _AGREE * scales)[told].all())

    def _refusal(self, group, reason: str) -> StructureError:
        origins = sorted({o for i in group for o in self.rows[i].origins})
        names = [self.chains.symbol(self.matching.columns[i], 0).name for i in group]
        listed = "; ".join(f"{o}: 0 = {str(self.system.equations[o])[:70]}" for o in origins[:8])
        return StructureError(
            f"{self.system.name}: the equations for the unknowns {', '.join(names)} {reason} (equations {listed})",
            origins,
            names,
            by_numbers=True,
        )


class _AnyBranch(Evaluator):
    """Values where each comparison holds or not at random, for what must hold whatever branch is selected.

    The points lie at all magnitudes from 1e-6 to 1e5, times the usual ones, so that steep functions and distant
    thresholds are passed.
    """

    def __init__(self, parameters: Mapping[sp.Symbol, float | None], size: Callable[[sp.Symbol], float]):
        super().__init__(_AnyMagnitude(parameters, vary=True, seed=2, size=size), _AnyMagnitude.n_points)
        self._holds: dict[sp.Basic, np.ndarray] = {}

    def condition(self, c) -> np.ndarray:
        if not isinstance(c, Relational):
            return super().condition(c)
        relation: Any = c
        c, opposite = relation.canonical, relation.negated.canonical
        if opposite in self._holds:
            return ~self._holds[opposite]
        if c not in self._holds:
            self._holds[c] = cast(RandomPoints, self.points).random.random(self.n_points) < 0.5
        return self._holds[c]


class _AnyMagnitude(RandomPoints):
    n_points = 96

    def drawn(self, symbol: sp.Symbol) -> np.ndarray:
        value = super().drawn(symbol)
        if symbol not in self.parameters:
            value = value * 10 ** self.random.uniform(-6, 5, self.n_points)
        return value


def _without(expression: sp.Expr, gone: set[sp.Symbol]) -> sp.Expr:
    """The expression where these symbols, of which it is known not to depend, have some value."""
    if not gone:
        return expression
    for numbers in ((0,), (1,), (sp.Rational(2, 3), sp.Rational(5, 4), sp.Rational(7, 9))):
        values = {s: sp.Integer(0) + numbers[i % len(numbers)] for i, s in enumerate(sorted(gone, key=str))}
        result = xreplaced(expression, values)
        if not result.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.I):
            return result
    raise StructureError(f"can't leave {gone} out of {expression}")


def combine(coefficients: Sequence[sp.Expr], expressions: Sequence[sp.Expr]) -> sp.Expr:
    """Σ uᵢ eᵢ in a short form, where terms that cancel up to rounding are left out."""
    if all(u.is_number for u in coefficients):
        return joined([u * t for u, e in zip(coefficients, expressions, strict=True) for t in _terms(e)])
    products = [u * e for u, e in zip(coefficients, expressions, strict=True)]
    whole = sp.Add(*products)
    if whole.count_ops() > _EXPANDED:
        return whole
    return min(whole, joined([t for p in products for t in sp.Add.make_args(sp.expand(p))]), key=_length)


def _terms(e: sp.Expr) -> tuple[sp.Expr, ...]:
    return sp.Add.make_args(sp.expand_mul(e) if e.is_Mul else e)


def _length(e: sp.Expr) -> tuple[int, int]:
    return len(e.free_symbols), e.count_ops()
