"""Whether an expression whose derivative is asked for has one: where branches of it meet, they must agree."""

from collections.abc import Collection
from typing import cast

import numpy as np
import sympy as sp
from sympy.core.relational import Relational

from ndae.symbolic.expressions.choices import Floor, Signum
from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.ground.typed import branches_of, symbols_of
from ndae.symbolic.ground.words import shortened
from ndae.symbolic.numeric.sampling import Evaluator, RandomPoints

_ASIDE = 1e-9  # how far from where a condition changes both sides are looked at, of what it compares
_JUMP = 1e-6  # of the values there


def check_continuous(expression: sp.Expr, moving: Collection[sp.Symbol], where: str) -> None:
    """Raise ValueError if an expression jumps as symbols move, or if that can't be told: its derivative is a pulse.

    Both sides of a condition of a Piecewise are compared in numbers that are drawn; of one that is affine in none of
    its symbols it can't be told where it changes.
    """
    steps = sorted((e for e in expression.atoms(Signum, Floor) if e.free_symbols & set(moving)), key=str)
    jumping = (e for e in expression.atoms(Lookup) if e.free_symbols & set(moving) and e.table.jumps(e.order).size)
    steps += sorted(jumping, key=str)
    if steps:
        raise _refused(where, f"{shortened(steps[0])} jumps")
    for piecewise in sorted(expression.atoms(sp.Piecewise), key=str):
        for condition in sorted(set().union(*(c.atoms(Relational) for _, c in branches_of(piecewise))), key=str):
            if condition.free_symbols & set(moving):
                _check_condition(piecewise, condition, where)


def _check_condition(piecewise: sp.Piecewise, condition: Relational, where: str) -> None:
    difference = cast(sp.Expr, condition.lhs) - cast(sp.Expr, condition.rhs)
    slopes = partials(difference, symbols_of(difference))
    affine = [s for s, slope in slopes.items() if s not in symbols_of(slope) and slope != 0]
    if not affine:
        raise _refused(where, f"whether branches agree where {shortened(condition)} changes is not known")
    s = min(affine, key=str)
    points = RandomPoints({}, vary=False)
    for other in sorted(symbols_of(piecewise), key=str):
        points[other] = points[other]
    points[s] = np.zeros(points.n_points)
    (offset, slope), _ = Evaluator(points, points.n_points)([difference, slopes[s]])
    at, sides = -offset / slope, []
    for aside in (-_ASIDE, _ASIDE):
        points[s] = at + aside * np.maximum(np.abs(at), 1 / np.abs(slope))
        sides.append(Evaluator(points, points.n_points)([piecewise]))
    (before, size), (after, _) = sides
    if np.any(np.abs(after - before) > _JUMP * np.maximum(size, 1e-300)):
        raise _refused(where, f"{shortened(piecewise)} jumps where {shortened(condition)} changes")


def _refused(where: str, why: str) -> ValueError:
    return ValueError(
        f"{where}: {why}, and the derivative of a jump is a pulse, which no solution passes: write out the derivative "
        "that is meant"
    )
