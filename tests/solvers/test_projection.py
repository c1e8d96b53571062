"""Projection onto constraint manifolds: nearest points, every solver, outcomes sample by sample."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import sympy as sp
import torch
from hypothesis import given, settings, strategies as st

from ndae.solvers import ProjectionError, project
from ndae.symbolic import Function, library
from tests.solvers import cases
from tests.systems import seeded

SOLVERS = ["newton", "conjugate_gradient", "steepest_descent"]
NEAREST = ["newton", "conjugate_gradient"]
NAN, INF = float("nan"), float("inf")

PROBLEMS = {
    "chain": lambda: (cases.chain(5), cases.chain_states(20, 5, 0.1)),
    "chain_3d": lambda: (cases.chain(4, 3), cases.chain_states(20, 4, 0.1, dim=3)),
    "long_chain": lambda: (cases.chain(40), cases.chain_states(5, 40, 0.05)),
    "molecules": lambda: (cases.molecules(4), cases.molecule_states(10, 4, 0.1)),
    "ring": lambda: (cases.ring(6), ring_states(10)),
    "circle": lambda: (cases.circle(1.5), torch.randn(20, 2, dtype=torch.float64, generator=seeded(1)) + 2),
    "two_surfaces": lambda: (
        cases.two_surfaces(),
        torch.rand(20, 3, dtype=torch.float64, generator=seeded(2)) * 0.5 + 0.7,
    ),
}


def ring_states(batch):
    angle = torch.arange(6, dtype=torch.float64) * torch.pi / 3
    hexagon = torch.stack([angle.cos(), angle.sin()], -1).flatten()
    return hexagon + 0.1 * torch.randn(batch, 12, dtype=torch.float64, generator=seeded(3))


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_circle_in_closed_form(solver):
    """The nearest point of the circle |y| = r is r y / |y|, its multiplier |y| - r."""
    f = cases.circle(1.5)
    y = torch.tensor([[3.0, 4.0], [0.1, -0.2], [-1.5, 0.0]], dtype=torch.float64)
    p = project(f, y, solver=solver)
    length = y.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(p.y, 1.5 * y / length, rtol=0, atol=1e-9)
    torch.testing.assert_close(p.multiplier, length - 1.5, rtol=0, atol=1e-9)
    assert p.converged.all() and p.iterations[2] == 0 and (p.residual <= 1e-10).all()


def test_first_newton_step_is_equation_9():
    f, y = cases.two_surfaces(), torch.tensor([[1.1, 0.9, 0.8]], dtype=torch.float64)
    J, c = f.jacobian(y)[0], f.residual(y)[0]
    expected = y[0] - J.T @ torch.linalg.inv(J @ J.T) @ c
    p = project(f, y, max_iterations=1, throw=False)
    torch.testing.assert_close(p.y[0], expected, rtol=1e-13, atol=1e-13)
    assert p.iterations.item() == 1 and not p.converged.item()


def test_the_way_of_last_resort_is_equation_10(monkeypatch):
    """y ← y - Jᵀ (J Jᵀ)⁻¹ c(y), from wherever the search for the nearest point got to; here from the start."""
    monkeypatch.setattr("ndae.solvers.manifold.iterations.SEARCH_STEPS", 0)
    f, start = cases.two_surfaces(), torch.tensor([[1.1, 0.9, 0.8]], dtype=torch.float64)
    y = start[0]
    for _ in range(3):
        J, c = f.jacobian(y[None])[0], f.residual(y)
        y = y - J.T @ torch.linalg.inv(J @ J.T) @ c
    p = project(f, start, max_iterations=3, tol=1e-14, throw=False)
    torch.testing.assert_close(p.y[0], y, rtol=1e-12, atol=1e-12)


def test_descent_step_is_equation_13():
    f, y = cases.two_surfaces(), torch.tensor([[1.1, 0.9, 0.8]], dtype=torch.float64)
    J, c = f.jacobian(y)[0], f.residual(y)[0]
    fixed = project(f, y, solver="steepest_descent", step_size=0.05, max_iterations=1, throw=False)
    torch.testing.assert_close(fixed.y[0], y[0] - 0.05 * J.T @ c, rtol=1e-14, atol=1e-14)
    gradient = J.T @ c
    cauchy = (gradient @ gradient) / (J @ gradient).square().sum()
    free = project(f, y, solver="steepest_descent", max_iterations=1, throw=False)
    torch.testing.assert_close(free.y[0], y[0] - cauchy * gradient, rtol=1e-13, atol=1e-13)


# -- nearest points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", NEAREST)
@pytest.mark.parametrize("name", PROBLEMS)
def test_conditions_of_the_nearest_point(name, solver):
    """c(y) = 0, and y* - y is a combination of the constraint's gradients, namely Jᵀ λ."""
    f, start = PROBLEMS[name]()
    p = project(f, start, tol=1e-12, solver=solver)
    assert f.residual(p.y).abs().max() <= 1e-12
    torch.testing.assert_close(p.residual, f.residual(p.y).abs().amax(-1), rtol=0, atol=0)
    J = f.jacobian(p.y)
    tangential = (start - p.y) - (J.mT @ torch.linalg.lstsq(J.mT, (start - p.y)[..., None]).solution)[..., 0]
    assert tangential.abs().max() < 1e-6
    torch.testing.assert_close(p.y, start - f.vjp(p.y, p.multiplier), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["chain", "molecules", "two_surfaces", "ring"])
