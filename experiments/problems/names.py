"""The systems whose motion is learned, a file each; importing this loads none of them.

A new one is a file that makes a `MotionProblem` (see `ndae.experiments.problems.mechanics`) and calls it PROBLEM: here,
or anywhere else, given by its path.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndae.experiments.problems.learning import LearningProblem

# The paper's first, the others as they are found.
PROBLEMS = ("pendulum", "chaplygin_sleigh", "robot_arm", "water")

_of_files: dict[tuple[Path, int] | None, "LearningProblem"] = {}


def is_file(name: str) -> bool:
    """Whether a problem's name is the path of a file of the user's."""
    return name.endswith(".py")


def check_name(name: str) -> None:
    """Raise `ValueError` for a name that there is not; whether a file is there, and is a problem, is seen later."""
    if not is_file(name) and name not in PROBLEMS:
        known = ", ".join(PROBLEMS)
        raise ValueError(f"problem {name!r} is unknown: give one of {known}, or the path of a Python file, NAME.py")


def find(name: str) -> "LearningProblem":
    """The problem of that name, or of that file; a file is run once, and again when it has changed.

    Raises `ValueError` for a name that there is not, `UserError` for a file that is missing, fails or has no problem.
    """
    check_name(name)
    if is_file(name):
        return _of_file(Path(name))
    return import_module(f"ndae.experiments.problems.library.{name}").PROBLEM


def _of_file(path: Path) -> "LearningProblem":
    from ndae.experiments.problems.learning import LearningProblem
    from ndae.experiments.problems.python_file import problem_of_file
    from ndae.experiments.terminal import UserError

    key = (path.resolve(), path.stat().st_mtime_ns) if path.is_file() else None
    if key not in _of_files:
        advice = (
            "write `problem = MotionProblem(...)` with `from ndae.experiments.problems.mechanics import MotionProblem`"
        )
        made = problem_of_file(path, advice)
        if not isinstance(made, LearningProblem):
            raise UserError(f"`problem` of {path} is of type {type(made).__name__}: {advice}")
        _of_files[key] = made
    return _of_files[key]
