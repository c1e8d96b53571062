"""Derivatives of the nearest point, of any order, by the implicit function theorem."""

from dataclasses import replace

import torch
from torch import Tensor

from ndae.solvers.manifold.gram import apply_metric, solve_gram
from ndae.solvers.manifold.iterations import Outcome
from ndae.solvers.manifold.linearisation import Linearisation, Problem
from ndae.solvers.manifold.stopping import Stopping


def nearest_point(problem: Problem, outcome: Outcome, stopping: Stopping) -> Tensor:
    """The projected states of `outcome`, as a differentiable function of start, time, metric and parameters.

    With H = Σᵢ λᵢ ∇²cᵢ, the conditions y - y* + A Jᵀ λ = 0 and c = 0 give for an incoming gradient g the adjoint system

        (I + H A) w + Jᵀ μ = g,   J A w = 0,

    solved on the tangent space by conjugate gradients with the Gram matrix factorised once, to a relative error of
    √rtol, since the point itself is known to about √rtol. The gradient with respect to y* is w; the one with respect to
    t, A and the parameters that of -wᵀ A J(y, t; p)ᵀ λ - μᵀ c(y, t; p) (section 2.2 of the paper proposes this; the
    formula is the implicit function theorem on the KKT conditions). Where the gradient is to be differentiated again,
    w and μ are functions of g, y, λ, t, A and the parameters, whose derivative is one more such solve, and y and
    λ = G⁻¹ J (y* - y) are functions of the inputs.
    """
    names = list(problem.parameters)
    learned = {name: p for name, p in problem.constraint.learned.items() if name not in problem.parameters}
    parameters = [problem.parameters[name] for name in names] + list(learned.values())
    names += list(learned)
    try:
        return _NearestPoint.apply(
            problem, outcome, stopping, names, problem.start, problem.t, problem.inverse_metric, *parameters
        )
    except RuntimeError as error:
        if "setup_context" not in str(error) and "jvp" not in str(error):
            raise
        raise NotImplementedError(
            "a projection with backward='implicit' has derivatives in reverse mode alone: use torch.autograd, or "
            "backward='unrolled' for forward mode and torch.func"
        ) from error


class _NearestPoint(torch.autograd.Function):
    # Not in the style with `setup_context`, which costs 50 µs a call.
    @staticmethod
    def forward(ctx, problem, outcome, stopping, names, start, t, inverse_metric, *parameters):
        ctx.stopping, ctx.names = stopping, names
        ctx.problem = replace(problem, start=None, t=None, inverse_metric=None, parameters={})
        ctx.converged = None if outcome.all_converged else outcome.converged
        ctx.number = None if isinstance(t, Tensor) else t
        y = outcome.y.clone() if outcome.y is start else outcome.y
        time = t if isinstance(t, Tensor) else None
        multiplier = outcome.multiplier
        ctx.save_for_backward(y, outcome.local_jacobian, multiplier, start, time, inverse_metric, *parameters)
        return y

    @staticmethod
    def backward(ctx, gradient):
        y, local_jacobian, lam, start, t, metric, *parameters = ctx.saved_tensors
        t = ctx.number if ctx.number is not None else t
        ask = ctx.needs_input_grad[5:]
        problem = _with(ctx.problem, ctx.names, y, start, t, metric, parameters)
        if torch.is_grad_enabled():  # the gradient is to be differentiated
            return None, None, None, None, *_again_differentiable(ctx, problem, gradient, y, [t, metric, *parameters])
        at = Linearisation(problem, y, None, local_jacobian)
        w = at.tangent(gradient)
        metric_w = at.metric(w)
        reference = (w * metric_w).sum(-1, keepdim=True)
        w = w + at.curvature_correction(lam, metric_w, reference, _tolerance(ctx.stopping, at))
        others = [None] * len(ask)
        if any(ask):
            lam = at.gram.solve(at.jacobian(start - y))
            mu = at.gram.solve(at.jacobian(at.metric(gradient - at.hessian(lam, at.metric(w)))))
            keep, found = None, (y, lam, w, mu)
            if ctx.converged is not None:  # selected: zero times what is not finite would spoil the sum
                keep = ctx.converged.nonzero().squeeze(-1)
                found = (part.index_select(0, keep) for part in found)
            others = _others(ctx, start, keep, [t, metric, *parameters], ask, *found)
        if ctx.converged is not None:
            w = torch.where(ctx.converged[:, None], w, gradient)
        return None, None, None, None, w, *others


def _again_differentiable(ctx, problem: Problem, gradient: Tensor, y: Tensor, inputs: list) -> list[Tensor | None]:
    """What `backward` gives, of operations that are recorded: by the start, then by time, metric and parameters."""
    start, keep, ask = problem.start, None, ctx.needs_input_grad[5:]
    if ctx.converged is not None:
        keep = ctx.converged.nonzero().squeeze(-1)
        problem, y = problem.take(keep), y.index_select(0, keep)
    g = gradient if keep is None else gradient.index_select(0, keep)
    local = problem.constraint.local_jacobian(y, problem.t, problem.parameters)
    at = Linearisation(problem, y, None, local)
    lam = solve_gram(problem.constraint, local, problem.inverse_metric, at.jacobian(problem.start - y))
    w, mu = _solve(problem, ctx.stopping, g, torch.zeros_like(lam), y, lam)
    others = _others(ctx, start, keep, inputs, ask, y, lam, w, mu) if any(ask) else [None] * len(ask)
    return [w if keep is None else gradient.index_copy(0, keep, w), *others]


