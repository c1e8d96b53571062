"""When a sample's residual is small enough: an absolute tolerance, or one that goes by the residual's own scale."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ndae.solvers.manifold.linearisation import Linearisation

#: Default of `rtol`: the largest |c| left, in units of the terms that cancel in c.
RTOL = {torch.float64: 1e-10, torch.float32: 1e-5}
#: What rounding leaves of a residual, in machine epsilons times the size of what it is computed from.
ROUNDING = 8
# Rounding is looked at, which costs, where a start violates the constraint by so many tolerances at most, and after so
# many steps.
_NEAR, _FIRST_STEPS = 64, 6
# A violation so large is no perturbation of a state on the constraint.
_FAR = 0.5


class Stopping(ABC):
    """Says which samples are done.

    `far` (n_samples,): of which samples iterate 0 violated the constraint by a good part of its own size, where known.
    """

    far: Tensor | None = None

    @abstractmethod
    def going(self, k: int, at: Linearisation, violation: Tensor, worst: Tensor) -> Tensor:
        """Which samples (n_samples,) are to go on from iterate k, with |c| and the largest of each sample.

        Not those whose `worst` is NaN: nothing can be done for them.
        """

    @abstractmethod
    def relative(self, at: Linearisation) -> float | Tensor:
        """The tolerance relative to the residual's scale, a number or (n_samples, 1)."""

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Absolute(Stopping):
    """max |c| ≤ tol, in the constraint's unit."""

    tol: float

    def going(self, k, at, violation, worst):
        return worst > self.tol

    def relative(self, at):
        least = ROUNDING * torch.finfo(at.y.dtype).eps
        return (self.tol / at.scale.amax(-1, keepdim=True)).clamp(least, 1e-2)

    def __str__(self):
        return f"|c| <= {self.tol:g}"


class Relative(Stopping):
    """|cᵢ| ≤ rtol sᵢ for every residual, or what rounding leaves of it, at the state where it is.

    sᵢ is `scale` of the constraint, the size of the terms that cancel in cᵢ. Less than 8 ε (Σⱼ |Jᵢⱼ yⱼ| + sᵢ) is not
    asked for: the state is not known better (as of points far from the origin), nor is cᵢ. Where all terms vanish at
    the solution, so that they are no larger than cᵢ, as of sin(x), 32 ε Σⱼ |Jᵢⱼ y*ⱼ| is enough: the start y* is not
    known better.
    """

    def __init__(self, rtol: float):
        self.rtol = rtol

    def going(self, k, at, violation, worst):
        # A residual of zero is done, also where its terms are zero: 0 / 0 would hide all others of its sample.
        ratio = torch.where(violation == 0, violation, violation / at.scale).amax(-1)
        going = ratio > self.rtol
        if k == 0:
            self.far = ratio > _FAR
            look = bool((going & (ratio <= _NEAR * self.rtol)).any())
        else:  # of a sum like y₁ + y₂ + y₃ nothing is left to compare with where it vanishes
            look = k >= _FIRST_STEPS or at.problem.constraint.affine
            # Where that is one residual among others, these say what is small.
            look = look or bool((going & (worst <= self.rtol * at.scale.amax(-1))).any())
        return going & (violation > self.rounding(at, violation)).any(-1) if look else going

    def rounding(self, at: Linearisation, violation: Tensor) -> Tensor:
        """The |cᵢ| that will do even so, (n_samples, n_residuals)."""
        constraint, slopes, eps = at.problem.constraint, at.local_jacobian.detach().abs(), torch.finfo(at.y.dtype).eps
        now, before = (constraint.apply_jacobian(slopes, y.detach().abs()) for y in (at.y, at.problem.start))
        limits = torch.maximum(self.rtol * at.scale, ROUNDING * eps * (now + at.scale))
        return torch.where(violation > at.scale / 4, torch.maximum(limits, 4 * ROUNDING * eps * before), limits)

    def relative(self, at):
        return self.rtol

    def __str__(self):
        return f"|c| <= {self.rtol:g} of the terms that cancel in it"
