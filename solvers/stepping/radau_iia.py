"""Radau IIA methods: fully implicit collocation, for stiff equations to many digits.

Hairer and Wanner, Solving Ordinary Differential Equations II, IV.5 and IV.8, and Stiff differential equations solved by
Radau methods, J. Comput. Appl. Math. 111 (1999) 93: of order 2s - 1 with s stages, stiffly accurate, L-stable. One
Jacobian serves a step; a similarity transformation turns the linear system of all stages into one real and (s - 1)/2
complex ones of the size of the state.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from diffrax import RESULTS
from jax.scipy.linalg import lu_factor, lu_solve
from numpy.typing import NDArray

from ndae.solvers.stepping.implicit_method import Implicit, Work, newton

# Digits of the arithmetic in which coefficients are computed; Vandermonde matrices lose some.
_DIGITS = 50


class RadauIIA(Implicit):
    """The method of `stages` s for y' = f(t, y) with a vector y.

    Increments Z (s, n) of the state at the abscissas c solve Z = h A F, F_i = f(t_0 + c_i h, y_0 + Z_i), and the step
    is y_1 = y_0 + Z_s. They are measured as its error is, |Z_ij| / (atol_j + rtol |y_j|). The error is that of a
    quadrature with the further abscissa 0, of order s, put through (I - h γ J)⁻¹.

    With `differentiable`, the increments end with two Newton steps from a fixed point, as in
    ndae.solvers.stepping.esdirk.
    """

    stages: int = eqx.field(static=True, default=7)

    def order(self, terms):
        return 2 * self.stages - 1

    def error_order(self, terms):
        return self.stages + 1

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        t0, h = jax.lax.stop_gradient(t0), jax.lax.stop_gradient(t1 - t0)
        m = coefficients(self.stages)
        times, n = t0 + m.c * h, y0.size
        # What is only there to find the increments; the loops that find them have no derivative.
        frozen_y0, frozen_args = jax.lax.stop_gradient(y0), jax.tree.map(jax.lax.stop_gradient, args)

        def frozen(t, y):
            return terms.vf(t, y, frozen_args)

        scale = self.scale(frozen_y0)
        jacobian = self.jacobians.jacobian(lambda y: frozen(t0, y), frozen_y0, h, scale)
        real, pairs = (self.jacobians.inverse(shift, jacobian) for shift in (m.real, m.pairs))

        def correction(z):
            rates = jax.vmap(frozen)(times, frozen_y0 + z)
            right = (h * rates - m.inverse @ z) / scale
            # z by the eigenvectors of A⁻¹; of a conjugate pair one says all.
            by_real = m.from_real[:, None] * self.jacobians.times(real, m.to_real @ right)
            return by_real + 2 * self.jacobians.combined(m.from_pairs, pairs, m.to_pairs @ right)

        z, good, n_iterations = newton(correction, jnp.zeros((self.stages, n), y0.dtype), scale)
        if self.differentiable:
            z = self._implicit(terms, times, h, m, y0, args, frozen, frozen_y0, z)
        y1 = y0 + z[-1]
        known = m.error @ z

        def estimate(rate):
            return scale * (m.real * self.jacobians.times(real, (h / m.real * rate + known) / scale))

        error = estimate(terms.vf(t0, y0, args))
        # Of what is stiff the first estimate is too large; a second evaluation takes that away.
        too_large = jnp.max(jnp.abs(error) / (self.atol + self.rtol * jnp.abs(y0))) >= 1
        error = jnp.where(too_large, estimate(terms.vf(t0, y0 + error, args)), error)
        error = jnp.where(good, error, jnp.inf)
        n_f_evals = solver_state.n_f_evals + 2 + self.stages * n_iterations
        return y1, error, {"y1": y1}, Work(n_f_evals, solver_state.n_jacobian_evals + 1), RESULTS.successful

    def _implicit(self, terms, times, h, m, y0, args, frozen, frozen_y0, z):
        """The increments again, with the derivatives of the exact ones."""
        s, n = z.shape
        z = jax.lax.stop_gradient(z)
        blocks = jax.vmap(jax.jacfwd(frozen, argnums=1))(times, frozen_y0 + z)  # (s, n, n)
        matrix = jnp.eye(s * n) - h * jnp.einsum("ij,jkl->ikjl", m.a, blocks).reshape(s * n, s * n)
        factors = lu_factor(matrix)
        for _ in range(2):  # every one makes derivatives of one order more right
            rates = jax.vmap(lambda t, y: terms.vf(t, y, args))(times, y0 + z)
            z = z - lu_solve(factors, (z - h * m.a @ rates).reshape(-1)).reshape(s, n)
        return z


class Coefficients(NamedTuple):
    """Of s stages: A (s, s), c (s,), A⁻¹, weights of the increments in the error, and the eigenvectors of A⁻¹.

    `real` is its real eigenvalue (1/γ), with the eigenvector `from_real` (s,) and its dual `to_real`; `pairs` (p,) are
    those of its complex ones that lie above the real axis, with `from_pairs` (s, p) and `to_pairs` (p, s).
    """

    a: np.ndarray
    c: np.ndarray
    inverse: np.ndarray
    error: np.ndarray
    real: float
    from_real: np.ndarray
    to_real: np.ndarray
    pairs: np.ndarray
    from_pairs: np.ndarray
    to_pairs: np.ndarray


@lru_cache(maxsize=4)
def coefficients(s: int) -> Coefficients:
    """Those of s stages, an odd number, to double precision."""
    with mpmath.workdps(_DIGITS):
        c = _abscissas(s)
        powers = mpmath.matrix([[x**k for k in range(s)] for x in c])
        integrals = mpmath.matrix([[x ** (k + 1) / (k + 1) for k in range(s)] for x in c])
        a = integrals * powers**-1
        inverse = a**-1
        values, right = mpmath.eig(inverse)
        left = right**-1
        real = min(range(s), key=lambda k: abs(mpmath.im(values[k])))
        above = [k for k in range(s) if k != real and mpmath.im(values[k]) > 0]
        gamma = 1 / mpmath.re(values[real])
        # Exact for polynomials of degree s - 1 with the weight γ at 0: Σ b̂_i c_i^k = 1/(k+1) - γ [k = 0].
        moments = mpmath.matrix([1 / mpmath.mpf(k + 1) - (gamma if k == 0 else 0) for k in range(s)])
        embedded = (powers.T) ** -1 * moments
        error = (embedded.T - a[s - 1, :]) * inverse
        length = right[s - 1, real]  # of a real eigenvalue the eigenvector may have a complex factor
        return Coefficients(
            a=_array(a).real,
            c=np.array([float(x) for x in c]),
            inverse=_array(inverse).real,
            error=_array(error).real[0],
            real=float(mpmath.re(values[real])),
            from_real=_array(right[:, real] / length).real[:, 0],
            to_real=_array(left[real, :] * length).real[0],
            pairs=np.array([complex(values[k]) for k in above]),
            from_pairs=np.stack([_array(right[:, k])[:, 0] for k in above], axis=1),
            to_pairs=np.stack([_array(left[k, :])[0] for k in above]),
        )


def _abscissas(s: int) -> list:
    """The zeros of d^{s-1}/dx^{s-1} x^{s-1} (x - 1)^s, of which the last is 1."""
    factors = [(-1) ** (s - k) * mpmath.binomial(s, k) for k in range(s + 1)]  # of x^{s-1+k}
    polynomial = [f * mpmath.rf(k + 1, s - 1) for k, f in enumerate(factors)]
    roots = mpmath.polyroots(polynomial[::-1], maxsteps=200, extraprec=200)
    return sorted(mpmath.re(x) for x in roots)


def _array(matrix: Any) -> NDArray[np.complex128]:
    return np.array([[complex(x) for x in row] for row in matrix.tolist()])
