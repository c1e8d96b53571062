"""Motion under learned forces, against the reference solver, by hand, and as a network that is trained."""

import numpy as np
import pytest
import torch
from torch import nn

from ndae import NeuralMotion, fit
from ndae.methods import Auxiliary, EndProjection, Multiplier, Penalty, SmoothProjection, Unconstrained
from ndae.solvers import SolveError, solve
from ndae.solvers.manifold import multipliers
from ndae.solvers.mechanics.motion_torch import TorchMotion
from ndae.training import lbfgs
from tests.ndae.chains import MASSES, SYSTEM, states


class Weight(nn.Module):
    """m g, with a g to be learned."""

    def __init__(self, g=9.82):
        super().__init__()
        self.g = nn.Parameter(torch.tensor(g, dtype=torch.float64))

    def forward(self, t, y):
        down = torch.zeros_like(y[..., :2])
        down[..., 1] = -torch.tensor(MASSES, dtype=y.dtype)
        return self.g.to(y) * down


def motion(**options):
    options = {"duration": 0.2, "mass": MASSES} | options
    return NeuralMotion(SYSTEM.points.constraint.torch(), Weight(), **options).double()


def reference(x, ts):
    q, v = (part.numpy().reshape(len(x), -1) for part in (x[..., :2], x[..., 2:]))
    return solve(SYSTEM, {"q": q, "v": v}, ts, rtol=1e-12, atol=1e-12)


