import os
import subprocess
import sys

import numpy as np
import pytest

from ndae.experiments.cache import cache_folder
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.problems.pendulum_data import (
    Samples,
    mean_error_cm,
    pendulum_data,
    simulate,
    trivial_baselines,
    trivial_predictions,
    violation,
)

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def trajectory(own_cache):
    return simulate(2_319)


@pytest.fixture(scope="module")
def data(trajectory):
    return pendulum_data(100, 20, seed=0)


# -- simulation --------------------------------------------------------------------------------------------------------


def test_trajectory_starts_from_rest_at_the_horizontal_and_keeps_links_and_energy(trajectory):
    assert trajectory.ts.shape == trajectory.energy.shape == (2_320,)
    assert trajectory.r.shape == trajectory.v.shape == (2_320, 5, 2)
    assert trajectory.r.dtype == trajectory.v.dtype == np.float64
    np.testing.assert_allclose(trajectory.ts, np.linspace(0, 23.19, 2_320), atol=1e-12)
    np.testing.assert_array_equal(trajectory.r[0], [[1, 0], [2, 0], [3, 0], [4, 0], [5, 0]])
    np.testing.assert_array_equal(trajectory.v[0], np.zeros((5, 2)))
    assert violation(trajectory.r).max() < 1e-10
    energy = 0.5 * (trajectory.v**2).sum((1, 2)) + 9.82 * trajectory.r[..., 1].sum(1)
    assert np.abs(energy).max() < 1e-6 * pendulum.potential_range()
    np.testing.assert_allclose(trajectory.energy, energy, atol=1e-10)


def test_velocity_is_the_rate_of_change_of_position(trajectory):
    """Central differences of fourth order over 0.01 s, while the motion is still smooth."""
    r = trajectory.r[:201]
    rate = (8 * (r[3:-1] - r[1:-3]) - (r[4:] - r[:-4])) / (12 * 0.01)
    assert np.abs(rate - trajectory.v[2:199]).max() < 1e-3


def test_potential_range_is_the_paper_s():
    assert pendulum.potential_range() == pytest.approx(147.3)
    hanging, _ = pendulum.start(3)
    assert pendulum.potential_range(3) == pytest.approx(9.82 * (1 + 2 + 3))
    assert hanging.shape == (6,)


def test_short_simulations_are_the_beginning_of_the_long_one_and_come_from_one_file(trajectory, monkeypatch):
    def fail(*args):
        raise AssertionError("simulated again")

    monkeypatch.setattr(pendulum, "_simulated", fail)
    short = simulate(300)
    np.testing.assert_array_equal(short.r, trajectory.r[:301])
    np.testing.assert_array_equal(short.v, trajectory.v[:301])
    assert len(list(cache_folder().iterdir())) == 1


def test_simulation_longer_than_the_common_one_begins_with_it(trajectory):
    longer = simulate(12_501)
    assert len(longer.ts) == 12_502
    np.testing.assert_array_equal(longer.r[:2_320], trajectory.r)
    np.testing.assert_array_equal(longer.v[:2_320], trajectory.v)


