"""Expressions as lines of text, in which what is long or shared is written once, under a name."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import sympy as sp

from ndae.symbolic.expressions.limits import distinct
from ndae.symbolic.expressions.names import fresh
from ndae.symbolic.ground.typed import symbols_in

MAX_WRITTEN = 1000  # operations of what is written out
_MAX_LINE = 20  # operations of what is written where it is used, once,
_SHORT = 3  # and of what is where it is used more often
_MAX_LINES = 300  # definitions of one text
_MAX_TERMS = 100  # terms or factors of one line

Print = Callable[[sp.Basic], str]


def size(expression: sp.Basic, known: Mapping[sp.Basic, int] = {}) -> int:
    """Operations and symbols of an expression written out; `known` has those behind some symbols."""
    sizes: dict[sp.Basic, int] = {}
    for e in distinct(expression):
        sizes[e] = known.get(e, 1) if not e.args else 1 + sum(sizes[a] for a in e.args)
    return sizes[expression]


def lines_of(heads: Sequence[str], expressions: Sequence[sp.Expr], show: Print = str) -> list[str]:
    """A line for each expression, behind its head; of long ones what is in them first, each part once."""
    if max(map(size, expressions), default=0) <= MAX_WRITTEN:
        return [f"  {head}{show(e)}" for head, e in zip(heads, expressions, strict=True)]
    nodes = (node for e in expressions for node in distinct(e))
    steps = {node: node for node in nodes if node.args and isinstance(node, sp.Expr) and not node.is_number}
    return shared_lines(heads, expressions, steps, show, symbols_in(expressions))


def shared_lines(
    heads: Sequence[str],
    values: Sequence[sp.Expr],
    steps: Mapping[Any, sp.Basic],
    show: Print,
    symbols: Collection[sp.Symbol],
    put: Mapping[Any, sp.Basic] = {},
) -> list[str]:
    """Lines of values after those of the steps to them, which are in order; a step stands for what it maps to.

    `symbols` are those whose names are taken; `put` has what is written for others.
    """
    uses: dict[sp.Basic, int] = {}
    for part in (*values, *(a for e in steps.values() for a in e.args)):
        for step in _steps_in(part, steps):
            uses[step] = uses.get(step, 0) + 1
    taken, lines, written = {s.name for s in symbols}, [], dict(put)
    results = set(values)
    for step, e in steps.items():
        text = _with(e, written)
        shared = uses.get(step, 0) > 1
        if size(text) > (_SHORT if shared else _MAX_LINE) and (shared or step not in results):
            name = fresh([f"s{len(lines)}"], taken)[0]
            lines.append(f"  {name} = {_short(text, show)}")
            text = name
        written[step] = text
    n = len(lines)
    if n > _MAX_LINES:
        lines[_MAX_LINES:] = [f"  ... and {n - _MAX_LINES} more definitions, which the generated functions have"]
    return lines + [f"  {head}{_short(_with(e, written), show)}" for head, e in zip(heads, values, strict=True)]


def _steps_in(e: sp.Basic, steps: Mapping) -> Iterable[sp.Basic]:
    """The outermost steps in an expression, each as often as it stands there."""
    stack = [e]
    while stack:
        node = stack.pop()
        if node in steps:
            yield node
        else:
            stack.extend(node.args)


def _with(e: sp.Basic, written: Mapping[sp.Basic, sp.Basic]) -> sp.Basic:
    if e in written:
        return written[e]
    if not e.args:
        return e
    args = [_with(a, written) for a in e.args]
    return e if all(a is b for a, b in zip(args, e.args, strict=True)) else e.func(*args)


def _short(e: sp.Basic, show: Print) -> str:
    if len(e.args) <= _MAX_TERMS:
        return show(e)
    what = "terms" if e.is_Add else "factors" if e.is_Mul else "arguments"
    return f"{show(e.func(*e.args[:_MAX_TERMS]))} ... and {len(e.args) - _MAX_TERMS} more {what}"
