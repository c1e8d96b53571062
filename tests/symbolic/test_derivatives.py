"""Every generated function of torch against autograd, finite differences and dense linear algebra."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import torch

from ndae.symbolic import Function, library
from ndae.symbolic.backends.local_numpy import compile_numpy
from tests.symbolic.cases import CASES

close = torch.testing.assert_close


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def f(case):
    return case.torch


@pytest.fixture
def arrays(case):
    return [torch.as_tensor(a) for a in case.arrays()]


def autograd_jacobian(f, y, t):
    return torch.func.vmap(torch.func.jacrev(lambda y: f.residual(y, t)))(y)


def test_jacobian_is_the_derivative_of_the_residual(case, f, arrays):
    y = arrays[0]
    close(f.jacobian(y, case.t), autograd_jacobian(f, y, case.t))
    step = 1e-6 * torch.eye(f.n_states, dtype=y.dtype)
    ahead, behind = f.residual(y.unsqueeze(-2) + step, case.t), f.residual(y.unsqueeze(-2) - step, case.t)
    close(f.jacobian(y, case.t), ((ahead - behind) / 2e-6).mT, rtol=1e-6, atol=1e-7)


def test_products_never_differ_from_the_dense_jacobian(case, f, arrays):
    y, v, _, w = arrays
    dense, (c, local) = f.jacobian(y, case.t), f.linearise(y, case.t)
    close(c, f.residual(y, case.t))
    close(local, f.local_jacobian(y, case.t))
    along, across = (dense @ v.unsqueeze(-1)).squeeze(-1), (dense.mT @ w.unsqueeze(-1)).squeeze(-1)
    close(f.jvp(y, v, case.t), along)
    close(f.apply_jacobian(local, v), along)
    close(f.vjp(y, w, case.t), across)
    close(f.apply_transpose(local, w), across)


def test_hessian_product(case, f, arrays):
    y, _, u, w = arrays
    hessian = torch.func.vmap(torch.func.hessian(lambda y, w: (w * f.residual(y, case.t)).sum()))(y, w)
    close(f.hvp(y, w, u, case.t), (hessian @ u.unsqueeze(-1)).squeeze(-1))


def test_penalty_and_its_symmetric_derivative(case, f, arrays):
    y, v, u, _ = arrays
    close(f.penalty(y, case.t), f.vjp(y, f.residual(y, case.t), case.t))
    gradient = torch.func.grad(lambda y: 0.5 * f.residual(y, case.t).square().sum())(y)
    close(f.penalty(y, case.t), gradient)
    operator = torch.func.jvp(lambda y: f.penalty(y, case.t), (y,), (v,))[1]
    close(f.penalty_jvp(y, v, case.t), operator)
    close((u * f.penalty_jvp(y, v, case.t)).sum(-1), (v * f.penalty_jvp(y, u, case.t)).sum(-1))


def test_time_derivatives_along_a_curve(case, f, arrays):
    """ċ and c̈ along q(s) = q + s v + s² a / 2 and t + s, by autograd in s alone."""
    q, v, a, _ = arrays
    t = torch.tensor(case.t or 0.0, dtype=q.dtype)

    def along(s):
        return f.residual(q + s * v + 0.5 * s**2 * a, t + s if case.t is not None else None)

    def rate(s):
        return torch.func.jvp(along, (s,), (torch.ones_like(s),))[1]

    zero = torch.zeros((), dtype=q.dtype)
    given = t if case.t is not None else None
    close(f.velocity(q, v, given), rate(zero))
    close(f.velocity(q, v, given), f.jvp(q, v, given) + f.time_derivative(q, given))
    second = torch.func.jvp(rate, (zero,), (torch.ones_like(zero),))[1]
    close(f.jvp(q, a, given) + f.curvature(q, v, given), second)


def test_hidden_levels_are_functions_again(case, f, arrays):
    q, v, a, _ = arrays
    velocity, acceleration = case.function.velocity_level(), case.function.acceleration_level()
    assert (velocity.n_states, acceleration.n_states) == (2 * f.n_states, 3 * f.n_states)
    state = torch.cat([q, v], -1)
    for level, y, expected in [
        (velocity, state, f.velocity(q, v, case.t)),
        (acceleration, torch.cat([state, a], -1), f.jvp(q, a, case.t) + f.curvature(q, v, case.t)),
    ]:
        residual = compile_numpy(level, only=("residual",)).residual(
            y.numpy(), case.t if level.time is not None else None
        )
        np.testing.assert_allclose(residual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("metric", [None, "points", "blocks"])
def test_gram_blocks_are_those_of_the_dense_product(case, f, arrays, metric):
    y, structure, m = arrays[0], case.function.structure, f.n_local
    random = np.random.default_rng(1)
    inverse = dense = None
    if metric == "points":
        inverse = torch.as_tensor(random.uniform(0.5, 2.0, f.n_points))
        dense = torch.diag(inverse.repeat_interleave(f.dim))
    if metric == "blocks":
        root = torch.as_tensor(random.normal(size=(f.n_points, f.dim, f.dim)))
        inverse = root @ root.mT
        dense = torch.block_diag(*inverse)
    jacobian = f.jacobian(y, case.t)
    gram = jacobian @ jacobian.mT if dense is None else jacobian @ dense @ jacobian.mT
    blocks = gram.unflatten(-1, (-1, m)).unflatten(-3, (-1, m)).transpose(-2, -3)  # (..., instance, instance, m, m)
    diagonal, off = f.gram_blocks(y, inverse, case.t)
    i = torch.arange(f.n_instances)
    close(diagonal, blocks[:, i, i])
    first, second = structure.pairs.T
    close(off, blocks[:, first, second])
    covered = torch.eye(f.n_instances, dtype=torch.bool)
    covered[first, second] = covered[second, first] = True
    assert blocks[:, ~covered].abs().max() == 0 if (~covered).any() else True
    if structure.kind == "block_tridiagonal":
        position = np.argsort(structure.order)
        assert np.all(np.abs(position[first] - position[second]) == 1)


def test_local_jacobian_has_no_columns_at_anchors():
    local = library.chain(4).torch().double().local_jacobian(torch.randn(2, 8, dtype=torch.float64))
    assert local.shape == (2, 4, 1, 4)
    assert (local[:, 0, :, :2] == 0).all() and (local[:, 1:] != 0).all()


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (1, 0)])
def test_any_leading_batch_dimensions(case, f, batch):
    y, v, u, w = [torch.as_tensor(a) for a in case.arrays(batch)]
    one = [torch.as_tensor(a) for a in case.arrays(batch)]
    flat = [a.reshape(-1, a.shape[-1]) for a in one]

    def compare(result, single, n):
        assert result.shape[: len(batch)] == batch
        close(
            result.reshape(-1, *result.shape[len(batch) :]),
            torch.stack(single) if n else result.new_zeros((0, *result.shape[len(batch) :])),
        )

    n = flat[0].shape[0]
    compare(f.residual(y, case.t), [f.residual(flat[0][i], case.t) for i in range(n)], n)
    compare(f.jacobian(y, case.t), [f.jacobian(flat[0][i], case.t) for i in range(n)], n)
    compare(f.vjp(y, w, case.t), [f.vjp(flat[0][i], flat[3][i], case.t) for i in range(n)], n)
    compare(f.hvp(y, w, u, case.t), [f.hvp(flat[0][i], flat[3][i], flat[2][i], case.t) for i in range(n)], n)
    compare(f.curvature(y, v, case.t), [f.curvature(flat[0][i], flat[1][i], case.t) for i in range(n)], n)


def test_template_is_the_list_written_out_by_hand():
    n = 4
    template = library.chain(n, 2, [1.0, 2.0, 3.0, 4.0])
    s = sp.symbols(f"s0:{2 * n}", real=True)
    places = [(0, 0), *[(s[2 * i], s[2 * i + 1]) for i in range(n)]]
    by_hand = [
        sp.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2) - (i + 1) for i, ((x0, y0), (x1, y1)) in enumerate(pairwise(places))
    ]
    plain = Function(by_hand, s).torch().double()
    f = template.torch().double()
    y, v, u, w = [torch.as_tensor(a) for a in CASES["chain"].arrays()]
    y, v, u, w = y[:, : 2 * n], v[:, : 2 * n], u[:, : 2 * n], w[:, :n]
    for name, args in {"residual": (y,), "jvp": (y, v), "vjp": (y, w), "hvp": (y, w, u), "curvature": (y, v)}.items():
        close(getattr(f, name)(*args), getattr(plain, name)(*args))
    close(f.jacobian(y), plain.jacobian(y))
    close(f.penalty(y), plain.penalty(y))
    assert [sp.simplify(a - b) for a, b in zip(template.expanded(s), by_hand, strict=True)] == [0] * n