def test_nearest_point_against_scipy(name):
    f, start = PROBLEMS[name]() if name != "molecules" else (cases.molecules(1), cases.molecule_states(4, 1, 0.1))
    p = project(f, start[:4], tol=1e-12)
    for y, star in zip(p.y, start[:4], strict=True):
        s = star.numpy()
        found = scipy.optimize.minimize(
            lambda x, s=s: 0.5 * ((x - s) ** 2).sum(),
            s,
            jac=lambda x, s=s: x - s,
            constraints={
                "type": "eq",
                "fun": lambda x: f.residual(torch.from_numpy(x)).numpy(),
                "jac": lambda x: f.jacobian(torch.from_numpy(x)).numpy(),
            },
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 500},
        )
        np.testing.assert_allclose(y.numpy(), found.x, atol=2e-6)


def test_steepest_descent_reaches_the_manifold_near_the_nearest_point():
    f, start = PROBLEMS["chain"]()
    nearest = project(f, start)
    p = project(f, start, solver="steepest_descent", tol=1e-4)
    assert p.converged.all() and (p.residual <= 1e-4).all()
    distance, least = (p.y - start).norm(dim=-1), (nearest.y - start).norm(dim=-1)
    assert (distance > least - 1e-3).all() and (distance < 1.3 * least).all()


def test_solvers_agree():
    f, start = PROBLEMS["chain"]()
    a, b = (project(f, start, solver=solver, tol=1e-13).y for solver in NEAREST)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(2, 3), st.floats(0.0, 0.25), st.integers(0, 2**31))
def test_random_chains(n, dim, noise, seed):
    f, start = cases.chain(n, dim), cases.chain_states(8, n, noise, dim=dim, seed=seed)
    p = project(f, start)
    assert p.converged.all() and f.residual(p.y).abs().max() <= 1e-10
    # Nearer than the noise is long, up to the second order: the chain without noise is a candidate.
    clean = cases.chain_states(8, n, 0.0, dim=dim, seed=seed)
    assert (start - clean).norm() < 1e-12 or ((p.y - start).norm(dim=-1) <= (start - clean).norm(dim=-1) + 1e-6).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), st.floats(0.01, 100))
def test_random_circles(y, radius):
    start = torch.tensor([y], dtype=torch.float64)
    p = project(cases.circle(radius), start, tol=1e-12 * (1 + radius + start.abs().max().item()))
    if start.norm() > 1e-3:
        torch.testing.assert_close(p.y, radius * start / start.norm(), rtol=1e-7, atol=1e-7)
    else:
        assert p.y.norm().item() == pytest.approx(radius)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.floats(0.0, 0.2), st.integers(0, 2**31))
