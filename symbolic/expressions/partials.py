"""Partial derivatives of many expressions by many symbols, by one walk over what they share."""

from collections.abc import Collection
from typing import cast

import sympy as sp

from ndae.symbolic.expressions.choices import Extreme
from ndae.symbolic.ground.typed import arguments, branches_of


def partials(expression: sp.Basic, symbols: Collection[sp.Symbol]) -> dict[sp.Symbol, sp.Expr]:
    """∂e/∂s for each symbol s, by one walk in which a subexpression that comes again is differentiated once."""
    slopes = _slopes(expression, set(symbols), {})
    return {s: slopes.get(s, sp.S.Zero) for s in symbols}


def _slopes(e: sp.Basic, wanted: set[sp.Symbol], known: dict) -> dict[sp.Symbol, sp.Expr]:
    """Derivatives that are not zero; SymPy's own `diff` asks of large subexpressions whether they are finite."""
    if isinstance(e, sp.Symbol):
        return {e: sp.S.One} if e in wanted else {}
    if not e.args:
        return {}
    if e in known:
        return known[e]
    result: dict[sp.Symbol, list[sp.Expr]] = {}

    def chain(inner, outer):
        for s, slope in _slopes(inner, wanted, known).items():
            result.setdefault(s, []).append(outer(slope))

    args = arguments(e)
    if isinstance(e, sp.Add):
        for a in args:
            chain(a, lambda slope: slope)
    elif isinstance(e, sp.Mul):
        for i, a in enumerate(args):
            chain(a, lambda slope, i=i: sp.Mul(*args[:i], slope, *args[i + 1 :]))
    elif isinstance(e, sp.Pow):
        chain(e.base, lambda slope: e.exp * e.base ** (e.exp - 1) * slope)
        chain(e.exp, lambda slope: e * sp.log(e.base) * slope)
    elif isinstance(e, sp.Piecewise):
        branches = [_slopes(branch, wanted, known) for branch, _ in branches_of(e)]
        for s in dict.fromkeys(s for slopes in branches for s in slopes):
            pairs = [
                (b.get(s, sp.S.Zero), condition) for b, (_, condition) in zip(branches, branches_of(e), strict=True)
            ]
            alike = all(slope == pairs[0][0] for slope, _ in pairs)
            result[s] = [pairs[0][0] if alike else sp.Piecewise(*pairs, evaluate=False)]  # its conditions are read
    elif isinstance(e, Extreme):
        sides = [_slopes(a, wanted, known) for a in e.chosen]
        for s in dict.fromkeys(s for slopes in sides for s in slopes):
            result[s] = [e.at(side.get(s, sp.S.Zero) for side in sides)]
    else:
        function = cast(sp.Function, e)
        for i, a in enumerate(args):
            chain(a, lambda slope, i=i: function.fdiff(i + 1) * slope)
    known[e] = {s: total for s, terms in result.items() if (total := sp.Add(*terms)) != 0}
    return known[e]
