"""Text to SymPy by a whitelist over Python's syntax tree; nothing of the text is ever evaluated."""

import ast
import math
from collections.abc import Mapping, Sequence

import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.limits import HYPERBOLIC, MAX_POWER, check_digits, check_hyperbolic
from ndae.symbolic.expressions.reading import SMOOTH_FUNCTIONS
from ndae.symbolic.expressions.tables import Table, spline
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.ground.words import shortened
from ndae.symbolic.numeric.divisors import check_divisors

MAX_LENGTH, MAX_LENGTH_NONSMOOTH = 2000, 20_000
MAX_DEPTH = 60
MAX_EXPONENT = 16
MAX_ARGUMENTS = 99
MAX_NUMBER = 1e300

_CONSTANTS = {"pi": sp.pi}
_FUNCTIONS = {"sqrt": sp.sqrt} | SMOOTH_FUNCTIONS
#: Read with `nonsmooth=True` alone: name and least and greatest number of arguments.
_NONSMOOTH = {"Abs": (1, 1), "sign": (1, 1), "Max": (2, 99), "Min": (2, 99), "Rational": (2, 2), "Piecewise": (1, 99)}
_NONSMOOTH |= {"dot": (1, 1), "floor": (1, 1), "ceiling": (1, 1), "frac": (1, 1), "Mod": (2, 2), "Heaviside": (1, 2)}
_NONSMOOTH |= {"interpolating_spline": (4, 4)}
_COMPARISONS = {ast.Lt: sp.Lt, ast.LtE: sp.Le, ast.Gt: sp.Gt, ast.GtE: sp.Ge}
_BINARY = {ast.Add: sp.Add, ast.Sub: lambda a, b: a - b, ast.Mult: sp.Mul, ast.Div: lambda a, b: a / b}


def parse_expression(
    text: str,
    symbols: Mapping[str, sp.Symbol] | Sequence[str | sp.Symbol],
    *,
    nonsmooth: bool = False,
    tables: Mapping[str, Table | Unknown] = {},
) -> sp.Expr:
    """Turn text such as "sqrt(x**2 + y**2) - L" into a SymPy expression over the declared `symbols`.

    Allowed are numbers, declared names, pi, + - * /, ** with a constant exponent of at most 16, parentheses, and
    calls of sqrt and the smooth functions with plain arguments. `symbols` maps names to symbols, or lists names or
    symbols. Raises ValueError, quoting the offending part, on everything else.

    With `nonsmooth`, as the equations of a DAE may have it, also Abs, sign, Max, Min, floor, ceiling, frac, Mod(a, b),
    Heaviside(a) (1/2 at 0, or what a second argument says), Rational(p, q) of two whole numbers, the time derivative
    dot(...), and Piecewise((value, condition), ..., (value, True)), whose conditions compare two expressions by <, <=,
    > or >=; interpolating_spline(d, t, [t0, ...], [u0, ...]) of numbers; calls u(t) of the `tables`, and f(x, ...) of
    unknown functions among them, by their names; and up to 20,000 characters instead of 2,000.
    """
    functions = frozenset(_FUNCTIONS) | (frozenset(_NONSMOOTH) if nonsmooth else frozenset())
    table = _table(symbols, functions)
    if not isinstance(text, str):
        raise ValueError(f"expected an expression as text, got {type(text).__name__}")
    longest = MAX_LENGTH_NONSMOOTH if nonsmooth else MAX_LENGTH
    if len(text) > longest:
        raise ValueError(
            f"expression of {len(text)} characters: at most {longest} are read; build longer ones in SymPy"
        )
    if not text.isascii():
        odd = next(c for c in text if not c.isascii())
        raise ValueError(
            f"expression contains {odd!r} (U+{ord(odd):04X}): only ASCII is read, so that no letter looks like another"
        )
    depth = 0
    for c in text:  # before Python's own parser meets it
        depth += (c in "([{") - (c in ")]}")
        if depth > MAX_DEPTH:
            raise ValueError(
                f"expression is nested deeper than {MAX_DEPTH} parentheses: simplify it, or build it in SymPy"
            )
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "too complex"
        raise ValueError(f"{_quote(text)} is no expression ({reason}): write one like 'x**2 + y**2 - 1'") from None
    reader = _Reader(text.strip(), table, functions, nonsmooth, tables)
    expression = reader.read(tree.body, 0)
    reader.check_divisors(tree.body)
    return expression


def _table(symbols, functions: frozenset[str]) -> dict[str, sp.Symbol]:
    if isinstance(symbols, Mapping):
        items = list(symbols.items())
    else:
        items = [(s, sp.Symbol(s)) if isinstance(s, str) else (s.name, s) for s in symbols]
    table = {}
    for name, symbol in items:
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            raise ValueError(f"symbol name {name!r} is not an identifier: write letters, digits and _ alone")
        if name in functions or name in _CONSTANTS:
            raise ValueError(f"symbol name {name!r} is taken by a function or constant: choose another name")
        if name in table:
            raise ValueError(f"symbol name {name!r} is given twice: name each once")
        table[name] = symbol
    return table