def test_neither_torch_nor_jax_loads_to_read_cached_data(trajectory):
    code = (
        "import sys; from ndae.experiments.problems.pendulum_data import pendulum_data; pendulum_data(); "
        "print([name for name in ('torch', 'jax', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"


# -- data --------------------------------------------------------------------------------------------------------------


def test_samples_are_positions_and_velocities_now_and_positions_after_the_horizon(data, trajectory):
    assert [len(part) for part in (data.train, data.val, data.test)] == [100, 200, 1_000]
    assert (data.horizon, data.seed, data.dt, data.run_in, data.n_bodies) == (20, 0, 0.01, 1_000, 5)
    for part in (data.train, data.val, data.test):
        assert part.inputs.shape == (len(part), 5, 4)
        assert part.targets.shape == (len(part), 5, 2)
        assert part.inputs.dtype == part.targets.dtype == np.float64
        for i in (0, 57, 99):
            step = part.index[i]
            np.testing.assert_array_equal(part.inputs[i, :, :2], trajectory.r[step])
            np.testing.assert_array_equal(part.inputs[i, :, 2:], trajectory.v[step])
            np.testing.assert_array_equal(part.targets[i], trajectory.r[step + 20])


@pytest.mark.parametrize(("n_train", "horizon", "run_in"), [(100, 20, 1_000), (1_000, 50, 1_000), (7, 3, 0)])
def test_parts_share_no_step_and_take_as_many_consecutive_ones_as_needed(n_train, horizon, run_in):
    data = pendulum_data(n_train, horizon, seed=3, n_val=30, n_test=50, run_in=run_in)
    steps = np.concatenate([data.train.index, data.val.index, data.test.index])
    np.testing.assert_array_equal(np.sort(steps), run_in + np.arange(n_train + 80))


def test_split_depends_on_the_seed_alone(data):
    again, other = pendulum_data(100, 20, seed=0), pendulum_data(100, 20, seed=1)
    np.testing.assert_array_equal(again.train.inputs, data.train.inputs)
    np.testing.assert_array_equal(again.test.targets, data.test.targets)
    assert not np.array_equal(other.train.index, data.train.index)
    spread = np.histogram(data.train.index, bins=4, range=(1_000, 2_300))[0]
    assert spread.min() > 10, "a random split takes its training samples from all over the trajectory"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_train": 0}, "n_train must be a whole number of at least 1, got 0"),
        ({"n_train": 10.5}, r"n_train must be a whole number of at least 1, got 10\.5"),
        ({"n_val": 0}, "n_val must be"),
        ({"n_test": -1}, "n_test must be"),
        ({"horizon": 0}, "horizon must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"run_in": -1}, "run_in must be a whole number of at least 0"),
        ({"n_bodies": 0}, "n_bodies must be"),
        ({"dt": 0.0}, "dt must be a positive time step"),
        ({"dt": float("nan")}, "dt must be a positive time step"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        pendulum_data(**change)


# -- measures and predictors to beat -----------------------------------------------------------------------------------


def test_mean_error_is_euclidean_per_body_in_centimetres():
    target = np.zeros((2, 2, 2))
    prediction = np.array([[[0.03, 0.04], [0.0, 0.0]], [[0.0, 0.01], [-0.02, 0.0]]])
    assert mean_error_cm(prediction, target) == pytest.approx((5 + 0 + 1 + 2) / 4)
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 2\) and target \(2, 2, 2\)"):
        mean_error_cm(np.zeros((2, 2)), target)


def test_violation_is_the_length_error_of_each_link():
    r = np.array([[[1.0, 0.0], [1.0, 2.0], [1.3, 2.4]]])
    np.testing.assert_allclose(violation(r), [[0.0, 1.0, 0.5]])


def test_trivial_predictions(data):
    test = data.test
    guesses = trivial_predictions(test, 20)
    np.testing.assert_array_equal(guesses["no motion"], test.inputs[..., :2])
    np.testing.assert_allclose(guesses["constant velocity"], test.inputs[..., :2] + 0.2 * test.inputs[..., 2:])
    np.testing.assert_allclose(guesses["no motion, projected"], guesses["no motion"], atol=1e-9)


def test_projected_constant_velocity_is_the_nearest_point_of_the_manifold():
    """What is left to the guess is a combination of the links' gradients: no move along the manifold comes closer."""
    data = pendulum_data(5, 2, n_val=5, n_test=20)
    guesses = trivial_predictions(data.test, 2)
    projected, guess = guesses["constant velocity, projected"], guesses["constant velocity"]
    assert violation(projected).max() < 1e-9 < violation(guess).max()
    for r, start in zip(projected, guess, strict=True):
        links = np.diff(r, axis=0, prepend=np.zeros((1, 2)))
        gradients = np.zeros((5, 5, 2))
        for i, link in enumerate(links):
            gradients[i, i] = link
            if i:
                gradients[i, i - 1] = -link
        move = (start - r).ravel()
        rest = move - gradients.reshape(5, 10).T @ np.linalg.lstsq(gradients.reshape(5, 10).T, move, rcond=None)[0]
        # A last Gauss-Newton step of d leaves a violation of d²/2 on links of 1 m: at 1e-10, d is below 1.5e-5.
        assert np.abs(rest).max() < 1.5e-5 < 0.1 * np.abs(move).max()


def test_error_of_constant_velocity_grows_with_the_square_of_the_horizon(data):
    errors = []
    for horizon in (1, 2, 4):
        shorter = pendulum_data(100, horizon, seed=0)
        errors.append(trivial_baselines(shorter.test, horizon)["constant velocity"]["mae_cm"])
    assert np.diff(np.log2(errors)) == pytest.approx([2, 2], abs=0.3)


def test_baselines_of_the_paper_s_setting(data):
    """No motion is wrong by some 79 cm at horizon 20; every predictor reports what it violates."""
    table = trivial_baselines(data.test, 20)
    assert set(table) == {"no motion", "constant velocity", "no motion, projected", "constant velocity, projected"}
    assert 60 < table["no motion"]["mae_cm"] < 100
    assert table["no motion"]["violation_max"] < 1e-10
    assert table["constant velocity"]["violation_mean"] > 0.01
    assert table["constant velocity, projected"]["violation_mean"] < table["constant velocity"]["violation_mean"]


def test_samples_count():
    assert len(Samples(np.zeros((3, 5, 4)), np.zeros((3, 5, 2)), np.arange(3))) == 3


def test_the_nearest_training_sample_is_found_by_looking_at_all_of_them(data):
    guess = trivial_predictions(data.test, 20, train=data.train)["nearest training sample"]
    for sample in range(0, len(data.test), 7):
        distance = np.linalg.norm((data.train.inputs - data.test.inputs[sample]).reshape(len(data.train), -1), axis=1)
        assert np.array_equal(guess[sample], data.train.targets[distance.argmin()])
