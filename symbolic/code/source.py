"""Straight-line source for the definitions of a tape: functions by bare names, or by those of an array module."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.code.term_sizes import Size
from ndae.symbolic.expressions.choices import (
    COMPARISONS,
    JUNCTIONS,
    Both,
    Either,
    Equal,
    Floor,
    Guard,
    Less,
    LessEqual,
    Not,
    Select,
)
from ndae.symbolic.expressions.names import identifiers as plain_identifiers, in_docstring
from ndae.symbolic.expressions.reading import SMOOTH_FUNCTIONS
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.ground.typed import symbols_in, symbols_of

#: Every name that generated source may call besides the definitions' own.
FUNCTION_NAMES = frozenset(SMOOTH_FUNCTIONS) | {
    "sqrt",
    "power",
    "where",
    "guard",
    "solve_linear",
    "newton",
    "converged",
    "abs",
    "floor",
}
_COMPARISONS = {Less: "<", LessEqual: "<=", Equal: "=="}
_JUNCTIONS = {Both: ("and", "&"), Either: ("or", "|")}
_HALF = sp.Rational(1, 2)
_MAX_INLINE = 60  # characters
_CHOICE, _SUM, _NEGATIVE, _PRODUCT, _ATOM = range(5)  # how tightly a text binds


#: Names that torch, JAX and NumPy share for the functions of SymPy that they call otherwise.
_SHARED_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}
_SHARED_NAMES |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}


@dataclass(frozen=True)
class Style:
    """How conditions are written: for Python floats by `if`, which evaluates one branch; for arrays by `where`.

    With a `module`, functions are its own (`torch.sin`), powers are operators, and 1/√s is the backend's `rsqrt(s)`.
    """

    lazy: bool = False
    guards: bool = True
    module: str = ""


SCALAR, PLAIN_ARRAY, ARRAY = Style(lazy=True, guards=False), Style(guards=False), Style()


def identifiers(symbols: Iterable[sp.Symbol], taken: Iterable[str] = ()) -> dict[sp.Symbol, sp.Symbol]:
    """Plain symbols whose names are identifiers, different from one another and from the names of functions."""
    return plain_identifiers(symbols, set(taken) | FUNCTION_NAMES)


class Code:
    """Lines that compute values of a tape, in order; what is used once and is short is written where it is used.

    `uses` counts how often each symbol is written in everything that this code will hold (see `count_uses`).
    """

    def __init__(self, tape: Tape, uses: Mapping[sp.Symbol, int], taken: Iterable[str], style: Style = ARRAY):
        self.tape, self.uses, self.style = tape, uses, style
        self.taken = set(taken) | FUNCTION_NAMES
        self.lines: list[str] = []
        self._names: dict[sp.Symbol, str] = {}
        self._inline: dict[sp.Symbol, tuple[str, int]] = {}
        self._count = 0

    def nested(self) -> "Code":
        """Code of a function inside this one, which may use all that is defined so far."""
        inner = Code(self.tape, self.uses, self.taken, self.style)
        inner._names, inner._inline, inner._count = dict(self._names), dict(self._inline), self._count
        return inner

    def skip(self, inner: "Code") -> None:
        """Leave out the names that a nested function has, for who reads it."""
        self._count = inner._count

    @staticmethod
    def unused(name: str, taken: set[str]) -> str:
        """A name for an array, apart from those of its entries."""
        while name in taken:
            name = f"{name}_vector"
        return name

    def fresh(self) -> str:
        """A name that nothing has yet."""
        while (name := f"s{self._count}") in self.taken:
            self._count += 1
        self._count += 1
        return name

    def define(self, values: Iterable[sp.Basic], named: bool = False) -> None:
        """Write the definitions behind some values; with `named`, give those values themselves a name."""
        values = list(values)
        keep = symbols_in(values) if named else set()
        for symbol in self.tape.needed(values):
            if symbol in self._names or (symbol in self._inline and symbol not in keep):
                continue
            if isinstance(self.tape.definitions[symbol], Applied):
                self._define_calls(symbol, values)
                continue
            text, level = self._inline.pop(symbol, None) or self._expression(self.tape.definitions[symbol])
            single = self.uses.get(symbol, 0) <= 1 and len(text) <= _MAX_INLINE and symbol not in keep
            if single or (isinstance(self.tape.definitions[symbol], Guard) and not self.style.guards):
                self._inline[symbol] = text, level
            else:
                self._names[symbol] = self.fresh()
                self.lines.append(f"{self._names[symbol]} = {text}")

    def _define_calls(self, symbol: sp.Symbol, values: Sequence[sp.Basic]) -> None:
        """Write a call of an unknown function, at all places at once that wait for no more calls than this one."""
        first, depths = self.tape.definitions[symbol], self._call_depths(values)
        assert isinstance(first, Applied)
        calls: list[tuple[sp.Symbol, Applied]] = []
        for s in self.tape.needed(values):
            e = self.tape.definitions[s]
            if isinstance(e, Applied) and e.unknown == first.unknown and depths[s] == depths[symbol]:
                calls += [] if s in self._names else [(s, e)]
        places = {places: i for i, places in enumerate(dict.fromkeys(e.places for _, e in calls))}
        self.define([x for place in places for x in place])
        wanted = tuple((places[e.places], *e.wanted) for _, e in calls)
        where = ", ".join(f"[{', '.join(self.text(x) for x in place)}]" for place in places)
        for s, _ in calls:
            self._names[s] = self.fresh()
        names = ", ".join(self._names[s] for s, _ in calls)
        self.lines.append(f"{names}{',' * (len(calls) == 1)} = {first.called}({wanted}, [{where}])")

    def _call_depths(self, values: Sequence[sp.Basic]) -> dict[sp.Symbol, int]:
        """How many calls of unknown functions each definition behind some values waits for, one after another."""
        depths: dict[sp.Symbol, int] = {}
        for symbol in self.tape.needed(values):
            e = self.tape.definitions[symbol]
            depths[symbol] = isinstance(e, Applied) + max((depths.get(s, 0) for s in symbols_of(e)), default=0)
        return depths

    def text(self, value: sp.Basic) -> str:
        """A value, once its definitions are written."""
        return self._expression(value)[0]

    # -- texts and how tightly they bind ----------------------------------------------------------------------------

    def _expression(self, e: sp.Basic) -> tuple[str, int]:
        if isinstance(e, sp.Symbol):
            return self._inline.get(e) or (self._names.get(e, e.name), _ATOM)
        if isinstance(e, sp.Expr) and e.is_number:
            text = repr(float(e))
            return text, _NEGATIVE if text.startswith("-") else _ATOM
        if isinstance(e, sp.Add):
            return self._sum(e), _SUM
        if isinstance(e, sp.Mul):
            return self._product(e)
        if isinstance(e, sp.Pow):
            return self._power(e.base, e.exp)
        return self._call(e)

    def _tight(self, e: sp.Basic, level: int) -> str:
        text, own = self._expression(e)
        return text if own >= level else f"({text})"

    def _sum(self, e: sp.Add) -> str:
        text = ""
        terms = [self._expression(t) for t in e.args]
        for part, level in sorted(terms, key=lambda term: term[0].startswith("-")):
            part = f"({part})" if level == _CHOICE else part
            if part.startswith("-") and text:
                text += f" - {part[1:]}" if level == _NEGATIVE else f" + ({part})"
            else:
                text += f" + {part}" if text else part
        return text

    def _product(self, e: sp.Mul) -> tuple[str, int]:
        coefficient, rest = e.as_coeff_Mul()
        top, bottom = [], []
        for factor in sp.Mul.make_args(rest):
            power = self.tape.definitions.get(cast(sp.Symbol, factor), factor) if factor in self._inline else factor
            if isinstance(power, sp.Pow) and power.exp.is_Integer and power.exp < 0:
                bottom.append(self._denominator(power.base, -int(power.exp)))
            else:
                top.append(self._tight(factor, _PRODUCT))
        sign = "-" if coefficient.is_negative else ""
        if abs(coefficient) != 1 or not top:
            top.insert(0, repr(abs(float(coefficient))))
        return sign + "*".join(top) + "".join(f"/{b}" for b in bottom), _NEGATIVE if sign else _PRODUCT

    def _denominator(self, base: sp.Expr, n: int) -> str:
        if n == 1:
            return self._tight(base, _ATOM)
        return f"({self._power(base, sp.Integer(n))[0]})"

    def _power(self, base: sp.Expr, exponent: sp.Expr) -> tuple[str, int]:
        if exponent.is_Integer:
            n = abs(int(exponent))
            if exponent < 0:
                return f"1.0/{self._denominator(base, n)}", _PRODUCT
            text = self._tight(base, _ATOM)
            return ("*".join([text] * n), _PRODUCT) if n <= 4 else (f"{text}**{n}", _PRODUCT)
        if exponent == -_HALF and self.style.module:
            return f"rsqrt({self.text(base)})", _ATOM
        if exponent == -_HALF:
            return f"1.0/sqrt({self.text(base)})", _PRODUCT
        if self.style.module:
            return f"{self._tight(base, _ATOM)}**{self._tight(exponent, _ATOM)}", _PRODUCT
        if exponent == _HALF:
            return f"sqrt({self.text(base)})", _ATOM
        return f"power({self.text(base)}, {self.text(exponent)})", _ATOM

    def _call(self, e: sp.Basic) -> tuple[str, int]:
        kind, lazy = type(e), self.style.lazy
        if kind in _COMPARISONS:
            a, b = (self._tight(x, _SUM) for x in e.args)
            return f"({a} {_COMPARISONS[kind]} {b})", _ATOM
        if kind in _JUNCTIONS:
            a, b = (self._tight(x, _ATOM) for x in e.args)
            return f"({a} {_JUNCTIONS[kind][0 if lazy else 1]} {b})", _ATOM
        if kind is Not:
            return f"(not {self.text(e.args[0])})" if lazy else f"(~{self._tight(e.args[0], _ATOM)})", _ATOM
        if kind is Guard and not self.style.guards:
            return self._expression(e.args[1])
        if kind is Select and lazy:
            condition, a = (self._tight(x, _SUM) for x in e.args[:2])
            return f"{a} if {condition} else {self.text(e.args[2])}", _CHOICE
        if isinstance(e, Lookup):
            return f"{e.called}({self._argument(e.place)})", _ATOM
        name = {Select: "where", Guard: "guard", Size: "abs", Floor: "floor"}.get(kind, kind.__name__)
        if name not in FUNCTION_NAMES:
            raise ValueError(
                f"function {name} cannot be generated: supported are {', '.join(sorted(SMOOTH_FUNCTIONS))}"
            )
        if self.style.module:
            name = f"{self.style.module}.{_SHARED_NAMES.get(name, name)}"
        return f"{name}({', '.join(self._argument(x) for x in e.args)})", _ATOM

    def _argument(self, e: sp.Basic) -> str:
        text = self.text(e)
        if self.style.module == "torch" and isinstance(e, sp.Expr) and e.is_number:
            return f"torch.tensor({text}, dtype=torch.float64)"  # atan2(y, 2): torch's functions take tensors alone
        return text


def check_generated(tape: Tape, owner: str) -> None:
    """Raise ValueError if a definition is a function that no backend has."""
    for e in tape.definitions.values():
        known = isinstance(
            e, (sp.Add, sp.Mul, sp.Pow, Select, Guard, Size, Floor, Lookup, Applied, *COMPARISONS, *JUNCTIONS)
        )
        if not known and type(e).__name__ not in SMOOTH_FUNCTIONS:
            raise ValueError(
                f"{owner}: {type(e).__name__} cannot be generated: there are + - * / **, sqrt, Abs, sign, floor, Max, "
                f"Min, Piecewise, tables and {', '.join(sorted(SMOOTH_FUNCTIONS))}"
            )


def count_uses(tape: Tape, values: Sequence[sp.Basic]) -> dict[sp.Symbol, int]:
    """How often each symbol is written in the definitions behind some values, and in the values themselves."""
    uses: dict[sp.Symbol, int] = {}

    def count(e: sp.Basic, times: int) -> None:
        if isinstance(e, sp.Symbol):
            uses[e] = uses.get(e, 0) + times
        elif isinstance(e, sp.Pow) and e.exp.is_Integer and 2 <= abs(e.exp) <= 4:
            count(e.base, int(abs(e.exp)))
        else:
            for a in e.args:
                count(a, times)

    for e in (*values, *(tape.definitions[s] for s in tape.needed(values))):
        count(e, 1)
    return uses


def function_source(
    name: str,
    doc: str,
    tape: Tape,
    arguments: Sequence[tuple[str, Sequence[sp.Symbol]]],
    extras: Sequence[sp.Symbol],
    values: Sequence[sp.Expr],
    style: Style = ARRAY,
) -> str:
    """Source of one function of several vectors, given as lists of their entries, and of single values, to a list."""
    inputs = [s for _, group in arguments for s in group] + list(extras)
    taken = {s.name for s in inputs} | {a for a, _ in arguments} | set(tape.unknowns(values))
    code = Code(tape, count_uses(tape, values), taken, style)
    code.define(values)
    used = {s for e in (*values, *(tape.definitions[d] for d in tape.needed(values))) for s in symbols_of(e)}
    names = [*(a for a, _ in arguments), *(s.name for s in extras), *tape.unknowns(values)]
    header = f"def {name}({', '.join(names)}):"
    lines = [line for a, group in arguments for line in unpack(a, group, used)] + code.lines
    lines = [f'"""{in_docstring(doc)}"""', *lines, f"return {listing(code, values)}"]
    return "\n".join([header, *(f"    {line}" for line in lines), ""])


def unpack(argument: str, group: Sequence[sp.Symbol], used: set[sp.Symbol]) -> list[str]:
    """Statements that give the entries of a vector their names, all at once if most are used."""
    n_used = sum(s in used for s in group)
    if n_used == 0:
        return []
    if 3 * n_used >= 2 * len(group):
        return [f"{', '.join(s.name for s in group)}{',' * (len(group) == 1)} = {argument}"]
    return [f"{s.name} = {argument}[{i}]" for i, s in enumerate(group) if s in used]


def listing(code: Code, values: Sequence[sp.Expr], more: Sequence[str] = ()) -> str:
    """Values, and texts after them, as a list, broken into lines that can be read."""
    entries = [*(code.text(v) for v in values), *more]
    text = f"[{', '.join(entries)}]"
    if len(text) <= 110:
        return text
    return "[\n" + "".join(f"        {entry},\n" for entry in entries) + "    ]"
