"""The differentiation index of a nonlinear system by the ranks of its derivative array along solutions."""

from collections.abc import Mapping, Sequence
from math import comb, factorial

import numpy as np
import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.expressions.choices import NON_SMOOTH
from ndae.symbolic.expressions.names import identifiers
from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.expressions.reading import substituted
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.ground.typed import symbols_in, symbols_of
from ndae.symbolic.numeric.ranks import balanced
from ndae.symbolic.numeric.sampling import RandomPoints
from ndae.symbolic.numeric.series import SeriesEvaluator
from ndae.symbolic.reduction.chains import Chains

_LARGEST = 300  # rows of a derivative array
_POINTS = 4  # of which all must agree
_ZERO, _NONZERO = 1e-11, 1e-6  # singular values of a balanced matrix in between say nothing


def solution_index(
    system, chains: Chains, analysis, jacobian: Mapping, equations: Sequence[sp.Expr], points: RandomPoints, upper: int
) -> int:
    """The least ν ≤ upper for which F = 0 and its first ν derivatives determine x' by x and t, at points of solutions.

    The definition of linear_index, for which the derivatives x'', x''', ... of the solution through each point are
    found from T(y, w, t) = 0. Structure alone can demand more: y' + z' + x = f, y' + z' + y³ = g, z + z³ = h has
    index 1, for the difference of the first two is free of y' and z'. For large systems, and where numbers are unclear,
    `upper` remains.
    """
    if upper < 2 or len(system.states) * upper > _LARGEST:
        return upper
    found = np.flatnonzero(np.isfinite([points[s] for s in chains.position if s in points]).all(axis=0))[:_POINTS]
    if len(found) < _POINTS - 1:
        return upper
    with np.errstate(all="ignore"):
        curve = _Curve(system, chains, analysis, jacobian, equations, points, found)
        array = _Array(system, curve, upper - 1)
        index = upper
        while index > 1 and array.determines_first(index - 1):
            index -= 1
    return index


class _Curve:
    """Taylor series of the solutions through some points, each variable as far as it was asked for."""

    def __init__(self, system, chains: Chains, analysis, jacobian, equations, points: RandomPoints, found):
        self.chains, self.n_points, self.time, self.points = chains, len(found), system.time, points
        self.found, self.equations, self.orders = found, equations, analysis.offsets.orders
        n = range(chains.n_variables)
        self._series = [np.array([points[chains.symbol(j, k)][found] / factorial(k) for k in range(self.orders[j] + 1)])
                        for j in n]  # fmt: skip
        evaluator = self.evaluator(0)
        self._matrix = np.zeros((self.n_points, len(n), len(n)))
        for (i, j), e in jacobian.items():
            self._matrix[:, i, j] = evaluator(e)[0]

    def evaluator(self, order: int) -> SeriesEvaluator:
        """For expressions over the variables of `chains`, of which enough coefficients are known."""
        return SeriesEvaluator(lambda s: self.of(s, order), order, self.n_points)

    def of(self, symbol: sp.Symbol, order: int) -> np.ndarray:
        """The series of one symbol; of a leading unknown, with zeros for what is not known yet."""
        if symbol in self.chains.position:
            return self.derivative(*self.chains.position[symbol], order)
        result = np.zeros((order + 1, self.n_points))
        result[0] = self.points[symbol][self.found]
        if symbol == self.time and order:
            result[1] = 1.0
        return result

    def derivative(self, j: int, k: int, order: int) -> np.ndarray:
        """The series of x_j^(k)."""
        series, result = self._series[j], np.zeros((order + 1, self.n_points))
        for i in range(min(order + 1, len(series) - k)):
            result[i] = series[i + k] * (factorial(i + k) / factorial(i))
        return result

    def extend(self) -> None:
        """One more coefficient of every variable: T's next one is linear in those of w."""
        order = len(self._series[0]) - self.orders[0]
        evaluator = self.evaluator(order)
        rest = np.array([evaluator(e)[order] for e in self.equations]).T
        usable = np.isfinite(rest).all(axis=1) & np.isfinite(self._matrix).all(axis=(1, 2))
        w = np.full_like(rest, np.nan)
        for p in np.flatnonzero(usable):
            w[p] = np.linalg.lstsq(self._matrix[p], -rest[p], rcond=None)[0]
        for j, d in enumerate(self.orders):
            new = w[:, j] * (factorial(order) / factorial(order + d))
            self._series[j] = np.concatenate([self._series[j], new[None]])


