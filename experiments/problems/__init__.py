"""Problems to cross-check solvers on: standard ones by name, a user's own from a file."""

from experiments.problems.loading import load_problem, problem_names
from experiments.problems.problem import Problem
from experiments.problems.reader import ProblemFileError, problem_from_text, read_problem

__all__ = ["Problem", "ProblemFileError", "load_problem", "problem_from_text", "problem_names", "read_problem"]
