"""Gram solves by structure against dense linear algebra on the assembled matrix."""

import itertools

import pytest
import sympy as sp
import torch
from hypothesis import given, settings, strategies as st

from ndae.solvers.manifold.cyclic_reduction import CyclicReduction
from ndae.solvers.manifold.gram import (
    SMALL_SYSTEM,
    BlockDiagonal,
    Dense,
    MatrixFree,
    Tridiagonal,
    conjugate_gradients,
    factor_gram,
    solve_gram,
)
from ndae.symbolic import ANCHOR, Constraint, Function, norm, point


def links(over, dim=2, two_rows=False):
    a, b = point("a", dim), point("b", dim)
    rows = [norm(b - a) - 1] + ([b[0] ** 2 + a[0] * b[1] + a[1]] if two_rows else [])
    return Constraint.template(rows, points=[a, b], over=over).torch().double()


def molecules(n):
    a, b, c = (point(name, 3) for name in "abc")
    rows = [norm(a - b) - 1, norm(a - c) - 1, norm(b - c) - 1.5]
    return (
        Constraint.template(rows, points=[a, b, c], over=[(3 * i, 3 * i + 1, 3 * i + 2) for i in range(n)])
        .torch()
        .double()
    )


def plain(m):
    x = sp.symbols(f"x:{m + 2}")
    rows = [x[i] ** 2 + x[i + 1] * x[i + 2] + i for i in range(m)]
    return Constraint(rows, states=list(x)).torch().double()


def chain_over(n):
    return [(ANCHOR if i == 0 else i - 1, i) for i in range(n)]


shuffled = [(4, 5), (ANCHOR, 0), (2, 3), (0, 1), (3, 4), (1, 2)]
CASES = {
    "chain_2": (lambda: links(chain_over(2)), Tridiagonal),
    "chain_5": (lambda: links(chain_over(5)), Tridiagonal),
    "chain_16": (lambda: links(chain_over(16), dim=3), Tridiagonal),
    "chain_17": (lambda: links(chain_over(17)), Tridiagonal),
    "chain_40": (lambda: links(chain_over(40)), Tridiagonal),
    "shuffled": (lambda: links(shuffled), Tridiagonal),
    "two_chains": (lambda: links([(ANCHOR, 0), (0, 1), (1, 2), (3, 4), (4, 5), (5, 6)]), Tridiagonal),
    "blocks_7": (lambda: links(chain_over(7), two_rows=True), Tridiagonal),
    "blocks_shuffled": (lambda: links(shuffled, two_rows=True), Tridiagonal),
    "pairs": (lambda: links([(0, 1), (2, 3), (4, 5)]), BlockDiagonal),
    "molecules": (lambda: molecules(4), BlockDiagonal),
    "plain_3": (lambda: plain(3), BlockDiagonal),
    "plain_7": (lambda: plain(7), BlockDiagonal),
    "star": (lambda: links([(0, i) for i in range(1, 6)]), Dense),
    "ring": (lambda: links([(i, (i + 1) % 6) for i in range(6)]), Dense),
    "star_blocks": (lambda: links([(0, i) for i in range(1, 5)], two_rows=True), Dense),
}


def metrics(f):
    generator = torch.Generator().manual_seed(3)
    masses = torch.rand(f.n_points, generator=generator, dtype=torch.float64) + 0.5
    root = torch.randn(f.n_points, f.dim, f.dim, generator=generator, dtype=torch.float64)
    return [None, masses, root @ root.mT + torch.eye(f.dim, dtype=torch.float64)]


def dense_metric(f, metric):
    if metric is None:
        return torch.eye(f.n_states, dtype=torch.float64)
    return torch.block_diag(
        *(metric if metric.dim() == 3 else [m * torch.eye(f.dim, dtype=torch.float64) for m in metric])
    )


@pytest.mark.parametrize("small_batch", [0, 128])
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
@pytest.mark.parametrize("name", CASES)
def test_structured_against_dense(name, batch, small_batch, monkeypatch):
    make, kind = CASES[name]
    f = make()
    monkeypatch.setattr("ndae.solvers.manifold.gram.SMALL_BATCH", small_batch)
    if small_batch and kind is Tridiagonal and f.n_local == 1 and f.n_instances <= SMALL_SYSTEM:
        kind = Dense
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(*batch, f.n_states, generator=generator, dtype=torch.float64)
    rhs = torch.randn(*batch, f.n_residuals, generator=generator, dtype=torch.float64)
    for metric in metrics(f):
        J = torch.func.jacrev(f.residual)(y) if not batch else f.jacobian(y)
        gram = J @ dense_metric(f, metric) @ J.mT
        expected = torch.linalg.solve(gram, rhs)
        for matrix_free in (False, True):
            solver = factor_gram(f, f.local_jacobian(y), metric, matrix_free=matrix_free)
            assert isinstance(solver, MatrixFree if matrix_free else kind)
            x = solver.solve(rhs)
            scale = torch.linalg.cond(gram).max() * expected.abs().max()
            assert (x - expected).abs().max() < 1e-13 * scale, name


