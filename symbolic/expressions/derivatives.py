"""Derivatives by time as symbols: x_dot, x_dot_dot, ..."""

from typing import TYPE_CHECKING, overload

import sympy as sp
from sympy.core.function import AppliedUndef

if TYPE_CHECKING:
    pass


@overload
def dot(x: sp.Symbol, order: int = 1) -> sp.Symbol: ...
@overload
def dot(x: sp.Expr, order: int = 1) -> sp.Expr: ...
def dot(x: sp.Expr, order: int = 1) -> sp.Expr:
    """The time derivative of a state: for a symbol x the symbol "x_dot" ("x_dot_dot" for order 2), for x(t) dx/dt.

    It is real where x is; of a sign that x is declared to have, it knows nothing. Raises ValueError on anything else
    than a state, and on an order below 1.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"dot({x}, {order!r}): expected a whole number of derivatives, at least 1")
    if isinstance(x, AppliedUndef) and len(x.args) == 1 and x.args[0].is_Symbol:
        return x.diff(x.args[0], order)
    if not isinstance(x, sp.Symbol):
        raise ValueError(f"dot({x}): expected a state, one symbol or a function of time; differentiate others by hand")
    return sp.Symbol(x.name + "_dot" * order, real=True) if x.is_real else sp.Symbol(x.name + "_dot" * order)
