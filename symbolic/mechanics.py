"""Constrained mechanical systems, reduced to accelerations by elimination of the multipliers."""

from collections.abc import Sequence

import numpy as np

from symbolic.constraint import Constraint, Function


class MechanicalSystem:
    """Points with masses under a potential, a force and a holonomic constraint.

    M q̈ = F(q, q̇, t) − J(q)ᵀ λ, c(q, t) = 0, with F = −∇V + force. λ is the multiplier: with c = |b − a| − L in
    metres it is the tension of a link in newtons. It solves (J M⁻¹ Jᵀ) λ = J M⁻¹ F + curvature(q, q̇, t).

    `mass` is one number or one for each point (n_points,), in kg. `potential` is a `Function` over the same state whose
    residuals, summed, are V in joules. `force` is a `Function` with n_states residuals over q, or over (q, q̇) side
    by side. Raises ValueError on masses that are not positive and on functions of another size.
    """

    def __init__(
        self,
        constraint: Constraint,
        mass: float | Sequence[float] | np.ndarray = 1.0,
        potential: Function | None = None,
        force: Function | None = None,
        name: str = "system",
    ):
        self.constraint, self.potential, self.external_force, self.name = constraint, potential, force, name
        n = constraint.n_points
        try:
            self.mass = np.broadcast_to(np.asarray(mass, dtype=np.float64), (n,)).copy()
        except (TypeError, ValueError):
            raise ValueError(f"{name}: mass={mass!r}: expected one number or {n}, one for each point") from None
        if not (np.all(np.isfinite(self.mass)) and np.all(self.mass > 0)):
            raise ValueError(f"{name}: mass={mass!r}: masses are positive, in kg")
        if potential is not None and potential.n_states != constraint.n_states:
            raise ValueError(
                f"{name}: the potential {potential.name!r} has {potential.n_states} states, the constraint "
                f"{constraint.name!r} has {constraint.n_states}: write both over the same state (n_points=)"
            )
        if force is not None and (
            force.n_states not in (constraint.n_states, 2 * constraint.n_states)
            or force.n_residuals != constraint.n_states
        ):
            raise ValueError(
                f"{name}: the force {force.name!r} maps {force.n_states} states to {force.n_residuals} numbers: "
                f"expected {constraint.n_states} numbers from q ({constraint.n_states}), or from q and v "
                f"({2 * constraint.n_states})"
            )
        self.parameters = dict(constraint.parameters)
        for function in (potential, force):
            for key, value in (function.parameters if function is not None else {}).items():
                self.parameters.setdefault(key, value)

    @property
    def n_states(self) -> int:
        """Length of q."""
        return self.constraint.n_states

    def jax(self):
        """Generate the system for JAX: force, multiplier, acceleration and energy as pure functions."""
        from symbolic.jax_mechanics import JaxSystem

        return JaxSystem(self)
