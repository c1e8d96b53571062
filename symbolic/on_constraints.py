"""Leading equations that depend on one another where the constraints hold, though not elsewhere."""

from collections.abc import Mapping, Sequence

import numpy as np
import sympy as sp

from symbolic.chains import Chains, Row, partials
from symbolic.null_vectors import balanced
from symbolic.sampling import Evaluator, RandomPoints
from symbolic.structural import StructureError

_SINGULAR = 1e-12  # singular values of a balanced matrix below it are what Newton's method leaves of a zero
_CONVERGED = 1e-11  # of the magnitudes that were added
_ITERATIONS = 50
_LEAST = 4  # points on the constraints for a verdict


def check_on_constraints(
    system, chains: Chains, rows: Sequence[Row], analysis, jacobian: Mapping, constraints: Sequence[sp.Expr]
) -> None:
    """Raise StructureError if a part of the leading Jacobian is singular wherever C = 0.

    So it is with redundant constraints such as x² − y, y² − z, x⁴ − z: at any other point their gradients are
    independent. Tried at random points moved onto C = 0 by Gauss-Newton steps; where too few arrive there, nothing is
    said.
    """
    held = set().union(*(c.free_symbols for c in constraints)) & chains.position.keys()
    entries: dict[int, list[tuple[int, int]]] = {}
    group_of = {i: g for g, group in enumerate(analysis.groups) for i in group}
    own = {g: {analysis.offsets.matching.columns[i] for i in group} for g, group in enumerate(analysis.groups)}
    for i, j in jacobian:
        if j in own[group_of[i]]:
            entries.setdefault(group_of[i], []).append((i, j))
    groups = [g for g in sorted(entries) if any(jacobian[place].free_symbols & held for place in entries[g])]
    if not groups:
        return
    points = _points_on(constraints, sorted(held, key=chains.position.get), system.parameters)
    if points is None:
        return
    evaluator = Evaluator(points, RandomPoints.n_points)
    for g in groups:
        group, unknowns = analysis.groups[g], sorted(own[g])
        values = evaluator([jacobian.get((i, j), sp.S.Zero) for i in group for j in unknowns])[0]
        values = values.T.reshape(-1, len(group), len(unknowns))
        values = values[np.isfinite(values).all(axis=(1, 2))]
        if len(values) < _LEAST:
            continue
        if all(_is_singular(value) for value in values):  # mostly the first says no
            left, _, right = np.linalg.svd(balanced(values[0])[0])
            dependent, free = [group[i] for i in _large(left[:, -1])], [unknowns[j] for j in _large(right[-1])]
            raise _refusal(system, chains, rows, dependent, free)


def _is_singular(matrix: np.ndarray) -> bool:
    singular = np.linalg.svd(balanced(matrix)[0], compute_uv=False)
    return bool(singular[-1] < _SINGULAR * singular[0])


def _points_on(constraints: Sequence[sp.Expr], symbols: Sequence[sp.Symbol], parameters) -> dict | None:
    """Values of all symbols at the random points, NaN at those that did not get onto the constraints."""
    points = RandomPoints(parameters, vary=False, seed=3)
    place = {s: j for j, s in enumerate(symbols)}
    slopes = [
        (i, place[s], e)
        for i, c in enumerate(constraints)
        for s, e in partials(c, c.free_symbols & set(symbols)).items()
    ]
    rows, columns = np.array([i for i, _, _ in slopes]), np.array([j for _, j, _ in slopes])
    x = np.array([points[s] for s in symbols])  # (n_symbols, n_points)
    for _ in range(_ITERATIONS):
        points.update(zip(symbols, x, strict=True))
        evaluator = Evaluator(points, points.n_points)
        values, scales = evaluator(constraints)
        off = ~(np.abs(values) <= _CONVERGED * scales).all(axis=0)
        gradients = evaluator([e for _, _, e in slopes])[0]
        usable = off & np.isfinite(values).all(axis=0) & np.isfinite(gradients).all(axis=0)
        if not usable.any():
            break
        for p in np.flatnonzero(usable):
            jacobian = np.zeros((len(constraints), len(symbols)))
            jacobian[rows, columns] = gradients[:, p]
            x[:, p] -= np.linalg.lstsq(jacobian, values[:, p], rcond=1e-12)[0]
    if (~off).sum() < _LEAST:
        return None
    x[:, off] = np.nan
    points.update(zip(symbols, x, strict=True))
    return points


def _large(vector: np.ndarray) -> list[int]:
    return [int(i) for i in np.flatnonzero(np.abs(vector) > 1e-6 * np.abs(vector).max())]


def _refusal(system, chains: Chains, rows, dependent, unknowns) -> StructureError:
    origins = sorted({o for i in dependent for o in rows[i].origins})
    names = [chains.symbol(j, 0).name for j in unknowns]
    listed = "; ".join(f"{o}: 0 = {str(system.equations[o])[:70]}" for o in origins[:8])
    return StructureError(
        f"{system.name}: wherever the constraints hold, these equations depend on one another, so that nothing "
        f"determines the unknowns {', '.join(names[:12])}: {listed}; leave out constraints that follow from others",
        origins,
        names,
    )
