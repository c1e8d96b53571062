"""Functions with corners and jumps in the equations of a system: as single nodes, and Piecewise by branches."""

from collections.abc import Callable
from typing import cast

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import ITE, And, BooleanAtom, Not, Or

from ndae.symbolic.expressions.choices import CORNERS, Floor, Largest, Magnitude, Signum, Smallest
from ndae.symbolic.expressions.reading import check_smooth, rebuilt, substituted
from ndae.symbolic.expressions.tables import Lookup, spline_of
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.ground.typed import arguments, branches_of


def _step(a: sp.Expr, at_zero: sp.Expr = sp.S.Half) -> sp.Expr:
    if at_zero == sp.S.Half:
        return (1 + Signum(a)) / 2
    below, above = sp.Lt(a, 0, evaluate=False), sp.Gt(a, 0, evaluate=False)
    return sp.Piecewise((sp.S.Zero, below), (sp.S.One, above), (at_zero, True), evaluate=False)


_NODES: dict[type, Callable] = {sp.Abs: Magnitude, sp.sign: Signum, sp.Max: Largest, sp.Min: Smallest}
_NODES |= {
    sp.floor: Floor,
    sp.ceiling: lambda a: -Floor(-a),
    sp.frac: lambda a: a - Floor(a),
    sp.Mod: lambda a, b: a - b * Floor(a / b),  # of the sign of b, as SymPy and Python have it
    sp.Heaviside: _step,
    # Of a symbol that is not said to be real SymPy writes these, as |exp(x)| = exp(re(x)); all symbols are real here.
    sp.re: lambda a: a,
    sp.im: lambda a: sp.S.Zero,
    sp.conjugate: lambda a: a,
}


def as_corners(expression: sp.Expr) -> sp.Expr:
    """Write Abs, Max, Min, sign and floor as nodes that SymPy does not open, ceiling, frac, Mod and Heaviside by these.

    A spline of SymPy, a Piecewise of polynomials over intervals one after another, becomes a table.

    At a corner the derivative is the first branch's. As Piecewise each of them would double what is in it. As in SymPy
    Heaviside(0) is 1/2, unless it is given another value, sign(0) is 0, and floor and Mod have at a jump what follows.
    """
    if not expression.has(*_NODES, sp.Piecewise):
        return expression
    known: dict[sp.Basic, sp.Basic] = {}

    def written(e: sp.Basic) -> sp.Basic:
        if not e.args or e.is_number or not e.has(*_NODES, sp.Piecewise):
            return e
        if e not in known and isinstance(e, sp.Piecewise) and (spline := spline_of(e)) is not None:
            known[e] = spline
        if e not in known:
            args = [written(a) for a in e.args]
            known[e] = _NODES[type(e)](*args) if type(e) in _NODES else rebuilt(e, args)
        return known[e]

    return cast(sp.Expr, written(expression))


def check_piecewise_smooth(expression: sp.Expr, where: str) -> None:
    """Raise ValueError unless the expression is smooth, or of corners and Piecewise of smooth branches by comparisons.

    Every Piecewise must have a last branch that holds otherwise.
    """
    if not expression.has(sp.Piecewise, Applied, *CORNERS):
        check_smooth(expression, where)
        return
    outer = {p: sp.Dummy(real=True) for p in _outermost(expression)}
    check_smooth(substituted(expression, outer, {}), where)
    for node in outer:
        if not isinstance(node, sp.Piecewise):
            for a in _inside(node):
                check_piecewise_smooth(a, where)
            continue
        if branches_of(node)[-1][1] != sp.true:
            raise ValueError(f"{where}: {node} has no branch for all other cases: end it with (value, True)")
        for branch, condition in branches_of(node):
            check_piecewise_smooth(branch, where)
            _check_condition(condition, where)


def _outermost(expression: sp.Basic) -> list[sp.Basic]:
    walk = sp.preorder_traversal(expression)
    found = []
    for node in walk:
        if isinstance(node, (sp.Piecewise, Applied, *CORNERS)):
            found.append(node)
            walk.skip()
    return found


def _inside(node: sp.Basic) -> tuple[sp.Expr, ...]:
    if isinstance(node, Applied):
        return node.places
    return (node.place,) if isinstance(node, Lookup) else arguments(node)


def _check_condition(condition, where: str) -> None:
    if isinstance(condition, (And, Or, Not, ITE)):  # ITE is what SymPy makes of a comparison with a Piecewise
        for part in condition.args:
            _check_condition(part, where)
    elif isinstance(condition, Relational):
        for side in arguments(condition):
            check_piecewise_smooth(side, where)
    elif not isinstance(condition, BooleanAtom):
        raise ValueError(f"{where}: the condition {condition} is no comparison: write one such as x > 0")
