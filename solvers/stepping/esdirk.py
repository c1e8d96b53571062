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
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jax.scipy.linalg import lu_factor, lu_solve

from ndae.solvers.stepping.implicit_method import Implicit, Work, newton


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
        jacobian = self.jacobians.jacobian(lambda y: frozen(t0, y), frozen_y0, h * gamma, scale)
        inverse = self.jacobians.inverse(1.0, jacobian)

        def stage(carry, row):
            k, good, n_iterations = carry
            i, a_i, c_i, predictor_i = row
            t, known = t0 + c_i * h, h * (a_i @ k)
            frozen_known = jax.lax.stop_gradient(known)

            def correction(z):
                rest = frozen_known + h * gamma * frozen(t, frozen_y0 + z) - z
                return self.jacobians.times(inverse, rest / scale)

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


@lru_cache(maxsize=4)
def _coefficients(method: type[Esdirk]) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, np.ndarray]:
    """Sums and guesses of the stages, strictly lower triangular (n_stages, n_stages); abscissas; γ; error weights."""
    tableau: Any = method.tableau
    n = len(tableau.b_sol)
    a, predictor = np.zeros((n, n)), np.zeros((n, n))
    for i in range(1, n):
        a[i, :i], predictor[i, :i] = tableau.a_lower[i - 1], tableau.a_predictor[i - 1]
    return a, predictor, np.concatenate([[0.0], tableau.c]), float(tableau.a_diagonal[-1]), tableau.b_error
