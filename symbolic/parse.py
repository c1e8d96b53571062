"""Text to SymPy by a whitelist over Python's syntax tree; nothing of the text is ever evaluated."""

import ast
import math
from collections.abc import Mapping, Sequence

import sympy as sp

from symbolic.expressions import SMOOTH_FUNCTIONS

MAX_LENGTH = 2000
MAX_DEPTH = 60
MAX_EXPONENT = 16
MAX_NUMBER = 1e15

_CONSTANTS = {"pi": sp.pi}
_FUNCTIONS = {"sqrt": sp.sqrt} | SMOOTH_FUNCTIONS
_BINARY = {ast.Add: sp.Add, ast.Sub: lambda a, b: a - b, ast.Mult: sp.Mul, ast.Div: lambda a, b: a / b}


def parse_expression(text: str, symbols: Mapping[str, sp.Symbol] | Sequence[str | sp.Symbol]) -> sp.Expr:
    """Turn text such as "sqrt(x**2 + y**2) - L" into a SymPy expression over the declared `symbols`.

    Allowed are numbers, declared names, pi, + - * /, ** with a constant exponent of at most 16, parentheses, and
    calls of sqrt and the smooth functions with plain arguments. `symbols` maps names to symbols, or lists names or
    symbols. Raises ValueError, quoting the offending part, on everything else.
    """
    table = _table(symbols)
    if not isinstance(text, str):
        raise ValueError(f"expected an expression as text, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ValueError(
            f"expression of {len(text)} characters: at most {MAX_LENGTH} are read; build longer ones in SymPy"
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
    return _Reader(text.strip(), table).read(tree.body, 0)


def _table(symbols) -> dict[str, sp.Symbol]:
    if isinstance(symbols, Mapping):
        items = list(symbols.items())
    else:
        items = [(s, sp.Symbol(s)) if isinstance(s, str) else (s.name, s) for s in symbols]
    table = {}
    for name, symbol in items:
        if not isinstance(name, str) or not name.isascii() or not name.isidentifier():
            raise ValueError(f"symbol name {name!r} is not an identifier: write letters, digits and _ alone")
        if name in _FUNCTIONS or name in _CONSTANTS:
            raise ValueError(f"symbol name {name!r} is taken by a function or constant: choose another name")
        if name in table:
            raise ValueError(f"symbol name {name!r} is given twice: name each once")
        table[name] = symbol
    return table


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


class _Reader:
    def __init__(self, text: str, symbols: dict[str, sp.Symbol]):
        self.text, self.symbols = text, symbols

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
            f"parentheses and the functions {', '.join(sorted(_FUNCTIONS))}"
        )

    def number(self, node) -> sp.Expr:
        value = node.value
        if type(value) not in (int, float):
            raise ValueError(f"{self.part(node)} is no real number: write digits like 2 or 0.5")
        if not math.isfinite(float(value) if abs(value) < 10**300 else math.inf) or abs(value) > MAX_NUMBER:
            raise ValueError(f"number {self.part(node)} is beyond {MAX_NUMBER:g}: scale the units")
        if type(value) is int:
            return sp.Integer(value)
        return sp.Float(value)

    def name(self, node) -> sp.Expr:
        if node.id in self.symbols:
            return self.symbols[node.id]
        if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        if node.id in _FUNCTIONS:
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
        return self.finite(base**half, node)

    def call(self, node, depth: int) -> sp.Expr:
        if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
            raise ValueError(
                f"call {self.part(node)} is not allowed: the functions are {', '.join(sorted(_FUNCTIONS))}"
            )
        name = node.func.id
        expected = 2 if name == "atan2" else 1
        if node.keywords or len(node.args) != expected or any(isinstance(a, ast.Starred) for a in node.args):
            raise ValueError(f"{self.part(node)}: {name} takes {expected} plain argument{'s' if expected > 1 else ''}")
        arguments = [self.read(a, depth + 1) for a in node.args]
        if all(a.is_number for a in arguments):  # by floats first: SymPy would compute exp(exp(99)) exactly
            try:
                getattr(math, name)(*map(float, arguments))
            except (ValueError, OverflowError):
                raise ValueError(f"{self.part(node)} is no finite real number: only those have a residual") from None
        return self.finite(_FUNCTIONS[name](*arguments), node)

    def finite(self, value: sp.Expr, node) -> sp.Expr:
        if value.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.I):
            raise ValueError(f"{self.part(node)} is {value}: only finite real numbers have a residual")
        if value.is_Number and abs(value) > sp.Float(1e300):
            raise ValueError(f"{self.part(node)} is beyond 1e300: scale the units")
        return value
