"""Velocity constraints A(q, t) v + b(q, t) = 0 in torch, alone or beside holonomic ones: accelerations and velocities.

The rows of both kinds are put below each other and solved for together, dense: such systems are small.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ndae.solvers._types import PerSample, Residual, State
from ndae.solvers.manifold.multipliers import (
    acceleration_left,
    constrained_acceleration,
    largest_share,
    tangent_velocity,
)

Time = float | Tensor | None


def joint_acceleration(
    constraint: Any,
    along: Any,
    q: State,
    v: State,
    free: State,
    inverse_mass: Tensor | None = None,
    *,
    alpha: float = 0.0,
    t: Time = None,
) -> tuple[Residual, State]:
    """λ and a of M a = F - Jᵀ λ - Aᵀ μ with c̈ + 2 α ċ + α² c = 0 and ṙ + α r = 0, given `free` = M⁻¹ F.

    `constraint`: compiled, c(q, t), or None; `along`: compiled over (q, v), r = A(q, t) v + b(q, t), or None, whose
    multipliers μ come behind those of c. Reactions are along Aᵀ, so that they do no work where b = 0 (d'Alembert and
    Lagrange; Bloch: Nonholonomic Mechanics and Control, 1.3). `inverse_mass` as in `constrained_acceleration`.
    """
    if along is None:
        return constrained_acceleration(constraint, q, v, free, inverse_mass, alpha=alpha, t=t)
    rows, bias = _rows(constraint, along, q, v, t, alpha)
    lam, reaction = _solved(rows, _times(rows, free) + bias, inverse_mass)
    return lam, free - reaction


def joint_acceleration_error(
    constraint: Any,
    along: Any,
    q: State,
    v: State,
    free: State,
    lam: Residual,
    a: State,
    inverse_mass: Tensor | None = None,
    *,
    alpha: float = 0.0,
    t: Time = None,
) -> PerSample:
    """How well λ and a of `joint_acceleration` solve its equations, as of `acceleration_left`."""
    if along is None:
        return acceleration_left(constraint, q, v, free, lam, a, inverse_mass, alpha=alpha, t=t)[1]
    rows, bias = _rows(constraint, along, q, v, t, alpha)
    sizes = rows.abs()
    lifted = sizes if inverse_mass is None else _weighed(sizes, inverse_mass.abs())
    added = _times(sizes, free.abs()) + _times(sizes, _times(lifted.mT, lam.abs())) + bias.abs()
    return largest_share(_times(rows, a) + bias, added)


def joint_tangent_velocity(
    constraint: Any, along: Any, q: State, v: State, inverse_mass: Tensor | None = None, *, t: Time = None
) -> State:
    """The velocity nearest to v, in the metric of the masses, with J v + ∂c/∂t = 0 and A v + b = 0."""
    if along is None:
        return tangent_velocity(constraint, q, v, inverse_mass, t=t)
    rows, _ = _rows(constraint, along, q, v, t)
    rate = along.residual(torch.cat([q, v], -1), t)
    if constraint is not None:
        rate = torch.cat([constraint.velocity(q, v, t), rate], -1)
    return v - _solved(rows, rate, inverse_mass)[1]


def _rows(
    constraint: Any, along: Any, q: Tensor, v: Tensor, t: Time, alpha: float = 0.0
) -> tuple[Float[Tensor, "*batch m n"], Float[Tensor, "*batch m"]]:
    """J over A, and what is added to J a and A a: curvature, and ∂r/∂q v + ∂r/∂t, and the pull of α."""
    y = torch.cat([q, v], -1)
    by_q, rows = along.jacobian(y, t).split(q.shape[-1], -1)
    bias = _times(by_q, v)
    if along.needs_time:
        bias = bias + along.time_derivative(y, t)
    if alpha:
        bias = bias + alpha * along.residual(y, t)
    if constraint is None:
        return rows, bias
    curvature = constraint.curvature(q, v, t)
    if alpha:
        curvature = curvature + 2 * alpha * constraint.velocity(q, v, t) + alpha**2 * constraint.residual(q, t)
    return torch.cat([constraint.jacobian(q, t), rows], -2), torch.cat([curvature, bias], -1)


def _solved(rows: Tensor, right: Tensor, inverse_mass: Tensor | None) -> tuple[Tensor, Tensor]:
    """λ with (R M⁻¹ Rᵀ) λ = right for the rows R, and M⁻¹ Rᵀ λ."""
    lifted = rows if inverse_mass is None else _weighed(rows, inverse_mass)
    gram = rows @ lifted.mT
    # As in factor_gram: redundant rows give a finite, harmless multiplier.
    raised = gram + torch.diag_embed(16 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1))
    lam = torch.cholesky_solve(right.unsqueeze(-1), torch.linalg.cholesky_ex(raised)[0])
    return lam.squeeze(-1), (lifted.mT @ lam).squeeze(-1)


def _weighed(rows: Tensor, inverse_mass: Tensor) -> Tensor:
    nodes = rows.unflatten(-1, (inverse_mass.shape[0], -1))
    if inverse_mass.dim() == 1:
        return (nodes * inverse_mass[:, None]).flatten(-2)
    return (nodes.unsqueeze(-2) * inverse_mass).sum(-1).flatten(-2)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
