"""The command line as a user types it: answers in time, errors in one line, nothing loaded that is not used."""

import dataclasses
import os
import subprocess
import sys

import pytest
import typer

from ndae.experiments.cli import commands as cli
from ndae.experiments.runs.records import write_record
from ndae.experiments.runs.settings import Settings
from tests.experiments.command_line import in_process
from tests.experiments.records_for_tests import ALONE, PAPERS, record

# What draws help, checks options and loads names lazily: hundredths of a second, where NumPy takes tenths.
LIGHT = {
    "annotated_doc", "annotated_types", "attr", "click", "colorama", "lazy_loader", "markdown_it", "mdurl", "ndae",
    "packaging", "pydantic", "pydantic_core", "pygments", "rich", "shellingham", "typer", "typing_extensions",
    "typing_inspection",
}  # fmt: skip


def loaded(*arguments):
    """Which packages a command imports, beside those of Python."""
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom ndae.experiments.cli import commands as cli\n"
        f"cli.run({list(arguments)!r})\n"
        "names = {name.split('.')[0] for name in sys.modules.keys() - before} - set(sys.stdlib_module_names)\n"
        "print('loaded', *(name for name in names if name[0] != '_'), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    return set(done.stderr.splitlines()[-1].split()[1:])


COMMANDS = ("train", "compare", "sweep", "table", "constraint", "crosscheck", "validate", "demo")


@pytest.mark.parametrize("arguments", [("--help",), (), *((command, "--help") for command in COMMANDS)])
def test_help_loads_nothing_heavy(arguments):
    """So that it answers at once."""
    assert loaded(*arguments) <= LIGHT


