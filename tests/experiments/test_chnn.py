import numpy as np
import pytest
import torch

import ndae
from ndae.experiments.files import read_json
from ndae.experiments.studies import chnn, chnn_data
from ndae.experiments.studies.chnn import Config
from ndae.experiments.studies.chnn_data import Motions

pytestmark = pytest.mark.usefixtures("own_cache")


def true_motion(bodies, n_steps, n_times=1):
    _, masses = chnn_data.lengths_and_masses(bodies)
    weight = 9.81 * torch.as_tensor(masses)

    def force(t, y):
        return torch.stack([torch.zeros_like(y[..., 0]), -weight.expand(y.shape[:-1])], -1)

    return ndae.NeuralMotion(
        chnn_data.system(bodies).points.constraint.torch(), force, duration=0.12, n_steps=n_steps, n_times=n_times,
        mass=masses.tolist(), method=ndae.methods.SmoothProjection(tol=1e-10),
    )  # fmt: skip


# -- data --------------------------------------------------------------------------------------------------------------


def test_masses_and_lengths_are_those_of_their_generator_handed_out_from_the_end():
    lengths, masses = chnn_data.lengths_and_masses(2)
    u = 0.5488135039, 0.7151893664, 0.6027633761, 0.5448831830  # the first numbers of NumPy's old generator, seed 0
    np.testing.assert_allclose(masses, [0.6 + 0.8 * u[1], 0.6 + 0.8 * u[0]], atol=1e-9)
    np.testing.assert_allclose(lengths, [0.6 + 0.8 * u[3], 0.6 + 0.8 * u[2]], atol=1e-9)


def test_starts_have_the_moments_of_their_distribution():
    """Of θ, ω ~ N(0, 1): E cos θ = e^(-1/2), E cos² θ = (1 + e^(-2)) / 2; noise of 0.2 m and 1.2 m/s in a component."""
    q, v = chnn_data.draw(2, 100_000, 5)
    lengths, _ = chnn_data.lengths_and_masses(2)
    np.testing.assert_allclose(
        q.mean(0), [[0, -np.exp(-0.5) * lengths[0]], [0, -np.exp(-0.5) * lengths.sum()]], atol=0.02
    )
    sine = lengths**2 * (1 - np.exp(-2)) / 2
    np.testing.assert_allclose(q[..., 0].var(0), sine.cumsum() + 0.2**2, rtol=0.02)
    cosine = lengths**2 * (1 + np.exp(-2)) / 2
    np.testing.assert_allclose(v[..., 0].var(0), (1.5**2 * cosine).cumsum() + 1.2**2, rtol=0.02)


def test_starts_do_not_depend_on_how_many_are_drawn():
    for few, many in zip(chnn_data.draw(3, 4, 7), chnn_data.draw(3, 9, 7), strict=True):
        np.testing.assert_array_equal(few, many[:4])


@pytest.mark.parametrize("bodies", [1, 2, 5])
def test_starts_are_moved_onto_the_manifold_each_by_itself(bodies):
    lengths, _ = chnn_data.lengths_and_masses(bodies)
    drawn = chnn_data.draw(bodies, 50, 3)
    q, v = chnn_data.onto_manifold(*drawn)
    link, rate = (np.diff(part, axis=1, prepend=0.0) for part in (q, v))
    np.testing.assert_allclose(np.linalg.norm(link, axis=-1), np.broadcast_to(lengths, (50, bodies)), atol=1e-12)
    assert np.abs((link * rate).sum(-1)).max() < 1e-12
    for alone, together in zip(chnn_data.onto_manifold(drawn[0][7:8], drawn[1][7:8]), (q, v), strict=True):
        np.testing.assert_allclose(alone[0], together[7], atol=1e-12)


def test_a_small_displacement_is_undone_by_the_smallest_change_of_positions_and_velocities():
    """To first order the step is normal to the manifold in (q, v), and what is left of the displacement tangent."""
    q, v = chnn_data.onto_manifold(*chnn_data.draw(2, 20, 11))
    noise = 1e-6 * np.random.default_rng(0).standard_normal((2, *q.shape))
    near_q, near_v = chnn_data.onto_manifold(q + noise[0], v + noise[1])
    step = np.concatenate([near_q - q - noise[0], near_v - v - noise[1]], 1).reshape(20, 8)
    along = np.concatenate([near_q - q, near_v - v], 1).reshape(20, 8)  # tangent to first order
    cosine = (step * along).sum(1) / np.linalg.norm(step, axis=1) / np.linalg.norm(along, axis=1)
    assert np.abs(cosine).max() < 1e-3


def test_starts_that_do_not_reach_the_manifold_are_an_error():
    with pytest.raises(ValueError, match="3 of 3 starts are not on the manifold after 1 steps"):
        chnn_data.onto_manifold(*chnn_data.draw(2, 3, 1), max_iterations=1)


def test_samples_are_chunks_of_five_points_of_their_part():
    motion = chnn_data.motions(2, 8, "train", 0)
    inputs, targets = chnn_data.samples(2, 8, "train", 0)
    assert inputs.shape == (8, 2, 4) and targets.shape == (8, 4, 2, 2)
    firsts = [int(np.flatnonzero((motion.state[i] == inputs[i]).all((1, 2)))[0]) for i in range(8)]
    assert all(first % 5 == 0 for first in firsts) and len(set(firsts)) > 2
    for i, first in enumerate(firsts):
        np.testing.assert_array_equal(targets[i], motion.q[i, first + 1 : first + 5])
    others = [chnn_data.samples(2, 8, part, seed)[0] for part, seed in [("validation", 0), ("test", 0), ("train", 1)]]
    assert all(np.abs(other - inputs).min(0).max() > 1e-3 for other in others)


