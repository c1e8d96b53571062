"""Ready-made constraints, and the paper's pendulum."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.points import ANCHOR, norm, point
from ndae.symbolic.functions.constraint import Constraint
from ndae.symbolic.functions.function import Function
from ndae.symbolic.numeric.shapes import THIN, affine_frame, points_at
from ndae.symbolic.systems.system import System


def chain(n: int, dim: int = 2, length: float | Sequence[float] | np.ndarray = 1.0) -> Constraint:
    """N links hung at the origin: c_i = |r_i − r_{i−1}| − length, in metres (paper, section 3.2), n points of `dim`.

    `length` is one number or one for each link (n,). Raises ValueError if a length is not positive.
    """
    _at_least(n, 1, "n")
    over = [(ANCHOR if i == 0 else i - 1, i) for i in range(n)]
    return _distances(over, length, n, dim, f"chain of {n} links")


def fixed_distances(
    pairs: Sequence[tuple[int | str, int | str]],
    lengths: float | Sequence[float] | np.ndarray,
    n_points: int | None = None,
    dim: int = 3,
) -> Constraint:
    """Rigid rods between points: c_k = |r_j − r_i| − lengths[k] for the k-th pair (i, j), in the unit of the state.

    `lengths` is one number or one for each pair. Raises ValueError if a length is not positive, and if the rods are
    redundant (more than a rigid body needs).
    """
    return _distances(list(pairs), lengths, n_points, dim, "fixed distances")


def _distances(over, length, n_points, dim, name) -> Constraint:
    _positive(length, "length")
    a, b, L = point("a", dim), point("b", dim), sp.Symbol("length", positive=True)
    return Constraint.template([norm(b - a) - L], [a, b], over, n_points, {L: length}, name=name)


def rigid_molecules(
    n_molecules: int,
    distances: Sequence[float] = (0.957, 0.957, 1.513),
    atoms: int = 3,
    dim: int = 3,
    *,
    positions: Sequence[Sequence[float]] | np.ndarray | None = None,
) -> Constraint:
    """Rigid molecules of one kind; by default water (O, H, H) in ångström. Molecule m owns the points m * atoms to
    (m + 1) * atoms − 1, and the Gram matrix is block-diagonal.

    - `distances` between all of 2 to dim + 1 atoms, of the pairs (0, 1), (0, 2), ..., (1, 2), ...
    - `positions` (atoms, dim), in place of these, of the atoms of one molecule, wherever it is: for any number of them,
      and for those in a line or a plane, where gradients of distances depend on one another. Two of the atoms in a
      line, three in a plane and four otherwise are held by their distances, and each other atom k by
      r_k − Σ w_i r_i = 0 over these, with the weights, 1 in sum, that it has in `positions` (as Ciccotti, Ferrario and
      Ryckaert 1982). So 3 n − 5 independent residuals are left of n atoms in a line in space, otherwise 3 n − 6.

    Raises ValueError on another number of atoms or distances, on distances that no atoms have or only those in a line
    or a plane, and on positions that are nearly, but not to rounding, in one.
    """
    _at_least(n_molecules, 1, "n_molecules")
    if positions is not None:
        shape = np.asarray(positions, dtype=np.float64)
        if shape.ndim != 2 or len(shape) < 2 or shape.shape[1] < 2 or not np.isfinite(shape).all():
            raise ValueError(
                f"positions of shape {np.shape(positions)}: expected finite numbers (atoms, dim), at least 2"
            )
        frame, weights = affine_frame(shape, "positions")
        return _molecules(n_molecules, shape, frame, weights)
    pairs = list(combinations(range(atoms), 2))
    if not 2 <= atoms <= dim + 1:
        raise ValueError(
            f"atoms={atoms}: expected 2 to {dim + 1} in {dim} dimensions, as more distances would be redundant: give "
            "positions=[...], where the atoms of one molecule are, in place of distances"
        )
    if len(distances) != len(pairs):
        raise ValueError(f"distances={tuple(distances)}: expected {len(pairs)}, for the atom pairs {pairs}")
    _positive(distances, "distances")
    table = np.zeros((atoms, atoms))
    table[tuple(zip(*pairs, strict=True))] = distances
    table += table.T
    shape = points_at(table, dim)
    found = np.linalg.norm(shape[:, None] - shape, axis=-1)
    if np.abs(found - table).max() > THIN * table.max():
        nearest = tuple(float(f"{found[i, j]:.4g}") for i, j in pairs)
        raise ValueError(f"distances={tuple(distances)}: no {atoms} atoms have these; some have {nearest}")
    widths = np.linalg.svd(shape, compute_uv=False)
    if widths[atoms - 2] < THIN * widths[0]:
        flat = np.where(np.arange(dim) < atoms - 2, shape, 0.0).round(6) + 0.0
        raise ValueError(
            f"distances={tuple(distances)}: these are of {atoms} atoms in a {'line' if atoms == 3 else 'plane'}, where "
            f"distances can't hold them: write rigid_molecules({n_molecules}, positions={flat.tolist()})"
        )
    return _molecules(n_molecules, shape, list(range(atoms)), np.eye(atoms), distances)


def _molecules(n_molecules: int, shape: np.ndarray, frame, weights, distances=None) -> Constraint:
    """Distances between the atoms of a frame, and the others placed by weights of these."""
    atoms, dim = shape.shape
    local, pairs = [point(f"r{i}", dim) for i in range(atoms)], list(combinations(frame, 2))
    if distances is None:
        distances = [np.linalg.norm(shape[j] - shape[i]) for i, j in pairs]
    symbols = [sp.Symbol(f"d{i}{'_' if atoms > 10 else ''}{j}", positive=True) for i, j in pairs]
    expressions = [norm(local[j] - local[i]) - d for (i, j), d in zip(pairs, symbols, strict=True)]
    for k in set(range(atoms)) - set(frame):
        placed = sum((_number(w) * local[i] for i, w in zip(frame, weights[k], strict=True)), sp.zeros(dim, 1))
        expressions += list(local[k] - placed)
    over = np.arange(n_molecules * atoms).reshape(n_molecules, atoms)
    parameters = dict(zip(symbols, map(float, distances), strict=True))
    return Constraint.template(expressions, local, over, parameters=parameters, name=f"{n_molecules} rigid molecules")


def _number(w: float) -> sp.Expr:
    return sp.Integer(int(w)) if w == int(w) else sp.Float(float(w))


def unit_norm(n: int, dim: int) -> Constraint:
    """N unit vectors, c_i = |p_i| − 1: points of a sphere, or quaternions (dim 4)."""
    _at_least(n, 1, "n")
    _at_least(dim, 2, "dim")
    p = point("p", dim)
    return Constraint.template([norm(p) - 1], [p], [(i,) for i in range(n)], name=f"{n} unit vectors")


def divergence_free(nx: int, ny: int, spacing: float | tuple[float, float] = 1.0) -> Constraint:
    """Zero divergence of a velocity field on a periodic staggered grid of nx × ny cells, spacing in metres.

    Point i * ny + j holds (u, v) on the left and lower face of cell (i, j), in m/s;
    c = (u_{i+1,j} − u_{i,j}) / hx + (v_{i,j+1} − v_{i,j}) / hy (Harlow and Welch 1965). On a periodic grid the
    divergences of all cells add up to zero, so the last cell's is implied and left out: nx * ny − 1 independent
    residuals.
    """
    _at_least(nx, 2, "nx")
    _at_least(ny, 2, "ny")
    hx, hy = (spacing, spacing) if np.ndim(spacing) == 0 else cast("tuple[float, float]", spacing)
    _positive((hx, hy), "spacing")
    p, east, north = (cast(Any, point(name, 2)) for name in ("p", "east", "north"))
    dx, dy = sp.symbols("hx hy", positive=True)
    i, j = np.divmod(np.arange(nx * ny - 1), ny)
    over = np.column_stack([i * ny + j, (i + 1) % nx * ny + j, i * ny + (j + 1) % ny])
    divergence = (east[0] - p[0]) / dx + (north[1] - p[1]) / dy
    parameters = {dx: float(cast(float, hx)), dy: float(cast(float, hy))}
    return Constraint.template(
        [divergence], [p, east, north], over, nx * ny, parameters, name=f"divergence on {nx} x {ny}"
    )


def linear_invariant(weights: Sequence | np.ndarray, value: float | Sequence[float] | np.ndarray = 0.0) -> Constraint:
    """Weighted sums that keep their value: c = W y − value, with W of shape (n,) or (m, n); states y0, y1, ...

    States of weight zero everywhere are unconstrained. Raises ValueError on rows that depend on one another.
    """
    table = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"weights of shape {np.shape(weights)}: expected finite numbers (n,) or (m, n)")
    try:
        values = np.broadcast_to(np.asarray(value, dtype=np.float64), (len(table),))
    except ValueError:
        raise ValueError(f"value={value!r}: expected one number or {len(table)}, one for each row of weights") from None
    states = sp.symbols(f"y0:{table.shape[1]}", real=True)
    symbols = [sp.Symbol("value" if len(table) == 1 else f"value{i}", real=True) for i in range(len(table))]
    sums = [sum(_number(w) * y for w, y in zip(row, states, strict=True)) for row in table]
    return Constraint(
        [total - v for total, v in zip(sums, symbols, strict=True)],
        states,
        dict(zip(symbols, map(float, values), strict=True)),
        name="linear invariant",
        unconstrained=[y for i, y in enumerate(states) if not table[:, i].any()],
    )


def energy_invariant(system: System, value: float) -> Constraint:
    """Conserved energy of a mechanical system: c(q, v) = ½ Σ m |v|² + V(q) − value, in joules, over (q, v) side by
    side.

    One residual that couples all states, so its code grows with their number: meant for small systems. Raises
    ValueError if the potential depends on time, and for a system that is not one `of_points`.
    """
    if system.points is None:
        raise ValueError(f"{system.name}: an energy is written for a system of points (System.of_points)")
    c, potential = system.points.constraint, system.points.potential
    q = [sp.Symbol(f"q{i}", real=True) for i in range(c.n_states)]
    v = [sp.Symbol(f"v{i}", real=True) for i in range(c.n_states)]
    masses = np.repeat(system.points.mass, c.dim)
    energy = sum(sp.Float(float(m)) * s**2 / 2 for m, s in zip(masses, v, strict=True))
    if potential is not None:
        if potential.time is not None:
            raise ValueError(f"{system.name}: its potential depends on time, so energy is no invariant")
        energy += sum(potential.expanded(q))
    E = sp.Symbol("energy", real=True)
    used = cast(sp.Expr, energy).free_symbols
    free = [s for s in q if s not in used]
    return Constraint([energy - E], [*q, *v], {E: value}, name=f"energy of {system.name}", unconstrained=free)


def chain_pendulum(
    n: int,
    length: float | Sequence[float] | np.ndarray = 1.0,
    mass: float | Sequence[float] | np.ndarray = 1.0,
    gravity: float = 9.82,
) -> System:
    """The paper's N-body pendulum in the plane: point masses (kg) on a massless chain (m) hung at the origin.

    V = Σ m g y_i, in joules, y upwards and gravity in m/s². Overriding the parameter "mass" changes inertia and weight.
    """
    _at_least(n, 1, "n")
    p, m, g = point("p", 2), sp.Symbol("mass", positive=True), sp.Symbol("gravity", real=True)
    try:
        masses = np.broadcast_to(np.asarray(mass, dtype=np.float64), (n,)).copy()
    except (TypeError, ValueError):
        raise ValueError(f"mass={mass!r}: expected one number or {n}, one for each body") from None
    weight = Function.template(
        [m * g * p[1]], [p], [(i,) for i in range(n)], parameters={m: masses, g: gravity}, name="weight"
    )
    return System.of_points(chain(n, 2, length), masses, weight, name=f"pendulum of {n} links")


def _at_least(value, least: int, what: str) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what}={value!r}: expected a whole number, at least {least}")


def _positive(value, what: str) -> None:
    array = np.asarray(value, dtype=np.float64)
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{what}={value!r}: expected positive numbers")
