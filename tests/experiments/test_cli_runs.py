"""Commands that train, from the command line to the files they leave, on networks as small as can be."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from ndae.experiments.cli import commands as cli
from ndae.experiments.runs.models import build_model
from ndae.experiments.runs.records import read_run, record_name
from ndae.experiments.runs.run import load_model
from ndae.training.checkpoints import load_weights
from tests.experiments.command_line import in_process, ndae


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder for runs, and a cache of its own so that the user's is neither read nor written."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDAE_CACHE", str(folder / "cache"))
        yield folder


SMALL = ("pendulum", "--network", "mlp", "--n-train", 20, "--epochs", 2)


@pytest.fixture(scope="module")
def trained(workplace):
    """A small run, made once."""
    assert cli.run(["train", *map(str, SMALL), "--method", "smooth", "--out", str(workplace / "smooth")]) == 0
    return workplace / "smooth"


def test_train_leaves_what_it_promises(trained):
    result = json.loads((trained / "result.json").read_text())
    asked = {"problem": "pendulum", "method": "smooth", "network": "mlp", "n_train": 20, "horizon": 20, "seed": 0}
    assert asked.items() <= result.items()
    promised = ("parameters", "test_mae_cm", "violation_mean", "violation_max", "train_seconds", "step_ms")
    assert all(result[key] > 0 for key in promised)
    assert result["violation_max"] < 1.1e-4
    with (trained / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert json.loads((trained / "config.json").read_text())["gamma"] == 10.0
    assert (trained / "checkpoints" / "best.ckpt").is_file()


def test_motion_with_multipliers_is_trained_and_validated(capsys, workplace):
    out = workplace / "multiplier"
    code, _, err = in_process(capsys, "train", *SMALL, "--method", "multiplier", "--epochs", 5, "--out", out)
    assert code == 0, err
    result = json.loads((out / "result.json").read_text())
    assert result["method"] == "multiplier" and json.loads((out / "config.json").read_text())["gamma"] == 0
    assert result["violation_max"] < 2e-6
    assert result["test_mae_cm"] < 25  # forces and all, constant velocity on the links is 30 cm off
    code, out_text, err = in_process(capsys, "validate", out, "--trajectories", 2, "--seconds", 0.4)
    assert code == 0, err
    assert "Multiplier" in out_text and "velocities" not in out_text


def test_options_of_multipliers_reach_the_run(capsys, workplace):
    out = workplace / "potential"
    options = ("--stabilisation", "ggl", "--force", "potential", "--schedule", "cosine", "--gamma", 1, "--epochs", 1)
    code, text, err = in_process(capsys, "train", *SMALL, "--method", "multiplier", *options, "--out", out)
    assert code == 0, err
    asked = {"stabilisation": "ggl", "force": "potential", "schedule": "cosine", "gamma": 1.0, "eta": 0.0}
    for name in ("config.json", "result.json"):
        assert asked.items() <= json.loads((out / name).read_text()).items()
    assert "Multiplier GGL, potential, γ=1" in text and "cosine schedule" in text


def test_the_weights_to_keep_are_part_of_a_run(capsys, trained, workplace):
    # So fast a learner that the second of three epochs is the best.
    out, options = workplace / "last", ("--learning-rate", 0.3, "--epochs", 3)
    code, text, err = in_process(capsys, "train", *SMALL, "--keep", "last", *options, "--out", out)
    assert code == 0, err
    assert "weights of the last epoch" in text and str(out / "checkpoints" / "last.ckpt") in text
    for name in ("config.json", "result.json"):
        assert json.loads((out / name).read_text())["keep"] == "last"
    with (out / "log.csv").open() as file:
        errors = [float(row["val_mae_cm"]) for row in csv.DictReader(file)]
    result = json.loads((out / "result.json").read_text())
    assert result["val_mae_cm"] == pytest.approx(errors[-1], rel=1e-4)
    assert result["best_epoch"] == 1 + min(range(3), key=errors.__getitem__)
    (out / "checkpoints" / "best.ckpt").unlink()  # nobody reads it
    config, model = load_model(out)
    last = load_weights(build_model(config), out / "checkpoints" / "last.ckpt")
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), last.parameters(), strict=True))
    code, _, err = in_process(capsys, "train", *SMALL, "--method", "smooth", "--keep", "last", "--out", trained)
    assert code == 1 and "another configuration, keep best (now last)" in err
    assert read_run(out).setting != read_run(trained).setting and "-last-s0" in record_name(read_run(out))


def test_a_finished_run_is_shown_again_at_once(capsys, trained):
    before = (trained / "result.json").read_bytes()
    code, out, err = in_process(capsys, "train", *SMALL, "--method", "smooth", "--out", trained)
    assert (code, err) == (0, "")
    assert "Smooth projection γ,η=10" in out and str(trained / "result.json") in out
    assert f"{json.loads(before)['test_mae_cm']:.2f} cm" in out
    assert (trained / "result.json").read_bytes() == before


def test_the_same_command_and_seed_give_the_same_numbers(capsys, trained, workplace):
    in_process(capsys, "train", *SMALL, "--method", "smooth", "--out", workplace / "again")
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (trained, workplace / "again"))
    for key in ("test_mae_cm", "violation_mean", "violation_max"):
        assert first[key] == second[key]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seed", 1), ["smooth", "seed 0", "seed", "1"]),
        (("--device", "cuda:77"), ["cuda:77"]),
        (("--integrator", "rk4"), ["rk4", "classical_rk4"]),
        (("--learning-rate", "-1"), ["learning_rate", "-1"]),
    ],
)
def test_a_run_that_can_not_be_is_one_line(capsys, trained, workplace, arguments, words):
    out = trained if "--seed" in arguments else workplace / "impossible"
    code, _, err = in_process(capsys, "train", *SMALL, "--method", "smooth", "--out", out, *arguments)
    assert code == 1
    assert len(err.splitlines()) == 1 and err.startswith("ndae: ") and "unexpected" not in err
    assert all(word in err for word in words), err


def test_out_is_a_file(capsys, workplace):
    path = workplace / "file"
    path.write_text("mine")
    for command in ("train", "compare"):
        code, _, err = in_process(capsys, command, *SMALL, "--out", path)
        assert code == 1 and str(path) in err and len(err.splitlines()) == 1
    assert path.read_text() == "mine"


def test_a_damaged_checkpoint_is_one_line(capsys, workplace):
    folder = workplace / "damaged"
    in_process(capsys, "train", *SMALL, "--out", folder)
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    code, _, err = in_process(capsys, "train", *SMALL, "--out", folder)
    assert code == 1 and "last.ckpt" in err and len(err.splitlines()) == 1
    code, _, err = in_process(capsys, "train", *SMALL, "--out", folder, "--fresh")
    assert code == 0, err


def test_an_interrupted_run_goes_on(capsys, workplace):
    folder = workplace / "interrupted"
    long = ("pendulum", "--network", "mlp", "--n-train", 20, "--epochs", 100_000, "--out", folder)
    command = [sys.executable, "-m", "ndae", "train", *map(str, long)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}

    def listening():
        # A suite that runs in the background hands down that interrupts are ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": listening}
    with subprocess.Popen(command, env=environment, **pipe) as process:
        while not (folder / "log.csv").exists():
            time.sleep(0.1)
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert not (folder / "result.json").exists()


COMPARISON = (*SMALL[:-1], 1, "--methods", "none,smooth-alone", "--seeds", 2)


@pytest.fixture(scope="module")
def compared(workplace):
    """A small comparison, made once; what it prints is in the second place."""
    done = ndae("compare", *COMPARISON, "--out", workplace / "compare")
    assert done.returncode == 0, done.stderr
    return workplace / "compare", done


def test_compare_writes_table_figures_and_results(compared):
    folder, done = compared
    for name in ("table.csv", "figure4.png", "figure6.png", "snapshots.json"):
        assert f"wrote {folder / name}" in done.stdout
        assert (folder / name).stat().st_size > 500
    assert len(list((folder / "results").glob("*.json"))) == 4
    assert "Smooth projection alone" in done.stdout and "±" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr  # nothing animated without a terminal
    assert len(done.stderr.splitlines()) == 4  # a line a run


def test_compare_uses_finished_runs_again(capsys, compared):
    folder, _ = compared
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}
    code, _, err = in_process(capsys, "compare", *COMPARISON, "--out", folder)
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert err.count("finished before") == 4


def test_the_table_of_a_comparison_can_be_made_from_its_results(capsys, compared, tmp_path):
    folder, _ = compared
    for source in (folder / "results", folder / "runs"):
        code, _, err = in_process(capsys, "table", source, "--csv", tmp_path / "t.csv")
        assert code == 0, err
        assert (tmp_path / "t.csv").read_text() == (folder / "table.csv").read_text()


def test_demo_tells_the_story(capsys, workplace, monkeypatch):
    from ndae.experiments.studies import demo

    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "FRAMES", 3)
    out = workplace / "demo"
    code, text, err = in_process(capsys, "demo", "--out", out)
    assert code == 0, err
    for name in ("table.csv", "figure5.png", "figure6.png", "drift.png", "pendulum.gif", "constraint_torch.py"):
        assert str(out / name) in text
        assert (out / name).stat().st_size > 0
    for words in ("dc/db_0", "block-tridiagonal", "No constraint", "Penalty γ=10", "Smooth projection γ,η=10"):
        assert words in text
    assert "only forces are learned" in text and text.count("Multiplier") >= 3
