"""Problems of a few lines of SymPy: their motion by other means, samples, refusals, and runs as small as can be."""

import dataclasses
import functools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch
from scipy.integrate import solve_ivp

from ndae.experiments.problems import registry as motions
from ndae.experiments.problems.library import chaplygin_sleigh as sleigh, robot_arm as arm
from ndae.experiments.problems.mechanics import MotionProblem
from ndae.experiments.problems.trajectories import baselines, split, starts, violations
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.models import build_model
from ndae.experiments.runs.run import build_data, load_model, run
from ndae.experiments.terminal import UserError
from ndae.experiments.validation.truth import truth_of
from ndae.training.evaluation import evaluate
from tests.experiments.command_line import in_process

SMALL = {"network": "mlp", "n_train": 60, "n_val": 20, "n_test": 40, "epochs": 2, "horizon": 20}


pytestmark = pytest.mark.usefixtures("own_cache")


@functools.cache
def ball() -> MotionProblem:
    """A bead on a sphere, under a weight and a wind."""
    q, v = sp.symbols("x y z", real=True), sp.symbols("u v w", real=True)
    radius = sp.Symbol("radius")

    def start(random):
        return [*random.normal(0, 1, 2), 3 + random.normal()], random.normal(0, 1, 3)

    return MotionProblem(
        name="ball", title="A bead on a sphere", q=q, v=v, dim=3, mass=2.0, force=[1.0, 0, -20 - v[2] / 2],
        holonomic=[sp.sqrt(sum(x**2 for x in q)) - radius], parameters={radius: 1.5}, start=start,
        edges=((None, 0),), size=1.5, size_of="the radius", stride=10,
    )  # fmt: skip


@pytest.fixture
def bead(monkeypatch):
    """The bead as if it had a file among the others."""
    monkeypatch.setitem(sys.modules, "ndae.experiments.problems.library.ball", types.SimpleNamespace(PROBLEM=ball()))
    monkeypatch.setattr(motions, "TO_LEARN", (*motions.TO_LEARN, "ball"))
    return motions.to_learn("ball")


# --- the equations, by other means ------------------------------------------------------------------------------------


