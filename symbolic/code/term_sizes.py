"""How large the terms are that add up to a residual: what its rounding, and so an iteration's end, is measured by."""

from collections.abc import Collection, Sequence
from typing import cast

import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.expressions.choices import COMPARISONS, JUNCTIONS, Guard, Select
from ndae.symbolic.expressions.limits import distinct
from ndae.symbolic.expressions.nodes import Node
from ndae.symbolic.ground.typed import symbols_of


class Size(Node):
    """|x| as every backend has it, never differentiated."""

    nargs = 1


def term_sizes(tape: Tape, values: Sequence[sp.Expr], moving: Collection[sp.Symbol]) -> list[sp.Expr]:
    """For each value a bound of its rounding, in units of the machine epsilon, on the tape.

    It is the running error analysis of the definitions that depend on the `moving` inputs: a sum is as large as its
    terms together, E(Σ c_i a_i) = Σ |c_i| E(a_i); anything else repeats what its arguments have, E(f(a)) = |f| +
    Σ |∂f/∂a_i| E(a_i), where a product and a power need no |f| of their own. What does not move is exact, and as large
    as it is: a residual whose unknown is zero is still measured by what is known in it.
    """
    known: dict[sp.Symbol, sp.Expr] = {s: tape.value(Size(s)) for s in moving}

    def size(value: sp.Expr) -> sp.Expr:
        coefficient, symbol = value.as_coeff_Mul()
        if not isinstance(symbol, sp.Symbol):
            return tape.value(abs(value))
        return tape.value(abs(coefficient) * known.get(cast(sp.Symbol, symbol), Size(symbol)))

    for symbol in tape.needed(values):
        e = tape.definitions[symbol]
        if known.keys().isdisjoint(e.free_symbols) or isinstance(e, (*COMPARISONS, *JUNCTIONS)):
            continue
        if isinstance(e, Select):
            known[symbol] = tape.select(e.args[0], *[size(a) for a in e.args[1:]])
        elif isinstance(e, Guard):
            known[symbol] = size(e.args[1])
        elif isinstance(e, sp.Add):
            known[symbol] = tape.value(sp.Add(*[size(a) for a in e.args]))
        else:
            terms = [tape.value(_absolute(tape, p) * known[a]) for a, p in tape.partials(symbol) if a in known]
            whole = isinstance(e, sp.Mul) or (isinstance(e, sp.Pow) and e.exp.is_Integer)
            known[symbol] = tape.value(sp.Add(*terms, *([] if whole else [Size(symbol)])))
    return [size(v) for v in values]


def _degree(e: sp.Basic, states: Collection[sp.Symbol]) -> int:
    """0 of what holds none of the states, 1 of what is linear in them, and 2 of what else there is."""
    degrees: dict[sp.Basic, int] = {}
    for node in distinct(e):
        inner = [degrees[a] for a in node.args]
        if not node.args:
            degrees[node] = int(node in states)
        elif isinstance(node, sp.Mul):
            degrees[node] = min(sum(inner), 2)
        else:
            degrees[node] = max(inner) if isinstance(node, sp.Add) else 2 * any(inner)
    return degrees[e]


def _absolute(tape: Tape, value: sp.Expr) -> sp.Expr:
    coefficient, symbol = value.as_coeff_Mul()
    return tape.value(abs(coefficient) * (Size(symbol) if isinstance(symbol, sp.Symbol) else abs(symbol)))


def cancelling_size(tape: Tape, e: sp.Expr, states: Collection[sp.Symbol]) -> sp.Expr:
    """How large the terms are that cancel where e = 0: what a relative tolerance goes by, on the tape.

    Of a sum it is half of all of them, where terms that are linear in the states count as one: that of |b − a| − L or
    b − a − d does not grow with the distance of a and b from the origin. Of a product it is that of the factors'.
    """
    if isinstance(e, sp.Add):
        constant, linear, others = [], [], []
        for term in e.args:
            within = symbols_of(term) & set(states)
            if not within:
                constant.append(term)
            elif _degree(term, within) == 1:
                linear.append(term)
            else:
                others.append(term)
        parts = [_absolute(tape, tape.value(part)) for part in (sp.Add(*constant), sp.Add(*linear), *others)]
        return tape.value(sp.Add(*parts) / 2)
    if isinstance(e, sp.Mul):
        return tape.value(sp.Mul(*[cancelling_size(tape, factor, states) for factor in e.args]))
    if isinstance(e, sp.Pow) and e.exp.is_Integer and e.exp > 0:
        return tape.value(cancelling_size(tape, e.base, states) ** e.exp)
    return _absolute(tape, tape.value(e))
