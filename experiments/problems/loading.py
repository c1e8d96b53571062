"""Problems by name, from a file of the user, or from another installed package."""

import difflib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ndae.experiments.problems.json_file import read_problem
from ndae.experiments.problems.problem import Problem
from ndae.experiments.problems.python_file import problem_of_file, said
from ndae.experiments.terminal import UserError

if TYPE_CHECKING:
    from ndae.experiments.problems.mechanics import MotionProblem

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
        return import_module(f"ndae.experiments.problems.library.{text}").problem
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == text:
            try:
                made = point.load()
            except Exception as error:
                raise UserError(f"problem {text!r}: {point.value} cannot be loaded: {said(error)}") from error
            return _as_problem(made, f"entry point {point.value}")
    close = difflib.get_close_matches(text, problem_names(), 3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`ndae crosscheck --list` shows them."
    raise UserError(f"no problem is named {text!r}: {hint} A file of your own ends in .json or .py")


def _from_python(path: Path) -> Problem:
    advice = (
        "write `problem = Problem(name, system, initial, t_span)` with "
        "`from ndae.experiments.problems import Problem`, or give one that `ndae train` takes, a MotionProblem"
    )
    return _as_problem(problem_of_file(path, advice), f"`problem` of {path}")


def _as_problem(made: object, where: str) -> Problem:
    from ndae.experiments.problems.mechanics import MotionProblem

    if callable(made) and not isinstance(made, Problem):
        made = made()
    if isinstance(made, MotionProblem):
        return _of_motion(made)
    if not isinstance(made, Problem):
        raise UserError(f"{where} is of type {type(made).__name__}: give an ndae.experiments.problems.Problem")
    return made


def _of_motion(motion: "MotionProblem") -> Problem:
    """The true motion of a problem to learn, from a start that none of its samples is from, as long as theirs."""
    from ndae.experiments.problems.trajectories import starts

    q, v = starts(motion, 1, seed=0, part=3)
    initial = {s.name: float(x) for s, x in zip([*motion.q, *motion.v], [*q[0], *v[0]], strict=True)}
    seconds = motion.per_trajectory * motion.stride * motion.dt
    return Problem(motion.name, motion.system, initial, (0.0, seconds), title=motion.title)
