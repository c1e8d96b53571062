"""Problem files: what they may hold, and that everything else is refused with its place, and nothing is evaluated."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from ndae.experiments.problems import ProblemFileError, load_problem, problem_from_text, read_problem
from ndae.experiments.problems.json_file import MAX_BYTES, MAX_STATES

DATA = Path(__file__).parents[2] / "experiments" / "problems" / "data"

DECAY = {
    "name": "decay",
    "states": ["x", "z"],
    "parameters": {"k": "1/2"},
    "equations": ["x_dot+k*x", "z-x**2"],
    "initial": {"y": {"x": "2"}},
    "t_span": ["0", "3"],
}


def read(**changes):
    """The file above with some keys changed; None removes one."""
    data = {key: value for key, value in (DECAY | changes).items() if value is not None}
    return problem_from_text(json.dumps(data))


def refusal(**changes):
    with pytest.raises(ProblemFileError) as caught:
        read(**changes)
    return str(caught.value)


# -- what is read ------------------------------------------------------------------------------------------------------


def test_the_least_that_a_file_holds():
    problem = problem_from_text(json.dumps({k: v for k, v in DECAY.items() if k != "name"}), default_name="file_stem")
    assert problem.name == "file_stem"
    assert problem.states == ("x", "z")
    assert problem.initial == {"x": 2.0}
    assert problem.t_span == (0.0, 3.0)
    assert (problem.reference, problem.recomputed, problem.exact, problem.index) == (None, None, None, None)


def test_equations_are_what_they_say():
    x, x_dot, z, k = sp.symbols("x x_dot z k")
    assert read().system.equations == (x_dot + k * x, z - x**2)


def test_numbers_are_numbers_or_text_and_expressions_of_what_came_before():
    problem = read(
        parameters={"a": 3, "b": "2*a", "c": "-b/4+pi"},
        equations=["x_dot+a*x+b", "z-c"],
        initial={"t": "1/4", "y": {"x": "a*exp(t)", "z": 0.5}},
        t_span=["1/4", "17*3600"],
    )
    assert list(problem.system.parameters.values()) == pytest.approx([3.0, 6.0, np.pi - 1.5], rel=1e-15)
    assert problem.t_span == (0.25, 61200.0)
    assert problem.initial["x"] == pytest.approx(3 * np.exp(0.25), rel=1e-15)
    assert problem.initial["z"] == 0.5


def test_definitions_use_earlier_ones_and_time():
    problem = read(definitions={"a": "sin(t)*k", "b": "a**2"}, equations=["x_dot+b*x", "z-a"])
    t, k, x, x_dot, z = sp.symbols("t k x x_dot z")
    assert problem.system.equations == (x_dot + sp.sin(t) ** 2 * k**2 * x, z - k * sp.sin(t))


def test_functions_with_corners_and_second_derivatives():
    problem = read(
        equations=["x_dot_dot+Piecewise((x,x>0),(Max(x,-1),True))+Abs(x)*sign(x)+Min(x,2)", "z-Rational(1,3)"]
    )
    assert problem.system.equations[0].has(sp.Piecewise, sp.Max, sp.Min, sp.Abs)
    assert problem.system.equations[1] == sp.Symbol("z") - sp.Rational(1, 3)


def test_initial_values_in_the_short_form():
    assert read(initial={"x": "2*k", "z": 1}).initial == {"x": 1.0, "z": 1.0}
    named_y = {"states": ["y", "z"], "equations": ["y_dot", "z"]}
    assert read(**named_y, initial={"y": 2, "z": 1}).initial == {"y": 2.0, "z": 1.0}
    assert read(**named_y, initial={"y": {"y": 2}}).initial == {"y": 2.0}


def test_derivatives_at_the_start():
    problem = read(initial={"t": 0, "y": {"x": 2}, "y_dot": {"x": "-k*2"}})
    assert problem.rates == {"x": -1.0}


def test_every_published_digit_is_kept_as_it_is_written():
    digits = "0.12345678901234567890123"
    better = {"y": {"x": "1.5e-1"}, "how": "twice"}
    end = {"t": 3, "y": {"x": digits, "z": "1/3"}, "origin": "a book", "recomputed_here": better}
    problem = read(reference_end=end)
    assert problem.reference == {"x": digits, "z": repr(1 / 3)}
    assert problem.recomputed == {"x": "1.5e-1"}
    assert problem.texts == {"reference_origin": "a book"}
    assert problem.best_reference() == ({"x": 0.15}, "recomputed")


def test_the_exact_solution_may_use_parameters_and_definitions_and_name_what_is_no_state():
    problem = read(definitions={"half": "exp(-k*t)"}, exact={"x": "2*half", "z": "4*half**2", "mu": "0"})
    assert set(problem.exact) == {"x", "z"}
    found = problem.exact_states([0.0, 3.0])
    np.testing.assert_allclose(found["x"], 2 * np.exp([0.0, -1.5]), rtol=1e-15)
    assert problem.best_reference()[1] == "exact"


def test_exact_solutions_lose_no_digit_to_their_evaluation():
    problem = read(exact={"x": "exp(-t)+t*sin(t)"}, t_span=[0, 100])
    # mpmath, 30 digits
    assert problem.exact_states([100.0])["x"][0] == float("-50.636564110975879365655761046")


def test_everything_else_is_kept_for_the_reader():
    problem = read(
        title="Decay", index=1, source="me", notes=["a", "b"], verification="none", conventions={"x": [1, None]}
    )
    assert (problem.title, problem.index, problem.source, problem.notes) == ("Decay", 1, ("me",), ("a", "b"))
    assert problem.texts == {"verification": "none", "conventions": {"x": [1, None]}}


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_every_built_in_file(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    problem = read_problem(path)
    assert problem.name == path.stem
    assert list(problem.states) == data["states"]
    assert len(problem.system.equations) == len(data["equations"])
    assert set(problem.initial) == set(data["initial"]["y"])
    for name, text in (data.get("reference_end", {}).get("y") or {}).items():
        assert problem.reference[name] == text
    assert problem.index == data["index"]
    assert problem.best_reference() is not None
    assert problem.source


# -- nothing is evaluated ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch owned')",
        "__import__",
        "().__class__",
        "x.__class__",
        "x.real",
        "x[0]",
        "[x for x in (1,)]",
        "(lambda: 1)()",
        "eval('1')",
        "open('owned','w')",
        "f'{x}'",
        "x if x else 1",
        "x and 1",
        "(x := 1)",
        "'text'",
        "Symbol('x')",
        "S('x')",
        "exp(*[1])",
        "exp(x=1)",
        "1j",
        "None",
    ],
)
def test_code_is_refused_wherever_an_expression_stands(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "equations[0]:" in refusal(equations=[text, "z-x"])
    assert "definitions.a:" in refusal(definitions={"a": text})
    assert "parameters.p:" in refusal(parameters={"k": 1, "p": text})
    assert "initial.y.x:" in refusal(initial={"y": {"x": text}})
    assert "t_span[1]:" in refusal(t_span=[0, text])
    assert "exact.x:" in refusal(exact={"x": text})
    assert "reference_end.y.x:" in refusal(reference_end={"y": {"x": text}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["9**9**9", "exp(exp(99))", "x**1000000", "(" * 200 + "x" + ")" * 200, "1e400", "x^2"])
def test_what_would_cost_more_than_it_says_is_refused(text):
    assert "equations[0]:" in refusal(equations=[text, "z-x"])


# -- refusals, each with its place -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"states": None}, ["'states' missing", "'equations'"]),
        ({"equations": None, "t_span": None}, ["'equations', 't_span' missing"]),
        ({"state": ["x"], "states": None}, ["'state'", "write 'states'"]),
        ({"parameter": {}, "parameters": None}, ["unknown key 'parameter'", "write 'parameters'"]),
        ({"name": 3}, ["name: expected text, got a number (3)"]),
        ({"states": "x, z"}, ["states: expected a list of names, got text"]),
        ({"states": []}, ["states: 0 names"]),
        ({"states": [f"x{i}" for i in range(MAX_STATES + 1)]}, ["states: 1001 names"]),
        ({"states": ["x", 1]}, ["states: expected names, each as text, got a number (1)"]),
        ({"states": ["x", "1z"]}, ["states: '1z' is no name"]),
        ({"states": ["x", "λ"]}, ["states: 'λ' is no name", "letters"]),
        ({"states": ["x", "lambda"]}, ["states: 'lambda' is a word of Python", "'lam'"]),
        ({"states": ["x", "sin"]}, ["states: the name 'sin' is that of a function or constant"]),
        ({"states": ["x", "x"]}, ["states: the name 'x' is taken by states"]),
        ({"states": ["x", "k"]}, ["states: the name 'k' is taken by parameters"]),
        ({"states": ["x", "t"]}, ["states: the name 't' is taken by the time"]),
        ({"states": ["x", "x_dot"]}, ["the name 'x_dot' is taken by a derivative of x"]),
        ({"definitions": {"x": "1"}}, ["definitions: the name 'x' is taken by states"]),
        ({"definitions": {"a": "b", "b": "1"}}, ["definitions.a: name 'b' is not declared"]),
        ({"definitions": ["a"]}, ["definitions: expected an object, got a list"]),
        ({"parameters": {"k": "later", "later": 1}}, ["parameters.k: name 'later' is not declared"]),
        ({"parameters": {"k": "x"}}, ["parameters.k: name 'x' is not declared"]),
        ({"parameters": {"k": True}}, ["parameters.k: expected a number or an expression as text, got true or false"]),
        ({"parameters": {"k": None}}, ["parameters.k:", "got null"]),
        ({"parameters": {"k": "1e999"}}, ["parameters.k: '1e999' is no finite real number"]),
        ({"parameters": {"k": "nan"}}, ["parameters.k: 'nan' is no finite real number"]),
        ({"parameters": {"k": "sqrt(-1)"}}, ["parameters.k:", "real"]),
        ({"equations": ["x_dot+x"]}, ["1 equations for 2 states"]),
        ({"equations": ["x_dot+w", "z"]}, ["equations[0]: name 'w' is not declared", "x, x_dot"]),
        ({"equations": ["x_dot", "z=1"]}, ["equations[1]: 'z=1' has a '=': write what should be zero"]),
        ({"equations": ["x_dot", "z>1"]}, ["equations[1]:", "comparison"]),
        ({"equations": ["x_dot", None]}, ["equations[1]: expected a number or an expression as text, got null"]),
        ({"equations": {"a": "x"}}, ["equations: expected a list of expressions"]),
        ({"equations": ["x_dot", "z-x**k"]}, ["equations[1]: exponent in 'x**k' is not constant"]),
        ({"t_span": [0]}, ["t_span: 1 entries"]),
        ({"t_span": {"start": 0}}, ["t_span: expected a list of two times"]),
        ({"t_span": [3, 0]}, ["t_span must go forward"]),
        ({"t_span": ["0", "x"]}, ["t_span[1]: name 'x' is not declared"]),
        ({"initial": [2]}, ["initial: expected an object"]),
        ({"initial": {}}, ['initial: "y" missing']),
        ({"initial": {"y": 1}}, ["initial.y: expected an object {state: value}, got a number"]),
        ({"initial": {"y": {}}}, ["`initial` is empty"]),
        ({"states": ["theta", "z"], "equations": ["theta_dot", "z"], "initial": {"y": {"teta": 1}}}, ["'theta'?"]),
        ({"initial": {"y": {"w": 1}}}, ["initial.y: the problem has no state 'w'; it has x, z"]),
        ({"initial": {"y": {"x": 1}, "y_dot": {"w": 1}}}, ["initial.y_dot: the problem has no state 'w'"]),
        ({"initial": {"y": {"x": 1}, "y_dot": {"x": "y"}}}, ["initial.y_dot.x: name 'y' is not declared"]),
        ({"initial": {"t": 1, "y": {"x": 1}}}, ["initial.t is 1, but t_span begins at 0"]),
        ({"reference_end": {"t": 2, "y": {}}}, ["reference_end.t is 2, but t_span ends at 3"]),
        ({"reference_end": {"y": {"w": 1}}}, ["reference_end.y: the problem has no state 'w'"]),
        ({"reference_end": {"y": {"x": "k"}}}, ["reference_end.y.x: name 'k' is not declared"]),
        ({"reference_end": {"recomputed_here": {"y": {"x": []}}}}, ["reference_end.recomputed_here.y.x: expected"]),
        ({"reference_end": {"origin": 3}}, ["reference_end.origin: expected text"]),
        ({"exact": {"w": "1"}}, ["exact: none of 'w' is a state"]),
        ({"exact": {"x": "z"}}, ["exact.x: name 'z' is not declared"]),
        ({"exact": {"x": "a"}, "definitions": {"a": "z"}}, ["exact.x depends on a state through a definition"]),
        ({"index": "3"}, ["index: '3' is no whole number"]),
        ({"index": -1}, ["index: -1 is no whole number"]),
        ({"index": True}, ["index: True is no whole number"]),
        ({"source": [1]}, ["source: expected texts, got a number (1)"]),
    ],
)
def test_refusals_name_the_place_and_the_mend(changes, parts):
    said = refusal(**changes)
    for part in parts:
        assert part in said


def test_a_key_given_twice_is_refused_at_any_depth():
    for text in ('{"name": "a", "name": "b"}', '{"initial": {"y": {"x": 1, "x": 2}}}'):
        with pytest.raises(ProblemFileError, match="given twice"):
            problem_from_text(text)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(word):
    text = json.dumps(DECAY).replace('"1/2"', word)
    with pytest.raises(ProblemFileError, match=f"{word} is no number"):
        problem_from_text(text)


@pytest.mark.parametrize("text", ["", "[", '{"a": }', "'x'"])
def test_what_is_no_json_is_refused_with_its_line(text):
    with pytest.raises(ProblemFileError, match=r"no JSON: .* at line 1, column"):
        problem_from_text(text)


def test_json_that_is_no_object_or_nested_without_end_is_refused():
    with pytest.raises(ProblemFileError, match="expected one object"):
        problem_from_text("[1]")
    with pytest.raises(ProblemFileError, match="no JSON"):
        problem_from_text("[" * 200_000)


def test_files_that_are_too_large_or_no_text(tmp_path):
    path = tmp_path / "large.json"
    path.write_text(" " * (MAX_BYTES + 1))
    with pytest.raises(ProblemFileError, match=r"large\.json: 5,000,001 bytes"):
        read_problem(path)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ProblemFileError, match=r"large\.json: not UTF-8"):
        read_problem(path)


def test_a_refusal_names_the_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(DECAY | {"equations": ["x_dot+q", "z"]}))
    with pytest.raises(ProblemFileError, match=r"mine\.json: equations\[0\]: name 'q' is not declared"):
        load_problem(path)


def test_a_byte_order_mark_is_no_reason_to_refuse(tmp_path):
    path = tmp_path / "windows.json"
    path.write_text(json.dumps(DECAY), encoding="utf-8-sig")
    assert read_problem(path).name == "decay"


_SPOILT = (
    None, True, -1, 10**400, 1e308, [], {}, [[]], ["x", "x"], "", "x", "t", "1/0", "9**9**9", "nan", "x.real", "sqrt",
    "__import__('os')", "lambda: 0", "(" * 500, "x" * 5000, "+".join("1" * 9000), "x=1", "\x00", "é", "1_0", "0x1",
)  # fmt: skip


def test_whatever_is_wrong_is_one_short_line_that_names_the_file(tmp_path):
    draw, path, refused = random.Random(3), tmp_path / "spoilt.json", 0
    text = (DATA / "robertson.json").read_text()
    for _ in range(120):
        data = json.loads(text)
        place, inner = None, data
        while isinstance(inner, dict | list) and inner and (place is None or draw.random() < 0.7):
            place, key = inner, draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner = inner[key]
        place[key] = draw.choice(_SPOILT)
        path.write_text(json.dumps(data))
        try:
            read_problem(path)
        except ProblemFileError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert len(str(error)) < 700
    assert refused > 60
