"""A mechanical system as pure JAX functions of one state: its derivative, its projection, its residuals.

All of it is written for one float64 state y = (q, v) of shape (2 n_states,); batches go through jax.vmap.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array

from ndae.solvers._jax_types import Coordinates, Flag, PhaseState, Residual
from ndae.symbolic.systems.of_points import Points

Parameters = Mapping[str, Any] | None

# A Newton correction this small, relative to the coordinates, squares to less than rounding: the last one.
_LAST_CORRECTION = 1e-10


class ConstrainedMotion:
    """Equations of motion M a = F(q, v, t) - Jᵀ λ with c(q, t) = 0, solved for a, and what belongs to them.

    `points` are those of a system (System.points); with `projects` a step ends on both manifolds. Call the methods
    with 64-bit JAX switched on.
    """

    def __init__(self, points: Points, projects: bool = True) -> None:
        self.projects = projects
        self._mechanics = points.jax()
        self._constraint = self._mechanics.constraint

    def derivative(self, t: Any, y: PhaseState, parameters: Parameters) -> PhaseState:
        """(v, a), with a the acceleration under which the constraint's second derivative is zero."""
        q, v = jnp.split(y, 2)
        return jnp.concatenate([v, self._mechanics.acceleration(q, v, t, parameters)])

    def after_step(self, t: Any, y: PhaseState, parameters: Parameters, floor: Any) -> tuple[PhaseState, Flag]:
        """The state that the next step starts from, and whether it was found. Masses say what is near, not `floor`."""
        del floor
        return self.project(t, y, parameters) if self.projects else (y, jnp.asarray(True))

    def project(
        self, t: Any, y: PhaseState, parameters: Parameters, max_iterations: Any = 10
    ) -> tuple[PhaseState, Flag]:
        """The state with q, then v, moved onto their manifolds, and whether that converged."""
        q, v = jnp.split(y, 2)
        q, converged = self.project_position(t, q, parameters, max_iterations)
        return jnp.concatenate([q, self.project_velocity(t, q, v, parameters)]), converged

    def project_position(
        self, t: Any, q: Coordinates, parameters: Parameters, max_iterations: Any = 10
    ) -> tuple[Coordinates, Flag]:
        """The point of c(·, t) = 0 nearest to q in the metric M, by Gauss-Newton steps, and whether they converged.

        q_{k+1} = q - M⁻¹ J_kᵀ (J_k M⁻¹ J_kᵀ)⁻¹ (c(q_k) + J_k (q - q_k)).
        """
        start, own = q, self._own(parameters)

        def correct(carry):
            q, _, iteration = carry
            c, local = self._constraint.linearise(q, t, own)
            rhs = c + self._constraint.apply_jacobian(local, start - q)
            new = start - self._correction(local, rhs, parameters)
            return new, jnp.max(jnp.abs(new - q)), iteration + 1

        def unfinished(carry):
            q, correction, iteration = carry
            return (iteration < max_iterations) & ~_is_last(correction, q)

        q, correction, _ = jax.lax.while_loop(unfinished, correct, (q, jnp.asarray(jnp.inf), jnp.asarray(0)))
        return q, _is_last(correction, q)

    def project_velocity(self, t: Any, q: Coordinates, v: Coordinates, parameters: Parameters) -> Coordinates:
        """The velocity of J v + ∂c/∂t = 0 nearest to v in the metric M; linear, so one step finds it."""
        own = self._own(parameters)
        rate = self._constraint.velocity(q, v, t, own)
        return v - self._correction(self._constraint.local_jacobian(q, t, own), rate, parameters)

    def describe(self, t: Any, y: PhaseState, parameters: Parameters) -> dict[str, Array]:
        """Multiplier, energy, and the residuals at all three levels, of one state; and the error of the multiplier."""
        q, v = jnp.split(y, 2)
        own = self._own(parameters)
        a = self._mechanics.acceleration(q, v, t, parameters)
        return {
            "multiplier": self._mechanics.multiplier(q, v, t, parameters),
            "error": self._mechanics.solve_error(q, v, t, parameters),
            "energy": self._mechanics.energy(q, v, t, parameters),
            "position": self._constraint.residual(q, t, own),
            "velocity": self._constraint.velocity(q, v, t, own),
            "acceleration": self._constraint.jvp(q, a, t, own) + self._constraint.curvature(q, v, t, own),
        }

    def _own(self, parameters: Parameters) -> dict[str, Any]:
        """The parameters of the constraint alone, which refuses others."""
        return {name: value for name, value in (parameters or {}).items() if name in self._constraint.parameters}

    def _correction(self, local_jacobian: Array, rhs: Residual, parameters: Parameters) -> Coordinates:
        """M⁻¹ Jᵀ (J M⁻¹ Jᵀ)⁻¹ rhs."""
        lam = cho_solve(cho_factor(self._mechanics.gram(local_jacobian, parameters)), rhs)
        inverse_mass = self._mechanics.inverse_metric(parameters, jnp.float64)
        push = self._constraint.apply_transpose(local_jacobian, lam)
        return (inverse_mass[:, None] * push.reshape(inverse_mass.size, -1)).reshape(-1)


def _is_last(correction: Array, q: Coordinates) -> Flag:
    return correction <= _LAST_CORRECTION * jnp.max(jnp.abs(q))  # never true of a NaN
