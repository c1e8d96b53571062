"""Projection onto the constraint manifold c(y, t; p) = 0, with an implicit or an unrolled backward pass."""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ndae.solvers._types import AnyState, Count, Flag, PerSample, Residual, State
from ndae.solvers.errors import ProjectionError
from ndae.solvers.manifold.closing import close, inverse_metric, lift
from ndae.solvers.manifold.implicit_gradient import nearest_point
from ndae.solvers.manifold.instances import separate
from ndae.solvers.manifold.iterations import Iteration, Newton, Outcome, SteepestDescent, iterate
from ndae.solvers.manifold.linearisation import Problem
from ndae.solvers.manifold.second_order import is_minimum, replaced, settle
from ndae.solvers.manifold.stopping import ROUNDING, RTOL, Absolute, Relative, Stopping
from ndae.solvers.tensors import as_states, compiled_at

MAX_ITERATIONS = {"newton": 50, "conjugate_gradient": 50, "steepest_descent": 100}


@dataclass(frozen=True)
class Projection:
    """Outcome of a projection; all but y and the multiplier are one number a sample, of the batch's shape.

    `y` (..., n_states), the projected state. `multiplier` λ (..., n_residuals), y = y* - A J(y)ᵀ λ up to the size of
    the last step; no gradient passes through it. `iterations` taken. `residual`, the largest |c| left, in the
    constraint's unit. `converged`, whether all |c| are within the tolerance. `minimum`, computed when it is asked for,
    whether y is, besides, nearest among its neighbours on the manifold, to second order; where it is not, y is a
    stationary point of the distance alone. Steepest descent looks for neither, and `minimum` is False.
    """

    y: State
    multiplier: Residual
    iterations: Count
    residual: PerSample
    converged: Flag
    _check: Callable[[], Tensor] = field(repr=False, compare=False)

    @cached_property
    def minimum(self) -> Flag:
        return self._check()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "minimum": self.minimum, "_check": None}  # a copy needs nothing to compute it from


def project(
    constraint,
    y: AnyState,
    *,
    solver: str = "newton",
    tol: float | None = None,
    rtol: float | None = None,
    max_iterations: int | None = None,
    inverse_metric: AnyState | None = None,
    t: float | Tensor | None = None,
    parameters: Mapping | None = None,
    backward: str = "implicit",
    throw: bool = True,
    step_size: float | None = None,
) -> Projection:
    """Project y onto the manifold c = 0 of a `constraint`: the nearest point in the metric, eq. (12).

    Finds min ½ (y - y*)ᵀ A⁻¹ (y - y*) subject to c(y, t; p) = 0, that is y = y* - A J(y)ᵀ λ and c(y) = 0, for states
    y* of shape (..., n_states), every sample by itself: a sample is done, and left as it is, when every |cᵢ| is at most
    `rtol` (default 1e-10 in float64, 1e-5 in float32) times the size of the terms that cancel in it at y, as
    `constraint.scale` gives it: (|b - a| + L)/2 of a link |b - a| - L. The unit makes no difference then, nor does
    the distance from the origin until the rounding of y, 8 ε (Σⱼ |Jᵢⱼ yⱼ| + scaleᵢ), is more. `tol` instead is the
    largest |c| in the constraint's unit. So it is with every instance of a template whose instances share no point,
    such as molecules: they converge one by one.

    The constraint is symbolic or compiled for torch; y a tensor, or an array or lists, which become one in float64 (of
    float32, in that).

    What is promised is a point on the manifold that is stationary to the order of √rtol. Whether it is nearest among
    its neighbours, to second order, `minimum` says; where the search met a stationary point that is not, after more
    than six steps or (by rtol) from where |c| was half of its scale and more, it has gone on from there. That it is the
    nearest of all is not promised: of 10,000 starts inside an ellipse 0 were not (more than 0.1 % farther), inside
    x⁴ + y⁴ = 1 436, by up to 2.2 times.

    `solver`: "newton", Gauss-Newton steps (eq. 9 is the first) with the Gram matrix J A Jᵀ solved by its structure,
    joined by the constraint's curvature where six of them are not enough; "conjugate_gradient", the same with Gram
    systems solved by conjugate gradients on products with J and Jᵀ; "steepest_descent", the paper's eq. (13) with
    (relaxed) Cauchy steps or a fixed `step_size`, which lands on the manifold near to, not at, the nearest point.
    `max_iterations` defaults to 50, 50 and 100 (the paper's). With Newton y is then nearer to the stationary point than
    √rtol (chains displaced by 0.1 m, median: 1e-7 m at 1e-10, 5e-4 m at 1e-4, relative errors of implicit gradients
    alike): take a smaller rtol where the point itself matters.

    `inverse_metric` A: (n_points,), 1/mass of each point, or (n_points, dim, dim). `parameters` and `t` go to the
    constraint. `backward`: "implicit" differentiates the nearest point by the implicit function theorem, any number of
    times, storing no iterations, with respect to y, t, A and the parameters; "unrolled" differentiates the iterations
    (a sample that is within the tolerance already makes none, and its derivative is then the identity).
    Implicit gradients of a sample that did not converge are those of the identity. Forward mode and `torch.func` are
    for "unrolled" alone, and of those that need no vmap.

    Raises ValueError on bad arguments, and ProjectionError if samples did not converge, with their indices;
    `throw=False` returns the flags instead. Such a sample has its last iterate or, if that is no better, y* itself; it
    never touches the others.
    """
    y = as_states(y, "y")
    constraint = compiled_at(constraint, y)
    options = _options(constraint, y, solver, tol, rtol, max_iterations, backward, step_size)
    if inverse_metric is not None:
        inverse_metric = as_states(inverse_metric, "inverse_metric").to(y)
        _check_metric(constraint, inverse_metric)
    return _project(constraint, y, options, inverse_metric, t, parameters, throw)


