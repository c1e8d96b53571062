"""Projection onto the constraint manifold c(y, t; p) = 0, with an implicit or an unrolled backward pass."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from solvers._types import Count, Flag, PerSample, Residual, State
from solvers.closing import close, lift
from solvers.errors import ProjectionError
from solvers.implicit import nearest_point
from solvers.instances import separate
from solvers.iterations import Iteration, Newton, SteepestDescent, iterate
from solvers.problem import Problem

#: Default tolerance on |c|, and the least one that rounding lets states of size one reach.
TOLERANCES = {torch.float64: (1e-10, 2e-15), torch.float32: (1e-5, 1e-6)}
MAX_ITERATIONS = {"newton": 50, "conjugate_gradient": 50, "steepest_descent": 100}


@dataclass(frozen=True)
class Projection:
    """Outcome of a projection; all but y and the multiplier are one number a sample, of the batch's shape.

    `y` (..., n_states), the projected state. `multiplier` λ (..., n_residuals), y = y* - A J(y)ᵀ λ up to the size of
    the last step; no gradient passes through it. `iterations` taken. `residual`, the largest |c| left, in the
    constraint's unit. `converged`, whether that is within the tolerance.
    """

    y: State
    multiplier: Residual
    iterations: Count
    residual: PerSample
    converged: Flag


def project(
    constraint,
    y: State,
    *,
    solver: str = "newton",
    tol: float | None = None,
    max_iterations: int | None = None,
    inverse_metric: Tensor | None = None,
    t: float | Tensor | None = None,
    parameters: Mapping | None = None,
    backward: str = "implicit",
    throw: bool = True,
    step_size: float | None = None,
) -> Projection:
    """Project y onto the manifold c = 0 of a compiled `constraint`: the nearest point in the metric, eq. (12).

    Finds min ½ (y - y*)ᵀ A⁻¹ (y - y*) subject to c(y, t; p) = 0, that is y = y* - A J(y)ᵀ λ and c(y) = 0, for states
    y* of shape (..., n_states), every sample by itself: a sample is done when its largest |c| is at most `tol` (the
    constraint's unit; default 1e-10 in float64, 1e-5 in float32), and is then left as it is. So is every instance of a
    template whose instances share no point, such as molecules: they converge one by one.

    `solver`: "newton", Gauss-Newton steps (eq. 9 is the first) with the Gram matrix J A Jᵀ solved by its structure,
    joined by the constraint's curvature where six of them are not enough; "conjugate_gradient", the same with Gram
    systems solved by conjugate gradients on products with J and Jᵀ; "steepest_descent", the paper's eq. (13) with
    (relaxed) Cauchy steps or a fixed `step_size`, which lands on the manifold near to, not at, the nearest point.
    `max_iterations` defaults to 50, 50 and 100 (the paper's). With Newton y is then nearer to the nearest point than
    √tol (chains displaced by 0.1 m, median: 1e-7 m at tol = 1e-10, 5e-4 m at 1e-4, relative errors of implicit
    gradients alike): take a smaller tol where the point itself matters.

    `inverse_metric` A: (n_points,), 1/mass of each point, or (n_points, dim, dim). `parameters` and `t` go to the
    constraint. `backward`: "implicit" differentiates the nearest point by the implicit function theorem, once,
    storing no iterations, with respect to y, t, A and the parameters; "unrolled" differentiates the iterations, any
    number of times (a sample that is within tol already makes none, and its derivative is then the identity).
    Implicit gradients of a sample that did not converge are those of the identity.

    Raises ValueError on bad arguments, and ProjectionError if samples did not converge, with their indices;
    `throw=False` returns the flags instead. Such a sample has its last iterate or, if that is no better, y* itself; it
    never touches the others.
    """
    options = _options(constraint, y, solver, tol, max_iterations, backward, step_size)
    _check_metric(constraint, inverse_metric)
    return _project(constraint, y, options, inverse_metric, t, parameters, throw)


def project_latent(
    constraint,
    z: Float[Tensor, "*batch n_points latent"],
    close_weight: Float[Tensor, "latent dim"],
    *,
    orthonormal: bool = False,
    solver: str = "newton",
    tol: float | None = None,
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
    `orthonormal=True` takes A = I on the caller's word. Else K must have full row rank, or ValueError is raised.
    Other arguments, errors and the outcome are those of `project`.
    """
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
    options = _options(constraint, y, solver, tol, max_iterations, backward, step_size)
    projection = _project(constraint, y, options, metric, t, parameters, throw)
    move = (projection.y - y).unflatten(-1, (-1, dim))
    if gram is not None:
        move = torch.linalg.solve(gram, move.mT).mT
    return z + lift(move, close_weight), projection


@dataclass(frozen=True)
class _Options:
    solver: str
    tol: float
    max_iterations: int
    backward: str
    step_size: float | None

    def iteration(self) -> Iteration:
        return SteepestDescent(self.step_size) if self.solver == "steepest_descent" else Newton()


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
    matrix_free = options.solver == "conjugate_gradient"
    problem = Problem.of(constraint, y, t, parameters, inverse_metric, matrix_free)
    if options.backward == "unrolled":
        outcome = iterate(problem, options.iteration(), options.tol, options.max_iterations)
        projected = outcome.y
    else:
        with torch.no_grad():
            outcome = iterate(problem, options.iteration(), options.tol, options.max_iterations)
        projected = nearest_point(problem, outcome, options.tol)
    batch = y.shape[:-1]
    return Projection(
        projected.reshape(y.shape),
        outcome.multiplier.detach().reshape(*batch, constraint.n_residuals),
        outcome.iterations.reshape(batch),
        outcome.residual.reshape(batch),
        outcome.converged.reshape(batch),
    )


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
    )


def _options(constraint, y, solver, tol, max_iterations, backward, step_size) -> _Options:
    if solver not in MAX_ITERATIONS:
        raise ValueError(f"solver is {solver!r}: choose from {', '.join(map(repr, MAX_ITERATIONS))}")
    if backward not in ("implicit", "unrolled"):
        raise ValueError(f"backward is {backward!r}: choose 'implicit' or 'unrolled'")
    if y.dtype not in TOLERANCES:
        raise ValueError(f"y has dtype {y.dtype}: project in float32 or float64, as in y.float()")
    if y.dim() == 0 or y.shape[-1] != constraint.n_states:
        raise ValueError(f"{constraint.name}: y has shape {tuple(y.shape)}, expected (..., {constraint.n_states})")
    default, least = TOLERANCES[y.dtype]
    tol = default if tol is None else tol
    if not tol >= least:
        raise ValueError(
            f"tol={tol} is not within reach of {y.dtype}, where rounding leaves about {least}: give a larger tol"
            + (", or project in float64" if y.dtype == torch.float32 and tol > 0 else "")
        )
    max_iterations = MAX_ITERATIONS[solver] if max_iterations is None else max_iterations
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}, expected at least 1")
    if step_size is not None and (solver != "steepest_descent" or not step_size > 0):
        raise ValueError(
            f"step_size={step_size} with solver={solver!r}: it is a positive number, for 'steepest_descent' only"
        )
    return _Options(solver, float(tol), max_iterations, backward, step_size)


def _check_metric(constraint, inverse_metric: Tensor | None) -> None:
    if inverse_metric is None:
        return
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
    advice = "start nearer to the manifold, or raise max_iterations or tol"
    if options.solver == "steepest_descent":
        advice = "raise max_iterations, or take solver='newton'" + (
            "" if options.step_size is None else ", or leave step_size out: this one may be too long to be stable"
        )
    elif y.dtype == torch.float32:
        advice += ", or project in float64"
    return ProjectionError(
        f"projection onto {constraint.name!r}: {len(failed)} of {len(converged)} samples did not reach "
        f"|c| <= {options.tol:g} in {options.max_iterations} {options.solver} iterations: sample(s) {', '.join(shown)}"
        f"{', ...' if len(failed) > 5 else ''}. {advice[0].upper()}{advice[1:]}; throw=False "
        "returns all samples with their flags",
        tuple(failed),
    )