def test_reference_and_motion_with_the_true_force_agree():
    inputs, targets = chnn_data.samples(2, 8, "train", 0)
    predicted = true_motion(2, 16, n_times=4).predict(torch.as_tensor(inputs)).y
    np.testing.assert_allclose(predicted.numpy(), targets, atol=1e-5)
    true = chnn_data.long_motions(2, count=8)
    predicted = chnn.predicted_motions(true_motion(2, 16), true.state[:, 0])
    error = chnn_data.over_time(chnn_data.relative_error(predicted, true))
    assert chnn_data.geometric_mean(error) < 1e-6


# -- metric ------------------------------------------------------------------------------------------------------------


def test_relative_error_is_over_positions_and_velocities_of_all_bodies():
    true = Motions(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)))
    true.q[0, 0, 0], true.v[0, 0, 1] = [3, 0], [0, 4]  # of norm 5
    predicted = Motions(true.q.copy(), true.v.copy())
    predicted.v[0, 0, 1] = [0, 0]  # off by 4, of norm 3
    np.testing.assert_allclose(chnn_data.relative_error(predicted, true), [[4 / (3 + 5)]])
    with pytest.raises(ValueError, match="expected the same"):
        chnn_data.relative_error(Motions(true.q[:, :, :1], true.v[:, :, :1]), true)


def test_mean_over_time_is_theirs():
    """Trapezoids span 2.97 s and are divided by 3 s: of a constant e it is e^0.99."""
    np.testing.assert_allclose(chnn_data.over_time(np.full((2, 100), 1e-3)), (1e-3 + 1e-8) ** 0.99, rtol=1e-12)
    np.testing.assert_allclose(chnn_data.over_time(np.zeros((1, 100))), 1e-8**0.99, rtol=1e-12)


def test_perturbation_floor_of_two_bodies_is_that_of_their_table():
    """5.88e-5 there; the geometric mean of 100 trajectories of other draws scatters by a tenth or so."""
    assert chnn_data.geometric_mean(chnn_data.floor(2)) == pytest.approx(5.88e-5, rel=0.3)


# -- learning ----------------------------------------------------------------------------------------------------------


def test_a_run_learns_leaves_a_record_and_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(chnn, "_TEST_STEPS", 4)
    monkeypatch.setattr(chnn, "N_VALIDATION", 8)
    config = Config(2, 8, hidden=16, phases=((4, 1), (8, 1)))
    result = chnn.run(config, tmp_path / "runs", tmp_path / "results")
    assert result["test"]["geometric_mean"] < 0.3  # an untrained one has 0.4
    assert result["test"]["mass_error"] < 0.2  # equal masses are off by 0.06, but not known to the untrained
    assert result["test"]["violation_max"] < 1e-9
    assert len(result["test"]["by_motion"]) == 100
    path = tmp_path / "results" / "pendulum2-n8-s0.json"
    stored = read_json(path)
    assert chnn.run(config, tmp_path / "nowhere", tmp_path / "results") == stored
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ValueError, match="another configuration"):
        chnn.run(Config(2, 8, hidden=17, phases=((4, 1), (8, 1))), tmp_path / "runs", tmp_path / "results")
    path.write_text(path.read_text().replace('"parameters": ', '"parameters": 1'))
    for read in (lambda: chnn.read_results(tmp_path / "results"), lambda: chnn.run(config, path, path.parent)):
        with pytest.raises(ValueError, match="damaged: its digest"):
            read()


def test_weights_depend_on_the_seed():
    one, same, other = (chnn.build_model(Config(2, 8, seed), 4).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert all(value.dtype == torch.float64 for value in one.values())


def test_table_has_median_and_range_beside_their_figures():
    def record(n_train, seed, value):
        test = {"geometric_mean": value, "mean": 2 * value, "violation_max": 1e-10, "mass_error": 1e-4}
        config = {"bodies": 2, "n_train": n_train, "seed": seed}
        return {"config": config, "test": test, "cpu_seconds": 60.0, "floor": {"geometric_mean": 5.9e-5}}

    values = [(100, 0, 3e-4), (100, 1, 1e-4), (100, 2, 2e-4), (7, 0, 0.5)]
    *_, unknown, known = chnn.markdown([record(*value) for value in values]).splitlines()
    assert unknown.startswith("| 2 | 7 | 1 | 5.0e-01 (5.0e-01 to 5.0e-01) |  |  | 5.9e-05 | 1.0e+00 |")
    assert known.startswith("| 2 | 100 | 3 | 2.0e-04 (1.0e-04 to 3.0e-04) | 9.4e-04 | 6.4e-04 | 5.9e-05 | 4.0e-04 |")


@pytest.mark.parametrize("wrong", [{"bodies": 0, "n_train": 8}, {"bodies": 2, "n_train": 0}])
def test_runs_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="is at least 1, not 0"):
        Config(**wrong)
