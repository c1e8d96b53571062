"""Numerical ranks of matrices whose rows and columns differ in size."""

import numpy as np

RANK = 1e-10  # singular values below it, of a matrix scaled to entries of size one, count as zero


def numerical_rank(matrix: np.ndarray) -> int:
    """Singular values above rounding, after rows and columns are brought to size one."""
    if not matrix.size:
        return 0
    singular = np.linalg.svd(balanced(matrix)[0], compute_uv=False)
    return int((singular > RANK * max(singular[0], 1e-300)).sum())


def balanced(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The matrix with rows and columns scaled to a largest entry near one, and the scale of the rows."""
    rows, columns = np.ones(matrix.shape[0]), np.ones(matrix.shape[1])
    scaled = matrix
    for _ in range(4):
        largest = np.abs(scaled).max(axis=1)
        rows /= np.sqrt(np.where(largest > 0, largest, 1.0))
        scaled = rows[:, None] * matrix * columns
        largest = np.abs(scaled).max(axis=0)
        columns /= np.sqrt(np.where(largest > 0, largest, 1.0))
        scaled = rows[:, None] * matrix * columns
    return scaled, rows
