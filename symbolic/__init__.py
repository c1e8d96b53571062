"""SymPy constraints, what is derived from them, and the functions generated."""

from ndae.symbolic import library
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.points import ANCHOR, norm, point
from ndae.symbolic.forms.functions import ReducedFunctions
from ndae.symbolic.forms.reduced import ReducedSystem
from ndae.symbolic.functions.constraint import Constraint
from ndae.symbolic.functions.function import Function
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground import forks  # noqa: F401  watches for forks from here on
from ndae.symbolic.parse import parse_expression
from ndae.symbolic.reduction.graphs import StructureError
from ndae.symbolic.systems.system import System

__all__ = [
    "ANCHOR",
    "Constraint",
    "Function",
    "ReducedFunctions",
    "ReducedSystem",
    "StructureError",
    "System",
    "VectorFunction",
    "dot",
    "library",
    "norm",
    "parse_expression",
    "point",
]
