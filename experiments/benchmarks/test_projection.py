"""Cost of projection and stabilisation: `make bench`, or

    python -m pytest experiments/benchmarks/test_projection.py --benchmark-only

The paper's public code, on an idle machine with two cores, projects 1,000 states of the five-body chain displaced by
0.1 m noise to 1e-4 m in 463 ms (float64, 81 iterations), and takes 1.3 s of processor time for the backward pass.
"""

import time

import pytest
import torch

from ndae.solvers import project, stabilisation
from ndae.symbolic.library import chain


def displaced_chain(batch: int, n: int, noise: float, dtype=torch.float64) -> torch.Tensor:
    """Chains with links of one metre in random directions, every coordinate displaced by normal noise (m)."""
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(batch, n, dtype=torch.float64, generator=generator)
    points = torch.stack([angle.cos(), angle.sin()], -1).cumsum(1)
    points = points + noise * torch.randn(points.shape, dtype=torch.float64, generator=generator)
    return points.flatten(1).to(dtype)


@pytest.mark.benchmark(group="1,000 states, five links, 0.1 m noise, float64: forward")
@pytest.mark.parametrize(
    ("solver", "tol"), [("newton", 1e-10), ("newton", 1e-4), ("conjugate_gradient", 1e-10), ("steepest_descent", 1e-4)]
)
def test_thousand_states(benchmark, solver, tol):
    f, start = chain(5).torch().double(), displaced_chain(1000, 5, 0.1)
    result = benchmark(project, f, start, solver=solver, tol=tol)
    benchmark.extra_info["iterations"] = f"{result.iterations.double().mean():.1f}, at most {result.iterations.max()}"
    assert result.converged.all()


@pytest.mark.benchmark(group="1,000 states, five links: backward, processor time", timer=time.process_time)
@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
def test_thousand_states_backward(benchmark, backward):
    f, start = chain(5).torch().double(), displaced_chain(1000, 5, 0.1).requires_grad_()
    y = project(f, start, backward=backward).y
    weight = torch.ones_like(y)
    benchmark(torch.autograd.grad, y, start, weight, retain_graph=True)


@pytest.mark.benchmark(group="one state of n links, 0.01 m noise, to 1e-10: growth")
@pytest.mark.parametrize("n", [5, 50, 500, 5000])
def test_growth(benchmark, n):
    f, start = chain(n).torch().double(), displaced_chain(1, n, 0.01)
    assert benchmark(project, f, start).converged.all()


@pytest.mark.benchmark(group="a layer of training: batch 10, five links, float32, 1e-4")
@pytest.mark.parametrize("noise", [1e-3, 1e-2, 1e-1])
def test_projection_of_a_batch(benchmark, noise):
    f = chain(5).torch()
    start = displaced_chain(10, 5, noise, torch.float32).requires_grad_()
    weight = torch.ones_like(start)
    benchmark(lambda: torch.autograd.grad(project(f, start, tol=1e-4).y, start, weight))


@pytest.mark.benchmark(group="one evaluation of the penalty: batch 10, five links, float32, with backward")
@pytest.mark.parametrize("H", ["identity", "gram"])
def test_stabilisation_of_a_batch(benchmark, H):
    f = chain(5).torch()
    y = displaced_chain(10, 5, 1e-2, torch.float32).requires_grad_()
    weight = torch.ones_like(y)
    benchmark(lambda: torch.autograd.grad(stabilisation(f, y, 10.0, H), y, weight))
