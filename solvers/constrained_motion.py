"""A mechanical system as pure JAX functions of one state: its derivative, its projection, its residuals.

All of it is written for one float64 state y = (q, v) of shape (2 n_states,); batches go through jax.vmap.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float

Coordinates = Float[Array, "n_states"]
Residuals = Float[Array, "n_residuals"]
Parameters = Mapping[str, Any] | None

# A Newton correction this small, relative to the coordinates, squares to less than rounding: the last one.
_LAST_CORRECTION = 1e-10


class ConstrainedMotion:
    """Equations of motion M a = F(q, v, t) + Jᵀ λ with c(q, t) = 0, solved for a, and what belongs to them.

    `system` is a symbolic.MechanicalSystem. Create it, and call its methods, with 64-bit JAX switched on.
    """

    def __init__(self, system: Any) -> None:
        self.system = system
        self.n_states = system.constraint.n_states
        self._mechanics = system.jax()
        self._constraint = system.constraint.jax()
        self._inverse_mass = _inverse_mass(system)

    def derivative(self, t: Any, y: Float[Array, "n_state"], parameters: Parameters) -> Float[Array, "n_state"]:
        """(v, a), with a the acceleration under which the constraint's second derivative is zero."""
        q, v = self.split(y)
        return jnp.concatenate([v, self._mechanics.acceleration(q, v, t, parameters)])

    def split(self, y: Float[Array, "n_state"]) -> tuple[Coordinates, Coordinates]:
        return y[: self.n_states], y[self.n_states :]

    def project(
        self, t: Any, y: Float[Array, "n_state"], parameters: Parameters, max_iterations: int = 10
    ) -> tuple[Float[Array, "n_state"], Bool[Array, ""]]:
        """The state with q, then v, moved onto their manifolds, and whether that converged."""
        q, v = self.split(y)
        q, converged = self.project_position(t, q, parameters, max_iterations)
        return jnp.concatenate([q, self.project_velocity(t, q, v, parameters)]), converged

    def project_position(
        self, t: Any, q: Coordinates, parameters: Parameters, max_iterations: int = 10
    ) -> tuple[Coordinates, Bool[Array, ""]]:
        """The point of c(·, t) = 0 nearest to q in the metric M, by Gauss-Newton steps

            q_{k+1} = q - M⁻¹ J_kᵀ (J_k M⁻¹ J_kᵀ)⁻¹ (c(q_k) + J_k (q - q_k)).
        """
        start = q

        def correct(carry):
            q, _, iteration = carry
            jacobian = self._jacobian(t, q, parameters)
            rhs = self._constraint.residual(q, t, parameters) + jacobian @ (start - q)
            new = start - self._step(jacobian, rhs)
            return new, jnp.max(jnp.abs(new - q)), iteration + 1

        def unfinished(carry):
            q, correction, iteration = carry
            return (iteration < max_iterations) & ~_is_last(correction, q)

        q, correction, _ = jax.lax.while_loop(unfinished, correct, (q, jnp.asarray(jnp.inf), jnp.asarray(0)))
        return q, _is_last(correction, q)

    def project_velocity(self, t: Any, q: Coordinates, v: Coordinates, parameters: Parameters) -> Coordinates:
        """The velocity of J v + ∂c/∂t = 0 nearest to v in the metric M; linear, so one step finds it."""
        return v - self._step(self._jacobian(t, q, parameters), self._constraint.velocity(q, v, t, parameters))

    def describe(self, t: Any, y: Float[Array, "n_state"], parameters: Parameters) -> dict[str, Array]:
        """Multiplier, energy, and the residuals at all three levels, of one state."""
        q, v = self.split(y)
        a = self._mechanics.acceleration(q, v, t, parameters)
        return {
            "multiplier": self._mechanics.multiplier(q, v, t, parameters),
            "energy": self._mechanics.energy(q, v, t, parameters),
            "position": self._constraint.residual(q, t, parameters),
            "velocity": self._constraint.velocity(q, v, t, parameters),
            "acceleration": self._constraint.jvp(q, a, t, parameters)
            + self._constraint.curvature(q, v, t, parameters),
        }

    def _jacobian(self, t, q, parameters):
        return self._constraint.jacobian(q, t, parameters)

    def _step(self, jacobian, rhs):
        weighted = jacobian * self._inverse_mass
        return weighted.T @ cho_solve(cho_factor(weighted @ jacobian.T), rhs)


def _is_last(correction, q):
    # Written so that a NaN is never the last.
    return correction <= _LAST_CORRECTION * jnp.max(jnp.abs(q))


def _inverse_mass(system: Any) -> np.ndarray:
    mass = np.broadcast_to(np.asarray(system.mass, dtype=np.float64), (system.constraint.n_points,))
    return np.repeat(1.0 / mass, system.constraint.dim)