def project_latent(
    constraint,
    z: Float[Tensor, "*batch n_points latent"],
    close_weight: Float[Tensor, "latent dim"],
    *,
    orthonormal: bool = False,
    sizes: Tensor | None = None,
    solver: str = "newton",
    tol: float | None = None,
    rtol: float | None = None,
    max_iterations: int | None = None,
    t: float | Tensor | None = None,
    parameters: Mapping | None = None,
    backward: str = "implicit",
    throw: bool = True,
    step_size: float | None = None,
) -> tuple[Float[Tensor, "*batch n_points latent"], Projection]:
    """The nearest z with c(K z) = 0, eq. (12) through the closing map y = K z of each point, and the projection of y.

    K = `close_weight`ᵀ, so that y = z @ close_weight, of shape (..., n_points, dim). The nearest point is
    z + Kᵀ A⁻¹ (P_A(K z) - K z), where P_A is `project` with A = K Kᵀ for every point, eq. (7) to (10).
    `orthonormal=True` takes A = I on the caller's word, with `sizes` s (dim,) A = diag(s²). Else K must have full row
    rank, or ValueError is raised.
    Other arguments, errors and the outcome are those of `project`.
    """
    constraint = compiled_at(constraint, z)
    latent, dim = close_weight.shape
    same_points = dim == constraint.dim and z.shape[-2] == constraint.n_points
    if z.shape[-2] * dim != constraint.n_states or not (orthonormal or same_points):
        raise ValueError(
            f"z has shape {tuple(z.shape)} and close_weight {tuple(close_weight.shape)}, so y has {z.shape[-2]} points "
            f"of {dim} numbers; {constraint.name} has {constraint.n_points} points of {constraint.dim}"
        )
    y = close(z, close_weight).flatten(-2)
    gram = metric = None
    if not orthonormal:
        gram = close_weight.mT @ close_weight
        if latent < dim or bool(torch.linalg.cholesky_ex(gram.detach())[1] != 0):
            raise ValueError(
                f"close_weight of shape {tuple(close_weight.shape)} maps onto fewer than {dim} dimensions: its "
                "columns must be linearly independent"
            )
        metric = gram.expand(constraint.n_points, dim, dim)
    elif sizes is not None:
        gram, metric = torch.diag(sizes**2), inverse_metric(constraint, close_weight, z.shape[-2], True, sizes)
    options = _options(constraint, y, solver, tol, rtol, max_iterations, backward, step_size)
    projection = _project(constraint, y, options, metric, t, parameters, throw)
    move = (projection.y - y).unflatten(-1, (-1, dim))
    if gram is not None:
        move = torch.linalg.solve(gram, move.mT).mT
    return z + lift(move, close_weight), projection


