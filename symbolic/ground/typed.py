"""What SymPy's annotations leave open of an expression, said once."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import sympy as sp
from sympy.functions.elementary.piecewise import ExprCondPair


def arguments(e: sp.Basic) -> tuple[sp.Expr, ...]:
    """`e.args` of a node whose arguments are expressions, which SymPy annotates as any nodes."""
    return cast("tuple[sp.Expr, ...]", e.args)


def branches_of(e: sp.Piecewise) -> list[tuple[sp.Expr, sp.Basic]]:
    """The values of a Piecewise with their conditions."""
    return [(cast(sp.Expr, pair.expr), pair.cond) for pair in cast("tuple[ExprCondPair, ...]", e.args)]


def xreplaced(e: sp.Expr, table: Mapping[Any, sp.Basic]) -> sp.Expr:
    """`e.xreplace(table)`, an expression where it puts expressions for symbols, which SymPy annotates as any node."""
    return cast(sp.Expr, e.xreplace(table))


def symbols_of(e: sp.Basic) -> set[sp.Symbol]:
    """`e.free_symbols`, which SymPy annotates as any nodes."""
    return cast("set[sp.Symbol]", e.free_symbols)


def symbols_in(expressions: Iterable[sp.Basic]) -> set[sp.Symbol]:
    """The symbols in any of the expressions."""
    return set[sp.Symbol]().union(*(symbols_of(e) for e in expressions))
