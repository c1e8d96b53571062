"""Ready-made constraints."""

from symbolic.constraint import Constraint
from symbolic.expressions import ANCHOR, norm, point
import sympy as sp


def chain(n: int, dim: int = 2, length: float = 1.0) -> Constraint:
    """N links of one length, the first at the origin: c_i = |r_i − r_{i−1}| − length, in metres; points (n, dim)."""
    a, b, L = point("a", dim), point("b", dim), sp.Symbol("length", positive=True)
    over = [(ANCHOR if i == 0 else i - 1, i) for i in range(n)]
    return Constraint.template([norm(b - a) - L], [a, b], over, parameters={L: length}, name=f"chain of {n} links")