@dataclass(frozen=True)
class _Options:
    solver: str
    tol: float | None
    rtol: float
    max_iterations: int
    backward: str
    step_size: float | None

    @property
    def descends(self) -> bool:
        return self.solver == "steepest_descent"

    def iteration(self, resumed: bool = False) -> Iteration:
        return SteepestDescent(self.step_size) if self.descends else Newton(resumed)

    def stopping(self) -> Stopping:
        return Relative(self.rtol) if self.tol is None else Absolute(self.tol)


def _project(constraint, y: Tensor, options: _Options, inverse_metric, t, parameters, throw: bool) -> Projection:
    instances = separate(constraint, y, t, parameters, inverse_metric)
    if instances is not None:
        one, states, further = instances
        apart = _converge(one, states, options, *further)
        result = _together(constraint, y, apart)
    else:
        result = _converge(constraint, y, options, t, parameters, inverse_metric)
    if throw and not bool(result.converged.all()):
        raise _error(constraint, y, options, result)
    return result


def _converge(constraint, y: Tensor, options: _Options, t, parameters, inverse_metric) -> Projection:
    matrix_free, scaled = options.solver == "conjugate_gradient", options.tol is None
    problem = Problem.of(constraint, y, t, parameters, inverse_metric, matrix_free, scaled)
    _check_reach(problem, options)
    stopping, differentiates = options.stopping(), options.backward == "unrolled"
    with contextlib.nullcontext() if differentiates else torch.no_grad():
        outcome = iterate(problem, options.iteration(), stopping, options.max_iterations)
    if not options.descends:
        settled = settle(problem, outcome, stopping.far, options.stopping, options.max_iterations)
        outcome = _again(problem, options, outcome, settled.first) if differentiates else settled.outcome
    batch = y.shape[:-1]

    def minimum() -> Tensor:
        return torch.zeros_like(outcome.converged) if options.descends else is_minimum(problem, outcome)

    return Projection(
        (outcome.y if differentiates else nearest_point(problem, outcome, stopping)).reshape(y.shape),
        outcome.multiplier.detach().reshape(*batch, constraint.n_residuals),
        outcome.iterations.reshape(batch),
        outcome.residual.reshape(batch),
        outcome.converged.reshape(batch),
        lambda: minimum().reshape(batch),
    )


def _again(problem: Problem, options: _Options, outcome: Outcome, first: Tensor | None) -> Outcome:
    """`outcome` with the iterations that went on from elsewhere, so that these are differentiated."""
    if first is None:
        return outcome
    moved = (first != problem.start).any(-1).nonzero().squeeze(-1)
    if not len(moved):
        return outcome
    part, resumed = problem.take(moved), options.iteration(resumed=True)
    found = iterate(part, resumed, options.stopping(), options.max_iterations, first[moved])
    return replaced(outcome, found, moved, found.converged)


def _together(constraint, y: Tensor, apart: Projection) -> Projection:
    """Of samples, what instances came to: the slowest, the largest residual, and whether all converged."""
    batch, n = y.shape[:-1], constraint.n_instances
    rows = constraint.table_gather_rows
    projected = apart.y.reshape(*batch, constraint.n_states)
    # Every state is of one instance, so that the inverse of the permutation puts all where they were.
    return Projection(
        projected.index_select(-1, rows.argsort()),
        apart.multiplier.reshape(*batch, constraint.n_residuals),
        apart.iterations.reshape(*batch, n).amax(-1),
        apart.residual.reshape(*batch, n).amax(-1),
        apart.converged.reshape(*batch, n).all(-1),
        lambda: apart.minimum.reshape(*batch, n).all(-1),
    )


