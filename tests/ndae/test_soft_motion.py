"""Motions without multipliers: soft constraints, potentials of pairs, velocity Verlet; against calculus and physics."""

import itertools
import math

import numpy as np
import pytest
import torch

import ndae
from ndae import NeuralMotion
from ndae.forces import EquivariantPotential, PairPotential, PotentialForce, SoftConstraint
from ndae.methods import Auxiliary, Multiplier, Penalty, SmoothProjection
from ndae.solvers.depth.velocity_verlet import velocity_verlet_step
from ndae.symbolic import library
from ndae.symmetry import assert_equivariant

WATER = ("O", "H", "H")
MASS = [15.999, 1.008, 1.008]
GROUPS = [m for m in range(3) for _ in WATER]


def molecules(n_samples=4, n=3, noise=0.05, seed=0):
    """Bent molecules (O, H, H) about 3 Å apart, with positions off by `noise` (Å): (n_samples, 3 n, 3), float64."""
    rng = np.random.default_rng(seed)
    half = math.radians(104.52 / 2)
    one = 0.9572 * np.array([[0, 0, 0], [math.sin(half), math.cos(half), 0], [-math.sin(half), math.cos(half), 0]])
    turns = np.linalg.qr(rng.normal(size=(n_samples, n, 3, 3)))[0]
    places = 3.0 * np.stack([np.arange(n), np.arange(n) % 2, np.zeros(n)], -1)
    q = one @ turns + places[:, None] + noise * rng.normal(size=(n_samples, n, 3, 3))
    return torch.as_tensor(q.reshape(n_samples, 3 * n, 3))


