"""Ready-made constraints."""

import numpy as np
import sympy as sp

from symbolic.constraint import Constraint, Function
from symbolic.expressions import ANCHOR, norm, point
from symbolic.mechanics import MechanicalSystem


def chain(n: int, dim: int = 2, length: float = 1.0) -> Constraint:
    """N links of one length, the first at the origin: c_i = |r_i − r_{i−1}| − length, in metres; points (n, dim)."""
    a, b, L = point("a", dim), point("b", dim), sp.Symbol("length", positive=True)
    over = [(ANCHOR if i == 0 else i - 1, i) for i in range(n)]
    return Constraint.template([norm(b - a) - L], [a, b], over, parameters={L: length}, name=f"chain of {n} links")


def chain_pendulum(n: int, length: float = 1.0, mass=1.0, gravity: float = 9.82) -> MechanicalSystem:
    """The paper's N-body pendulum in the plane: point masses (kg) on a massless chain (m) hung at the origin.

    V = Σ m g y_i, in joules, y upwards and gravity in m/s². Overriding the parameter "mass" changes inertia and weight.
    """
    p, m, g = point("p", 2), sp.Symbol("mass", positive=True), sp.Symbol("gravity", real=True)
    masses = np.broadcast_to(np.asarray(mass, dtype=np.float64), (n,)).copy()
    potential = Function.template(
        [m * g * p[1]], [p], [(i,) for i in range(n)], parameters={m: masses, g: gravity}, name="weight"
    )
    return MechanicalSystem(chain(n, 2, length), masses, potential, name=f"pendulum of {n} links")
