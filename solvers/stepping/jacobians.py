"""Jacobians of a vector field, and the matrices s I - J that implicit methods invert: whole, or by their sparsity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ndae.solvers.stepping.elimination import SMALL, cheapest

#: How many times fewer operations a sparse Jacobian has to save, since those of whole matrices are quicker.
_PAYS = 4


class WholeJacobian:
    """Matrices with all their entries."""

    def jacobian(self, f: Any, y: Any, factor: Any, scale: Any) -> Any:
        """`factor` times ∂f/∂y, with y and f in units of `scale` (n,)."""
        return factor * jax.jacfwd(f)(y) * (scale / scale[:, None])

    def inverse(self, shift: Any, jacobian: Any) -> Any:
        """What `times` and `combined` need of (s I - J)⁻¹ for a number s, or for several."""
        return jnp.linalg.inv(jnp.asarray(shift)[..., None, None] * jnp.eye(len(jacobian)) - jacobian)

    def times(self, inverse: Any, x: Any) -> Any:
        """(s I - J)⁻¹ x."""
        return inverse @ x

    def combined(self, weights: Any, inverses: Any, x: Any) -> Any:
        """Re Σ_k weights_sk (s_k I - J)⁻¹ x_k, (n_s, n), of complex numbers s."""
        return jnp.einsum("sk,kij,kj->si", weights, inverses, x).real


class SparseJacobian:
    """Matrices with entries at `rows` and `columns` alone, of which columns that share no row are found at once."""

    def __init__(self, n: int, rows: np.ndarray, columns: np.ndarray) -> None:
        keys = np.union1d(rows * n + columns, np.arange(n) * (n + 1))
        self._n, self._rows, self._columns = n, keys // n, keys % n
        self._diagonal = (self._rows == self._columns).astype(float)
        self._elimination = cheapest(n, self._rows, self._columns)
        self._colours = _colours(n, self._rows, self._columns)
        self._seeds = np.zeros((int(self._colours.max()) + 1, n))
        self._seeds[self._colours, np.arange(n)] = 1.0

    @property
    def pays(self) -> bool:
        """Whether it is quicker than whole matrices."""
        return _PAYS * self._elimination.cost < self._n**3

    def jacobian(self, f: Any, y: Any, factor: Any, scale: Any) -> Any:
        """As that of `WholeJacobian`, the entries (n_entries,)."""
        slopes = jax.vmap(lambda seed: jax.jvp(f, (y,), (seed,))[1])(jnp.asarray(self._seeds))
        entries = slopes[self._colours[self._columns], self._rows]
        return factor * entries * (scale[self._columns] / scale[self._rows])

    def inverse(self, shift: Any, jacobian: Any) -> Any:
        """As that of `WholeJacobian`."""

        def factors(s):
            return self._elimination.factors(s * self._diagonal - jacobian)

        return jax.vmap(factors)(jnp.asarray(shift)) if np.ndim(shift) else factors(shift)

    def times(self, inverse: Any, x: Any) -> Any:
        """(s I - J)⁻¹ x."""
        return self._elimination.solve(inverse, x[None])[0]

    def combined(self, weights: Any, inverses: Any, x: Any) -> Any:
        """As that of `WholeJacobian`."""
        found = jax.vmap(self._elimination.solve)(inverses, jnp.stack([x.real, x.imag], 1))  # (k, 2, n)
        return weights.real @ found[:, 0] - weights.imag @ found[:, 1]


WHOLE = WholeJacobian()


def jacobian_of(n: int, sparsity: Any) -> WholeJacobian | SparseJacobian:
    """Which of them to use for n unknowns; `sparsity()` gives rows and columns of the entries, None if not known."""
    found = sparsity() if n > SMALL else None
    if found is None:
        return WHOLE
    sparse = SparseJacobian(n, *found)
    return sparse if sparse.pays else WHOLE


def _colours(n: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A number for each column, different where two share a row (A. R. Curtis, M. J. D. Powell and J. K. Reid, On the
    estimation of sparse Jacobian matrices, IMA J. Appl. Math. 13 (1974) 117)."""
    taken: list[set[int]] = [set() for _ in range(n)]
    colours = np.zeros(n, dtype=np.intp)
    order = np.argsort(columns, kind="stable")
    by_column = np.split(rows[order], np.cumsum(np.bincount(columns, minlength=n))[:-1])
    for j, own in enumerate(by_column):
        used = set[int]().union(*(taken[i] for i in own))
        colours[j] = next(c for c in range(len(used) + 1) if c not in used)
        for i in own:
            taken[i].add(int(colours[j]))
    return colours
