"""A mechanical system in torch: its true vector field, its projection, and what a solution says of a state.

What `ndae.solvers.mechanics.motion_jax` is for JAX, over any batch dimensions: the field that a network is to learn, to
be put in the network's place, and the second opinion on the reference solver.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ndae.solvers._types import PerSample, Residual, State
from ndae.solvers.arguments import points_of, refuse_functions
from ndae.solvers.manifold.gram import apply_metric
from ndae.solvers.manifold.multipliers import (
    acceleration_left,
    check_settled,
    constrained_acceleration,
    tangent_velocity,
)
from ndae.solvers.manifold.projection import project
from ndae.symbolic.ground.words import check_known

Time = float | Tensor | None


class TorchMotion(torch.nn.Module):
    """Equations of motion M a = F(q, v, t) - Jᵀ λ with c(q, t) = 0, solved for a, and what belongs to them.

    `system` is a System of points; `parameters` overrides its parameters by name ("mass" too, in kg), with
    numbers or with tensors that want a gradient. The multiplier solves (J M⁻¹ Jᵀ) λ = J M⁻¹ F + curvature(q, v, t),
    by the structure of the Gram matrix (Hairer, Wanner: Solving ODEs II, VII.1, the index-1 form). Every method takes
    states of shape (..., n_states) and is differentiable; the work is done in the precision of the states.

    Raises ValueError on a system that is not of points, on an unknown parameter, and on one that is a function.
    """

    def __init__(self, system: Any, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        points = points_of(system)
        self.name, self.n_states = points.name, points.n_states
        self.constraint = points.constraint.torch()
        self.potential = None if points.potential is None else points.potential.torch()
        self.external_force = None if points.external_force is None else points.external_force.torch()
        given = dict(parameters or {})
        refuse_functions(self.name, given)
        check_known(given, sorted({"mass", *points.parameters}), repr(self.name))
        mass = torch.as_tensor(given.get("mass", points.mass), dtype=torch.float64)
        self._inverse_mass = 1 / mass.expand(self.constraint.n_points)  # float64, cast to what the state has
        self._own = {  # each function refuses the parameters of others
            role: {name: value for name, value in given.items() if function is not None and name in function.parameters}
            for role, function in (
                ("constraint", points.constraint), ("potential", points.potential), ("force", points.external_force),
            )
        }  # fmt: skip

    @property
    def needs_time(self) -> bool:
        """Whether any of the equations depends on time."""
        functions = (self.constraint, self.potential, self.external_force)
        return any(function.needs_time for function in functions if function is not None)

    def forward(self, t: Time, y: State) -> State:
        """The derivative (v, a) of y = (q, v), side by side on the last axis."""
        q, v = y.chunk(2, -1)
        return torch.cat([v, self.acceleration(q, v, t)], -1)

    def force(self, q: State, v: State, t: Time = None, overriding: Mapping[str, Mapping] | None = None) -> State:
        """−∇V(q) + external force, in newtons; `overriding`: parameters of the "potential" and the "force" that go
        over those given before."""
        total, own = torch.zeros_like(q), self._own
        if overriding:
            own = {role: {**values, **overriding.get(role, {})} for role, values in own.items()}
        if self.potential is not None:
            ones = q.new_ones(*q.shape[:-1], self.potential.n_residuals)
            total = total - self.potential.vjp(q, ones, t, own["potential"])
        if self.external_force is not None:
            state = q if self.external_force.n_states == self.n_states else torch.cat([q, v], -1)
            total = total + self.external_force.residual(state, t, own["force"])
        return total

    def acceleration(self, q: State, v: State, t: Time = None) -> State:
        """v' = M⁻¹ (F − Jᵀ λ), in m/s²."""
        return self._solve(q, v, t)[2]

    def multiplier(self, q: State, v: State, t: Time = None, *, check: bool = True) -> Residual:
        """λ of M v' = F − Jᵀ λ such that d²c/dt² = 0, (..., n_residuals).

        Raises SolveError where it does not solve its equations, unless `check=False`: for `torch.func`, under which no
        number can be looked at.
        """
        free, lam, a = self._solve(q, v, t)
        if check:
            with torch.no_grad():
                check_settled(self._left(q, v, t, free, lam, a)[1], q, v, self.name)
        return lam

    def energy(self, q: State, v: State, t: Time = None) -> PerSample:
        """½ Σ m |v|² + V(q), in joules."""
        mass = (1 / self._metric(q)).repeat_interleave(self.constraint.dim)
        kinetic = 0.5 * (mass * v * v).sum(-1)
        if self.potential is None:
            return kinetic
        return kinetic + self.potential.residual(q, t, self._own["potential"]).sum(-1)

    def project(self, t: Time, y: State, tol: float | None = None) -> State:
        """The state with q, then v, moved onto their manifolds c = 0 and J v + ∂c/∂t = 0, nearest in the metric M.

        `tol`: largest |c| left; by default 1e-13 in float64, 1e-5 in float32, relative to what cancels in c (`rtol` of
        `project`). Raises `ProjectionError` where it is not reached.
        """
        q, v = y.chunk(2, -1)
        own, metric = self._own["constraint"], self._metric(q)
        rtol = (1e-13 if q.dtype == torch.float64 else 1e-5) if tol is None else None
        # Without a gradient through the search for the point: a solve is differentiated through its field.
        q = project(self.constraint, q, inverse_metric=metric, t=t, parameters=own, tol=tol, rtol=rtol).y
        v = tangent_velocity(self.constraint, q, v, metric, t=t, parameters=own)
        return torch.cat([q, v], -1)

    def describe(self, t: Time, y: State) -> dict[str, Tensor]:
        """Multiplier and how well it solves its equations, energy, and the residuals at all three levels.

        "error" (...) is the largest |J v' + curvature| over the size of what is added up in it: some machine epsilons,
        times 16 where constraints depend on one another. Nothing is raised: it is for the caller to look at, as
        `multiplier` does.
        """
        q, v = y.chunk(2, -1)
        own = self._own["constraint"]
        free, lam, a = self._solve(q, v, t)
        left, error = self._left(q, v, t, free, lam, a)
        return {
            "multiplier": lam,
            "error": error,
            "energy": self.energy(q, v, t),
            "position": self.constraint.residual(q, t, own),
            "velocity": self.constraint.velocity(q, v, t, own),
            "acceleration": left,
        }

    def _solve(self, q: Tensor, v: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """M⁻¹ F, λ and v'."""
        metric, own = self._metric(q), self._own["constraint"]
        free = apply_metric(self.constraint, metric, self.force(q, v, t))
        return free, *constrained_acceleration(self.constraint, q, v, free, metric, t=t, parameters=own)

    def _left(self, q: Tensor, v: Tensor, t: Time, free: Tensor, lam: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        own = self._own["constraint"]
        return acceleration_left(self.constraint, q, v, free, lam, a, self._metric(q), t=t, parameters=own)

    def _metric(self, like: Tensor) -> Float[Tensor, " n_points"]:
        return self._inverse_mass.to(like)
