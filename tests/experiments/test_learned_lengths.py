"""Learned lengths: the data, what is said of lengths whose errors are known, and the command."""

import json

import numpy as np
import pytest
import torch

from ndae.experiments.studies import learned_lengths
from ndae.experiments.studies.learned_lengths import (
    GRAVITY,
    VELOCITY_NOISE,
    describe,
    distances,
    main,
    motion,
    recover,
    samples,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"LINKS": 2, "N_TRAIN": 40, "N_VAL": 5, "N_STEPS": 1}.items():
        monkeypatch.setattr(learned_lengths, name, value)


def test_states_and_what_follows_have_the_drawn_lengths_and_one_energy():
    lengths, x, later = samples(3, 0.0)
    assert x.shape == (45, 2, 4) and later.shape == (45, 2, 2)
    assert (lengths > 0.5).all() and (lengths < 1.5).all()
    for q in (x[..., :2], later):
        np.testing.assert_allclose(distances(q), np.broadcast_to(lengths, (45, 2)), rtol=0, atol=1e-9)
    # The free fall is the most that gravity does; links do no work.
    energy = (x[..., 2:] ** 2).sum((1, 2)) / 2 + GRAVITY * x[..., 1].sum(1)
    assert (GRAVITY * later[..., 1].sum(1) < energy + 1e-9).all()
    assert np.abs(later - x[..., :2]).max() > 0.1


def test_noise_is_added_to_all_that_is_measured_and_to_nothing_else():
    (lengths, x, later), (same, noisy, noisy_later) = samples(3, 0.0), samples(3, 0.001)
    np.testing.assert_array_equal(lengths, same)
    assert np.std((noisy - x)[..., :2]) == pytest.approx(1e-3, rel=0.2)
    assert np.std((noisy - x)[..., 2:]) == pytest.approx(VELOCITY_NOISE * 1e-3, rel=0.2)
    assert np.std(noisy_later - later) == pytest.approx(1e-3, rel=0.2)


def test_the_model_is_told_neither_lengths_nor_force():
    model = motion(0)
    assert model.constraint.learned["length"].tolist() == [1.0, 1.0]
    assert model.force(0.0, torch.randn(3, 2, 4, dtype=torch.float64)).abs().max() == 0
    assert {"constraint.learned.length", "force.network.0.weight"} <= dict(model.named_parameters()).keys()


def test_errors_are_those_of_the_lengths_that_it_has(tmp_path):
    found = recover(3, 0.001, tmp_path, epochs=2)
    off = np.abs(np.array(found["learned_m"]) - found["true_m"])
    assert found["largest_error_m"] == pytest.approx(off.max(), rel=1e-12) and (off > 0).all()
    assert found["largest_error_at_start_m"] == pytest.approx(np.abs(1 - np.array(found["true_m"])).max(), rel=1e-12)
    assert found["largest_error_m"] < found["largest_error_at_start_m"]
    assert 1e-6 < found["largest_error_of_mean_distance_m"] < 1e-3


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "found.json"
    main(["--seeds", "3", "--noise", "0,0.01", "--epochs", "1", "--runs", str(tmp_path), "--out", str(out)])
    found = json.loads(out.read_text())
    assert [(run["seed"], run["noise_m"]) for run in found["runs"]] == [(3, 0.0), (3, 0.01)]
    printed = capsys.readouterr().out
    assert describe(found) in printed and f"{found['runs'][1]['largest_error_m'] * 1e3:.3g}" in printed
