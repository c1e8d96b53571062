"""Expressions as plain lists for JSON, and back: every node once, by the numbers of its arguments.

No text is evaluated: a node is one of the kinds below, and its class is looked up in a table.
"""

from collections.abc import Sequence
from typing import Any

import sympy as sp

from ndae.symbolic.expressions import choices
from ndae.symbolic.expressions.derivatives import Rate
from ndae.symbolic.expressions.limits import distinct
from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.expressions.nodes import Node
from ndae.symbolic.expressions.reading import SMOOTH_FUNCTIONS
from ndae.symbolic.expressions.tables import Lookup, Table
from ndae.symbolic.expressions.unknowns import Applied, Partial, Unknown

_SUMS = (sp.Add, sp.Mul, sp.Pow)
_CORNERS = (sp.Abs, sp.Max, sp.Min, sp.sign, sp.floor, sp.ceiling, sp.frac, sp.Heaviside, sp.Mod, sp.Piecewise)
_PARTS = (sp.re, sp.im, sp.conjugate, sp.And, sp.Or, sp.Not, sp.Lt, sp.Le, sp.Gt, sp.Ge, sp.Eq, sp.Ne)
_CHOICES = [c for c in vars(choices).values() if isinstance(c, type) and issubclass(c, Node) and c is not Node]
_OURS = (Rate, Lookup, Applied, *_CHOICES)
_BRANCH = type(sp.Piecewise((0, sp.Symbol("x") > 0), (1, True)).args[0])
_BY_NAME = {c.__name__: c for c in (*_SUMS, *SMOOTH_FUNCTIONS.values(), *_CORNERS, *_PARTS, *_OURS, _BRANCH)}
#: Numbers and truth values of which there is one each.
_SINGLE = {"pi": sp.pi, "E": sp.E, "true": sp.true, "false": sp.false}


class Plain:
    """Writes expressions: `nodes` is a list of lists of texts, numbers and the numbers of earlier nodes."""

    def __init__(self) -> None:
        self.nodes: list[list[Any]] = []
        self._known: dict[sp.Basic, int] = {}

    def add(self, expression: sp.Basic) -> int:
        """The number of an expression's node; raises ValueError for one that holds something else than is read."""
        for e in distinct(expression):
            if e not in self._known:
                self.nodes.append(self._node(e))
                self._known[e] = len(self.nodes) - 1
        return self._known[expression]

    def _node(self, e: sp.Basic) -> list[Any]:
        single = next((name for name, value in _SINGLE.items() if e is value), None)
        if single is not None:
            return [single]
        if type(e) is sp.Symbol:
            return ["Symbol", e.name, dict(sorted(e.assumptions0.items()))]
        if isinstance(e, sp.Rational):
            return ["Rational", str(e.p), str(e.q)]
        if isinstance(e, sp.Float):
            sign, mantissa, exponent, bits = e._mpf_
            return ["Float", int(sign), str(int(mantissa)), int(exponent), int(bits), int(e._prec)]
        if isinstance(e, Table):
            return ["Table", e.breaks.tolist(), e.rows.tolist(), e.last, e.held, e.label]
        if isinstance(e, Partial):
            return ["Partial", e.unknown.name, e.unknown.outputs, e.output, list(e.orders)]
        name = type(e).__name__
        if not e.args or _BY_NAME.get(name) is not type(e):
            raise ValueError(f"{e} is a {name}, which is not written to files")
        return [name, *(self._known[a] for a in e.args)]


def read_plain(nodes: Sequence[Sequence[Any]]) -> list[sp.Basic]:
    """The expressions that `Plain` wrote, one a node. Raises ValueError on what it never writes."""
    found: list[sp.Basic] = []
    for number, node in enumerate(nodes):
        try:
            found.append(_read(node, found))
        except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise ValueError(f"node {number} of the expressions, {str(node)[:80]}, can't be read: {error}") from error
    return found


def _read(node: Sequence[Any], before: Sequence[sp.Basic]) -> sp.Basic:
    kind, *parts = node
    if kind in _SINGLE:
        return _SINGLE[kind]
    if kind == "Symbol":
        name, assumptions = parts
        check_name(name, "the symbol")
        return sp.Symbol(name, **{str(key): bool(value) for key, value in assumptions.items()})
    if kind == "Rational":
        return sp.Rational(*(int(part) for part in parts))
    if kind == "Float":
        sign, mantissa, exponent, bits, precision = parts
        return sp.Float((int(sign), int(mantissa), int(exponent), int(bits)), precision=int(precision))
    if kind == "Table":
        breaks, rows, last, held, label = parts
        return Table(breaks, rows, last, held, str(label))
    if kind == "Partial":
        name, outputs, output, orders = parts
        check_name(name, "the unknown function")
        return Partial(Unknown(name, int(outputs)), output, orders)
    if any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(before) for i in parts):
        raise ValueError("its arguments are numbers of nodes before it")
    arguments = [before[i] for i in parts]
    cls: Any = _BY_NAME[kind]
    return cls(*arguments) if cls is _BRANCH else cls(*arguments, evaluate=False)
