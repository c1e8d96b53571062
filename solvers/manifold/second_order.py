"""Whether a stationary point of the distance is a nearest one among its neighbours, and a way on where it is not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ndae.solvers.manifold.iterations import SECANT_STEPS, Newton, Outcome, iterate
from ndae.solvers.manifold.linearisation import Linearisation, Problem
from ndae.solvers.manifold.stopping import RTOL, Stopping

#: Lanczos vectors at most: all of a tangent space of so many dimensions, and the ends of the spectrum of a larger one.
LANCZOS = 24
#: How often a sample that came to rest where the distance has no minimum goes on from there.
ATTEMPTS = 3


@dataclass(frozen=True)
class Settled:
    """An outcome, and where the last search for each sample began (n_samples, n_states); None: all from the start."""

    outcome: Outcome
    first: Tensor | None


@torch.no_grad()
def settle(
    problem: Problem, outcome: Outcome, far: Tensor | None, stopping: Callable[[], Stopping], max_iterations: int
) -> Settled:
    """Go on from where the second-order condition is violated, of samples that may have come to such a point.

    The distance decreases both ways along a direction of negative curvature: the search goes on from half a radius of
    curvature off, both ways. Gauss-Newton steps grow there, e → -P H A e, so that only samples are looked at that took
    more than six steps, and so some with the curvature taken in, or that come from `far`, perhaps along an axis of
    symmetry.
    """
    doubtful = outcome.iterations > SECANT_STEPS if outcome.most_iterations > SECANT_STEPS else None
    if far is not None:
        doubtful = far if doubtful is None else doubtful | far
    if doubtful is None or not bool((doubtful := doubtful & outcome.converged).any()):
        return Settled(outcome, None)
    samples, first = doubtful.nonzero().squeeze(-1), problem.start.detach().clone()
    for _ in range(ATTEMPTS):
        part = problem.take(samples)
        at = Linearisation(part, outcome.y[samples].detach(), None, outcome.local_jacobian[samples].detach())
        least, way = lowest_curvature(at)
        chosen = (least < -tolerance_of(at.y.dtype)).nonzero().squeeze(-1)
        if not len(chosen):
            break
        part, y, samples = part.take(chosen), at.y[chosen], samples[chosen]
        step = (0.5 * _distance(part, y) / (1 - least[chosen]))[:, None] * way[chosen]
        moved = torch.zeros_like(chosen, dtype=torch.bool)
        for sign in (1, -1):
            begun = y + sign * step
            found = iterate(part, Newton(resumed=True), stopping(), max_iterations, begun)
            nearer = found.converged & (_distance(part, found.y) < _distance(part, outcome.y[samples]))
            outcome = replaced(outcome, found, samples, nearer)
            first[samples] = torch.where(nearer[:, None], begun, first[samples])
            moved |= nearer
        samples = samples[moved]
        if not len(samples):
            break
    return Settled(outcome, first)


@torch.no_grad()
def is_minimum(problem: Problem, outcome: Outcome) -> Tensor:
    """Of which samples that converged the second-order condition holds, (n_samples,).

    A stationary point y of ½ (y - y*)ᵀ A⁻¹ (y - y*) on c = 0 is nearest among its neighbours if I + H A, with
    H = Σᵢ λᵢ ∇²cᵢ, is positive on the tangent space, and is not if it has a negative eigenvalue (Nocedal, Wright:
    Numerical Optimization, 2nd ed., theorems 12.5 and 12.6). What is zero to the accuracy of y passes.
    """
    at = Linearisation(problem, outcome.y.detach(), None, outcome.local_jacobian.detach())
    return outcome.converged & (lowest_curvature(at)[0] >= -tolerance_of(at.y.dtype))


def tolerance_of(dtype: torch.dtype) -> float:
    """How accurate an eigenvalue of I + H A is: as the point itself, relative to its radius of curvature."""
    return RTOL[dtype] ** 0.5


def lowest_curvature(at: Linearisation) -> tuple[Tensor, Tensor]:
    """The least eigenvalue of I + H A on the tangent space (n_samples,), and its direction A w, of length one in A⁻¹.

    By Lanczos' method in the inner product of A, with λ of the nearest point, that is G λ = J (y* - y).
    """
    y, problem = at.y, at.problem
    lam = at.gram.solve(at.jacobian(problem.start - y))
    n_tangent = max(y.shape[-1] - lam.shape[-1], 1)
    w = at.tangent(torch.cos(1.7 * torch.arange(y.shape[-1], device=y.device, dtype=y.dtype) + 0.3).expand_as(y))
    basis, diagonal, off = [], [], []
    for _ in range(min(n_tangent, LANCZOS)):
        size = (w * at.metric(w)).sum(-1, keepdim=True).clamp_min(0).sqrt()
        off.append(size.squeeze(-1))
        w = w / torch.where(size > 0, size, 1)
        metric_w = at.metric(w)
        basis.append((w, metric_w))
        new = w + at.tangent(at.hessian(lam, metric_w))
        diagonal.append((new * metric_w).sum(-1))
        for _ in range(2):  # twice is enough to keep them orthogonal
            for b, metric_b in basis:
                new = new - (new * metric_b).sum(-1, keepdim=True) * b
        w = at.tangent(new)
        # What is left of a space that is exhausted is rounding.
        rounding = 100 * torch.finfo(y.dtype).eps * (1 + diagonal[-1].abs()[:, None])
        w = torch.where((w * at.metric(w)).sum(-1, keepdim=True).clamp_min(0).sqrt() > rounding, w, 0)
    matrix = torch.diag_embed(torch.stack(diagonal, -1))
    if len(basis) > 1:
        beside = torch.stack(off[1:], -1)
        matrix = matrix + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)
    empty = torch.stack([(b * b).sum(-1) == 0 for b, _ in basis], -1)
    matrix = matrix + torch.diag_embed(torch.where(empty, 1.0, 0.0).to(y.dtype))  # I, where there is no direction left
    finite = matrix.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, torch.eye(len(basis)).to(matrix)))
    way = cast(Tensor, sum(vectors[:, i, :1] * metric_b for i, (_, metric_b) in enumerate(basis)))
    return values[:, 0], way


def _distance(problem: Problem, y: Tensor) -> Tensor:
    """√((y - y*)ᵀ A⁻¹ (y - y*)) of each sample."""
    move, a = (y - problem.start).detach(), problem.inverse_metric
    if a is None:
        return move.norm(dim=-1)
    points = move.unflatten(-1, (problem.constraint.n_points, problem.constraint.dim))
    weighed = points / a[:, None] if a.dim() == 1 else torch.linalg.solve(a, points.unsqueeze(-1)).squeeze(-1)
    return (points * weighed).sum((-2, -1)).sqrt()


def replaced(outcome: Outcome, found: Outcome, samples: Tensor, better: Tensor) -> Outcome:
    """`outcome` with what was found for those of the samples for which it is better."""
    rows, to = better.nonzero().squeeze(-1), samples[better]
    taken = {
        name: getattr(outcome, name).index_copy(0, to, getattr(found, name)[rows])
        for name in ("y", "local_jacobian", "multiplier", "residual")
    }
    more = outcome.iterations.index_add(0, to, found.iterations[rows])
    return replace(outcome, **taken, iterations=more)
