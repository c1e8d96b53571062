"""SymPy constraints, what is derived from them, and the functions generated."""

from symbolic import library
from symbolic.constraint import Constraint, Function
from symbolic.expressions import ANCHOR, norm, point
from symbolic.mechanics import MechanicalSystem
from symbolic.parse import parse_expression
from symbolic.reduced import ReducedSystem
from symbolic.structural import StructureError
from symbolic.system import DAESystem, dot

__all__ = [
    "ANCHOR",
    "Constraint",
    "DAESystem",
    "Function",
    "MechanicalSystem",
    "ReducedSystem",
    "StructureError",
    "dot",
    "library",
    "norm",
    "parse_expression",
    "point",
]
