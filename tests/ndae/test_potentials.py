"""Forces of learned potentials: against calculus, physics and references."""

import pytest
import torch
from torch import nn

from ndae import NeuralMotion
from ndae.fields import ORIGIN
from ndae.forces.actuation import Damping, InputForce, sampled_inputs
from ndae.forces.of_system import SystemForce
from ndae.forces.potentials import GraphPotential, MLPPotential, PotentialForce
from ndae.methods import SmoothProjection, Unconstrained
from ndae.symbolic import library
from tests.ndae.chains import (
    LINKS,
    MASSES,
    Plain,
    energies,
    motion,
    potentials,
    states,
    trained,
    waves,
    windy,
)

# -- potentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", potentials())
def test_the_closed_form_is_the_gradient_and_so_are_its_derivatives(name):
    potential, q = trained(potentials()[name]), states()[..., :2].requires_grad_()
    (exact,) = torch.autograd.grad(potential(q).sum(), q, create_graph=True)
    found = potential.gradient(q)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    weights = [q, *potential.parameters()]
    second = [torch.autograd.grad(g.pow(3).sum(), weights, allow_unused=True) for g in (found, exact)]
    for one, other in zip(*second, strict=True):
        assert (one is None) == (other is None)  # the bias of nothing
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", potentials())
def test_an_untrained_potential_has_no_slope_and_learns(name):
    potential = potentials()[name].double()
    force = PotentialForce(potential)
    y = states()
    assert force(0.0, y).abs().max() == 0
    force(0.0, y).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in potential.parameters())


