"""A problem in units of its own, with further tests, measures and data from a file: what runs and tables say of it."""

import csv
import hashlib
import io
import json
import sys
import types
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from rich.console import Console

from ndae.experiments.cli import commands as cli
from ndae.experiments.drawing import figures
from ndae.experiments.drawing.of_study import setting_title
from ndae.experiments.drawing.table import describe_run, make_tables, print_table, to_csv, to_markdown
from ndae.experiments.paper import PAPER_TABLE_2
from ndae.experiments.problems import registry as motions
from ndae.experiments.problems.learning import LearningProblem
from ndae.experiments.problems.registry import to_learn
from ndae.experiments.runs import run as runs
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.models import build_method, build_model
from ndae.experiments.runs.records import error_of, read_run, record_name, unit_of
from ndae.experiments.runs.run import load_model, run
from ndae.experiments.runs.settings import Settings
from ndae.experiments.runs.study import Study, run_study
from ndae.experiments.variants import Variant
from tests.experiments.command_line import in_process
from tests.experiments.records_for_tests import PAPERS, record

SMALL = {"problem": "pairs", "network": "mlp", "n_train": 12, "n_val": 5, "n_test": 7, "epochs": 1, "horizon": 50}
LENGTH = 0.7  # Å


@dataclass(frozen=True)
class Samples:
    inputs: np.ndarray
    targets: np.ndarray


class Pairs(LearningProblem):
    """Two molecules of two atoms, each a distance apart, drifting; the distance is only nearly what it should be."""

    name, title, network = "pairs", "Two pairs of atoms", "equivariant-small"
    nodes, dim, edges, dt, longest_step, mass = 4, 3, (), 0.1, 0.25, 1.0
    length_unit, time_unit, error_unit = "Å", "fs", ("pm", 100.0)
    error_is, violation_is, violation_of, violation_unit = "mean error per atom", "error of a distance", "bonds", "Å"
    tests_are = MappingProxyType({"blocked": "later than all others", "other seed": "states of another motion"})
    test_name = "blocked"
    projection_tol, motion_tol = 2e-4, {"float32": 3e-5, "float64": 1e-9}
    stiffness, molecule, velocity_constraint = 0.4, ("H", "H"), None
    paper, paper_is = PAPER_TABLE_2, "error in its Table 2"

    def __init__(self, spread: float = 0.02):
        self.spread = spread

    def of(self, trajectory, frame_step):
        problem = Pairs(float(Path(trajectory).read_text()))
        problem.dt = frame_step or self.dt
        return problem

    @cached_property
    def constraint(self):
        from ndae.symbolic import library

        return library.fixed_distances([(0, 1), (2, 3)], LENGTH)

    def samples(self, n, horizon, seed):
        random = np.random.default_rng(seed)
        along, lengths = random.normal(size=(n, 2, 1, 3)), LENGTH + self.spread * random.normal(size=(n, 2, 1, 1))
        along *= lengths / np.linalg.norm(along, axis=-1, keepdims=True)
        middle = random.normal(size=(n, 2, 1, 3)) + np.array([0, 0, 4.0])
        r = np.concatenate([middle - along / 2, middle + along / 2], 2).reshape(n, 4, 3)
        v = np.repeat(0.01 * random.normal(size=(n, 2, 3)), 2, 1)
        return Samples(np.concatenate([r, v], -1), r + horizon * self.dt * v)

    def data(self, n_train, horizon, seed, *, n_val, n_test, report):
        sizes = {"train": n_train, "val": n_val, "test": n_test, "other": n_test, "random": n_test}
        parts = {name: self.samples(n, horizon, [seed, k]) for k, (name, n) in enumerate(sizes.items())}
        return types.SimpleNamespace(horizon=horizon, **parts)

    def tests(self, data):
        return {"random": data.random, "other seed": data.other}

    def baselines(self, data):
        return self.baselines_of(data, "blocked")

    def baselines_of(self, data, name):
        samples = {"blocked": data.test, "random": data.random}.get(name)
        if samples is None:
            return {}
        still = samples.inputs[..., :3]
        error = 100 * float(np.linalg.norm(still - samples.targets, axis=-1).mean())
        return {"no motion": {"mae_pm": error, "violation_mean": 0.01, "violation_max": 0.1}}

    def metrics(self, prediction, target):
        return {"mae_molecule_pm": 100 * float(np.linalg.norm((prediction - target).reshape(-1, 6), axis=-1).mean())}