def test_the_sleigh_moves_as_in_the_books():
    """Speed u along the runner and turning rate ω have equations of their own, without a multiplier."""
    test = motions.to_learn("chaplygin_sleigh").data(60, 20, 0, n_val=20, n_test=40).test
    m, inertia, a = sleigh.MASS, sleigh.INERTIA, sleigh.OFFSET

    def rate(t, state):
        theta, u, omega = state[2:]
        velocity = u * np.array([np.cos(theta), np.sin(theta)]) + a * omega * np.array([-np.sin(theta), np.cos(theta)])
        force = -sleigh.DRAG * velocity - np.array([0, m * sleigh.SLOPE])
        along, across = force @ [np.cos(theta), np.sin(theta)], force @ [-np.sin(theta), np.cos(theta)]
        turning = -sleigh.TURNING_DRAG * omega + a * across - m * a * u * omega
        return [*velocity, omega, a * omega**2 + along / m, turning / (inertia + m * a**2)]

    for number in np.unique(test.trajectory):
        own = test.trajectory == number
        q, v = np.split(test.inputs[own][0, 0], 2)
        begin = [*q, v[0] * np.cos(q[2]) + v[1] * np.sin(q[2]), v[2]]
        ts = np.append(test.t0[own], test.t0[own][-1] + 0.2)
        found = solve_ivp(rate, (0, 2), begin, t_eval=ts, method="DOP853", rtol=1e-11, atol=1e-12).y[:3].T
        np.testing.assert_allclose(test.inputs[own, 0, :3], found[:-1], rtol=0, atol=1e-8)
        np.testing.assert_allclose(test.targets[own][-1, 0], found[-1], rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def arm_data():
    return motions.to_learn("robot_arm").data(60, 20, 0, n_val=20, n_test=40)


def test_the_arm_follows_its_path_and_loses_its_energy_to_friction(arm_data):
    """At every sample; and what it does in between is what the torch motion does under the same force."""
    problem = motions.to_learn("robot_arm")
    for part in (arm_data.train, arm_data.test):
        for r, t in ((part.inputs[..., :2], part.t0), (part.targets, part.t0 + 0.2)):
            ends = np.stack([arm.END[0] - np.sin(2 * np.pi * t) / (2 * np.pi), np.full_like(t, arm.END[1])], -1)
            np.testing.assert_allclose(r[:, 2], ends, atol=1e-10)
            lengths = np.linalg.norm(np.diff(r, axis=1, prepend=0), axis=-1)
            np.testing.assert_allclose(lengths, 1, atol=1e-10)
    model = true_motion(problem, n_steps=40)
    found = model.predict(torch.as_tensor(arm_data.test.inputs), t0=torch.as_tensor(arm_data.test.t0))
    np.testing.assert_allclose(found.y.detach(), arm_data.test.targets, atol=1e-7)
    wrong = model.predict(torch.as_tensor(arm_data.test.inputs), t0=torch.as_tensor(arm_data.test.t0 + 1.0))
    np.testing.assert_allclose(wrong.y.detach(), arm_data.test.targets, atol=1e-7)  # the path has a period of 1 s


def true_motion(problem, n_steps):
    import ndae

    force = truth_of(problem).motion.force

    def acting(t, x):
        return force(*(part.flatten(-2) for part in x.chunk(2, -1)), t).unflatten(-1, (-1, problem.dim))

    return ndae.NeuralMotion(
        problem.constraint.torch(), acting, duration=0.2, n_steps=n_steps, mass=problem.mass,
        method=ndae.methods.SmoothProjection(tol=1e-12), start_tol=1e-8,
    )  # fmt: skip


# --- samples ----------------------------------------------------------------------------------------------------------


def test_no_trajectory_is_in_two_sets(arm_data):
    sets = [set(part.trajectory.tolist()) for part in (arm_data.train, arm_data.val, arm_data.test)]
    assert [len(own) for own in sets] == [12, 4, 8] and len(set.union(*sets)) == 24
    begins = np.concatenate([part.inputs[part.t0 == 0] for part in (arm_data.train, arm_data.val, arm_data.test)])
    apart = np.abs(begins[:, None] - begins).max((2, 3)) + np.eye(len(begins))
    assert apart.min() > 1e-3


def test_more_starts_begin_with_the_same():
    few, more, other, part = (starts(ball(), *draw) for draw in ((2, 3, 0), (9, 3, 0), (2, 4, 0), (2, 3, 1)))
    for k in (0, 1):
        np.testing.assert_allclose(more[k][:2], few[k], atol=1e-12)
        assert min(np.abs(another[k] - few[k]).max() for another in (other, part)) > 0.1


def test_a_sample_is_a_state_and_where_it_is_later():
    samples, _ = split(ball(), (7, 5), 10, 3)
    assert samples.inputs.shape == (7, 1, 6) and samples.targets.shape == (7, 1, 3) and len(samples) == 7
    assert samples.trajectory.tolist() == [0] * 5 + [1] * 2
    np.testing.assert_allclose(samples.t0[:5], [0, 0.1, 0.2, 0.3, 0.4])
    # The stride is the horizon here, so that a target is the position of the next sample.
    np.testing.assert_allclose(samples.targets[:4], samples.inputs[1:5, :, :3], atol=1e-12)


@pytest.mark.parametrize("name", ["robot_arm", "chaplygin_sleigh"])
def test_starts_are_consistent(name):
    problem = motions.to_learn(name)
    q, v = starts(problem, 20, 0, 1)
    shape = (20, problem.nodes, problem.dim)
    assert violations(problem, q.reshape(shape), v.reshape(shape), np.zeros(20)).max() < 1e-12
    if problem.constraint is not None:
        rate = problem.constraint.torch().velocity(torch.as_tensor(q), torch.as_tensor(v), 0.0)
        assert rate.abs().max() < 1e-12
    assert q.std(0).max() > 0.1 and v.std(0).max() > 0.5


def test_baselines_by_hand(arm_data):
    table = baselines(motions.to_learn("robot_arm"), arm_data)
    test = arm_data.test
    still = 100 * np.linalg.norm(test.inputs[..., :2] - test.targets, axis=-1).mean()
    assert table["no motion"]["mae_cm"] == pytest.approx(still)
    moved = test.inputs[..., :2] + 0.2 * test.inputs[..., 2:]
    assert table["constant velocity"]["mae_cm"] == pytest.approx(
        100 * np.linalg.norm(moved - test.targets, axis=-1).mean()
    )
    end = moved[:, 2, 0] - arm.END[0] + np.sin(2 * np.pi * (test.t0 + 0.2)) / (2 * np.pi)
    assert table["constant velocity"]["violation_max"] >= np.abs(end).max()
    assert min(row["mae_cm"] for row in table.values()) > 1


# --- what can not be --------------------------------------------------------------------------------------------------


def test_sizes_and_starts_that_do_not_fit_are_refused():
    q, v = sp.symbols("x y"), sp.symbols("u v")
    options = {"name": "odd", "title": "", "q": q, "v": v, "mass": 1.0, "size": 1.0, "size_of": "it"}
    with pytest.raises(ValueError, match="odd: 2 coordinates, 2 velocities, 1 forces"):
        MotionProblem(dim=2, force=[0], start=None, **options)
    wrong = MotionProblem(dim=2, force=[0, 0], start=lambda random: ([0.0], [1.0]), **options)
    with pytest.raises(ValueError, match=r"odd: start draws coordinates \(1,\): expected finite \(2,\)"):
        starts(wrong, 2, 0, 0)
    with pytest.raises(ValueError, match="horizon is a whole number of at least 1, not 0"):
        split(ball(), (5,), 0, 0)


def test_a_start_that_is_too_far_is_named():
    q, v = sp.symbols("x y"), sp.symbols("u v")
    nowhere = MotionProblem(
        name="none", title="", q=q, v=v, dim=2, mass=1.0, size=1.0, size_of="it", force=[0, 0],
        holonomic=[sp.exp(q[0]) + q[1] ** 2], start=lambda random: (random.normal(size=2), [0, 0]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="none: 3 of 3 starts are too far from any consistent one, first number 0"):
        starts(nowhere, 3, 0, 0)


def test_every_problem_is_known_by_its_name():
    assert motions.TO_LEARN[0] == "pendulum" and motions.to_learn("pendulum").network == RunConfig().network
    for name in motions.TO_LEARN:
        assert motions.to_learn(name).name == name
    with pytest.raises(ValueError, match="problem 'sand' is unknown: give one of pendulum, "):
        motions.to_learn("sand")


@pytest.mark.parametrize("name", ["robot_arm", "chaplygin_sleigh"])
def test_methods_that_know_no_time_and_no_velocities_are_refused_in_a_line(capsys, tmp_path, name):
    for command in (("train", name, "--method", "smooth"), ("compare", name)):
        code, _, err = in_process(capsys, *command, "--out", tmp_path / "run")
        assert code == 1 and len(err.splitlines()) == 1
        assert name in err and "--method multiplier" in err
    assert not list(tmp_path.rglob("config.json"))


def test_a_graph_network_needs_edges():
    with pytest.raises(ValueError, match=r"chaplygin_sleigh has no edges .*'mimetic-small'.*--network mlp"):
        build_model(RunConfig(problem="chaplygin_sleigh", method="multiplier", network="mimetic-small"))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "unit", "epochs"), [("robot_arm", "m", 8), ("chaplygin_sleigh", "m/s", 20)])
