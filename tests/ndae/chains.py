"""A chain of three links for tests of forces: its states, its motions under a force, their energies."""

import numpy as np
import sympy as sp
import torch
from torch import nn

from ndae import NeuralMotion
from ndae.fields import ORIGIN
from ndae.forces.potentials import GraphPotential, MLPPotential
from ndae.symbolic import Function, System, library
from tests.systems import chain_states

LENGTHS, MASSES = [1.0, 0.8, 1.2], [1.0, 0.5, 2.0]
SYSTEM = library.chain_pendulum(3, LENGTHS, MASSES)
LINKS = [(ORIGIN, 0), (0, 1), (1, 2)]


def states(n=4, lengths=LENGTHS):
    """Chains on the manifold with velocities tangent to it, (n, nodes, 4)."""
    rng = np.random.default_rng(0)
    angle, rate = rng.uniform(-2, 2, (n, len(lengths))), rng.normal(size=(n, len(lengths)))
    return torch.as_tensor(np.concatenate(chain_states(angle, rate, lengths), -1))


def trained(module, scale=0.5):
    """A module as if trained: random weights, also where they start at zero; float64."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn_like(parameter))
    return module.double()


def windy():
    """The pendulum of three links with drag and a wind that comes and goes."""
    q, v = sp.symbols("q0:6", real=True), sp.symbols("v0:6", real=True)
    drag, t = sp.Symbol("drag", positive=True), sp.Symbol("t", real=True)
    forces = [-drag * v[i] + (sp.sin(2 * t) if i % 2 == 0 else 0) for i in range(6)]
    force = Function(forces, [*q, *v], {drag: 0.3}, time=t, unconstrained=q, name="drag and wind")
    return System.of_points(SYSTEM.points.constraint, MASSES, SYSTEM.points.potential, force, name="windy pendulum")


def potentials():
    return {
        "one layer": MLPPotential(3, 2, 16, depth=1),
        "two layers": MLPPotential(3, 2, 16),
        "three layers": MLPPotential(3, 2, 16, depth=3),
        "uniform field": MLPPotential(3, 2, 16, linear=True),
        "graph": GraphPotential(LINKS, 2, 16),
        "deep graph": GraphPotential(LINKS, 2, 16, depth=2),
    }


class Plain(nn.Module):
    """The same potential without its closed-form gradient."""

    def __init__(self, potential):
        super().__init__()
        self.potential = potential

    def forward(self, q):
        return self.potential(q)


def motion(force, **options):
    options = {"duration": 0.2, "mass": MASSES} | options
    return NeuralMotion(SYSTEM.points.constraint.torch(), force, **options).double()


def energies(model, potential, x, ts):
    found = model.trajectory(x, ts)
    kinetic = (0.5 * torch.tensor(MASSES, dtype=x.dtype)[:, None] * found.v.square()).sum((-2, -1))
    return kinetic + potential(found.q)


def waves(t):
    return torch.stack([torch.cos(3 * t), torch.ones_like(t)], -1)
