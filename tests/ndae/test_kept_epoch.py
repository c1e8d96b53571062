"""Which epoch's weights are kept, and whether validation can tell: a damped pendulum seen with 5 mm of noise."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import nn

from ndae import NeuralMotion, fit
from ndae.forces import SystemForce
from ndae.models import Shooting
from ndae.symbolic import library
from ndae.training.checkpoints import load_checkpoint
from ndae.training.history import History, Row
from ndae.training.optimizers import lbfgs
from tests.ndae.standin import standin
from tests.ndae.trainings import TRAIN, train, train_drifting
from tests.systems import chain_states

SYSTEM = library.chain_pendulum(1)
DT, DAMPING, NOISE = 0.05, 0.3, 0.005


class Drag(nn.Module):
    """`F = −d v`, d learned from 0.1 kg/s."""

    def __init__(self):
        super().__init__()
        self.d = nn.Parameter(torch.tensor(0.1))

    def forward(self, t, y):
        return -self.d * y[..., 2:]


def angles(start, damping, n_times):
    """Angles (n, n_times) of `θ'' = −g sin θ − d θ'` from starts (n, 2), by Runge-Kutta steps of a tenth of DT."""

    def rate(x):
        return np.stack([x[:, 1], -9.82 * np.sin(x[:, 0]) - damping * x[:, 1]], -1)

    x, h, path = start, DT / 10, [start[:, 0]]
    for step in range(10 * (n_times - 1)):
        a = rate(x)
        b = rate(x + h / 2 * a)
        c = rate(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + rate(x + h * c))
        if step % 10 == 9:
            path.append(x[:, 0])
    return np.stack(path, 1)


def seen(n, n_times, seed):
    """Positions (n, n_times, 1, 2) with noise, of pendulums with the true damping."""
    rng = np.random.default_rng(seed)
    return positions(rng.uniform([-1.5, -2], [1.5, 2], (n, 2)), DAMPING, n_times) + NOISE * rng.normal(
        size=(n, n_times, 1, 2)
    )


def positions(start, damping, n_times):
    return chain_states(angles(start, damping, n_times)[..., None], 0.0)[0]


def by_least_squares(q):
    """Damping and its standard error, with the start of every trajectory, from all observations: no part of ndae."""

    def missed(x):
        return ((positions(x[1:].reshape(-1, 2), x[0], q.shape[1]) - q) / NOISE).ravel()

    angle = np.unwrap(np.arctan2(q[:, :3, 0, 0], -q[:, :3, 0, 1]), axis=1)
    guess = np.stack([angle[:, 0], (angle[:, 2] - angle[:, 0]) / (2 * DT)], -1)
    found = least_squares(missed, [0.1, *guess.ravel()])
    return found.x[0], np.sqrt(np.linalg.inv(found.jac.T @ found.jac)[0, 0])


def learned(n, n_times, window, out, raw=False, **options):
    """Damping learned by shooting; `raw`: validated from starts as they were observed."""
    q = seen(n, n_times, 0)
    drag = Drag()
    motion = NeuralMotion(
        SYSTEM.points.constraint.torch(), [SystemForce(SYSTEM), drag],
        duration=window * DT, n_times=window, n_steps=window, starts="project",
    ).double()  # fmt: skip
    shooting = Shooting(motion, q, DT, window=window)
    held_out = shooting.windows(seen(max(2, n // 2), n_times, 1))
    if raw:
        held_out[2].pop("observed")
    data = shooting.data
    result = fit(shooting, data, held_out, out=out, batch_size=len(data[0]), optimizer=lbfgs(), **options)
    return drag.d.item(), by_least_squares(q), result


def test_damping_comes_back_within_the_error_of_least_squares(tmp_path):
    damping, (best, error), result = learned(2, 13, 12, tmp_path, epochs=2)
    assert abs(damping - best) < error
    assert abs(best - DAMPING) < 4 * error
    assert result.best.val_mae < 1.5 * NOISE  # of two coordinates: 1.25 times the noise


@pytest.mark.slow
def test_damping_of_many_pendulums_comes_back_where_observed_starts_mislead(tmp_path):
    damping, (best, error), result = learned(8, 41, 20, tmp_path / "fitted", epochs=8)
    assert abs(damping - best) < error
    assert result.kept is result.best
    misled, _, result = learned(8, 41, 20, tmp_path / "raw", raw=True, epochs=8)
    last, _, again = learned(8, 41, 20, tmp_path / "last", raw=True, epochs=8, keep="last")
    assert abs(last - best) < error
    assert abs(misled - best) >= abs(last - best)
    assert (again.kept.epoch, again.best.epoch, again.best.val_mae) == (8, result.best.epoch, result.best.val_mae)


def test_fitted_starts_are_nearest_and_on_the_constraint():
    motion = NeuralMotion(
        SYSTEM.points.constraint.torch(), SystemForce(SYSTEM), duration=0.4, n_times=8, n_steps=8, starts="project"
    ).double()
    q = seen(4, 9, 0)
    shooting = Shooting(motion, q, DT, window=8)
    x, observed, told = shooting.windows(q)
    start = shooting.fitted(x, observed, told["t0"])

    def cost(x):
        return (shooting.predict(x, t0=told["t0"]).y - observed).square().flatten(1).sum(1)

    assert (cost(start) < cost(x)).all()
    torch.testing.assert_close(shooting.predict(x, **told).y, shooting.predict(start, t0=told["t0"]).y)
    at = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(cost(at).sum(), at)
    (before,) = torch.autograd.grad(cost(x.requires_grad_()).sum(), x)
    assert slope.abs().max() < 1e-2 * before.abs().max()
    alone = shooting.fitted(x[1:2].detach(), observed[1:2], told["t0"][1:2])
    torch.testing.assert_close(alone, start[1:2], rtol=1e-9, atol=1e-9)


# --- the choice ------------------------------------------------------------------------------------------------------


def test_the_last_epoch_is_kept_where_it_is_asked_for(tmp_path):
    model, result = train_drifting(tmp_path, keep="last")
    assert (result.kept.epoch, result.best.epoch) == (9, 1)
    last = load_checkpoint(result.last_checkpoint)["state_dict"]
    assert torch.equal(model.shift, last["model.shift"])
    again, resumed = train_drifting(tmp_path)  # the same training, another choice
    assert resumed.kept.epoch == 1 and torch.equal(
        again.shift, load_checkpoint(result.best_checkpoint)["state_dict"]["model.shift"]
    )
    with pytest.raises(ValueError, match="keep='first' is unknown"):
        train(tmp_path / "other", keep="first")


def row(epoch, train_loss, val_mae):
    numbers = dict.fromkeys(Row.__dataclass_fields__, 0.0) | {"train_unconverged": 0, "val_unconverged": 0}
    return Row(**numbers | {"epoch": epoch, "train_loss": train_loss, "val_mae": val_mae})


def history(losses, errors):
    made = History()
    for number, (loss, each) in enumerate(zip(losses, errors, strict=True)):
        made.add(row(number + 1, loss, float(each.mean())), each)
    return made


def test_a_best_epoch_that_noise_chose_is_doubted():
    rng = np.random.default_rng(0)
    base = 1 + 0.3 * torch.tensor(rng.random(50))
    noise = [0.05 * torch.tensor(rng.normal(size=50)) for _ in range(2)]
    flat = [base, base + 0.005 + noise[0], base + 0.005 + noise[1]]
    assert "epoch 1 of 3 has the smallest validation error, by chance" in history([1.0, 0.5, 0.1], flat).doubt
    assert history([1.0, 0.99, 0.98], flat).doubt is None  # nothing was learned after it
    assert history([1.0, 0.5, 0.1], [base, base, base + 0.1 + noise[0]]).doubt is None  # clearly worse: overfitted
    assert history([1.0, 0.5, 0.1], [base, base, base - 0.1]).doubt is None  # the last is the best
    assert history([1.0, 0.1], [base[:1], base[:1] + 1]).doubt is None  # one sample has no standard error
    kept = History.from_plain(history([1.0, 0.5, 0.1], flat).to_plain(), None)
    assert kept.doubt == history([1.0, 0.5, 0.1], flat).doubt


def test_a_doubt_is_said_where_the_best_is_kept(tmp_path, monkeypatch):
    options = {"epochs": 2, "batch_size": 23, "learning_rate": 1e-2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(standin(dropout=0.0, eta=0.0), TRAIN, TRAIN, out=tmp_path / "clear", **options)
    monkeypatch.setattr(History, "doubt", "epoch 1 is the best by chance")
    with pytest.warns(UserWarning, match="by chance"):
        fit(standin(dropout=0.0, eta=0.0), TRAIN, TRAIN, out=tmp_path / "best", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(standin(dropout=0.0, eta=0.0), TRAIN, TRAIN, out=tmp_path / "last", keep="last", **options)
