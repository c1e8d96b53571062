"""What a motion may know: velocity constraints, times, mass matrices, lengths; and the starts that it refuses."""

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

from ndae import Constraint, NeuralMotion, fit, solve
from ndae.forces.masses import Masses
from ndae.methods import SmoothProjection, Unconstrained
from ndae.symbolic import System, library
from ndae.training import lbfgs
from tests.ndae.chains import LENGTHS, MASSES, SYSTEM, states
from tests.ndae.test_motion import Weight, motion, reference

x, y, th, vx, vy, om = sp.symbols("x y th vx vy om")
OFFSET, SLOPE = 0.3, 1.7
BLADE = Constraint(
    [vy * sp.cos(th) - vx * sp.sin(th) - OFFSET * om], states=[x, y, th, vx, vy, om], unconstrained=[x, y], name="blade"
)
INERTIA = torch.diag(torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64))[None]


def downhill(t, state):
    """A sleigh of 2 kg on a slope along x, with drag of its rotation."""
    force = torch.zeros_like(state[..., :3])
    force[..., 0] = 2.0 * SLOPE
    force[..., 2] = -0.2 * state[..., 5]
    return force


def sleigh(**options):
    options = {"duration": 0.5, "n_steps": 20, "mass": INERTIA} | options
    return NeuralMotion(None, downhill, velocity_constraints=BLADE.torch(), **options).double()


def sleigh_states(n=5):
    rng = np.random.default_rng(1)
    angle, speed, rate = rng.uniform(-3, 3, n), rng.normal(size=n), rng.normal(size=n)
    side = OFFSET * rate
    velocity = speed * np.cos(angle) - side * np.sin(angle), speed * np.sin(angle) + side * np.cos(angle)
    return torch.as_tensor(np.stack([rng.normal(size=n), rng.normal(size=n), angle, *velocity, rate], -1))[:, None]


def sleigh_reference(start, ts):
    g, drag = sp.Float(SLOPE), sp.Float(0.2)
    system = System.mechanical(
        [x, y, th], [vx, vy, om], mass=[2.0, 2.0, 0.5], force=[2 * g, 0, -drag * om],
        velocity_constraints=[vy * sp.cos(th) - vx * sp.sin(th) - OFFSET * om], name="sleigh",
    )  # fmt: skip
    found = solve(system, dict(zip(["x", "y", "th", "vx", "vy", "om"], start.tolist(), strict=True)), ts)
    return torch.as_tensor(np.stack([found[name] for name in ("x", "y", "th", "vx", "vy", "om", "mu0")], -1))


@pytest.mark.parametrize("method", [SmoothProjection(), Unconstrained()])
def test_a_sleigh_follows_the_reference_to_fourth_order(method):
    starts, ts = sleigh_states(2), np.array([0.0, 0.2, 0.5])
    exact = torch.stack([sleigh_reference(start[0], ts) for start in starts])
    errors = []
    for n_steps in (20, 40):
        found = sleigh(method=method, n_steps=n_steps).trajectory(starts, ts)
        ours = torch.cat([found.q[:, :, 0], found.v[:, :, 0], found.multiplier], -1)
        errors.append((ours - exact).abs().max().item())
    assert 11 < errors[0] / errors[1] < 23
    assert errors[1] < 1e-6


def test_a_projected_sleigh_never_slips_sideways():
    found = sleigh(n_steps=4).trajectory(sleigh_states(), np.linspace(0, 2, 5))
    slip = BLADE.torch().double().residual(torch.cat([found.q, found.v], -1)[:, :, 0])
    assert slip.abs().max() < 1e-14
    drifting = sleigh(n_steps=4, method=Unconstrained()).trajectory(sleigh_states(), np.linspace(0, 2, 5))
    assert BLADE.torch().double().residual(torch.cat([drifting.q, drifting.v], -1)[:, :, 0]).abs().max() > 1e-7


