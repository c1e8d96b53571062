"""Constraints that follow from others: left out on request, with the least of the multipliers that they leave open."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple, cast

import numpy as np
import sympy as sp
from scipy.linalg import qr

from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.ground.typed import symbols_in, symbols_of
from ndae.symbolic.ground.words import listed, shortened
from ndae.symbolic.numeric.ranks import balanced
from ndae.symbolic.numeric.sampling import Evaluator, RandomPoints
from ndae.symbolic.reduction.chains import Chains, Row, eliminate_aliases
from ndae.symbolic.reduction.graphs import StructureError

_ASIDE = 1e-2  # of a variable: how far to the side of a point it is asked whether a constraint still follows
_CHOICES = 500  # of rows that are tried
_EVEN = 0.2  # smallest over largest of the distances from singular of a choice that is good anywhere
_RANK = 1e-8  # of entries of size one, where points are roots that Newton's method found
_FOLLOWS = 1e-9  # of the magnitudes that were added in a constraint
_ARRIVED = 1e-12  # of the magnitudes that were added: there a constraint holds
_ITERATIONS = 100
_NEAR = 0.3  # of a variable: a point farther away may be on another branch, where it need not follow


class Independent(NamedTuple):
    """A system without redundant constraints.

    `equations` has in their place λ = B(y, t)ᵀ (B_I z): of the unknowns λ that the rest leaves open, those with
    coefficients B in its equations, only the row space of B is left, so that λ is the least in Σ λᵢ². B_I are
    independent columns of B, or of combinations of its columns, and z unknowns of their own, behind those of the user.
    """

    equations: Equations
    redundant: dict[int, sp.Expr]  # by the number of the user's equation
    least_norm: tuple[sp.Symbol, ...]  # λ
    origins: tuple[int | None, ...]  # of each equation, the user's number


def without_redundant(system: Equations, sizes: Mapping[sp.Symbol, float] = {}) -> Independent | None:
    """The system without the constraints that follow from others; None where there are none.

    Constraints are equations that contain no leading unknown. Of those, and of their derivatives that are constraints
    too, points are sought where all hold, from values of `sizes`; gradients that depend on others there, at all such
    points, show candidates, and those that vanish beside the points as well, wherever the others hold, are redundant.
    What holds at the default values of parameters alone is so too: solves check it. Raises StructureError where no
    point is found, and where the unknowns that are left open aren't multipliers, linear in equations whose coefficients
    are free of them.
    """
    chains, rows = eliminate_aliases(system, (), sizes)
    signatures = [chains.signature(row.expression) for row in rows]
    top: dict[int, int] = {}
    for signature in signatures:
        top |= {j: max(order, top.get(j, 0)) for j, order in signature.items()}
    held = [i for i, s in enumerate(signatures) if s and all(order < top[j] for j, order in s.items())]
    if len(held) < 2:
        return None
    levels = {i: _levels(chains, rows[i].expression, top) for i in held}
    every = [e for i in held for e in levels[i]]
    symbols = sorted(symbols_in(every) & chains.position.keys(), key=chains.position.__getitem__)
    found = None
    for points in _points(system, chains, every, symbols):
        kept = _kept(levels, symbols, points)
        left = [i for i in held if i not in kept]
        mixed = {i: {d: share for d, share in more.items() if d in left} for i, more in kept.items()}
        own = [e for i in kept for e in levels[i]]
        if left and _follow(system, chains, own, [rows[i].expression for i in left], symbols, points):
            return _with_least_multipliers(system, chains, rows, left, mixed, top, symbols, points)
        found = points
    if found is None:
        raise StructureError(
            f"{system.name}: no values were found for which all constraints hold, so that they may contradict each "
            f"other: {_constraints(rows, held)}"
        )
    return None


def _levels(chains: Chains, expression: sp.Expr, top: dict[int, int]) -> list[sp.Expr]:
    """A constraint and its derivatives as far as they contain no leading unknown."""
    found = [expression]
    while all(order + 1 < top[j] for j, order in chains.signature(found[-1]).items()):
        found.append(chains.derivative(found[-1]))
    return found


class _Points(RandomPoints):
    n_points = 32


def _points(system: Equations, chains: Chains, every: Sequence[sp.Expr], symbols) -> Iterator[RandomPoints]:
    """Points where the expressions vanish, those where their gradients have the same rank together, NaN elsewhere.

    The lowest rank comes first: there is most freedom to move, unless Newton's method ended at singular points alone.
    """
    points = _Points(system.parameters, vary=False, seed=5, size=chains.size)
    with np.errstate(all="ignore"):
        _move_onto(points, every, symbols)
    there = _there(symbols, points)
    if not there.any():
        return
    ranks = np.full(points.n_points, -1)
    ranks[there] = [_rank(values) for values in _gradients(every, symbols, points, there)]
    reached = {s: points[s] for s in symbols}
    for rank in sorted(set(ranks[there].tolist())):
        points.update({s: np.where(ranks == rank, value, np.nan) for s, value in reached.items()})
        yield points


def _rank(matrix: np.ndarray) -> int:
    return int((np.linalg.svd(balanced(matrix)[0], compute_uv=False) > _RANK).sum())


def _move_onto(points: RandomPoints, equations: Sequence[sp.Expr], symbols: Sequence[sp.Symbol]) -> None:
    """Move the values of symbols a short way onto equations = 0; NaN where they do not arrive.

    By the steps of Levenberg and Marquardt, damped by the residual: they are quadratic where equations depend on one
    another too (N. Yamashita and M. Fukushima, Computing Suppl. 15 (2001) 239), where Newton's wander off.
    """
    everywhere, units = np.ones(points.n_points, dtype=bool), np.array([points.size(s) for s in symbols])
    x: Any = np.array([points[s] for s in symbols]).T
    evaluator = Evaluator(points, points.n_points)

    def linearised(x: Any) -> Any:
        points.update(zip(symbols, x.T, strict=True))
        evaluator.renew()
        values, scales = evaluator(equations)
        return values.T, scales.T, _gradients(equations, symbols, points, everywhere, evaluator) * units

    residual, scales, jacobian = linearised(x)
    rows: Any = np.maximum(np.abs(jacobian).max(axis=2), 1e-300)
    damping: Any = np.ones(len(x))
    for _ in range(_ITERATIONS):
        a, r = np.nan_to_num(jacobian / rows[:, :, None]), np.nan_to_num(residual / rows)
        size = np.linalg.norm(r, axis=1)
        left, singular, right = np.linalg.svd(a, full_matrices=False)
        along = np.einsum("pik,pi->pk", left, r) * singular / (singular**2 + (damping * size)[:, None] + 1e-300)
        step = np.einsum("pkj,pk->pj", right, along)
        new = linearised(x - units * step)
        better = np.linalg.norm(new[0] / rows, axis=1) < size
        damping = _chosen(better, np.maximum(damping / 4, 1e-9), damping * 4)
        x = _chosen(better, x - units * step, x)
        old = residual, scales, jacobian
        residual, scales, jacobian = (_chosen(better, b, a) for a, b in zip(old, new, strict=True))
    there = (np.abs(residual) <= _ARRIVED * scales).all(axis=1) & np.isfinite(x).all(axis=1)
    points.update(zip(symbols, np.where(there[:, None], x, np.nan).T, strict=True))


def _chosen(better: np.ndarray, new: Any, old: Any) -> Any:
    """By point, new or old. Any, or type checkers follow every array through all turns of a loop."""
    return np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _there(symbols: Sequence[sp.Symbol], points: RandomPoints) -> np.ndarray:
    return np.asarray(np.isfinite([points[s] for s in symbols]).all(axis=0))


def _kept(levels: dict[int, list[sp.Expr]], symbols, points: RandomPoints) -> dict[int, dict[int, sp.Rational]]:
    """Constraints whose gradients, with those of their derivatives, are independent; those of positions first.

    And what to add to each of others.
    """
    kept: dict[int, dict[int, sp.Rational]] = {}
    there = _there(symbols, points)
    for depth in sorted({len(found) for found in levels.values()}, reverse=True):
        own = [i for i, found in levels.items() if len(found) == depth]
        base = _gradients([e for i in kept for e in levels[i]], symbols, points, there)
        values = _gradients([levels[i][0] for i in own], symbols, points, there)
        found = independent(values, base)
        kept |= {own[k]: {own[d]: share for d, share in more.items()} for k, more in found.items()}
    return kept


def _gradients(
    expressions: Sequence[sp.Expr], symbols: Sequence[sp.Symbol], points: RandomPoints, there, evaluator=None
) -> np.ndarray:
    """(n_points_there, n_expressions, n_symbols)."""
    place = {s: j for j, s in enumerate(symbols)}
    entries = [
        (i, place[s], d)
        for i, e in enumerate(expressions)
        for s, d in partials(e, symbols_of(e) & place.keys()).items()
    ]
    values = np.zeros((points.n_points, len(expressions), len(symbols)))
    with np.errstate(all="ignore"):
        found = (evaluator or Evaluator(points, points.n_points))([d for *_, d in entries])[0]
    for (i, j, _), value in zip(entries, found, strict=True):
        values[:, i, j] = value
    return values[there]


def independent(matrices: np.ndarray, base: np.ndarray | None = None) -> dict[int, dict[int, sp.Rational]]:
    """Rows that are independent of each other, and of those of `base`, as many as the rank is, at most of the points.

    `matrices` (n_points, m, n), `base` (n_points, k, n). Of all choices, or where these are many of those that pivots
    suggest, it is the one that is farthest from singular where it is nearest. Where that is near, with each row stands
    what to add to it of which others: what is singular then is no posture that a start is likely to have.
    """
    n_rows = matrices.shape[1]
    if not len(matrices):
        return {i: {} for i in range(n_rows)}
    base = None if base is None or not base.shape[1] else base
    whole: Any = matrices if base is None else np.concatenate([matrices, base], axis=1)
    ranks = [_rank(matrix) - (0 if base is None else _rank(base[p])) for p, matrix in enumerate(whole)]
    rank = max(ranks)
    if rank == 0:
        return {}
    # In units that are the same at all points: a gradient that vanishes at one of them is to be seen.
    sizes = _or_one(np.median(np.linalg.norm(whole, axis=2), axis=0))
    scaled: Any = whole / sizes[:, None]
    scaled = (scaled / _or_one(np.median(np.abs(scaled).max(axis=1), axis=0)))[np.array(ranks) == rank]
    good, before = scaled[:, :n_rows], scaled[:, n_rows:]
    if base is not None:
        good = good - good @ np.linalg.pinv(before, rcond=_RANK) @ before
    if comb(n_rows, rank) <= _CHOICES:
        choices = set(combinations(range(n_rows), rank))
    else:
        orders = [cast("tuple[np.ndarray, np.ndarray]", qr(a.T, pivoting=True, mode="r"))[1] for a in good]
        choices = {tuple(sorted(int(i) for i in order[:rank])) for order in orders}

    def smallest(choice: tuple[int, ...]) -> np.ndarray:
        return np.linalg.svd(good[:, list(choice)], compute_uv=False)[:, -1]

    chosen = max(sorted(choices), key=lambda choice: smallest(choice).min())
    others, far = [d for d in range(n_rows) if d not in chosen], smallest(chosen)
    if not others or far.min() > _EVEN * far.max():
        return {i: {} for i in chosen}
    random: Any = np.random.default_rng(7)

    def share(i: int, d: int) -> sp.Rational:
        ratio = int(np.round(np.log2(sizes[i] / sizes[d])))
        part = sp.Rational(int(random.integers(4, 12)) * int(random.choice([-1, 1])), 16 * len(others))
        return cast(sp.Rational, part * sp.Integer(2) ** ratio)

    return {i: {d: share(i, d) for d in others} for i in chosen}


def _or_one(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes > 0, sizes, 1.0)


def _follow(system: Equations, chains: Chains, kept, left: Sequence[sp.Expr], symbols, points: RandomPoints) -> bool:
    """Whether `left` vanish beside the points too, where the others hold."""
    random, aside = np.random.default_rng(6), _Points(system.parameters, vary=False, seed=5, size=chains.size)
    aside.update(points)
    sizes = {s: np.nanmedian(np.abs(points[s])) or chains.size(s) for s in symbols}
    for s in symbols:
        aside[s] = points[s] + _ASIDE * (np.abs(points[s]) + sizes[s]) * random.uniform(-1, 1, points.n_points)
    with np.errstate(all="ignore"):
        _move_onto(aside, kept, symbols)
        near = np.all([np.abs(aside[s] - points[s]) <= _NEAR * (np.abs(points[s]) + sizes[s]) for s in symbols], axis=0)
        values, scales = Evaluator(aside, aside.n_points)(left)
    near &= np.isfinite(values).all(axis=0)
    return bool(near.any() and (np.abs(values) <= _FOLLOWS * scales)[:, near].all())


def _with_least_multipliers(
    system: Equations, chains: Chains, rows: Sequence[Row], left, mixed, top, symbols, points
) -> Independent:
    redundant = {rows[i].origins[0]: rows[i].expression for i in left}
    rest = [row.expression for i, row in enumerate(rows) if i not in left]
    algebraic = [chains.symbol(j, 0) for j in sorted(top) if top[j] == 0]
    values = _gradients(rest, algebraic, points, _there(symbols, points))
    found = [_null_space(v) for v in values]
    sizes = {len(space) for space in found}
    open_ = np.any([np.abs(space).max(axis=0, initial=0.0) > 1e-6 for space in found], axis=0) if found else []
    least = [s for s, is_open in zip(algebraic, open_, strict=True) if is_open] if len(open_) else []
    slopes = {(i, s): d for i, e in enumerate(rest) for s, d in partials(e, symbols_of(e) & set(least)).items()}
    names = listed(f"{i} (0 = {shortened(e, 70)})" for i, e in redundant.items())
    if sizes != {len(left)} or any(symbols_of(d) & set(algebraic) for d in slopes.values()):
        raise StructureError(
            f"{system.name}: the redundant equations {names} can be left out, but what they then leave open is not "
            f"{len(left)} multiplier{'s' * (len(left) > 1)}, unknowns that stand in the other equations alone, times "
            "what is free of such unknowns: leave them out by hand, with as many unknowns",
            list(redundant),
        )
    column = {s: [slopes.get((i, s), sp.S.Zero) for i in range(len(rest))] for s in least}
    chosen = independent(np.swapaxes(values[:, :, [algebraic.index(s) for s in least]], 1, 2))
    taken = {s.name for s in (*system.states, *system.parameters)}
    stem = "least_norm"
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    z = sp.symbols(f"{stem}1:{len(chosen) + 1}", real=True)
    spanning = [
        [sp.Add(a, *(share * column[least[d]][i] for d, share in more.items())) for i, a in enumerate(column[least[k]])]
        for k, more in chosen.items()
    ]
    least_norm = [
        s - sp.Add(*[w * sp.Add(*[a * b for a, b in zip(column[s], other, strict=True)])
                     for w, other in zip(z, spanning, strict=True)])
        for s in least
    ]  # fmt: skip
    added = {rows[i].origins[0]: {rows[d].origins[0]: share for d, share in more.items()} for i, more in mixed.items()}
    kept = [i for i in range(len(system.equations)) if i not in redundant]
    equations = Equations(
        system.name,
        (
            *(
                sp.Add(system.equations[i], *(share * system.equations[d] for d, share in added.get(i, {}).items()))
                for i in kept
            ),
            *least_norm,
        ),
        (*system.states, *z),
        system.parameters,
        system.time,
        system.invariants,
        system.outputs,
    )
    return Independent(equations, redundant, tuple(least), (*kept, *[None] * len(least)))


def _null_space(matrix: np.ndarray) -> np.ndarray:
    """Right null vectors, in rows."""
    scaled, _ = balanced(matrix)
    _, singular, right = np.linalg.svd(scaled)
    rank = int((singular > _RANK).sum())
    return right[rank:]


def _constraints(rows: Sequence[Row], held: Sequence[int]) -> str:
    return listed(f"{rows[i].origins[0]} (0 = {shortened(rows[i].expression, 70)})" for i in held)
