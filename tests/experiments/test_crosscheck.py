"""Cross-check of a problem: runs, digits, failures, table, JSON, figure."""

import copy
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import sympy as sp

from ndae.experiments.crosscheck import check as module
from ndae.experiments.crosscheck.check import Run, crosscheck, output_times
from ndae.experiments.crosscheck.digits import correct_digits
from ndae.experiments.crosscheck.report import headline, notes, tables, to_json, width_of
from ndae.experiments.crosscheck.work_precision import work_precision
from ndae.experiments.problems import load_problem, problem_from_text
from ndae.experiments.studies.crosscheck_all import markdown
from ndae.experiments.terminal import UserError, console
from tests.experiments.command_line import in_process

# x' = z, z = -x + 0 z2, z2 = 0: no hidden constraint, and a variable that is zero.
DECAY = {
    "name": "decay",
    "states": ["x", "z", "zero"],
    "equations": ["x_dot-z", "z+x", "zero-(z+x)"],
    "initial": {"x": 1},
    "t_span": [0, 2],
}
EXACT = {"x": "exp(-t)", "z": "-exp(-t)", "zero": "0"}


_BASE = problem_from_text(json.dumps(DECAY | {"exact": EXACT}))


def decay(**changes):
    """The problem with other fields and the same system, which is compiled once."""
    return replace(_BASE, **changes)


def strict(text):
    """JSON as the standard has it: neither NaN nor Infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def arevalo():
    return load_problem("arevalo")


@pytest.fixture(scope="module")
def swing(arevalo):
    """The circular motion of Arevalo and Loetstedt by everything there is."""
    pytest.importorskip("sksundae"), pytest.importorskip("solve_dae")
    told = []
    check = crosscheck(arevalo, tolerances=(1e-9, 1e-6), progress=lambda *news: told.append(news))
    return check, told


@pytest.fixture(scope="module")
def plain_decay():
    return crosscheck(decay(), tolerances=(1e-8,), outside=())


# -- runs --------------------------------------------------------------------------------------------------------------


def test_every_solver_in_every_form_at_every_tolerance(swing):
    check, _ = swing
    ways = dict.fromkeys((run.solver, run.formulation) for run in check.runs)
    ours = [("dopri8", name) for name in ("projection", "ggl", "baumgarte", "plain")]
    implicit = [(name, form) for name in ("IDA", "Radau") for form in ("ggl", "index1")]
    assert list(ways) == [*ours, ("torch", "projection"), *implicit]
    assert [run.rtol for run in check.runs] == [1e-6, 1e-9] * len(ways)
    assert not [run for run in check.runs if run.failure]
    assert (check.index, check.stiff, check.hidden, check.left_out) == (3, False, 2, ())
    assert check.differential == ("x", "y", "u", "v")


def test_digits_are_those_of_the_end_against_the_exact_solution(swing):
    check, _ = swing
    assert check.reference_kind == "exact"
    assert check.reference["x"] == pytest.approx(math.sin(25), abs=1e-15)
    for run in check.runs:
        assert check.digits(run) == min(run.digits.digits[name] for name in check.differential)
        assert check.digits(run, differential=False) == min(run.digits.digits.values())


def test_independent_solvers_agree_with_ours(swing):
    check, _ = swing
    digits = {(run.solver, run.formulation, run.rtol): check.digits(run) for run in check.runs}
    for way in {key[:2] for key in digits}:
        loose, tight = digits[*way, 1e-6], digits[*way, 1e-9]
        # A smaller tolerance is a smaller error, unless the steps end on the output times anyway (ours).
        assert tight > loose + 1 or (way[0] == "dopri8" and tight >= loose > 8)
        # Local errors of IDA add up, over its many steps of low order.
        assert tight > (4.5 if way[0] == "IDA" else 7)


def test_projection_holds_every_level_and_plain_reduction_drifts(swing):
    check, _ = swing
    drift = {run.formulation: run.drift for run in check.runs if run.solver == "dopri8" and run.rtol == 1e-6}
    assert set(drift["projection"]) == {"level 0", "level 1", "level 2"}
    assert drift["projection"]["level 0"] < 1e-14
    assert drift["projection"]["level 1"] < 1e-12
    assert drift["plain"]["level 0"] > 1e-11
    for formulation in ("ggl", "baumgarte"):
        assert drift["projection"]["level 0"] < drift[formulation]["level 0"] < drift["plain"]["level 0"]


def test_counts_are_those_of_every_step(swing):
    check, _ = swing
    for run in check.runs:
        assert run.n_steps >= 100 or run.solver == "IDA"  # ours and Radau's end on the 101 output times
        assert run.n_f_evals > run.n_steps
        assert run.seconds > 0


def test_seconds_are_those_of_a_compiled_call(monkeypatch):
    """By a clock that goes on by compiling alone."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: len(compiled)))
    check = crosscheck(decay(system=copy.copy(_BASE.system)), tolerances=(1e-7,), outside=())
    assert compiled
    assert [run.seconds for run in check.runs] == [0]


