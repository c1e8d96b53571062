"""Points that solutions pass through, and leading equations that depend on one another there, though not elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp
from scipy.linalg import solve_triangular

from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.ground.typed import symbols_in, symbols_of
from ndae.symbolic.numeric.ranks import balanced
from ndae.symbolic.numeric.sampling import Evaluator, NearOne, RandomPoints
from ndae.symbolic.reduction.chains import Chains, Row
from ndae.symbolic.reduction.graphs import StructureError

_SINGULAR = 1e-12  # singular values of a balanced matrix below it are what Newton's method leaves of a zero
_CONVERGED = 1e-11  # of the magnitudes that were added
_VANISHED = 1e-20  # of the value at the start: what is left of x where x² = 0 has been halved often enough
_STEP = 1e-12  # of the point: Newton's steps end below it, at simple roots and at multiple ones
_NEAR = 1e-3  # of the point: longer last steps go on to infinity
_FOUND = 1e-2  # of a variable: its last Newton step, where it has digits of its own
_FAR = 1e4  # a solution of nonlinear equations beyond it may be one at infinity
_ITERATIONS = 100
_PATIENCE = 25  # iterations after which a point that is near no solution is drawn anew
_NEIGHBOUR = 1e-4  # of the point: how far off an entry is compared,
_ZERO = 1e-2  # and the fraction of its value there below which it counts as zero here
_LEAST = 4  # points for a verdict
_LARGEST = 60  # equations solved at once


def solution_points(
    system,
    chains: Chains,
    rows: Sequence[Row],
    analysis,
    jacobian: Mapping,
    constraints: Sequence[sp.Expr],
    equations: Sequence[sp.Expr],
) -> RandomPoints | None:
    """Random points with C(y, t) = 0 and T(y, w, t) = 0, NaN where none was found; None where that is nearly all.

    They are reached from random values by Gauss-Newton steps, w block by block. Raises StructureError if a part of
    the leading Jacobian is singular at all of them. So it is with redundant constraints such as x² − y, y² − z,
    x⁴ − z, and with x² + y² = 0: at any other point their gradients are independent. So it is, too, with e = 0 and
    w e + r = 0, whose Jacobian by w and what else leads e has the determinant e.
    """
    start = RandomPoints(system.parameters, vary=False, seed=3, size=chains.size)
    held = symbols_in(constraints) & chains.position.keys()
    leading = [chains.symbol(j, order) for j, order in enumerate(analysis.offsets.orders)]
    blocks = []
    for group in analysis.groups:
        columns = sorted(analysis.offsets.matching.columns[i] for i in group)
        blocks.append((group, columns, [[jacobian.get((i, j), sp.S.Zero) for j in columns] for i in group]))

    def check(block, points):
        group, columns, matrix = block
        if any(e.free_symbols & chains.position.keys() for row in matrix for e in row):
            _check(system, chains, rows, group, columns, matrix, start, points)

    def move_blocks(points) -> bool:
        if constraints and not _move(
            points, constraints, sorted(held, key=chains.position.__getitem__), _slopes(constraints, held)
        ):
            return False
        for group, columns, matrix in blocks:
            own = [leading[j] for j in columns]
            linear = not any(e.free_symbols & set(own) for row in matrix for e in row)
            if linear:
                check((group, columns, matrix), points)
            slopes = [(k, s, e) for k, row in enumerate(matrix) for s, e in zip(own, row, strict=True) if e != 0]
            if not _move(points, [equations[i] for i in group], own, slopes):
                return False
            if not linear:
                check((group, columns, matrix), points)
        return True

    everything = [*constraints, *equations]
    symbols = symbols_in(everything) & chains.position.keys()

    def move_all(points) -> bool:
        """Where T = 0 has solutions for some y alone, it is singular there: look for y and w at once."""
        unknowns = sorted(symbols, key=chains.position.__getitem__)
        if len(everything) > _LARGEST or not _move(points, everything, unknowns, _slopes(everything, symbols)):
            return False
        for block in blocks:
            check(block, points)
        return True

    refused = None
    with np.errstate(all="ignore"):
        for move in (move_blocks, move_all):
            # Newton's method may end where equations are singular, though elsewhere they hold and are not: begun
            # somewhere else it arrives there, as a load flow does that is begun at voltages of one.
            for kind in (RandomPoints, NearOne):
                points = kind(system.parameters, vary=False, seed=3, size=chains.size)
                try:
                    if move(points):
                        return points
                except StructureError as error:
                    if kind is RandomPoints and move is move_blocks:
                        raise
                    refused = refused or error
    if refused is not None:
        raise refused
    return None


def _slopes(equations: Sequence[sp.Expr], symbols: set[sp.Symbol]) -> list[tuple[int, sp.Symbol, sp.Expr]]:
    return [(i, s, d) for i, e in enumerate(equations) for s, d in partials(e, symbols_of(e) & symbols).items()]


def _move(points: RandomPoints, equations: Sequence[sp.Expr], symbols: Sequence[sp.Symbol], slopes) -> bool:
    """Move the values of some symbols onto equations = 0; whether enough arrived. `slopes` lists (row, symbol, ∂)."""
    place = {s: j for j, s in enumerate(symbols)}
    rows, columns = np.array([i for i, _, _ in slopes]), np.array([place[s] for _, s, _ in slopes])
    units = np.array([[points.size(s)] for s in symbols])
    x = np.array([points[s] for s in symbols]) / units  # (n_symbols, n_points)
    step = np.full(points.n_points, np.inf)
    last = np.full(x.shape, np.inf)
    done = np.zeros(points.n_points, dtype=bool)
    there: Any = done
    first, evaluator = None, Evaluator(points, points.n_points)
    for iteration in range(_ITERATIONS):
        lost = ~there & ~(step <= _NEAR * (1 + np.abs(x).max(axis=0)))
        if iteration and iteration % _PATIENCE == 0 and lost.any():
            if int((~lost).sum()) >= _LEAST and (done | lost).all():
                break
            # Far from any solution steps may not end, however long: from elsewhere they do.
            again = np.array([points.drawn(s) for s in symbols]) / units
            x[:, lost], step[lost], done[lost] = again[:, lost], np.inf, False
        points.update(zip(symbols, units * x, strict=True))
        evaluator.renew()
        values, scales = evaluator(equations)
        first = np.abs(values) if first is None else first
        there = (np.abs(values) <= np.maximum(_CONVERGED * scales, _VANISHED * first)).all(axis=0)
        done |= there & (step <= _STEP * (1 + np.abs(x).max(axis=0)))
        gradients = evaluator([e for _, _, e in slopes])[0]
        usable = ~done & np.isfinite(values).all(axis=0) & np.isfinite(gradients).all(axis=0)
        if not usable.any():
            break
        for p in np.flatnonzero(usable):
            jacobian = np.zeros((len(equations), len(symbols)))
            jacobian[rows, columns] = gradients[:, p] * units[columns, 0]
            change = _shortest(jacobian, values[:, p])
            size, last[:, p] = np.abs(change).max(), np.abs(change)
            done[p] = there[p] and size > 0.9 * step[p]  # nothing but rounding is left
            if not done[p]:
                x[:, p] -= change
                step[p] = size
    there = there & (step <= _NEAR * (1 + np.abs(x).max(axis=0)))
    if any(not e.free_symbols.isdisjoint(place) for _, _, e in slopes):
        there &= np.abs(x).max(axis=0) <= _FAR
    # A variable that Newton's method found to many digits of its own, however small it is.
    points.found.update(s for j, s in enumerate(symbols) if (last[j] <= _FOUND * np.abs(x[j]))[there].all())
    x[:, ~there] = np.nan
    points.update(zip(symbols, units * x, strict=True))
    return int(there.sum()) >= _LEAST


def _shortest(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The shortest x with matrix · x = right, of least squares where there is none."""
    if matrix.shape[0] <= matrix.shape[1]:
        q, r = np.linalg.qr(matrix.T)
        size = np.abs(np.diag(r))
        if size.min() > 1e-8 * size.max():
            return q @ solve_triangular(r, right, trans=1)
    return np.linalg.lstsq(matrix, right, rcond=1e-12)[0]


