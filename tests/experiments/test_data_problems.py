"""Equations with a function that nobody knows, and recordings, on the command line: in JSON and in Python."""

import json
import textwrap

import numpy as np
import pytest

import ndae
from ndae.experiments.cli.commands import run
from ndae.experiments.problems import DataProblem
from ndae.experiments.problems.json_file import ProblemFileError
from ndae.experiments.problems.registry import data_problem

FILE = {
    "name": "decay",
    "states": ["x", "y"],
    "equations": ["dot(x) + k*r(x) - feed(t)", "y - x*gain"],
    "parameters": {"k": 1.0, "gain": 2.0},
    "outputs": {"seen": "x + y"},
    "unknown": {"r": {"hidden": 4, "depth": 1}},
    "data": {
        "train": ["run0.csv"], "validation": "run1.csv", "outputs": {"seen": "s"}, "time": "time",
        "inputs": {"feed": "u"}, "sigma": 0.01, "start": {"x": "x0"},
    },
    "model": {"step": 0.25},
    "training": {"epochs": 1, "window": 4},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two recordings of x' + x² = u, of which three times x is seen, and the problem that they are of."""
    for k, start in enumerate((1.0, 0.6)):
        ts = np.linspace(0, 2, 9)
        x = start / (1 + start * ts)
        table = np.c_[ts, 3 * x, 0 * ts, np.full(9, start)]
        np.savetxt(tmp_path / f"run{k}.csv", table, delimiter=",", header="time,s,u,x0", comments="")
    (tmp_path / "decay.json").write_text(json.dumps(FILE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_says_system_functions_and_data(folder):
    problem = data_problem("decay.json")
    assert isinstance(problem, DataProblem)
    assert [u.name for u in problem.system.unknowns] == ["feed", "r"] and list(problem.system.outputs) == ["seen"]
    (r,) = problem.train
    assert dict(r.start) == {"x": 1.0} and list(r.inputs) == ["feed"] and len(problem.validation) == 1
    one, other = problem.model(), problem.model()
    assert one.inputs == ("feed",) and one.networks["r"] is not other.networks["r"]


def test_train_validate_crosscheck_and_compare(folder, capsys):
    assert run(["train", "decay.json", "--out", "runs/a"]) == 0
    result = json.loads((folder / "runs/a/result.json").read_text())
    assert result["validation"] > 0 and (folder / "runs/a/r.png").exists()
    assert "missed" in capsys.readouterr().out
    # A finished run is only read, and what was learned travels.
    assert run(["train", "decay.json", "--out", "runs/a"]) == 0
    assert json.loads((folder / "runs/a/result.json").read_text()) == result
    model = ndae.load("runs/a/model.safetensors")
    assert float(model.function("r")(0.5)) == pytest.approx(model.networks["r"](ones(0.5)).item())
    capsys.readouterr()
    assert run(["validate", "runs/a", "--figure", "v.png"]) == 0
    found = json.loads((folder / "runs/a/validation.json").read_text())
    assert found["recordings"][0]["digits"]["torchdiffeq"] > 9 and (folder / "v.png").exists()
    assert run(["crosscheck", "runs/a", "--json", "-"]) == 0
    (folder / "decay.json").write_text(json.dumps(FILE | {"parameters": {"k": 1.1, "gain": 2.0}}))
    capsys.readouterr()
    assert run(["validate", "runs/a"]) == 1
    assert "decay.json has changed since the run in runs/a" in capsys.readouterr().err
    assert run(["train", "decay.json", "--out", "runs/a"]) == 1
    assert "another problem_digest" in capsys.readouterr().err


def ones(value):
    import torch

    return torch.full((1,), value, dtype=torch.float64)


def test_a_python_file_and_a_comparison_of_methods(folder, capsys):
    (folder / "decay.py").write_text(
        textwrap.dedent(
            """
            import sympy as sp
            import ndae
            from ndae.experiments.problems import DataProblem

            t, x, y = sp.symbols("t x y")
            r = ndae.unknown("r")
            system = ndae.System([ndae.dot(x) + r(x), y - 2 * x], [x, y], time=t, outputs={"seen": x + y})
            data = ndae.read_recordings("run*.csv", time="time", outputs={"seen": "s"}, sigma=0.01)
            functions = lambda: {r: ndae.MLP(1, 1, 4, depth=1)}
            problem = DataProblem("decay", system, functions, data[:1], data[1:], options={"step": 0.5})
            """
        )
    )
    arguments = ["compare", "decay.py", "--methods", "none,smooth-alone", "--seeds", "1", "--epochs", "1", "--out", "c"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "Smooth" in shown  # a narrow terminal breaks lines
    assert sorted(p.name for p in (folder / "c/results").iterdir()) == ["none-s0.json", "smooth-alone-s0.json"]
    rows = (folder / "c/table.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["method", "No constraint", "Smooth projection alone"]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train", "decay.json", "--network", "mlp"], "--network is not of a system with data"),
        (["train", "decay.json", "--method", "multiplier"], "multipliers of a system are eliminated"),
        (["sweep", "decay.json", "--over", "gamma"], "this command does not take"),
        (["crosscheck", "decay.json"], "is learned before it is solved"),
        (["train", "nothing.json"], "no such file"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder, arguments, said, capsys):
    assert run(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"unknown": {"r": {}, "q": {}}}, "unknown.q stands in no equation"),
        ({"unknown": {"r": {"width": 3}}}, "unknown.r.*'width'"),
        ({"unknown": {"r": {"hidden": 0}}}, "no whole number of at least 1"),
        ({"data": {"train": "run0.csv", "inputs": {"feed": "u"}}}, "'outputs' missing"),
        ({"data": FILE["data"] | {"train": "../run0.csv"}}, "is not beside this file"),
        ({"data": FILE["data"] | {"train": "none.csv"}}, "no file .*none.csv"),
        ({"data": FILE["data"] | {"outputs": {"seen": "zzz"}}}, "no column 'zzz'"),
        ({"data": FILE["data"] | {"outputs": ["s"]}}, "'s'"),
        ({"model": {"method": "best"}}, "model.method: 'best' is unknown"),
        ({"equations": ["dot(x) + k*r(x, __import__('os')) - feed(t)", "y - x*gain"]}, "not allowed"),
        ({"learn": ["zeta"]}, "zeta"),
    ],
)
def test_mistakes_in_a_file_are_named(folder, changes, said):
    (folder / "decay.json").write_text(json.dumps(FILE | changes))
    with pytest.raises((ProblemFileError, FileNotFoundError, ValueError), match=said):
        problem = data_problem("decay.json")
        assert problem is not None
        model = problem.model()
        from ndae.models.pieces import check_recordings

        check_recordings(model, list(problem.train), "training")


def test_a_learned_function_by_itself(folder):
    problem = data_problem("decay.json")
    model = problem.model()
    r = model.function("r")
    x = np.linspace(0.2, 1.0, 5)
    assert r.module is model.networks["r"] and r.arguments == (("x",),)
    assert r(x).shape == (5,) and r(np.ones((2, 3))).shape == (2, 3)
    assert float(r.table(0.2, 1.0, n=401)(0.43)) == pytest.approx(float(r(0.43)), abs=1e-8)
    visited = r.visited(problem.train)
    assert visited.shape == (9, 1) and visited[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="nothing says where to draw r"):
        r.plot(folder / "r.png")
    assert r.plot(folder / "r.png", between=(0, 1), truth=lambda x: x**2).exists()
    with pytest.raises(ValueError, match="takes 1 argument"):
        r(1.0, 2.0)
    with pytest.raises(ValueError, match="'q'"):
        model.function("q")
