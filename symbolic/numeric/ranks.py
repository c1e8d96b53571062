"""Numerical ranks of matrices whose rows and columns differ in size."""

import numpy as np
from scipy.optimize import linear_sum_assignment

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


def is_clearly_regular(matrix: np.ndarray) -> bool:
    """Whether a square matrix is regular once it is scaled so that the entries of a matching are 1 and none is larger.

    Of all matchings the one of the largest product (I. S. Duff and J. Koster, On algorithms for permuting large entries
    to the diagonal of a sparse matrix, SIAM J. Matrix Anal. Appl. 22 (2001) 973): [[1, 1e-12], [1e12, 0]] is no more
    singular than [[1, 1], [1, 0]], which no balance of the largest entries shows.
    """
    size = np.abs(matrix)
    if not (size.any(axis=0).all() and size.any(axis=1).all()):
        return False
    with np.errstate(divide="ignore"):
        cost = -np.log(size)
    columns = linear_sum_assignment(np.minimum(cost, 1e6))[1]
    cost = cost[:, columns]
    if not np.isfinite(np.diag(cost)).all():
        return False
    potential = np.zeros(len(matrix))  # of a column; that of its row is cost − potential: shortest paths between them
    for _ in range(len(matrix)):
        potential = np.minimum(potential, (cost - np.diag(cost)[:, None] + potential[:, None]).min(axis=0))
    scaled = matrix[:, columns] * np.exp(np.diag(cost) - potential)[:, None] * np.exp(potential)
    return bool(np.linalg.svd(scaled, compute_uv=False)[-1] > RANK * len(matrix))
