"""Explicit singly diagonally implicit Runge-Kutta methods, with stages solved in the scale of the error test.

Diffrax solves the stages of its implicit methods for the derivative, within tolerances that know neither the step
size nor how small a component may be: on Robertson's problem, whose second variable is 1e-13 where the steps are 1e9,
no choice of them works. Here the unknown of a stage is its increment z of the state, its Newton corrections are
measured as the step's error is, |z_i| / (atol_i + rtol |y_i|), and one Jacobian and one factorisation serve the step
(Hairer and Wanner, Solving Ordinary Differential Equations II, IV.8).
"""

from functools import lru_cache
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jax.scipy.linalg import lu_factor, lu_solve

from solvers._jax_types import Count
from solvers.projected_step import EndOfStep

# A stage may be wrong by this share of what the error test allows: its error then neither shows in the error estimate
# nor adds up over the steps.
_SHARE = 1e-3
_MAX_ITERATIONS = 12
# Stages are never solved for a looser `rtol`: with the error test switched off (a huge one), steps keep their order.
_LOOSEST = 1e-8


class Work(eqx.Module):
    """What the steps of a solve cost."""

    n_f_evals: Count
    n_jacobian_evals: Count


class Implicit(diffrax.AbstractAdaptiveSolver):
    """What implicit methods here have in common: tolerances of their own, and counts of what their steps cost.

    With `differentiable`, derivatives of a solve are those of exactly solved stages (implicit function theorem).
    """

    rtol: Any
    atol: Any
    differentiable: bool = eqx.field(static=True, default=False)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = EndOfStep

    def scale(self, y):
        """What increments of a state are measured by, (n,).

        Jacobians are taken in units of it too: the inverse of a matrix whose columns differ by twenty orders would be
        noise.
        """
        return (self.atol + self.rtol * jnp.abs(y)) * jnp.minimum(1.0, _LOOSEST / self.rtol)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        zero = jnp.zeros((), dtype=jnp.int64)
        return Work(zero, zero)


class Esdirk(Implicit):
    """A stiffly accurate ESDIRK method for y' = f(t, y) with a vector y: Kvaerno's, of order 5 with an embedded 4.

    Stage i: z_i = h Σ_{j<i} a_ij k_j + h γ f(t_i, y_0 + z_i), k_i = (z_i - h Σ_{j<i} a_ij k_j) / (h γ); the last one
    is the step, y_1 = y_0 + z_s.

    With `differentiable`, every stage ends with two Newton steps from a fixed point, with the Jacobian there, so that
    first and second derivatives of a solve are those of the exact stages (implicit function theorem).
    """

    tableau: ClassVar[diffrax.ButcherTableau] = diffrax.Kvaerno5.tableau

    def order(self, terms):
        return 5

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        del made_jump
        t0, h = jax.lax.stop_gradient(t0), jax.lax.stop_gradient(t1 - t0)
        a, predictor, c, gamma, b_error = _coefficients(type(self))
        identity = jnp.eye(y0.size, dtype=y0.dtype)

        # What is only there to find the stages; the loops that find them have no derivative.
        frozen_y0, frozen_args = jax.lax.stop_gradient(y0), jax.tree.map(jax.lax.stop_gradient, args)

        def frozen(t, y):
            return terms.vf(t, y, frozen_args)

        scale = self.scale(frozen_y0)
        jacobian = jax.jacfwd(frozen, argnums=1)(t0, frozen_y0)
        inverse = jnp.linalg.inv(identity - h * gamma * jacobian * (scale / scale[:, None]))

        def stage(carry, row):
            k, good, n_iterations = carry
            i, a_i, c_i, predictor_i = row
            t, known = t0 + c_i * h, h * (a_i @ k)
            frozen_known = jax.lax.stop_gradient(known)

            def correction(z):
                return inverse @ ((frozen_known + h * gamma * frozen(t, frozen_y0 + z) - z) / scale)

            guess = frozen_known + h * gamma * (predictor_i @ jax.lax.stop_gradient(k))
            z, converged, n = newton(correction, guess, scale)
            if self.differentiable:
                factors = lu_factor(identity - h * gamma * jax.jacfwd(frozen, argnums=1)(t, frozen_y0 + z))
                for _ in range(2):  # every one makes derivatives of one order more right
                    z = z - lu_solve(factors, z - known - h * gamma * terms.vf(t, y0 + z, args))
            k = k.at[i].set((z - known) / (h * gamma))
            return (k, good & converged, n_iterations + n), z

        k = jnp.zeros((len(c), y0.size), dtype=y0.dtype).at[0].set(terms.vf(t0, y0, args))
        rows = (jnp.arange(1, len(c)), a[1:], c[1:], predictor[1:])
        (k, good, n_iterations), increments = jax.lax.scan(stage, (k, jnp.asarray(True), 0), rows)
        y1 = y0 + increments[-1]
        error = jnp.where(good, h * (b_error @ k), jnp.inf)
        work = Work(solver_state.n_f_evals + 1 + n_iterations, solver_state.n_jacobian_evals + 1)
        return y1, error, {"y1": y1}, work, RESULTS.successful


def newton(correction, guess, scale):
    """z by simplified Newton iterations, whether they converged, and how many there were.

    `correction(z)` is what Newton's method adds to z, in units of `scale`.
    """

    def correct(carry):
        z, before, _, iteration = carry
        step = correction(z)
        size = jnp.max(jnp.abs(step))
        return z + scale * step, size, size / before, iteration + 1

    def is_last(carry):
        _, size, rate, iteration = carry
        # All that further corrections would add, where each is `rate` times the one before.
        rest = jnp.where(rate < 1, size * rate / (1 - rate), jnp.inf)
        return (size <= 1e-2 * _SHARE) | ((iteration > 1) & (rest <= _SHARE))

    def unfinished(carry):
        _, size, rate, iteration = carry
        hopeless = ((iteration > 1) & (rate >= 2)) | ~jnp.isfinite(size) & (iteration > 0)
        return (iteration < _MAX_ITERATIONS) & ~is_last(carry) & ~hopeless

    first = (guess, jnp.asarray(jnp.inf, guess.dtype), jnp.asarray(jnp.inf, guess.dtype), 0)
    last = jax.lax.while_loop(unfinished, correct, first)
    return last[0], is_last(last), last[3]


@lru_cache(maxsize=4)
def _coefficients(method: type[Esdirk]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray]:
    """Sums and guesses of the stages, strictly lower triangular (n_stages, n_stages); abscissas; γ; error weights."""
    tableau = method.tableau
    n = len(tableau.b_sol)
    a, predictor = np.zeros((n, n)), np.zeros((n, n))
    for i in range(1, n):
        a[i, :i], predictor[i, :i] = tableau.a_lower[i - 1], tableau.a_predictor[i - 1]
    return a, predictor, np.concatenate([[0.0], tableau.c]), float(tableau.a_diagonal[-1]), tableau.b_error
