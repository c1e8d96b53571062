"""Problems of a few lines of SymPy, validated: their true motion in torch, and times and velocities that matter."""

import functools
import json

import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae.experiments.problems import registry as motions
from ndae.experiments.problems.mechanics import MotionProblem
from ndae.experiments.problems.trajectories import starts, trajectories
from ndae.experiments.validation.propagators import MotionMap, with_true_force
from ndae.experiments.validation.truth import truth_of
from ndae.experiments.validation.validate import Contest, compare, contest_of, new_starts
from tests.experiments.command_line import in_process
from tests.experiments.test_motions import ball

pytestmark = pytest.mark.usefixtures("own_cache")

PERIOD, N = 0.1, 3
TS = PERIOD * np.arange(4)


@functools.cache
def moving_bead() -> MotionProblem:
    """A bead on a ring whose centre goes to and fro, in a wind that comes and goes."""
    q, v, t = sp.symbols("x y", real=True), sp.symbols("u w", real=True), sp.Symbol("t", real=True)
    centre = sp.sin(5 * t) / 2
    return MotionProblem(
        name="moving_bead", title="A bead on a moving ring", q=q, v=v, dim=2, mass=2.0,
        force=[4 * sp.cos(3 * t) - v[0], -20.0], holonomic=[sp.sqrt((q[0] - centre) ** 2 + q[1] ** 2) - 1], time=t,
        start=lambda random: (random.normal(size=2), random.normal(size=2)), size=1.0, size_of="the radius",
    )  # fmt: skip


PROBLEMS = {"ball": ball, "moving_bead": moving_bead, "sleigh": lambda: motions.to_learn("chaplygin_sleigh")}


@pytest.mark.parametrize("name", PROBLEMS)
def test_accelerations_are_those_of_the_reference(name):
    """By central differences of its velocities."""
    problem = PROBLEMS[name]()
    truth, h = truth_of(problem), 1e-3
    ts = 0.2 + h * np.arange(-2, 3)
    q, v = trajectories(problem, *starts(problem, N, 0, 0), np.concatenate([[0.0], ts]))
    q, v = q[:, 1:], v[:, 1:]
    by_differences = (8 * (v[:, 3] - v[:, 1]) - (v[:, 4] - v[:, 0])) / (12 * h)
    at, moving, time = torch.as_tensor(q[:, 2]), torch.as_tensor(v[:, 2]), torch.full((N,), 0.2, dtype=torch.float64)
    found = truth.motion.acceleration(at, moving, time)
    np.testing.assert_allclose(found, by_differences, atol=1e-6 * np.abs(by_differences).max())
    assert np.abs(by_differences).max() > 1
    rate = truth.motion(time, torch.cat([at, moving], -1))
    torch.testing.assert_close(rate, torch.cat([moving, found], -1))
    violations = truth.violations(at, moving, time)
    assert violations.keys() == ({"velocity"} if name == "sleigh" else {"position", "velocity"})
    assert max(residual.abs().max() for residual in violations.values()) < 1e-9


def motion(problem, force, n_steps=10) -> ndae.NeuralMotion:
    constraint, along = (c if c is None else c.torch() for c in (problem.constraint, problem.velocity_constraint))
    return ndae.NeuralMotion(
        constraint, force, duration=PERIOD, n_steps=n_steps, mass=problem.mass, velocity_constraints=along,
        method=ndae.methods.SmoothProjection(tol=1e-12),
    ).double()  # fmt: skip


