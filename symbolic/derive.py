"""What follows from a local expression c(x, t; p): Jacobian, products, hidden levels, penalty, as programs to generate."""

from collections.abc import Sequence
from functools import cached_property

import sympy as sp

from symbolic.emit import COLUMNS, MATRIX, ROWS, Program


class Derivation:
    """Derivatives of m expressions over the n coordinates of one instance (x), and time."""

    def __init__(self, expressions: Sequence[sp.Expr], coordinates: Sequence[sp.Symbol], time: sp.Symbol | None):
        self.c, self.x, self.time = tuple(expressions), tuple(coordinates), time
        taken = {s.name for e in self.c for s in e.free_symbols} | {s.name for s in self.x}
        self.v, self.u = (self._like(prefix, taken) for prefix in ("v_", "u_"))
        self.a = self._like("a_", taken)
        prefix = "w"
        while any(f"{prefix}{i}" in taken for i in range(len(self.c))):
            prefix += "_"
        self.w = tuple(sp.Symbol(f"{prefix}{i}", real=True) for i in range(len(self.c)))

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

    def vjp(self, w: Sequence[sp.Expr]) -> list[sp.Expr]:
        return [sum((w_i * row[j] for w_i, row in zip(w, self.jacobian, strict=True)), sp.S.Zero) for j in range(len(self.x))]

    def hvp(self, w: Sequence[sp.Expr], u: Sequence[sp.Expr]) -> list[sp.Expr]:
        """(Σᵢ wᵢ ∇²cᵢ) u; w may depend on x, it is held fixed."""
        n = len(self.x)
        result = [sp.S.Zero] * n
        for w_i, row in zip(w, self.jacobian, strict=True):
            for j in range(n):
                for k in range(j, n):
                    second = _diff(row[j], self.x[k])
                    if second != 0:
                        result[j] += w_i * second * u[k]
                        if k != j:
                            result[k] += w_i * second * u[j]
        return result

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

    def programs(self) -> dict[str, Program]:
        """Every function that is generated, by name."""
        x, v, u, w = (("x", self.x), ("v", self.v), ("u", self.u), ("w", self.w))
        flat_jacobian = tuple(e for row in self.jacobian for e in row)
        penalty = self.vjp(self.c)
        gauss_newton = self.vjp(self.jvp(self.v))
        operator = [a + b for a, b in zip(gauss_newton, self.hvp(self.c, self.v), strict=True)]
        table = [
            Program("residual", "c(x, t)", (x,), ((ROWS, self.c),)),
            Program("local_jacobian", "∂c/∂x of each instance", (x,), ((MATRIX, flat_jacobian),)),
            Program("linearise", "c and ∂c/∂x of each instance", (x,), ((ROWS, self.c), (MATRIX, flat_jacobian))),
            Program("jvp", "J v", (x, v), ((ROWS, self.jvp(self.v)),)),
            Program("vjp", "Jᵀ w", (x, w), ((COLUMNS, self.vjp(self.w)),)),
            Program("hvp", "(Σ wᵢ ∇²cᵢ) u", (x, w, u), ((COLUMNS, self.hvp(self.w, self.u)),)),
            Program("time_derivative", "∂c/∂t", (x,), ((ROWS, self.time_derivative),)),
            Program("velocity", "J v + ∂c/∂t", (x, v), ((ROWS, self.velocity()),)),
            Program("curvature", "d²c/dt² - J a", (x, v), ((ROWS, self.curvature()),)),
            Program("penalty", "Jᵀ c", (x,), ((COLUMNS, penalty),)),
            Program("penalty_jvp", "(Jᵀ J + Σ cᵢ ∇²cᵢ) v", (x, v), ((COLUMNS, operator),)),
        ]
        return {program.name: program for program in table}


def _diff(expression: sp.Expr, symbol: sp.Symbol | None) -> sp.Expr:
    if symbol is None or symbol not in expression.free_symbols:
        return sp.S.Zero
    return sp.diff(expression, symbol)