def test_a_uniform_field_is_held_exactly_and_everywhere():
    potential = MLPPotential(3, 2, 16, linear=True).double()
    weight = torch.tensor([[0.0, 9.82 * mass] for mass in MASSES], dtype=torch.float64)
    with torch.no_grad():
        potential.linear.copy_(weight.flatten())
    q = 100 * states()[..., :2]
    torch.testing.assert_close(potential(q), (weight * q).sum((-2, -1)), rtol=1e-13, atol=0.0)
    assert potential.gradient(q).eq(weight).all()
    # What the network adds stays: both are one potential.
    plain = MLPPotential(3, 2, 16).double()
    trained(plain)
    potential.network.load_state_dict(plain.network.state_dict())
    torch.testing.assert_close(potential.gradient(q), plain.gradient(q) + weight, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("gradients", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_closed_form_and_automatic_differentiation_are_the_same_force(gradients):
    potential = trained(MLPPotential(3, 2, 16))
    with gradients():
        y = states()
        ways = [PotentialForce(p)(0.0, y) for p in (potential, Plain(potential), lambda q: potential(q))]
        assert not torch.is_grad_enabled() or all(force.requires_grad for force in ways)
        for force in ways[1:]:
            torch.testing.assert_close(force, ways[0], rtol=1e-12, atol=1e-12)


def test_no_sample_feels_another():
    for potential in (trained(MLPPotential(3, 2, 16)), Plain(trained(GraphPotential(LINKS, 2, 16)))):
        model, x = motion(PotentialForce(potential)), states().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x)[1].sum(), x)
        assert gradient[1].abs().max() > 0
        assert gradient[[0, 2, 3]].abs().max() == 0
        torch.testing.assert_close(model(x)[1], model(x[1:2])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hide", [False, True])
def test_gradients_through_a_trajectory(hide):
    potential = trained(MLPPotential(3, 2, 2))
    model = motion(
        PotentialForce(Plain(potential) if hide else potential), n_steps=1, method=SmoothProjection(tol=1e-13)
    )
    names = [name for name, _ in model.named_parameters()]

    class Trajectory(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            found = self.model.trajectory(x, [0.0, 0.1, 0.2])
            return found.q[:, -1], found.multiplier[:, -1]

    def run(x, *values):
        given = {f"model.{name}": value for name, value in zip(names, values, strict=True)}
        return torch.func.functional_call(Trajectory(), given, (x,))

    values = [p.detach().clone().requires_grad_() for _, p in model.named_parameters()]
    assert torch.autograd.gradcheck(run, (states(1).requires_grad_(), *values))


def test_the_adjoint_equation_has_the_same_gradients_of_all_forces_together():
    table = sampled_inputs([-1.0, 2.0], [0.0, 1.0])  # longer than the motion: see there
    forces = [
        *(trained(force) for force in (Damping(3, 2, 4), InputForce(waves, 3, 2, 4), InputForce(table, 3, 2))),
        PotentialForce(Plain(trained(MLPPotential(3, 2, 8)))),
        PotentialForce(trained(GraphPotential(LINKS, 2, 8))),
        SystemForce(windy(), {"drag": nn.Parameter(torch.tensor(0.3))}),
    ]
    found = []
    for adjoint in (False, True):
        model = motion(
            forces, n_steps=2, method=Unconstrained(), integrator="dopri5", adjoint=adjoint, rtol=1e-9, atol=1e-11
        )
        model.zero_grad()
        model(states()).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for direct, by_adjoint in zip(*found, strict=True):
        assert direct.abs().max() > 0
        torch.testing.assert_close(direct, by_adjoint, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [Unconstrained(), SmoothProjection(tol=1e-13)], ids=["plain", "projected"])
@pytest.mark.parametrize("name", ["two layers", "graph"])
def test_energy_is_conserved_to_the_order_of_the_integrator(name, method):
    potential, changes = trained(potentials()[name]), []
    with torch.no_grad():
        for n_steps in (40, 80):
            model = motion(PotentialForce(potential), n_steps=n_steps, duration=0.5, method=method)
            energy = energies(model, potential, states(16), [0.0, 0.5])
            changes.append((energy[:, 1] - energy[:, 0]).norm().item())
        exchanged = (potential(model.trajectory(states(16), [0.0, 0.5]).q)).diff(dim=1).abs().max()
    assert exchanged > 0.1  # joules that went from one form to the other
    # Fourth order; with projections, fifth is what is seen.
    assert 11 < changes[0] / changes[1] < (23 if isinstance(method, Unconstrained) else 45)
    assert changes[1] < 1e-4


def test_a_graph_potential_of_pairs_does_not_know_where_they_are():
    inner = trained(GraphPotential([(0, 1), (1, 2)], 2, 16))
    with torch.no_grad():
        inner.node.last.zero_()
    q, shift = states()[..., :2], torch.tensor([3.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(inner(q + shift), inner(q), rtol=1e-12, atol=1e-12)
    assert inner.gradient(q).sum(-2).abs().max() < 1e-12  # action is reaction
    hung = inner.on(LINKS)
    assert (hung(q + shift) - hung(q)).abs().max() > 1e-3  # the origin stays where it is


def test_a_graph_potential_of_three_links_runs_on_twenty():
    potential = trained(GraphPotential(LINKS, 2, 16))
    longer = potential.on([(ORIGIN, 0), *((i, i + 1) for i in range(19))])
    assert all(a is b for a, b in zip(potential.parameters(), longer.parameters(), strict=True))
    q = torch.randn(2, 20, 2, dtype=torch.float64)
    torch.testing.assert_close(longer.gradient(q)[:, :2], potential.gradient(q[:, :3])[:, :2], rtol=1e-12, atol=1e-12)
    far = q.clone()
    far[:, 5:] += 1.0
    assert (longer.gradient(far) - longer.gradient(q))[:, :4].abs().max() == 0  # only neighbours count
    with pytest.raises(ValueError, match=r"on\(edges\)"):
        longer(q[:, :3])


def test_a_potential_of_a_pendulum_is_learned_from_its_motion():
    """Learned on positions 0.2 s ahead; on motions it never saw, far better than no force, and V is m g y."""
    system = library.chain_pendulum(2)
    x = states(160, [1.0, 1.0])
    with torch.no_grad():
        true = NeuralMotion(system.points.constraint.torch(), SystemForce(system), duration=0.2, n_steps=20).double()
        y = true(x).float()
    x = x.float()
    torch.manual_seed(0)
    potential = MLPPotential(2, 2, 32)
    model = NeuralMotion(system.points.constraint.torch(), PotentialForce(potential), duration=0.2, n_steps=1)
    before = (model(x[120:]) - y[120:]).norm(dim=-1).mean().item()
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (model(x[:120]) - y[:120]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = (model(x[120:]) - y[120:]).norm(dim=-1).mean().item()
        learned, true = potential(x[120:, :, :2]), 9.82 * x[120:, :, 1].sum(-1)
    assert after < 0.1 * before
    error = (learned - learned.mean()) - (true - true.mean())
    assert error.norm() < 0.1 * (true - true.mean()).norm()
