"""Derivatives of projections: implicit and unrolled, against finite differences and against each other."""

import pytest
import torch

from ndae.solvers import project
from tests.solvers import cases
from tests.systems import seeded

TIGHT = 1e-13


def problem(name):
    if name == "chain":
        return cases.chain(3), cases.chain_states(3, 3, 0.1)
    if name == "long_chain":
        return cases.chain(18), cases.chain_states(1, 18, 0.05)
    if name == "molecules":
        return cases.molecules(1), cases.molecule_states(2, 1, 0.1)
    if name == "circle":
        return cases.circle(1.5), torch.tensor([[2.0, 1.0], [0.5, -0.9]], dtype=torch.float64)
    if name == "two_surfaces":
        return cases.two_surfaces(), torch.rand(2, 3, dtype=torch.float64, generator=seeded(2)) * 0.5 + 0.7
    return cases.ring(4), torch.tensor([[0, 0, 1, 0, 1.1, 1, 0.1, 0.9]], dtype=torch.float64)


@pytest.mark.parametrize("solver", ["newton", "conjugate_gradient"])
@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
@pytest.mark.parametrize("name", ["chain", "long_chain", "molecules", "circle", "two_surfaces", "ring"])
def test_gradcheck(name, backward, solver):
    f, start = problem(name)
    fast = name == "long_chain" or solver == "conjugate_gradient"  # one random direction
    assert torch.autograd.gradcheck(
        lambda y: project(f, y, tol=TIGHT, backward=backward, solver=solver).y, start.requires_grad_(), fast_mode=fast
    )


def test_gradcheck_of_unrolled_descent():
    f, start = problem("two_surfaces")

    def descend(y):
        return project(f, y, tol=1e-6, backward="unrolled", solver="steepest_descent").y

    assert torch.autograd.gradcheck(descend, start.requires_grad_())


@pytest.mark.parametrize("name", ["chain", "circle", "two_surfaces"])
def test_gradgradcheck_of_unrolled(name):
    f, start = problem(name)
    assert torch.autograd.gradgradcheck(
        lambda y: project(f, y, tol=TIGHT, backward="unrolled").y, start[:1].requires_grad_(), atol=1e-4
    )