class _Array:
    """∂(F, F', ..., F^(ν)) / ∂(x', ..., x^(ν+1)) at points of solutions; for x' read the highest derivative in F."""

    def __init__(self, system: Equations, curve: _Curve, nu: int):
        raw = Chains([[s] for s in system.states], system.time)
        self.n, self.n_points = len(system.states), curve.n_points
        self.top, slopes, tape = [1] * self.n, [], Tape()
        every = sorted(symbols_in(system.equations), key=str)
        names, put = identifiers(every), {}  # a state may be called as a tape's definition is
        users = {plain: s for s, plain in names.items()}
        for i, e in enumerate(system.equations):
            moving = {}
            for s in symbols_of(e):
                entry = system.derivative_of(s)
                if entry is not None:
                    j, order = raw.position[entry[0]][0], entry[1]
                    moving[names[s]] = (j, order)
                    self.top[j] = max(self.top[j], order)
            e = substituted(e, names, put)
            if e.has(*NON_SMOOTH):
                found = partials(e, moving).values()
            else:  # of long equations the formulas would be longer still
                found = tape.adjoints([tape.value(e)], [sp.S.One], list(moving))
            slopes += [(i, *place, d) for place, d in zip(moving.values(), found, strict=True) if d != 0]
        places = [curve.chains.position[s] for s in system.states]
        while any(len(curve._series[j]) <= k + top + nu for (j, k), top in zip(places, self.top, strict=True)):
            curve.extend()

        def series_of(symbol):
            if symbol in tape.definitions:
                return evaluator(tape.definitions[symbol])
            symbol = users[symbol]
            entry = system.derivative_of(symbol)
            if entry is None:
                return curve.of(symbol, nu)
            j, k = places[raw.position[entry[0]][0]]
            return curve.derivative(j, k + entry[1], nu)

        evaluator = SeriesEvaluator(series_of, nu, self.n_points)
        for symbol in tape.needed([d for *_, d in slopes]):  # in order of dependence
            evaluator(symbol)
        self.slopes = [(i, j, order, evaluator(d)) for i, j, order, d in slopes]

    def determines_first(self, nu: int) -> bool:
        """Whether the equations and their first ν derivatives determine x', beyond doubt at every point."""
        n, blocks = self.n, nu + 1
        array = np.zeros((self.n_points, n * blocks, n * blocks))
        for i, j, order, series in self.slopes:
            # ∂F^(k)/∂x^(m) = Σ over orders of binomial(k, m - order) (d/dt)^(k-m+order) ∂F/∂x^(order)
            for k in range(blocks):
                for column in range(blocks):
                    times = k - (column + self.top[j]) + order
                    if 0 <= times <= k:
                        factor = comb(k, times) * factorial(times)
                        array[:, k * n + i, column * n + j] += factor * series[times]
        return all(np.isfinite(a).all() and _is_full(a, n) for a in array)


def _is_full(matrix: np.ndarray, n: int) -> bool:
    """Whether matrix · x determines the first n entries of x, with a clear gap between zero and nonzero."""
    scaled = balanced(matrix)[0]
    first, rest = scaled[:, :n], scaled[:, n:]
    if rest.size:
        left, singular, _ = np.linalg.svd(rest)
        singular = singular / max(np.abs(scaled).max(), 1e-300)
        if ((singular > _ZERO) & (singular < _NONZERO)).any():
            return False
        first = left[:, int((singular >= _NONZERO).sum()) :].T @ first
    if first.shape[0] < n:
        return False
    return bool(np.linalg.svd(first, compute_uv=False)[-1] > _NONZERO)
