"""Choices on a tape: comparisons, the value that a condition selects, and the SymPy functions that are written so."""

from collections.abc import Callable
from typing import cast

import sympy as sp
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import Boolean

from ndae.symbolic.expressions.nodes import Node
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.ground.typed import arguments, branches_of


class Less(Node):
    """The condition a < b."""

    nargs = 2


class LessEqual(Node):
    """The condition a ≤ b."""

    nargs = 2


class Equal(Node):
    """The condition a = b."""

    nargs = 2


class Both(Node):
    """Two conditions that both hold."""

    nargs = 2


class Either(Node):
    """Two conditions of which one holds."""

    nargs = 2


class Not(Node):
    """A condition that does not hold."""

    nargs = 1


class Select(Node):
    """Select(condition, a, b): a where the condition holds, otherwise b."""

    nargs = 3


class Guard(Node):
    """Guard(condition, x): the value of x, whose derivatives pass only where the condition holds.

    A branch that is not selected may have an infinite derivative; zero times that would be NaN in the chain rule. Read
    through guards, the inputs of the branch receive zero instead.
    """

    nargs = 2


class Magnitude(Node):
    """|a|, which SymPy leaves as it is; at a = 0 the derivative is that of a."""

    nargs = 1

    @classmethod
    def eval(cls, a):
        """Of a number, the number."""
        return sp.Abs(a) if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """1 where a ≥ 0, otherwise -1."""
        return sp.Piecewise((sp.S.One, at_least(self.args[0], sp.S.Zero)), (-sp.S.One, True), evaluate=False)

    def _sympystr(self, printer) -> str:
        return f"Abs({printer.doprint(self.args[0])})"


