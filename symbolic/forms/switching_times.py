"""Times at which an equation switches: where a condition on time and parameters alone, such as t < 1, changes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from ndae.symbolic.expressions.choices import NON_SMOOTH, Extreme, Floor, Magnitude, Signum, at_least
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.typed import arguments, branches_of, symbols_of

_MOST_VARIANTS = 64


class Periods(NamedTuple):
    """floor(slope t + offset), whose value n says which of its periods t is in, and times in each of these.

    `times` are expressions of n and the parameters, at which conditions with this floor may change.
    """

    offset: sp.Expr
    slope: sp.Expr
    n: sp.Symbol
    times: tuple[sp.Expr, ...]


class Knots(NamedTuple):
    """Where a table is not smooth, `at` (n_knots,), and how its argument gets there: slope t + offset.

    Of one that is affine in each of the `periods`, `period` says which it is and `offset` is an expression of its n. Of
    an argument that is neither, slope is None and offset the argument itself.
    """

    offset: sp.Expr
    slope: sp.Expr | None
    period: int | None
    at: np.ndarray


class SwitchingTimes:
    """Conditions of expressions that depend on time and parameters alone, as functions that vanish where they change.

    - `roots`: the times themselves, expressions of the parameters, of conditions that are affine in time.
    - `periods`: a floor(a t + b), such as Mod(t, 1) holds, steps at a time in each of its periods, and conditions that
      are affine in time there change at further ones.
    - `knots`: where tables of times that are affine, or affine in each period, are not smooth.
    - `others`: differences of both sides of all other conditions, such as sin(ω t) > 0 or |t - 1| < 2, then arguments
      of floors and of tables that are not affine, which switch at whole numbers (None) or knots, `counted`; when they
      do in a span has to be searched for.
    - `asked`: tables that have no values outside, with their argument, affine in time.

    Conditions on states are none of these: when they change is known only to the solution.
    """

    def __init__(self, expressions: Iterable[sp.Expr], time: sp.Symbol | None, parameters: Mapping[sp.Symbol, Any]):
        self.time, self.parameters = time, dict(parameters)
        known, differences = {time, *self.parameters}, set[sp.Expr]()
        floors, lookups = set[Floor](), set[Lookup]()
        for e in expressions:
            if time is None or time not in e.free_symbols or not e.has(*NON_SMOOTH):
                continue
            lookups |= {f for f in e.atoms(Lookup) if _of_time(f, time) and f.free_symbols <= known}
            floors |= {f for f in e.atoms(Floor) if _of_time(f, time)}
            differences |= {
                cast(sp.Expr, condition.lhs) - cast(sp.Expr, condition.rhs)
                for condition in (*e.atoms(Relational), *_of_corners(e))
                # What an unknown function says is not foreseen.
                if time in condition.free_symbols and condition.free_symbols <= known and not condition.has(Applied)
            }
        roots: set[sp.Expr] = set()
        others: list[sp.Expr] = []
        counted: list[tuple[sp.Expr, np.ndarray | None]] = []
        inside: dict[Floor, set[sp.Expr]] = {}
        n = sp.Symbol(max((s.name for s in (time, *parameters) if s is not None), default="") + "n", integer=True)
        for floor in sorted(floors, key=sp.default_sort_key):
            (argument,) = arguments(floor)
            if _constant_slope(argument, cast(sp.Symbol, time)) is None:
                counted.append((argument, None))
            else:
                inside[floor] = set()
        for e in sorted(differences, key=sp.default_sort_key):
            assert time is not None  # or there are no differences
            within = e.atoms(Floor) & inside.keys()
            found = _roots(e, time) if not within else None
            if len(within) == 1:
                (floor,) = within
                found = _roots(cast(sp.Expr, e.xreplace({floor: n})), time)
                inside[floor] |= found or set()
            elif found is not None:
                roots |= found
            if found is None:
                others.append(e)
        self.roots = tuple(sorted(roots, key=sp.default_sort_key))
        self.periods = tuple(
            Periods(*_affine(arguments(floor)[0], cast(sp.Symbol, time)), n, tuple(sorted(at, key=str)))
            for floor, at in inside.items()
        )
        places = {place: np.zeros(0) for place in sorted((e.place for e in lookups), key=sp.default_sort_key)}
        for e in lookups:
            places[e.place] = np.union1d(places[e.place], e.table.knots(e.order))
        knots = [_knots(place, at, cast(sp.Symbol, time), list(inside), n) for place, at in places.items() if at.size]
        self.knots = tuple(k for k in knots if k.slope is not None)
        counted += [(k.offset, k.at) for k in knots if k.slope is None]
        self.others, self.counted = (*others, *(e for e, _ in counted)), tuple(at for _, at in counted)
        self.asked = tuple(
            (e.table, e.place) for e in sorted(lookups, key=str)
            if not e.table.held and _constant_slope(e.place, cast(sp.Symbol, time)) is not None
        )  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self.roots or self.others or self.periods or self.knots)

    def roots_function(self) -> VectorFunction:
        """`roots` (n_roots,) as a function of the parameters."""
        return VectorFunction(self.roots, {"_none": ()}, None, self.parameters, "switching times")

    def others_function(self) -> VectorFunction:
        """`others` (..., n_others) as a function of (..., 1) times and the parameters."""
        return VectorFunction(
            self.others, {"t": () if self.time is None else (self.time,)}, None, self.parameters, "switching conditions"
        )

    def lines_function(self) -> VectorFunction:
        """Offsets and slopes, (2 * n_periods,), of all periods as a function of the parameters."""
        lines = [e for period in self.periods for e in (period.offset, period.slope)]
        return VectorFunction(lines, {"_none": ()}, None, self.parameters, "periods")

    def knots_function(self, which: int) -> VectorFunction:
        """offset and slope (..., 2) of one of the knots as a function of (..., 1) numbers n and the parameters."""
        knots, n = self.knots[which], self.periods[0].n if self.periods else sp.Symbol("n")
        return VectorFunction(
            [knots.offset, cast(sp.Expr, knots.slope)], {"_n": (n,)}, None, self.parameters, "argument of a table"
        )

    def asked_function(self) -> VectorFunction:
        """The arguments (..., n_asked) of `asked` as a function of (..., 1) times and the parameters."""
        inputs = {"t": () if self.time is None else (self.time,)}
        return VectorFunction([e for _, e in self.asked], inputs, None, self.parameters, "arguments of tables")

    def times_function(self, which: int) -> VectorFunction:
        """The `times` (..., n_times) of one of the periods as a function of (..., 1) numbers n and the parameters."""
        period = self.periods[which]
        return VectorFunction(period.times, {"_n": (period.n,)}, None, self.parameters, "times in a period")


def _knots(place: sp.Expr, at: np.ndarray, time: sp.Symbol, floors: Sequence[Floor], n: sp.Symbol) -> Knots:
    within = [i for i, floor in enumerate(floors) if place.has(floor)]
    affine = cast(sp.Expr, place.xreplace({floors[within[0]]: n})) if len(within) == 1 else place
    if _constant_slope(affine, time) in (None, 0):
        return Knots(place, None, None, at)
    return Knots(*_affine(affine, time), within[0] if within else None, at)


def _of_corners(expression: sp.Expr) -> list[Any]:
    """The conditions by which Abs, sign, Max and Min choose."""
    found = [c for e in expression.atoms(Extreme) for c in e.running()]
    return found + [at_least(arguments(e)[0], sp.S.Zero) for e in expression.atoms(Magnitude, Signum)]


def _roots(e: sp.Expr, time: sp.Symbol) -> set[sp.Expr] | None:
    """Where e vanishes, of every choice that it holds; None unless each is affine in time."""
    found = set()
    for i, variant in enumerate(_variants(e)):
        slope = _constant_slope(variant, time)
        if slope is None or i >= _MOST_VARIANTS:
            return None
        if slope != 0:
            found.add(-variant.subs(time, 0) / slope)
    return found


def _variants(e: sp.Expr) -> Iterator[sp.Expr]:
    """An expression with each of its choices made in every way; those of sign by its values."""
    inner = e.atoms(Magnitude, Signum, Extreme, sp.Piecewise)
    if not inner:
        yield e
        return
    node = min(inner, key=lambda c: (len(c.atoms(*NON_SMOOTH)), str(c)))  # an innermost one
    if isinstance(node, Magnitude):
        sides = [node.args[0], -node.args[0]]
    elif isinstance(node, Signum):
        sides = [sp.S.One, -sp.S.One]
    else:
        sides = list(node.chosen) if isinstance(node, Extreme) else [v for v, _ in branches_of(node)]
    for side in sides:
        yield from _variants(cast(sp.Expr, e.xreplace({node: side})))


def _of_time(e: sp.Expr, time: sp.Symbol) -> bool:
    return time in e.free_symbols and not e.has(Applied)


def _affine(e: sp.Expr, time: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
    """offset and slope of an expression that is affine in time."""
    slope = _constant_slope(e, time)
    assert slope is not None
    return cast(sp.Expr, e.subs(time, 0)), slope


def _constant_slope(e: sp.Expr, time: sp.Symbol) -> sp.Expr | None:
    """∂e/∂t where it is free of time, up to sums of products written out; None where it is not."""
    if time in symbols_of(e) and e.has(*NON_SMOOTH):
        return None
    slope = e.diff(time)
    if slope.has(time) and slope.count_ops() < 200:
        slope = sp.expand_mul(slope)
    return None if slope.has(time) else slope