def _quote(text: str) -> str:
    return repr(shortened(text))


class _Reader:
    def __init__(self, text: str, symbols: dict, functions: frozenset[str], nonsmooth: bool, tables: Mapping):
        self.text, self.symbols, self.functions = text, symbols, functions
        self.nonsmooth, self.tables = nonsmooth, tables

    def part(self, node) -> str:
        return _quote(ast.get_source_segment(self.text, node) or type(node).__name__)

    def read(self, node, depth: int) -> sp.Expr:
        # A long sum is a deep tree; its depth is bounded by the text's length, and this one keeps Python's stack safe.
        if depth > 300:
            raise ValueError(f"expression is nested deeper than 300 operations at {self.part(node)}: build it in SymPy")
        if isinstance(node, ast.Constant):
            return self.number(node)
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
            value = self.read(node.operand, depth + 1)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return self.power(node, depth)
        if self.nonsmooth and isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            return self.sum(node, depth)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            left, right = self.read(node.left, depth + 1), self.read(node.right, depth + 1)
            if isinstance(node.op, ast.Div) and right == 0:
                raise ValueError(f"division by zero in {self.part(node)}: remove it")
            return self.finite(_BINARY[type(node.op)](left, right), node)
        if isinstance(node, ast.Call):
            return self.call(node, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
            raise ValueError(f"'^' in {self.part(node)} is no power in Python: write **")
        if isinstance(node, ast.Compare):
            raise ValueError(
                f"{self.part(node)} is a comparison: write what should be zero, left side minus right side"
            )
        raise ValueError(
            f"{type(node).__name__} in {self.part(node)} is not allowed: write numbers, declared names, + - * / **, "
            f"parentheses and the functions {', '.join(sorted(self.functions))}"
        )

    def check_divisors(self, node) -> None:
        """Refuse divisions by numbers that are zero but for rounding, as written: SymPy adds decimals up at once."""
        with sp.evaluate(False):
            try:
                as_written = self.read(node, 0)
            except (ValueError, TypeError):  # of what has a value once it is simplified alone
                return
        check_divisors(as_written, self.part(node))

    def sum(self, node, depth: int) -> sp.Expr:
        """A sum of any number of terms, which is as deep a tree as it has terms, without going down into it."""
        terms, left = [], node
        while isinstance(left, ast.BinOp) and isinstance(left.op, (ast.Add, ast.Sub)):
            term = self.read(left.right, depth + 1)
            terms.append(-term if isinstance(left.op, ast.Sub) else term)
            left = left.left
        return self.finite(sp.Add(self.read(left, depth + 1), *reversed(terms)), node)

    def number(self, node) -> sp.Expr:
        value = node.value
        if type(value) not in (int, float):
            raise ValueError(f"{self.part(node)} is no real number: write digits like 2 or 0.5")
        if abs(value) > MAX_NUMBER:
            raise ValueError(f"number {self.part(node)} is beyond {MAX_NUMBER:g}: scale the units")
        if type(value) is int:
            return sp.Integer(value)
        return sp.Float(value)

    def name(self, node) -> sp.Expr:
        if node.id in self.symbols:
            return self.symbols[node.id]
        if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if node.id in self.functions or node.id in self.tables:
            raise ValueError(f"function {node.id!r} stands without its argument: write {node.id}(...)")
        raise ValueError(f"name {node.id!r} is not declared: declared are {', '.join(self.symbols) or 'none'}")

    def power(self, node, depth: int) -> sp.Expr:
        base, exponent = self.read(node.left, depth + 1), self.read(node.right, depth + 1)
        if not exponent.is_number:
            raise ValueError(f"exponent in {self.part(node)} is not constant: write exp(... * log(...))")
        if not exponent.is_real or abs(float(exponent)) > MAX_EXPONENT:
            raise ValueError(f"exponent in {self.part(node)} is beyond {MAX_EXPONENT}: write a smaller one")
        if base == 0 and exponent <= 0:
            raise ValueError(f"zero to the power {exponent} in {self.part(node)}: remove it")
        half = sp.nsimplify(exponent) if exponent.is_Float and float(2 * exponent).is_integer() else exponent
        if isinstance(base, sp.Pow) and base.exp.is_Integer and abs(int(base.exp) * float(half)) > MAX_POWER:
            raise ValueError(f"{self.part(node)} is a power beyond {MAX_POWER}: write a smaller one")
        return self.finite(base**half, node)

    def call(self, node, depth: int) -> sp.Expr:
        known = self.functions | self.tables.keys()
        if not isinstance(node.func, ast.Name) or node.func.id not in known:
            raise ValueError(f"call {self.part(node)} is not allowed: the functions are {', '.join(sorted(known))}")
        name = node.func.id
        least, most = _NONSMOOTH.get(name, (2, 2) if name == "atan2" else (1, 1))
        if isinstance(self.tables.get(name), Unknown):
            least, most = 1, MAX_ARGUMENTS
        if node.keywords or not least <= len(node.args) <= most or any(isinstance(a, ast.Starred) for a in node.args):
            count = least if least == most else f"at least {least}"
            raise ValueError(f"{self.part(node)}: {name} takes {count} plain argument{'s' if most > 1 else ''}")
        if name == "Piecewise":
            return self.piecewise(node, depth)
        if name == "interpolating_spline":
            return self.spline(node, depth)
        arguments = [self.read(a, depth + 1) for a in node.args]
        if name in self.tables:
            return self.tables[name](*arguments)
        if name in _NONSMOOTH:
            return self.finite(self.nonsmooth_function(name, arguments, node), node)
        if all(a.is_number for a in arguments):  # by floats first: SymPy would compute exp(exp(99)) exactly
            try:
                getattr(math, name)(*map(float, arguments))
            except (ValueError, OverflowError):
                raise ValueError(f"{self.part(node)} is no finite real number: only those have a residual") from None
        made = _FUNCTIONS[name]
        if made in HYPERBOLIC:
            with sp.evaluate(False):
                check_hyperbolic(made(*arguments), self.part(node))
        return self.finite(made(*arguments), node)

    def nonsmooth_function(self, name: str, arguments: list[sp.Expr], node) -> sp.Expr:
        if name == "Rational":
            if not all(a.is_Integer for a in arguments) or arguments[1] == 0:
                raise ValueError(f"{self.part(node)}: Rational takes two whole numbers, the second not zero")
            return sp.Rational(*arguments)
        if name == "dot":
            return dot(arguments[0])
        if name == "Mod" and arguments[1] == 0:
            raise ValueError(f"division by zero in {self.part(node)}: remove it")
        # Left as written, for SymPy would compare every argument with every other.
        return getattr(sp, name)(*arguments, evaluate=all(a.is_number for a in arguments))

    def piecewise(self, node, depth: int) -> sp.Expr:
        pairs = []
        for i, pair in enumerate(node.args):
            if not isinstance(pair, ast.Tuple) or len(pair.elts) != 2:
                raise ValueError(f"{self.part(pair)} in Piecewise is no pair: write (value, condition)")
            value, condition = pair.elts
            last = i == len(node.args) - 1
            if last != (isinstance(condition, ast.Constant) and condition.value is True):
                raise ValueError(
                    f"{self.part(pair)} in Piecewise: the last condition, and no other, is True, for all other cases"
                )
            pairs.append((self.read(value, depth + 1), sp.true if last else self.comparison(condition, depth + 1)))
        return self.finite(sp.Piecewise(*pairs), node)

    def spline(self, node, depth: int) -> sp.Expr:
        degree, *lists = node.args[0], *node.args[2:]
        if not (isinstance(degree, ast.Constant) and type(degree.value) is int):
            raise ValueError(f"{self.part(node)}: its degree is a whole number, got {self.part(degree)}")
        columns = []
        for given in lists:
            entries = [self.read(e, depth + 1) for e in given.elts] if isinstance(given, (ast.List, ast.Tuple)) else []
            if not entries or not all(e.is_number for e in entries):
                raise ValueError(f"{self.part(node)}: {self.part(given)} is no list of numbers: write [0, 1, 2]")
            columns.append([float(e) for e in entries])
        return spline(degree.value, *columns)(self.read(node.args[1], depth + 1))

    def comparison(self, node, depth: int) -> sp.Basic:
        if not isinstance(node, ast.Compare) or len(node.ops) != 1 or type(node.ops[0]) not in _COMPARISONS:
            raise ValueError(
                f"condition {self.part(node)} is no comparison of two expressions: write one such as x > 0, with "
                "<, <=, > or >="
            )
        sides = self.read(node.left, depth + 1), self.read(node.comparators[0], depth + 1)
        return _COMPARISONS[type(node.ops[0])](*sides)

    def finite(self, value: sp.Expr, node) -> sp.Expr:
        coefficient = value if value.is_Rational else value.as_coeff_Mul()[0]
        if value.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.I):
            raise ValueError(f"{self.part(node)} is {value}: only finite real numbers have a residual")
        if coefficient.is_Float and not 1e-300 <= abs(float(coefficient)) <= 1e300 and coefficient != 0:
            raise ValueError(f"{self.part(node)} has a factor beyond 1e300 or below 1e-300: scale the units")
        if value.is_Number and (abs(value) > sp.Float(1e300) or 0 != abs(value) < sp.Float(1e-300)):
            raise ValueError(f"{self.part(node)} is beyond 1e300 or below 1e-300: scale the units")
        if isinstance(coefficient, sp.Rational):
            check_digits(coefficient, self.part(node))
        return value
