"""Expressions as text that says all of them, in as many words as they have different nodes."""

from collections.abc import Iterable

import sympy as sp

from ndae.symbolic.expressions.tables import Lookup, Table
from ndae.symbolic.expressions.unknowns import Applied, Partial


def recipe_of(expressions: Iterable[sp.Basic]) -> str | None:
    """Alike for expressions that are alike to the last digit and assumption.

    None where functions that are given or tables are in them: what these are does not stand in the expression.
    """
    number: dict[int, int] = {}  # of a node, by identity: SymPy takes 2 and 2.0 for equal in some versions
    lines: list[str] = []
    roots = list(expressions)
    stack: list[sp.Basic] = roots[::-1]
    while stack:
        node = stack[-1]
        if id(node) in number:
            stack.pop()
            continue
        if isinstance(node, Lookup | Table | Applied | Partial):
            return None
        waiting = [a for a in node.args if id(a) not in number]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        kind = f"{type(node).__module__}.{type(node).__name__}"
        places = [number[id(a)] for a in node.args]
        lines.append(f"{kind} {places}" if places else f"{kind} {sp.srepr(node)}")
        number[id(node)] = len(lines) - 1
    return "\n".join([*lines, repr([number[id(e)] for e in roots])])