def test_random_molecules(n, noise, seed):
    f, start = cases.molecules(n), cases.molecule_states(4, n, noise, seed=seed)
    p = project(f, start, tol=1e-10)
    assert p.converged.all() and f.residual(p.y).abs().max() <= 1e-10
    # Molecules are independent: each is projected as if it were alone.
    alone = project(cases.molecules(1), start.unflatten(-1, (n, 9)))
    torch.testing.assert_close(alone.y.flatten(1), p.y, rtol=0, atol=1e-4)
    # No force of a rigid body acts on the whole: the centre of mass stays where it was.
    centres = [x.unflatten(-1, (n, 3, 3)).mean(-2) for x in (start, p.y)]
    torch.testing.assert_close(*centres, rtol=0, atol=1e-8)


# -- metric, time, parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", NEAREST)
def test_metric_is_a_change_of_coordinates(solver):
    """With u = A^(-1/2) y the nearest point in the metric is the nearest one in the plain sense."""
    f, start = PROBLEMS["chain"]()
    mass = torch.tensor([1.0, 4.0, 0.5, 2.0, 100.0], dtype=torch.float64)
    p = project(f, start, inverse_metric=1 / mass, tol=1e-12, solver=solver)
    weight = mass.repeat_interleave(2)
    J = f.jacobian(p.y)
    force = (p.y - start) * weight  # A⁻¹ (y - y*) = -Jᵀ λ
    lam = torch.linalg.lstsq(J.mT, force[..., None]).solution
    assert (force - (J.mT @ lam)[..., 0]).abs().max() < 1e-5
    assert f.residual(p.y).abs().max() <= 1e-12
    blocks = torch.diag_embed((1 / mass)[:, None].expand(5, 2))
    q = project(f, start, inverse_metric=blocks, tol=1e-12, solver=solver)
    torch.testing.assert_close(p.y, q.y, rtol=0, atol=1e-6)  # the order of the last step, the square root of tol
    moved = (p.y - start).unflatten(-1, (5, 2)).norm(dim=-1).mean(0)
    assert moved[4] < 0.1 * moved[:4].min()


def test_time_and_parameters_by_sample():
    ellipse = cases.moving_ellipse()
    y = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    p = project(ellipse, y, t=t)
    for i in range(3):
        alone = project(ellipse, y[i], t=t[i].item())
        torch.testing.assert_close(p.y[i], alone.y, rtol=0, atol=1e-13)
    chain, start = cases.chain(3), cases.chain_states(6, 3, 0.1).unflatten(0, (2, 3))
    lengths = torch.rand(2, 3, 3, dtype=torch.float64, generator=seeded(4)) * 0.2 + 0.9
    p = project(chain, start, parameters={"length": lengths})
    assert p.y.shape == (2, 3, 6) and p.multiplier.shape == (2, 3, 3) and p.converged.shape == (2, 3)
    links = torch.cat([p.y[..., :2], p.y[..., 2:] - p.y[..., :-2]], -1).unflatten(-1, (3, 2)).norm(dim=-1)
    torch.testing.assert_close(links, lengths, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="time"):
        project(ellipse, y)


# -- sample by sample -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["chain", "molecules", "circle"])
def test_batched_against_one_at_a_time(name, solver):
    """The neighbours in a batch make no difference, up to the last bits of reductions."""
    f, start = PROBLEMS[name]()
    start = torch.cat([start, start + 0.3])  # samples that take more iterations
    tol = 1e-4 if solver == "steepest_descent" else 1e-10
    together = project(f, start, solver=solver, tol=tol, throw=False)
    for i in range(len(start)):
        alone = project(f, start[i], solver=solver, tol=tol, throw=False)
        assert alone.iterations == together.iterations[i]
        torch.testing.assert_close(alone.y, together.y[i], rtol=0, atol=1e-13)


def test_samples_are_frozen_bit_for_bit():
    """What a sample gets when it is done does not depend on how long the others go on."""
    f = cases.chain(5)
    near, far = cases.chain_states(10, 5, 0.01), cases.chain_states(10, 5, 0.8, seed=1)
    alone, mixed = project(f, near), project(f, torch.cat([near, far]), throw=False)
    assert mixed.iterations[10:].max() > alone.iterations.max()
    assert torch.equal(mixed.y[:10], alone.y)
    assert torch.equal(mixed.residual[:10], alone.residual)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
