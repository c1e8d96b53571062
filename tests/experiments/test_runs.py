"""Runs: configurations, the folder that a run leaves, the same numbers again, kills, and damaged folders."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ndae
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.runs import run as runs
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.models import build_method, build_model
from ndae.experiments.runs.run import load_model, run
from ndae.experiments.variants import STRENGTHS
from ndae.training.checkpoints import CheckpointError, load_checkpoint
from tests.killable import start
from tests.systems import Attack, chain_states

TINY = {"network": "mlp", "n_train": 25, "n_val": 8, "n_test": 12, "epochs": 2, "batch_size": 10, "horizon": 3}


def swinging(n_steps, dt=pendulum.DT, n_bodies=pendulum.N_BODIES, *, progress=None) -> pendulum.Trajectory:
    """Links that swing each at a rate of its own: no solution of anything, but links keep their length."""
    ts = dt * np.arange(n_steps + 1)
    rates = 1.0 + 0.37 * np.arange(n_bodies)
    angle = np.sin(ts[:, None] * rates)
    speed = rates * np.cos(ts[:, None] * rates)
    return pendulum.Trajectory(ts, *chain_states(angle, speed), np.zeros(len(ts)))


@pytest.fixture(autouse=True)
def _no_simulation(monkeypatch):
    monkeypatch.setattr(pendulum, "simulate", swinging)


def tiny(**changes) -> RunConfig:
    return RunConfig(**(TINY | changes))


def numbers(result: dict) -> dict:
    """A result without the times it took, and without digests of itself and of its log, which are of these as well."""
    timed = ("train_seconds", "step_ms", "sha256", "log_digest")
    return {name: value for name, value in result.items() if name not in timed}


# --- configurations --------------------------------------------------------------------------------------------------


def test_configurations_load_without_torch():
    code = (
        "import sys, ndae.experiments.runs.run as r; r.RunConfig(); "
        "print(sorted({'torch', 'jax', 'numpy'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_configuration_through_json():
    config = tiny(method="smooth", gamma=3, eta=0.5, patience=4, adjoint=True, dtype="float64")
    assert RunConfig.from_json(config.to_json()) == config
    assert isinstance(config.gamma, float)


@pytest.mark.parametrize(
    ("method", "gamma", "eta"),
    [("none", 0, 0), ("auxiliary", 0, 5), ("penalty", 3, 0), ("end", 3, 5), ("smooth", 3, 5)],
)
def test_strengths_that_a_method_has_not_are_zero(method, gamma, eta):
    config = RunConfig(method=method, gamma=3, eta=5)
    assert (config.gamma, config.eta) == (gamma, eta)
    assert config == RunConfig(method=method, gamma=gamma, eta=eta)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"problem": "sand"}, "problem 'sand' is unknown: give one of pendulum"),
        ({"method": "smoth"}, "method 'smoth' is unknown: give one of none, auxiliary, penalty, end, smooth"),
        ({"network": "resnet"}, "network 'resnet' is unknown"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown"),
        ({"n_train": 0}, "n_train is a whole number of at least 1, not 0"),
        ({"epochs": 2.0}, "epochs is a whole number of at least 1, not 2.0"),
        ({"seed": -1}, "seed is a whole number of at least 0, not -1"),
        ({"seed": True}, "seed is a whole number"),
        ({"learning_rate": 0}, "learning_rate is a finite number above 0, not 0"),
        ({"method": "penalty", "gamma": float("nan")}, "gamma is a finite number of at least 0, not nan"),
        ({"method": "penalty", "gamma": "10"}, "gamma is a finite number of at least 0, not '10'"),
        ({"patience": 0}, "patience is a whole number of at least 1"),
        ({"adjoint": 1}, "adjoint is true or false"),
        ({"method": "multiplier", "stabilisation": "glue"}, "stabilisation 'glue' is unknown: give one of projection"),
        ({"method": "multiplier", "force": "weak"}, "force 'weak' is unknown: give one of free, potential"),
        ({"schedule": "steep"}, "schedule 'steep' is unknown: give one of constant, cosine"),
        ({"method": "end", "force": "potential"}, "is of the methods 'multiplier' and 'soft' alone, and the method is"),
        ({"method": "soft", "stabilisation": "ggl"}, "is of the method 'multiplier' alone, and the method is 'soft'"),
        ({"frame_step": 0.5}, "frame_step is the time between the frames of a trajectory: give trajectory too"),
        ({"trajectory": "a.xyz", "frame_step": 0}, "frame_step is a finite number above 0, not 0"),
        ({"method": "end", "stabilisation": "ggl"}, "'ggl' is of the method 'multiplier' alone, and the method is 'en"),
    ],
)
def test_configurations_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**values)


def test_strengths_not_given_are_the_methods_own():
    assert RunConfig(method="smooth") == RunConfig(method="smooth", gamma=10, eta=10)
    assert RunConfig(method="multiplier") == RunConfig(method="multiplier", gamma=0, eta=0)
    assert RunConfig(method="multiplier", eta=3).eta == 3.0


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="a run has no setting 'colour'"):
        RunConfig.from_json('{"colour": 1}')
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        RunConfig.from_json("[]")


# --- building --------------------------------------------------------------------------------------------------------


def test_methods_of_the_paper():
    def parts(**values):
        method = build_method(RunConfig(gamma=3, eta=5, **values) if "gamma" not in values else RunConfig(**values))
        return {type(part): vars(part) for part in getattr(method, "methods", [method])}

    assert list(parts(method="none")) == [ndae.methods.Unconstrained]
    assert parts(method="auxiliary") == {ndae.methods.Auxiliary: {"eta": 5.0}}
    assert parts(method="penalty")[ndae.methods.Penalty]["gamma"] == 3.0
    for method, projection in (("end", ndae.methods.EndProjection), ("smooth", ndae.methods.SmoothProjection)):
        found = parts(method=method)
        assert set(found) == {projection, ndae.methods.Penalty, ndae.methods.Auxiliary}
        assert (found[ndae.methods.Penalty]["gamma"], found[ndae.methods.Auxiliary]["eta"]) == (3.0, 5.0)
        assert set(parts(method=method, gamma=0, eta=0)) == {projection}
    assert set(parts(method="penalty", gamma=0)) == {ndae.methods.Unconstrained}
    assert set(parts(method="tangent", gamma=None, eta=None)) == {ndae.methods.Multiplier}
    assert set(parts(method="tangent")) == {ndae.methods.Multiplier, ndae.methods.Penalty, ndae.methods.Auxiliary}


def test_methods_of_a_motion():
    def parts(**values):
        model = build_model(tiny(method="multiplier", **values))
        return {type(part) for part in getattr(model.method, "methods", [model.method])}, model.baumgarte

    assert parts() == ({ndae.methods.SmoothProjection}, 0.0)
    assert parts(stabilisation="ggl") == ({ndae.methods.Multiplier}, 0.0)
    assert parts(stabilisation="none") == ({ndae.methods.Unconstrained}, 0.0)
    kind, rate = parts(stabilisation="baumgarte")
    assert kind == {ndae.methods.Unconstrained} and rate > 0
    of_all = {ndae.methods.Multiplier, ndae.methods.Penalty, ndae.methods.Auxiliary}
    assert parts(stabilisation="ggl", gamma=3, eta=5)[0] == of_all
    assert build_model(tiny(method="multiplier", dtype="float64")).method.tol < 1e-9


@pytest.mark.parametrize(("network", "free", "potential"), [
    ("mlp", "MLPForce", "MLPPotential"), ("mimetic-small", "GraphForce", "GraphPotential"),
])  # fmt: skip
def test_forces_of_a_motion(network, free, potential):
    assert type(build_model(tiny(method="multiplier", network=network)).force).__name__ == free
    force = build_model(tiny(method="multiplier", network=network, force="potential")).force
    assert (type(force).__name__, type(force.potential).__name__) == ("PotentialForce", potential)


def test_models_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = build_model(tiny(dtype="float64")).state_dict()
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    same, other = (build_model(tiny(dtype="float64", seed=seed)).state_dict() for seed in (0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    assert all(value.dtype == torch.float64 for value in one.values() if value.is_floating_point())


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run of every method, tiny."""
    folder, results = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pendulum, "simulate", swinging)
        for method in (name for name in STRENGTHS if name != "soft"):  # the pendulum's links are rigid
            results[method] = run(tiny(method=method), folder / method, progress=False)
    return folder, results