def test_progress_goes_forward_and_says_what_is_solved(swing):
    _, told = swing
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert {"dopri8, ggl, rtol 1e-09", "IDA, index1, rtol 1e-06", "Radau, ggl, rtol 1e-09"} < {text for _, text in told}


# -- special cases -----------------------------------------------------------------------------------------------------


def test_without_hidden_constraints_there_is_one_solve(plain_decay):
    assert [(run.solver, run.formulation) for run in plain_decay.runs] == [("dopri8", "plain")]
    assert plain_decay.hidden == 0
    assert "every formulation is the same solve as plain" in " ".join(notes(plain_decay))


def test_algebraic_variables_that_are_zero_are_not_scored(plain_decay):
    assert plain_decay.left_out == ("zero",)
    (run,) = plain_decay.runs
    assert set(run.digits.digits) == {"x", "z"}
    assert plain_decay.digits(run, differential=False) > 7
    assert "zero up to rounding all along, so without digits and not counted: zero" in notes(plain_decay)


def test_variables_that_the_reference_does_not_give_are_named_and_compared_between_runs(monkeypatch):
    published = decay(exact=None, reference={"x": "0.1353352832366127"})
    solve = module._Study.by_others

    def spoiled(study, *args):
        run, solution = solve(study, *args)
        solution.x[60, 1] *= 1.5  # z, at one output, with states that are right
        return run, solution

    monkeypatch.setattr(module._Study, "by_others", spoiled)
    check = crosscheck(published, tolerances=(1e-8,), outside=("torch",))
    assert (check.not_given, check.left_out) == (("z",), ("zero",))
    assert to_json(check)["not_given"] == ["z"]
    run = check.runs[0]
    assert set(run.digits.digits) == {"x"} and run.agreement.algebraic < 2 < run.agreement.differential
    assert any(line.startswith("WRONG: ") and ": z agrees with" in line for line in notes(check))
    assert any(line.startswith("not given by the reference") and line.endswith(": z") for line in notes(check))
    (made,) = tables(check, 200)
    assert [line[4:6] for line in printed(made) if line[:1] == ["dopri8"]] == [["not", "given"]]
    assert not crosscheck(decay(), tolerances=(1e-8,), outside=()).not_given


def test_small_differential_variables_are_scored():
    tiny = decay(initial={"x": 1e-13}, exact={"x": 1e-13 * sp.exp(-_BASE.system.time)})
    check = crosscheck(tiny, tolerances=(1e-8,), outside=())
    assert check.left_out == ("z", "zero")  # z is as small, and algebraic
    assert check.digits(check.runs[0]) > 7


def test_without_reference_values_a_tighter_solve_takes_their_place():
    check = crosscheck(decay(exact=None), tolerances=(1e-6,), outside=())
    assert check.reference_kind == "dopri8, plain at rtol 1e-12"
    assert check.reference["x"] == pytest.approx(math.exp(-2), rel=1e-11)
    assert not check.published_digits
    assert any("against dopri8, plain at rtol 1e-12" in line for line in notes(check))


def test_that_solve_is_not_the_one_it_judges(monkeypatch):
    # Steps end on the output times, here long before a tolerance needs it: at the same ones the two would be one solve.
    asked, solve = [], module._Study._solve

    def recorded(study, formulation, rtol, atol, max_steps, ts=None):
        asked.append(len(study.ts if ts is None else ts))
        return solve(study, formulation, rtol, atol, max_steps, ts)

    monkeypatch.setattr(module._Study, "_solve", recorded)
    check = crosscheck(decay(exact=None), tolerances=(1e-12,), outside=())
    assert (check.n_outputs, asked[0], asked[-1]) == (101, 101, 201)
    assert abs(check.reference["x"] - math.exp(-2)) < 1e-15
    assert "against dopri8, plain at rtol 1e-12, as no end values are known" in notes(check)[0]


