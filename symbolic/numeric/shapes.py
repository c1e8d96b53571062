"""Rigid shapes: a few of their points that hold the others, and the points that given distances are of."""

import numpy as np

# Thinner than this, of its length, a shape is neither flat to rounding nor held well by distances.
THIN, FLAT = 1e-3, 1e-9


def affine_frame(positions: np.ndarray, name: str) -> tuple[list[int], np.ndarray]:
    """As many of the points (n, dim) as span what all span (2 in a line, 3 in a plane, 4 in space), far from each
    other, and the weights (n, n_frame) with which these add up to every point, 1 in sum.

    The weights are the same wherever a rigid motion takes the points. Raises ValueError on points that coincide, and
    on those that are hardly, but not to rounding, in a line or a plane.
    """
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
    length = apart.max()
    near = np.argwhere(np.triu(apart <= FLAT * length, 1))
    if len(near):
        raise ValueError(f"{name}: points {near[0][0]} and {near[0][1]} are at the same place: give each its own")
    widths = np.linalg.svd(positions - positions.mean(0), compute_uv=False)
    widths = widths / widths[0]
    rank = int((widths > FLAT).sum())
    if widths[rank - 1] < THIN:
        raise ValueError(
            f"{name}: the points are off a {'line' if rank == 2 else 'plane'} by {widths[rank - 1]:.1g} of their "
            "extent only, which distances can't hold: give positions that are in it, such as with a coordinate of zero"
        )
    frame = sorted(int(i) for i in np.unravel_index(apart.argmax(), apart.shape))
    for _ in range(rank - 1):
        about = positions - positions[frame[0]]
        spanned = np.linalg.qr(about[frame[1:]].T)[0]
        frame.append(int(np.linalg.norm(about - about @ spanned @ spanned.T, axis=1).argmax()))
    frame.sort()
    ones = np.ones((1, len(positions)))
    homogeneous = np.concatenate([positions.T / length, ones])
    weights = np.linalg.lstsq(homogeneous[:, frame], homogeneous, rcond=None)[0].T
    whole = np.round(weights)
    return frame, np.where(np.abs(weights - whole) < 1e-12, whole, weights)


def points_at(distances: np.ndarray, dim: int) -> np.ndarray:
    """Points (n, dim) about the origin with the distances (n, n), nearly where there are none (Torgerson 1952)."""
    n = len(distances)
    centring = np.eye(n) - 1 / n
    sizes, axes = np.linalg.eigh(-centring @ distances**2 @ centring / 2)
    points = (axes * np.sqrt(np.maximum(sizes, 0)))[:, ::-1][:, :dim]
    return np.pad(points, ((0, 0), (0, dim - points.shape[1])))  # few points span less than the space they are in