def test_result_against_the_network_by_hand(made):
    folder, results = made
    data = pendulum.pendulum_data(TINY["n_train"], TINY["horizon"], 0, n_val=TINY["n_val"], n_test=TINY["n_test"])
    for method, result in results.items():
        config, model = load_model(folder / method)
        assert config == tiny(method=method) and not model.training
        with torch.no_grad():
            y = model(torch.as_tensor(data.test.inputs, dtype=torch.float32)).double().numpy()
        violations = pendulum.violation(y)
        assert result["test_mae_cm"] == pytest.approx(pendulum.mean_error_cm(y, data.test.targets), rel=1e-5)
        assert result["violation_max"] == pytest.approx(violations.max(), rel=1e-3, abs=1e-6)
        assert result["violation_mean"] == pytest.approx(violations.mean(), rel=1e-3, abs=1e-6)
        assert result["parameters"] == sum(weight.numel() for weight in model.parameters())


def test_result_says_what_was_run(made):
    folder, results = made
    for method, result in results.items():
        assert json.loads((folder / method / "result.json").read_text()) == result
        assert RunConfig.from_json((folder / method / "config.json").read_text()) == tiny(method=method)
        assert result["method"] == method and result["n_train"] == 25 and result["epochs"] == 2
        assert result["train_seconds"] > 0 and result["step_ms"] > 0 and result["best_epoch"] in (1, 2)
        assert result["versions"]["torch"] == torch.__version__
        assert result["baselines"]["no motion"]["mae_cm"] > 0
        files = {path.name for path in (folder / method).rglob("*") if path.is_file()}
        checkpoints = {"best.ckpt", "last.ckpt", "previous.ckpt"}
        assert files == {"config.json", "result.json", "log.csv", ".lock"} | checkpoints
    header = (folder / "none" / "log.csv").read_text().splitlines()[0].split(",")
    assert {"epoch", "train_loss", "train_mae_cm", "val_mae_cm", "val_violation_mean", "val_violation_max"} < {*header}


