"""Instances that share no point, such as molecules, are projected one by one."""

import pytest
import torch

from ndae.solvers import project
from ndae.solvers.manifold import instances, projection
from ndae.symbolic import library
from tests.solvers import cases

MASSES = torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64)


@pytest.fixture
def water():
    return cases.molecules(4), cases.molecule_states(10, 4, 0.1)


def joined(monkeypatch):
    """All instances of a sample in one iteration, as those that share points."""
    monkeypatch.setattr(projection, "separate", lambda *arguments: None)


@pytest.mark.parametrize(
    "metric", [None, 1 / MASSES.repeat(4), torch.diag_embed(1 / MASSES.repeat(4)[:, None].expand(-1, 3))]
)
def test_a_molecule_does_not_know_its_neighbours(water, metric):
    f, y = water
    before = project(f, y, inverse_metric=metric, tol=1e-6)
    other = y.clone()
    other[:, 9:18] += 0.2 * torch.randn(10, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    after = project(f, other, inverse_metric=metric, tol=1e-6)
    rest = [*range(9), *range(18, 36)]
    assert torch.equal(before.y[:, rest], after.y[:, rest])
    assert not torch.equal(before.y[:, 9:18], after.y[:, 9:18])
    # A molecule alone comes to the same.
    alone = project(cases.molecules(1), y[:, :9], inverse_metric=None if metric is None else metric[:3], tol=1e-6)
    torch.testing.assert_close(alone.y, before.y[:, :9], rtol=0, atol=1e-12)


def test_it_is_the_nearest_point_that_is_found_otherwise_and_so_are_gradients(water, monkeypatch):
    f, y = water
    weight = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for one_by_one in (True, False):
        if not one_by_one:
            joined(monkeypatch)
        start = y.clone().requires_grad_()
        p = project(f, start, tol=1e-13)
        (gradient,) = torch.autograd.grad((p.y * weight).sum(), start)
        found.append((p.y.detach(), p.multiplier, gradient))
        assert p.converged.shape == p.residual.shape == p.iterations.shape == (10,) and p.converged.all()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_parameters_of_each_instance_and_learned_ones(water):
    _, y = water
    f = library.rigid_molecules(4).torch(learn=["d01"]).double()
    lengths = torch.tensor([1.4, 1.5, 1.6, 1.7], dtype=torch.float64)
    p = project(f, y, parameters={"d12": lengths})
    apart = p.y.unflatten(-1, (4, 3, 3))
    torch.testing.assert_close((apart[:, :, 2] - apart[:, :, 1]).norm(dim=-1), lengths.expand(10, 4), rtol=0, atol=1e-9)
    (slope,) = torch.autograd.grad((apart[:, :, 1] - apart[:, :, 0]).norm(dim=-1).sum(), f.learned["d01"])
    assert float(slope) == pytest.approx(40.0, rel=1e-6)  # each of 40 bonds is as long as the parameter says


def test_the_slowest_molecule_speaks_for_its_sample(water):
    f, y = water
    on = project(f, y).y
    on[3, 27:] = float("nan")
    on[5, :3] += 0.1
    p = project(f, on, throw=False)
    assert p.converged.tolist() == [i != 3 for i in range(10)]
    assert p.iterations[5] > 0 and p.iterations[0] == 0
    torch.testing.assert_close(p.y[3, :27], on[3, :27], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "f, y, metric",
    [
        (cases.chain(3), cases.chain_states(2, 3, 0.1), None),  # links share bodies
        (cases.molecules(2), cases.molecule_states(2, 2, 0.1), torch.arange(1.0, 7.0, dtype=torch.float64)),
    ],
)
def test_what_can_not_be_separated_stays_together(f, y, metric):
    assert instances.separate(f, y, None, None, metric) is None
    assert project(f, y, inverse_metric=metric).converged.all()
