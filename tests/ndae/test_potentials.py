"""Forces of learned potentials, dampings, given inputs and known systems: against calculus, physics and references."""

import copy

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

from ndae import ORIGIN, MLPForce, NeuralMotion, SmoothProjection, Unconstrained
from ndae.actuation import Damping, InputForce, SystemForce, sampled_inputs
from ndae.potentials import GraphPotential, MLPPotential, PotentialForce
from solvers import integrate
from solvers.torch_motion import TorchMotion
from symbolic import Function, MechanicalSystem, library

LENGTHS, MASSES = [1.0, 0.8, 1.2], [1.0, 0.5, 2.0]
SYSTEM = library.chain_pendulum(3, LENGTHS, MASSES)
LINKS = [(ORIGIN, 0), (0, 1), (1, 2)]


def states(n=4, lengths=LENGTHS):
    """Chains on the manifold with velocities tangent to it, (n, nodes, 4)."""
    rng = np.random.default_rng(0)
    angle, rate = rng.uniform(-2, 2, (n, len(lengths))), rng.normal(size=(n, len(lengths)))
    along = np.stack([np.sin(angle), -np.cos(angle)], -1) * np.array(lengths)[:, None]
    across = np.stack([np.cos(angle), np.sin(angle)], -1) * (np.array(lengths) * rate)[..., None]
    return torch.as_tensor(np.concatenate([along.cumsum(1), across.cumsum(1)], -1))


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
    return MechanicalSystem(SYSTEM.constraint, MASSES, SYSTEM.potential, force, name="windy pendulum")


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
    return NeuralMotion(SYSTEM.constraint.torch(), force, **options).double()


def energies(model, potential, x, ts):
    found = model.trajectory(x, ts)
    kinetic = (0.5 * torch.tensor(MASSES, dtype=x.dtype)[:, None] * found.v.square()).sum((-2, -1))
    return kinetic + potential(found.q)


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
        true = NeuralMotion(system.constraint.torch(), SystemForce(system), duration=0.2, n_steps=20).double()
        y = true(x).float()
    x = x.float()
    torch.manual_seed(0)
    potential = MLPPotential(2, 2, 32)
    model = NeuralMotion(system.constraint.torch(), PotentialForce(potential), duration=0.2, n_steps=1)
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


def waves(t):
    return torch.stack([torch.cos(3 * t), torch.ones_like(t)], -1)


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
        y = integrate(true, torch.cat([x[..., :2].flatten(1), x[..., 2:].flatten(1)], -1), ts, method="dopri5")
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
