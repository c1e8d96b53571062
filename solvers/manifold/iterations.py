"""The iterations behind `project`: each sample stops by itself, and what it has then is final."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ndae.solvers.manifold.linearisation import Linearisation, Problem
from ndae.solvers.manifold.stopping import Stopping

#: Below this many samples those that are done are kept in the batch; from here on they leave it.
SMALL_BATCH = 64
#: Newton steps that leave the curvature of the constraint to the extrapolation of their series.
SECANT_STEPS = 6
#: Newton steps before a sample that still has not converged is sent to the manifold by the shortest way.
SEARCH_STEPS = 20


@dataclass(frozen=True)
class Outcome:
    """Per sample: the projected state, the local Jacobian of the last iterate, the multiplier, iterations taken, the
    largest |c| left, and whether that is within the tolerance."""

    y: Tensor
    local_jacobian: Tensor
    multiplier: Tensor
    iterations: Tensor
    residual: Tensor
    converged: Tensor
    all_converged: bool
    most_iterations: int


class Iteration(ABC):
    """A way to come nearer to c = 0, with whatever it keeps per sample."""

    @abstractmethod
    def step(self, k: int, at: Linearisation, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Iterate k + 1 and its multiplier, from the linearisation at iterate k."""

    def take(self, samples: Tensor) -> None:  # noqa: B027  most keep nothing
        """Keep some of the samples."""


def iterate(
    problem: Problem, iteration: Iteration, stopping: Stopping, max_iterations: int, first: Tensor | None = None
) -> Outcome:
    """Iterate every sample, from its start or `first`, until `stopping` is content, or for `max_iterations`.

    A sample that does not converge ends with its last iterate if that violates the constraint less than its first, else
    with its first. A sample that is not finite stops at once.
    """
    start = problem.start if first is None else first
    y, multiplier = start, start.new_zeros(start.shape[0], problem.constraint.n_residuals)
    samples = torch.arange(start.shape[0], device=start.device)
    iterations = torch.zeros_like(samples)
    finished: list[tuple[Tensor, ...]] = []
    for k in range(max_iterations + 1):
        at = problem.linearise(y)
        violation = at.residual.detach().abs()
        worst = violation.amax(-1)
        if k == 0:
            first_worst = worst
        going = stopping.going(k, at, violation, worst)
        n_going = int(going.sum())
        if n_going == 0 or k == max_iterations:
            finished.append((samples, y, at.local_jacobian, multiplier, iterations, worst))
            break
        if len(worst) >= SMALL_BATCH and n_going <= 0.75 * len(worst):
            now = (samples, y, at.local_jacobian, multiplier, iterations, worst)
            leave, stay = (~going).nonzero().squeeze(-1), going.nonzero().squeeze(-1)
            finished.append(tuple(part.index_select(0, leave) for part in now))
            problem = problem.take(stay)
            at = at.take(stay, problem)
            samples, multiplier, iterations = (part.index_select(0, stay) for part in (samples, multiplier, iterations))
            iteration.take(stay)
            going = None
        new_y, new_multiplier = iteration.step(k, at, multiplier)
        if going is None or n_going == len(going):
            y, multiplier, iterations = new_y, new_multiplier, iterations + 1
        else:  # those that are done stay as they are, and are done again at the next look
            y = torch.where(going[:, None], new_y, y)
            multiplier = torch.where(going[:, None], new_multiplier, multiplier)
            iterations = iterations + going
    unfinished = samples[going] if n_going else None
    _, y, local_jacobian, multiplier, iterations, residual = _in_order(finished)
    converged = residual.isfinite()
    converged = converged if unfinished is None else converged.index_fill(0, unfinished, False)
    all_converged = bool(converged.all())
    if not all_converged:
        worse = ~(converged | (residual < first_worst))
        y = torch.where(worse[:, None], start, y)
        residual = torch.where(worse, first_worst, residual)
    return Outcome(y, local_jacobian, multiplier, iterations, residual, converged, all_converged, k)