def _options(constraint, y, solver, tol, rtol, max_iterations, backward, step_size) -> _Options:
    if torch._C._functorch.is_batchedtensor(y):  # pyright: ignore[reportAttributeAccessIssue]
        raise NotImplementedError("project takes batches by itself, (..., n_states): call it without torch.func.vmap")
    if solver not in MAX_ITERATIONS:
        raise ValueError(f"solver is {solver!r}: choose from {', '.join(map(repr, MAX_ITERATIONS))}")
    if backward not in ("implicit", "unrolled"):
        raise ValueError(f"backward is {backward!r}: choose 'implicit' or 'unrolled'")
    if y.dtype not in RTOL:
        raise ValueError(f"y has dtype {y.dtype}: project in float32 or float64, as in y.float()")
    if y.dim() == 0 or y.shape[-1] != constraint.n_states:
        raise ValueError(f"{constraint.name}: y has shape {tuple(y.shape)}, expected (..., {constraint.n_states})")
    if tol is not None and rtol is not None:
        raise ValueError(f"tol={tol} and rtol={rtol} are both given: give one, in the constraint's unit or relative")
    eps = torch.finfo(y.dtype).eps
    if tol is not None and not tol > 0:
        raise ValueError(f"tol={tol} is within reach of no floating type: give a larger tol")
    rtol = RTOL[y.dtype] if rtol is None else rtol
    if not ROUNDING * eps <= rtol < 1:
        raise ValueError(
            f"rtol={rtol} is not within reach of {y.dtype}, where rounding leaves about {ROUNDING * eps:.0e}: give "
            "a larger rtol below 1" + (", or project in float64" if y.dtype == torch.float32 and rtol > 0 else "")
        )
    max_iterations = MAX_ITERATIONS[solver] if max_iterations is None else max_iterations
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}, expected at least 1")
    if step_size is not None and (solver != "steepest_descent" or not step_size > 0):
        raise ValueError(
            f"step_size={step_size} with solver={solver!r}: it is a positive number, for 'steepest_descent' only"
        )
    return _Options(solver, None if tol is None else float(tol), float(rtol), max_iterations, backward, step_size)


def _check_reach(problem: Problem, options: _Options) -> None:
    """Refuse a tolerance in the constraint's unit that rounding puts out of the reach of every sample."""
    least = ROUNDING * torch.finfo(problem.start.dtype).eps
    # Of states that are a thousandth in size and less, such as metres of molecules, less is within reach.
    if options.tol is None or options.tol >= least or not len(problem.start):
        return
    scale = problem.linearise_start().scale.amax(-1)
    least = least * float(torch.where(scale.isfinite(), scale, torch.inf).amin())
    if options.tol < least < math.inf:
        raise ValueError(
            f"tol={options.tol} is not within reach of {problem.start.dtype}, where rounding leaves about {least:.0e}: "
            "give a larger tol" + (", or project in float64" if problem.start.dtype == torch.float32 else "")
        )


def _check_metric(constraint, inverse_metric: Tensor) -> None:
    n, d, metric = constraint.n_points, constraint.dim, inverse_metric.detach()
    if metric.shape not in ((n,), (n, d, d)):
        raise ValueError(
            f"inverse_metric has shape {tuple(metric.shape)}, expected ({n},), 1/mass of each point, or "
            f"({n}, {d}, {d}), a symmetric positive definite block for each"
        )
    if metric.dim() == 1:
        kind, good = "positive", (metric > 0) & metric.isfinite()
    else:
        kind, skew, size = "symmetric positive definite", (metric - metric.mT).abs(), metric.abs()
        good = (torch.linalg.cholesky_ex(metric)[1] == 0) & (skew.amax((-2, -1)) <= 1e-5 * size.amax((-2, -1)))
    if not bool(good.all()):
        bad = (~good).nonzero().squeeze(-1).tolist()
        raise ValueError(
            f"inverse_metric of point(s) {bad[:10]} is not {kind}: give 1/mass, a positive number for each point, or a "
            "symmetric positive definite block"
        )


def _error(constraint, y: Tensor, options: _Options, result: Projection) -> ProjectionError:
    converged, residual = result.converged.flatten(), result.residual.flatten()
    failed = (~converged).nonzero().squeeze(-1).tolist()
    finite = y.detach().reshape(-1, y.shape[-1]).isfinite().all(-1)
    shown = [
        f"{i} (residual {residual[i].item():.3g})" if bool(finite[i]) else f"{i} (input not finite)" for i in failed[:5]
    ]
    advice = "start nearer to the manifold, or raise max_iterations or " + ("rtol" if options.tol is None else "tol")
    if options.solver == "steepest_descent":
        advice = "raise max_iterations, or take solver='newton'" + (
            "" if options.step_size is None else ", or leave step_size out: this one may be too long to be stable"
        )
    elif y.dtype == torch.float32:
        advice += ", or project in float64"
    return ProjectionError(
        f"projection onto {constraint.name!r}: {len(failed)} of {len(converged)} samples did not reach "
        f"{options.stopping()} in {options.max_iterations} {options.solver} iterations: sample(s) {', '.join(shown)}"
        f"{', ...' if len(failed) > 5 else ''}. {advice[0].upper()}{advice[1:]}; throw=False "
        "returns all samples with their flags",
        tuple(failed),
    )