def test_bad_samples_never_touch_the_others(solver, backward):
    f, start = PROBLEMS["chain"]()
    bad = start.clone()
    bad[3, 2], bad[7, 0], bad[9] = NAN, INF, 1e200
    good = [i for i in range(20) if i not in (3, 7, 9)]
    tol = 1e-4 if solver == "steepest_descent" else 1e-10
    clean, mixed = start.requires_grad_(), bad.requires_grad_()
    p = project(f, clean, solver=solver, backward=backward, tol=tol)
    q = project(f, mixed, solver=solver, backward=backward, tol=tol, throw=False)
    assert q.converged.tolist() == [i in good for i in range(20)]
    assert torch.equal(q.y[good], p.y[good])
    assert torch.equal(q.y[3].isnan(), mixed[3].isnan())  # what came in not finite goes out as it came
    (a,) = torch.autograd.grad(p.y[good].sum(), clean)
    (b,) = torch.autograd.grad(q.y[good].sum(), mixed)
    # Bit for bit, but for the order in which autograd adds up what comes from many iterations.
    torch.testing.assert_close(a[good], b[good], rtol=0, atol=0 if backward == "implicit" else 1e-13)


def test_gradient_does_not_cross_samples():
    f, start = PROBLEMS["chain"]()
    start = start[:4].requires_grad_()
    y = project(f, start).y
    for i in range(4):
        (gradient,) = torch.autograd.grad(y[i].sum(), start, retain_graph=True)
        assert (gradient[[j for j in range(4) if j != i]] == 0).all() and (gradient[i] != 0).any()


def test_error_names_samples_and_the_mend():
    f, start = PROBLEMS["chain"]()
    start[2] = NAN
    with pytest.raises(ProjectionError, match=r"2 .*not finite.*throw=False") as caught:
        project(f, start)
    assert caught.value.samples == (2,)
    with pytest.raises(ProjectionError, match=r"of 20 samples.*residual 0\.\d+.*max_iterations"):
        project(f, PROBLEMS["chain"]()[1], max_iterations=1)
    with pytest.raises(ProjectionError, match=r"solver='newton', or leave step_size out"):
        project(f, PROBLEMS["chain"]()[1], solver="steepest_descent", step_size=1.0)


def test_a_failed_sample_is_no_worse_than_it_came():
    f, start = PROBLEMS["chain"]()
    before = f.residual(start).abs().amax(-1)
    for options in ({"max_iterations": 1}, {"solver": "steepest_descent", "step_size": 2.0}):
        p = project(f, start, throw=False, **options)
        assert not p.converged.all()
        assert (p.residual <= before).all()
        torch.testing.assert_close(p.residual, f.residual(p.y).abs().amax(-1), rtol=0, atol=1e-14)