def test_a_small_run_beats_constant_velocity_and_keeps_to_its_constraints(capsys, tmp_path, name, unit, epochs):
    out = tmp_path / "run"
    config = RunConfig(problem=name, method="multiplier", **SMALL | {"epochs": epochs, "learning_rate": 5e-3})
    result = run(config, out, progress=False)
    assert result["test_mae_cm"] < 0.6 * result["baselines"]["constant velocity"]["mae_cm"]
    assert result["violation_max"] < 2e-6
    _, model = load_model(out)
    problem = motions.to_learn(name)
    test = build_data(config).test
    again = evaluate(model, test.inputs, test.targets, problem.conditions(test))
    assert 100 * again.mae == pytest.approx(result["test_mae_cm"], rel=1e-6)
    code, text, err = in_process(capsys, "table", tmp_path)
    assert (code, err) == (0, "")
    assert problem.violation_is in text and f"({unit})" in text and name.replace("_", " ") in text


def test_a_problem_of_ones_own_runs_by_every_method(bead, tmp_path):
    """Its only constraint is on positions and does not move."""
    for method in ("none", "end", "smooth", "multiplier"):
        result = run(RunConfig(problem="ball", method=method, **SMALL), tmp_path / method, progress=False)
        assert np.isfinite(result["test_mae_cm"])
        assert (result["violation_max"] < 1e-4) == (method != "none")
    assert build_model(RunConfig(problem="ball", method="multiplier", network="mimetic-small")).nodes == 1


