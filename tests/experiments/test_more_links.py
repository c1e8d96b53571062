"""A learned force on longer chains: what it says of forces whose errors are known."""

import json

import numpy as np
import pytest
import torch

import ndae
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.runs.run import run
from ndae.experiments.studies import more_links
from ndae.experiments.studies.more_links import compare, describe, on_chain, states
from tests.experiments.test_runs import swinging, tiny


@pytest.fixture(scope="module")
def weight():
    """The true force as a GraphForce of two links: nothing on the links, the weight on every body."""
    force = ndae.forces.GraphForce([(None, 0), (0, 1)], dim=2, hidden=4)
    with torch.no_grad():
        force.node[-1].bias.copy_(torch.tensor([0.0, -pendulum.MASS * pendulum.GRAVITY]))
    return force.double()


def test_states_are_of_the_true_motion():
    x, later = states(3, 0.05, motions=2)
    assert x.shape == (12, 3, 4) and later.shape == (12, 3, 2)
    assert pendulum.violation(x[..., :2]).max() < 1e-9 and pendulum.violation(later).max() < 1e-9
    np.testing.assert_allclose(x.reshape(2, 6, 3, 4)[:, 1:, :, :2], later.reshape(2, 6, 3, 2)[:, :-1], atol=1e-12)
    assert np.abs(x.reshape(2, 6, 3, 4)[:, 0, :, 2:]).max() == 0
    energy = (x[..., 2:] ** 2).sum((1, 2)) / 2 + pendulum.GRAVITY * x[..., 1].sum(1)
    assert np.ptp(energy.reshape(2, 6), axis=1).max() < 1e-6


def test_a_force_that_is_right_is_right_on_three_links(weight):
    found = on_chain(weight, 3, 0.05, 5, motions=2)
    errors = found["error_cm"]
    assert errors["learned"] == pytest.approx(errors["true force"], rel=1e-9) and errors["learned"] < 1e-3
    assert errors["no force"] > 0.5 and errors["constant velocity"] > 0.5
    assert np.abs(found["force_error_by_body_N"]).max() < 1e-12
    assert found["largest_violation_m"] < 1e-6 and len(found["error_by_body_cm"]) == 3


def test_a_force_that_is_off_is_said_to_be(weight):
    with torch.no_grad():
        weight.node[-1].bias.add_(torch.tensor([3.0, 4.0]))
    found = on_chain(weight, 3, 0.05, 5, motions=2)
    with torch.no_grad():
        weight.node[-1].bias.sub_(torch.tensor([3.0, 4.0]))
    np.testing.assert_allclose(found["force_error_by_body_N"], 5.0, rtol=1e-12)
    assert found["error_cm"]["learned"] > 100 * found["error_cm"]["true force"]


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pendulum, "simulate", swinging)
    monkeypatch.setattr(more_links, "MOTIONS", 2)
    run(tiny(method="multiplier", network="mimetic-small", epochs=1), tmp_path / "run", progress=False)
    more_links.main(["--run", str(tmp_path / "run"), "--links", "2,3", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [chain["links"] for chain in found["chains"]] == [2, 3] and found["about"]["trained_on_links"] == 5
    printed = capsys.readouterr().out
    assert describe(found) in printed and f"{found['chains'][1]['error_cm']['learned']:.2f} cm" in printed


def test_a_run_of_another_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pendulum, "simulate", swinging)
    run(tiny(method="multiplier", epochs=1), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"no force that can be laid over another chain.*--network mimetic-small"):
        compare(tmp_path, [3])
