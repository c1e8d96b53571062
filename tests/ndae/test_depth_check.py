"""A neural DAE beside the continuous dynamics over depth that it stands for."""

import pytest
import torch

import ndae
from ndae import fields, methods
from ndae.symbolic import library
from tests.ndae import chains
from tests.ndae.test_own_invariants import network, samples
from tests.ndae.test_saving import moved


def two_links(method, **options):
    torch.manual_seed(0)
    chain = library.chain(2, dim=2, length=chains.LENGTHS[:2])
    field = fields.MLPField(2, 6, 8)
    options = {"features": 4, "dim": 2, "latent": 6, "n_layers": 2} | options
    return moved(ndae.NeuralDAE(field, chain, method, **options)).double()


ADAPTIVE = {"integrator": "dopri5", "rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize(
    "method, off",
    [
        # A projection of the layers ends where c is small, which it is before the state is the nearest to 1e-8.
        (methods.SmoothProjection() + methods.Penalty(3.0), 1e-6),
        (methods.Multiplier() + methods.Penalty(3.0, "gram"), 1e-8),
    ],
)
def test_layers_with_adaptive_steps_are_the_trained_dynamics(method, off):
    model = two_links(method, **ADAPTIVE)
    found = ndae.crosscheck(model, chains.states(3, chains.LENGTHS[:2]))
    assert found.largest["as trained"] < off
    assert found.violation["DAE (eq. 6)"] < 1e-13 and found.violation["projection"] < 1e-13
    # Methods differ in what they stand for, by more than solvers do.
    assert found.distance["no constraint"] > 1e-4 and "as trained" in str(found)


def test_fixed_steps_are_off_by_their_integrator_alone():
    x, off = chains.states(3, chains.LENGTHS[:2]), []
    for initial_step, n_layers in ((0.1, 1), (0.05, 2)):
        model = two_links(methods.Unconstrained(), n_layers=n_layers)
        with torch.no_grad():
            model.log_step.fill_(torch.tensor(initial_step).log())
            for weight in model.fields.parameters():
                weight.mul_(3)
        off.append(ndae.crosscheck(model, x).distance["as trained"])
    assert 8 < off[0] / off[1] < 40  # fourth order


def test_a_constraint_of_each_samples_own():
    from ndae.models.depth_check import depth_check

    x, _, radius = samples(4)
    found = depth_check(network(methods.SmoothProjection()), x, parameters=radius)
    assert found.violation["as trained"] < 1e-13 and found.distance["as trained"] < 1e-6
