"""Rollouts of all methods side by side: their measures on motions whose errors are known, and the whole command."""

import json
import math

import numpy as np
import pytest
import torch

from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.studies import rollout
from ndae.experiments.studies.rollout import (
    Learned,
    beside,
    energy_change,
    error_of,
    force_error,
    holds,
    links_off,
    true_force,
)
from tests.experiments.test_runs import swinging

pytestmark = pytest.mark.usefixtures("own_cache")


def state(n=2):
    """Chains of five links that hang a little out of the vertical, and move."""
    found = swinging(100 * n)
    return np.concatenate([found.r, found.v], -1)[1::100][:n]


def known(q_scale=1.0):
    """Two states of five bodies at three times, `q_scale` as long as their links."""
    found = swinging(5)
    q, v = (part.reshape(2, 3, 5, 2) for part in (found.r, found.v))
    return q_scale * q, v


# -- measures ---------------------------------------------------------------------------------------------------------


def test_the_error_is_a_mean_of_distances():
    q, v = known()
    off = q.copy()
    off[1, 2] += [0.03, 0.04]
    off[0, 1, 0] = math.nan
    found = error_of((off, v), (q, v))
    np.testing.assert_allclose(found, [[0, math.inf, 0], [0, 0, 0.05]], atol=1e-15)


def test_a_state_holds_until_it_is_lost_for_the_first_time():
    ts = np.array([0.0, 1.0, 2.0, 3.0])
    error = np.array([[0, 0.1, 0.2, 0.0], [0, 0.01, 0.02, 0.1], [0, 0.11, 0, 0], [0, 0.1, math.inf, 0]])
    np.testing.assert_array_equal(holds(ts, error), [1, 3, 0, 1])


def test_links_that_are_too_long_are_said_to_be():
    np.testing.assert_allclose(links_off(known(1.25)), 0.25, rtol=1e-12)
    assert links_off(known()).max() < 1e-14


def test_energy_is_a_share_of_the_range_of_the_potential():
    q, v = known()
    q[:, 1:], v[:, 1:] = q[:, :1], 0.0
    kinetic = (v[:, 0] ** 2).sum((-2, -1)) / 2
    share = energy_change((q, v))
    np.testing.assert_allclose(share[:, 1], kinetic / 147.3, rtol=1e-12)
    q[:, 2, :, 1] += 1.0
    np.testing.assert_allclose(energy_change((q, v))[:, 2] * 147.3, np.abs(5 * 9.82 - kinetic), rtol=1e-9)
    # A potential of its own takes the place of the true one.
    own = energy_change((q, v), lambda q: 20.0 * q[..., 1].sum(-1))
    np.testing.assert_allclose(own[:, 2] * 147.3, np.abs(5 * 20.0 - kinetic), rtol=1e-9)


def test_only_the_part_of_a_force_that_moves_the_chain_counts():
    q = swinging(40).r[1:]

    def pulled(t, y):  # along the first link, which takes it up
        first = torch.zeros_like(y[..., :2])
        first[:, 0] = 7 * y[:, 0, :2]
        return true_force(t, y) + first

    assert force_error(true_force, q) == 0
    assert force_error(pulled, q) < 1e-12
    assert force_error(lambda t, y: 1.25 * true_force(t, y), q) == pytest.approx(0.25, rel=1e-12)


# -- motions ----------------------------------------------------------------------------------------------------------


def lighter(t, y):
    return 0.5 * true_force(t, y)


def test_forces_beside_each_other_are_those_alone():
    x, ts = state(), 0.05 * np.arange(3)
    both, unconverged = rollout.motions({"true": true_force, "lighter": lighter}, x, ts, 0.0125)
    assert unconverged == 0 and both["true"][0].shape == (2, 3, 5, 2)
    for name, force in (("true", true_force), ("lighter", lighter)):
        (alone,) = rollout.motions({name: force}, x[:1], ts, 0.0125)[0].values()
        np.testing.assert_allclose(both[name][0][:1], alone[0], atol=1e-11)
    assert np.abs(both["true"][0] - both["lighter"][0])[:, -1].max() > 1e-3
    y = torch.as_tensor(np.concatenate([x, x]))
    together = beside([true_force, lighter])(0.0, y)
    assert together[:2].eq(2 * together[2:]).all()


def test_a_motion_in_pieces_is_the_whole_motion():
    x, ts, forces = state(), 0.05 * np.arange(6), {"true": true_force, "lighter": lighter}
    whole, _ = rollout.motions(forces, x, ts, 0.0125)
    pieces, unconverged = rollout.long_motions(forces, x, ts, 0.0125, piece=2)
    assert unconverged == 0
    for name in forces:
        for part, same in zip(pieces[name], whole[name], strict=True):
            np.testing.assert_allclose(part, same, rtol=0, atol=1e-12)


def test_motions_of_other_weights_are_not_taken_from_the_cache():
    x, ts = state(1), 0.05 * np.arange(2)
    force = rollout.build_model(Learned(True, 0), 4).force
    before, _ = rollout.motions({"learned": force}, x, ts, 0.0125)
    with torch.no_grad():
        force.potential.linear.add_(3.0)
    after, _ = rollout.motions({"learned": force}, x, ts, 0.0125)
    assert np.abs(before["learned"][0] - after["learned"][0]).max() > 1e-4


