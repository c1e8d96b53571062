"""SymPy constraints, what is derived from them, and the functions generated."""

from symbolic import library
from symbolic.constraint import Constraint, Function
from symbolic.expressions import ANCHOR, norm, point
from symbolic.mechanics import MechanicalSystem
from symbolic.parse import parse_expression

__all__ = ["ANCHOR", "Constraint", "Function", "MechanicalSystem", "library", "norm", "parse_expression", "point"]
