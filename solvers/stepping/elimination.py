"""Systems of linear equations with a known sparsity, solved part by part, as pure functions of their entries.

The unknowns are split into parts of a few that no equation joins, and the border between them. With A the matrices of
the parts, E and F what joins them to the border and D the matrix of the border, each part is eliminated by A⁻¹, and
what is left for the border, D - Σ F A⁻¹ E, is solved in the same way, until it is small. (A. George, Nested dissection
of a regular finite element mesh, SIAM J. Numer. Anal. 10 (1973) 345; of a banded matrix, cyclic reduction by blocks.)
Parts of one depth are done at once, so that compiled code does not grow with their number. Rows are exchanged within a
part alone: where that is too little, what comes out is wrong, and an iteration that uses it does not converge.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

#: So many unknowns are solved for at once: by parts it takes as long.
SMALL = 64
_PARTS = (4, 8, 16)  # unknowns of a part, at least; the cheapest is taken
_HUB, _FEW = 6, 32  # an unknown with so many times the usual neighbours, and more than a few, is in the border
_STAGE = 30_000  # what a stage costs beside its operations, as operations: 20 µs


class Whole:
    """A matrix of n unknowns that is inverted."""

    def __init__(self, n: int, rows: np.ndarray, columns: np.ndarray) -> None:
        self._n, self._places = n, rows * n + columns
        self.cost = n**3 + 8 * n**2  # operations of a factorisation and of the solves that use it

    def factors(self, values: Any) -> Any:
        """What `solve` needs of the matrix with these entries."""
        matrix = jnp.zeros(self._n**2, values.dtype).at[self._places].set(values)
        return apart(jnp.linalg.inv(matrix.reshape(self._n, self._n)))

    def solve(self, factors: Any, right: Any) -> Any:
        """x of A x = b, (1, n), or for a complex matrix (2, n): the real and the imaginary parts."""
        return (factors @ right.reshape(-1)).reshape(right.shape)


class Bordered:
    """A matrix with entries at `rows` and `columns`, the diagonal among them, of `parts` and a `border`."""

    def __init__(
        self, n: int, rows: np.ndarray, columns: np.ndarray, parts: Sequence, border: np.ndarray, least: int
    ) -> None:
        n_parts, width, n_border, absent = len(parts), max(map(len, parts)), len(border), len(rows)
        part, place = np.full(n, -1), np.zeros(n, dtype=np.intp)
        self._parts, place[border] = np.full((n_parts, width), n), np.arange(n_border)
        for p, own in enumerate(parts):
            part[own], place[own], self._parts[p, : len(own)] = p, np.arange(len(own)), own
        p, q, i, j = part[rows], part[columns], place[rows], place[columns]
        inside, right, below = (p >= 0) & (q >= 0), (p >= 0) & (q < 0), (p < 0) & (q >= 0)
        self._corner = np.flatnonzero((p < 0) & (q < 0))
        # The unknowns of the border that each part is joined to, in slots.
        joined = np.unique(np.concatenate([p[right] * n_border + j[right], q[below] * n_border + i[below]]))
        owner, neighbour = np.divmod(joined, max(n_border, 1))
        slot = np.arange(len(joined)) - np.searchsorted(owner, owner)
        n_slots = int(slot.max(initial=0)) + 1
        self._neighbours = np.full((n_parts, n_slots), n_border)
        self._neighbours[owner, slot] = neighbour

        def slots(part, of):
            return slot[np.searchsorted(joined, part * n_border + of)]

        # Places in the entries, behind which a zero and a one stand.
        self._a = np.full((n_parts, width, width), absent)
        unused = np.arange(width) >= np.array([len(own) for own in parts])[:, None]
        self._a[:, np.arange(width), np.arange(width)] = np.where(unused, absent + 1, absent)
        self._a[p[inside], i[inside], j[inside]] = np.flatnonzero(inside)
        self._e, self._f = np.full((n_parts, width, n_slots), absent), np.full((n_parts, n_slots, width), absent)
        self._e[p[right], i[right], slots(p[right], j[right])] = np.flatnonzero(right)
        self._f[q[below], slots(q[below], i[below]), j[below]] = np.flatnonzero(below)
        # Entries of the border's matrix: its own, and those of all neighbours of a part with one another.
        wide = n_border + 1
        keys = (self._neighbours[:, :, None] * wide + self._neighbours[:, None, :]).reshape(-1)
        keys = np.concatenate([keys, i[self._corner] * wide + j[self._corner]])
        there = (keys // wide < n_border) & (keys % wide < n_border)
        found, of = np.unique(keys[there], return_inverse=True)
        targets = np.full(len(keys), len(found))
        targets[there] = of
        self._to_corner = _sources(targets, len(found))
        self._to_border = _sources(self._neighbours.reshape(-1), n_border)
        self._border, self._back = border, np.empty(n, dtype=np.intp)
        used = self._parts.reshape(-1) < n
        self._back[self._parts.reshape(-1)[used]] = np.flatnonzero(used)
        self._back[border] = n_parts * width + np.arange(n_border)
        self._rest = eliminated(n_border, found // wide, found % wide, least)
        by_part = width**3 + 2 * width * n_slots * (width + n_slots) + 8 * width * (width + 2 * n_slots)
        moved = 10 * self._to_corner.size + 40 * self._to_border.size
        self.cost = n_parts * by_part + moved + _STAGE + self._rest.cost

    def factors(self, values: Any) -> Any:
        """What `solve` needs of the matrix with these entries."""
        padded = jnp.concatenate([values, jnp.array([0.0, 1.0], values.dtype)])
        inverse, f = jnp.linalg.inv(padded[self._a]), padded[self._f]
        g = inverse @ padded[self._e]
        added = jnp.concatenate([(-f @ g).reshape(-1), values[self._corner], jnp.zeros(1, values.dtype)])
        rest = self._rest.factors(added[self._to_corner].sum(0))
        return apart(inverse), apart(f), apart(g), rest

    def solve(self, factors: Any, right: Any) -> Any:
        """As that of `Whole`."""
        inverse, f, g, rest = factors
        x = _times(inverse, _padded(right)[:, self._parts])
        passed = _padded(_times(f, x).reshape(len(right), -1))[:, self._to_border].sum(1)
        at_border = self._rest.solve(rest, right[:, self._border] - passed)
        x = x - _times(g, _padded(at_border)[:, self._neighbours])
        return jnp.concatenate([x.reshape(len(right), -1), at_border], axis=1)[:, self._back]


def apart(matrix: Any) -> Any:
    """A complex matrix as one of real numbers, which acts on real and imaginary parts; a real one as it is."""
    if not jnp.iscomplexobj(matrix):
        return matrix
    real, imaginary = matrix.real, matrix.imag
    top, bottom = jnp.concatenate([real, -imaginary], -1), jnp.concatenate([imaginary, real], -1)
    return jnp.concatenate([top, bottom], -2)


def _times(matrices: Any, x: Any) -> Any:
    """Of every part its matrix times its x, (1 or 2, n_parts, width)."""
    moved = jnp.moveaxis(x, 0, 1)
    product = jnp.einsum("pij,pj->pi", matrices, moved.reshape(moved.shape[0], -1))
    return jnp.moveaxis(product.reshape(*moved.shape[:2], -1), 1, 0)


def _padded(x: Any) -> Any:
    return jnp.pad(x, ((0, 0), (0, 1)))


def _sources(targets: np.ndarray, n: int) -> np.ndarray:
    """(most, n): the places of what is added up in each of n targets, len(targets) for no more."""
    order = np.argsort(targets, kind="stable")
    order = order[targets[order] < n]
    own = targets[order]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    found = np.full((int(rank.max(initial=-1)) + 1, n), len(targets))
    found[rank, own] = order
    return found


def eliminated(n: int, rows: np.ndarray, columns: np.ndarray, least: int) -> Whole | Bordered:
    """The elimination of a matrix with these entries, by parts of at least so many unknowns."""
    if n > SMALL:
        parts, border = _split(n, rows, columns, least)
        if len(border) <= 0.7 * n:
            return Bordered(n, rows, columns, parts, border, least)
    return Whole(n, rows, columns)


def _split(n: int, rows: np.ndarray, columns: np.ndarray, least: int) -> tuple[list[list[int]], np.ndarray]:
    """Parts along an order of little bandwidth, each cut where it has the fewest neighbours that are left."""
    ones = np.ones(2 * len(rows))
    graph = csr_array((ones, (np.concatenate([rows, columns]), np.concatenate([columns, rows]))), shape=(n, n))
    graph.sum_duplicates()
    degree = np.diff(graph.indptr)
    border = np.flatnonzero(degree > max(_FEW, _HUB * np.median(degree))).tolist()
    others = np.setdiff1d(np.arange(n), border)
    order = others[reverse_cuthill_mckee(csr_array(graph[others][:, others]), symmetric_mode=True)].tolist()
    adjacent = [graph.indices[a:b].tolist() for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)]
    done, parts, at = np.zeros(n, dtype=bool), [], 0
    done[border] = True
    while at < len(order):
        part: list[int] = []
        outside: dict[int, None] = {}
        best: tuple[int, int, int, list[int]] | None = None
        inside, k = set(), at
        while k < len(order) and len(part) < least + least // 2:
            i, k = order[k], k + 1
            if done[i]:
                continue
            part.append(i)
            inside.add(i)
            outside.pop(i, None)
            outside |= dict.fromkeys(j for j in adjacent[i] if j not in inside and not done[j])
            if len(part) >= least and (best is None or len(outside) < best[0]):
                best = len(outside), len(part), k, list(outside)
        if not part:
            break
        _, size, at, between = best or (0, len(part), k, list(outside))
        parts.append(part[:size])
        border += between
        done[part[:size]] = done[between] = True
    return parts, np.array(border, dtype=np.intp)


def cheapest(n: int, rows: np.ndarray, columns: np.ndarray) -> Whole | Bordered:
    """The elimination that costs least."""
    return min((eliminated(n, rows, columns, least) for least in _PARTS), key=lambda found: found.cost)
