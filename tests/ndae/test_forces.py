"""Learned forces: silent at the start, on any number of bodies, local to their graph."""

import pytest
import torch

from ndae import NeuralMotion
from ndae.fields import ORIGIN
from ndae.forces import GraphForce, MLPForce
from ndae.symbolic import library


def links(n):
    return [(ORIGIN, 0), *((i, i + 1) for i in range(n - 1))]


def noisy(force):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in force.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return force.double()


@pytest.mark.parametrize("force", [MLPForce(3, 2, 8), GraphForce(links(3), 2, 8)])
def test_an_untrained_force_is_zero(force):
    assert force(0.0, torch.randn(4, 3, 4)).abs().max() == 0


def test_a_force_trained_on_five_links_runs_on_twenty():
    force = noisy(GraphForce(links(5), 2, 8))
    longer = force.on(links(20))
    assert all(a is b for a, b in zip(force.parameters(), longer.parameters(), strict=True))
    y = torch.randn(2, 20, 4, dtype=torch.float64)
    # The first four nodes have the same neighbours in both chains; the fifth has one more in the longer.
    torch.testing.assert_close(longer(0.0, y)[:, :4], force(0.0, y[:, :5])[:, :4], rtol=1e-12, atol=1e-12)
    assert (longer(0.0, y)[:, 4] - force(0.0, y[:, :5])[:, 4]).abs().max() > 1e-3
    chain = torch.stack([torch.arange(1.0, 21), *torch.zeros(3, 20)], -1).double()[None]
    motion = NeuralMotion(library.chain(20).torch(), longer, duration=0.05, n_steps=5).double()
    with torch.no_grad():
        assert motion.constraint.residual(motion(chain).flatten(1)).abs().max() < 1e-6


def test_a_node_feels_its_neighbours_only():
    force = noisy(GraphForce(links(5), 2, 8))
    y = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(force(0.0, y)[0, 0].sum(), y)
    assert gradient[0, 1].abs().max() > 0
    assert gradient[0, 2:].abs().max() == 0


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="each is at least 1"):
        MLPForce(3, 2, 0)
