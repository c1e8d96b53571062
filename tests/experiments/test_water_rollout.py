"""Motions of water rolled out: the true force against OpenMM, measures against values known otherwise, numbers to
figure."""

import json

import numpy as np
import pytest
import torch

from ndae.experiments.benchmarks import turns, water_cost
from ndae.experiments.problems.library.water import WaterProblem
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.studies import water_rollout as ro
from ndae.experiments.studies.water_rollout_figure import figure, table
from ndae.experiments.water.force_field import BOLTZMANN, forces, masses, potential_energy
from ndae.experiments.water.measures import (
    bond_lengths,
    drift,
    first_peak,
    quartiles,
    radial_distribution,
    temperature_of,
)
from ndae.experiments.water.simulate import simulate
from ndae.methods import EndProjection

pytest.importorskip("openmm", reason="the extra `water` is not installed")
N = 4
STEP, DURATION = 5.0, 20.0


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    short = {"n_molecules": N, "equilibration_ps": 0.2, "check_temperature": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return [simulate(seed, 1_500, **short) for seed in (0, 1)]


@pytest.fixture(scope="module")
def truth(trajectories):
    return ro.reference(*trajectories, n_blocked=1, n_other=2, step=STEP, duration=DURATION)


@pytest.fixture
def model_of(monkeypatch):
    """Models of 4 molecules with first weights moved at random, by method and network."""
    from ndae.experiments.runs import models

    monkeypatch.setattr(models, "problem_of", lambda config: WaterProblem(N))

    def build(method, network, noise=0.0, **options):
        config = RunConfig(problem="water", method=method, network=network, horizon=50, **options)
        model = models.build_model(config)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += noise * torch.randn_like(parameter)
        return config, model

    return build


# --- starts -----------------------------------------------------------------------------------------------------------


def test_starts_are_held_out_and_followed_by_what_came_after_them(trajectories, truth):
    blocked, other = trajectories
    assert truth.where == ("time-blocked", "other seed", "other seed")
    assert truth.q.shape == truth.v.shape == (3, 5, 3 * N, 3)
    np.testing.assert_array_equal(truth.times, [0, 5, 10, 15, 20])
    first = 1276  # 85 % of 1,501 frames, rounded up
    np.testing.assert_array_equal(truth.q[0], blocked.q[first : first + 201 : 50])
    np.testing.assert_array_equal(truth.v[1], other.v[0:201:50])
    np.testing.assert_array_equal(truth.q[2, -1], other.q[-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": 30.0}, "there are 22.4 fs to start in, fewer than a duration of 30 fs"),
        ({"step": 0.33}, "step is 0.33 fs, expected a whole number of 0.1 fs"),
        ({"duration": 12.0}, "duration is 12 fs, expected a whole number of 5 fs"),
    ],
)
def test_what_the_trajectory_does_not_have_is_said(trajectories, options, message):
    with pytest.raises(ValueError, match=message):
        ro.reference(*trajectories, **{"step": STEP, "duration": DURATION} | options)


# --- rolling out ------------------------------------------------------------------------------------------------------


def test_true_force_in_the_steps_of_openmm_is_the_trajectory_of_openmm(truth):
    def last_error_pm(longest):
        q, _ = ro.roll_out(ro.true_force(N, longest), _starts(truth), 4)
        return 100 * np.linalg.norm(q[:, -1] - truth.q[:, -1], axis=-1).mean()

    assert last_error_pm(0.1) < 1e-4  # starts and targets are float32
    assert 1e-2 < last_error_pm(0.5) < 1


def _starts(truth):
    return np.concatenate([truth.q[:, 0], truth.v[:, 0]], -1)


def test_steps_one_after_the_other_are_the_motion_in_one(model_of, truth):
    _, model = model_of("soft", "molecular", noise=0.01)
    q, v = ro.roll_out(ro.of_model(model, STEP, {}, STEP), _starts(truth), 4)
    motion = model.double().trajectory(torch.as_tensor(_starts(truth)), [0.0, DURATION])
    np.testing.assert_allclose(q[:, -1], motion.q[:, -1].detach(), atol=1e-9)
    np.testing.assert_allclose(v[:, -1], motion.v[:, -1].detach(), atol=1e-9)


class Curved(torch.nn.Module):
    """Stands for a trained network, with which it shares its call: r + h v + r³ / 100."""

    def __init__(self):
        super().__init__()
        self.constraint, self.method = WaterProblem(N).constraint.torch(), EndProjection(tol=1e-3)

    def forward(self, x):
        r, v = x.chunk(2, -1)
        return r + STEP * v + r**3 / 100


def test_velocity_of_a_network_is_the_rate_of_its_prediction_along_the_true_motion(truth):
    """dP/dt = v + h a + 3 r² v / 100, where the difference of successive positions would have no a."""
    network, start = Curved(), _starts(truth)
    rolled = ro.of_model(network, STEP, {}, STEP)
    with torch.no_grad():
        q, velocity = np.split(rolled.step(torch.as_tensor(start)).numpy(), 2, -1)
    r, v = np.split(start, 2, -1)
    a = forces(r) / masses(N)[:, None]
    np.testing.assert_allclose(q, r + STEP * v + r**3 / 100, rtol=1e-14)
    np.testing.assert_allclose(velocity, v + STEP * a + 3 * r**2 * v / 100, atol=1e-9)
    assert rolled.energy is None and rolled.n_dof == 6 * N - 6
    assert network.method.tol == 1e-3  # a copy's is tight
    with pytest.raises(ValueError, match="predicts 10 fs ahead: it can not be rolled out in steps of 5 fs"):
        ro.of_model(network, 10.0, {}, STEP)


def test_rigid_motion_begins_on_its_constraints_and_has_fewer_degrees_of_freedom(model_of, truth):
    _, model = model_of("multiplier", "molecular", noise=0.01)
    rolled = ro.of_model(model, STEP, {}, STEP)
    q, _ = ro.roll_out(rolled, _starts(truth), 2)
    assert rolled.n_dof == 6 * N - 6
    assert np.abs(bond_lengths(q) - 0.957).max() < WaterProblem.motion_tol["float32"]
    assert np.abs(bond_lengths(truth.q[:, 0]) - 0.957).max() > 1e-2
    soft = ro.of_model(model_of("soft", "molecular")[1], STEP, {}, STEP)
    assert soft.n_dof == 9 * N - 6


def test_energy_of_a_motion_is_its_own_where_all_forces_have_one(model_of, truth):
    _, model = model_of("soft", "molecular", noise=0.01)
    rolled = ro.of_model(model, STEP, {}, STEP)
    row = ro.measure(rolled, truth)
    assert row["drift"]["own"]["rms_kJ"] < 0.1 * row["drift"]["true"]["rms_kJ"]
    model.force.parts = (model.force.parts[0], lambda t, y: torch.zeros_like(y[..., :3]))
    assert ro.of_model(model, STEP, {}, STEP).energy is None  # of its bonds alone


def test_a_lost_start_stops_alone(truth):
    def step(x):
        after = x.clone()
        after[..., :3] += STEP * x[..., 3:]
        torn = x[:, 0, 0] > 100
        after[torn, 1, 0] += 1.0
        return after

    still = ro.Rolled(step, 9 * N - 6, {"name": "torn"})
    x = _starts(truth)
    x[..., 3:] *= 0.01
    x[1, :, 0] += 99.9 - x[1, 0, 0]
    x[1, :, 3:] = [0.015, 0, 0]  # above 100 Å after two steps
    q, v = ro.roll_out(still, x, 4)
    assert np.isfinite(q[1, :3]).all()
    assert np.isnan(q[1, 3:]).all() and np.isnan(v[1, 3:]).all()
    expected = x[[0, 2], None, :, :3] + truth.times[:, None, None] * x[[0, 2], None, :, 3:]
    np.testing.assert_allclose(q[[0, 2]], expected, atol=1e-12)


def test_hot_and_not_finite_states_are_lost(truth):
    x = _starts(truth)
    x[0] = np.nan
    x[1, :, 3:] *= 10
    assert ro._lost(x, 9 * N - 6).tolist() == [True, True, False]


# --- measures ---------------------------------------------------------------------------------------------------------


def test_radial_distribution_of_a_lattice_counts_its_neighbours():
    side, spacing, edges = 6, 2.8, np.array([2.0, 3.5, 4.2, 5.0])
    lattice = spacing * np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)
    g = radial_distribution(np.stack([lattice, lattice + 7.0, np.full_like(lattice, np.nan)]), edges, density=0.03)
    neighbours = g * 0.03 * 4 / 3 * np.pi * np.diff(edges**3)
    # Along an axis, along a diagonal of a face, along one of the cube; the lattice has an end.
    share = (side - 1) / side
    np.testing.assert_allclose(neighbours, [6 * share, 12 * share**2, 8 * share**3])


