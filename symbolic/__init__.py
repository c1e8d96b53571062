"""SymPy constraints, what is derived from them, and the functions generated."""

from symbolic import forks, library  # noqa: F401  watches for forks from here on
from symbolic.constraint import Constraint, Function
from symbolic.expressions import ANCHOR, norm, point
from symbolic.mechanics import MechanicalSystem
from symbolic.parse import parse_expression
from symbolic.reduced import ReducedSystem
from symbolic.reduced_functions import ReducedFunctions
from symbolic.structural import StructureError
from symbolic.system import DAESystem, dot
from symbolic.vector_function import VectorFunction

__all__ = [
    "ANCHOR",
    "Constraint",
    "DAESystem",
    "Function",
    "MechanicalSystem",
    "ReducedFunctions",
    "ReducedSystem",
    "StructureError",
    "VectorFunction",
    "dot",
    "library",
    "norm",
    "parse_expression",
    "point",
]
