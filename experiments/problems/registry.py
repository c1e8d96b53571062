"""Every problem by its name: built in, of another installed package, or in a file of the user's.

There are two kinds. A `Problem` is a system with a start, to solve and to cross-check. A `LearningProblem` has samples
as well, to train on; where it has equations, it gives its `Problem`. A new one of either kind is a file that makes it
and calls it `problem`, given by its path. Importing this loads none of them.
"""

import difflib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ndae.experiments.problems.data_problem import DataProblem
    from ndae.experiments.problems.learning import LearningProblem
    from ndae.experiments.problems.problem import Problem

#: Problems to learn: the paper's first, the others as they were found. Each is a module of `library`.
TO_LEARN = ("pendulum", "chaplygin_sleigh", "robot_arm", "water")
ENTRY_POINTS = "ndae.problems"
DATA = Path(__file__).parent / "data"
# Built-in problems to solve that are Python; the others are JSON.
_MODULES = ("five_body_pendulum",)
_ADVICE = (
    "write `problem = DataProblem(name, system, functions, recordings)` with `from ndae.experiments.problems import "
    "DataProblem`, or `problem = MotionProblem(...)` with `from ndae.experiments.problems.mechanics import "
    "MotionProblem`, or, to solve alone, `problem = Problem(name, system, initial, t_span)` with `from "
    "ndae.experiments.problems import Problem`"
)

_of_files: dict[tuple[Path, int], object] = {}


def problem_names() -> dict[str, str]:
    """Every problem that can be given by name, with where it comes from, in alphabetical order."""
    names = {path.stem: "built in" for path in DATA.glob("*.json")} | {name: "built in" for name in _MODULES}
    names |= {name: "built in, with samples to train on" for name in TO_LEARN}
    for point in entry_points(group=ENTRY_POINTS):
        names.setdefault(point.name, f"package {point.dist.name}" if point.dist else point.value)
    return dict(sorted(names.items()))


def is_file(name: str) -> bool:
    """Whether the name of a problem to learn is the path of a file of the user's."""
    return name.endswith((".py", ".json"))


def check_to_learn(name: str) -> None:
    """Raise `ValueError` for a name of no problem to learn; whether a file is there, and is one, is seen later."""
    if is_file(name) or name in TO_LEARN:
        return
    known = f"give one of {', '.join(TO_LEARN)}, or the path of a file, NAME.py or NAME.json"
    if name in problem_names():
        raise ValueError(f"problem {name!r} has equations, for `ndae crosscheck`, and no samples to train on: {known}")
    raise ValueError(f"problem {name!r} is unknown: {known}")


def to_learn(name: str) -> "LearningProblem":
    """The problem to learn of that name, or of that file; a file is run once, and again when it has changed.

    Raises `ValueError` for a name that there is not, `UserError` for a file that is missing, fails or has no problem.
    """
    from ndae.experiments.problems.learning import LearningProblem
    from ndae.experiments.terminal import UserError

    check_to_learn(name)
    if not is_file(name):
        return import_module(f"ndae.experiments.problems.library.{name}").PROBLEM
    if name.endswith(".json"):
        load_problem(name)  # which says what is wrong with it, if anything is
        raise UserError(f"{name} has equations, for `ndae crosscheck`, and no `data` to train on")
    made = _of_file(Path(name))
    if not isinstance(made, LearningProblem):
        raise UserError(f"`problem` of {name} is of type {type(made).__name__}: {_ADVICE}")
    return made


def data_problem(name: str | Path) -> "DataProblem | None":
    """The problem with equations, unknown functions and recordings that a file defines, or None for any other problem.

    A JSON file is one where it has `data`. Raises what reading the file does.
    """
    from ndae.experiments.problems.data_problem import DataProblem

    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        from ndae.experiments.problems.json_data import read_data_problem
        from ndae.experiments.problems.json_file import read_file

        return read_data_problem(path) if "data" in read_file(path).data else None
    made = _of_file(path) if is_file(str(name)) else None
    return made if isinstance(made, DataProblem) else None


def load_problem(name_or_path: str | Path) -> "Problem":
    """A problem to solve by its name (see `problem_names`), or from a file: JSON, or Python that defines `problem`.

    A name is looked up among the built-in problems and the entry points of group "ndae.problems"; what ends in .json
    or .py, or has a folder in it, is a file. JSON is parsed and never run; a Python file is the user's own program.
    Of a problem to learn it is the true motion, from a start that none of its samples is from.

    Raises UserError, ProblemFileError (a ValueError) or OSError, each with the line that mends it.
    """
    from ndae.experiments.problems.json_file import read_problem
    from ndae.experiments.problems.python_file import said
    from ndae.experiments.terminal import UserError

    text = str(name_or_path)
    path = Path(text)
    if path.suffix in (".json", ".py") or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"{path}: no such file; `ndae crosscheck --list` shows the problems known by name")
        if path.suffix == ".py":
            return _to_solve(_of_file(path), f"`problem` of {path}")
        return read_problem(path)
    if (DATA / f"{text}.json").is_file():
        return read_problem(DATA / f"{text}.json")
    if text in _MODULES:
        return import_module(f"ndae.experiments.problems.library.{text}").problem
    if text in TO_LEARN:
        return _to_solve(to_learn(text), text)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == text:
            try:
                made = point.load()
            except Exception as error:
                raise UserError(f"problem {text!r}: {point.value} cannot be loaded: {said(error)}") from error
            return _to_solve(made, f"entry point {point.value}")
    close = difflib.get_close_matches(text, problem_names(), 3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`ndae crosscheck --list` shows them."
    raise UserError(f"no problem is named {text!r}: {hint} A file of your own ends in .json or .py")


def _of_file(path: Path) -> object:
    from ndae.experiments.problems.python_file import problem_of_file

    if not path.is_file():
        return problem_of_file(path, _ADVICE)  # which says so
    key = path.resolve(), path.stat().st_mtime_ns
    if key not in _of_files:
        _of_files[key] = problem_of_file(path, _ADVICE)
    return _of_files[key]


def _to_solve(made: object, where: str) -> "Problem":
    from ndae.experiments.problems.data_problem import DataProblem
    from ndae.experiments.problems.learning import LearningProblem
    from ndae.experiments.problems.problem import Problem
    from ndae.experiments.terminal import UserError

    if callable(made) and not isinstance(made, Problem):
        made = made()
    if isinstance(made, DataProblem):
        raise UserError(
            f"{where} has functions that nobody knows: `ndae train` it, then `ndae crosscheck` the folder of that run"
        )
    if isinstance(made, LearningProblem):
        made = made.to_solve()
        if made is None:
            raise UserError(f"{where} is data alone, without equations to solve")
    if not isinstance(made, Problem):
        raise UserError(f"{where} is of type {type(made).__name__}: {_ADVICE}")
    return made
