"""Problems to cross-check solvers on: standard ones by name, a user's own from a file."""

from ndae.experiments.problems.json_file import ProblemFileError, problem_from_text, read_problem
from ndae.experiments.problems.loading import load_problem, problem_names
from ndae.experiments.problems.problem import Problem

__all__ = ["Problem", "ProblemFileError", "load_problem", "problem_from_text", "problem_names", "read_problem"]
