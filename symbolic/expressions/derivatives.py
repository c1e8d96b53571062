"""Derivatives by time as symbols: x_dot, x_dot_dot, ..."""

from typing import overload

import sympy as sp
from sympy.core.function import AppliedUndef

from ndae.symbolic.expressions.nodes import Node


class Rate(Node):
    """The time derivative of an expression, until a system says which of its symbols change with time."""

    nargs = 1

    @classmethod
    def eval(cls, a):
        """Of a number, zero."""
        return sp.S.Zero if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Refused: what changes with time is not known yet."""
        raise ValueError(f"{self} is written out by a System alone: differentiate before you write dot of it")

    def _sympystr(self, printer) -> str:
        return f"dot({printer.doprint(self.args[0])})"


@overload
def dot(x: sp.Symbol, order: int = 1) -> sp.Symbol: ...
@overload
def dot(x: sp.Expr, order: int = 1) -> sp.Expr: ...
def dot(x: sp.Expr, order: int = 1) -> sp.Expr:
    """The time derivative of a state, or of an expression of states, time and parameters.

    For a symbol x it is the symbol "x_dot" ("x_dot_dot" for order 2), for x(t) it is dx/dt. It is real where x is; of a
    sign that x is declared to have, it knows nothing. Of another expression, such as dot(W*x), it is what the chain
    rule makes of it in the system that it stands in, dot(W)*x + W*dot(x); parameters are constant. Raises ValueError on
    what is no expression, and on an order below 1.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"dot({x}, {order!r}): expected a whole number of derivatives, at least 1")
    if isinstance(x, AppliedUndef) and len(x.args) == 1 and x.args[0].is_Symbol:
        return x.diff(x.args[0], order)
    if isinstance(x, sp.Symbol):
        return sp.Symbol(x.name + "_dot" * order, real=True) if x.is_real else sp.Symbol(x.name + "_dot" * order)
    if not isinstance(x, sp.Expr) or isinstance(x, sp.MatrixBase):
        raise ValueError(f"dot({x}): expected a state, or one expression of states, time and parameters")
    return dot(Rate(x), order - 1) if order > 1 else Rate(x)