def test_published_values_are_judged_by_better_ones():
    end = {"x": "0.13533528", "z": "-0.1353352832366127"}
    check = crosscheck(decay(reference=end), tolerances=(1e-6,), outside=())
    assert check.reference_kind == "exact"
    value = math.exp(-2)
    assert check.published_digits["x"] == pytest.approx(correct_digits(0.13533528, value, value), abs=1e-6)
    assert check.published_digits["z"] > 15
    assert any("the published values themselves have 7.6 digits (the worst, x)" in line for line in notes(check))
    good = decay(reference={"x": "0.1353352832366127"})
    assert not any("themselves" in line for line in notes(crosscheck(good, tolerances=(1e-6,), outside=())))


def test_where_end_values_come_from_is_said():
    published = decay(exact=None, reference={"x": "0.1353352832366127"}, texts={"reference_origin": "by hand"})
    check = crosscheck(published, tolerances=(1e-6,), outside=())
    assert check.reference_kind == "published"
    assert any("against the end values that it gives (by hand)" in line for line in notes(check))
    assert to_json(check)["reference"]["origin"] == "by hand"


def test_a_source_that_states_another_index_is_noted():
    check = crosscheck(decay(index=2), tolerances=(1e-6,), outside=())
    assert "its source states index 2, found is 1" in notes(check)


def test_stiff_problems_get_the_implicit_solver_and_more_early_outputs():
    stiff = problem_from_text(
        json.dumps(
            {
                "states": ["y"],
                "equations": ["y_dot+1e6*(y-cos(t))+sin(t)"],
                "initial": {"y": 1},
                "t_span": [0, 10],
                "exact": {"y": "cos(t)"},
            }
        )
    )
    check = crosscheck(stiff, tolerances=(1e-8,), outside=())
    assert (check.stiff, check.solver) == (True, "radau13")
    assert check.digits(check.runs[0]) > 6
    ts = output_times((0.0, 10.0), stiff=True)
    assert np.all(np.diff(ts) > 0)
    assert (ts[0], ts[-1]) == (0.0, 10.0)
    assert ts[1] == pytest.approx(1e-11)
    assert len(output_times((0.0, 10.0), stiff=False)) == 101


def test_a_solver_that_is_not_installed_is_a_line_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    check = crosscheck(decay(), tolerances=(1e-6,))
    failures = {run.solver: run.failure for run in check.runs if run.failure}
    extras = {"IDA": "crosscheck", "Radau": "crosscheck", "torch": "learn"}
    assert failures == {name: f"not installed: pip install 'ndae[{extra}]'" for name, extra in extras.items()}
    assert notes(check)[-3:] == [f"{name}, rtol 1e-06: {failures[name]}" for name in extras]
    data = strict(json.dumps(to_json(check)))
    assert [run["digits_differential"] for run in data["runs"][-3:]] == [None, None, None]


def test_a_solve_that_gives_up_is_a_line_and_the_others_go_on(arevalo):
    pytest.importorskip("sksundae"), pytest.importorskip("solve_dae")
    check = crosscheck(arevalo, tolerances=(1e-6,), formulations=("plain",), max_seconds=1e-3)
    ours, *others = check.runs
    assert ours.failure is None
    assert len(others) == 5
    assert all(run.failure.startswith("gave up after 0.001 s") for run in others)
    assert all(run.digits is None for run in others)


def test_a_mistake_of_the_program_is_no_line_of_the_table(monkeypatch):
    def broken(self, *_):
        raise AttributeError("no such thing")

    monkeypatch.setattr(module._Study, "_solve", broken)
    study = object.__new__(module._Study)
    study.__dict__["scales"] = {}
    with pytest.raises(AttributeError, match="no such thing"):
        study.ours("dopri8", "plain", 1e-6)


