"""How the hidden constraints of a reduced DAE are kept: projection, nothing, Baumgarte damping, GGL multipliers.

All four integrate y' = rates(y, w) + delta with w from T(y, w, t) + shift = 0, where T are the reduced equations
f_i^(c_i) of symbolic.ReducedSystem. They have the same solutions on the constraints C(y, t) = 0, f_i^(k) for k < c_i,
and part off them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import jax.numpy as jnp
import numpy as np

from ndae.symbolic.backends.jax_arrays import places

Terms = tuple[Any, Any]  # shift (n,) and delta (N,), each None where there is none


@dataclass(frozen=True)
class Plain:
    """T = 0 and y' = rates: the constraints hold at the start, and nothing keeps them from drifting off."""

    projects = False

    def terms(self, reduced: Any, functions: Any, y: Any, t: Any, parameters: Any) -> Terms:
        """Neither shift nor delta."""
        return None, None


@dataclass(frozen=True)
class Projected(Plain):
    """Plain, with y moved to the nearest point of C(y, t) = 0 at the end of every step.

    Hairer, Lubich and Wanner, Geometric Numerical Integration, IV.4: the order of the solver stays. `invariants` names
    those of the system that are projected on as well, each at the value that it has at the start.
    """

    invariants: str | Sequence[str] = ()
    projects = True

    def __post_init__(self) -> None:
        names = (self.invariants,) if isinstance(self.invariants, str) else tuple(self.invariants)
        object.__setattr__(self, "invariants", names)  # frozen


@dataclass(frozen=True)
class Baumgarte:
    """Every constraint damped, (d/dt + α)^c_i f_i = 0 instead of (d/dt)^c_i f_i = 0; α in one over the unit of time.

    Baumgarte, Stabilization of constraints and integrals of motion in dynamical systems (1972). Drift decays like
    exp(-α t) instead of growing; a large α makes the equations stiff. Raises ValueError unless α is positive.
    """

    alpha: float = 5.0
    projects = False

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, float | int) and np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be a positive rate, one over the unit of time; got {self.alpha!r}")

    def terms(self, reduced: Any, functions: Any, y: Any, t: Any, parameters: Any) -> Terms:
        """shift_i = Σ_{k<c_i} binom(c_i, k) α^(c_i-k) f_i^(k)."""
        if not reduced.constraints:
            return None, None
        weights = np.zeros((len(reduced.equations), len(reduced.constraints)))
        for column, (i, k) in enumerate(reduced.constraint_of):
            c = reduced.differentiations[i]
            weights[i, column] = comb(c, k) * float(self.alpha) ** (c - k)
        return weights @ functions.constraints(y, t, parameters), None


@dataclass(frozen=True)
class GGL:
    """All but the last hidden level of every constraint held by multipliers μ of their own, y' = rates + C_low,yᵀ μ.

    Gear, Leimkuhler and Gupta, Automatic integration of Euler-Lagrange equations with constraints (1985). C_low are the
    f_i^(k) with k ≤ c_i - 2; μ makes them invariant along y', and is zero on the constraints. The last levels drift as
    by Plain, but no longer drive the ones below: drift of positions does not grow as the integral of that of
    velocities. Systems of index 2 and less have no C_low, and are solved as by Plain.
    """

    projects = False

    def terms(self, reduced: Any, functions: Any, y: Any, t: Any, parameters: Any) -> Terms:
        """delta = C_low,yᵀ μ, and the shift that keeps T the derivative of the last level along the new y'."""
        place = {which: row for row, which in enumerate(reduced.constraint_of)}
        c = reduced.differentiations
        low = [row for (i, k), row in place.items() if k <= c[i] - 2]
        if not low:
            return None, None
        following = [place[i, k + 1] for (i, k) in place if k <= c[i] - 2]
        constrained = [i for i in range(len(c)) if c[i]]
        last = [place[i, c[i] - 1] for i in constrained]
        jacobian = functions.constraints_jacobian(y, t, parameters)
        rates = functions.constraints(y, t, parameters)[places(following)]
        held = jacobian[places(low)]
        delta = -held.T @ jnp.linalg.solve(held @ held.T, rates)
        shift = jnp.zeros(len(c)).at[places(constrained)].set(jacobian[places(last)] @ delta)
        return shift, delta


Formulation = Plain | Projected | Baumgarte | GGL
_BY_NAME = {"projection": Projected(), "plain": Plain(), "baumgarte": Baumgarte(), "ggl": GGL()}
FORMULATIONS = tuple(_BY_NAME)


def formulation_named(method: Any) -> Formulation:
    """A formulation from its name, "projection", "plain", "baumgarte" (α = 5) or "ggl", or itself.

    Raises ValueError for another name.
    """
    if isinstance(method, Formulation):
        return method
    if not (isinstance(method, str) and method in _BY_NAME):
        raise ValueError(
            f"method {method!r} is not known; choose one of {', '.join(FORMULATIONS)}, or an object such as "
            "Baumgarte(alpha=10.0)"
        )
    return _BY_NAME[method]