def _with(problem: Problem, names, y, start, t, metric, parameters) -> Problem:
    named = {name: p.to(y.dtype) for name, p in zip(names, parameters, strict=True)}
    return replace(problem, start=start, t=t, inverse_metric=metric, parameters=named)


def _tolerance(stopping: Stopping, at: Linearisation) -> float | Tensor:
    return stopping.relative(at) ** 0.5


def _others(ctx, start, keep, inputs, ask, y, lam, w, mu) -> list[Tensor | None]:
    """Gradients with respect to time, metric and parameters, as asked for, of the samples `keep` (None: of all).

    Where gradients are recorded these are again functions of everything that they are made of.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Under names of their own, so that what else depends on the inputs, y above all, is held fixed.
        inputs = [_apart(x, again) if wanted else x for x, wanted in zip(inputs, ask, strict=True)]
        t, metric, *parameters = inputs
        problem = _with(ctx.problem, ctx.names, y, start, t, metric, parameters)
        problem = problem if keep is None else problem.take(keep)
        constraint = problem.constraint
        force = apply_metric(constraint, metric, constraint.vjp(y, lam, problem.t, problem.parameters))
        work = (w * force).sum() + (mu * constraint.residual(y, problem.t, problem.parameters)).sum()
        return _partial(-work, inputs, ask, again)


def _apart(x: Tensor, again: bool) -> Tensor:
    """x as an input of its own: of the same value, and recorded as a function of x if gradients go on through it."""
    return x.view_as(x) if again else x.detach().requires_grad_()


def _partial(value: Tensor, inputs, ask, again: bool) -> list[Tensor | None]:
    """∂value/∂input of the inputs that ask for it."""
    wanted = [x for x, is_wanted in zip(inputs, ask, strict=True) if is_wanted]
    if not (wanted and value.requires_grad):  # what asks for a gradient does not appear
        return [None] * len(inputs)
    found = iter(torch.autograd.grad(value, wanted, create_graph=again, allow_unused=True))
    return [next(found) if is_wanted else None for is_wanted in ask]


def _solve(problem: Problem, stopping: Stopping, r: Tensor, s: Tensor, y: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """w and μ of (I + H A) w + Jᵀ μ = r and J A w = s, differentiable any number of times."""
    names, parameters = list(problem.parameters), list(problem.parameters.values())
    own = replace(problem, start=None, t=None, inverse_metric=None, parameters={})
    return _Adjoint.apply(own, stopping, names, r, s, y, lam, problem.t, problem.inverse_metric, *parameters)


class _Adjoint(torch.autograd.Function):
    """The solution (w, μ) of `_solve`.

    The matrix B = [I + H A, Jᵀ; J A, 0] is symmetric but for the metric: Bᵀ (u', ν) = (a, b) has the solution
    u' = a + A u with B (u, ν) = (-H a, b - J a), so that the gradient by (r, s) is one more solve, and the one by y, λ,
    t, A and the parameters that of -(u', ν)ᵀ B (w, μ).
    """

    @staticmethod
    def forward(ctx, problem, stopping, names, r, s, y, lam, t, metric, *parameters):
        ctx.problem, ctx.stopping, ctx.names = problem, stopping, names
        ctx.number = None if isinstance(t, Tensor) else t
        problem = _with(problem, names, y, y, t, metric, parameters)
        at = problem.linearise_start()
        rest, shift = r, None
        if bool((s != 0).any()):  # a w with J A w = s; what is left to find is tangent
            shift = at.transpose(at.gram.solve(s))
            rest = r - shift - at.hessian(lam, at.metric(shift))
        w = at.tangent(rest)
        metric_w = at.metric(w)
        reference = (w * metric_w).sum(-1, keepdim=True)
        w = w + at.curvature_correction(lam, metric_w, reference, _tolerance(stopping, at))
        mu = at.gram.solve(at.jacobian(at.metric(rest - at.hessian(lam, at.metric(w)))))
        w = w if shift is None else w + shift
        ctx.save_for_backward(y, lam, w, mu, t if isinstance(t, Tensor) else None, metric, *parameters)
        return w, mu

    @staticmethod
    def backward(ctx, a, b):
        y, lam, w, mu, t, metric, *parameters = ctx.saved_tensors
        t = ctx.number if ctx.number is not None else t
        again, ask = torch.is_grad_enabled(), ctx.needs_input_grad[5:]
        problem = _with(ctx.problem, ctx.names, y, y, t, metric, parameters)
        constraint, local = problem.constraint, problem.constraint.local_jacobian(y, t, problem.parameters)
        at = Linearisation(problem, y, None, local)
        u, nu = _solve(problem, ctx.stopping, -at.hessian(lam, a), b - at.jacobian(a), y, lam)
        u = a + at.metric(u)
        with torch.enable_grad():
            inputs = [y, lam, t, metric, *parameters]
            inputs = [_apart(x, again) if wanted else x for x, wanted in zip(inputs, ask, strict=True)]
            y, lam, t, metric, *parameters = inputs
            problem = _with(ctx.problem, ctx.names, y, y, t, metric, parameters)
            local = constraint.local_jacobian(y, t, problem.parameters)
            at = Linearisation(problem, y, None, local)
            metric_w = at.metric(w)
            forces = w + at.hessian(lam, metric_w) + at.transpose(mu)
            work = (u * forces).sum() + (nu * at.jacobian(metric_w)).sum()
            found = _partial(-work, inputs, ask, again)
        return None, None, None, u, nu, *found