def test_the_true_force_follows_the_reference_as_the_fourth_power_of_its_step():
    x, ts = state(), 0.1 * np.arange(3)
    true = rollout.reference(x, ts)
    errors = []
    for step in (0.0125, 0.00625):
        found, _ = rollout.motions({"true": true_force}, x, ts, step)
        errors.append(error_of(found["true"], true)[:, -1].max())
        assert links_off(found["true"]).max() < 1e-9
    assert 10 < errors[0] / errors[1] < 40 and errors[1] < 1e-6


# -- the command ------------------------------------------------------------------------------------------------------


def rows():
    """A model that holds 5 s and one that does not, as the JSON file has them."""
    ts = 0.05 * np.arange(201)
    q, v = (np.tile(part[:2, None], (1, 201, 1, 1)) for part in (swinging(1).r, swinging(1).v))
    off = q.copy()
    off[0, ts > 5.01] += 1.0  # the first state is lost after 5 s, the other after 2 s
    off[1, ts > 2.01] += [0.3, 0.4]
    found = rollout.measured(ts, (off, v), (q, v))
    true = rollout.measured(ts, (q, v), (q, v))
    long = rollout.measured_long(ts, (q, v), true_force)
    return [
        {"name": rollout.TRUE, "method": "multiplier", "seed": None, "long": long} | true,
        {"name": "No constraint", "method": "none", "seed": 0, "train_seconds": 12.3} | found,
    ]


def test_measures_of_a_rollout():
    true, lost = rows()
    assert true["holds_s"] == [10, 10] and true["share_5s"] == 1 and true["error_5s_cm"] == [0, 0]
    assert lost["holds_s"] == [5, 2] and lost["share_5s"] == 0.5 and lost["error_5s_cm"] == [0, 50]
    assert lost["curves"]["error_one"][-1] == pytest.approx(np.sqrt(2), rel=1e-3)
    assert lost["curves"]["error_mean"][30] == 0.25 and lost["curves"]["ts"][30] == 3.0
    assert lost["links_off_m"] > 0.1 and true["links_off_m"] < 1e-12
    assert true["long"]["energy_change"] == 0


def test_table_and_figure_are_of_the_file_alone(tmp_path, capsys):
    found = {"rows": rows(), "lost_cm": 10.0, "seconds": 10.0, "states": 2, "n_train": 1000}
    (tmp_path / "found.json").write_text(json.dumps(found))
    rollout.main(["--table", "--result", str(tmp_path / "found.json"), "--figure", str(tmp_path / "found.png")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| true force |  | 10.00 (10.00 to 10.00) | 100 % | 0 | 0 |")
    assert printed[3].startswith("| No constraint | 0 | 3.50 (2.75 to 4.25) | 50 % | 25 | 25 |")
    assert printed[3].endswith("| 12 |")
    assert all(line.count("|") == printed[0].count("|") for line in printed)
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def falling(n_train, horizon, seed):
    """Samples of true motion: 30 to learn from and 20 to judge by, from states of no one motion."""
    x = state(50)
    ts = pendulum.DT * np.array([0, horizon])
    later = rollout.motions({"true": true_force}, x, ts, 0.0125)[0]["true"][0][:, -1]
    train, val = (pendulum.Samples(x[part], later[part], part) for part in np.split(np.arange(50), [30]))
    return pendulum.PendulumData(train, val, val, horizon=horizon, seed=seed)


def test_a_potential_is_learned_in_phases_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pendulum, "pendulum_data", falling)
    config = Learned(True, 3, n_train=20, hidden=4, phases=((2, 1), (4, 1)))
    force, about = rollout.learn(config, tmp_path)
    logs = sorted((tmp_path / config.name).glob("*/log.csv"))
    assert [log.parent.name for log in logs] == ["phase-1-2-steps", "phase-2-4-steps"]
    assert about["parameters"] == 4 * 10 + 4 + 4 + 10 and force.potential.linear.abs().max() > 0
    untrained = rollout.build_model(config, 4)
    trained = rollout.build_model(config, 4)
    trained.force.load_state_dict(force.state_dict())
    data = falling(20, config.horizon, 3).val
    with torch.no_grad():
        x, y = torch.as_tensor(data.inputs), torch.as_tensor(data.targets)
        errors = [(model(x) - y).norm(dim=-1).mean() for model in (untrained, trained)]
    assert errors[1] < 0.05 * errors[0]
    assert about["validation_error_cm"] == pytest.approx(100 * float(errors[1]), rel=1e-9)
    again, same = rollout.learn(config, tmp_path)
    assert same == about
    for name, weight in force.state_dict().items():
        assert weight.equal(again.state_dict()[name])


def test_samples_end_before_the_states_begin(monkeypatch):
    monkeypatch.setattr(pendulum, "simulate", swinging)
    whole = swinging(5000)
    first = rollout.held_out_state(3)[0]
    at = int(np.abs(whole.r - first[:, :2]).sum((1, 2)).argmin())
    for config in [Learned(linear, seed) for linear, seeds in rollout.SEEDS.items() for seed in seeds]:
        data = pendulum.pendulum_data(config.n_train, config.horizon, config.seed)
        assert max(part.index.max() for part in (data.train, data.val, data.test)) + config.horizon < at