def test_gradient_on_the_manifold():
    """No iteration is made there: implicit gives the tangent projection, unrolled the identity of doing nothing."""
    f, y = cases.circle(1.5), torch.tensor([[1.5, 0.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    (implicit,) = torch.autograd.grad(project(f, y).y, y, g)
    torch.testing.assert_close(implicit, torch.tensor([[0.0, 0.7]], dtype=torch.float64), rtol=0, atol=1e-14)
    (unrolled,) = torch.autograd.grad(project(f, y, backward="unrolled").y, y, g)
    assert torch.equal(unrolled, g)


def test_circle_by_hand():
    """∂(r y/|y|)/∂y = r/|y| (I - n nᵀ), ∂/∂r = n."""
    f = cases.circle(1.5, learn=("r",))
    y = torch.tensor([[2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    out = project(f, y, tol=TIGHT).y
    by_y, by_radius = torch.autograd.grad(out, [y, f.learned["r"]], g)
    n = y.detach() / y.detach().norm()
    torch.testing.assert_close(by_y, 1.5 / y.detach().norm() * (g - n * (n * g).sum()), rtol=0, atol=1e-10)
    torch.testing.assert_close(by_radius, (n * g).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
def test_all_inputs(backward):
    """States, link lengths given per sample, and metrics of both kinds, by finite differences."""
    f, start = problem("chain")
    generator = seeded(5)
    lengths = torch.rand(3, 3, dtype=torch.float64, generator=generator) * 0.1 + 0.95
    inverse_mass = torch.rand(3, dtype=torch.float64, generator=generator) + 0.5
    root = torch.randn(3, 2, 2, dtype=torch.float64, generator=generator) * 0.3

    def by_mass(y, lengths, inverse_mass):
        options = {"parameters": {"length": lengths}, "inverse_metric": inverse_mass}
        return project(f, y, tol=TIGHT, backward=backward, **options).y

    inputs = [x.requires_grad_() for x in (start, lengths, inverse_mass)]
    assert torch.autograd.gradcheck(by_mass, inputs)

    def by_block(y, length, root):
        metric = root @ root.mT + torch.eye(2, dtype=torch.float64)
        return project(f, y, tol=TIGHT, backward=backward, parameters={"length": length}, inverse_metric=metric).y

    length = torch.tensor(1.02, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(by_block, (start, length, root.requires_grad_()))


@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
def test_time(backward):
    f = cases.moving_ellipse()
    y = torch.tensor([[2.5, 1.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    each = torch.tensor([0.3, 1.0], dtype=torch.float64, requires_grad=True)
    one = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for t in (each, one):
        assert torch.autograd.gradcheck(lambda y, t: project(f, y, t=t, tol=TIGHT, backward=backward).y, (y, t))


def test_learned_parameters_of_the_constraint():
    """Lengths that are nn.Parameters: implicit against unrolled, and against differences by hand."""
    f = cases.chain(3, learn=("length",), per_link=True)
    start = cases.chain_states(4, 3, 0.1, lengths=torch.linspace(0.8, 1.2, 3, dtype=torch.float64))
    weight = torch.randn(4, 6, dtype=torch.float64, generator=seeded(6))
    gradients = [
        torch.autograd.grad((weight * project(f, start, tol=TIGHT, backward=mode).y).sum(), f.learned["length"])[0]
        for mode in ("implicit", "unrolled")
    ]
    torch.testing.assert_close(*gradients, rtol=2e-5, atol=0)  # unrolled derivatives lag behind the values
    for i in range(3):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                f.learned["length"][i] += step
                values.append((weight * project(f, start, tol=TIGHT).y).sum())
                f.learned["length"][i] -= step
        difference = (values[0] - values[1]) / 2e-5
        torch.testing.assert_close(gradients[0][i], difference, rtol=1e-5, atol=1e-6)


def test_bad_samples_leave_shared_parameters_alone():
    f = cases.chain(3, learn=("length",))
    start = cases.chain_states(4, 3, 0.1)
    bad = torch.cat([start, torch.full((1, 6), float("nan"), dtype=torch.float64)])
    (clean,) = torch.autograd.grad(project(f, start).y.sum(), f.learned["length"])
    (mixed,) = torch.autograd.grad(project(f, bad, throw=False).y[:4].sum(), f.learned["length"])
    torch.testing.assert_close(mixed, clean, rtol=1e-12, atol=1e-12)
    t = torch.linspace(0, 1, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[2.5, 1.0], [float("inf"), 0], [1.0, 2.0]], dtype=torch.float64)
    (by_time,) = torch.autograd.grad(project(cases.moving_ellipse(), y, t=t, throw=False).y[[0, 2]].sum(), t)
    assert by_time.isfinite().all() and by_time[1] == 0 and (by_time[[0, 2]] != 0).all()


def test_unconverged_samples_pass_the_gradient_as_it_is():
    f, start = cases.chain(5), cases.chain_states(6, 5, 0.3)
    start.requires_grad_()
    p = project(f, start, max_iterations=1, throw=False)
    assert not p.converged.any()
    g = torch.randn(6, 10, dtype=torch.float64, generator=seeded(8))
    assert torch.equal(torch.autograd.grad(p.y, start, g)[0], g)


def test_implicit_agrees_with_unrolled_in_float32():
    """At the tolerance of training the two differ by what the tolerance leaves open."""
    f = cases.chain(5).float()
    start = cases.chain_states(10, 5, 0.02).float().requires_grad_()
    g = torch.randn(10, 10, generator=seeded(9))
    a, b = (
        torch.autograd.grad(project(f, start, tol=1e-4, backward=mode).y, start, g)[0]
        for mode in ("implicit", "unrolled")
    )
    assert (a - b).norm() < 0.02 * b.norm()
    exact = start.detach().double().requires_grad_()
    (c,) = torch.autograd.grad(project(f.double(), exact, tol=TIGHT).y, exact, g.double())
    assert (a - c).norm() < 0.01 * c.norm()


def test_gradient_far_from_the_manifold_stays_bounded():
    """At the focal set (the circle's centre) the derivative is infinite; what is returned is large at most."""
    f = cases.circle(1.0)
    y = torch.tensor([[1e-9, 0.0], [0.0, 0.0], [0.5, 0.0], [-1e-3, 1e-3]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(project(f, y).y.sum(), y)
    assert gradient.isfinite().all() and gradient.abs().max() < 100
    torch.testing.assert_close(gradient[2], torch.tensor([0.0, 2.0], dtype=torch.float64), rtol=0, atol=1e-8)


def test_what_does_not_appear_gets_no_gradient():
    f, start = problem("chain")
    t = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = project(f, start.requires_grad_(), t=t).y
    by_start, by_time = torch.autograd.grad(y.sum(), [start, t], allow_unused=True)
    assert by_start.abs().sum() > 0 and by_time is None


def test_no_graph_without_need():
    f, start = problem("chain")
    assert not project(f, start).y.requires_grad
    with torch.no_grad():
        assert not project(f, start.requires_grad_()).y.requires_grad
    p = project(f, start)
    assert p.y.requires_grad and not p.multiplier.requires_grad and not p.residual.requires_grad
