"""Second derivatives of projections and solves: of every input, beside other terms, by every way to ask for them."""

import pytest
import torch
from torch.autograd import forward_ad, gradgradcheck

from ndae.solvers import project, project_latent, stabilisation_latent
from ndae.solvers.manifold.multipliers import constrained_acceleration
from tests.solvers import cases
from tests.solvers.test_projection_gradients import TIGHT, problem, seeded

NAMES = ["chain", "molecules", "circle", "two_surfaces", "ring"]


def nearest(f, **options):
    return lambda y: project(f, y, tol=TIGHT, **options).y


def loss(y):
    return (y**3).sum()


@pytest.mark.parametrize(("name", "solver"), [*((name, "newton") for name in NAMES), ("chain", "conjugate_gradient")])
def test_gradgradcheck(name, solver):
    f, start = problem(name)
    assert gradgradcheck(nearest(f, solver=solver), start[:1].requires_grad_(), atol=1e-4, fast_mode=name != "circle")


@pytest.mark.parametrize("name", ["chain", "two_surfaces"])
def test_hessian_against_unrolled(name):
    f, start = problem(name)
    hessians = [
        torch.autograd.functional.hessian(lambda y: loss(nearest(f, backward=mode)(y)), start[:1])  # noqa: B023
        for mode in ("implicit", "unrolled")
    ]
    assert hessians[0].abs().max() > 0.1
    torch.testing.assert_close(*hessians, rtol=1e-5, atol=1e-4)  # unrolled derivatives lag behind the values


def test_hessian_of_the_circle_by_hand():
    """|r y/|y| - g|²/2 has the Hessian of -r gᵀ y/|y|; where the loss is linear no gradient comes in that has one."""
    y, g = torch.tensor([2.0, 1.0], dtype=torch.float64), torch.tensor([0.3, -0.8], dtype=torch.float64)
    f = cases.circle(1.5)
    known = torch.autograd.functional.hessian(lambda y: -1.5 * (g @ y) / y.norm(), y)
    squares = torch.autograd.functional.hessian(lambda y: 0.5 * (nearest(f)(y) - g).square().sum(), y)
    linear = torch.autograd.functional.hessian(lambda y: -(g @ nearest(f)(y)), y)
    torch.testing.assert_close(squares, known, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(linear, known, rtol=1e-8, atol=1e-8)


def test_nothing_is_dropped_beside_other_terms():
    """A gradient penalty: the loss has terms that depend on y directly, through which alone something used to come."""
    f, start = problem("chain")
    step, way = 1e-5, torch.randn(start.shape, dtype=torch.float64, generator=seeded(3))

    def slope(y):
        y = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(nearest(f)(y)) + (y**4).sum(), y, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), y)[0]

    def penalty(y):
        y = y.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(nearest(f)(y)) + (y**4).sum(), y)
        return gradient.square().sum()

    difference = (penalty(start + step * way) - penalty(start - step * way)) / (2 * step)
    torch.testing.assert_close((slope(start) * way).sum(), difference, rtol=1e-6, atol=1e-6)


