"""Problems by name, from a file of the user, or from another installed package."""

import difflib
import importlib.util
import sys
import traceback
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from experiments.problems.problem import Problem
from experiments.problems.reader import read_problem
from experiments.terminal import UserError

ENTRY_POINTS = "ndae.problems"
_DATA = Path(__file__).parent / "data"
# Built-in problems that are Python: a module of this package with a `problem`.
_MODULES = ("five_body_pendulum",)


def problem_names() -> dict[str, str]:
    """Every problem that can be given by name, with where it comes from, in alphabetical order."""
    names = {path.stem: "built in" for path in _DATA.glob("*.json")} | {name: "built in" for name in _MODULES}
    for point in entry_points(group=ENTRY_POINTS):
        names.setdefault(point.name, f"package {point.dist.name}" if point.dist else point.value)
    return dict(sorted(names.items()))


def load_problem(name_or_path: str | Path) -> Problem:
    """A problem by its name (see `problem_names`), or from a file: JSON, or Python that defines `problem`.

    A name is looked up among the built-in problems and the entry points of group "ndae.problems"; what ends in .json
    or .py, or has a folder in it, is a file. JSON is parsed and never run; a Python file is the user's own program.

    Raises UserError, ProblemFileError (a ValueError) or OSError, each with the line that mends it.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix in (".json", ".py") or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"{path}: no such file; `ndae crosscheck --list` shows the problems known by name")
        if path.suffix == ".py":
            return _from_python(path)
        return read_problem(path)
    if (_DATA / f"{text}.json").is_file():
        return read_problem(_DATA / f"{text}.json")
    if text in _MODULES:
        return import_module(f"experiments.problems.{text}").problem
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == text:
            try:
                made = point.load()
            except Exception as error:
                raise UserError(f"problem {text!r}: {point.value} cannot be loaded: {_said(error)}") from error
            return _as_problem(made, f"entry point {point.value}")
    close = difflib.get_close_matches(text, problem_names(), 3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`ndae crosscheck --list` shows them."
    raise UserError(f"no problem is named {text!r}: {hint} A file of your own ends in .json or .py")


def _from_python(path: Path) -> Problem:
    name = f"_ndae_problem_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = f" line {lines[-1]}," if lines else ""
        raise UserError(f"{path}:{line} {_said(error)}") from error
    if not hasattr(module, "problem"):
        raise UserError(
            f"{path} defines no `problem`: write `problem = Problem(name, system, initial, t_span)` with "
            "`from experiments.problems import Problem`"
        )
    return _as_problem(module.problem, f"`problem` of {path}")


def _as_problem(made: object, where: str) -> Problem:
    if callable(made) and not isinstance(made, Problem):
        made = made()
    if not isinstance(made, Problem):
        raise UserError(f"{where} is of type {type(made).__name__}: give an experiments.problems.Problem")
    return made


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
