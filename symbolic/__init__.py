"""SymPy constraints, what is derived from them, and the functions generated."""

from symbolic import library
from symbolic.constraint import Constraint, Function
from symbolic.expressions import ANCHOR, norm, point

__all__ = ["ANCHOR", "Constraint", "Function", "library", "norm", "point"]