def test_bad_arguments_are_refused_before_anything_is_solved(arevalo):
    for options, said in (
        ({"tolerances": ()}, "tolerances must be numbers between 0 and 1"),
        ({"tolerances": (2.0,)}, "tolerances must be numbers between 0 and 1"),
        ({"tolerances": (math.nan,)}, "tolerances must be numbers between 0 and 1"),
        ({"formulations": ("ggi",)}, "formulation 'ggi' is not known; choose from projection, ggl, baumgarte, plain"),
        ({"outside": ("CVODE",)}, "other solver 'CVODE' is not known; choose from torch, IDA, Radau"),
        ({"solver": "euler"}, "solver 'euler' is not known; choose from dopri8"),
    ):
        with pytest.raises(UserError, match=said):
            crosscheck(arevalo, **options)


def test_a_system_with_nothing_to_integrate_is_refused():
    fixed = {"states": ["x"], "equations": ["x-sin(t)"], "initial": {"x": 0}, "t_span": [0, 1]}
    with pytest.raises(UserError, match="there is nothing to integrate"):
        crosscheck(problem_from_text(json.dumps(fixed)))


def test_a_solution_that_ends_before_its_time_is_refused_with_the_time():
    blowup = {"name": "blowup", "states": ["x"], "equations": ["x_dot-x**2"], "initial": {"x": 1}, "t_span": [0, 2]}
    with pytest.raises(UserError, match=r"blowup: no coarse solution was found; dopri8: .* t = 1\.0.*radau13"):
        crosscheck(problem_from_text(json.dumps(blowup)))


# -- as a table, JSON and a figure -------------------------------------------------------------------------------------


def printed(made):
    out = console()
    out.width = 200
    with out.capture() as capture:
        out.print(made)
    return [line.split() for line in capture.get().splitlines()]


def test_the_table_has_a_line_for_every_run(swing):
    check, _ = swing
    assert headline(check).startswith("arevalo")
    assert "index 3, 5 variables (4 differential), t = 1 to 5, not stiff: dopri8" in headline(check)
    (whole,) = tables(check, 200)
    titles, _, *rows = (line for line in printed(whole) if line)
    levels = ["level", "0", "level", "1", "level", "2"]
    assert titles == ["solver", "formulation", "rtol", "digits", "all", "outputs", *levels, "steps", "rhs", "seconds"]
    assert len(rows) == len(check.runs)
    best = check.runs[1]
    assert rows[1][:2] == ["1e-09", f"{check.digits(best):.1f}"]
    assert rows[1][-3] == f"{best.n_steps:,}"


def test_a_narrow_terminal_gets_two_tables_with_everything_in_them(swing):
    check, _ = swing
    narrow = tables(check, 70)
    assert all(width_of(made) <= 70 for made in narrow)
    results, residuals = ([line for line in printed(made) if line] for made in narrow)
    assert results[0][3:] == ["digits", "all", "steps", "rhs", "seconds"]
    assert residuals[0][3:] == ["outputs", "level", "0", "level", "1", "level", "2"]
    assert len(results) == len(residuals) == 2 + len(check.runs)


def test_json_holds_everything_and_is_json(swing):
    check, _ = swing
    data = strict(json.dumps(to_json(check)))
    assert data["problem"] == "arevalo"
    assert (data["index"], data["stated_index"], data["hidden_constraints"], data["zero"]) == (3, 3, 2, [])
    assert data["reference"]["kind"] == "exact"
    assert data["reference"]["end"] == dict(check.reference)
    assert len(data["runs"]) == len(check.runs)
    first, run = data["runs"][0], check.runs[0]
    assert first["drift"] == dict(run.drift)
    assert first["digits"] == dict(run.digits.digits)
    assert first["digits_differential"] == check.digits(run)
    assert first["agreement"]["algebraic"] == run.agreement.algebraic
    assert {"ndae", "scikit-sundae", "solve-dae"} < set(data["versions"])
    assert "cores" in data["machine"]


def test_numbers_that_are_not_finite_are_null(plain_decay):
    broken = Run("dopri8", "plain", 1e-6, drift={"level 0": math.nan}, invariants={"energy": math.inf}, n_steps=3)
    data = to_json(replace(plain_decay, runs=(broken,)))
    assert data["runs"][0]["drift"] == {"level 0": None}
    assert data["runs"][0]["invariants"] == {"energy": None}
    strict(json.dumps(data))


