"""Expressions in numbers at many random points at once, with a bound of what rounding leaves of a zero."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import ITE, And, Not, Or

from ndae.symbolic.expressions.choices import CORNERS, Extreme, Floor, Signum, at_least
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.numeric.generic import generic

ROUNDING = 1e-11  # of the magnitudes that were added: below it a sum is taken as zero

_FUNCTIONS = {
    **{getattr(sp, name): getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log")},
    **{getattr(sp, f"a{name}"): getattr(np, f"arc{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
}
_COMPARISONS = {sp.Gt: np.greater, sp.Ge: np.greater_equal, sp.Lt: np.less, sp.Le: np.less_equal}
_COMPARISONS |= {sp.Eq: np.equal, sp.Ne: np.not_equal}


class Evaluator:
    """Values of expressions at points: `points[symbol]` is an array (n_points,) in float64.

    Each value comes with its scale, the magnitude of what was added to get it: |value| far below it is a zero that
    rounding blurred. Where an expression has no real value, both are NaN.
    """

    def __init__(self, points: Mapping[sp.Symbol, np.ndarray], n_points: int):
        self.points, self.n_points = points, n_points
        # Of a node that was seen its value is found by identity, which takes no comparison of expressions.
        self._slots: dict[int, int] = {}
        self._alike: dict[sp.Basic, int] = {}
        self._seen: list[sp.Basic] = []  # alive, so that no other node gets its identity
        self._values: list[tuple | None] = []
        self._fixed: dict[int, tuple] = {}

    def renew(self) -> None:
        """Forget all values, for the points have moved."""
        self._values = [self._fixed.get(slot) for slot in range(len(self._values))]

    def __call__(self, expressions: Sequence[sp.Expr]) -> tuple[np.ndarray, np.ndarray]:
        """Values and scales, each (n_expressions, n_points)."""
        with np.errstate(all="ignore"):
            pairs = [self._pair(e) for e in expressions]
        shape = (len(pairs), self.n_points)
        values = np.array([np.broadcast_to(v, self.n_points) for v, _ in pairs], dtype=float).reshape(shape)
        scales = np.array([np.broadcast_to(s, self.n_points) for _, s in pairs], dtype=float).reshape(shape)
        return values, scales

    def vanish(self, expressions: Sequence[sp.Expr]) -> list[bool]:
        """Whether each expression is zero, up to rounding, at all the points where it has a value."""
        values, scales = self(expressions)
        finite = np.isfinite(values) & np.isfinite(scales)
        zero = np.abs(values) <= ROUNDING * scales
        return [bool(f.any() and z[f].all()) for f, z in zip(finite, zero, strict=True)]

    def _pair(self, e):
        slot = self._slots.get(id(e))
        if slot is None:
            slot = self._slots[id(e)] = self._alike.setdefault(e, len(self._alike))
            self._seen.append(e)
            if slot == len(self._values):
                self._values.append(None)
        known = self._values[slot]
        if known is None:
            known = self._values[slot] = self._evaluate(e)
            if e.is_Atom and not e.is_Symbol:
                self._fixed[slot] = known
        return known

    def _evaluate(self, e):
        if e.is_Symbol:
            value = self.points[e]
            return value, np.abs(value)
        if e.is_Add:
            pairs = [self._pair(a) for a in e.args]
            return sum(v for v, _ in pairs), sum(s for _, s in pairs)
        if e.is_Mul:
            value = scale = 1.0
            for v, s in (self._pair(a) for a in e.args):
                value, scale = value * v, scale * s
            return value, scale
        if e.is_number and not isinstance(e, sp.Piecewise):
            value = complex(e)
            value = value.real if value.imag == 0 else np.nan
            return value, abs(value)
        if e.is_Pow:
            return self._power(e)
        if isinstance(e, sp.Piecewise):
            return self._piecewise(e)
        if isinstance(e, CORNERS):
            return self._corner(e)
        if isinstance(e, Applied):
            value = generic(e.unknown, len(e.places)).value(*e.wanted, [self._pair(a)[0] for a in e.places])
        elif isinstance(e, sp.atan2):
            value = np.arctan2(*(self._pair(a)[0] for a in e.args))
        else:
            value = _FUNCTIONS[type(e)](self._pair(e.args[0])[0])
        return value, np.abs(value)

    def _power(self, e):
        base, scale = self._pair(e.base)
        exponent = self._pair(e.exp)[0]
        if e.exp.is_Integer:
            exponent = int(e.exp)
            value = np.asarray(base, dtype=float) ** exponent
            return value, (scale**exponent if exponent > 0 else np.abs(value))
        value = np.asarray(base, dtype=float) ** exponent
        return value, np.abs(value)

    def _corner(self, e):
        if isinstance(e, Extreme):
            value, scale = self._pair(e.chosen[0])
            for keeps, other in zip(e.running(), e.chosen[1:], strict=True):
                here = self.condition(keeps)
                value, scale = (np.where(here, a, b) for a, b in zip((value, scale), self._pair(other), strict=True))
            return value, scale
        if isinstance(e, Lookup):
            value = e.table.sampled(self._pair(e.place)[0], e.order)
            return value, np.abs(value)
        value, scale = self._pair(e.args[0])
        if isinstance(e, Floor):
            return np.floor(value), np.abs(value)
        if isinstance(e, Signum):
            value = np.where(np.isnan(value), np.nan, np.sign(value))
            return value, np.abs(value)
        return np.where(self.condition(at_least(e.args[0], sp.S.Zero)), value, -value), scale

    def _piecewise(self, e):
        value = np.full(self.n_points, np.nan)
        scale, open_points = value.copy(), np.ones(self.n_points, dtype=bool)
        for branch, condition in e.args:
            here = open_points & self.condition(condition)
            v, s = self._pair(branch)
            value, scale = np.where(here, v, value), np.where(here, s, scale)
            open_points &= ~here
        return value, scale

    def condition(self, c) -> np.ndarray:
        """Where a condition holds, (n_points,)."""
        if c == sp.true:
            return np.ones(self.n_points, dtype=bool)
        if c == sp.false:
            return np.zeros(self.n_points, dtype=bool)
        if isinstance(c, Not):
            return ~self.condition(c.args[0])
        if isinstance(c, (And, Or)):
            combine = np.logical_and if isinstance(c, And) else np.logical_or
            return combine.reduce([self.condition(a) for a in c.args])
        if isinstance(c, ITE):
            return np.where(*(self.condition(a) for a in c.args))
        if isinstance(c, Relational):
            compare = next(f for kind, f in _COMPARISONS.items() if isinstance(c, kind))
            return np.broadcast_to(compare(*(self._pair(a)[0] for a in c.args)), self.n_points)
        raise ValueError(f"condition {c} is no comparison")


class RandomPoints(dict):
    """Random values for symbols, drawn when first asked for: eight points of different kind and size.

    States and time are drawn from both signs and from the domains of roots, logarithms and inverse functions.
    Parameters take their default value, or where `vary` says so values around it; those without default are positive.
    `size` gives the magnitude of a state's values, one by default.
    """

    n_points = 8

    def __init__(
        self,
        parameters: Mapping[sp.Symbol, float | None],
        vary: bool,
        seed: int = 0,
        size: Callable[[sp.Symbol], float] = lambda _: 1.0,
    ):
        super().__init__()
        self.parameters, self.vary, self.size = parameters, vary, size
        self.found: set[sp.Symbol] = set()  # what equations were solved for, to many digits of its own
        self.random = np.random.default_rng(seed)

    def __missing__(self, symbol: sp.Symbol) -> np.ndarray:
        value = self[symbol] = self.drawn(symbol)
        return value

    def drawn(self, symbol: sp.Symbol) -> np.ndarray:
        """Other values than before, (n_points,)."""
        n, random = self.n_points, self.random
        if symbol in self.parameters:
            default = self.parameters[symbol]
            if default is None:
                value = random.uniform(0.3, 2.0, n)
            elif not self.vary:
                value = np.full(n, default)
            else:
                value = default * random.uniform(0.6, 1.7, n) if default else random.uniform(0.3, 2.0, n)
        else:
            kinds = [random.normal(size=n), random.uniform(0.1, 0.9, n), random.uniform(1.1, 2.0, n)]
            kinds.append(0.1 * random.normal(size=n))
            value = np.choose(np.arange(n) % 4, kinds) * self.size(symbol)
            if symbol.is_nonnegative:
                value = np.abs(value)
        return value


class NearOne(RandomPoints):
    """States at about their size."""

    def drawn(self, symbol: sp.Symbol) -> np.ndarray:
        """Values near the size."""
        value = super().drawn(symbol)
        if symbol not in self.parameters:
            value = self.random.uniform(0.8, 1.2, self.n_points) * self.size(symbol)
        return value