def shaken(module, scale=0.3):
    """A module as if trained: its weights moved at random; float64."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module.double()


def soft(n=3, anharmonic=8, **options):
    options = {"alike": [(0, 1)], **options}
    return SoftConstraint(library.rigid_molecules(n).torch(), 0.4, anharmonic=anharmonic, **options)


def pairs(n=3, **options):
    options = {"energy": 0.03, "shortest": 1.2, "cutoff": 5.0, "n_knots": 15, **options}
    return PairPotential(WATER * n, [m for m in range(n) for _ in WATER], **options)


def motion(constraint, force, **options):
    n = constraint.n_points // 3
    options = {"duration": 5.0, "n_steps": 20, "integrator": "velocity_verlet", "mass": MASS * n, **options}
    return NeuralMotion(constraint, force, multipliers=False, **options).double()


# -- potentials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [soft, pairs], ids=["soft", "pairs"])
def test_gradients_are_those_of_the_energy(make):
    potential, q = shaken(make()), molecules()
    at = q.clone().requires_grad_()
    (slope,) = torch.autograd.grad(potential(at).sum(), at)
    torch.testing.assert_close(potential.gradient(q), slope, rtol=1e-10, atol=1e-14)
    assert slope.abs().max() > 1e-4
    assert torch.autograd.gradcheck(potential.gradient, (q[:1].requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("make", [soft, pairs], ids=["soft", "pairs"])
def test_nothing_that_space_or_names_do_changes_an_energy(make):
    potential = shaken(make())
    assert_equivariant(potential, molecules(), output="scalars", molecule=WATER)
    assert_equivariant(potential.gradient, molecules(), output="vectors", molecule=WATER)


def test_a_stiffness_of_its_own_for_each_residual_knows_hydrogens_apart():
    apart = shaken(soft(alike=()))
    with pytest.raises(AssertionError, match="atoms"):
        assert_equivariant(apart, molecules(), output="scalars", molecule=WATER)


def test_a_new_soft_constraint_is_a_spring_on_every_residual():
    bonds, q = soft().double(), molecules()
    c = bonds.constraint.residual(q.flatten(-2))
    torch.testing.assert_close(bonds(q), 0.2 * c.square().sum(-1))
    torch.testing.assert_close(bonds.stiffness, 0.4 * torch.eye(3, dtype=torch.float64))
    assert bonds.rest_values.abs().max() == 0


def test_stiffness_stays_positive_definite_whatever_is_learned():
    for scale in (0.3, 3.0):
        K = shaken(soft(), scale).stiffness
        torch.testing.assert_close(K, K.mT)
        assert torch.linalg.eigvalsh(K)[0] > 0


def test_a_stretched_bond_swings_with_the_frequency_of_its_stiffness():
    """x = x₀ cos(√(k / μ) t) of two masses on a spring: what velocity Verlet makes of it."""
    rod = library.fixed_distances([(0, 1)], 1.0).torch()
    bond = SoftConstraint(rod, 0.4).double()
    reduced = 16.0 * 1.0 / 17.0
    steps = 400
    model = NeuralMotion(
        rod, PotentialForce(bond), duration=5.0, n_steps=steps, mass=[16.0, 1.0], multipliers=False,
        integrator="velocity_verlet",
    ).double()  # fmt: skip
    x = torch.zeros(1, 2, 6, dtype=torch.float64)
    x[0, 1, 0] = 1.1
    q = model(x)
    expected = 1.0 + 0.1 * math.cos(math.sqrt(0.4 / reduced) * 5.0)
    assert float((q[0, 1] - q[0, 0]).detach().norm()) == pytest.approx(expected, abs=1e-5)


def test_pairs_are_those_of_different_molecules_and_kinds():
    potential = pairs()
    assert potential.pairs == [("H", "H"), ("H", "O"), ("O", "O")]
    assert len(potential.which) == 3 * 9  # of three pairs of molecules
    q = molecules(1)
    alone = shaken(PairPotential(WATER * 2, [0, 0, 0, 1, 1, 1], energy=0.03, shortest=1.2, cutoff=5.0, n_knots=15))
    whole = shaken(pairs())
    parts = [alone(q[:, [*range(3 * i, 3 * i + 3), *range(3 * j, 3 * j + 3)]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(whole(q), sum(parts))


def test_beyond_the_cutoff_only_the_tail_is_left_and_it_begins_smoothly():
    potential = shaken(PairPotential("ab", [0, 1], energy=0.5, shortest=1.0, cutoff=4.0, n_knots=8))

    def at(r):
        q = torch.zeros(len(r), 2, 3, dtype=torch.float64)
        q[:, 1, 0] = r
        return q

    far = torch.tensor([4.0, 5.0, 40.0], dtype=torch.float64)
    torch.testing.assert_close(potential(at(far)), 0.5 * potential.tail / far)
    # Its slope has no jump, neither there nor below the shortest distance, where the spline goes on straight.
    r = torch.linspace(0.5, 4.5, 4001, dtype=torch.float64)
    slope, energy = (x.detach() for x in (potential.gradient(at(r))[:, 1, 0], potential(at(r))))
    torch.testing.assert_close(slope[1:-1], (energy[2:] - energy[:-2]) / 2e-3, rtol=1e-4, atol=2e-3)
    finer = potential.gradient(at(torch.linspace(0.5, 4.5, 8001, dtype=torch.float64)))[:, 1, 0].detach()
    assert finer.diff().abs().max() < 0.51 * slope.diff().abs().max()
    # At the cutoff the slope of the slope has none either.
    bend, wide = (
        x.diff().diff()[r_ > 3.5].abs().max() for x, r_ in ((finer, torch.linspace(0.5, 4.5, 7999)), (slope, r[1:-1]))
    )
    assert bend < 0.3 * wide


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: soft(size=0.0), "size=0.0"),
        (lambda: SoftConstraint(library.rigid_molecules(1).torch(), -1.0), "stiffness=-1.0"),
        (lambda: soft(alike=[(0, 3)]), "residuals among 0 to 2"),
        (lambda: soft(alike=[(0, 1), (1, 2)]), "disjoint"),
        (lambda: PairPotential("ab", [0], energy=1.0, shortest=1.0, cutoff=2.0), "2 kinds and 1 groups"),
        (lambda: PairPotential("ab", [0, 0], energy=1.0, shortest=1.0, cutoff=2.0), "no pair"),
        (lambda: pairs(cutoff=1.0), "shortest below cutoff"),
        (lambda: pairs()(torch.zeros(1, 6, 3)), "over 9 nodes, q has 6"),
    ],
)  # fmt: skip
def test_what_no_potential_can_have_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- velocity Verlet -----------------------------------------------------------------------------------------------


def test_velocity_verlet_is_of_second_order_and_reversible():
    def acceleration(t, y):
        return -torch.sin(y[..., :1])

    def go(y, n, dt, t=0.0):
        a = None
        for k in range(n):
            y, a = velocity_verlet_step(acceleration, t + k * dt, y, dt, a)
        return y

    start = torch.tensor([1.0, 0.5], dtype=torch.float64)
    exact = go(start, 4_000, 2.0 / 4_000)
    errors = [float((go(start, n, 2.0 / n) - exact).norm()) for n in (20, 40, 80, 160)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 1.98, orders
    there = go(start, 50, 0.1)
    back = go(there * torch.tensor([1.0, -1.0]), 50, 0.1)
    torch.testing.assert_close(back * torch.tensor([1.0, -1.0]), start, rtol=0, atol=1e-13)


def test_energy_of_a_long_motion_stays_where_rk4_lets_it_drift():
    constraint = library.rigid_molecules(3).torch()
    forces = [PotentialForce(soft(anharmonic=0)), PotentialForce(pairs())]
    x = torch.cat([molecules(2), 0.01 * torch.randn(2, 9, 3, generator=torch.manual_seed(0)).double()], -1)
    drifts = {}
    for integrator in ("velocity_verlet", "classical_rk4"):
        # Four evaluations of the force in each step of RK4, as many in four of Verlet.
        n_steps = 10 if integrator == "velocity_verlet" else 3
        model = motion(constraint, forces, integrator=integrator, n_steps=n_steps)
        with torch.no_grad():
            path = model.trajectory(x, np.arange(0.0, 500.0, 5.0))
            energy = model.energy(torch.cat([path.q, path.v], -1).flatten(0, 1)).unflatten(0, (2, -1))
        drifts[integrator] = float((energy[:, -40:].mean(1) - energy[:, :40].mean(1)).abs().max() / energy.mean())
    assert drifts["velocity_verlet"] < 0.01 < 0.2 < drifts["classical_rk4"]


# -- motions without multipliers -----------------------------------------------------------------------------------


def test_forces_alone_act_and_violations_are_reported():
    constraint = library.rigid_molecules(3).torch()
    model = motion(constraint, lambda t, y: torch.zeros_like(y[..., :3]))
    x = torch.cat([molecules(), torch.randn(4, 9, 3, dtype=torch.float64)], -1)
    prediction = model.predict(x)
    torch.testing.assert_close(prediction.y, x[..., :3] + 5.0 * x[..., 3:])
    torch.testing.assert_close(prediction.residual(), constraint.double().residual(prediction.y.flatten(-2)))
    assert model.multiplier(x).shape == (4, 0)
    assert model.trajectory(x, [0.0, 1.0]).multiplier.shape == (4, 2, 0)
    model.check(x)  # starts may be anywhere


def test_it_agrees_with_adaptive_steps_and_so_do_gradients():
    constraint = library.rigid_molecules(3).torch()
    forces = [PotentialForce(shaken(soft())), PotentialForce(shaken(pairs()))]
    x = torch.cat([molecules(1), torch.zeros(1, 9, 3, dtype=torch.float64)], -1)
    predictions, gradients = [], []
    for options in (
        {"n_steps": 200},
        {"integrator": "dopri5", "rtol": 1e-5},
        {"integrator": "dopri5", "rtol": 1e-5, "adjoint": True},
    ):
        model = motion(constraint, forces, duration=1.5, **options)
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        predictions.append(y.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for other in (1, 2):
        torch.testing.assert_close(predictions[other], predictions[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(gradients[other], gradients[0], rtol=2e-3, atol=1e-3)


def test_training_finds_stiffness_and_rest_lengths():
    """Data of known springs: K and b come back, from samples of one molecule each."""
    constraint = library.rigid_molecules(1).torch()
    true = soft(1, anharmonic=0).double()
    with torch.no_grad():
        true.factor.copy_(torch.tensor([[1.1, 0.0, 0.0], [0.1, 1.1, 0.0], [-0.2, -0.2, 0.6]]))
        true.rest.copy_(torch.tensor([0.1, 0.1, -0.1]))
    x = torch.cat([molecules(200, 1), 0.01 * torch.randn(200, 3, 3, generator=torch.manual_seed(0)).double()], -1)
    with torch.no_grad():
        y = motion(constraint, PotentialForce(true))(x)
    learned = soft(1, anharmonic=0)
    model = motion(constraint, PotentialForce(learned))
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=80, line_search_fn="strong_wolfe", tolerance_grad=0)

    def loss():
        optimiser.zero_grad()
        value = 1e4 * (model(x) - y).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    torch.testing.assert_close(learned.stiffness, true.stiffness, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(learned.rest_values, true.rest_values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [None, Auxiliary(3.0), Penalty(0.1), SmoothProjection()])
def test_methods_without_multipliers(method):
    constraint = library.rigid_molecules(2).torch()
    model = motion(constraint, PotentialForce(soft(2)), method=method, integrator="classical_rk4")
    x = torch.cat([molecules(2, 2), torch.zeros(2, 6, 3, dtype=torch.float64)], -1)
    prediction = model.predict(x)
    assert prediction.y.isfinite().all()
    assert (prediction.regularisation > 0) == isinstance(method, Auxiliary)
    assert (prediction.residual().abs().max() < 1e-4) == isinstance(method, SmoothProjection)


def test_a_learned_potential_of_molecules_can_act_beside():
    constraint = library.rigid_molecules(2).torch()
    energy = shaken(EquivariantPotential(WATER, 2, scale=0.01), 0.05)
    model = motion(constraint, [PotentialForce(soft(2)), PotentialForce(energy)], n_steps=4)
    x = torch.cat([molecules(2, 2), torch.zeros(2, 6, 3, dtype=torch.float64)], -1)
    assert_equivariant(model, x, molecule=WATER)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in energy.network.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": Multiplier()}, "both work by multipliers"),
        ({"baumgarte": 1.0}, "both work by multipliers"),
        ({"method": Penalty(1.0)}, "give 'classical_rk4'"),
        ({"adjoint": True}, "adjoint=False"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        motion(library.rigid_molecules(1).torch(), PotentialForce(soft(1)), **options)


def test_velocity_verlet_is_refused_with_multipliers():
    with pytest.raises(ValueError, match="multipliers=False"):
        NeuralMotion(library.chain(2).torch(), lambda t, y: y, duration=1.0, integrator="velocity_verlet")
    assert ndae.forces.SoftConstraint is SoftConstraint
