"""Whether constraints are independent: none given twice, and a Jacobian of full row rank at generic points."""

from typing import Any, NamedTuple

import numpy as np

from ndae.symbolic.ground.words import listed, shortened
from ndae.symbolic.numeric.sampling import Evaluator, RandomPoints

_DENSE = 150  # residuals up to which the rank is taken from singular values
_NEWTON = 60  # residuals up to which points of the manifold are looked at too
_TOLERANCE = 1e-9  # of singular values, rows scaled to length one
_ROUNDING = 100  # units of rounding in which a residual may be wrong, of the size of what cancels in it
AT_GENERIC_POINTS = "at generic points"
_NAMED = 8  # dependent rows that an error lists


def check_independent(constraint) -> None:
    """Raise ValueError, naming the rows, on duplicate or dependent constraints."""
    c = constraint
    _check_duplicates(c)
    if c.n_residuals > c.n_states:
        raise ValueError(
            f"{c.name}: {c.n_residuals} constraints on {c.n_states} states can't be independent: remove at least "
            f"{c.n_residuals - c.n_states}"
        )
    sampler = _Sampler(c)
    points = sampler.generic_points()
    # Full rank at one point is full rank almost everywhere; a second point is tried against an unlucky draw.
    found = [_dependent_rows(c, p.local) for p in points[:1]]
    if found and found[0] is not None:
        found += [_dependent_rows(c, p.local) for p in points[1:]]
    if found and all(rows is not None for rows in found) and (rows := found[-1]) is not None:
        raise ValueError(_message(c, rows, AT_GENERIC_POINTS))
    if c.n_residuals <= _NEWTON and points:
        singular = [_singular_rows(sampler, sampler.solve(p), p.local) for p in points]
        if all(rows is not None for rows in singular) and (rows := singular[0]) is not None:
            raise ValueError(_message(c, rows, "where the constraint holds"))


def _check_duplicates(c) -> None:
    # At points, for to write powers of sums out may take longer than anything else.
    evaluate = Evaluator(RandomPoints({}, vary=True), RandomPoints.n_points)
    for i, first in enumerate(c.expressions):
        for j, second in enumerate(c.expressions[:i]):
            same = first.free_symbols == second.free_symbols
            if same and any(d == 0 or evaluate.vanish([d])[0] for d in (first - second, first + second)):
                raise ValueError(f"{c.name}: expressions {j} and {i} are the same constraint ({second}): remove one")
    tuples, counts = np.unique(c.layout.slots, axis=0, return_counts=True)
    per_instance = any(np.ndim(v) for v in c.parameters.values())
    if (counts > 1).any() and not per_instance:
        twice = np.nonzero((c.layout.slots == tuples[np.argmax(counts)]).all(axis=1))[0]
        raise ValueError(f"{c.name}: over[{twice[0]}] and over[{twice[1]}] are the same tuple of points: remove one")


class _Point(NamedTuple):
    y: np.ndarray
    t: float
    parameters: dict
    c: np.ndarray
    local: np.ndarray  # local Jacobian


class _Sampler:
    """Residual and Jacobian in float64 at points and parameters drawn at random (with a fixed seed)."""

    def __init__(self, constraint):
        from ndae.symbolic.backends.local_numpy import compile_numpy

        self.constraint = constraint
        self.function = compile_numpy(constraint, only=("linearise", "scale"))
        self.random = np.random.default_rng(0)

    def at(self, y, t, parameters) -> _Point:
        with np.errstate(all="ignore"):
            return _Point(y, t, parameters, *self.function.linearise(y, t, parameters))

    def generic_points(self) -> list[_Point]:
        """Up to three points where everything is finite."""
        draws = [lambda size: self.random.normal(size=size), lambda size: self.random.uniform(0.1, 0.9, size)]
        draws += [lambda size: self.random.uniform(1.1, 2.0, size)]  # inside the domains of log, asin, acosh
        points = []
        for draw in draws * 2:
            free = {k: float(draw(()) ** 2) + 0.1 for k, v in self.constraint.parameters.items() if v is None}
            p = self.at(draw(self.constraint.n_states), float(draw(())), free)
            if np.isfinite(p.c).all() and np.isfinite(p.local).all():
                points.append(p)
        return points[:3]

    def solve(self, p: _Point, iterations: int = 40) -> _Point | None:
        """A point of the manifold near p by Gauss-Newton, or None."""
        for _ in range(iterations):
            step = np.linalg.lstsq(_dense(self.constraint, p.local), p.c, rcond=1e-14)[0]
            if np.abs(step).max() <= np.finfo(float).eps * np.abs(p.y).max():
                break
            p = self.at(p.y - step, p.t, p.parameters)
            if not (np.isfinite(p.c).all() and np.isfinite(p.local).all()):
                return None
        return p if np.abs(p.c).max() < 1e-9 else None


