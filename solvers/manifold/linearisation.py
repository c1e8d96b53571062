"""One projection as numbers: a batch flattened to one dimension, its constraint, and the linearisation at a point."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ndae.solvers._types import Compiled
from ndae.solvers.manifold.gram import GramSolver, apply_metric, conjugate_gradients, factor_gram

if TYPE_CHECKING:
    Start = Tensor
else:  # of what a function of autograd keeps, whose tensors are saved apart
    Start = Tensor | None


@dataclass(frozen=True)
class Problem:
    """Nearest points on c(y, t; p) = 0 to the samples `start` (n_samples, n_states), in the metric A⁻¹.

    `scaled`: linearisations come with the size of what cancels in each residual.
    """

    constraint: Compiled
    start: Start
    t: float | Tensor | None
    parameters: dict[str, Tensor]
    inverse_metric: Tensor | None
    matrix_free: bool = False
    scaled: bool = False

    @classmethod
    def of(
        cls,
        constraint,
        y: Tensor,
        t,
        parameters: Mapping | None,
        inverse_metric: Tensor | None,
        matrix_free: bool = False,
        scaled: bool = False,
    ) -> "Problem":
        """Flatten the batch dimensions of y, and of t and the parameters where they have any."""
        batch = y.shape[:-1]
        if isinstance(t, Tensor) and t.dim():
            t = t.expand(batch).reshape(-1)
        flat = {}
        for name, value in (parameters or {}).items():
            value = torch.as_tensor(value, dtype=y.dtype, device=y.device)
            inner = value.shape[-1:] if constraint.template else ()
            flat[name] = value.expand(*batch, *inner).reshape(-1, *inner) if value.dim() > len(inner) else value
        metric = None if inverse_metric is None else inverse_metric.to(y)
        return cls(constraint, y.reshape(-1, y.shape[-1]), t, flat, metric, matrix_free, scaled)

    def take(self, samples: Tensor) -> "Problem":
        """The same for some of the samples."""
        base = 1 if self.constraint.template else 0
        return replace(
            self,
            start=self.start.index_select(0, samples),
            t=self.t.index_select(0, samples) if isinstance(self.t, Tensor) and self.t.dim() else self.t,
            parameters={n: p.index_select(0, samples) if p.dim() > base else p for n, p in self.parameters.items()},
        )

    def linearise_start(self) -> "Linearisation":
        """Residual and Jacobian at the start."""
        return self.linearise(self.start)

    def linearise(self, y: Tensor) -> "Linearisation":
        """Residual and Jacobian at y."""
        linearise = self.constraint.linearise_scaled if self.scaled else self.constraint.linearise
        return Linearisation(self, y, *linearise(y, self.t, self.parameters))


@dataclass(frozen=True)
class Linearisation:
    """c(y) and J(y), what is built of them, and P x = x - Jᵀ G⁻¹ J A x, whose image is {w : J A w = 0}."""

    problem: Problem
    y: Tensor
    known_residual: Tensor | None  # None where J alone is asked for
    local_jacobian: Tensor
    size: Tensor | None = None

    @property
    def residual(self) -> Tensor:
        """c(y)."""
        assert self.known_residual is not None
        return self.known_residual

    @property
    def scale(self) -> Tensor:
        """The size of the terms that cancel in each residual, (n_samples, n_residuals), without a gradient."""
        if self.size is not None:
            return self.size.detach()
        p = self.problem
        return p.constraint.scale(self.y.detach(), p.t, p.parameters).detach()

    @cached_property
    def gram(self) -> GramSolver:
        """G = J A Jᵀ, factorised on first use."""
        p = self.problem
        return factor_gram(p.constraint, self.local_jacobian, p.inverse_metric, matrix_free=p.matrix_free)

    def jacobian(self, v: Tensor) -> Tensor:
        """J v."""
        return self.problem.constraint.apply_jacobian(self.local_jacobian, v)

    def transpose(self, w: Tensor) -> Tensor:
        """Jᵀ w."""
        return self.problem.constraint.apply_transpose(self.local_jacobian, w)

    def metric(self, v: Tensor) -> Tensor:
        """A v."""
        return apply_metric(self.problem.constraint, self.problem.inverse_metric, v)

    def tangent(self, x: Tensor, metric_x: Tensor | None = None) -> Tensor:
        """P x; `metric_x` is A x where it is at hand."""
        metric_x = self.metric(x) if metric_x is None else metric_x
        return x - self.transpose(self.gram.solve(self.jacobian(metric_x)))

    def hessian(self, lam: Tensor, u: Tensor) -> Tensor:
        """H u with H = Σᵢ λᵢ ∇²cᵢ(y)."""
        p = self.problem
        return p.constraint.hvp(self.y, lam, u, p.t, p.parameters)

    def take(self, samples: Tensor, problem: Problem) -> "Linearisation":
        """The same for some of the samples, whose problem is given."""
        residual, size = (
            None if part is None else part.index_select(0, samples) for part in (self.known_residual, self.size)
        )
        y, local_jacobian = (part.index_select(0, samples) for part in (self.y, self.local_jacobian))
        return Linearisation(problem, y, residual, local_jacobian, size)

    def curvature_correction(self, lam: Tensor, step: Tensor, reference: Tensor, tolerance: float | Tensor) -> Tensor:
        """Solve (I + P H A) e = -P H step on {e : J A e = 0}, to tolerance² · reference (n_samples, 1) in eᵀ A e.

        This turns a step that ignores the constraint's curvature into the one that minimises the quadratic model of
        the Lagrangian. Conjugate gradients in the inner product of A; a sample that meets (nearly) negative
        curvature, where the model has no minimum, keeps what it has (Nocedal, Wright: Numerical Optimization, 2nd
        ed., section 7.1).
        """

        def product(e: Tensor) -> tuple[Tensor, Tensor]:
            metric_e = self.metric(e)
            return e + self.tangent(self.hessian(lam, metric_e)), metric_e

        n_tangent = self.y.shape[-1] - lam.shape[-1]
        return conjugate_gradients(
            product,
            -self.tangent(self.hessian(lam, step)),
            enough=reference * tolerance**2,
            limit=min(max(n_tangent, 1), 50),
            curvature=0.05,
            metric=self.metric,
        )
