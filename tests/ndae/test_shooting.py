"""Multiple shooting: what noise does to gravity learned without it and with it, and how trajectories are cut."""

import numpy as np
import pytest
import torch
from torch import nn

from ndae import NeuralMotion, fit
from ndae.methods import Unconstrained
from ndae.models.shooting import Shooting
from ndae.solvers import solve
from ndae.symbolic import library
from tests.ndae.test_motion_options import BLADE, INERTIA, sleigh, sleigh_states
from tests.systems import chain_states

GRAVITY, DT, WINDOW, NOISE, SEEDS = 9.82, 0.05, 4, 0.01, range(5)
SYSTEM = library.chain_pendulum(2, [1.0, 0.8], [1.0, 1.0], gravity=GRAVITY)
LINKS = SYSTEM.points.constraint.torch()


class Gravity(nn.Module):
    """Weights of two bodies of 1 kg, with a g to be learned."""

    def __init__(self, g):
        super().__init__()
        self.g = nn.Parameter(torch.tensor(g, dtype=torch.float64))

    def forward(self, t, y):
        return self.g * torch.tensor([0.0, -1.0]).to(y).expand(*y.shape[:-1], 2)


def motion(window=WINDOW, g=8.0, **options):
    options = {"duration": window * DT, "n_times": window, "n_steps": window, "starts": "project"} | options
    return NeuralMotion(LINKS, Gravity(g), **options).double()


@pytest.fixture(scope="module")
def true():
    """Positions and velocities (2 trajectories, 21 times, 2 bodies, 2) of the reference solver."""
    angle = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 2))
    q = chain_states(angle, 0.0, [1.0, 0.8])[0].reshape(2, 4)
    found = solve(SYSTEM, {"q": q, "v": 0.0}, DT * np.arange(21), rtol=1e-10, atol=1e-10)
    return [torch.as_tensor(np.array(x)).reshape(2, 21, 2, 2) for x in (found.q, found.v)]