def test_help_names_every_command(capsys):
    code, out, _ = in_process(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert f" {command} " in out


def test_version(capsys):
    code, out, _ = in_process(capsys, "--version")
    assert code == 0 and out.startswith("ndae ")


def test_options_of_a_run_are_its_settings(capsys):
    fields = {field.name: field for field in dataclasses.fields(Settings) if field.metadata["help"]}
    commands = typer.main.get_group(cli.app).commands
    options = {name: {one.name: one for one in commands[name].params} for name in ("train", "compare", "sweep")}
    assert not fields.keys() - options["train"].keys()
    assert fields.keys() - options["compare"].keys() == {"method", "seed"}
    assert fields.keys() - options["sweep"].keys() == {"seed"}
    for name, field in fields.items():
        option, choices = options["train"][name], field.metadata["choices"]
        assert option.help == field.metadata["help"]
        if choices:
            code, _, err = in_process(capsys, "train", "pendulum", f"--{name}", "nun")
            assert code == 2 and all(f"'{choice}'" in err for choice in choices)
        if name not in ("problem", "network"):  # asked for, and the problem's own
            assert option.default == field.default


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tran",), ["tran", "--help"]),
        (("train",), ["problem", "ndae train --help"]),
        (("train", "sand"), ["sand", "pendulum"]),
        (("train", "pendulum", "--metod", "none"), ["--metod", "--method"]),
        (("train", "pendulum", "--method", "nun"), ["--method", "nun", "penalty"]),
        (("train", "pendulum", "--gamma", "x"), ["--gamma", "number"]),
        (("train", "pendulum", "--gamma", "-1"), ["--gamma", "0"]),
        (("train", "pendulum", "--epochs", "0"), ["--epochs", "1"]),
        (("train", "pendulum", "--dtype", "float16"), ["--dtype", "float64"]),
        (("sweep", "pendulum"), ["--over"]),
        (("constraint", "x**2 - 1"), ["--states"]),
        (("constraint", "x", "--states", "x", "--levels", "3"), ["--levels", "2"]),
        (("train", "pendulum", "--stabilisation", "glue"), ["--stabilisation", "glue", "ggl"]),
        (("train", "pendulum", "--schedule", "steep"), ["--schedule", "steep", "cosine"]),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(capsys, arguments, words):
    code, out, err = in_process(capsys, *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and err.startswith("ndae: ")
    assert all(word in err for word in words), err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "pendulum", "--methods", "none,best"), ["best", "smooth"]),
        (("compare", "pendulum", "--methods", "none,none"), ["No constraint", "twice"]),
        (("compare", "pendulum", "--methods", "penalty-alone"), ["penalty-alone"]),
        (("sweep", "pendulum", "--over", "gamma", "--values", "1,x"), ["--values", "'x'"]),
        (("sweep", "pendulum", "--over", "gamma", "--values", "-1"), ["--values", "'-1'"]),
        (("sweep", "pendulum", "--over", "eta", "--method", "penalty"), ["penalty", "eta"]),
        (("train", "pendulum", "--method", "end", "--force", "potential"), ["--force", "multiplier or soft", "end"]),
        (("train", "pendulum", "--method", "soft", "--stabilisation", "ggl"), ["--stabilisation", "multiplier: "]),
        (("train", "pendulum", "--method", "soft"), ["pendulum", "rigid", "--method multiplier"]),
        (("train", "pendulum", "--network", "equivariant"), ["no molecules", "--network mimetic"]),
        (("train", "pendulum", "--trajectory", __file__), ["pendulum", "takes no trajectory"]),
        (("train", "pendulum", "--trajectory", "no.xyz"), ["--trajectory no.xyz", "no such file"]),
        (("compare", "pendulum", "--frame-step", "0.5"), ["--frame-step", "--trajectory FILE"]),
        (("table", "no/such/folder"), ["no/such/folder"]),
        (("constraint", "x**2 - 1", "--states", "x", "--save", "a.py"), ["--source"]),
        (("constraint", "x**2 - 1", "--states", ","), ["--states"]),
        (("constraint", "x**2 - 1", "--states", "x,1y"), ["1y"]),
        (("constraint", "x**2 - 1", "--states", "x,x"), ["'x'", "twice"]),
        (("constraint", "x**2 - L", "--states", "x", "--parameters", "L=long"), ["L=long", "number"]),
        (("constraint", "x**2 - L", "--states", "x", "--parameters", "L=inf"), ["L=inf", "finite"]),
    ],
)
def test_wrong_input_is_one_line_and_code_1(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = in_process(capsys, *arguments)
    assert code == 1
    assert len(err.strip().splitlines()) == 1 and err.startswith("ndae: ")
    assert all(word in err for word in words), err
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_debug_raises(capsys):
    with pytest.raises(FileNotFoundError):
        cli.run(["table", "no/such/folder", "--debug"])


def test_a_bug_is_told_from_a_users_error(capsys, monkeypatch):
    monkeypatch.setattr("ndae.experiments.runs.records.read_records", lambda folder: {}["bug"])
    code, _, err = in_process(capsys, "table", ".")
    assert code == 1
    assert "unexpected KeyError" in err and "--debug" in err and "Traceback" not in err


@pytest.mark.parametrize("ending", [KeyboardInterrupt, "lightning"])
def test_an_interrupt_is_130(capsys, monkeypatch, ending):
    def interrupted(folder):
        if ending is KeyboardInterrupt:
            raise KeyboardInterrupt
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # what Lightning makes of it

    monkeypatch.setattr("ndae.experiments.runs.records.read_records", interrupted)
    code, _, err = in_process(capsys, "table", ".")
    assert code == 130
    assert "interrupted" in err


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    write_record(record(PAPERS[0]), tmp_path / "a.json")
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = f"{sys.executable} -u -m ndae table {tmp_path} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for variant in PAPERS + ALONE:
        for seed in range(2):
            write_record(record(variant, seed), folder / f"{variant.name}-{seed}.json")
    return folder


def test_table_from_results_alone(capsys, results, tmp_path):
    code, out, err = in_process(
        capsys, "table", results, "--csv", tmp_path / "new" / "t.csv", "--figures", tmp_path / "figures"
    )
    assert (code, err) == (0, "")
    for variant in PAPERS + ALONE:
        assert variant.title in out
    assert (tmp_path / "new" / "t.csv").read_text().count("\n") == 1 + len(PAPERS + ALONE)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["figure4.png", "figure5.png"]


def test_table_as_markdown(capsys, results):
    code, out, _ = in_process(capsys, "table", results, "--markdown")
    assert code == 0
    assert "| Smooth projection γ,η=10 |" in out


def test_table_names_a_damaged_file(capsys, results):
    path = results / "none-0.json"
    path.write_text(path.read_text()[:200])
    code, _, err = in_process(capsys, "table", results)
    assert code == 1
    assert "none-0.json" in err and len(err.splitlines()) == 1


def test_table_cannot_write_over_a_folder(capsys, results, tmp_path):
    code, _, err = in_process(capsys, "table", results, "--csv", tmp_path)
    assert code == 1
    assert str(tmp_path) in err and len(err.splitlines()) == 1


CIRCLE = ("constraint", "sqrt(x**2 + y**2) - L", "--states", "x,y", "--parameters", "L=1.0")


def test_a_constraint_is_derived(capsys):
    code, out, err = in_process(capsys, *CIRCLE, "--levels", "2")
    assert (code, err) == (0, "")
    assert "x/sqrt(x**2 + y**2)" in out  # the Jacobian
    assert "v_x*x + v_y*y" in out  # the velocity level
    assert "v_x**2 + v_y**2" in out  # the curvature


def test_a_constraint_is_derived_without_torch():
    for backend in ("torch", "jax", "numpy"):
        assert loaded(*CIRCLE, "--source", backend) & {"torch", "jax", "lightning", "matplotlib", "diffrax"} == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x**2 + z", "--states", "x"), ["z"]),
        (("x**2 - 1", "--states", "x,y"), ["y"]),
        (("x**2 +", "--states", "x"), ["x**2 +"]),
        (("abs(x) - 1", "--states", "x"), ["abs"]),
        (("__import__('os').system('touch broken')", "--states", "x"), []),
        (("x.__class__", "--states", "x"), []),
        (("x**2 - 1", "2*x**2 - 2", "--states", "x"), []),
        (("x**2 - 1", "--states", "lambda"), ["lambda"]),
    ],
)
def test_a_bad_constraint_is_one_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = in_process(capsys, "constraint", *arguments)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1 and err.startswith("ndae: ") and "unexpected" not in err
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


def test_an_expression_that_begins_with_minus(capsys):
    code, out, _ = in_process(capsys, "constraint", "--states", "x", "--", "-x + 1")
    assert code == 0 and "1 - x" in out


def test_a_saved_constraint_runs_without_sympy(capsys, tmp_path):
    path = tmp_path / "new" / "circle.py"
    code, out, _ = in_process(capsys, *CIRCLE, "--source", "numpy", "--save", path)
    assert code == 0 and str(path) in out
    check = (
        "import sys; sys.modules['sympy'] = None; sys.modules['symbolic'] = None\n"
        "import numpy as np, circle\n"
        "print(float(circle.function.residual(np.array([3.0, 4.0]))[0]))"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=path.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "4.0", done.stderr