def test_baumgarte_pulls_a_slip_back_at_its_rate():
    start = sleigh_states()
    start[..., 3] += 0.01
    begin = BLADE.torch().double().residual(start[:, 0])
    model = sleigh(method=Unconstrained(), baumgarte=4.0, n_steps=100, starts="given")
    end = model.trajectory(start, [0.0, 0.5])
    slip = BLADE.torch().double().residual(torch.cat([end.q, end.v], -1)[:, -1, 0])
    torch.testing.assert_close(slip, begin * np.exp(-4.0 * 0.5), rtol=1e-5, atol=1e-10)


def test_holonomic_and_velocity_constraints_act_together():
    """A velocity constraint that is the derivative of a holonomic one gives the same motion as that one."""
    a, b = sp.symbols("a1:3"), sp.symbols("b1:3")
    va, vb = sp.symbols("u1:3"), sp.symbols("w1:3")
    rod, string = sp.sqrt(a[0] ** 2 + a[1] ** 2) - 1, (b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2 - 1
    both = Constraint([rod, string], states=[*a, *b], name="both").torch()
    rate = sum(sp.diff(string, s) * v for s, v in zip([*a, *b], [*va, *vb], strict=True))
    one = Constraint([rod], states=[*a, *b], unconstrained=b).torch()
    along = Constraint([rate], states=[*a, *b, *va, *vb]).torch()

    def gravity(t, state):
        return torch.tensor([0.0, -9.82, 0.0, -19.64], dtype=state.dtype)[:, None].expand(len(state), 4, 1)

    options = {"duration": 0.4, "n_steps": 200, "mass": [1.0, 1.0, 2.0, 2.0], "method": Unconstrained()}
    q, v = torch.tensor([0.6, -0.8, 1.2, -1.6]), torch.tensor([0.8, 0.6, 1.6, 1.2])
    start = torch.stack([q, v], -1)[None].double()
    whole = NeuralMotion(both, gravity, **options).double().trajectory(start, [0.0, 0.4])
    mixed = NeuralMotion(one, gravity, velocity_constraints=along, **options).double().trajectory(start, [0.0, 0.4])
    torch.testing.assert_close(mixed.q, whole.q, rtol=0, atol=1e-8)
    torch.testing.assert_close(mixed.v, whole.v, rtol=0, atol=1e-7)
    assert mixed.multiplier.shape == whole.multiplier.shape == (1, 2, 2)


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrator", ["classical_rk4", "dopri5"])
def test_samples_of_several_horizons_are_predicted_side_by_side(integrator):
    start = states(3)
    durations = torch.tensor([0.05, 0.2, 0.11], dtype=torch.float64)
    model = motion(n_steps=4, integrator=integrator)
    together = model.predict(start, duration=durations).y
    for k, duration in enumerate(durations.tolist()):
        alone = motion(n_steps=4, duration=duration, integrator=integrator)(start[k : k + 1])
        torch.testing.assert_close(together[k : k + 1], alone, rtol=0, atol=1e-12 if integrator != "dopri5" else 1e-7)


def test_a_batch_of_several_horizons_is_trained_on(tmp_path):
    start, ts = states(12), np.array([0.0, 0.05, 0.1, 0.2])
    known = torch.as_tensor(reference(start, ts).q.reshape(12, 4, 3, 2))
    which = torch.arange(12) % 3 + 1
    targets, durations = known[torch.arange(12), which], torch.as_tensor(ts)[which]
    model = motion()
    with torch.no_grad():
        model.force.g.fill_(5.0)
    train = (start[:8], targets[:8], {"duration": durations[:8]})
    fit(
        model,
        train,
        (start[8:], targets[8:], {"duration": durations[8:]}),
        epochs=40,
        learning_rate=0.3,
        schedule="cosine",
        out=tmp_path,
    )
    assert abs(model.force.g.item() - 9.82) < 0.01


def test_several_times_are_those_of_the_trajectory():
    start = states(3)
    prediction = motion(n_steps=8, n_times=4, duration=0.4).predict(start)
    assert prediction.y.shape == (3, 4, 3, 2)
    known = motion(n_steps=8, duration=0.4).trajectory(start, [0.0, 0.1, 0.2, 0.3, 0.4]).q[:, 1:]
    torch.testing.assert_close(prediction.y, known, rtol=0, atol=1e-12)
    assert prediction.residual().shape == (3, 12)
    assert prediction.residual().abs().max() < 1e-6


def test_times_of_samples_reach_the_force_and_a_moving_constraint():
    """A bead on a rod whose length grows as 1 + t/4, from different times on."""
    p, q, t = sp.symbols("p q t")
    rod = Constraint([sp.sqrt(p**2 + q**2) - 1 - t / 4], states=[p, q], time=t, name="rod").torch()
    seen = []

    def force(t, state):
        seen.append(t.clone())
        return torch.zeros_like(state[..., :1])

    model = NeuralMotion(rod, force, duration=0.5, n_steps=5, method=SmoothProjection(tol=1e-12)).double()
    t0 = torch.tensor([0.0, 2.0], dtype=torch.float64)
    start = torch.tensor([[[1.0, 0.25], [0.0, 0.3]], [[0.0, 0.4], [-1.5, -0.25]]], dtype=torch.float64)
    model.check(start, t0=t0)
    end = model.predict(start, t0=t0)
    torch.testing.assert_close(end.y[..., 0].norm(dim=-1), 1 + (t0 + 0.5) / 4, rtol=0, atol=1e-11)
    assert end.residual().abs().max() < 1e-11
    torch.testing.assert_close(seen[0], t0)
    torch.testing.assert_close(seen[-1], t0 + 0.5)
    with pytest.raises(ValueError, match="rod: 1 of 2 samples have a start that is off the constraint, first sample 1"):
        model.check(start, t0=torch.zeros(2))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"duration": torch.ones(2)}, r"duration has shape \(2,\), expected \(3,\)"),
        ({"duration": torch.tensor([0.1, 0.0, 0.1])}, "duration of sample 1 is not positive"),
        ({"t0": torch.ones(3, 1)}, r"t0 has shape \(3, 1\), expected \(3,\)"),
    ],
)
def test_times_that_do_not_fit_are_refused(told, said):
    with pytest.raises(ValueError, match=said):
        motion().predict(states(3), **told)