def _check(system, chains: Chains, rows, group, columns, matrix, start, points: RandomPoints) -> None:
    """Raise StructureError if the matrix is singular at all points that were reached, but not where they started."""
    entries = [e for row in matrix for e in row]
    symbols = sorted(set().union(*(e.free_symbols for e in entries)), key=str)
    random = np.random.default_rng(4)

    def beside(symbol):
        if symbol not in chains.position:
            return points[symbol]
        # A double root is zero to a few digits alone.
        size = np.abs(points[symbol]) + (symbol not in points.found) * chains.size(symbol)
        return points[symbol] + _NEIGHBOUR * size * random.choice([-1.0, 1.0], points.n_points)

    near = {s: beside(s) for s in symbols}
    n, m = points.n_points, len(group)
    values, next_to, before = (
        Evaluator(p, n)(entries)[0].T.reshape(n, m, m) for p in (points, near, {s: start[s] for s in symbols})
    )
    finite = np.isfinite(values).all(axis=(1, 2))
    if finite.sum() < _LEAST:
        return
    values = np.where(np.abs(values) <= _ZERO * np.abs(next_to), 0.0, values)[finite]
    if not all(_is_singular(v) for v in values):  # mostly the first says no
        return
    if all(_is_singular(v) for v in before[np.isfinite(before).all(axis=(1, 2))]):
        return
    left, _, right = np.linalg.svd(balanced(values[0])[0])
    dependent, free = [group[i] for i in _large(left[:, -1])], [columns[j] for j in _large(right[-1])]
    raise _refusal(system, chains, rows, dependent, free)


def _is_singular(matrix: np.ndarray) -> bool:
    singular = np.linalg.svd(balanced(matrix)[0], compute_uv=False)
    return bool(singular[-1] <= _SINGULAR * singular[0])


def _large(vector: np.ndarray) -> list[int]:
    return [int(i) for i in np.flatnonzero(np.abs(vector) > 1e-6 * np.abs(vector).max())]


def _refusal(system, chains: Chains, rows, dependent, unknowns) -> StructureError:
    origins = sorted({o for i in dependent for o in rows[i].origins})
    names = [chains.symbol(j, 0).name for j in unknowns]
    listed = "; ".join(f"{o}: 0 = {str(system.equations[o])[:70]}" for o in origins[:8])
    return StructureError(
        f"{system.name}: wherever they hold, these equations depend on one another, so that nothing "
        f"determines the unknowns {', '.join(names[:12])}: {listed}; leave out constraints that follow from others, or "
        'accept them by System(..., redundant="least-norm"); write each so that its gradient does not vanish where it '
        "holds, x rather than x**2, and no multiple of one equation into another (seen at random points where they "
        "hold, begun at values of order one)",
        origins,
        names,
        by_numbers=True,
    )
