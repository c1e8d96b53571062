"""Data that is off the constraint is measured, and warned of where no prediction could follow it."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from ndae import NeuralDAE, NeuralMotion, fit
from ndae.fields import MLPField
from ndae.forces import MLPForce
from ndae.methods import EndProjection, SmoothProjection, Unconstrained
from ndae.models import Shooting
from ndae.symbolic import library
from ndae.training.checkpoints import load_checkpoint
from ndae.training.data_violation import SAMPLES, data_violations
from ndae.training.evaluation import Data
from tests.ndae.standin import Standin, data
from tests.ndae.trainings import train
from tests.systems import chain_states

ROD = library.chain(1)


def rods(n=60, length=1.0, noise=0.0, seed=0):
    """States of a rod and where its end is after 0.1 s at 2 rad/s or less."""
    rng = np.random.default_rng(seed)
    angle, rate = rng.uniform(-1.5, 1.5, n), rng.uniform(-2, 2, n)
    angle, rate = angle[:, None], rate[:, None]
    (q, v), (later, _) = (chain_states(a, rate, length) for a in (angle, angle + 0.1 * rate))
    q, later = (x + noise * rng.normal(size=x.shape) for x in (q, later))
    return torch.tensor(np.concatenate([q, v], -1)), torch.tensor(later)


def motion(links=None, **options):
    links = ROD.torch() if links is None else links
    return NeuralMotion(links, MLPForce(1, 2, 4), duration=0.1, n_steps=2, starts="project", **options).double()


def network(method):
    fields = [MLPField(nodes=1, latent=8, hidden=8)]
    return NeuralDAE(fields, ROD.torch(), method, features=4, dim=2, latent=8).double()


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


WRONG = {
    "another radius": (lambda: rods(length=1.3), "by 0.3 "),
    "two centimetres": (lambda: rods(length=1.02), r"by 0.02 \(0.02 of it"),
    "centimetres for metres": (lambda: tuple(100 * x for x in rods()), "by 99 "),
    "two centimetres under noise": (lambda: rods(length=1.02, noise=0.005), "by 0.02"),
    "no constraint at all": (lambda: rods(noise=0.5), "by 0.4"),
}


CASES = [
    *((what, motion) for what in WRONG),
    ("another radius", lambda: network(SmoothProjection())),
    ("another radius", lambda: network(EndProjection())),
]


@pytest.mark.parametrize(("what", "model"), CASES)
def test_data_off_the_constraint_is_said(what, model, tmp_path):
    make, said = WRONG[what]
    pattern = f"training (inputs|targets) are off the constraint 'chain of 1 links' {said}.*sample.*length.*learn="
    with pytest.warns(UserWarning, match=pattern):
        result = fit(model(), make(), rods(seed=1), epochs=1, batch_size=60, out=tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["ndae"]["history"]["data"]
    assert kept["training"]["targets"]["typical"] == result.data_violations["training"]["targets"].typical
    assert result.data_violations["validation"]["targets"].is_small()


def test_one_wrong_validation_set_is_said(tmp_path):
    with pytest.warns(UserWarning, match="the validation inputs are off"):
        fit(motion(), rods(), rods(length=1.1), epochs=1, out=tmp_path)


RIGHT = {
    "exact data": (motion, lambda seed: rods(seed=seed)),
    "noisy data": (motion, lambda seed: rods(seed=seed, noise=0.01)),
    "very noisy data": (lambda: network(EndProjection()), lambda seed: rods(seed=seed, noise=0.03)),
    "single precision": (lambda: motion().float(), lambda seed: rods(seed=seed)),
    "one sample": (motion, lambda seed: rods(1, seed=seed)),
    "a constraint that holds nothing": (lambda: network(Unconstrained()), lambda seed: rods(length=1.3)),
    "soft": (lambda: motion(multipliers=False), lambda seed: rods(length=1.3)),
}


@pytest.mark.parametrize("what", RIGHT)
def test_noise_and_what_holds_nothing_are_no_warning(what, tmp_path, no_warnings):
    model, make = RIGHT[what]
    fit(model(), make(0), make(1), epochs=1, batch_size=30, out=tmp_path)


def test_a_length_to_be_learned_is_warned_of_at_the_end_alone(tmp_path):
    def learning(rate, out, epochs):
        links = ROD.torch(learn=["length"])
        fit(motion(links), rods(length=1.3), rods(length=1.3, seed=1), out=out, epochs=epochs, batch_size=30,
            learning_rate=rate, schedule="cosine")  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learning(0.05, tmp_path / "learned", 20)
    with pytest.warns(UserWarning, match="are off the constraint"):
        learning(1e-6, tmp_path / "not learned", 1)


def test_distances_by_hand():
    inputs, targets = rods(3 * SAMPLES, length=1.2, noise=0.01)
    targets[77, 0] *= 2
    chosen = data_violations(motion(), Data(inputs[:500], targets[:500], {}))["targets"]
    distance = (targets[:500, 0].norm(dim=-1) - 1).numpy()
    moved = (targets - inputs[..., :2])[:500].norm(dim=-1)
    assert chosen.shared == pytest.approx(abs(distance.mean()), rel=1e-9)
    assert chosen.error == pytest.approx(distance.std(ddof=1) / 500**0.5, rel=1e-9)
    assert chosen.typical == pytest.approx(np.sqrt((distance**2).mean()), rel=1e-9)
    assert (chosen.largest, chosen.sample, chosen.residual) == (pytest.approx(distance.max()), 77, 0)
    assert chosen.movement == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-9)
    many = data_violations(motion(), Data(inputs, targets, {}))["inputs"]
    assert many.shared == pytest.approx(0.2, rel=1e-2)


def test_a_users_own_constraint_and_windows_are_measured(tmp_path, no_warnings):
    result = train(tmp_path, Standin().double(), epochs=1)
    assert result.data_violations["training"]["targets"].largest < 1e-12
    wrong = data(23, 0)[0], 1.1 * data(23, 0)[1]
    assert not data_violations(Standin(), Data(*wrong, {}))["targets"].is_small()
    assert data_violations(nn.Linear(4, 2), Data(*wrong, {})) == {}
    angle = 0.6 * np.sin(3 * 0.05 * np.arange(41))
    seen = chain_states(angle[None, :, None], 0.0)[0]
    model = NeuralMotion(ROD.torch(), MLPForce(1, 2, 4), duration=0.2, n_times=4, n_steps=4, starts="project").double()
    shooting = Shooting(model, seen, 0.05, window=4, noise=0.01)
    found = data_violations(shooting, Data(*shooting.data))
    assert found["inputs"].is_small() and found["targets"].largest < 1e-9
