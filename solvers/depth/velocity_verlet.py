"""Velocity Verlet, the integrator of molecular dynamics, as one step."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def velocity_verlet_step(
    acceleration: Callable[[float | Tensor, Tensor], Tensor],
    t: float | Tensor,
    y: Float[Tensor, "*batch n_states"],
    dt: float | Tensor,
    a: Float[Tensor, "*batch n_coordinates"] | None = None,
) -> tuple[Float[Tensor, "*batch n_states"], Float[Tensor, "*batch n_coordinates"]]:
    """One step of `q' = v, v' = a(t, q)` for y = [q, v], and the acceleration at its end, for the next step to begin.

    v½ = v + dt/2 a(t, q), q₁ = q + dt v½, v₁ = v½ + dt/2 a(t + dt, q₁) (Swope et al. 1982; Hairer, Lubich, Wanner:
    Geometric Numerical Integration, I.1.4). Of second order, symplectic and reversible: the energy of a motion that
    goes on for long stays within an error of order dt². `acceleration(t, y)` gets the whole state, but velocities only
    as of half a step: one that depends on them is integrated to first order. `dt`: a number, or one a sample that
    broadcasts against the state.
    """
    q, v = y.chunk(2, -1)
    a = acceleration(t, y) if a is None else a
    v = v + (0.5 * dt) * a
    q = q + dt * v
    a = acceleration(t + dt, torch.cat([q, v], -1))
    return torch.cat([q, v + (0.5 * dt) * a], -1), a
