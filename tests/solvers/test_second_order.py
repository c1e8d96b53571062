"""Stationary points of the distance that are no nearest ones: found, left, or said to be."""

import copy
import pickle

import pytest
import sympy as sp
import torch

from ndae.solvers import project
from ndae.solvers.manifold.linearisation import Problem
from ndae.solvers.manifold.second_order import lowest_curvature
from ndae.symbolic import Constraint
from tests.solvers import cases

X, Y, Z = sp.symbols("x y z")
CURVES = {
    "fourth powers": (Constraint([X**4 + Y**4 - 1], [X, Y]), 0.4),
    "ellipse": (Constraint([X**2 / 4 + Y**2 - 1], [X, Y]), 0.4),
    "ellipsoid": (Constraint([X**2 / 9 + Y**2 / 4 + Z**2 - 1], [X, Y, Z]), 0.4),
    "parabola": (Constraint([Y - X**2], [X, Y]), 0.4),
    "sine": (Constraint([Y - sp.sin(3 * X)], [X, Y]), 0.6),
}


def starts(name: str, n: int, seed: int = 0):
    constraint, spread = CURVES[name]
    generator = torch.Generator().manual_seed(seed)
    return constraint.torch().double(), spread * torch.randn(
        n, len(constraint.states), dtype=torch.float64, generator=generator
    )


def dense_lowest(f, start, y, metric=None):
    """The least eigenvalue of A½ (A⁻¹ + H) A½ on the tangent space, by matrices."""
    n = y.shape[-1]
    root = torch.eye(n, dtype=torch.float64) if metric is None else torch.linalg.cholesky(metric)
    J = f.jacobian(y) @ root
    move = torch.linalg.solve(root, (start - y).unsqueeze(-1))
    lam = torch.linalg.lstsq(J.mT, move).solution.squeeze(-1)
    columns = [f.hvp(y, lam, e.expand_as(y)) for e in torch.eye(n, dtype=torch.float64)]
    inner = torch.eye(n, dtype=torch.float64) + root.mT @ torch.stack(columns, -1) @ root
    tangent = torch.linalg.svd(J)[2][:, J.shape[-2] :]
    return torch.linalg.eigvalsh(tangent @ inner @ tangent.mT)[:, 0]


@pytest.mark.parametrize("name", CURVES)
def test_no_start_comes_to_rest_on_a_saddle(name):
    """Of 2,000 starts well inside, every one that converges has the second-order condition, as a dense check says."""
    f, start = starts(name, 2000)
    p = project(f, start, throw=False)
    assert p.converged.double().mean() > 0.97
    assert torch.equal(p.minimum, p.converged)
    least = dense_lowest(f, start[p.converged], p.y[p.converged])
    assert (least > -1e-5).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_no_start_of_many_comes_to_rest_on_a_saddle(name):
    f, start = starts(name, 100_000, seed=1)
    p = project(f, start, throw=False)
    assert torch.equal(p.minimum, p.converged)
    assert (dense_lowest(f, start[p.converged], p.y[p.converged]) > -1e-5).all()


@pytest.mark.parametrize("solver", ["newton", "conjugate_gradient"])
def test_of_an_ellipse_the_nearest_point_is_found(solver):
    """From inside an ellipse, where up to four points are stationary: against a thousand points of it."""
    f, start = starts("ellipse", 2000, seed=2)
    p = project(f, start, solver=solver)
    angle = torch.linspace(0, 2 * torch.pi, 20_001, dtype=torch.float64)
    around = torch.stack([2 * angle.cos(), angle.sin()], -1)
    least = torch.cdist(start, around).amin(-1)
    assert p.minimum.all()
    assert ((p.y - start).norm(dim=-1) < 1.001 * least + 1e-6).double().mean() > 0.998


def test_a_start_on_the_axis_of_a_parabola():
    """From (0, 2) the vertex is stationary, and as far as anything near; the nearest points are to the sides.

    Steps from the axis never leave it, so that it is the second-order condition alone that tells.
    """
    f = starts("parabola", 1)[0]
    start = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    for backward in ("implicit", "unrolled"):
        y = start.clone().requires_grad_()
        p = project(f, y, backward=backward)
        assert p.minimum.all()
        torch.testing.assert_close(p.y[0, 0].abs(), torch.tensor(1.5, dtype=torch.float64).sqrt(), rtol=1e-6, atol=0)
        (gradient,) = torch.autograd.grad(p.y[0, 1], y)
        # At a height of h - 1/2, where 2 x (x² - h) + x - x* = 0: ∂(x²)/∂x* = 2 x / 4 x² and ∂(x²)/∂h = 1.
        known = torch.tensor([[1 / (2 * p.y[0, 0].item()), 1.0]], dtype=torch.float64)
        torch.testing.assert_close(gradient, known, rtol=0, atol=1e-5)


def test_a_stationary_point_is_called_one(monkeypatch):
    """Where there is no way on the outcome says what the point is not."""
    monkeypatch.setattr("ndae.solvers.manifold.second_order.ATTEMPTS", 1)
    monkeypatch.setattr("ndae.solvers.manifold.second_order.iterate", lambda problem, *_: _nothing(problem))
    f, start = starts("parabola", 1)[0], torch.tensor([[0.0, 2.0], [0.1, 0.0]], dtype=torch.float64)
    p = project(f, start)
    assert p.converged.all() and p.minimum.tolist() == [False, True]
    assert not project(f, start, solver="steepest_descent", tol=1e-6).minimum.any()


def test_outcomes_are_copied_and_pickled():
    f, start = starts("parabola", 5)
    p = project(f, start)
    for again in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert torch.equal(again.y, p.y) and torch.equal(again.minimum, p.minimum)


def _nothing(problem):
    """An outcome in which no sample converged."""
    from ndae.solvers.manifold.iterations import Newton, iterate
    from ndae.solvers.manifold.stopping import Absolute

    return iterate(problem, Newton(resumed=True), Absolute(0.0), 1)


@pytest.mark.parametrize("kind", ["none", "masses", "blocks"])
def test_lowest_curvature_against_dense_algebra(kind):
    """On the manifold, with a start far off it along the normals, in every metric."""
    f = cases.chain(5)
    generator = torch.Generator().manual_seed(4)
    y = cases.chain_states(10, 5, 0.0, seed=3)
    mass = torch.rand(5, dtype=torch.float64, generator=generator) + 0.5
    root = torch.eye(2, dtype=torch.float64) + 0.3 * torch.randn(5, 2, 2, dtype=torch.float64, generator=generator)
    metric = {"none": None, "masses": mass, "blocks": root @ root.mT}[kind]
    full = {"none": torch.eye(10), "masses": torch.diag(mass.repeat_interleave(2)), "blocks": None}[kind]
    full = torch.block_diag(*metric) if full is None else full.double()
    lam = torch.randn(10, 5, dtype=torch.float64, generator=generator)
    start = y + f.vjp(y, lam) @ full
    problem = Problem.of(f, start, None, None, metric)
    least, way = lowest_curvature(problem.linearise(y))
    torch.testing.assert_close(least, dense_lowest(f, start, y, full), rtol=1e-6, atol=1e-8)
    assert f.jvp(y, way).abs().max() < 1e-8
    torch.testing.assert_close((way * (way @ torch.linalg.inv(full))).sum(-1), torch.ones(10).double())