class Signum(Node):
    """1, -1 or 0 as a > 0, a < 0 or a = 0."""

    nargs = 1

    @classmethod
    def eval(cls, a):
        """Of a number, the number."""
        return sp.sign(a) if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Zero."""
        return sp.S.Zero

    def _sympystr(self, printer) -> str:
        return f"sign({printer.doprint(self.args[0])})"


class Floor(Node):
    """The greatest whole number ≤ a."""

    nargs = 1

    @classmethod
    def eval(cls, a):
        """Of a number, the number."""
        return sp.floor(a) if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """Zero."""
        return sp.S.Zero

    def _sympystr(self, printer) -> str:
        return f"floor({printer.doprint(self.args[0])})"


class Extreme(Node):
    """The greatest or least of a₁, ..., aₙ, or what stands at its place in a second list: (a₁, ..., aₙ, b₁, ..., bₙ).

    Of several that are equal the first counts, for values and for derivatives. One node however many arguments it has,
    where Max as Piecewise doubles with each of them.
    """

    largest, placed, written = True, False, "Max"

    @classmethod
    def eval(cls, *args):
        """Of numbers alone, what is chosen."""
        compared = args[: len(args) // 2] if cls.placed else args
        if not all(a.is_number for a in compared):
            return None
        best = 0
        for i, a in enumerate(compared):
            if (a > compared[best]) == sp.true if cls.largest else (a < compared[best]) == sp.true:
                best = i
        return args[best + len(compared)] if cls.placed else args[best]

    @property
    def compared(self) -> tuple[sp.Expr, ...]:
        """a₁, ..., aₙ."""
        return self.args[: len(self.args) // 2] if self.placed else self.args

    @property
    def chosen(self) -> tuple[sp.Expr, ...]:
        """What is chosen of: b₁, ..., bₙ, or the aᵢ themselves."""
        return self.args[len(self.args) // 2 :] if self.placed else self.args

    def at(self, values) -> sp.Expr:
        """The one of other values that stands where the extreme is."""
        values = list(values)
        if all(v == values[0] for v in values):
            return values[0]
        return (AtLargest if self.largest else AtSmallest)(*self.compared, *values)

    def keeps(self, so_far: sp.Expr, other: sp.Expr) -> sp.Basic:
        """The condition that the extreme so far stays it beside another value."""
        return at_least(so_far, other) if self.largest else at_least(other, so_far)

    def running(self) -> list[sp.Basic]:
        """Whether the extreme of the first k stays it beside the next, k = 1, ..., n - 1, as conditions."""
        kind = Largest if self.largest else Smallest
        parts = self.compared
        extremes = [parts[0], *(kind(*parts[:k]) for k in range(2, len(parts)))]
        return [self.keeps(m, other) for m, other in zip(extremes, parts[1:], strict=True)]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """1 where the argument is chosen, otherwise 0."""
        n, place = len(self.compared), argindex - 1
        if self.placed and place < n:
            return sp.S.Zero  # it moves at jumps alone
        return self.at(sp.S.One if i == place % n else sp.S.Zero for i in range(n))

    def _sympystr(self, printer) -> str:
        inner = ", ".join(map(printer.doprint, self.compared))
        if not self.placed:
            return f"{self.written}({inner})"
        return f"at{self.written}({inner}; {', '.join(map(printer.doprint, self.chosen))})"


class Largest(Extreme):
    """The greatest of its arguments."""


class AtLargest(Extreme):
    """What stands at the place of the greatest."""

    placed = True


class Smallest(Extreme):
    """The least of its arguments."""

    largest, written = False, "Min"


class AtSmallest(Extreme):
    """What stands at the place of the least."""

    largest, placed, written = False, True, "Min"


def at_least(a: sp.Expr, b: sp.Expr) -> sp.Basic:
    """The condition a ≥ b, decided where both are numbers and otherwise left as it is."""
    return sp.Ge(a, b, evaluate=bool(a.is_number and b.is_number))


COMPARISONS, JUNCTIONS = (Less, LessEqual, Equal), (Both, Either, Not)
#: What Abs, sign, floor, Max, Min and tables are in the equations of a system.
CORNERS = (Magnitude, Signum, Floor, Extreme, Lookup)
#: Functions whose values and derivatives are finite for every finite argument, short of overflow.
_HARMLESS = (sp.sin, sp.cos, sp.atan, sp.asinh, sp.tanh)
NON_SMOOTH = (sp.Abs, sp.sign, sp.Max, sp.Min, sp.Piecewise, *CORNERS)


def choices(e: sp.Expr) -> list[tuple[sp.Expr, sp.Basic]]:
    """A non-smooth function as values with their conditions, of which the first that holds counts; the last is true.

    At a kink, where both sides agree, derivatives are those of the first. Raises ValueError for a Piecewise whose last
    condition is not True.
    """
    if isinstance(e, (sp.Abs, Magnitude)):
        (a,) = arguments(e)
        return [(a, sp.Ge(a, 0, evaluate=False)), (-a, sp.true)]
    if isinstance(e, (sp.sign, Signum)):
        (a,) = arguments(e)
        above, below = sp.Gt(a, 0, evaluate=False), sp.Lt(a, 0, evaluate=False)
        return [(sp.S.One, above), (-sp.S.One, below), (sp.S.Zero, sp.true)]
    pairs = branches_of(cast(sp.Piecewise, e))
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
        both = cast("Callable[..., sp.Basic]", sp.And)
        return Either, (both(c, a, evaluate=False), both(sp.Not(c), b, evaluate=False))
    for kind, ours in ((sp.And, Both), (sp.Or, Either), (sp.Not, Not)):
        if isinstance(condition, kind):
            return ours, condition.args
    raise ValueError(f"condition {condition}: expected comparisons by <, <=, >, >= and their and, or, not")


def may_fail(e: sp.Expr) -> bool:
    """Whether an expression, or its derivative, can be infinite or undefined at some finite values of its symbols."""
    for node in sp.preorder_traversal(e):
        if isinstance(node, sp.Symbol) or node.is_number or isinstance(node, (sp.Add, sp.Mul, sp.Tuple)):
            continue
        if isinstance(node, sp.Pow) and node.exp.is_Integer and node.exp > 0:
            continue
        if isinstance(node, Lookup):  # outside of what it knows
            return True
        if isinstance(node, (*_HARMLESS, *NON_SMOOTH, Relational, Boolean, ExprCondPair)):
            continue
        return True
    return False


def extreme_of(e: sp.Max | sp.Min | Extreme) -> Extreme:
    """Max and Min of SymPy, whose arguments have no order, as an extreme with them in the order of their text."""
    if isinstance(e, Extreme):
        return e
    return (Largest if isinstance(e, sp.Max) else Smallest)(*sorted(e.args, key=str))