@pytest.fixture(scope="module", autouse=True)
def pairs():
    """The pairs as if they had a file among the other problems."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ndae.experiments.problems.library.pairs", types.SimpleNamespace(PROBLEM=Pairs()))
        patch.setattr(motions, "TO_LEARN", (*motions.TO_LEARN, "pairs"))
        yield to_learn("pairs")


@pytest.fixture(scope="module")
def made(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("runs") / "end"
    return folder, run(RunConfig(method="end", **SMALL), folder, progress=False)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_every_test_is_measured_by_the_same_weights(made, pairs):
    folder, result = made
    config, model = load_model(folder)
    data = runs.build_data(config)
    assert list(result["splits"]) == ["blocked", "random", "other seed"]
    for name, samples in {"blocked": data.test, **pairs.tests(data)}.items():
        with torch.no_grad():
            y = model(torch.as_tensor(samples.inputs, dtype=torch.float32)).double().numpy()
        found, apart = result["splits"][name], y - samples.targets
        assert found["test_mae_pm"] == pytest.approx(100 * np.linalg.norm(apart, axis=-1).mean(), rel=1e-4)
        by_molecule = np.linalg.norm(apart.reshape(len(y), 2, 6), axis=-1)
        assert found["mae_molecule_pm"] == pytest.approx(100 * by_molecule.mean(), rel=1e-4)
        lengths = np.linalg.norm(y[:, ::2] - y[:, 1::2], axis=-1)
        assert found["violation_max"] == pytest.approx(np.abs(lengths - LENGTH).max(), abs=1e-6)
    assert len({found["test_mae_pm"] for found in result["splits"].values()}) == 3
    assert result["test_mae_pm"] == error_of(result) == result["splits"]["blocked"]["test_mae_pm"]
    assert "test_mae_cm" not in result and result["val_mae_pm"] > 0 and unit_of(result) == "pm"
    assert result["baselines"] == result["splits"]["blocked"]["baselines"] != result["splits"]["random"]["baselines"]
    assert "baselines" not in result["splits"]["other seed"]
    assert {"val_mae_pm", "train_mae_pm"} < {*(folder / "log.csv").read_text().splitlines()[0].split(",")}
    assert json.loads((folder / "result.json").read_text()) == result


def test_tolerances_are_the_problems(pairs):
    config = RunConfig(method="smooth", gamma=0, eta=0, **SMALL)
    assert build_method(config).tol == 2e-4
    assert build_method(RunConfig(method="smooth", gamma=0, eta=0)).tol == 5e-5
    motion = build_model(RunConfig(method="multiplier", dtype="float64", **SMALL))
    assert (motion.method.tol, motion.n_steps, motion.starts) == (1e-9, 20, "project")
    damped = RunConfig(method="multiplier", stabilisation="baumgarte", **SMALL)
    assert build_model(damped).baumgarte == pytest.approx(0.4 / 0.25)
    pendulum = build_model(RunConfig(method="multiplier", network="mlp", stabilisation="baumgarte"))
    assert (pendulum.baumgarte, pendulum.starts) == (20.0, "check")


@pytest.mark.parametrize(
    ("problem", "method", "network", "message"),
    [
        ("pendulum", "soft", "mlp", "pendulum: its constraints are rigid: give --method multiplier"),
        ("robot_arm", "soft", "mlp", "--method multiplier"),
        ("pendulum", "none", "equivariant", "pendulum has no molecules .*'equivariant'.* give --network mimetic"),
        ("pairs", "none", "mimetic", "pairs has no edges for the network 'mimetic'"),
        ("pairs", "end", "molecular", "'molecular' learns forces, and the method 'end' has none"),
    ],
)
def test_methods_and_networks_that_a_problem_can_not_have(problem, method, network, message):
    with pytest.raises(ValueError, match=message):
        build_model(RunConfig(problem=problem, method=method, network=network))


def test_soft_is_compared_where_constraints_are_not_rigid():
    names = {problem: cli._all_methods(problem).split(",") for problem in ("pairs", "pendulum")}
    assert names["pairs"] == [*names["pendulum"], "soft"]


def test_soft_has_a_force_and_nothing_against_drift():
    variant = Variant.of("soft", 3, 4, "ggl", "potential")
    assert variant == Variant("soft", force="potential")
    assert (variant.name, variant.title) == ("soft-potential", "Soft constraint potential")
    assert RunConfig(method="soft", force="potential", max_step=0.5, **SMALL).gamma == 0


# --- trajectories -----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "wide.txt"
    path.write_text("0.2")
    return path


def test_a_run_of_a_file(tmp_path, file, made):
    config = RunConfig(method="end", trajectory=str(file), frame_step=0.5, **SMALL)
    result = run(config, tmp_path / "run", progress=False)
    assert result["digest"] == hashlib.sha256(b"0.2").hexdigest() and "digest" not in made[1]
    assert (result["trajectory"], result["frame_step"]) == (str(file), 0.5)
    assert RunConfig.from_json((tmp_path / "run" / "config.json").read_text()) == config
    still, before = (r["baselines"]["no motion"]["mae_pm"] for r in (result, made[1]))
    assert still == pytest.approx(5 * before)  # five times the time between frames
    assert run(config, tmp_path / "run", progress=False) == result
    file.write_text("0.3")
    with pytest.raises(ValueError, match=r"result\.json is of another content of .*wide\.txt, which has changed since"):
        run(config, tmp_path / "run", progress=False)


def test_runs_of_a_file_stand_apart(tmp_path, file):
    settings = Settings(**SMALL | {"trajectory": str(file)})
    study = Study(settings, (Variant("none"),), (0,))
    (made,) = run_study(study, tmp_path).records
    assert made.setting == study.setting and made.setting.trajectory == str(file)
    assert record_name(made) == "pairs-none-mlp-n12-k50-ep1-wide-s0.json"
    assert record_name(read_run(tmp_path / "runs" / study.name(Variant("none"), 0))) == record_name(made)
    (table,) = make_tables([made])
    assert table.title.endswith(", wide.txt") and setting_title(made.setting).endswith(", wide.txt")
    assert "test_mae_pm" in to_csv([table]) and str(file) in to_csv([table])


def test_a_problem_that_makes_its_own_data_takes_no_file(file):
    with pytest.raises(ValueError, match="pendulum makes its own data and takes no trajectory"):
        build_model(RunConfig(trajectory=str(file)))


# --- tables -----------------------------------------------------------------------------------------------------------


def in_pm(variant, seed=0, **changes):
    """A made-up run of the pairs, whose further tests err by a tenth more and by half."""
    made = record(variant, seed, problem="pairs", network="equivariant-small", horizon=50, **changes)
    for name in [name for name in made.log if name.endswith("_cm")]:
        made.log[name.replace("_cm", "_pm")] = made.log.pop(name)
    error = made.result.pop("test_mae_cm") / 10
    names = ("no motion", "constant velocity, projected by mass")
    guesses = {name: {"mae_pm": 8.35, "violation_mean": 0.0, "violation_max": 0.1} for name in names}
    in_time = {"nearest in time": {"mae_pm": 1.15, "violation_mean": 0.0, "violation_max": 0.1}}
    made.result.update({"test_mae_pm": error, "baselines": guesses})
    made.result["splits"] = {
        name: {"test_mae_pm": error * much, "violation_mean": 0.1, "violation_max": 0.2, "mae_molecule_pm": 2 * error}
        | {"blocked": {"baselines": guesses}, "random": {"baselines": guesses | in_time}}.get(name, {})
        for name, much in (("blocked", 1), ("random", 1.1), ("other seed", 1.5))
    }
    return made


@pytest.fixture
def table():
    (table,) = make_tables([in_pm(variant, seed) for variant in PAPERS for seed in range(3)])
    return table


def test_other_tests_stand_beside_the_error(table):
    assert table.header[:5] == ["method", "error (pm)", "random (pm)", "other seed (pm)", "paper"]
    row = next(row for row in table.rows if row.method == "smooth")
    assert row.others["random"].mean == pytest.approx(1.1 * row.error.mean)
    assert row.metrics["mae_molecule_pm"].mean == pytest.approx(2 * row.error.mean)
    assert row.paper == 3.55
    assert table.cells(row)[3] == f"{1.5 * row.error.mean:.2f}"
    assert table.rows[0].title == "(no motion)" and table.cells(table.rows[0])[1:4] == ["8.35 ± 0.00", "8.35", ""]
    assert table.rows[2].title == "(nearest in time)" and table.cells(table.rows[2])[1:5] == ["", "1.15", "", ""]
    assert "violation max (Å)" in table.header
    assert "other seed: error over states of another motion" in table.notes
    assert "over the test samples (blocked: later than all others), mean" in table.notes[0]
    assert "paper: error in its Table 2" in table.notes


@pytest.mark.parametrize("parameters", [5_778_048, 341])
def test_a_table_with_other_tests_fits_100_columns(parameters):
    variants = (*PAPERS, Variant("multiplier", stabilisation="ggl", force="potential"), Variant("soft"))
    made = [in_pm(variant, seed) for variant in variants for seed in range(3)]
    for run_ in made[-3:]:
        run_.result["parameters"] = parameters
    (table,) = make_tables(made)
    out = Console(width=100, file=io.StringIO(), highlight=False)
    print_table(table, out.print)
    text = out.file.getvalue()
    assert "…" not in text and ("341" in text) == (parameters == 341)
    assert ("mean and largest" in text) == ("mean (Å)" in text) == (parameters != 341) and "ratio" not in text
    for row in table.rows:
        line = next(line for line in text.splitlines() if line.strip().startswith(row.title))
        assert all(f"{other.mean:.2f}" in line for other in row.others.values())
    lines = [line for line in to_markdown([table]).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and "other seed (pm)" in lines[0]


def test_csv_of_problems_in_two_units(table):
    rows = list(csv.DictReader(io.StringIO(to_csv([table, *make_tables([record(PAPERS[0])])]))))
    pm, cm = rows[-2], rows[-1]
    assert float(pm["test_mae_pm_other_seed"]) == pytest.approx(1.5 * float(pm["test_mae_pm"]))
    assert float(pm["mae_molecule_pm"]) > 0 and pm["paper_mae_pm"] == "3.55" and pm["test_mae_cm"] == ""
    assert float(cm["test_mae_cm"]) > 0 and cm["test_mae_pm"] == cm["test_mae_pm_random"] == ""


def test_one_run_in_words():
    made = in_pm(PAPERS[4])
    text = describe_run(made)
    error = made.result["test_mae_pm"]
    assert f"test error  {error:.2f} pm (paper: 3.55 pm), mean error per atom (blocked)" in text
    assert f"{1.5 * error:.2f} pm (other seed)" in text and f"molecule {2 * error:.2f} pm" in text
    assert "Å mean" in text and "no motion 8.3 pm" in text and "cm" not in text


def test_axes_have_the_problems_units(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda sheet, path: saved.append(sheet))
    figures.curves_figure({PAPERS[0]: [in_pm(PAPERS[0])]}, tmp_path / "f.png")
    error, violation = saved[0].axes
    assert (error.get_ylabel(), violation.get_ylabel()) == ("mean error per atom (pm)", "largest violation (Å)")
    assert len(error.lines) == 2 and len(error.lines[0].get_ydata()) == 4


@pytest.mark.parametrize("errors", [{}, {"test_mae_cm": 1.0, "test_mae_pm": 2.0}])
def test_a_result_has_one_error(errors):
    with pytest.raises(ValueError, match=f"has one error test_mae_cm .*has {len(errors)}"):
        error_of(errors)


def test_validate_needs_known_equations(capsys, made):
    code, out, err = in_process(capsys, "validate", made[0])
    assert (code, out) == (1, "") and len(err.splitlines()) == 1
    assert "pairs, whose equations are not known" in err
