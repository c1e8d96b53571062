"""Derivatives of every order of what Newton's iteration finds, by every way to ask for them, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.systems.system import System

A, B = 0.8, 1.3


pytestmark = pytest.mark.usefixtures("double_precision")


def make():
    """u + i v = √(a + i b) by two equations for both, and a sinh of theirs by a third that waits for them."""
    a, b, u, v, z = sp.symbols("a b u v z", real=True)
    equations = [dot(a) - z, u**2 - v**2 - a, 2 * u * v - b, sp.sinh(z) + z**3 - (sp.sinh(v) + v**3)]
    reduced = System(equations, [a, u, v, z], {b: B}, name="roots").reduce()
    assert not all(block.linear for block in reduced.blocks)
    return reduced


REDUCED = make()
PLACES = [[s.name for s in REDUCED.w].index(name) for name in ("u", "v", "z")]


def closed(xp, a, b):
    """(..., 3): u, v, and z = v."""
    size = (a**2 + b**2) ** 0.5
    u, v = ((size + a) / 2) ** 0.5, ((size - a) / 2) ** 0.5
    return xp.stack([u, v, v], -1)


def with_jax(x):
    """(..., 3) at x = (a, b)."""
    w, _ = REDUCED.jax().solve_leading(x[..., :1], parameters={"b": x[..., 1]}, guess=jnp.ones(len(REDUCED.w)))
    return w[..., np.array(PLACES)]


def with_torch(x):
    guess = torch.ones(len(REDUCED.w), dtype=x.dtype)
    w, _ = REDUCED.torch().solve_leading(x[..., :1], parameters={"b": x[..., 1]}, guess=guess)
    return w[..., PLACES]


def known(x, order):
    def function(x):
        return closed(jnp, x[..., 0], x[..., 1])

    for _ in range(order):
        function = jax.jacfwd(function)
    return np.asarray(function(jnp.asarray(x)))


POINT = np.array([A, B])


@pytest.mark.parametrize("modes", ["rrf"])
def test_in_jax(modes):
    function = with_jax
    for order, mode in enumerate(modes, 1):
        function = {"f": jax.jacfwd, "r": jax.jacrev}[mode](function)
        np.testing.assert_allclose(jax.jit(function)(POINT), known(POINT, order), rtol=1e-9, atol=1e-11)


def test_of_batches_in_jax():
    points = POINT + np.array([[0.0, 0.0], [0.3, -0.2], [-2.0, 1.0]])
    expected = np.stack([known(p, 2) for p in points])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.hessian(with_jax)))(points), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("modes", ["rf", "rrr", "fff", "rfr"])
def test_in_torch_func(modes):
    function = with_torch
    for order, mode in enumerate(modes, 1):
        function = {"f": torch.func.jacfwd, "r": torch.func.jacrev}[mode](function)
        found = function(torch.as_tensor(POINT))
        np.testing.assert_allclose(found, known(POINT, order), rtol=1e-9, atol=1e-11)


def test_by_graphs_in_torch():
    x = torch.tensor(POINT, requires_grad=True)
    weights, way = np.array([0.4, -0.7, 1.1]), np.array([0.6, -1.2])
    value, expected = with_torch(x) @ torch.as_tensor(weights), known(POINT, 4)
    np.testing.assert_array_equal(with_torch(x.detach()), with_torch(x).detach())
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        value = gradient @ torch.as_tensor(way)
    (fourth,) = torch.autograd.grad(value, x)  # the last without a graph of its own
    np.testing.assert_allclose(fourth, np.einsum("kabcd,k,a,b,c", expected, weights, way, way, way), rtol=1e-9)


def test_gradients_of_batches_in_torch():
    points = torch.tensor(POINT + np.array([[0.0, 0.0], [0.3, -0.2], [-2.0, 1.0]]), requires_grad=True)
    assert gradcheck(with_torch, points, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(with_torch, points)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(points.detach(), torch.ones_like(points))
        tangent = forward_ad.unpack_dual(with_torch(dual)).tangent
    np.testing.assert_allclose(tangent, np.stack([known(p, 1).sum(-1) for p in points.detach().numpy()]), rtol=1e-10)


def test_in_single_precision():
    x = POINT.astype(np.float32)
    found = torch.autograd.functional.hessian(lambda x: with_torch(x).sum(), torch.as_tensor(x))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, known(POINT, 2).sum(0), rtol=1e-4, atol=1e-5)
    found = jax.hessian(lambda x: with_jax(x).sum())(jnp.asarray(x))
    np.testing.assert_allclose(found, known(POINT, 2).sum(0), rtol=1e-4, atol=1e-5)