# -- a file of the user's ----------------------------------------------------------------------------------------------

BEAD = """
import sympy as sp
from ndae.experiments.problems.mechanics import MotionProblem

q, v = sp.symbols("x y", real=True), sp.symbols("u w", real=True)
problem = MotionProblem(
    name="bead", title="Bead on a ring", q=q, v=v, dim=2, mass=1.0, force=[0, -9.81], holonomic=[q[0]**2 + q[1]**2 - 1],
    start=lambda random: (random.normal(0, 1, 2), random.normal(0, 1, 2)), size=1.0, size_of="the radius",
    per_trajectory=4, stride=5,
)
"""


def test_a_file_is_a_problem_to_train_on_to_validate_and_to_cross_check(tmp_path, monkeypatch):
    from ndae.experiments.problems import load_problem
    from ndae.experiments.validation.validate import validate

    monkeypatch.chdir(tmp_path)
    Path("bead.py").write_text(BEAD)
    config = RunConfig(
        "bead.py", "multiplier", n_train=8, n_val=4, n_test=4, horizon=2, epochs=1, network="mlp", dtype="float64"
    )
    result = run(config, "run", progress=False)
    assert result["violation_max"] < 1e-9 and result["test_mae_cm"] > 0
    assert validate("run", seconds=0.02, trajectories=2).about["problem"] == "bead.py"
    problem = load_problem("bead.py")
    assert problem.system.index == 3 and problem.t_span == (0.0, 0.2)

    Path("bead.py").write_text(BEAD.replace("9.81", "1.62"))
    assert "1.62" in str(motions.to_learn("bead.py").force)  # read again
    with pytest.raises(ValueError, match=r"bead.py has changed since the run in run was begun"):
        run(dataclasses.replace(config, problem_digest=None), "run", progress=False)
    with pytest.raises(ValueError, match=r"bead.py has changed since this run was begun"):
        load_model("run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "problem.py: no such file"),
        ("x = 1", "defines no `problem`: write `problem = DataProblem"),
        ("problem = 1", "is of type int: write `problem = DataProblem"),
        ("\nimport no_such_package", "problem.py: line 2, ModuleNotFoundError"),
    ],
)
def test_files_that_are_no_problem_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("problem.py").write_text(text)
    with pytest.raises(UserError, match=message):
        motions.to_learn("problem.py")


def test_tolerances_go_by_the_size_of_the_system():
    """A bead on a wire of 1e-9 m is held to that, and not to the 1e-6 m of a system of a metre."""
    x, v = sp.symbols("x v", real=True)
    made = {
        size: MotionProblem(
            name="bead", title="Bead", q=[x], v=[v], dim=1, mass=1.0, force=[0], start=None, size=size, size_of="it"
        )
        for size in (1e-9, 0.1, 1.0, 3.0, 1e3)
    }
    assert [p.projection_tol for p in made.values()] == pytest.approx([5e-13, 5e-5, 5e-5, 5e-5, 5e-3])
    assert made[1.0].motion_tol == {"float32": 1e-6, "float64": 1e-10}
    assert made[1e-9].motion_tol == pytest.approx({"float32": 1e-14, "float64": 1e-18})