METHODS = {
    "nothing": Unconstrained(),
    "projection": SmoothProjection(tol=1e-12),
    "end": EndProjection(tol=1e-12),
    "ggl": Multiplier(),
    "penalty": Penalty(2.0) + Auxiliary(1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_with_the_true_force_it_is_the_true_motion_to_fourth_order(name):
    x = states()
    exact = torch.as_tensor(reference(x, np.array([0.0, 0.2])).q[:, -1].reshape(4, 3, 2))
    errors = []
    for n_steps in (8, 16):
        with torch.no_grad():
            errors.append((motion(method=METHODS[name], n_steps=n_steps)(x) - exact).norm().item())
    assert 11 < errors[0] / errors[1] < 23
    assert errors[1] < 1e-4


def test_a_trajectory_has_velocities_and_multipliers_of_the_reference():
    x, ts = states(), np.array([0.0, 0.07, 0.3])
    found, exact = motion(n_steps=80).trajectory(x, ts), reference(x, ts)
    for part, known in ((found.q, exact.q), (found.v, exact.v), (found.multiplier, exact.multiplier)):
        np.testing.assert_allclose(part.detach().flatten(2), known, rtol=0, atol=2e-6 * np.abs(known).max())
    torch.testing.assert_close(motion(n_steps=80, duration=0.3)(x), found.q[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_multipliers_that_do_not_solve_their_equations_are_refused(monkeypatch, alpha):
    x, ts, solve = states(), [0.0, 0.01], multipliers.solve_gram
    model = motion(method=Unconstrained(), baumgarte=alpha)
    right = model.trajectory(x, ts)
    assert right.multiplier_error.max() < 1e-12
    spoil = torch.tensor([1.0, 1.0, 1.3, 1.0], dtype=torch.float64)[:, None]
    monkeypatch.setattr(multipliers, "solve_gram", lambda *of: spoil * solve(*of))
    with pytest.raises(SolveError, match=r"the motion \(sample, time\) solve .* at state \(2, 0\) \(2 of 8\)"):
        model.trajectory(x, ts)
    with pytest.raises(SolveError, match=r"only to .* at state \(2,\)"):
        model.multiplier(x)
    found = model.trajectory(x, ts, throw=False)
    others = [0, 1, 3]
    assert (found.multiplier_error[2] > 1e-3).all() and found.multiplier_error[others].max() < 1e-12
    torch.testing.assert_close(found.multiplier[others], right.multiplier[others], rtol=0, atol=0)


def test_multipliers_are_those_of_the_equations_of_motion():
    x = states()
    exact = TorchMotion(SYSTEM).multiplier(x[..., :2].flatten(1), x[..., 2:].flatten(1))
    torch.testing.assert_close(motion().multiplier(x), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_adjoint_and_direct_gradients_agree(name):
    x, gradients = states(), []
    for adjoint in (False, True):
        model = motion(method=METHODS[name], n_steps=2, integrator="dopri5", adjoint=adjoint, rtol=1e-9, atol=1e-11)
        start = x.clone().requires_grad_()
        (model(start).square().sum()).backward()
        gradients.append((start.grad, model.force.g.grad))
    for direct, by_adjoint in zip(*gradients, strict=True):
        torch.testing.assert_close(direct, by_adjoint, rtol=1e-6, atol=1e-6)


def test_projection_holds_links_and_their_rates_and_is_recorded():
    model = motion(method=SmoothProjection(tol=1e-12), n_steps=4)
    found = model.trajectory(states(), [0.0, 0.2, 0.4])
    q, v = (part.detach().flatten(2) for part in (found.q, found.v))
    assert model.constraint.residual(q).abs().max() < 1e-12
    assert model.constraint.velocity(q, v).abs().max() < 1e-12
    assert len(found.projections) == 8
    with torch.no_grad():
        free = motion(method=Unconstrained(), n_steps=4).trajectory(states(), [0.0, 0.2, 0.4])
    assert model.constraint.residual(free.q.flatten(2)).abs().max() > 1e-7


def test_baumgarte_pulls_back_at_its_rate():
    """c̈ + 2 α ċ + α² c = 0: from c and ċ = 0 the solution is c (1 + α t) exp(-α t)."""
    x = states()
    x[..., :2] *= 1.01
    model = motion(method=Unconstrained(), baumgarte=5.0, n_steps=50)
    c = model.constraint.residual(x[..., :2].flatten(1))
    rate = model.constraint.velocity(x[..., :2].flatten(1), x[..., 2:].flatten(1))
    expected = (c * (1 + 5.0 * 0.2) + rate * 0.2) * np.exp(-5.0 * 0.2)
    torch.testing.assert_close(model.constraint.residual(model(x).flatten(1)), expected, rtol=1e-4, atol=1e-8)


def test_samples_do_not_touch_each_other():
    x = states().requires_grad_()
    (gradient,) = torch.autograd.grad(motion()(x)[1].sum(), x)
    assert gradient[[0, 2, 3]].abs().max() == 0
    torch.testing.assert_close(motion()(x)[1], motion()(x[1:2])[0], rtol=1e-12, atol=1e-12)


def test_gravity_and_masses_are_learned_from_positions(tmp_path):
    x = states(24)
    y = torch.as_tensor(reference(x, np.array([0.0, 0.2])).q[:, -1].reshape(24, 3, 2))
    model = NeuralMotion(
        SYSTEM.points.constraint.torch(), Weight(5.0), duration=0.2, n_steps=8, mass=1.0, learn_mass=True
    ).double()
    before = (model(x) - y).norm(dim=-1).mean().item()
    train, validation = (x[:16], y[:16]), (x[16:], y[16:])
    result = fit(model, train, validation, epochs=1, optimizer=lbfgs(), batch_size=16, out=tmp_path)
    assert result.best.val_mae < 1e-4 * before
    assert (model.mass > 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"duration": 0.0}, "duration is a time"),
        ({"n_steps": 0}, "n_steps is a whole number"),
        ({"baumgarte": -1.0}, "baumgarte is a rate"),
        ({"mass": [1.0, -1.0, 1.0]}, "the mass of node 1 is -1 kg"),
        ({"mass": [1.0, 2.0]}, r"mass has shape \(2,\)"),
    ],
)
def test_what_no_motion_can_have_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        motion(**options)


def test_states_and_times_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"the state is \(batch, 3, 4\)"):
        motion()(torch.zeros(2, 3, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="increasing"):
        motion().trajectory(states(), [0.0, 0.1, 0.1])
    wrong = NeuralMotion(SYSTEM.points.constraint.torch(), lambda t, y: y, duration=0.1).double()
    with pytest.raises(ValueError, match="the force has shape"):
        wrong(states())
