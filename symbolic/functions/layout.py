"""Where the instances of a template lie in the state vector, and the structure of the Gram matrix that follows."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """Index tables of one expression laid over many index tuples.

    `slots` (n_instances, k) holds the point that each local point is, or -1 - j for the anchor in row j of `anchors`.
    """

    slots: np.ndarray
    anchors: np.ndarray  # (n_anchors, dim)
    n_points: int
    dim: int

    @property
    def n_instances(self) -> int:
        return self.slots.shape[0]

    def gather_table(self) -> np.ndarray:
        """State column of each local coordinate, coordinate-major, (k * dim * n_instances,); -1 at an anchor."""
        columns = self.slots[:, :, None] * self.dim + np.arange(self.dim)
        columns = np.where(self.slots[:, :, None] < 0, -1, columns)
        return np.ascontiguousarray(columns.reshape(self.n_instances, -1).T).reshape(-1)

    def anchor_values(self) -> np.ndarray:
        """Coordinates of the anchors in the layout of `gather_table`, zero elsewhere."""
        values = np.zeros((*self.slots.shape, self.dim))
        fixed = self.slots < 0
        if fixed.any():
            values[fixed] = self.anchors[-1 - self.slots[fixed]]
        return np.ascontiguousarray(values.reshape(self.n_instances, -1).T).reshape(-1)


@dataclass(frozen=True)
class Structure:
    """Block structure of the Gram matrix J A Jᵀ, a block (n_local, n_local) for each pair of instances.

    `kind` is "block_diagonal" (no two instances share a movable point), "block_tridiagonal" (listing the instances in
    `order` leaves blocks on the diagonal and beside it) or "sparse". `pairs` (n_pairs, 2) lists the instances i < j
    that share a movable point, sorted.
    """

    kind: str
    pairs: np.ndarray
    order: np.ndarray | None
    shared: np.ndarray  # (n_shared, 4): pair, slot in i, slot in j, point


def gram_structure(layout: Layout) -> Structure:
    """Find the instances that share movable points, in O(n_instances) for a bounded number of instances a point."""
    slots = layout.slots
    instance, slot = np.nonzero(slots >= 0)
    point = slots[instance, slot]
    by_point = np.lexsort((instance, point))
    instance, slot, point = instance[by_point], slot[by_point], point[by_point]
    chunks, offset = [], 1
    while offset < len(point):  # pairs that are `offset` apart in the list of one point's instances
        same = np.nonzero(point[offset:] == point[:-offset])[0]
        if not len(same):
            break
        chunks.append(
            np.stack([instance[same], instance[same + offset], slot[same], slot[same + offset], point[same]], axis=1)
        )
        offset += 1
    n = layout.n_instances
    if not chunks:
        empty = np.zeros((0, 2), dtype=np.int64)
        return Structure("block_diagonal", empty, np.arange(n), np.zeros((0, 4), dtype=np.int64))
    entries = np.concatenate(chunks)
    pairs, which = np.unique(entries[:, :2], axis=0, return_inverse=True)
    shared = np.column_stack([which.reshape(-1), entries[:, 2:]])
    shared = shared[np.argsort(shared[:, 0], kind="stable")]
    order = _tridiagonal_order(pairs, n)
    return Structure("sparse" if order is None else "block_tridiagonal", pairs, order, shared)


def _tridiagonal_order(pairs: np.ndarray, n: int) -> np.ndarray | None:
    natural = np.arange(n)
    if np.all(pairs[:, 1] - pairs[:, 0] == 1):
        return natural
    if np.bincount(pairs.reshape(-1), minlength=n).max() > 2:
        return None
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    order = np.asarray(reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True), dtype=np.int64)
    position = np.empty(n, dtype=np.int64)
    position[order] = natural
    return order if np.all(np.abs(position[pairs[:, 0]] - position[pairs[:, 1]]) == 1) else None
