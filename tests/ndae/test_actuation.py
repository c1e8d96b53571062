"""Damping, given inputs and known systems as forces, and what is none: against physics and references."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ndae import NeuralMotion
from ndae.forces import MLPForce
from ndae.forces.actuation import Damping, InputForce, sampled_inputs
from ndae.forces.of_system import SystemForce
from ndae.forces.potentials import GraphPotential, MLPPotential, PotentialForce
from ndae.methods import SmoothProjection
from ndae.solvers import integrate
from ndae.solvers.mechanics.motion_torch import TorchMotion
from ndae.symbolic import library
from tests.ndae.chains import (
    LINKS,
    MASSES,
    SYSTEM,
    energies,
    motion,
    states,
    trained,
    waves,
    windy,
)

# -- damping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [None, 8])
def test_damping_takes_energy_and_never_gives(hidden):
    potential, damping = trained(MLPPotential(3, 2, 16)), trained(Damping(3, 2, hidden))
    model = motion([PotentialForce(potential), damping], n_steps=20)
    with torch.no_grad():
        energy = energies(model, potential, states(), np.linspace(0.0, 2.0, 41))
        y = states(100)
        work = (damping(0.0, y) * y[..., 2:]).sum((-2, -1))
    assert energy.diff(dim=1).max() < 1e-8
    assert ((energy[:, -1] - energy[:, 0]) < -0.01).all()
    assert work.max() <= 0
    d = damping.matrix(y[..., :2])
    torch.testing.assert_close(d, d.mT, rtol=1e-12, atol=1e-12)
    assert torch.linalg.eigvalsh(d.detach()).min() > -1e-12
    torch.testing.assert_close(
        damping(0.0, y).flatten(1), -(d @ y[..., 2:].flatten(1)[..., None])[..., 0], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("hidden", [None, 8])
def test_damping_starts_small(hidden):
    damping = Damping(3, 2, hidden).double()
    d = damping.matrix(states()[..., :2]).detach()
    torch.testing.assert_close(d, 0.01 * torch.eye(6, dtype=d.dtype).expand_as(d), rtol=0, atol=1e-8)


def test_damping_of_positions_is_asked_with_positions():
    with pytest.raises(ValueError, match=r"matrix\(q\)"):
        Damping(3, 2, 8).matrix()


# -- given inputs -----------------------------------------------------------------------------------------------------


def driven(force, **options):
    """A particle on the plane z = 0, the coordinates being three nodes of one dimension; 2 kg."""
    plane = library.linear_invariant([0.0, 0.0, 1.0])
    return NeuralMotion(plane.torch(), force, mass=2.0, **{"duration": 0.5, "n_steps": 40} | options).double()


def exact(t0, t, q, v):
    """The particle at t0 + t under the force (4 cos 3t, 1, anything), by hand."""
    x = q[..., 0] + v[..., 0] * t + 2 * ((np.cos(3 * t0) - np.cos(3 * (t0 + t))) / 9 - np.sin(3 * t0) * t / 3)
    y = q[..., 1] + v[..., 1] * t + 0.5 * t**2 / 2
    return np.stack([x, y, q[..., 2]], -1)


@pytest.mark.parametrize("hidden", [None, 4])
def test_inputs_act_at_their_time(hidden):
    force = InputForce(waves, 3, 1, hidden)
    assert force.n_inputs == 2
    assert force(0.3, torch.randn(5, 3, 2)).abs().max() == 0
    b = torch.tensor([[4.0, 0.0], [0.0, 1.0], [7.0, 5.0]])
    with torch.no_grad():
        (force.matrix if hidden is None else force.network[-1].bias).copy_(b if hidden is None else b.flatten())
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    x[:, 2] = 0.0
    q, v = x[..., 0].numpy(), x[..., 1].numpy()
    with torch.no_grad():
        found = driven(force).trajectory(x, [1.7, 2.0, 2.2])
        for k, t in enumerate((0.0, 0.3, 0.5)):
            np.testing.assert_allclose(found.q[:, k, :, 0], exact(1.7, t, q, v), rtol=0, atol=1e-7)
        t0 = torch.linspace(-1, 2, 5, dtype=torch.float64)
        span = torch.linspace(0.1, 0.6, 5, dtype=torch.float64)
        each = driven(force).predict(x, t0=t0, duration=span).y
    np.testing.assert_allclose(each[..., 0], exact(t0.numpy(), span.numpy(), q, v), rtol=0, atol=1e-7)


def test_a_table_is_interpolated_and_ends():
    ts, values = np.array([2.0, 2.5, 4.0]), np.array([[0.0, 1.0], [1.0, 1.0], [4.0, -2.0]])
    u = sampled_inputs(ts, values)
    asked = torch.tensor([2.0, 2.1, 2.5, 3.3, 4.0], dtype=torch.float64)
    expected = np.stack([np.interp(asked, ts, column) for column in values.T], -1)
    np.testing.assert_allclose(u(asked), expected, rtol=1e-14)
    np.testing.assert_allclose(u(3.3), expected[3], rtol=1e-14)
    assert InputForce(u, 3, 1).n_inputs == 2  # though time zero is not in the table
    for outside in (1.9, 4.001, float("nan"), torch.tensor([3.0, 4.1])):
        with pytest.raises(ValueError, match="known from 2 s to 4 s, asked for at"):
            u(outside)
    u(4.0 + 1e-15), u(torch.tensor(4.0) + 1e-7)  # rounding is no way out of the table
    assert sampled_inputs(ts, [1.0, 2.0, 3.0])(2.5).tolist() == [2.0]


def test_a_table_drives_a_motion_within_its_times():
    ts = np.linspace(0.0, 1.0, 1001)
    force = InputForce(sampled_inputs(ts, np.stack([np.cos(3 * ts), np.ones_like(ts)], -1)), 3, 1)
    with torch.no_grad():
        force.matrix.copy_(torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        x = torch.tensor([[[0.1, 0.2], [0.3, 0.4], [0.0, 0.0]]], dtype=torch.float64)
        found = driven(force).trajectory(x, [0.5, 1.0]).q[:, 1, :, 0]
        np.testing.assert_allclose(found, exact(0.5, 0.5, x[..., 0].numpy(), x[..., 1].numpy()), rtol=0, atol=2e-6)
        with pytest.raises(ValueError, match="known from 0 s to 1 s"):
            driven(force).trajectory(x, [0.5, 1.1])


@pytest.mark.parametrize(
    ("ts", "values", "said"),
    [
        ([0.0, 1.0], [1.0, 2.0, 3.0], "expected"),
        ([0.0], [1.0], "two times or more"),
        ([0.0, 0.0], [1.0, 2.0], "increase"),
        ([0.0, 1.0], [1.0, np.nan], "finite"),
    ],
)
def test_tables_that_are_none_are_refused(ts, values, said):
    with pytest.raises(ValueError, match=said):
        sampled_inputs(ts, values)


# -- what is known ----------------------------------------------------------------------------------------------------


def test_a_known_system_with_nothing_to_learn_is_the_true_motion():
    x, ts = states(), torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)
    true = TorchMotion(windy())
    with torch.no_grad():
        y = integrate(true, torch.cat([x[..., :2].flatten(1), x[..., 2:].flatten(1)], -1), ts, integrator="dopri5")
        q, v = y.chunk(2, -1)
        lam = torch.stack([true.multiplier(q[:, k], v[:, k], t) for k, t in enumerate(ts)], 1)
        force = [SystemForce(windy()), MLPForce(3, 2, 8)]
        found = motion(force, n_steps=80, method=SmoothProjection(tol=1e-12)).trajectory(x, ts)
    for part, known in ((found.q.flatten(2), q), (found.v.flatten(2), v), (found.multiplier, lam)):
        torch.testing.assert_close(part, known, rtol=0, atol=1e-6 * known.abs().max().item())


def test_a_known_force_has_its_numbers_and_its_energy():
    system, y = windy(), states()
    force = SystemForce(system, {"drag": 0.5, "gravity": 1.6})
    t = torch.linspace(0, 1, 4, dtype=torch.float64)  # a time a sample
    mass = torch.tensor(MASSES, dtype=torch.float64)
    expected = -0.5 * y[..., 2:]
    expected[..., 0] += torch.sin(2 * t)[:, None]
    expected[..., 1] -= 1.6 * mass
    torch.testing.assert_close(force(t, y), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(force.energy(y[..., :2]), (1.6 * mass * y[..., 1]).sum(-1), rtol=1e-12, atol=1e-12)


def test_a_number_of_a_known_force_is_learned():
    x = states(16)
    with torch.no_grad():
        y = motion(SystemForce(SYSTEM))(x)
    gravity = nn.Parameter(torch.tensor(5.0))
    model = copy.deepcopy(motion(SystemForce(SYSTEM, {"gravity": gravity})))
    (learned,) = model.parameters()
    optimizer = torch.optim.LBFGS([learned], tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        value = (model(x) - y).square().mean()
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(loss)
    assert abs(learned.item() - 9.82) < 1e-4


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "sizes of a potential": (lambda: MLPPotential(3, 2, 0), "each is at least 1"),
    "sizes of a graph": (lambda: GraphPotential(LINKS, 0), "each is at least 1"),
    "a graph without edges": (lambda: GraphPotential([], 2), "at least one edge"),
    "an edge to itself": (lambda: GraphPotential([(1, 1)], 2), "joins two different nodes"),
    "positions": (lambda: MLPPotential(3, 2)(torch.zeros(4, 2, 2)), "the potential is over"),
    "energies of nodes": (lambda: PotentialForce(lambda q: q.sum(-1))(0.0, torch.zeros(4, 3, 4)), "a number a sample"),
    "energies of nothing": (
        lambda: PotentialForce(lambda q: torch.zeros(len(q)))(0.0, torch.zeros(4, 3, 4)), "does not depend on q"
    ),
    "sizes of a damping": (lambda: Damping(3, 2, 0), "each is at least 1"),
    "states of a damping": (lambda: Damping(3, 2)(0.0, torch.zeros(4, 2, 4)), "have states"),
    "sizes of inputs": (lambda: InputForce(waves, 3, 2, n_inputs=0), "each is at least 1"),
    "inputs that fail at zero": (lambda: InputForce(lambda t: 1 / 0, 3, 2), "give n_inputs="),
    "inputs without an axis": (lambda: InputForce(torch.sin, 3, 2), r"expected \(n_inputs,\)"),
    "another number of inputs": (
        lambda: InputForce(waves, 3, 2, n_inputs=3)(0.0, torch.zeros(4, 3, 4)), r"torch.stack\(\[...\], -1\)"
    ),
    "inputs that forget samples": (
        lambda: InputForce(lambda t: [1.0, 2.0], 3, 2)(torch.zeros(4), torch.zeros(4, 3, 4)), r"expected \(4, 2\)"
    ),
    "inputs without time": (lambda: InputForce(waves, 3, 2)(None, torch.zeros(4, 3, 4)), "pass t"),
    "a parameter of the constraint": (lambda: SystemForce(SYSTEM, {"length": 2.0}), "no parameter 'length'"),
    "a learned mass": (lambda: SystemForce(SYSTEM, {"mass": nn.Parameter(torch.ones(3))}), "cannot be learned"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_force_is_refused(what):
    make, said = REFUSED[what]
    with pytest.raises(ValueError, match=said):
        make()