@pytest.mark.parametrize("name", ["moving_bead", "sleigh"])
def test_an_untrained_motion_against_the_reference(name):
    problem = PROBLEMS[name]()
    model = motion(problem, ndae.forces.MLPForce(problem.nodes, problem.dim, 8))
    held_out = new_starts(problem, N, 0)
    found = compare(contest_of(model, problem, PERIOD), held_out, TS[-1])
    rollout = found.rollout
    assert np.all(rollout["error"] <= rollout["learning"] + rollout["integrator"] + 1e-15)
    assert rollout["integrator"].max() < 1e-5 < 1e-2 < rollout["learning"][:, -1].min()
    true = MotionMap(with_true_force(model, truth_of(problem).motion))
    right = compare(Contest(true, true), held_out, TS[-1]).rollout["multiplier_error"]
    assert right.max() < 1e-4 < 1e-2 < rollout["multiplier_error"].max()
    assert rollout["velocity_violation"].max() < 1e-9 and found.one_period["velocity_violation"].max() < 1e-9
    assert ("position_violation" in rollout) == (name != "sleigh") and "energy_error" not in rollout
    assert found.samples_end is None and found.energy_range is None
    # One horizon on from where the reference is, by the force that is true at that time.
    assert found.one_period["integrator"].max() < 1e-5


def test_times_matter():
    """The true force under constraints at the wrong time is another motion."""
    problem = moving_bead()
    model = with_true_force(motion(problem, ndae.forces.MLPForce(1, 2, 8)), truth_of(problem).motion)
    right = MotionMap(model)
    assert right.needs_time and not MotionMap(motion(ball(), ndae.forces.MLPForce(1, 3, 8))).needs_time
    q, v = trajectories(problem, *starts(problem, N, 0, 3), TS)
    ahead, _ = right.advance(q[:, 1], v[:, 1], TS[1])
    np.testing.assert_allclose(ahead, q[:, 2], atol=1e-5)
    still, _ = right.advance(q[:, 1], v[:, 1], 0.0)
    assert np.abs(still - q[:, 2]).min(1).max() > 1e-3


def test_what_drifted_off_is_carried_on():
    """Without stabilisation a motion leaves its constraint, and is compared all the same."""
    problem = ball()
    model = motion(problem, ndae.forces.MLPForce(1, 3, 8))
    q, v = starts(problem, N, 0, 3)
    off, _ = MotionMap(model).advance(1.01 * q, v)
    assert np.isfinite(off).all() and model.start_tol < 1
    with pytest.raises(ValueError, match="start that is off the constraint"):
        model.trajectory(torch.as_tensor(np.concatenate([1.01 * q, v], -1)[:, None]), [0.0, 0.1])


def test_a_network_over_positions_is_compared_too():
    problem = ball()
    model = ndae.models.build_network(
        "mlp",
        problem.constraint.torch(),
        ndae.methods.SmoothProjection(),
        edges=problem.edges,
        features=6,
        dim=3,
        n_layers=2,
    )
    held_out = new_starts(problem, N, 0)
    contest = contest_of(model.double().eval(), problem, PERIOD)
    found = compare(Contest(contest.model, contest.integrator, contest.velocities), held_out, TS[-1])
    assert {"learning", "velocities", "integrator"} < found.rollout.keys()
    assert found.rollout["integrator"][:, 1].max() < 1e-3 < found.rollout["learning"][:, 1].min()


def test_new_starts_are_in_no_set():
    problem = ball()
    drawn = [new_starts(problem, 5, 0).q, *(starts(problem, 5, 0, part)[0] for part in (0, 1, 2))]
    apart = [np.abs(drawn[0][:, None] - other).max(-1).min() for other in drawn[1:]]
    assert min(apart) > 1e-3


def test_the_command_on_a_sleigh(capsys, tmp_path):
    sizes = ("--n-train", 20, "--epochs", 1)
    code, _, err = in_process(capsys, "train", "chaplygin_sleigh", "--method", "multiplier", *sizes, "--out", tmp_path)
    assert code == 0, err
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["network"] == "mlp" and result["violation_max"] < 2e-6
    code, out, err = in_process(capsys, "validate", tmp_path, "--trajectories", N, "--seconds", 0.4)
    assert (code, err) == (0, "")
    for words in ("chaplygin sleigh: Multiplier", "3 trajectories that no sample is from", "constraints on velocities"):
        assert words in out
    assert "energy" not in out and "|c|" not in out
    assert (tmp_path / "validation.png").stat().st_size > 10_000