def _dependent_rows(c, local) -> np.ndarray | None:
    if c.n_residuals > _DENSE:
        return _sparse_rows(c, local)
    jacobian = _dense(c, local)
    return _null_rows(jacobian, np.linalg.norm(jacobian, axis=1), _TOLERANCE)


def _singular_rows(sampler: _Sampler, p: _Point | None, generic_local) -> np.ndarray | None:
    """Rows that depend on one another, or vanish, at a point of the manifold, measured by their size elsewhere.

    A small gradient that is the same wherever the root may be is small for its units (a circle of 1e-10), and measured
    by itself. That of a double root is not: it halves with each step of Newton's, and changes over the distance that
    rounding of the residual leaves open.
    """
    if p is None:
        return None
    c = sampler.constraint
    jacobian, sizes = _dense(c, p.local), np.linalg.norm(_dense(c, generic_local), axis=1)
    own = np.linalg.norm(jacobian, axis=1)
    rounding = _ROUNDING * np.finfo(float).eps * sampler.function.scale(p.y, p.t, p.parameters)
    steps = [np.linalg.lstsq(jacobian, r, rcond=1e-14)[0] for r in (p.c, rounding)]
    moved = [_dense(c, sampler.at(p.y - step, p.t, p.parameters).local) for step in steps]
    change = np.max([np.linalg.norm(m - jacobian, axis=1) for m in moved], axis=0)
    return _null_rows(jacobian, np.where(change < 0.1 * own, own, sizes), 1e-6)


def _null_rows(jacobian, lengths, tolerance) -> np.ndarray | None:
    if (lengths == 0).any():
        return np.nonzero(lengths == 0)[0]
    left, singular, _ = np.linalg.svd(jacobian / lengths[:, None])
    null = left[:, singular < tolerance * max(1.0, singular[0])]
    return np.nonzero(np.abs(null).max(axis=1) > 1e-6)[0] if null.size else None


def _triplets(c, local):
    """Row, column and value of every entry of the Jacobian."""
    slots = c.layout.slots
    columns = (np.maximum(slots, 0)[:, :, None] * c.dim + np.arange(c.dim)).reshape(c.n_instances, 1, -1)
    columns = np.broadcast_to(columns, local.shape).reshape(-1)
    rows = np.broadcast_to(np.arange(c.n_residuals).reshape(c.n_instances, -1, 1), local.shape).reshape(-1)
    return rows, columns, local.reshape(-1)


def _dense(c, local) -> np.ndarray:
    jacobian = np.zeros((c.n_residuals, c.n_states))
    rows, columns, values = _triplets(c, local)
    np.add.at(jacobian, (rows, columns), values)
    return jacobian


def _sparse_rows(c, local) -> np.ndarray | None:
    """A null vector of J Jᵀ by inverse iteration with a sparse factorisation, for many instances."""
    from scipy.sparse import coo_matrix, diags, identity
    from scipy.sparse.linalg import splu

    rows, columns, values = _triplets(c, local)
    jacobian = coo_matrix((values, (rows, columns)), shape=(c.n_residuals, c.n_states)).tocsr()
    lengths = np.sqrt(np.asarray(jacobian.multiply(jacobian).sum(axis=1)).reshape(-1))
    if (lengths == 0).any():
        return np.nonzero(lengths == 0)[0]
    jacobian: Any = diags(1.0 / lengths) @ jacobian
    shift = 1e-13  # smaller than any eigenvalue of interest, so that inverse iteration finds a null vector at once
    factor = splu((jacobian @ jacobian.T + shift * identity(c.n_residuals)).tocsc())
    vector = np.random.default_rng(1).normal(size=c.n_residuals)
    for _ in range(4):
        vector = factor.solve(vector)
        vector /= np.linalg.norm(vector)
    # |Jᵀ x| is measured without squaring, so 1e-8 is far above rounding and far below a chain's least singular value.
    if np.linalg.norm(jacobian.T @ vector) > 1e-8:
        return None
    return np.nonzero(np.abs(vector) > 1e-3 * np.abs(vector).max())[0]


def _message(c, rows: np.ndarray, where: str) -> str:
    def label(row):
        instance, i = divmod(int(row), c.n_local)
        expression = shortened(c.expressions[i], 40)
        return f"{row} (over[{instance}], {expression})" if c.is_template else f"{row} ({expression})"

    which = listed(map(label, rows), _NAMED)
    if len(rows) == 1:
        return (
            f"{c.name}: the gradient of residual {which} vanishes {where}: remove it, or write it so that it "
            f"changes sign "
            "(f instead of f**2)"
        )
    found = f"{c.name}: the Jacobian is rank-deficient {where}: residuals {which} depend on one another"
    if where == AT_GENERIC_POINTS:
        return f"{found} (redundant constraints): remove one of them"
    # Redundant, or not: three points in a line can bend, where one of their distances is not held.
    return (
        f"{found} there: remove one that follows from the others; where none does, as of distances between points in a "
        "line or a plane, place points by linear constraints on others, as ndae.library.rigid_molecules(positions=...) "
        "does"
    )