def test_projections_hold_the_constraint(made):
    _, results = made
    for method in ("end", "smooth"):
        assert results[method]["violation_max"] < 1e-4
        assert results[method]["projections"]["unconverged"] == 0
    assert results["end"]["projections"]["count"] == TINY["n_test"]
    assert results["none"]["projections"] is None and results["none"]["violation_max"] > 1e-4


def test_the_same_command_gives_the_same_numbers(made, tmp_path):
    folder, results = made
    torch.manual_seed(99)
    again = run(tiny(method="end"), tmp_path / "elsewhere", progress=False)
    assert numbers(again) == numbers(results["end"])
    places = folder / "end", tmp_path / "elsewhere"
    one, other = (load_checkpoint(place / "checkpoints/best.ckpt")["state_dict"] for place in places)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert numbers(run(tiny(method="end", seed=1), tmp_path / "other", progress=False)) != numbers(again)


def test_a_finished_run_is_not_repeated(tmp_path, monkeypatch):
    result = run(tiny(), tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_run", None)
        assert run(tiny(), tmp_path, progress=False) == result
    again = run(tiny(), tmp_path, resume=False, progress=False)
    assert numbers(again) == numbers(result) and again["train_seconds"] != result["train_seconds"]


def test_another_configuration_is_refused(tmp_path):
    run(tiny(), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"another configuration, method none \(now end\).*give another folder"):
        run(tiny(method="end", gamma=0, eta=0), tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"epochs 2 \(now 3\)"):
        run(tiny(epochs=3), tmp_path, resume=False, progress=False)


def test_what_is_mistyped_leaves_nothing_behind(tmp_path):
    for changes, message in (
        ({"integrator": "rk4"}, "classical_rk4"),
        ({"integrator": "leapfrog"}, "leapfrog"),
        ({"device": "cuda:77"}, "no device 'cuda:77' here"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: give a folder"):
        run(tiny(), tmp_path / "file", progress=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"method": "none"}', '{"epochs": "many"}'])
def test_damaged_files_are_named(tmp_path, content):
    run(tiny(), tmp_path, progress=False)
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is not the result of this run: remove the file"):
        run(tiny(), tmp_path, progress=False)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is no configuration|another configuration"):
        run(tiny(), tmp_path, progress=False)


def test_a_number_that_has_changed_in_a_result_is_noticed(made, tmp_path):
    folder, results = made
    path = tmp_path / "end" / "result.json"
    shutil.copytree(folder / "end", tmp_path / "end")
    text = path.read_text()
    for name in ("test_mae_cm", "violation_max", "best_epoch"):
        shown = json.dumps(results["end"][name])
        path.write_text(text.replace(f'"{name}": {shown}', f'"{name}": 1{shown}'))
        with pytest.raises(ValueError, match=r"result\.json is damaged: its digest is not that of its content"):
            run(tiny(method="end"), tmp_path / "end", progress=False)
    path.write_text(text)
    assert run(tiny(method="end"), tmp_path / "end", progress=False) == results["end"]


def test_a_run_made_before_there_was_a_choice_is_found_again(tmp_path):
    result = run(tiny(method="multiplier"), tmp_path, progress=False)
    for name in ("config.json", "result.json"):
        content = json.loads((tmp_path / name).read_text())
        del content["stabilisation"], content["force"]
        content.pop("sha256", None)  # which there was not either
        (tmp_path / name).write_text(json.dumps(content))
    again = run(tiny(method="multiplier"), tmp_path, progress=False)
    assert again["test_mae_cm"] == result["test_mae_cm"] and "force" not in again
    with pytest.raises(ValueError, match=r"another configuration, stabilisation projection \(now ggl\)"):
        run(tiny(method="multiplier", stabilisation="ggl"), tmp_path, progress=False)


def test_removing_the_result_makes_it_again(tmp_path):
    result = run(tiny(), tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    assert run(tiny(), tmp_path, progress=False) == result


def test_a_model_needs_a_run_with_a_sound_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        load_model(tmp_path)
    run(tiny(), tmp_path, progress=False)
    torch.save({"state_dict": {"model.x": Attack(tmp_path / "executed")}}, tmp_path / "checkpoints/best.ckpt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_model(tmp_path)
    assert not (tmp_path / "executed").exists()
    (tmp_path / "checkpoints/best.ckpt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(tmp_path)


def test_progress_names_the_work(tmp_path):
    news = []
    run(tiny(), tmp_path, progress=lambda *new: news.append(new), label="run 1 of 1")
    texts = [what for _, what in news]
    assert all(what.startswith("run 1 of 1: ") for what in texts)
    assert any("epoch 2/2" in what and " cm (best" in what for what in texts) and "testing" in texts[-1]


# --- SIGKILL ---------------------------------------------------------------------------------------------------------


def run_and_die(out: str, steps: int | None, method: str) -> None:
    """A run in a process of its own, which dies by SIGKILL after so many steps, or, for 0, before it tests."""
    pendulum.simulate = swinging
    torch.set_num_threads(1)

    def report(fraction, what):
        if steps and "epoch" in what and "testing" not in what and round(9 * fraction) >= steps:  # of nine
            os.kill(os.getpid(), signal.SIGKILL)
        if steps == 0 and "testing" in what:
            os.kill(os.getpid(), signal.SIGKILL)

    run(tiny(method=method, epochs=3), out, progress=report)


def test_killed_runs_end_with_the_same_numbers(tmp_path):
    def ended(out: Path, steps: int | None = None) -> int:
        process = start(run_and_die, str(out), steps, "smooth")
        process.join()
        return process.exitcode

    assert ended(tmp_path / "whole") == 0
    assert [ended(tmp_path / "killed", steps) for steps in (2, 5, 8, 0)] == [-signal.SIGKILL] * 4
    assert not (tmp_path / "killed" / "result.json").exists()
    assert ended(tmp_path / "killed") == 0
    whole, killed = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed"))
    assert numbers(whole) == numbers(killed)
    assert killed["train_seconds"] > 0 and dataclasses.asdict(tiny(method="smooth", epochs=3)).items() <= killed.items()


def test_the_longest_step_of_a_motion_is_the_problems_or_given():
    assert build_model(tiny(method="multiplier", horizon=20)).n_steps == 10
    assert build_model(tiny(method="multiplier", horizon=20, max_step=0.01)).n_steps == 20
    with pytest.raises(ValueError, match="max_step is of the methods 'multiplier' and 'soft' alone"):
        RunConfig(method="smooth", max_step=0.01)
    with pytest.raises(ValueError, match="max_step is a finite number above 0"):
        RunConfig(method="multiplier", max_step=0.0)
