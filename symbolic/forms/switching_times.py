"""Times at which an equation switches: where a condition on time and parameters alone, such as t < 1, changes."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import sympy as sp
from sympy.core.relational import Relational

from ndae.symbolic.expressions.choices import NON_SMOOTH, Extreme, Magnitude, Signum, at_least
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.typed import arguments


class SwitchingTimes:
    """Conditions of expressions that depend on time and parameters alone, as functions that vanish where they change.

    - `roots`: the times themselves, expressions of the parameters, of conditions that are affine in time.
    - `others`: differences of both sides of all other conditions, such as sin(ω t) > 0 or |t - 1| < 2; which of their
      roots lie in a span of time has to be searched for.

    Conditions on states are none of these: when they change is known only to the solution.
    """

    def __init__(self, expressions: Iterable[sp.Expr], time: sp.Symbol | None, parameters: Mapping[sp.Symbol, Any]):
        self.time, self.parameters = time, dict(parameters)
        known = {time, *self.parameters}
        differences = {
            cast(sp.Expr, condition.lhs) - cast(sp.Expr, condition.rhs)
            for e in expressions
            if time is not None and e.has(*NON_SMOOTH) and time in e.free_symbols
            for condition in (*e.atoms(Relational), *_of_corners(e))
            if time in condition.free_symbols and condition.free_symbols <= known
        }
        roots: set[sp.Expr] = set()
        others: list[sp.Expr] = []
        for e in sorted(differences, key=sp.default_sort_key):
            assert time is not None  # or there are no differences
            slope = _constant_slope(e, time)
            if slope is None:
                others.append(e)
            elif slope != 0:
                roots.add(-e.subs(time, 0) / slope)
        self.roots = tuple(sorted(roots, key=sp.default_sort_key))
        self.others = tuple(others)

    def __bool__(self) -> bool:
        return bool(self.roots or self.others)

    def roots_function(self) -> VectorFunction:
        """`roots` (n_roots,) as a function of the parameters."""
        return VectorFunction(self.roots, {"_none": ()}, None, self.parameters, "switching times")

    def others_function(self) -> VectorFunction:
        """`others` (..., n_others) as a function of (..., 1) times and the parameters."""
        return VectorFunction(
            self.others, {"t": () if self.time is None else (self.time,)}, None, self.parameters, "switching conditions"
        )


def _of_corners(expression: sp.Expr) -> list[Any]:
    """The conditions by which Abs, sign, Max and Min choose."""
    found = [c for e in expression.atoms(Extreme) for c in e.running()]
    return found + [at_least(arguments(e)[0], sp.S.Zero) for e in expression.atoms(Magnitude, Signum)]


def _constant_slope(e: sp.Expr, time: sp.Symbol) -> sp.Expr | None:
    """∂e/∂t where it is free of time, up to sums of products written out; None where it is not."""
    if e.has(*NON_SMOOTH):
        return None
    slope = e.diff(time)
    if slope.has(time) and slope.count_ops() < 200:
        slope = sp.expand_mul(slope)
    return None if slope.has(time) else slope