def _in_order(finished: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Put together what left the batch at different times; the first entry of each says which samples it holds."""
    if len(finished) == 1:
        return finished[0]
    whole = [torch.cat(parts) for parts in zip(*finished, strict=True)]
    back = torch.empty_like(whole[0]).index_copy_(0, whole[0], torch.arange(len(whole[0]), device=whole[0].device))
    return tuple(part.index_select(0, back) for part in whole)


class Newton(Iteration):
    """y ← y* - A Jᵀ λ with G λ = c + J (y* - y), Gauss-Newton for the nearest point; its first step is eq. (9).

    Alone it converges as (distance / radius of curvature)^k. From the third step on the series is extrapolated, by
    the secant of the last two steps (Anderson's acceleration with memory one), which costs next to nothing. What is
    left after six steps takes the curvature in, H = Σᵢ λᵢ ∇²cᵢ on the tangent space, by a few conjugate-gradient
    steps: an inexact Newton method for the whole problem (eq. 12), which also comes in from metres away. A sample
    that is still left after 20 steps (one in a thousand from half a metre away) lies where the nearest point changes
    from one place to another, and is brought onto the manifold from where it is, by eq. (10).
    """

    def __init__(self, resumed: bool = False):
        self._kept: dict[str, Tensor] = {}
        self._resumed = resumed  # iterate 0 is not the point to which the nearest one is sought

    def take(self, samples: Tensor) -> None:
        self._kept = {name: value.index_select(0, samples) for name, value in self._kept.items()}

    def step(self, k, at, multiplier):
        if k in (SECANT_STEPS, SEARCH_STEPS):
            at = _leave_flat_places(at)
        start, y = at.problem.start, at.y
        # From where it is: the same point if the Jacobian is constant, with what rounding left put right.
        if k >= SEARCH_STEPS or (k and at.problem.constraint.affine):
            shortest = at.gram.solve(at.residual)
            return y - at.metric(at.transpose(shortest)), multiplier + shortest
        at_start = k == 0 and not self._resumed
        multiplier = at.gram.solve(at.residual if at_start else at.residual + at.jacobian(start - y))
        target = start - at.metric(at.transpose(multiplier))
        if at_start:  # eq. (9); it starts no series yet
            return target, multiplier
        move = target - y
        if k < SECANT_STEPS and not self._resumed:
            return self._extrapolated(target, move), multiplier
        reference = (move.detach() ** 2).sum(-1, keepdim=True) / _largest(at.problem)
        return target + at.metric(at.curvature_correction(multiplier, move, reference, tolerance=0.1)), multiplier

    def _extrapolated(self, target: Tensor, move: Tensor) -> Tensor:
        if self._kept:
            change = move - self._kept["move"]
            square = (change * change).sum(-1, keepdim=True)
            share = (change * move).sum(-1, keepdim=True) / torch.where(square > 0, square, 1)
            # Steps that grow along themselves lead away from where the distance has no minimum: not back to it.
            share = torch.where(share <= 1, share, 0)
            extrapolated = target - share * (target - self._kept["target"])
        else:
            extrapolated = target
        self._kept = {"move": move, "target": target}
        return extrapolated


class SteepestDescent(Iteration):
    """y ← y - s A Jᵀ c, eq. (13), which goes to some point of c = 0 near the start, not to the nearest one.

    The paper's unit step diverges where the largest eigenvalue of J A Jᵀ passes 2 (that of a straight chain is near
    4). `step_size=None` takes Cauchy's step s = cᵀGc / |G c|² of each sample, the minimiser of |c - s G c| with
    G = J A Jᵀ, up to terms of second order; it is never shorter than 1 / λ_max(G). Every other step is cut to 0.8 of
    it, which keeps the steps from going to and fro in two directions and halves their number (Raydan, Svaiter: Relaxed
    steepest descent and Cauchy-Barzilai-Borwein method, 2002). A number is taken as it is.
    """

    def __init__(self, step_size: float | None = None):
        self._step_size = step_size

    def step(self, k, at, multiplier):
        gradient = at.transpose(at.residual)
        descent = at.metric(gradient)
        if self._step_size is None:
            along = at.jacobian(descent)
            square = (along * along).sum(-1, keepdim=True)
            positive = square > 0  # both vanish together: all gradients are zero there, and no step helps
            size = (gradient * descent).sum(-1, keepdim=True) / torch.where(positive, square, 1)
            size = 0.8 * size if k % 2 else size
        else:
            size = self._step_size
        return at.y - size * descent, multiplier + size * at.residual


def _largest(problem: Problem) -> Tensor | float:
    """An upper bound of the metric, to compare eᵀ A e with |step|²."""
    a = problem.inverse_metric
    if a is None:
        return 1.0
    return a.detach().max() if a.dim() == 1 else a.detach().diagonal(dim1=-2, dim2=-1).sum(-1).max()


def _leave_flat_places(at: Linearisation) -> Linearisation:
    """Move samples off points where a constraint has no gradient (two coincident points of a link, a sphere's centre).

    No direction is better than another there, so a fixed one is taken; the point sought stays the nearest to the start.
    It is gone by a share of how far c = 0 is: √|2c / dᵀ∇²c d| along d, or |c| where there is no curvature (a length).
    """
    flat_rows = (at.local_jacobian.detach() == 0).all(-1).flatten(-2)
    flat = flat_rows.any(-1)
    if not bool(flat.any()):
        return at
    y, eps = at.y.detach(), torch.finfo(at.y.dtype).eps
    direction = _directions(y.shape[-1]).to(y).expand_as(y)
    violation = torch.where(flat_rows, at.residual.detach(), 0)
    bend = (direction * at.hessian(violation.sign(), direction)).sum(-1, keepdim=True).detach().abs()
    far = violation.abs().amax(-1, keepdim=True)
    length = torch.where(bend > 0, (2 * far / torch.where(bend > 0, bend, 1)).sqrt(), far)
    length = torch.maximum(1e-4 * length, 16 * eps * y.abs().amax(-1, keepdim=True))  # or it would be rounded away
    return at.problem.linearise(torch.where(flat[:, None], at.y + length * direction, at.y))


@lru_cache
def _directions(n: int) -> Tensor:
    return torch.cos(2.4 * torch.arange(n, dtype=torch.float64) + 0.7)
