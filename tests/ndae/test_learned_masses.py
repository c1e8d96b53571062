"""Masses that are learned, and the weight of them: a system's own force among known and unknown masses."""

import numpy as np
import pytest
import sympy as sp
import torch

from ndae import NeuralMotion, fit
from ndae.forces import PotentialForce, SystemForce
from ndae.forces.networks import SumForce
from ndae.symbolic import Function, System, library, point
from ndae.training.optimizers import lbfgs
from tests.systems import chain_states

SYSTEM = library.chain_pendulum(2, [1.0, 0.8], [1.0, 3.0])
LINKS = SYSTEM.points.constraint


def states(n=40):
    rng = np.random.default_rng(0)
    angle, rate = rng.uniform(-1.5, 1.5, (2, n, 2))
    return torch.tensor(np.concatenate(chain_states(angle, rate, [1.0, 0.8]), -1))


def push(t, y):
    """5 N along x on the lower body: without a known force beside the weight, nothing tells the masses."""
    return torch.tensor([[0.0, 0.0], [5.0, 0.0]]).to(y).expand(len(y), 2, 2)


def motion(force=None, **options):
    force = [SystemForce(SYSTEM), push] if force is None else force
    return NeuralMotion(LINKS.torch(), force, **{"duration": 0.2, "n_steps": 4} | options).double()


@pytest.mark.parametrize(
    ("learn", "start", "adjoint"),
    [
        (True, [1.5, 1.5], False),
        ([0], [1.5, 3.0], False),
        ([False, True], [1.0, 1.5], False),
        (np.array([True, False]), [0.5, 3.0], True),
    ],
)
def test_learned_masses_are_those_of_weight_and_inertia(learn, start, adjoint, tmp_path):
    x = states()
    y = motion(mass=SYSTEM.points.mass)(x).detach()
    model = motion(mass=start, learn_mass=learn, adjoint=adjoint)
    n_unknown = 2 if learn is True else 1
    assert sum(p.numel() for p in model.parameters()) == n_unknown
    epochs = 2 if adjoint else 8
    options = {"epochs": epochs, "batch_size": 30, "optimizer": lbfgs(), "out": tmp_path}
    fit(model, (x[:30], y[:30]), (x[30:], y[30:]), **options)
    torch.testing.assert_close(model.mass.detach(), torch.tensor([1.0, 3.0]).double(), rtol=1e-4, atol=0)
    energy = motion(mass=SYSTEM.points.mass).energy(x)
    torch.testing.assert_close(model.energy(x).detach(), energy, rtol=1e-3, atol=1e-3)


def test_blocks_are_learned_one_by_one():
    blocks = torch.tensor([[[2.0, 0.3], [0.3, 1.0]], [[1.0, 0.0], [0.0, 4.0]]], dtype=torch.float64)
    model = motion([push], mass=blocks, learn_mass=[1])
    torch.testing.assert_close(model.mass.detach(), blocks)
    model(states(4)).square().sum().backward()
    assert model.masses.raw.shape == (1, 2, 2)
    assert model.masses.raw.grad.abs().max() > 0


@pytest.mark.parametrize("learn", [[2], [-1], [0, 0], [True], [0.5], "a", [[0]], []])
def test_what_names_no_node_is_refused(learn):
    with pytest.raises(ValueError, match="a mask of 2 truth values, or numbers of nodes from 0 to 1"):
        motion(mass=SYSTEM.points.mass, learn_mass=learn)


def pulled_together():
    """Two bodies whose potential depends on one mass, in an expression over both."""
    a, b, m = point("a", 2), point("b", 2), sp.Symbol("mass", positive=True)
    weight = Function.template([m * (a[1] + b[1])], [a, b], [(0, 1)], parameters={m: 1.0}, name="weight of two")
    return System.of_points(LINKS, 1.0, weight, name="two of one mass")


WEIGHT = SystemForce(SYSTEM)
REFUSED = {
    "other known masses": (
        {"mass": 2.0}, r"the motion has masses \[2.0, 2.0\] kg.*\[1.0, 3.0\] kg.*mass=system.points.mass"
    ),
    "a fixed weight of learned masses": (
        {"force": SystemForce(SYSTEM, {"mass": [1.0, 3.0]}), "learn_mass": True}, "leave 'mass' out"
    ),
    "learned blocks": ({"mass": torch.eye(2).expand(2, 2, 2), "learn_mass": True}, "one mass a node"),
    "weight of several": ({"force": SystemForce(pulled_together()), "learn_mass": True}, "not node by node"),
    "weight within a function": (
        {"force": lambda t, y: WEIGHT(t, y), "learn_mass": True}, "is inside of another force"
    ),
    "weight within a potential": (
        {"force": PotentialForce(lambda q: WEIGHT.energy(q)), "learn_mass": [0]}, "is inside of another force"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_weight_of_other_masses_than_inertia_is_refused(what):
    options, said = REFUSED[what]
    with pytest.raises(ValueError, match=said):
        motion(**options)


def test_a_sum_of_sums_passes_masses_on_and_a_given_weight_is_kept():
    x = states(4)
    nested = motion([SumForce([SystemForce(SYSTEM)]), push], mass=SYSTEM.points.mass, learn_mass=True)
    torch.testing.assert_close(nested(x).detach(), motion(mass=SYSTEM.points.mass)(x), rtol=1e-6, atol=1e-7)
    heavy = motion(SystemForce(SYSTEM, {"mass": [2.0, 6.0]}), mass=SYSTEM.points.mass)
    falls = motion(SystemForce(SYSTEM, {"gravity": 2 * 9.82}), mass=SYSTEM.points.mass)
    torch.testing.assert_close(heavy(x), falls(x), rtol=1e-12, atol=1e-12)


def test_a_parameter_that_is_a_function_is_refused_by_name():
    with pytest.raises(ValueError, match=r"parameter 'gravity' is a function.*learn it as a force of its own"):
        SystemForce(SYSTEM, {"gravity": torch.nn.Linear(4, 1)})
