"""Problems by name, from a file, from another package; what they start from."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import sympy as sp

from ndae.experiments.problems import Problem, load_problem, problem_from_text, problem_names, registry
from ndae.experiments.problems.start import start_of
from ndae.experiments.terminal import UserError
from ndae.symbolic import System, dot
from tests.experiments.command_line import in_process

MODULE = """
import sympy as sp
from ndae.experiments.problems import Problem
from ndae.symbolic import System, dot

x = sp.Symbol("x")
{name} = {value}
"""
PROBLEM = 'Problem("growth", System([dot(x) - x], [x]), {"x": 1.0}, (0.0, 1.0))'


def growth() -> Problem:
    """What an entry point may also be: a function that makes the problem."""
    x = sp.Symbol("x")
    return Problem("growth", System([dot(x) - x], [x]), {"x": 1.0}, (0.0, 1.0))


@pytest.fixture
def entry_point(monkeypatch):
    """Offers one entry point as an installed package would."""

    def offer(name, value):
        point = EntryPoint(name, value, registry.ENTRY_POINTS)
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.ENTRY_POINTS else [])

    return offer


# -- where they come from ----------------------------------------------------------------------------------------------


def test_every_problem_of_the_literature_that_comes_with_the_package_is_known_by_name():
    names = problem_names()
    expected = (
        "arevalo brenan car_axis chem_akzo_nobel fekete five_body_pendulum kvaerno robertson transistor_amplifier"
    )
    assert set(expected.split()) < set(names)
    assert list(names) == sorted(names)
    assert set(names.values()) == {"built in", "built in, with samples to train on"}


def test_a_problem_to_learn_is_one_to_solve_by_the_same_name():
    assert load_problem("pendulum") is load_problem("five_body_pendulum")
    arm = load_problem("robot_arm")
    assert arm.name == "robot_arm" and arm.system is registry.to_learn("robot_arm").system
    with pytest.raises(UserError, match="water is data alone"):
        load_problem("water")
    with pytest.raises(ValueError, match=r"'car_axis' has equations.* and no samples to train on"):
        registry.to_learn("car_axis")


def test_built_in_problems_are_found_by_name():
    problem = load_problem("car_axis")
    assert problem.name == "car_axis"
    assert len(problem.states) == 10


def test_the_five_body_pendulum_is_a_module():
    problem = load_problem("five_body_pendulum")
    assert len(problem.states) == 25
    assert len(problem.recomputed) == 20


def test_a_json_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"states": ["x"], "equations": ["x_dot-x"], "initial": {"x": 1}, "t_span": [0, 1]}))
    assert load_problem(path).name == "mine"
    assert load_problem(str(path)).states == ("x",)


@pytest.mark.parametrize("value", [PROBLEM, f"lambda: {PROBLEM}"], ids=["problem", "function"])
def test_a_python_file_of_ones_own(value, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODULE.format(name="problem", value=value))
    assert load_problem(path).name == "growth"


@pytest.mark.parametrize("value", [f"{__name__}:growth", f"{__name__}:GROWTH"])
def test_an_entry_point_of_another_package(value, entry_point, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module(__name__), "GROWTH", growth(), raising=False)
    entry_point("growth_of_mine", value)
    assert problem_names()["growth_of_mine"] == value
    assert load_problem("growth_of_mine").name == "growth"


def test_an_entry_point_does_not_hide_a_built_in_problem(entry_point):
    entry_point("robertson", f"{__name__}:growth")
    assert load_problem("robertson").name == "robertson"
    assert problem_names()["robertson"] == "built in"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_offers_those_that_are_near():
    with pytest.raises(UserError, match=r"no problem is named 'car_axes': did you mean car_axis\?"):
        load_problem("car_axes")
    with pytest.raises(UserError, match=r"no problem is named 'qqq': `ndae crosscheck --list` shows them"):
        load_problem("qqq")


@pytest.mark.parametrize("name", ["absent.json", "absent.py", "folder/absent"])
def test_a_file_that_is_not_there(name):
    with pytest.raises(UserError, match=f"{name}: no such file"):
        load_problem(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = = 2\n", r"mine\.py:.* SyntaxError"),
        ("\n1 / 0\n", r"mine\.py: line 2, ZeroDivisionError: division by zero"),
        ("import absent_package\n", r"mine\.py: line 1, ModuleNotFoundError"),
        ("other = 1\n", r"mine\.py defines no `problem`: write `problem = DataProblem\("),
        ("problem = 3\n", r"`problem` of .*mine\.py is of type int: write `problem = DataProblem\("),
    ],
)
def test_a_python_file_that_gives_no_problem(text, said, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_problem(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("absent_package:problem", "absent_package:problem cannot be loaded: ModuleNotFoundError"),
        (f"{__name__}:absent", "cannot be loaded: AttributeError"),
        ("math:pi", "entry point math:pi is of type float"),
    ],
)
def test_an_entry_point_that_gives_no_problem(value, said, entry_point):
    entry_point("broken", value)
    with pytest.raises(UserError, match=said):
        load_problem("broken")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": ""}, "a problem's name must be text, got ''"),
        ({"initial": {}}, "problem 'growth': `initial` is empty"),
        ({"initial": {"y": 1.0}}, "`initial`: problem .* has no state 'y'; it has x"),
        ({"initial": {"x": "one"}}, r"initial\['x'\] must be a finite number, got 'one'"),
        ({"initial": {"x": np.nan}}, r"initial\['x'\] must be a finite number, got nan"),
        ({"rates": {"x": np.inf}}, r"rates\['x'\] must be a finite number, got inf"),
        ({"reference": {"x": "1.0.0"}}, r"reference\['x'\] must be a finite number"),
        ({"recomputed": {"a": 1, "b": 2}}, "`recomputed`: problem .* has no state 'a', 'b'"),
        ({"exact": {"y": sp.S.One}}, "`exact`: problem 'growth' has no state 'y'; it has x"),
        ({"t_span": (1.0, 1.0)}, "t_span must go forward between finite times"),
        ({"t_span": (0.0, np.inf)}, "t_span must go forward between finite times"),
        ({"t_span": 3.0}, "t_span must be two times, start and end, got 3.0"),
    ],
)
def test_a_problem_checks_what_it_is_given(changes, said):
    made = growth()
    fields = {"name": made.name, "system": made.system, "initial": made.initial, "t_span": made.t_span}
    with pytest.raises(ValueError, match=said):
        Problem(**fields | changes)


def test_the_command_lists_names_and_refuses_unknown_ones(capsys):
    code, out, _ = in_process(capsys, "crosscheck", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(problem_names())
    code, out, err = in_process(capsys, "crosscheck", "robertsen")
    assert (code, out) == (1, "")
    assert "did you mean robertson?" in err.replace("\n", " ")
    code, _, err = in_process(capsys, "crosscheck")
    assert code == 1
    assert "which problem?" in err


# -- what they start from ----------------------------------------------------------------------------------------------

PENDULUM = {
    "states": ["x", "y", "u", "v", "lam"],
    "equations": ["x_dot-u", "y_dot-v", "u_dot-x*lam", "v_dot-y*lam+10", "x**2+y**2-1"],
    "t_span": [0, 1],
}


def start(equations=None, consistent=None, **initial):
    data = PENDULUM | {"initial": initial}
    return start_of(problem_from_text(json.dumps(data | (equations or {}))), consistent)


def test_a_start_that_is_consistent_is_taken_as_it_is():
    values = {"x": 0.6, "y": 0.8, "u": 0.8, "v": -0.6}
    assert start(y=values) == values


def test_what_constraints_determine_may_be_left_out():
    found = start(y={"x": 0.6, "y": 0.8, "u": 0.8})
    assert found["v"] == pytest.approx(-0.6, rel=1e-12)
    assert found["x"] == 0.6


def test_what_nothing_determines_may_not_be_left_out():
    with pytest.raises(UserError, match=r"gives no value for u, v, which .*\(initial\.y\.u or initial\.y\.v\)"):
        start(y={"x": 0.6, "y": 0.8})


def test_a_constraint_that_says_nothing_there_determines_nothing():
    # At x = 1, y = 0 the velocity constraint is u = 0.
    with pytest.raises(UserError, match=r"gives no value for v, and .*do not determine it there.*\(initial\.y\.v\)"):
        start(y={"x": 1, "y": 0, "u": 0})


def test_a_start_that_violates_a_hidden_constraint_is_refused_and_mended():
    wrong = {"x": 0.6, "y": 0.8, "u": 1, "v": 0}
    with pytest.raises(UserError, match=r"inconsistent at level 1: .*--consistent NAMES"):
        start(y=wrong)
    mended = start(y=wrong, consistent=["x", "y"])
    assert mended["x"] * mended["u"] + mended["y"] * mended["v"] == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(UserError, match="--consistent: problem 'problem' has no state 'w'; it has x, y, u, v, lam"):
        start(y=wrong, consistent=["w"])


def test_a_system_of_second_order_takes_its_velocity_from_the_derivatives():
    swing = {"states": ["theta"], "equations": ["theta_dot_dot+sin(theta)"]}
    assert start(swing, y={"theta": 1}, y_dot={"theta": 2}) == {"theta": 1.0, "theta_dot": 2.0}
    with pytest.raises(UserError, match=r"no value for theta_dot.*\(initial\.y_dot\.theta\)"):
        start(swing, y={"theta": 1})


def test_derivatives_choose_between_the_branches_of_a_nonlinear_equation():
    circle = {"states": ["x"], "equations": ["x_dot**2+x**2-1"]}
    assert start(circle, y={"x": 0}, y_dot={"x": -1}) == {"x": 0.0, "x_dot": -1.0}
    with pytest.warns(UserWarning, match="taken is x_dot = 1, and not x_dot = -1; a guess chooses"):
        assert start(circle, y={"x": 0}) == {"x": 0.0}


def test_derivatives_of_few_digits_are_guesses_where_constraints_determine_them():
    # x'' is determined by the path, which is differentiated four times: index 5.
    chain = {
        "states": ["x", "v", "y", "w", "u"],
        "equations": ["x_dot-v", "v_dot+x-y", "y_dot-w", "w_dot-u", "x-sin(2*t)"],
    }
    found = start(chain, y={"x": 0, "v": 2}, y_dot={"v": 0.1})
    assert found["y"] == pytest.approx(0.0, abs=1e-12)
    assert found["w"] == pytest.approx(2 - 8, rel=1e-12)  # y = v' + x, w = x''' + x'
