"""Runs on water, from a short trajectory simulated here: every method, both kinds of networks, and the command line."""

import pytest
import torch

from ndae.experiments.drawing.table import describe_run, make_tables, to_csv
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.models import build_model, problem_of
from ndae.experiments.runs.records import read_run
from ndae.experiments.runs.run import build_data, load_model, run
from ndae.experiments.runs.study import run_study
from ndae.experiments.studies import water_table as water_table
from ndae.experiments.variants import Variant
from ndae.experiments.water.simulate import simulate
from ndae.experiments.water.trajectory import write_extxyz
from ndae.symmetry import assert_equivariant
from tests.experiments.command_line import in_process

pytest.importorskip("openmm", reason="the extra `water` is not installed")
WATER = ("O", "H", "H")
METHODS = ("none", "auxiliary", "penalty", "end", "smooth", "tangent", "multiplier", "soft")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The motion of four molecules over 100 fs."""
    folder = tmp_path_factory.mktemp("water")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDAE_CACHE", str(folder / "cache"))
        trajectory = simulate(0, 1_000, n_molecules=4, equilibration_ps=0.5, check_temperature=False)
    write_extxyz(trajectory, folder / "water.extxyz")
    return folder / "water.extxyz"


def config(file, **values):
    sizes = {"horizon": 50, "n_train": 20, "n_val": 10, "n_test": 20, "epochs": 1, "network": "equivariant-small"}
    return RunConfig(problem="water", trajectory=str(file), **sizes | values)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_turns_with_the_molecules(file, method):
    """The whole model, from samples of the data: rotations, inversion, translations, permutations."""
    extra = {"network": "molecular"} if method == "soft" else {}
    asked = config(file, method=method, dtype="float64", **extra)
    model = build_model(asked)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # forces begin at zero
            parameter.add_(0.01 * torch.randn_like(parameter))
    x = torch.as_tensor(build_data(asked).test.inputs[:2], dtype=torch.float64)
    assert_equivariant(model, x, molecule=WATER, atol=1e-8, n_elements=1)


@pytest.mark.parametrize("network, force", [("molecular", "free"), ("equivariant-small", "free")])
@pytest.mark.parametrize("method", ["soft", "multiplier"])
def test_forces_of_a_motion_are_those_asked_for(file, method, network, force):
    model = build_model(config(file, method=method, network=network, force=force))
    steps = {"soft": 20, "multiplier": 4}[method]
    assert (model.n_steps, model.multipliers) == (steps, method == "multiplier")
    assert model.integrator == {"soft": "velocity_verlet", "multiplier": "classical_rk4"}[method]
    learned = model.force.parts[-1] if method == "soft" else model.force
    expected = {"molecular": "PotentialForce", "equivariant-small": "EquivariantForce"}[network]
    assert type(learned).__name__ == expected


def test_a_soft_constraint_learns_in_seconds_what_no_rigid_one_can(file, tmp_path):
    """Below the error of the truth projected on the constraints, the floor of all that end on them."""
    asked = config(file, method="soft", network="molecular", epochs=40, learning_rate=0.02, schedule="cosine")
    result = run(asked, tmp_path / "run", progress=False)
    floor = result["baselines"]["truth, projected"]["mae_pm"]
    assert result["test_mae_pm"] < 0.5 * floor
    splits = result["splits"]
    assert set(splits) == {"time-blocked", "random"}
    assert splits["time-blocked"]["test_mae_pm"] == pytest.approx(result["test_mae_pm"])
    assert all(split["molecule_pm"] > split["test_mae_pm"] for split in splits.values())
    assert "nearest in time" in splits["random"]["baselines"]
    record = read_run(tmp_path / "run")
    assert "pm" in describe_run(record) and "time-blocked" in describe_run(record)
    assert "test_mae_pm" in to_csv(make_tables([record]))
    bonds = load_model(tmp_path / "run")[1].force.parts[0].potential
    assert (bonds.stiffness.diagonal() > 0).all()


def test_the_command_line_trains_and_goes_on(file, tmp_path, capsys):
    arguments = ["train", "water", "--method", "end", "--horizon", "50", "--n-train", "10", "--epochs", "1"]
    arguments += ["--trajectory", str(file), "--out", str(tmp_path / "run")]
    # 1,000 frames hold fewer than the 1,000 test samples of the default.
    code, *_, error = in_process(capsys, *arguments)
    assert code == 1 and "test" in error and len(error.splitlines()) == 1


def test_other_data_than_the_first_is_refused(file, tmp_path):
    with pytest.raises(ValueError, match="takes no trajectory"):
        problem_of(RunConfig(trajectory=str(file)))
    with pytest.raises(ValueError, match="--method soft"):
        build_model(config(file, method="end", network="molecular"))


def test_the_table_is_of_finished_runs(monkeypatch, file, tmp_path):
    monkeypatch.setattr(water_table, "EPOCHS", {20: 1})
    small = water_table.study(20)
    asked = RunConfig.from_json(small.config(Variant("soft"), 0).to_json())
    assert (asked.method, asked.network, asked.integrator) == ("soft", "molecular", "velocity_verlet")
    assert (asked.learning_rate, asked.schedule, asked.epochs) == (0.02, "cosine", 1)
    assert water_table.table([]).count("\n") == 1
    assert run_study is water_table.run_study