def test_work_precision_is_drawn_from_the_json(swing, tmp_path):
    path = work_precision(to_json(swing[0]), tmp_path / "folder" / "diagram.png")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    from matplotlib.image import imread

    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 8  # a colour a line


def test_nothing_to_draw_is_said(plain_decay, tmp_path):
    data = to_json(replace(plain_decay, runs=(Run("IDA", "ggl", 1e-6, failure="gave up"),)))
    with pytest.raises(ValueError, match="no solve of decay succeeded: there is nothing to draw"):
        work_precision(data, tmp_path / "diagram.png")
    assert not list(tmp_path.iterdir())


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("problem") / "decay.json"
    path.write_text(json.dumps(DECAY | {"exact": EXACT}))
    return path


def test_the_command_prints_the_table_and_writes_json_and_figure(file, tmp_path, capsys):
    made, figure = tmp_path / "made.json", tmp_path / "made.png"
    code, out, err = in_process(
        capsys, "crosscheck", file, "--against", "none", "--rtol", "1e-8", "--json", made, "--work-precision", figure
    )
    assert code == 0, err
    assert "decay" in out
    assert "- seconds: wall time" in out
    assert f"wrote {made}" in out.replace("\n", "")
    assert [run["rtol"] for run in strict(made.read_text())["runs"]] == [1e-4, 1e-6, 1e-8]
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tolerances", "1e-6;1e-8"), "--tolerances '1e-6;1e-8': write numbers with commas between them"),
        (("--against", "cvode"), "other solver 'cvode' is not known"),
        (("--formulations", "gear"), "formulation 'gear' is not known"),
        (("--solver", "euler"), "solver 'euler' is not known"),
        (("--consistent", "q"), "--consistent: problem 'decay' has no state 'q'; it has x, z, zero"),
        (("--work-precision", "a.xyz"), "--work-precision a.xyz: write a file that ends in .png"),
        (("--json", "."), "--json . is a folder: write the name of a file"),
    ],
)
def test_what_is_typed_wrong_is_answered_with_what_to_type(file, options, said, capsys):
    code, out, err = in_process(capsys, "crosscheck", file, *options)
    assert (code, out) == (1, "")
    assert said in " ".join(err.split())


def test_text_of_a_file_is_no_markup(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    path = tmp_path / "decay.json"
    path.write_text(json.dumps(DECAY | {"exact": EXACT, "title": "[/bold] [red]all[/red]"}))
    code, out, err = in_process(capsys, "crosscheck", path, "--against", "ida", "--tolerances", "1e-6")
    assert (code, err) == (0, "")
    assert "decay: [/bold] [red]all[/red]" in out
    assert "pip install 'ndae[crosscheck]'" in " ".join(out.split())


def test_json_alone_on_standard_output_and_names_of_solvers_in_any_case(file, capsys):
    pytest.importorskip("sksundae")
    code, out, _ = in_process(
        capsys, "crosscheck", file, "--against", "ida", "--tolerances", "1e-6", "--json", "-", "--max-seconds", "30"
    )
    assert code == 0
    assert strict(out)["problem"] == "decay"  # and nothing before or behind it
    runs = strict(out)["runs"]
    assert [(run["solver"], run["formulation"]) for run in runs[1:]] == [("IDA", "original"), ("IDA", "index1")]
    assert all(run["digits_differential"] > 4 for run in runs)


def test_the_table_of_all_problems_has_a_line_for_each(swing, plain_decay):
    checks = [to_json(check) for check in (swing[0], plain_decay)]
    header, rule, *lines = (line.strip("| ").split(" | ") for line in markdown(checks).splitlines())
    assert len(header) == len(rule) == 14
    first, second = (dict(zip(range(14), line, strict=True)) for line in lines)
    runs = {run.formulation: swing[0].digits(run) for run in swing[0].runs if run.solver == "dopri8"}
    assert (first[1], second[1]) == ("3", "1")
    assert float(first[3]) == pytest.approx(runs["projection"], abs=0.051)
    assert float(first[10]) < 1e-12 and first[9] == "exact"
    assert second[3] == "" and float(second[5]) > 4  # nothing is hidden: one solve, plain
