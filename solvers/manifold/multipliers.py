"""Lagrange multipliers in torch: the field on the tangent space, and accelerations under constraints (eq. 6)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ndae.solvers._types import Flag, PerSample, Residual, State
from ndae.solvers.errors import ROUNDINGS
from ndae.solvers.manifold.closing import close, inverse_metric, lift
from ndae.solvers.manifold.gram import apply_metric, solve_gram
from ndae.solvers.manifold.linearisation import Problem
from ndae.solvers.solution import SolveError

Time = float | Tensor | None


def tangent_latent(
    constraint,
    z: Float[Tensor, "*batch n_points latent"],
    velocity: Float[Tensor, "*batch n_points latent"],
    close_weight: Float[Tensor, "latent dim"],
    *,
    orthonormal: bool = False,
    sizes: Tensor | None = None,
    t: Time = None,
    parameters: Mapping | None = None,
) -> Float[Tensor, "*batch n_points latent"]:
    """σ - Kᵀ Jᵀ λ with (J K Kᵀ Jᵀ) λ = J K σ + ∂c/∂t: the part of a latent field σ that keeps c(K z) as it is.

    The multiplier DAE of eq. (6), z' = σ - Kᵀ Jᵀ λ with c(K z, t) = 0, in its index-1 form: λ makes d/dt c(K z, t) = 0.
    K = `close_weight`ᵀ closes each point, y = K z; `orthonormal=True` takes K Kᵀ = I on the caller's
    word, with `sizes` s (dim,) K Kᵀ = diag(s²).
    Differentiable with respect to all inputs.
    """
    metric = inverse_metric(constraint, close_weight, z.shape[-2], orthonormal, sizes)
    y, v = (close(x, close_weight).flatten(-2) for x in (z, velocity))
    at = Problem.of(constraint, y, t, parameters, metric).linearise_start()
    rate = at.jacobian(v.reshape(at.y.shape))
    if constraint.needs_time:
        rate = rate + constraint.time_derivative(at.y, at.problem.t, at.problem.parameters)
    force = at.transpose(at.gram.solve(rate)).reshape(*z.shape[:-1], -1)
    return velocity - lift(force, close_weight)


def constrained_acceleration(
    constraint,
    q: State,
    v: State,
    free: State,
    inverse_mass: Tensor | None = None,
    *,
    alpha: float | Tensor = 0.0,
    t: Time = None,
    parameters: Mapping | None = None,
) -> tuple[Residual, State]:
    """λ and a of M a = F - J(q, t)ᵀ λ with c̈ + 2 α ċ + α² c = 0, given `free` = M⁻¹ F.

    (J M⁻¹ Jᵀ) λ = J M⁻¹ F + curvature(q, v, t) + 2 α ċ + α² c, solved by the structure of the Gram matrix; with α = 0
    this is the index-1 form, with α > 0 Baumgarte's stabilisation, under which a violation decays as exp(-α t)
    (Hairer, Wanner: Solving ODEs II, VII.1 and VII.2). `inverse_mass`: None (M = I), (n_points,) or
    (n_points, dim, dim). States are (..., n_states). Differentiable with respect to all inputs.
    """
    local = constraint.local_jacobian(q, t, parameters)
    right = constraint.apply_jacobian(local, free) + _beside(constraint, q, v, alpha, t, parameters)
    lam = solve_gram(constraint, local, inverse_mass, right)
    return lam, free - apply_metric(constraint, inverse_mass, constraint.apply_transpose(local, lam))


def acceleration_left(
    constraint,
    q: State,
    v: State,
    free: State,
    lam: Residual,
    a: State,
    inverse_mass: Tensor | None = None,
    *,
    alpha: float | Tensor = 0.0,
    t: Time = None,
    parameters: Mapping | None = None,
) -> tuple[Residual, PerSample]:
    """What λ and a of `constrained_acceleration` leave of J a + curvature + 2 α ċ + α² c = 0, and its largest entry
    over the size of what is added up in it: some machine epsilons, times 16 where constraints depend on one another.
    """
    local = constraint.local_jacobian(q, t, parameters)
    beside = _beside(constraint, q, v, alpha, t, parameters)
    metric = None if inverse_mass is None else inverse_mass.abs()
    pushed = apply_metric(constraint, metric, constraint.apply_transpose(local.abs(), lam.abs()))
    sizes = constraint.apply_jacobian(local.abs(), free.abs() + pushed) + beside.abs()
    left = constraint.apply_jacobian(local, a) + beside
    return left, largest_share(left, sizes)


def largest_share(left: Residual, sizes: Residual) -> PerSample:
    """The largest |left| / size of each sample."""
    return (left.abs() / (sizes + torch.finfo(left.dtype).tiny)).amax(-1)


def unsettled(error: PerSample, q: State, v: State) -> Flag:
    """Whether multipliers with that error do not solve their equations, at states that are finite."""
    solved = error <= ROUNDINGS * torch.finfo(error.dtype).eps  # never true of a NaN
    return ~solved & q.isfinite().all(-1) & v.isfinite().all(-1)


def check_settled(error: PerSample, q: State, v: State, whose: str) -> None:
    """Raise SolveError, naming the first sample, where multipliers do not solve their equations."""
    wrong = unsettled(error, q, v)
    if bool(wrong.any()):
        index = tuple(wrong.nonzero()[0].tolist())
        raise SolveError(
            f"the multipliers of {whose} solve their equations only to {float(error[index]):.1e} of what is added up "
            f"in them{f' at state {index}' if index else ''} ({int(wrong.sum())} of {wrong.numel()}): constraints "
            "depend on one another there"
        )


def _beside(constraint, q: Tensor, v: Tensor, alpha: float | Tensor, t: Time, parameters: Mapping | None) -> Tensor:
    """What is added to J a: curvature, and the pull of Baumgarte's stabilisation."""
    added = constraint.curvature(q, v, t, parameters)
    if isinstance(alpha, Tensor) or alpha:
        added = added + 2 * alpha * constraint.velocity(q, v, t, parameters)
        added = added + alpha**2 * constraint.residual(q, t, parameters)
    return added


def tangent_velocity(
    constraint,
    q: State,
    v: State,
    inverse_mass: Tensor | None = None,
    *,
    t: Time = None,
    parameters: Mapping | None = None,
) -> State:
    """The velocity nearest to v, in the metric of the masses, with J v + ∂c/∂t = 0: v - M⁻¹ Jᵀ μ.

    At the end of a step this is the velocity's projection; as q' in an equation of motion it is the stabilisation of
    Gear, Gupta and Leimkuhler, μ being the multiplier on the velocity level.
    """
    local = constraint.local_jacobian(q, t, parameters)
    mu = solve_gram(constraint, local, inverse_mass, constraint.velocity(q, v, t, parameters))
    return v - apply_metric(constraint, inverse_mass, constraint.apply_transpose(local, mu))
