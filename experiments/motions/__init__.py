"""The systems whose motion is learned, a file each; importing this loads none of them.

A new one is a file here that makes a `MotionProblem` (see `experiments.motion_problem`) and calls it PROBLEM.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.learning_problem import LearningProblem

# The paper's first, the others as they are found.
PROBLEMS = ("pendulum", *sorted({path.stem for path in Path(__file__).parent.glob("[a-z]*.py")} - {"pendulum"}))


def find(name: str) -> "LearningProblem":
    """The problem of that name; raises `ValueError` for one that there is not."""
    if name not in PROBLEMS:
        raise ValueError(f"problem {name!r} is unknown: give one of {', '.join(PROBLEMS)}")
    return import_module(f"{__name__}.{name}").PROBLEM