def test_peak_of_a_parabola():
    edges = np.linspace(2, 4, 41)
    middle = (edges[1:] + edges[:-1]) / 2
    assert first_peak(3 - 4 * (middle - 2.763) ** 2, edges) == pytest.approx((2.763, 3.0))


def test_temperature_of_known_velocities():
    v = np.zeros((2, 3 * N, 3))
    v[1, :, 0] = 0.01  # 1 nm/ps, so that a molecule has ½ · 18.015 kJ/mol
    np.testing.assert_allclose(temperature_of(v, 30), [0, N * 18.015 / (30 * BOLTZMANN)])


def test_drift_is_the_slope_of_the_starts_that_last():
    times = np.linspace(0, 1_000, 11)
    energy = np.stack([0.003 * times + 7, -0.004 * times, np.where(times < 500, times, np.nan)])
    assert drift(energy, times, 50.0) == pytest.approx(
        {"mean_kJ": -0.5, "rms_kJ": np.sqrt(12.5), "rms_percent": 2 * np.sqrt(12.5)}
    )
    assert drift(energy[2:], times, 50.0)["rms_kJ"] is None


def test_quartiles_end_where_half_of_the_starts_are_lost():
    values = np.arange(5.0)[:, None] * np.ones(3)
    values[3:, 1], values[2:, 2] = np.nan, np.nan
    found = quartiles(values)
    np.testing.assert_allclose(found[:, :2], [[1, 0.5], [2, 1], [3, 1.5]])
    assert np.isnan(found[:, 2]).all()


