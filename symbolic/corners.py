"""Functions with corners, as Piecewise of smooth branches."""

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import ITE, And, BooleanAtom, Not, Or

from symbolic.expressions import check_smooth

_CORNERS = (sp.Abs, sp.Max, sp.Min, sp.sign)


def as_piecewise(expression: sp.Expr) -> sp.Expr:
    """Rewrite Abs, Max, Min and sign to Piecewise; at a corner the derivative is that of the first branch."""
    if not expression.has(*_CORNERS):
        return expression
    return expression.replace(lambda e: isinstance(e, _CORNERS), _branches)


def _branches(e: sp.Expr) -> sp.Expr:
    if isinstance(e, sp.Abs):
        a = e.args[0]
        return sp.Piecewise((a, a >= 0), (-a, True))
    if isinstance(e, sp.sign):
        a = e.args[0]
        return sp.Piecewise((sp.S.One, a > 0), (-sp.S.One, a < 0), (sp.S.Zero, True))
    result, *others = e.args
    for other in others:
        first = result >= other if isinstance(e, sp.Max) else result <= other
        result = sp.Piecewise((result, first), (other, True))
    return result


def check_piecewise_smooth(expression: sp.Expr, where: str) -> None:
    """Raise ValueError unless the expression is smooth, or Piecewise of smooth branches by comparisons.

    Every Piecewise must have a last branch that holds otherwise.
    """
    if not expression.has(sp.Piecewise):
        check_smooth(expression, where)
        return
    outer = {p: sp.Dummy(real=True) for p in _outermost(expression)}
    check_smooth(expression.xreplace(outer), where)
    for piecewise in outer:
        if piecewise.args[-1].cond != sp.true:
            raise ValueError(f"{where}: {piecewise} has no branch for all other cases: end it with (value, True)")
        for branch, condition in piecewise.args:
            check_piecewise_smooth(branch, where)
            _check_condition(condition, where)


def _outermost(expression: sp.Basic) -> list[sp.Piecewise]:
    walk = sp.preorder_traversal(expression)
    found = []
    for node in walk:
        if isinstance(node, sp.Piecewise):
            found.append(node)
            walk.skip()
    return found


def _check_condition(condition, where: str) -> None:
    if isinstance(condition, (And, Or, Not, ITE)):  # ITE is what SymPy makes of a comparison with a Piecewise
        for part in condition.args:
            _check_condition(part, where)
    elif isinstance(condition, Relational):
        for side in condition.args:
            check_piecewise_smooth(side, where)
    elif not isinstance(condition, BooleanAtom):
        raise ValueError(f"{where}: the condition {condition} is no comparison: write one such as x > 0")