# -- from far away ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_from_metres_away(noise, dtype):
    """What a network predicts early in training: every sample comes in, most of them to a nearest point."""
    f = cases.chain(5).to(dtype)
    start = cases.chain_states(500, 5, noise, seed=7).to(dtype)
    p = project(f, start, tol=1e-4 if dtype == torch.float32 else 1e-10)
    assert p.converged.all() and p.y.isfinite().all()
    # Eq. (10) alone lands on the manifold too; the nearest point is nearer than where it lands.
    landed = start
    for _ in range(30):
        J = f.jacobian(landed)
        landed = (
            landed
            - (
                J.mT
                @ torch.linalg.lstsq(
                    J.mT, (J.mT @ torch.linalg.solve(J @ J.mT, f.residual(landed)[..., None]))
                ).solution
            )[..., 0]
        )
    ours, theirs = (p.y - start).norm(dim=-1), (landed - start).norm(dim=-1)
    assert ours.mean() < theirs.mean()
    assert (ours < theirs + 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("solver", NEAREST)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_coincident_points(dtype, solver):
    """Where two linked points meet, the link's gradient vanishes; all directions are equally near, one is taken."""
    f = cases.chain(3).to(dtype)
    y = torch.tensor([[1.0, 0, 1, 0, 2, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1], [1, 0, 2, 0, 3, 0]], dtype=dtype)
    p = project(f, y.requires_grad_(), solver=solver, tol=1e-5)
    assert p.converged.all()
    assert torch.equal(p.y[3], y[3])
    (gradient,) = torch.autograd.grad(p.y.sum(), y)
    assert gradient.isfinite().all()


def test_centre_of_a_sphere():
    y = torch.zeros(1, 2, dtype=torch.float64)
    p = project(cases.circle(1.0), y)
    assert p.y.norm().item() == pytest.approx(1.0, abs=1e-9)


def test_contradicting_constraints_are_reported():
    """x + y = 0 and x + y = 1 at once: no point is on the manifold, nothing is NaN."""
    x, y = sp.symbols("x y")
    f = Function([x + y, x + y - 1], states=[x, y]).torch().double()
    p = project(f, torch.tensor([[0.3, 0.4]], dtype=torch.float64), throw=False)
    assert not p.converged.any() and p.y.isfinite().all() and p.residual.isfinite().all()


# -- floating types and arguments -------------------------------------------------------------------------------------


def test_float32():
    f = cases.chain(5).float()
    start = cases.chain_states(50, 5, 0.1).float()
    p = project(f, start)
    assert p.y.dtype == torch.float32 and p.converged.all() and f.residual(p.y).abs().max() <= 1e-5
    exact = project(f.double(), start.double(), tol=1e-12)
    torch.testing.assert_close(p.y.double(), exact.y, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"solver": "bfgs"}, "'newton', 'conjugate_gradient', 'steepest_descent'"),
        ({"backward": "adjoint"}, "implicit"),
        ({"tol": 1e-17}, "rounding leaves about"),
        ({"tol": 0.0}, "larger tol"),
        ({"tol": NAN}, "larger tol"),
        ({"max_iterations": 0}, "at least 1"),
        ({"step_size": 0.5}, "steepest_descent"),
        ({"step_size": -1.0, "solver": "steepest_descent"}, "positive"),
        ({"inverse_metric": torch.ones(4, dtype=torch.float64)}, r"expected \(5,\)"),
        ({"inverse_metric": torch.tensor([1.0, 1, -1, 0, 1])}, r"point\(s\) \[2, 3\].*positive"),
        ({"inverse_metric": torch.eye(2).repeat(5, 1, 1) - 1}, "symmetric positive definite"),
        ({"parameters": {"size": torch.ones(())}}, "size"),
    ],
)
def test_bad_arguments(change, match):
    f, start = PROBLEMS["chain"]()
    with pytest.raises(ValueError, match=match):
        project(f, start, **change)


def test_bad_states():
    f, start = PROBLEMS["chain"]()
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 10\)"):
        project(f, start[:, :9])
    with pytest.raises(ValueError, match="float32 or float64"):
        project(f, start.half())
    with pytest.raises(ValueError, match=r"rounding leaves about 1e-06.*float64"):
        project(f.float(), start.float(), tol=1e-8)


def test_no_batch_and_many_batch_dimensions():
    f, start = PROBLEMS["chain"]()
    one = project(f, start[0])
    assert one.y.shape == (10,) and one.iterations.shape == () and one.multiplier.shape == (5,)
    many = project(f, start.reshape(2, 5, 2, 10))
    assert many.y.shape == (2, 5, 2, 10) and many.residual.shape == (2, 5, 2)
    torch.testing.assert_close(many.y.reshape(20, 10)[0], one.y, rtol=0, atol=1e-13)
    none = project(f, start[:0])
    assert none.y.shape == (0, 10) and none.converged.shape == (0,)


def test_iterations_grow_with_the_distance():
    f = cases.chain(5)
    counts = [
        project(f, cases.chain_states(100, 5, noise)).iterations.double().mean() for noise in (0.0, 1e-3, 1e-2, 0.1)
    ]
    assert counts[0] == 0 or counts[0] < counts[1]
    assert all(a < b for a, b in itertools.pairwise(counts[1:]))
    assert counts[-1] < 8


def test_affine_constraints_are_met_at_once_in_float32_too():
    """What rounding leaves of the first step the second one takes; the point is the orthogonal projection."""
    field = library.divergence_free(8, 8, 0.1).torch()
    y = torch.randn(4, field.n_states, generator=torch.Generator().manual_seed(0))
    p = project(field, y)
    assert p.converged.all() and p.iterations.max() <= 3
    J = field.jacobian(y[0].double())
    expected = y.double() - (y.double() @ J.T) @ torch.linalg.pinv(J).T
    torch.testing.assert_close(p.y.double(), expected, rtol=0, atol=1e-5)
