"""Inputs in problem files: tables in the file or in a CSV file beside it, and functions that switch."""

import json

import pytest

from ndae import solve
from ndae.experiments.problems import problem_from_text, read_problem

FILE = {
    "name": "tank",
    "states": ["x"],
    "tables": {
        "rain": {"csv": "rain.csv", "columns": ["time", "mm"], "kind": "hold", "outside": "hold"},
        "u": {"t": [0, 1, 4], "values": [0, 1, 0]},
    },
    "equations": [
        "dot(2*x) - rain(t) - u(t) - Piecewise((1, Mod(t, 1) < 0.3), (0, True)) - Heaviside(t - 1)"
        " - interpolating_spline(1, t, [0, 4], [0, 1]) - floor(t) - ceiling(t) - frac(t)"
    ],
    "initial": {"y": {"x": "u(0)"}},
    "t_span": [0, 3],
}


def read(folder, **changes):
    (folder / "tank.json").write_text(json.dumps(FILE | changes))
    return read_problem(folder / "tank.json")


def test_a_file_has_its_inputs(tmp_path):
    (tmp_path / "rain.csv").write_text("time,what,mm\n0,a,1\n1,b,3\n\n2,c,0\n")
    problem = read(tmp_path)
    end = 2 * solve(problem.system, problem.initial, [0.0, 3.0], by="torch")["x"][-1]
    assert end == pytest.approx((1 + 3) + (0.5 + 4 / 3) + 0.9 + 2 + 9 / 8 + 3 + 6 + 1.5, rel=1e-9)


BAD = {
    "a folder": ({"csv": "../rain.csv"}, "the name of a file beside the problem's, without a folder"),
    "no file": ({"csv": "none.csv"}, "there is no file"),
    "a link": ({"csv": "link.csv"}, "is a link to another folder"),
    "a column": ({"csv": "rain.csv", "columns": ["time", "inch"]}, "has no column 'inch'; its columns are time, mm"),
    "a cell": ({"csv": "rain.csv"}, "line 3 of rain.csv, column 2: 'wet' is no number"),
    "half": ({"t": [0, 1]}, r"tables\.u\.values: expected a list of numbers"),
    "both": ({"t": [0, 1], "csv": "rain.csv"}, "give either"),
    "order": ({"t": [1, 0], "values": [1, 2]}, "table u: .* not in order"),
    "a slip": ({"t": [0, 1], "values": [1, 2], "knd": "hold"}, "did you mean 'kind'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused(tmp_path, name):
    table, message = BAD[name]
    (tmp_path / "rain.csv").write_text("time,mm\n0,1\n1,wet\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link.csv").symlink_to(tmp_path / "rain.csv")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "inner" if name == "a link" else tmp_path, tables={"u": table}, equations=["x_dot - u(t)"])


def test_text_alone_has_no_file_beside_it():
    with pytest.raises(ValueError, match="has none beside it"):
        problem_from_text(json.dumps(FILE))
    with pytest.raises(ValueError, match="the name 'u' is taken by tables"):
        problem_from_text(json.dumps(FILE | {"tables": {"u": FILE["tables"]["u"]}, "definitions": {"u": "1"}}))
