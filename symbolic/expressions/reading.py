"""Local points, and the check that an expression is smooth and can be generated."""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, cast, overload

import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from ndae.symbolic.expressions.limits import distinct
from ndae.symbolic.ground.typed import symbols_in

#: Every function that an expression may contain: each is smooth on its domain and exists in torch, JAX and NumPy.
SMOOTH_FUNCTIONS: dict[str, type] = {
    f.__name__: f
    for f in (
        *(sp.sin, sp.cos, sp.tan, sp.asin, sp.acos, sp.atan, sp.atan2),
        *(sp.sinh, sp.cosh, sp.tanh, sp.asinh, sp.acosh, sp.atanh, sp.exp, sp.log),
    )
}

_NON_SMOOTH = (sp.Abs, sp.Max, sp.Min, sp.sign, sp.floor, sp.ceiling, sp.frac, sp.Piecewise, sp.Heaviside)
_NON_SMOOTH += (sp.DiracDelta, sp.Mod, sp.arg, sp.re, sp.im, sp.conjugate)
_SUPPORTED = tuple(SMOOTH_FUNCTIONS.values())


@overload
def substituted(e: sp.Expr, table: Mapping[Any, sp.Basic], known: dict[sp.Basic, sp.Basic]) -> sp.Expr: ...
@overload
def substituted(e: sp.Basic, table: Mapping[Any, sp.Basic], known: dict[sp.Basic, sp.Basic]) -> sp.Basic: ...
def substituted(e: sp.Basic, table: Mapping[Any, sp.Basic], known: dict[sp.Basic, sp.Basic]) -> sp.Basic:
    """`e.xreplace(table)`, with subexpressions that come again rebuilt once; `known` keeps them for the next call."""
    if e in table:
        return table[e]
    if not e.args:
        return e
    if e not in known:
        args = [substituted(a, table, known) for a in e.args]
        same = all(new is old for new, old in zip(args, e.args, strict=True))
        known[e] = e if same else rebuilt(e, args)
    return known[e]


def rebuilt(e: sp.Basic, args: Sequence[sp.Basic]) -> sp.Basic:
    """The node with other arguments; comparisons in a Piecewise stay as they are, which SymPy would merge."""
    if isinstance(e, sp.Piecewise):
        return sp.Piecewise(*args, evaluate=False)
    if isinstance(e, (sp.Ge, sp.Gt, sp.Le, sp.Lt)) and not all(a.is_number for a in args):
        return e.func(*args, evaluate=False)
    return e.func(*args)


def as_expressions(expressions, owner: str) -> tuple[sp.Expr, ...]:
    """Flatten what the user wrote (numbers, expressions, equations, matrices) to expressions that should vanish."""
    if isinstance(expressions, (sp.Expr, Relational, sp.MatrixBase)):
        expressions = [expressions]
    unordered = isinstance(expressions, (str, Mapping, Set))
    if unordered or not isinstance(expressions, (Iterable, sp.MatrixBase)):
        raise ValueError(
            f"{owner}: expected a list of SymPy expressions, got {expressions!r} (text goes through parse_expression)"
        )
    flat: list[Any] = []
    for entry in expressions:
        flat.extend(cast("Iterable[Any]", entry) if isinstance(entry, sp.MatrixBase) else [entry])
    result = []
    for i, entry in enumerate(flat):
        if isinstance(entry, str):
            raise ValueError(
                f"{owner}: expression {i} is text ({entry!r}): turn it into SymPy by parse_expression(text, symbols)"
            )
        if isinstance(entry, sp.Equality):
            entry = cast(sp.Expr, entry.lhs) - cast(sp.Expr, entry.rhs)
        if isinstance(entry, (Relational, Boolean)) and not isinstance(entry, sp.Expr):  # a Symbol is both
            raise ValueError(
                f"{owner}: expression {i} is {entry}: write an expression that should be zero, or sympy.Eq(left, right)"
            )
        try:
            entry = sp.sympify(entry, strict=True)
        except sp.SympifyError:
            raise ValueError(f"{owner}: expression {i} is {entry!r}, not a SymPy expression") from None
        if not isinstance(entry, sp.Expr) or isinstance(entry, sp.Lambda):
            raise ValueError(f"{owner}: expression {i} is {entry!r}, not a scalar SymPy expression")
        result.append(entry)
    if not result:
        raise ValueError(f"{owner}: no expressions: give at least one")
    return tuple(result)


