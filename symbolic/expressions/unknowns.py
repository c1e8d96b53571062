"""Functions that nobody knows yet, written in equations as functions are in mathematics: r(c, T)."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from ndae.symbolic.expressions.names import check_name, is_identifier
from ndae.symbolic.expressions.nodes import Node


@dataclass(frozen=True)
class Unknown:
    """A smooth function of some arguments with `outputs` values, told from others by its name; `unknown` makes one."""

    name: str
    outputs: int = 1

    def __call__(self, *arguments: Any) -> Any:
        """Its value at expressions, or of several outputs a column (outputs, 1) of them."""
        if not arguments:
            raise ValueError(f"the unknown function {self.name} is called without arguments: write {self.name}(x, ...)")
        places = []
        for a in arguments:
            try:
                place = sp.sympify(a, strict=True)
            except sp.SympifyError:
                place = None
            if not isinstance(place, sp.Expr):
                raise ValueError(
                    f"the unknown function {self.name} is called at {a!r}: its arguments are expressions, one by one "
                    f"(of a list q, {self.name}(*q)); give it what it is by functions={{{self.name}: ...}}"
                )
            places.append(place)
        zeros = (0,) * len(places)
        values = [Applied(Partial(self, i, zeros), *places) for i in range(self.outputs)]
        return values[0] if self.outputs == 1 else sp.Matrix(values)

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: "Unknown") -> bool:
        return (self.name, self.outputs) < (other.name, other.outputs)


class Partial(sp.AtomicExpr):
    """One output of an unknown function, differentiated orders[j] times by its j-th argument."""

    is_commutative = True
    is_real = True

    if TYPE_CHECKING:
        unknown: Unknown
        output: int
        orders: tuple[int, ...]

    __slots__ = ("orders", "output", "unknown")

    def __new__(cls, unknown: Unknown, output: int, orders: Iterable[int]) -> "Partial":
        self: Any = super().__new__(cls)
        self.unknown, self.output, self.orders = unknown, int(output), tuple(map(int, orders))
        return self

    def __getnewargs__(self) -> tuple:
        return self.unknown, self.output, self.orders

    def __getstate__(self) -> None:
        return None

    def _hashable_content(self) -> tuple:
        return self.unknown.name, self.unknown.outputs, self.output, self.orders

    @property
    def order(self) -> int:
        """How often it is differentiated."""
        return sum(self.orders)

    def by(self, argument: int) -> "Partial":
        """Differentiated once more, by one of its arguments."""
        orders = list(self.orders)
        orders[argument] += 1
        return Partial(self.unknown, self.output, orders)

    def __str__(self) -> str:
        name = self.unknown.name if self.unknown.outputs == 1 else f"{self.unknown.name}{self.output}"
        if len(self.orders) == 1:
            return name + "'" * self.order
        by = "".join(str(i) * k for i, k in enumerate(self.orders))
        return f"{name}_{by}" if by else name

    def _sympystr(self, printer) -> str:
        return str(self)

    def _sympyrepr(self, printer) -> str:
        return f"Partial({self.unknown!r}, {self.output}, {self.orders})"

    def _latex(self, printer) -> str:
        name = self.unknown.name if self.unknown.outputs == 1 else f"{self.unknown.name}_{{{self.output}}}"
        if len(self.orders) == 1:
            return name + "'" * self.order
        return "".join(rf"\partial_{{{i}}}" * k for i, k in enumerate(self.orders)) + name


class Applied(Node):
    """Applied(partial, x, ...): an unknown function, or a derivative of one, at expressions."""

    @property
    def partial(self) -> Partial:
        """Which function."""
        found: Any = self.args[0]
        return found

    @property
    def unknown(self) -> Unknown:
        """Of which unknown function."""
        return self.partial.unknown

    @property
    def places(self) -> tuple[sp.Expr, ...]:
        """Where."""
        return self.args[1:]

    @property
    def called(self) -> str:
        """The name of the function in generated code."""
        return called(self.unknown)

    @property
    def wanted(self) -> tuple[int, tuple[int, ...]]:
        """Which value of the function at that place: its output, and how often it is differentiated by what."""
        return self.partial.output, self.partial.orders

    def at(self, places: Iterable[sp.Expr]) -> sp.Expr:
        """The same at another place."""
        return self.func(self.args[0], *places)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """The derivative by one of the arguments."""
        return sp.S.Zero if argindex == 1 else self.func(self.partial.by(argindex - 2), *self.places)

    def _eval_evalf(self, prec) -> None:
        return None

    def _sympystr(self, printer) -> str:
        return f"{self.partial}({', '.join(printer.doprint(p) for p in self.places)})"

    def _latex(self, printer, exp=None) -> str:
        inside = ", ".join(printer.doprint(p) for p in self.places)
        text = rf"{self.partial._latex(printer)}\left({inside}\right)"
        return text if exp is None else rf"\left({text}\right)^{{{exp}}}"


def called(unknown: Unknown) -> str:
    """The name of an unknown function in generated code."""
    name = unknown.name
    return f"unknown_{name if is_identifier(name) else hashlib.sha256(name.encode()).hexdigest()[:16]}"


def unknown(name: str, outputs: int = 1) -> Unknown:
    """A function that nobody knows, r = unknown("r"), to be written as r(c, T) in any equation of a System.

    It may stand in any equation, at states, algebraic variables, time, parameters and expressions of these, at several
    places, and is taken as smooth: index reduction differentiates it by the chain rule, so that its derivatives stand
    in the result. What it is, is given when the system is used: `NeuralSystem(system, {r: network})`,
    `solve(..., functions={r: ...})` or `system.given({r: ...})`. With several `outputs`, F(*q) is a column of them.

    Raises ValueError for a name that is none, and for a number of outputs below one.
    """
    if not isinstance(name, str):
        raise ValueError(f"unknown({name!r}): its name is a text")
    check_name(name, "an unknown function")
    if isinstance(outputs, bool) or not isinstance(outputs, int) or outputs < 1:
        raise ValueError(f"unknown({name!r}): outputs={outputs!r}: expected a whole number, at least 1")
    return Unknown(name, outputs)


def applied_in(expressions: Iterable[sp.Basic]) -> set[Applied]:
    """Every place where an unknown function stands."""
    return set[Applied]().union(*(e.atoms(Applied) for e in expressions))


def arities(expressions: Iterable[sp.Basic], where: str) -> dict[Unknown, int]:
    """The unknown functions of expressions with their numbers of arguments, by name.

    Raises ValueError where one name is called with different numbers of arguments, or has different outputs.
    """
    found: dict[str, tuple[Unknown, int, Applied]] = {}
    for e in sorted(applied_in(expressions), key=str):
        known, n, first = found.setdefault(e.unknown.name, (e.unknown, len(e.places), e))
        if n != len(e.places) or known != e.unknown:
            raise ValueError(
                f"{where}: the unknown function {e.unknown} is written {first} and {e}: one name is one function, of "
                "as many arguments and outputs everywhere"
            )
    return {known: n for _, (known, n, _) in sorted(found.items())}
