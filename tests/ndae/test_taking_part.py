"""What takes part in a loss is trained, or refused by name; what does not is said."""

import copy
import functools
import warnings

import pytest
import torch
from torch import nn

from ndae import NeuralMotion, fit
from ndae.forces import MLPForce, PotentialForce, SystemForce
from ndae.forces.actuation import InputForce
from ndae.methods import Penalty
from ndae.symbolic import library
from ndae.training.evaluation import Data
from ndae.training.taking_part import check_taking_part
from ndae.users_code.captured import captured
from tests.ndae.standin import NODES, Standin
from tests.ndae.trainings import TRAIN, VALIDATION, train

ROD = library.chain_pendulum(1)


def rods(n=6):
    """States of a rod of one metre, and where its end is to be."""
    angle = torch.linspace(-1, 1, n, dtype=torch.float64)
    q, v = torch.stack([angle.sin(), -angle.cos()], -1), torch.stack([angle.cos(), angle.sin()], -1)
    return torch.cat([q, v], -1)[:, None], torch.stack([(angle + 0.1).sin(), -(angle + 0.1).cos()], -1)[:, None]


def of_rods(force, **options):
    return NeuralMotion(ROD.points.constraint.torch(), force, duration=0.1, n_steps=2, **options).double()


def over(net):
    """A function whose own first argument is the module: no method of it."""
    return of_rods(lambda t, y: net(y))


class Pull:
    """A force that is no module and holds one."""

    def __init__(self, net):
        self.inside = {"nets": [net]}

    def __call__(self, t, y):
        return self.inside["nets"][0](y)


NET = nn.Linear(4, 2, dtype=torch.float64)


def by_global(t, y):
    return NET(y)


def ways(net):
    """Functions over a module, as people write them."""

    def by_default(t, y, part=net):
        return part(y)

    def through_another(t, y):
        return by_default(t, y)

    def by_attribute(t, y):
        return by_attribute.net(y)

    by_attribute.net = net
    return {
        "closure": lambda t, y: net(y),
        "default": by_default,
        "another function": through_another,
        "partial": functools.partial(lambda part, t, y: part(y), net),
        "object": Pull(net),
        "bound method": Pull(net).__call__,
        "attribute": by_attribute,
        "inner function": lambda t, y: (lambda: net(y))(),
    }


@pytest.mark.parametrize("way", ways(None))
def test_a_module_that_a_force_uses_is_trained_with_the_motion(way):
    net = nn.Linear(4, 2, dtype=torch.float64)
    motion = of_rods(ways(net)[way])
    assert {id(p) for p in net.parameters()} == {id(p) for p in motion.parameters()}
    assert {id(p) for p in over(net).parameters()} == {id(p) for p in net.parameters()}


@pytest.mark.parametrize("part", ["alone", "in a sum", "potential", "inputs", "global", "parameter"])
def test_what_a_function_uses_is_moved_by_fit(part, tmp_path):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    pull, rate = nn.Linear(4, 2), nn.Parameter(torch.ones(()))
    force, moved = {
        "alone": (lambda t, y: pull(y), pull.weight),
        "in a sum": ([MLPForce(1, 2, 4), lambda t, y: pull(y)], pull.weight),
        "potential": (PotentialForce(lambda q: net(q.flatten(-2))[..., 0]), net[0].weight),
        "inputs": ([MLPForce(1, 2, 4), InputForce(lambda t: rate.reshape(1) * t, 1, 2)], rate),
        "global": (by_global, NET.weight),
        "parameter": (lambda t, y: -rate * y[..., 2:], rate),
    }[part]
    motion = of_rods(force)
    before = moved.detach().clone()
    fit(motion, rods(), rods(), epochs=2, batch_size=3, out=tmp_path)
    assert (moved - before).abs().max() > 0


def test_a_method_of_the_module_that_holds_the_motion_makes_no_circle(tmp_path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)
            self.motion = of_rods(self.pull)

        def pull(self, t, y):
            return self.net(y)

        def forward(self, x):
            return self.motion(x)

    outer = Outer().double()
    before = outer.net.weight.detach().clone()
    fit(outer, rods(), rods(), epochs=1, out=tmp_path / "outer")
    assert (outer.net.weight - before).abs().max() > 0
    with pytest.raises(ValueError, match=r"motion.force|NeuralMotion.force.*no parameter of the model"):
        fit(outer.motion, rods(), rods(), epochs=1, out=tmp_path / "inner")


REFUSED = {
    "a tensor in a closure": lambda: of_rods((lambda k: lambda t, y: -k * y[..., 2:])(_wanting())),
    "a number of a system": lambda: of_rods([MLPForce(1, 2, 4), SystemForce(ROD, {"gravity": _wanting()})]),
    "a tensor of a method": lambda: of_rods(MLPForce(1, 2, 4), method=_with_gamma()),
    "a copy of a function's module": lambda: copy.deepcopy(of_rods(ways(nn.Linear(4, 2).double())["closure"])),
    "by the adjoint equation": lambda: of_rods(
        [MLPForce(1, 2, 4), (lambda k: lambda t, y: -k * y[..., 2:])(_wanting())], adjoint=True
    ),
}


def _wanting():
    return torch.ones((), dtype=torch.float64, requires_grad=True)


def _with_gamma():
    method = Penalty(1.0)
    method.gamma = _wanting()
    return method


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_not_be_trained_is_refused_by_name(what, tmp_path):
    model = REFUSED[what]()
    with pytest.raises(ValueError, match=r"(force|method).*wants a gradient .*no parameter of the model"):
        fit(model, rods(), rods(), epochs=1, out=tmp_path)


def test_a_known_module_is_frozen_and_stays(tmp_path):
    known = nn.Linear(4, 2).requires_grad_(False)
    motion, before = of_rods([MLPForce(1, 2, 4), lambda t, y: known(y)]), known.weight.clone()
    fit(motion, rods(), rods(), epochs=1, out=tmp_path)
    assert torch.equal(known.weight.float(), before)


def test_parameters_that_take_no_part_are_said_once(tmp_path):
    model = Standin().double()
    model.spare = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match=r"2 of 6 parameters take no part.*'spare.weight', 'spare.bias'"):
        train(tmp_path / "spare", model, epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(tmp_path / "all", Standin().double(), epochs=1)


def test_a_loss_that_depends_on_nothing_is_refused(tmp_path):
    class Cut(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="depends on no parameter"):
        fit(Cut(4, 2).double(), TRAIN, VALIDATION, epochs=1, out=tmp_path)


def test_the_comparison_changes_nothing():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.net = nn.BatchNorm1d(NODES), nn.Linear(4, 2)

        def forward(self, x):
            return self.net(self.norm(x))

    model = Counting().double().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    check_taking_part(model, Data(*TRAIN, {}))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert captured(torch.sin, nn.Linear(2, 2), lambda t: torch.ones(1)) is None