# --- masses ----------------------------------------------------------------------------------------------------------


def test_a_block_for_each_node_is_a_mass_matrix():
    as_blocks = torch.tensor(MASSES, dtype=torch.float64)[:, None, None] * torch.eye(2, dtype=torch.float64)
    start = states()
    torch.testing.assert_close(motion(mass=as_blocks)(start), motion()(start), rtol=0, atol=1e-12)
    tilted = as_blocks + 0.3 * torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert (motion(mass=tilted)(start) - motion()(start)).abs().max() > 1e-3


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_mass_matrix_is_learned_and_stays_positive(adjoint):
    mass = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64).expand(3, 2, 2)
    model = motion(mass=mass, learn_mass=True, adjoint=adjoint, n_steps=2)
    torch.testing.assert_close(model.mass, mass)
    model(states()).square().sum().backward()
    lower = torch.ones(2, 2).tril().bool()
    assert model.masses.raw.grad[:, lower].abs().min() > 0
    with torch.no_grad():
        model.masses.raw.copy_(3 * torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.linalg.eigvalsh(model.mass).min() > 0


@pytest.mark.parametrize(
    ("mass", "said"),
    [
        ([[[1.0, 0.0], [0.0, 0.0]]], r"mass matrix of node 0 is not positive definite: along \[0.0, 1.0\] it is 0"),
        ([[[1.0, 2.0], [0.0, 1.0]]], "mass matrix of node 0 is not symmetric"),
        ([0.0], "the mass of node 0 is 0 kg.*write it as a constraint"),
        (float("nan"), "masses are finite"),
    ],
)
def test_masses_without_equations_of_motion_are_refused(mass, said):
    with pytest.raises(ValueError, match=said):
        Masses(mass, 1, 2)


# --- starts ----------------------------------------------------------------------------------------------------------


def test_a_start_off_the_manifold_is_refused_by_name(tmp_path):
    start = states()
    moved = start.clone()
    moved[2, 1, 0] += 0.01
    with pytest.raises(ValueError, match=r"chain of 3 links: 1 of 4 samples .*off the constraint, first sample 2"):
        motion().trajectory(moved, [0.0, 0.1])
    faster = start.clone()
    faster[3, 0, 2:] += 1.0
    with pytest.raises(ValueError, match=r"training data: .*velocities that are not tangent, first sample 3"):
        fit(motion(), (faster, start[..., :2]), (start, start[..., :2]), epochs=1, out=tmp_path)
    motion(starts="given").trajectory(moved, [0.0, 0.1])


def test_a_measured_start_is_projected():
    exact = states()
    noise = 0.01 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = motion(starts="project", method=SmoothProjection(tol=1e-12)).trajectory(exact + noise, [0.0, 0.1])
    model = motion()
    q, v = (part[:, 0].flatten(1) for part in (found.q, found.v))
    assert model.constraint.residual(q).abs().max() < 1e-12
    assert model.constraint.velocity(q, v).abs().max() < 1e-12
    assert (found.q[:, 0] - exact[..., :2]).norm() < noise[..., :2].norm()


def test_constraints_that_are_redundant_at_a_start_are_refused_by_number():
    """A parallelogram of four bars, folded flat: there its two branches of motion meet."""
    a1, a2, b1, b2 = sp.symbols("a1 a2 b1 b2")
    bars = [
        sp.sqrt(a1**2 + a2**2) - 1,
        sp.sqrt((b1 - a1) ** 2 + (b2 - a2) ** 2) - 1,
        sp.sqrt((b1 - 1) ** 2 + b2**2) - 1,
    ]
    loop = Constraint(bars, states=[a1, a2, b1, b2], name="four bars").torch()
    model = NeuralMotion(loop, lambda t, state: state[..., :1], duration=0.1).double()
    upright, flat = torch.tensor([0.6, 0.8, 1.6, 0.8]), torch.tensor([1.0, 0.0, 2.0, 0.0])
    start = torch.stack([torch.stack([q, torch.zeros(4)], -1) for q in (upright, flat)]).double()
    model.check(start[:1])
    with pytest.raises(ValueError, match="four bars: at sample 1 the constraints number 0, 1, 2 are redundant"):
        model.check(start)


def test_constraints_and_methods_that_do_not_fit_are_refused():
    from ndae.methods import Penalty

    with pytest.raises(ValueError, match="without any constraint"):
        NeuralMotion(None, downhill, duration=0.1)
    with pytest.raises(ValueError, match="acts on positions, which nothing constrains here"):
        sleigh(method=Penalty(1.0))
    with pytest.raises(ValueError, match="over 6 states, expected 12"):
        motion(velocity_constraints=BLADE.torch())
    with pytest.raises(ValueError, match="no multiple of n_times"):
        motion(n_steps=4, n_times=3)


# --- what else is learned --------------------------------------------------------------------------------------------


class _Start(nn.Module):
    def forward(self, t, state):
        return torch.zeros_like(state[..., :2])


def test_lengths_are_learned_from_data_that_does_not_name_them(tmp_path):
    start = states(24)
    targets = torch.as_tensor(reference(start, np.array([0.0, 0.1])).q[:, -1].reshape(24, 3, 2))
    links = library.chain(3, length=[1.0, 1.0, 1.0]).torch(learn=["length"])
    model = NeuralMotion(links, Weight(), duration=0.1, n_steps=4, mass=MASSES, starts="project").double()
    train, validation = (start[:16], targets[:16]), (start[16:], targets[16:])
    fit(model, train, validation, epochs=1, optimizer=lbfgs(), batch_size=16, out=tmp_path)
    np.testing.assert_allclose(model.constraint.learned["length"].detach(), LENGTHS, rtol=0, atol=1e-6)


def test_known_and_learned_forces_add_up():
    weight = Weight()
    both = NeuralMotion(
        SYSTEM.points.constraint.torch(), [weight, _Start(), lambda t, y: y[..., :2]], duration=0.1, mass=MASSES
    )
    state = states()
    torch.testing.assert_close(both.double().force(0.0, state), weight(0.0, state) + state[..., :2])
    assert dict(both.named_parameters()).keys() == {"force.modules_of_parts.0.g"}
    with pytest.raises(ValueError, match="a sum of no forces"):
        NeuralMotion(SYSTEM.points.constraint.torch(), [], duration=0.1)