def noisy(q, seed):
    return q + NOISE * torch.randn(q.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_given_starts(model, x, targets):
    """The g with the least squares from starts that are not learned: two steps of Gauss and Newton."""
    g = 9.0
    for step in (1.0, 0.1):
        with torch.no_grad():
            model.force.g.fill_(g)
            y = model.predict(x).y
            model.force.g.fill_(g + step)
            slope = (model.predict(x).y - y) / step
        g += float((slope * (targets - y)).sum() / slope.square().sum())
    return g


def by_shooting(shooting):
    """The g, and the starts, that minimise what `fit` does, by LBFGS over all windows at once."""
    x, targets, told = shooting.data
    descent = torch.optim.LBFGS(
        shooting.parameters(), max_iter=40, history_size=40, line_search_fn="strong_wolfe", tolerance_grad=1e-6,
        tolerance_change=0,
    )  # fmt: skip

    def closure():
        descent.zero_grad()
        prediction = shooting.predict(x, **told)
        loss = (prediction.y - targets).square().flatten(1).sum(1).mean() / 2 + prediction.regularisation
        loss.backward()
        return loss

    descent.step(closure)
    return shooting.motion.force.g.item()


def test_shooting_finds_gravity_and_starts_where_noisy_starts_mislead(true):
    """Of 9.82 m/s², the median error is 0.64 by one step, 0.09 by four, 0.07 by shooting; the worst of five 1.03, 0.44,
    0.09. For one number that is the same everywhere, several horizons do nearly as well, if less reliably."""
    exact = torch.cat(true, -1)[:, :-1:WINDOW]
    found, left = {"one step": [], "several horizons": [], "shooting": []}, []
    for seed in SEEDS:
        observed = noisy(true[0], seed)
        for name, window in (("one step", 1), ("several horizons", WINDOW)):
            model = motion(window, method=Unconstrained())
            x, targets, _ = Shooting(model, observed, DT, window=window).windows(observed)
            found[name].append(by_given_starts(model, x, targets[:, 1] if window == 1 else targets[:, 1:]))
        # Starts lie on the constraints, and 0.2 s later positions have drifted off by far less than the noise.
        shooting = Shooting(motion(method=Unconstrained()), observed, DT, window=WINDOW)
        found["shooting"].append(by_shooting(shooting))
        starts = torch.stack([shooting.observed.view(exact.shape), shooting.starts().detach()])
        error = (starts - exact).square().unflatten(-1, (2, 2)).mean((1, 2, 3, 5)).sqrt()
        left.append(error[1] / error[0])
    off = {name: np.abs(np.array(g) - GRAVITY) for name, g in found.items()}
    assert np.median(off["shooting"]) < 0.2 * np.median(off["one step"]), found
    assert np.median(off["several horizons"]) < np.median(off["one step"]), found
    assert off["shooting"].max() < off["several horizons"].max(), found
    positions, velocities = torch.stack(left).median(0).values
    assert positions < 0.6 and velocities < 0.3, left


def test_fit_trains_starts_and_motion_which_is_of_use_afterwards(true, tmp_path):
    observed, held_out = noisy(true[0][:1], 0), noisy(true[0][1:], 1)
    shooting = Shooting(motion(), observed, DT, window=WINDOW)
    fit(shooting, shooting.data, shooting.windows(held_out), epochs=12, batch_size=5, learning_rate=0.3,
        schedule="cosine", out=tmp_path)  # fmt: skip
    exact = torch.cat(true, -1)[:1, :-1:WINDOW]
    assert (shooting.starts() - exact).norm() < 0.5 * (shooting.observed[None] - exact).norm()
    assert abs(shooting.motion.force.g.item() - GRAVITY) < 0.5
    end = shooting.motion.predict(torch.cat(true, -1)[:, 0]).y[:, -1]
    assert (end - true[0][:, WINDOW]).norm(dim=-1).max() < NOISE


def test_trajectories_are_cut_into_windows_that_share_an_observation(true):
    shooting = Shooting(motion(), *[true[0], DT], window=WINDOW, v=true[1], t0=[0.0, 7.0])
    x, targets, told = shooting.data
    assert x.shape == (10, 2, 4) and targets.shape == (10, 5, 2, 2) and told["window"].tolist() == list(range(10))
    torch.testing.assert_close(x[7], torch.cat(true, -1)[1, 8], rtol=0, atol=0)
    torch.testing.assert_close(targets[7], true[0][1, 8:13], rtol=0, atol=0)
    torch.testing.assert_close(shooting.windows(*true, [0.0, 7.0])[2]["t0"][5:], 7 + 0.2 * torch.arange(5).double())


def test_true_starts_under_the_true_force_miss_nothing(true):
    shooting = Shooting(motion(g=GRAVITY, n_steps=16), true[0], DT, window=WINDOW, v=true[1])
    x, targets, told = shooting.data
    prediction = shooting.predict(x, **told)
    torch.testing.assert_close(prediction.y, targets, rtol=0, atol=1e-5)
    assert prediction.regularisation < 1e-8
    assert prediction.residual().shape == (10, 10) and prediction.residual().abs().max() < 1e-6
    held_out, targets, told = shooting.windows(*true)
    torch.testing.assert_close(shooting.predict(held_out, **told).y, targets, rtol=0, atol=1e-5)


def test_what_is_missed_of_continuity_is_as_by_hand(true):
    shooting = Shooting(motion(), noisy(true[0], 0), DT, window=WINDOW, continuity=3.0)
    with torch.no_grad():
        shooting.moved.normal_(generator=torch.Generator().manual_seed(0))
        starts = shooting.starts()
        ends = shooting.motion.states(starts.flatten(0, 1))[:, -1].view_as(starts)
        missed = (ends[:, :-1] - starts[:, 1:]).square().unflatten(-1, (2, 2)).sum((2, 4))
        each = nn.functional.pad(missed @ torch.tensor([1.0, (WINDOW * DT) ** 2]).double(), (0, 1)).flatten()
        for chosen in (torch.arange(10), torch.tensor([3, 9, 2]), torch.tensor([4, 9])):
            found = shooting.predict(shooting.observed[chosen], window=chosen)
            torch.testing.assert_close(found.regularisation, 3.0 / 2 * each[chosen].mean(), rtol=1e-7, atol=1e-12)
            torch.testing.assert_close(found.y[:, 0], starts.flatten(0, 1)[chosen, :, :2], rtol=0, atol=1e-9)
    assert each[[0, 5]].min() > 1e-6  # windows 4 and 9 end their trajectories


def test_each_window_has_its_own_start_and_touches_the_next_alone(true):
    shooting = Shooting(motion(), noisy(true[0], 0), DT, window=WINDOW)
    chosen = torch.tensor([2, 4])
    prediction = shooting.predict(shooting.observed[chosen], window=chosen)
    (gradient,) = torch.autograd.grad(prediction.y.square().sum() + prediction.regularisation, shooting.moved)
    assert gradient.flatten(1).abs().amax(1).nonzero().flatten().tolist() == [2, 3, 4]


def test_velocities_begin_as_slopes_of_parabolas_and_noise_is_estimated():
    ts = DT * torch.arange(401, dtype=torch.float64)
    a, b = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = (a * ts[:, None, None] + b * ts[:, None, None] ** 2)[None]
    x, _, _ = Shooting(motion(), q, DT, window=WINDOW).data
    torch.testing.assert_close(x[..., 2:], a + 2 * b * ts[:-1:WINDOW, None, None], rtol=1e-8, atol=1e-8)
    unit = Shooting(motion(), noisy(q, 0), DT, window=WINDOW).unit
    assert unit[0] == pytest.approx(NOISE, rel=0.1)
    slopes = Shooting(motion(), noisy(q, 0), DT, window=WINDOW).data[0][1:-1, :, 2:] - x[1:-1, :, 2:]
    assert unit[2] == pytest.approx(slopes.std().item(), rel=0.1)


def test_forces_see_the_times_of_their_windows(true):
    seen = []

    def force(t, y):
        seen.append(torch.as_tensor(t).clone())
        return torch.zeros_like(y[..., :2])

    model = NeuralMotion(LINKS, force, duration=0.2, n_steps=4, n_times=4, starts="project").double()
    shooting = Shooting(model, true[0], DT, window=WINDOW, t0=[1.0, 2.0])
    shooting.predict(shooting.observed[:2], window=torch.tensor([1, 7]))
    torch.testing.assert_close(seen[0], torch.tensor([1.2, 2.4], dtype=torch.float64))
    torch.testing.assert_close(seen[-1], torch.tensor([1.4, 2.6], dtype=torch.float64))


def test_starts_obey_a_constraint_on_velocities():
    with torch.no_grad():
        found = sleigh(n_steps=20).trajectory(sleigh_states(2), np.linspace(0, 0.4, 9)).q
    rolling = sleigh(duration=0.1, n_steps=2, n_times=2, mass=INERTIA, starts="project")
    shooting = Shooting(rolling, noisy(found, 0), DT, window=2)
    starts = shooting.starts().flatten(0, 1)[:, 0]
    assert BLADE.torch().double().residual(starts).abs().max() < 1e-12
    assert BLADE.torch().double().residual(shooting.observed[:, 0]).abs().max() > 1e-3
    x, targets, told = shooting.data
    assert shooting.predict(x, **told).y.shape == targets.shape == (8, 3, 1, 3)


def broken(q, trajectory, time):
    q = q.clone()
    q[trajectory, time, 1, 0] = float("nan")
    return q


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"q": lambda q: q[0]}, r"q has shape \(21, 2, 2\), expected \(n_trajectories, n_times, 2, 2\); .*q\[None\]"),
        ({"q": lambda q: q[..., :1]}, r"q has shape \(2, 21, 2, 1\)"),
        (
            {"q": lambda q: broken(q, 1, 13)},
            r"at 1 of 42 observations, first in trajectory 1 at time number 13 \(0.65 s",
        ),
        ({"v": lambda q: broken(q, 0, 2)}, "v holds numbers that are not finite.*trajectory 0 at time number 2"),
        ({"v": lambda q: q[:, :17]}, r"v has shape \(2, 17, 2, 2\) and q \(2, 21, 2, 2\): expected the same"),
        ({"q": lambda q: q[:, :4]}, "q has 4 times, expected at least 5"),
        ({"q": lambda q: q[:, :20]}, r"19 intervals, no multiple of window=4: give q\[:, :17\]"),
        ({"t0": [0.0, 1.0, 2.0]}, "t0 has shape .*one each of 2 trajectories"),
        ({"motion": lambda: motion(starts="given")}, "starts='given'.*starts=\"project\""),
        (
            {"motion": lambda: motion(2)},
            r"a window has 4 over 0.2 s: give NeuralMotion\(..., duration=0.2, n_times=4\)",
        ),
        ({"window": 0}, "window is a number of intervals"),
        ({"dt": -0.05}, "dt is the time between"),
        ({"continuity": -1.0}, "continuity is a weight"),
        ({"noise": 0.0}, "noise is a length"),
    ],
)
def test_what_does_not_fit_is_refused(true, changed, said):
    changed = {name: x(true[0]) if name in "qv" and callable(x) else x for name, x in changed.items()}
    changed = {"q": true[0], "dt": DT, "window": WINDOW, "motion": motion} | changed
    model, q, dt = changed.pop("motion")(), changed.pop("q"), changed.pop("dt")
    with pytest.raises(ValueError, match=said):
        Shooting(model, q, dt, **changed)


def test_windows_that_are_none_are_refused(true):
    shooting = Shooting(motion(), true[0], DT, window=WINDOW)
    with pytest.raises(ValueError, match="whole numbers from 0 to 9"):
        shooting.check(shooting.observed, window=torch.arange(10) + 1)
