"""Derivative of the nearest point by the implicit function theorem."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from solvers.iterations import Outcome
from solvers.linear import apply_metric
from solvers.problem import Linearisation, Problem


def nearest_point(problem: Problem, outcome: Outcome, tol: float) -> Tensor:
    """The projected states of `outcome`, as a differentiable function of start, time, metric and parameters.

    With H = Σᵢ λᵢ ∇²cᵢ, the conditions y - y* + A Jᵀ λ = 0 and c = 0 give for an incoming gradient g the adjoint system

        (I + H A) w + Jᵀ μ = g,   J A w = 0,

    solved on the tangent space by conjugate gradients with the Gram matrix factorised once, to a relative error of
    √tol, since the point itself is known to about √tol. The gradient with respect to y* is w; the one with respect to
    t, A and the parameters that of -wᵀ A J(y, t; p)ᵀ λ - μᵀ c(y, t; p) (section 2.2 of the paper proposes this; the
    formula is the implicit function theorem on the KKT conditions).
    """
    names = list(problem.parameters)
    learned = {name: p for name, p in problem.constraint.learned.items() if name not in problem.parameters}
    parameters = [problem.parameters[name] for name in names] + list(learned.values())
    return _NearestPoint.apply(
        problem, outcome, tol, names + list(learned), problem.start, problem.t, problem.inverse_metric, *parameters
    )


class _NearestPoint(torch.autograd.Function):
    # Not in the style with `setup_context`, which costs 50 µs a call.
    @staticmethod
    def forward(ctx, problem, outcome, tol, names, start, t, inverse_metric, *parameters):
        ctx.tol, ctx.names = tol, names
        ctx.problem = replace(problem, start=None, t=None, inverse_metric=None, parameters={})
        ctx.converged = None if outcome.all_converged else outcome.converged[:, None]
        ctx.number = None if isinstance(t, Tensor) else t
        y = outcome.y.clone() if outcome.y is start else outcome.y
        time = t if isinstance(t, Tensor) else None
        multiplier = outcome.multiplier
        ctx.save_for_backward(y, outcome.local_jacobian, multiplier, start, time, inverse_metric, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        y, local_jacobian, lam, start, t, metric, *parameters = ctx.saved_tensors
        t = ctx.number if ctx.number is not None else t
        named = {name: p.to(y.dtype) for name, p in zip(ctx.names, parameters, strict=True)}
        problem = replace(ctx.problem, start=start, t=t, inverse_metric=metric, parameters=named)
        at = Linearisation(problem, y, None, local_jacobian)
        w = at.tangent(gradient)
        metric_w = at.metric(w)
        reference = (w * metric_w).sum(-1, keepdim=True)
        w = w + at.curvature_correction(lam, metric_w, reference, ctx.tol**0.5)
        ask = ctx.needs_input_grad[5:]
        others = [None] * len(ask)
        if any(ask):
            lam = at.gram.solve(at.jacobian(start - y))
            mu = at.gram.solve(at.jacobian(at.metric(gradient - at.hessian(lam, at.metric(w)))))
            others = _others(ctx, problem, y, lam, w, mu, [t, metric, *parameters], ask)
        if ctx.converged is not None:
            w = torch.where(ctx.converged, w, gradient)
        return None, None, None, None, w, *others


def _others(ctx, problem: Problem, y, lam, w, mu, inputs, ask) -> list[Tensor | None]:
    """Gradients with respect to time, metric and parameters, as asked for, of the samples that converged."""
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() if wanted else x for x, wanted in zip(inputs, ask, strict=True)]
        t, metric, *parameters = inputs
        named = {name: p.to(y.dtype) for name, p in zip(ctx.names, parameters, strict=True)}
        problem = replace(problem, t=t, inverse_metric=metric, parameters=named)
        if ctx.converged is not None:  # selected: zero times what is not finite would spoil the sum
            keep = ctx.converged.squeeze(-1).nonzero().squeeze(-1)
            problem = problem.take(keep)
            y, lam, w, mu = (part.index_select(0, keep) for part in (y, lam, w, mu))
        constraint = problem.constraint
        force = apply_metric(constraint, metric, constraint.vjp(y, lam, problem.t, problem.parameters))
        work = (w * force).sum() + (mu * constraint.residual(y, problem.t, problem.parameters)).sum()
        if not work.requires_grad:  # what asks for a gradient does not appear in the constraint
            return [None] * len(ask)
        wanted = [x for x, is_wanted in zip(inputs, ask, strict=True) if is_wanted]
        found = iter(torch.autograd.grad(-work, wanted, allow_unused=True))
    return [next(found) if is_wanted else None for is_wanted in ask]
