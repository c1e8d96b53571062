"""Taylor series of expressions along a curve in time, at many points at once."""

from collections.abc import Callable
from math import factorial
from typing import cast

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.choices import CORNERS, Extreme, Floor, Signum
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.ground.typed import arguments, branches_of
from ndae.symbolic.numeric.generic import generic
from ndae.symbolic.numeric.sampling import Evaluator

Series = np.ndarray  # (order + 1, n_points): the coefficient of h^k stands in row k


class SeriesEvaluator:
    """Taylor coefficients of expressions in float64, where `series_of(symbol)` has those of the symbols.

    By the recurrences of Taylor arithmetic (A. Griewank and A. Walther, Evaluating derivatives, 2008, section 13.2).
    Which branch of a Piecewise holds is decided at the point itself.
    """

    def __init__(self, series_of: Callable[[sp.Symbol], Series], order: int, n_points: int):
        self.series_of, self.order, self.n_points = series_of, order, n_points
        self._known: dict[sp.Expr, Series] = {}
        self._values: Evaluator | None = None

    def __call__(self, e: sp.Expr) -> Series:
        """(order + 1, n_points); NaN where the expression has no real value or no derivatives."""
        known = self._known.get(e)
        if known is None:
            with np.errstate(all="ignore"):
                known = self._known[e] = self._evaluate(e)
        return known

    def _evaluate(self, e: sp.Expr) -> Series:
        if isinstance(e, sp.Symbol):
            return self.series_of(e)
        if e.is_number and not isinstance(e, sp.Piecewise):
            return self._constant(complex(e).real if complex(e).imag == 0 else np.nan)
        if isinstance(e, sp.Add):
            return cast(Series, sum(self(a) for a in e.args))
        if isinstance(e, sp.Mul):
            result = self(e.args[0])
            for a in e.args[1:]:
                result = self._product(result, self(a))
            return result
        if isinstance(e, sp.Pow):
            return self._power(self(e.base), e.exp)
        if isinstance(e, sp.Piecewise):
            return self._piecewise(e)
        if isinstance(e, CORNERS):
            return self._corner(e)
        if isinstance(e, Applied):
            return self._unknown(e)
        return self._function(type(e), [self(a) for a in arguments(e)])

    def _constant(self, value) -> Series:
        result = np.zeros((self.order + 1, self.n_points))
        result[0] = value
        return result

    def _product(self, f: Series, g: Series) -> Series:
        return np.array([sum(f[i] * g[k - i] for i in range(k + 1)) for k in range(self.order + 1)])

    def _quotient(self, f: Series, g: Series) -> Series:
        result = np.zeros_like(f)
        for k in range(self.order + 1):
            result[k] = (f[k] - sum((result[i] * g[k - i] for i in range(k)), np.zeros(self.n_points))) / g[0]
        return result

    def _power(self, f: Series, exponent: sp.Expr) -> Series:
        if not exponent.is_number:
            return self._exp(self._product(self(exponent), self._log(f)))
        if exponent.is_Integer and 0 < exponent <= self.order + 1:  # at a base of zero, too
            result = f
            for _ in range(int(exponent) - 1):
                result = self._product(result, f)
            return result
        a = float(exponent)
        result = np.zeros_like(f)
        result[0] = f[0] ** (int(exponent) if exponent.is_Integer else a)
        for k in range(1, self.order + 1):
            total = sum((a * i - (k - i)) * f[i] * result[k - i] for i in range(1, k + 1))
            result[k] = total / (k * f[0])
            if exponent.is_Integer and exponent > 0:
                result[k] = np.where(f[0] == 0, 0.0, result[k])
        return result

    def _integral(self, slope: Series, start: np.ndarray, f: Series) -> Series:
        """h with h' = slope · f' and the value `start`."""
        result = np.zeros_like(f)
        result[0] = start
        for k in range(1, self.order + 1):
            result[k] = sum(i * f[i] * slope[k - i] for i in range(1, k + 1)) / k
        return result

    def _exp(self, f: Series) -> Series:
        result = np.zeros_like(f)
        result[0] = np.exp(f[0])
        for k in range(1, self.order + 1):
            result[k] = sum(i * f[i] * result[k - i] for i in range(1, k + 1)) / k
        return result

    def _log(self, f: Series) -> Series:
        return self._integral(self._quotient(self._constant(1.0), f), np.log(f[0]), f)

    def _pair(self, f: Series, hyperbolic: bool) -> tuple[Series, Series]:
        """(sin f, cos f), or (sinh f, cosh f)."""
        s, c = np.zeros_like(f), np.zeros_like(f)
        s[0], c[0] = (np.sinh(f[0]), np.cosh(f[0])) if hyperbolic else (np.sin(f[0]), np.cos(f[0]))
        sign = 1 if hyperbolic else -1
        for k in range(1, self.order + 1):
            s[k] = sum(i * f[i] * c[k - i] for i in range(1, k + 1)) / k
            c[k] = sign * sum(i * f[i] * s[k - i] for i in range(1, k + 1)) / k
        return s, c

    def _function(self, kind, args: list[Series]) -> Series:
        f, one = args[0], self._constant(1.0)
        if kind is sp.exp:
            return self._exp(f)
        if kind is sp.log:
            return self._log(f)
        if kind in (sp.sin, sp.cos, sp.tan, sp.sinh, sp.cosh, sp.tanh):
            s, c = self._pair(f, kind in (sp.sinh, sp.cosh, sp.tanh))
            return s if kind in (sp.sin, sp.sinh) else c if kind in (sp.cos, sp.cosh) else self._quotient(s, c)
        if kind is sp.atan2:
            x = args[1]
            size = self._product(f, f) + self._product(x, x)
            along = self._integral(self._quotient(x, size), np.arctan2(f[0], x[0]), f)
            return along - self._integral(self._quotient(f, size), np.zeros(self.n_points), x)
        square = self._product(f, f)
        if kind in (sp.atan, sp.atanh):
            slope = self._quotient(one, one + square if kind is sp.atan else one - square)
            return self._integral(slope, (np.arctan if kind is sp.atan else np.arctanh)(f[0]), f)
        under = {sp.asin: one - square, sp.acos: one - square, sp.asinh: one + square, sp.acosh: square - one}[kind]
        slope = self._power(under, sp.Rational(-1, 2)) * (-1 if kind is sp.acos else 1)
        start = {sp.asin: np.arcsin, sp.acos: np.arccos, sp.asinh: np.arcsinh, sp.acosh: np.arccosh}[kind](f[0])
        return self._integral(slope, start, f)

    def _corner(self, e) -> Series:
        if isinstance(e, Extreme):
            values = np.array([self(a)[0] for a in e.compared])
            first = (values.argmax if e.largest else values.argmin)(axis=0)
            return np.take_along_axis(np.array([self(a) for a in e.chosen]), first[None, None], axis=0)[0]
        if isinstance(e, Lookup):
            return self._lookup(e)
        f = self(e.args[0])
        if isinstance(e, Floor):
            return self._constant(np.floor(f[0]))
        return self._constant(np.sign(f[0])) if isinstance(e, Signum) else np.where(f[0] >= 0, f, -f)

    def _lookup(self, e: Lookup) -> Series:
        """Σ u⁽ᵐ⁾(f₀) (f - f₀)ᵐ / m!, as far as the polynomials of the table go."""
        f = self(e.place)
        step = f.copy()
        step[0] = 0.0
        result = self._constant(0.0)
        for m in reversed(range(min(self.order, e.table.degree - e.order) + 1)):
            value = e.table.sampled(f[0], e.order + m) / factorial(m)
            result = self._product(result, step) + self._constant(value)
        return result

    def _unknown(self, e: Applied) -> Series:
        function, (output, orders) = generic(e.unknown, len(e.places)), e.wanted
        result = self._constant(0.0 if any(orders) else function.offset[output])
        for k in function.waves:
            inside = self._constant(function.phase[output, k] + sum(orders) * np.pi / 2)
            for frequency, a in zip(function.frequency[output, k], e.places, strict=True):
                inside = inside + frequency * self(a)
            result = result + function.factor(output, k, orders) * self._pair(inside, False)[0]
        return result

    def _piecewise(self, e: sp.Piecewise) -> Series:
        if self._values is None:
            self._values = Evaluator(_Values(self), self.n_points)
        result = np.full((self.order + 1, self.n_points), np.nan)
        open_points = np.ones(self.n_points, dtype=bool)
        for branch, condition in branches_of(e):
            here = open_points & self._values.condition(condition)
            result = np.where(here, self(branch), result)
            open_points &= ~here
        return result


class _Values(dict):
    """The values of symbols, the first coefficients of their series."""

    def __init__(self, evaluator: SeriesEvaluator):
        super().__init__()
        self.evaluator = evaluator

    def __missing__(self, symbol: sp.Symbol) -> np.ndarray:
        return self.evaluator(symbol)[0]
