"""Equations of motion of points, generated for JAX."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Float

from ndae.symbolic.backends.jax_arrays import from_host, places
from ndae.symbolic.ground import _types as shapes
from ndae.symbolic.ground.words import check_known

State = Float[Any, shapes.STATE]
Residual = Float[Any, shapes.RESIDUAL]


class JaxPoints:
    """The equations of motion of `Points`; every method takes any leading batch dimensions.

    `parameters` overrides defaults by name, for the constraint, the potential and the force alike; "mass" (one
    number, or (n_points,), in kg) overrides the masses too. Raises ValueError on an unknown name.
    """

    def __init__(self, points):
        self.name, self.n_states, self.dim = points.name, points.n_states, points.constraint.dim
        self.structure = points.constraint.structure
        self.constraint = points.constraint.jax()
        self.potential = None if points.potential is None else points.potential.jax()
        self.external_force = None if points.external_force is None else points.external_force.jax()
        self.mass = points.mass

    def _for(self, function, parameters: Mapping | None) -> dict:
        known = {"mass"}
        for f in (self.constraint, self.potential, self.external_force):
            known |= set(f.parameters) if f is not None else set()
        check_known(parameters or (), sorted(known), repr(self.name))
        return {name: value for name, value in (parameters or {}).items() if name in function.parameters}

    def masses(self, parameters: Mapping | None = None, dtype=None) -> Float[Any, "n_points"]:
        """Mass of each point, in kg."""
        mass = (parameters or {}).get("mass", self.mass)
        return jnp.broadcast_to(jnp.asarray(mass, dtype), (self.constraint.n_points,))

    def inverse_metric(self, parameters: Mapping | None = None, dtype=None) -> Float[Any, "n_points"]:
        """1/mass of each point, the metric A of `gram_from` and of projections."""
        return 1.0 / self.masses(parameters, dtype)

    def force(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> State:
        """−∇V(q) + external force, in newtons, (..., n_states)."""
        q, v = from_host(q), from_host(v)
        total = jnp.zeros_like(q)
        if self.potential is not None:
            ones = jnp.ones((*q.shape[:-1], self.potential.n_residuals), q.dtype)
            total = total - self.potential.vjp(q, ones, t, self._for(self.potential, parameters))
        if self.external_force is not None:
            state = q if self.external_force.n_states == self.n_states else jnp.concatenate([q, v], -1)
            total = total + self.external_force.residual(state, t, self._for(self.external_force, parameters))
        return total

    def multiplier(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """λ of M q̈ = F − Jᵀ λ such that d²c/dt² = 0, (..., n_residuals)."""
        return self._solve(q, v, t, parameters)[0]

    def acceleration(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> State:
        """q̈ = M⁻¹ (F − Jᵀ λ), in m/s², (..., n_states)."""
        return self._solve(q, v, t, parameters)[1]

    def solve_error(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Float[Any, "*#batch"]:
        """The largest |J q̈ + curvature| over the size of what is added up in it, (...): some machine epsilons.

        The backward error of `multiplier` and `acceleration`; NaN where these are.
        """
        c, own = self.constraint, self._for(self.constraint, parameters)
        inverse = jnp.repeat(self.inverse_metric(parameters, q.dtype), self.dim)
        lam, a = self._solve(q, v, t, parameters)
        local, curvature = c.local_jacobian(q, t, own), c.curvature(q, v, t, own)
        pushes = abs(self.force(q, v, t, parameters)) + c.apply_transpose(abs(local), abs(lam))
        sizes = c.apply_jacobian(abs(local), inverse * pushes) + abs(curvature) + jnp.finfo(q.dtype).tiny
        return jnp.max(abs(c.apply_jacobian(local, a) + curvature) / sizes, axis=-1, initial=0.0)

    def energy(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Float[Any, "*#batch"]:
        """½ Σ m |v|² + V(q), in joules, (...)."""
        q, v = from_host(q), from_host(v)
        mass = jnp.repeat(self.masses(parameters, q.dtype), self.dim)
        kinetic = 0.5 * (mass * v * v).sum(-1)
        if self.potential is None:
            return kinetic
        return kinetic + self.potential.residual(q, t, self._for(self.potential, parameters)).sum(-1)

    def gram(self, local_jacobian, parameters: Mapping | None = None):
        """J M⁻¹ Jᵀ as a dense matrix, (..., n_residuals, n_residuals)."""
        c, pairs = self.constraint, places(self.structure.pairs)
        diagonal, off = c.gram_from(local_jacobian, self.inverse_metric(parameters, local_jacobian.dtype))
        n, m = c.n_instances, c.n_local
        blocks = jnp.zeros((*diagonal.shape[:-3], n, n, m, m), diagonal.dtype)
        i = jnp.arange(n)
        blocks = blocks.at[..., i, i, :, :].set(diagonal)
        if len(pairs):
            blocks = blocks.at[..., pairs[:, 0], pairs[:, 1], :, :].set(off)
            blocks = blocks.at[..., pairs[:, 1], pairs[:, 0], :, :].set(jnp.swapaxes(off, -1, -2))
        return jnp.swapaxes(blocks, -2, -3).reshape(*diagonal.shape[:-3], n * m, n * m)

    def _solve(self, q, v, t, parameters):
        c, own = self.constraint, self._for(self.constraint, parameters)
        q, v = from_host(q), from_host(v)
        inverse = jnp.repeat(self.inverse_metric(parameters, q.dtype), self.dim)
        free = inverse * self.force(q, v, t, parameters)
        local = c.local_jacobian(q, t, own)
        right = c.apply_jacobian(local, free) + c.curvature(q, v, t, own)
        lam = cho_solve(cho_factor(self.gram(local, parameters)), right[..., None])[..., 0]
        return lam, free - inverse * c.apply_transpose(local, lam)