def check_smooth(expression: sp.Expr, where: str) -> None:
    """Raise ValueError unless the expression is built of numbers, symbols, + * ** and SMOOTH_FUNCTIONS alone."""
    for node in reversed(list(distinct(expression))):
        if node.is_number and not node.is_Atom:
            _check_finite(node, where)
        if isinstance(node, _SUPPORTED) or node.is_Symbol or node.is_Add or node.is_Mul or node.is_Pow:
            continue
        if node in (sp.nan, sp.oo, -sp.oo, sp.zoo):
            raise ValueError(f"{where} contains {node}: only finite numbers have a residual")
        if node.is_Number or node.is_NumberSymbol:
            _check_finite(node, where)
            continue
        if isinstance(node, _NON_SMOOTH):
            hint = " (√(x²) of one real symbol is |x|: use x itself or x**2)" if isinstance(node, sp.Abs) else ""
            raise ValueError(
                f"{where} contains {type(node).__name__} in {node}, which is not smooth: a constraint needs two "
                f"derivatives everywhere; rewrite it, for example |x| - L as x**2 - L**2{hint}"
            )
        if node is sp.I:
            raise ValueError(
                f"{where} contains the imaginary unit: residuals are real; split it into real and imaginary part"
            )
        kind = "undefined function" if isinstance(node, AppliedUndef) else "unsupported"
        raise ValueError(
            f"{where} contains {node} ({kind} {type(node).__name__}): supported are + - * / **, sqrt and "
            + ", ".join(sorted(SMOOTH_FUNCTIONS))
        )


def _check_finite(number: Any, where: str) -> None:
    try:
        finite = math.isfinite(float(number))
    except (TypeError, OverflowError, ValueError):
        finite = False
    if finite and number.is_Number and number != 0 and float(number) == 0:
        raise ValueError(f"{where} contains {_short(number)}, which is zero in double precision: scale it")
    if not finite and not any(isinstance(n, _NON_SMOOTH) for n in sp.preorder_traversal(number)):
        raise ValueError(
            f"{where} contains {_short(number)}, which is no finite real number in double precision: rewrite or scale "
            "it"
        )


def _short(number: Any) -> str:
    text = str(number)
    return text if len(text) <= 60 else f"{text[:30]}... ({len(text)} characters)"


def check_symbols(expressions: Sequence[sp.Expr], declared: Mapping[str, Sequence[sp.Symbol]], owner: str) -> None:
    """Raise ValueError on a symbol declared twice, or used but not declared.

    `declared` maps a role ("state", "parameter", "time") to its symbols.
    """
    by_name: dict[str, tuple[str, sp.Symbol]] = {}
    for role, symbols in declared.items():
        for symbol in symbols:
            if symbol.name in by_name:
                raise ValueError(
                    f"{owner}: the name {symbol.name!r} is declared twice (as {by_name[symbol.name][0]} and "
                    f"as {role}): rename one"
                )
            by_name[symbol.name] = (role, symbol)
    for symbol in sorted(symbols_in(expressions), key=str):
        role, known = by_name.get(symbol.name, (None, None))
        if role is None or known is None:
            where = next(i for i, e in enumerate(expressions) if symbol in e.free_symbols)
            raise ValueError(
                f"{owner}: symbol {symbol.name!r} in expression {where} ({expressions[where]}) is not "
                f"declared: add it to the "
                f"states or points, to parameters={{{symbol.name}: value}}, or as time=; declared are {sorted(by_name)}"
            )
        if known != symbol:
            raise ValueError(
                f"{owner}: symbol {symbol.name!r} in the expressions is not the {role} {symbol.name!r}: they "
                f"have the same name "
                f"but other assumptions ({symbol.assumptions0.get('real')} and "
                f"{known.assumptions0.get('real')} for real): "
                "create it once and use that object in both places"
            )
