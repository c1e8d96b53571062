"""Choices on a tape: comparisons, the value that a condition selects, and the SymPy functions that are written so."""

import sympy as sp
from sympy.core.relational import Relational


class Less(sp.Function):
    """The condition a < b."""

    nargs = 2


class LessEqual(sp.Function):
    """The condition a ≤ b."""

    nargs = 2


class Equal(sp.Function):
    """The condition a = b."""

    nargs = 2


class Both(sp.Function):
    """Two conditions that both hold."""

    nargs = 2


class Either(sp.Function):
    """Two conditions of which one holds."""

    nargs = 2


class Not(sp.Function):
    """A condition that does not hold."""

    nargs = 1


class Select(sp.Function):
    """Select(condition, a, b): a where the condition holds, otherwise b."""

    nargs = 3


class Guard(sp.Function):
    """Guard(condition, x): the value of x, whose derivatives pass only where the condition holds.

    A branch that is not selected may have an infinite derivative; zero times that would be NaN in the chain rule. Read
    through guards, the inputs of the branch receive zero instead.
    """

    nargs = 2


COMPARISONS, JUNCTIONS = (Less, LessEqual, Equal), (Both, Either, Not)
#: Functions whose values and derivatives are finite for every finite argument, short of overflow.
_HARMLESS = (sp.sin, sp.cos, sp.atan, sp.asinh, sp.tanh)
NON_SMOOTH = (sp.Abs, sp.sign, sp.Max, sp.Min, sp.Piecewise)


def choices(e: sp.Expr) -> list[tuple[sp.Expr, sp.Basic]]:
    """A non-smooth function as values with their conditions, of which the first that holds counts; the last is true.

    At a kink, where both sides agree, derivatives are those of the first. Raises ValueError for a Piecewise whose last
    condition is not True.
    """
    if isinstance(e, sp.Abs):
        return [(e.args[0], sp.Ge(e.args[0], 0, evaluate=False)), (-e.args[0], sp.true)]
    if isinstance(e, sp.sign):
        a = e.args[0]
        above, below = sp.Gt(a, 0, evaluate=False), sp.Lt(a, 0, evaluate=False)
        return [(sp.S.One, above), (-sp.S.One, below), (sp.S.Zero, sp.true)]
    if isinstance(e, (sp.Max, sp.Min)):
        compare, (first, *rest) = (sp.Ge if isinstance(e, sp.Max) else sp.Le), sorted(e.args, key=str)
        other = e.func(*rest)
        return [(first, compare(first, other, evaluate=False)), (other, sp.true)]
    pairs = [(value, condition) for value, condition in e.args]
    if pairs[-1][1] != sp.true:
        raise ValueError(f"{e} has no value where none of its conditions holds: end it with (value, True)")
    return pairs


def parts_of(condition: sp.Basic) -> tuple[type, tuple[sp.Basic, ...]]:
    """How a condition is written on a tape: its kind above and its arguments.

    Raises ValueError on what is neither a comparison nor made of comparisons by and, or, not.
    """
    if isinstance(condition, (*COMPARISONS, *JUNCTIONS)):
        return condition.func, condition.args
    if isinstance(condition, (sp.Lt, sp.Gt)):
        return Less, (condition.lts, condition.gts)
    if isinstance(condition, (sp.Le, sp.Ge)):
        return LessEqual, (condition.lts, condition.gts)
    if isinstance(condition, sp.Eq):
        return Equal, (condition.lhs, condition.rhs)
    if isinstance(condition, sp.Ne):
        return Not, (sp.Eq(condition.lhs, condition.rhs, evaluate=False),)
    if isinstance(condition, sp.ITE):  # what SymPy makes of a comparison with a Piecewise
        c, a, b = condition.args
        return Either, (sp.And(c, a, evaluate=False), sp.And(sp.Not(c), b, evaluate=False))
    for kind, ours in ((sp.And, Both), (sp.Or, Either), (sp.Not, Not)):
        if isinstance(condition, kind):
            return ours, condition.args
    raise ValueError(f"condition {condition}: expected comparisons by <, <=, >, >= and their and, or, not")


def may_fail(e: sp.Expr) -> bool:
    """Whether an expression, or its derivative, can be infinite or undefined at some finite values of its symbols."""
    for node in sp.preorder_traversal(e):
        if node.is_Symbol or node.is_number or isinstance(node, (sp.Add, sp.Mul, sp.Tuple)):
            continue
        if node.is_Pow and node.exp.is_Integer and node.exp > 0:
            continue
        if isinstance(node, (*_HARMLESS, *NON_SMOOTH, Relational, sp.logic.boolalg.Boolean)):
            continue
        if isinstance(node, sp.functions.elementary.piecewise.ExprCondPair):
            continue
        return True
    return False