@pytest.mark.parametrize("name", ["chain_5", "chain_17", "blocks_7", "molecules", "plain_7", "star"])
def test_solves_are_differentiable_twice(name):
    f = CASES[name][0]()
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(1, f.n_states, generator=generator, dtype=torch.float64, requires_grad=True)
    rhs = torch.randn(1, f.n_residuals, generator=generator, dtype=torch.float64, requires_grad=True)

    def solve(y, rhs):
        return factor_gram(f, f.local_jacobian(y)).solve(rhs)

    assert torch.autograd.gradcheck(solve, (y, rhs), rtol=1e-3, atol=1e-4, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, (y, rhs), rtol=1e-2, atol=1e-3, fast_mode=True)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("name", ["chain_5", "blocks_7", "molecules", "plain_7", "star"])
def test_gradients_of_solve_gram(name, batch):
    f = CASES[name][0]()
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(*batch, f.n_states, generator=generator, dtype=torch.float64, requires_grad=True)
    rhs = torch.randn(*batch, f.n_residuals, generator=generator, dtype=torch.float64, requires_grad=True)
    local = f.local_jacobian(y)
    for metric in metrics(f):
        inputs = [y, rhs] if metric is None else [y, rhs, metric.requires_grad_()]

        def symmetric(metric):  # of blocks only that part means something
            return (metric + metric.mT) / 2 if metric is not None and metric.ndim == 3 else metric

        def solved(y, rhs, metric=None):
            return solve_gram(f, f.local_jacobian(y), symmetric(metric), rhs)

        expected = factor_gram(f, local, symmetric(metric)).solve(rhs)
        torch.testing.assert_close(solved(*inputs), expected)
        weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        ours = torch.autograd.grad((solved(*inputs) * weight).sum(), inputs)
        known = torch.autograd.grad((expected * weight).sum(), inputs, retain_graph=True)
        for a, b in zip(ours, known, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item())
        assert torch.autograd.gradgradcheck(solved, inputs, rtol=1e-2, atol=1e-3, fast_mode=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(0, 2**31))
def test_cyclic_reduction_of_random_matrices(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    off = torch.randn(2, max(n - 1, 0), m, m, generator=generator, dtype=torch.float64)
    diagonal = torch.eye(m, dtype=torch.float64) * (1 + 4 * m) + torch.zeros(2, n, m, m, dtype=torch.float64)
    rhs = torch.randn(2, n, m, generator=generator, dtype=torch.float64)
    dense = torch.zeros(2, n * m, n * m, dtype=torch.float64)
    for i in range(n):
        dense[:, i * m : (i + 1) * m, i * m : (i + 1) * m] = diagonal[:, i]
    for i, j in itertools.pairwise(range(n)):
        dense[:, i * m : (i + 1) * m, j * m : (j + 1) * m] = off[:, i]
        dense[:, j * m : (j + 1) * m, i * m : (i + 1) * m] = off[:, i].mT
    # Diagonally dominant in the norm of blocks or not: scaled until positive definite.
    shift = (0.1 - torch.linalg.eigvalsh(dense)[:, 0]).clamp_min(0)[:, None, None]
    dense = dense + shift * torch.eye(n * m, dtype=torch.float64)
    diagonal = diagonal + shift[..., None] * torch.eye(m, dtype=torch.float64)
    expected = torch.linalg.solve(dense, rhs.flatten(1)).unflatten(1, (n, m))
    torch.testing.assert_close(CyclicReduction(diagonal, off).solve(rhs), expected, rtol=1e-9, atol=1e-9)


def test_redundant_and_vanishing_rows_stay_finite():
    """A doubled link, coincident points and all points in one place: finite λ, and A Jᵀ λ solves what can be solved."""
    a, b = point("a", 2), point("b", 2)
    f = Constraint.template([norm(b - a) - 1], points=[a, b], over=[(ANCHOR, 0), (0, 1), (1, 2)]).torch().double()
    for dtype in (torch.float64, torch.float32):
        f = f.to(dtype)
        y = torch.tensor([[1.0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 2, 0, 3, 0]], dtype=dtype)
        c, jacobian = f.linearise(y)
        lam = factor_gram(f, jacobian).solve(c)
        assert lam.isfinite().all()
        assert f.apply_transpose(jacobian, lam).isfinite().all()
        assert f.apply_transpose(jacobian, lam).abs().max() < 1e3
    x = sp.symbols("x:3")
    rows = [x[0] + x[1] + x[2], x[0] - x[1], 2 * x[0] + x[2]]  # the third is the sum of the others
    g = Function(rows, states=list(x)).torch().double()
    y = torch.tensor([[0.3, -0.1, 0.7]], dtype=torch.float64)
    c, jacobian = g.linearise(y)
    moved = y - g.apply_transpose(jacobian, factor_gram(g, jacobian).solve(c))
    assert g.residual(moved).abs().max() < 1e-6


def test_conjugate_gradients_do_not_mix_samples():
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(5, 6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(6, dtype=torch.float64)
    matrix[2] = float("nan")
    matrix[3] = -matrix[3]
    rhs = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    rhs[1] = 0

    def solve(samples):
        def product(p):
            return (matrix[samples] * p[:, None]).sum(-1), p

        enough = torch.full((len(samples), 1), 1e-24, dtype=torch.float64)
        return conjugate_gradients(product, rhs[samples], enough=enough, limit=50)

    x = solve([0, 1, 2, 3, 4])
    assert (x[1:4] == 0).all()  # nothing to solve, nothing finite, no positive curvature
    for i in (0, 4):
        torch.testing.assert_close(x[i], torch.linalg.solve(matrix[i], rhs[i]), rtol=1e-9, atol=1e-10)
        assert torch.equal(solve([i])[0], x[i])