def test_of_all_inputs():
    """States, lengths, metrics of both kinds, and times, mixed derivatives included."""
    f, start = problem("chain")
    generator = seeded(5)
    lengths = torch.rand(1, 3, dtype=torch.float64, generator=generator) * 0.1 + 0.95
    inverse_mass = torch.rand(3, dtype=torch.float64, generator=generator) + 0.5
    root = torch.randn(3, 2, 2, dtype=torch.float64, generator=generator) * 0.3

    def by_mass(y, lengths, inverse_mass):
        return project(f, y, tol=TIGHT, parameters={"length": lengths}, inverse_metric=inverse_mass).y

    inputs = [x.requires_grad_() for x in (start[:1], lengths, inverse_mass)]
    assert gradgradcheck(by_mass, inputs, atol=1e-4, fast_mode=True)

    def by_block(y, root):
        metric = root @ root.mT + torch.eye(2, dtype=torch.float64)
        return project(f, y, tol=TIGHT, inverse_metric=metric).y

    assert gradgradcheck(by_block, (start[:1], root.requires_grad_()), atol=1e-4, fast_mode=True)
    y = torch.tensor([[2.5, 1.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.3, 1.0], dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda y, t: project(cases.moving_ellipse(), y, t=t, tol=TIGHT).y, (y, t), atol=1e-4)


def test_of_learned_parameters_and_latent_states():
    f = cases.chain(2, learn=("length",))
    length, close = f.learned["length"], torch.randn(4, 2, dtype=torch.float64, generator=seeded(1))
    z = torch.randn(1, 2, 4, dtype=torch.float64, generator=seeded(2))

    def both(z, close):
        return project_latent(f, z, close, tol=TIGHT)[0]

    assert gradgradcheck(both, (z.requires_grad_(), close.requires_grad_()), atol=1e-4, fast_mode=True)

    def slope(value):
        with torch.no_grad():
            length.fill_(value)
        (gradient,) = torch.autograd.grad(loss(project_latent(f, z, close, tol=TIGHT)[0]), length, create_graph=True)
        return gradient

    (second,) = torch.autograd.grad(slope(1.0), length)
    difference = (slope(1.0 + 1e-5) - slope(1.0 - 1e-5)).detach() / 2e-5
    torch.testing.assert_close(second, difference, rtol=1e-5, atol=1e-6)


def test_third_derivatives():
    f = cases.circle(1.5)
    y = torch.tensor([2.0, 1.0], dtype=torch.float64)

    def third(function):
        x = y.clone().requires_grad_()
        value = function(x)
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = (gradient * torch.tensor([0.7, -0.4], dtype=torch.float64)).sum()
        return value.detach()

    g = torch.tensor([0.3, -0.8], dtype=torch.float64)
    ours, known = third(lambda y: g @ nearest(f)(y)), third(lambda y: 1.5 * (g @ y) / y.norm())
    torch.testing.assert_close(ours, known, rtol=1e-6, atol=1e-8)


def test_samples_do_not_meet_and_bad_ones_spoil_nothing():
    f, start = cases.chain(3), cases.chain_states(4, 3, 0.1)
    bad = start.clone()
    bad[2] = float("nan")
    seconds = []
    for y in (start, bad):
        y = y.clone().requires_grad_()
        value = project(f, y, tol=TIGHT, throw=False).y[[0, 1, 3]]
        (gradient,) = torch.autograd.grad(loss(value), y, create_graph=True)
        seconds.append(torch.autograd.grad(gradient[[0, 1]].square().sum(), y)[0])
    torch.testing.assert_close(seconds[0][[0, 1]], seconds[1][[0, 1]], rtol=1e-12, atol=1e-12)
    assert (seconds[0][2:] == 0).all() and (seconds[1][3] == 0).all()


# -- forward mode and torch.func: right or refused --------------------------------------------------------------------


def test_forward_mode_and_functional_transforms_of_projections():
    f, y = cases.chain(3), cases.chain_states(2, 3, 0.05)
    way = torch.randn(y.shape, dtype=torch.float64, generator=seeded(4))
    implicit, unrolled = nearest(f), nearest(f, backward="unrolled")
    (expected,) = torch.autograd.functional.jvp(implicit, y, way)[1:]
    torch.testing.assert_close(torch.func.jvp(unrolled, (y,), (way,))[1], expected, rtol=1e-4, atol=1e-5)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(unrolled(forward_ad.make_dual(y, way))).tangent
        torch.testing.assert_close(tangent, expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(NotImplementedError, match="backward='unrolled' for forward mode"):
            implicit(forward_ad.make_dual(y, way))
    for transform in (torch.func.jacrev, torch.func.jacfwd, lambda f: torch.func.grad(lambda y: f(y).sum())):
        with pytest.raises(NotImplementedError, match=r"backward='unrolled'|without torch\.func\.vmap"):
            transform(implicit)(y)
    with pytest.raises(NotImplementedError, match=r"without torch\.func\.vmap"):
        torch.func.vmap(unrolled)(y)


def test_forward_mode_and_functional_transforms_of_solves_and_penalties():
    f, y = cases.chain(3), cases.chain_states(2, 3, 0.05)
    z, close = y.unflatten(-1, (3, 2)), torch.eye(2, dtype=torch.float64)
    functions = [
        (y, lambda y: constrained_acceleration(f, y, y, y)[1]),
        (z, lambda z: stabilisation_latent(f, z, close, 2.0)),
    ]
    for x, function in functions:
        way = torch.randn(x.shape, dtype=torch.float64, generator=seeded(6))
        known = torch.autograd.functional.jvp(function, x, way)[1]
        torch.testing.assert_close(torch.func.jvp(function, (x,), (way,))[1], known, rtol=1e-7, atol=1e-9)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.clone().requires_grad_(), way)
            torch.testing.assert_close(forward_ad.unpack_dual(function(dual)).tangent, known, rtol=1e-7, atol=1e-9)
        full = torch.autograd.functional.hessian(lambda x: function(x).sum(), x)  # noqa: B023
        other = torch.func.hessian(lambda x: function(x).sum())(x)  # noqa: B023
        torch.testing.assert_close(full, other, rtol=1e-6, atol=1e-7)
