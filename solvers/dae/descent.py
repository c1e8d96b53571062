"""Damped Gauss-Newton steps to where equations hold, each equation in units of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

RANK = 1e-10  # relative singular value below which an unknown is not determined
MAX_ITERATIONS = 50
HOLDS = 1e-8  # a residual, relative to the terms of its equation
#: Sizes of unknowns that a search begins at, after 0.
SIZES = (1.0, 1e-1, 10.0, 1e-2, 1e2, 1e-3, 1e3, 1e-5, 1e5)
N_RANDOM = 30
_LEAST_DAMPING = 1e-9

#: Residuals (m,) and their Jacobian (m, n) at z (n,).
Linearised = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Descended(NamedTuple):
    """Where the steps ended, and `misfit`, the largest residual over the terms that are added up in it."""

    z: Float[np.ndarray, " n"]
    jacobian: Float[np.ndarray, "m n"]
    terms: Float[np.ndarray, " m"]
    misfit: float

    @property
    def holds(self) -> bool:
        """Whether it is a root, to the digits that further steps can work from."""
        return self.misfit <= HOLDS


def descended(
    linearised: Linearised, z: Float[np.ndarray, " n"], unknown: Bool[np.ndarray, " n"] | None = None
) -> Descended:
    """From z by Gauss-Newton steps of its `unknown` entries, each no longer than makes the residuals smaller."""
    unknown = np.ones(z.size, dtype=bool) if unknown is None else unknown
    damping, nothing = 1.0, Descended(z, np.zeros((0, z.size)), np.zeros(0), np.inf)
    with np.errstate(all="ignore"):
        residual, whole = linearised(z)
        if not _finite(residual, whole):
            return nothing
        for _ in range(MAX_ITERATIONS):
            jacobian = whole[:, unknown]
            rows = np.abs(jacobian).max(axis=1, initial=0.0)
            units = np.where(rows > 0, rows, np.inf)  # an equation without them says nothing of them
            size = np.linalg.norm(residual / units)
            step = np.linalg.lstsq(jacobian / units[:, None], residual / units, rcond=RANK)[0]
            if size == 0 or not np.all(np.isfinite(step)):
                break
            while damping >= _LEAST_DAMPING:
                trial = z.copy()
                trial[unknown] -= damping * step
                new = linearised(trial)
                if _finite(*new) and np.linalg.norm(new[0] / units) < size:
                    break
                damping /= 4
            else:
                break
            z, (residual, whole), damping = trial, new, min(1.0, 2 * damping)
    terms = np.abs(whole) @ np.maximum(1.0, np.abs(z))
    nothing_added = np.where(residual == 0, 0.0, np.inf)
    misfit = np.divide(np.abs(residual), terms, out=nothing_added, where=terms > 0)
    return Descended(z, whole, terms, float(misfit.max(initial=0.0)))


def starts(n: int, size: Any = 1.0) -> list[Any]:
    """Where to search from: zero, where many slopes vanish, and around, the positive side first."""
    random = np.random.default_rng(0).normal(size=(2, n))
    return [np.zeros(n), np.ones(n), *(size * x for x in (np.ones(n), *random))]


def far_starts(n: int) -> list[Float[np.ndarray, " n"]]:
    """Where to search from if there is nothing near: many sizes, then a size and sign for each entry by chance."""
    random = np.random.default_rng(0)
    signs = np.where(random.random((N_RANDOM, n)) < 0.75, 1.0, -1.0)  # most quantities are positive
    spread = signs * 10 ** random.uniform(-1, 3, (N_RANDOM, 1)) * random.uniform(0.1, 1.0, (N_RANDOM, n))
    return [*(np.full(n, sign * size) for size in SIZES for sign in (1.0, -1.0)), *spread]


def _finite(residual: np.ndarray, jacobian: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(residual)) and np.all(np.isfinite(jacobian)))
