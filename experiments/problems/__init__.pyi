from .data_problem import DataProblem as DataProblem
from .json_file import (
    ProblemFileError as ProblemFileError,
    problem_from_text as problem_from_text,
    read_problem as read_problem,
)
from .problem import Problem as Problem
from .registry import load_problem as load_problem, problem_names as problem_names