def test_openmm_itself_as_a_row(truth):
    row = ro.measure(None, truth)
    assert row["error_pm"] == {} and row["lost_fs"] == [None] * 3
    assert row["temperature_K"]["rms_deviation"] == 0
    assert row["drift"]["true"]["rms_kJ"] < 0.1
    change = potential_energy(truth.q)
    assert np.ptp(change) > 1  # which kinetic energy makes up for


# --- numbers, table, figure -------------------------------------------------------------------------------------------


@pytest.fixture
def found(truth, model_of, monkeypatch):
    from ndae.experiments.runs import run as runs

    folders = {}
    for method in ("soft", "multiplier"):
        folders[f"{method}-s0"] = model_of(method, "molecular", noise=0.01)
    monkeypatch.setattr(runs, "load_model", lambda folder: folders[folder.name])
    rolls = [ro.true_force(N), *(ro.of_run(ro.Path("runs") / name) for name in folders)]
    lost = ro.Rolled(lambda x: x * np.nan, 9 * N - 6, {"name": "Lost at once", "method": "end"})
    return ro.study([*rolls, lost], truth)


def test_numbers_are_json_and_make_table_and_figure(found, tmp_path):
    text = json.dumps(found, allow_nan=False)
    again = json.loads(text)
    assert [row["name"] for row in again["rows"]][:2] == [
        "True force, steps of 0.25 fs",
        "Soft constraint, molecular, 100 samples",
    ]
    assert again["starts"] == {"time-blocked": 1, "other seed": 2}
    last = again["rows"][-1]
    assert last["lost_fs"] == [5.0] * 3 and last["error_pm"] == {"5": None}
    lines = table(again).splitlines()
    assert len(lines) == 2 + 1 + 4 + 1
    assert len({line.count("|") for line in lines}) == 1
    assert "3 of 3, from 5 fs" in lines[-2]
    path = figure(again, tmp_path / "rollout.png")
    assert path.stat().st_size > 20_000
    assert str(tmp_path) not in text and "runs/" not in text


def test_runs_of_another_problem_are_refused(monkeypatch):
    from ndae.experiments.runs import run as runs

    monkeypatch.setattr(runs, "load_model", lambda folder: (RunConfig(), None))
    with pytest.raises(ValueError, match="is a run of pendulum: give runs of water"):
        ro.of_run(ro.Path("here"))


def test_without_finished_runs_the_command_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"no finished run of the table in .*: give folders of runs"):
        ro.default_runs(tmp_path)


def test_cost_is_told_by_ratios_within_a_round(monkeypatch):
    now = 0.0

    def taking(seconds):
        def turn():
            nonlocal now
            now += seconds

        return turn

    monkeypatch.setattr(turns.time, "perf_counter", lambda: now)
    figures = water_cost.measure(
        {"none": taking(0.5), "end": taking(0.75), "projection": taking(0.05)}, "none", 5, {"projection": 10}
    )
    assert figures["end"] == pytest.approx({"ms": 750, "ratio": 1.5, "low": 1.5, "high": 1.5})
    result = {"machine": "a machine, 2 cores", "threads": 2, "batch": 10, "molecules": 32, "dtype": "float32"}
    text = water_cost.report(result | {"rounds": 5, "figures": figures, "iterations": 2})
    assert "One projection is 1.00 % of a step of none" in text
