"""What follows from a local expression c(x, t; p), in readable SymPy."""

from collections.abc import Sequence
from functools import cached_property

import sympy as sp



class Derivation:
    """Derivatives of m expressions over the n coordinates of one instance (x), and time."""

    def __init__(self, expressions: Sequence[sp.Expr], coordinates: Sequence[sp.Symbol], time: sp.Symbol | None):
        self.c, self.x, self.time = tuple(expressions), tuple(coordinates), time
        taken = {s.name for e in self.c for s in e.free_symbols} | {s.name for s in self.x}
        self.v = self._like("v_", taken)

    def _like(self, prefix, taken):
        while any(prefix + s.name in taken for s in self.x):
            prefix += "_"
        taken |= {prefix + s.name for s in self.x}
        return tuple(sp.Symbol(prefix + s.name, **s.assumptions0) for s in self.x)

    @cached_property
    def jacobian(self) -> list[list[sp.Expr]]:
        return [[_diff(c, x) for x in self.x] for c in self.c]

    @cached_property
    def time_derivative(self) -> list[sp.Expr]:
        return [_diff(c, self.time) for c in self.c]

    def jvp(self, v: Sequence[sp.Expr]) -> list[sp.Expr]:
        return [sum((d * s for d, s in zip(row, v, strict=True)), sp.S.Zero) for row in self.jacobian]

    def velocity(self) -> list[sp.Expr]:
        """dc/dt = J v + ∂c/∂t."""
        return [a + b for a, b in zip(self.jvp(self.v), self.time_derivative, strict=True)]

    def curvature(self) -> list[sp.Expr]:
        """d²c/dt² − J a = vᵀ ∇²c v + 2 ∂J/∂t v + ∂²c/∂t²."""
        result = []
        for rate in self.velocity():
            total = sum((_diff(rate, x) * v for x, v in zip(self.x, self.v, strict=True)), sp.S.Zero)
            result.append(total + _diff(rate, self.time))
        return result


def _diff(expression: sp.Expr, symbol: sp.Symbol | None) -> sp.Expr:
    if symbol is None or symbol not in expression.free_symbols:
        return sp.S.Zero
    return sp.diff(expression, symbol)
