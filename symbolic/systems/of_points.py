"""Points with masses, whose equations of motion are compiled by their structure, not written out one by one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy as sp

from ndae.symbolic.functions.constraint import Constraint
from ndae.symbolic.functions.function import Function
from ndae.symbolic.ground.typed import xreplaced


class Points:
    """Points with masses under a potential, a force and a holonomic constraint: what `System.of_points` holds.

    M q̈ = F(q, q̇, t) − J(q)ᵀ λ, c(q, t) = 0, with F = −∇V + force. λ is the multiplier: with c = |b − a| − L in
    metres it is the tension of a link in newtons. It solves (J M⁻¹ Jᵀ) λ = J M⁻¹ F + curvature(q, q̇, t).

    `mass` is one number or one for each point (n_points,), in kg. `potential` is a `Function` over the same state whose
    residuals, summed, are V in joules. `force` is a `Function` with n_states residuals over q, or over (q, q̇) side
    by side. Raises ValueError on masses that are not positive and on functions of another size.
    """

    def __init__(
        self,
        constraint: Constraint,
        mass: float | Sequence[float] | np.ndarray = 1.0,
        potential: Function | None = None,
        force: Function | None = None,
        name: str = "system",
    ):
        self.constraint, self.potential, self.external_force, self.name = constraint, potential, force, name
        n = constraint.n_points
        try:
            self.mass = np.broadcast_to(np.asarray(mass, dtype=np.float64), (n,)).copy()
        except (TypeError, ValueError):
            raise ValueError(f"{name}: mass={mass!r}: expected one number or {n}, one for each point") from None
        if not (np.all(np.isfinite(self.mass)) and np.all(self.mass > 0)):
            raise ValueError(f"{name}: mass={mass!r}: masses are positive, in kg")
        if potential is not None and potential.n_states != constraint.n_states:
            raise ValueError(
                f"{name}: the potential {potential.name!r} has {potential.n_states} states, the constraint "
                f"{constraint.name!r} has {constraint.n_states}: write both over the same state (n_points=)"
            )
        if force is not None and (
            force.n_states not in (constraint.n_states, 2 * constraint.n_states)
            or force.n_residuals != constraint.n_states
        ):
            raise ValueError(
                f"{name}: the force {force.name!r} maps {force.n_states} states to {force.n_residuals} numbers: "
                f"expected {constraint.n_states} numbers from q ({constraint.n_states}), or from q and v "
                f"({2 * constraint.n_states})"
            )
        self.parameters = dict(constraint.parameters)
        for function in (potential, force):
            for key, value in (function.parameters if function is not None else {}).items():
                self.parameters.setdefault(key, value)

    @property
    def n_states(self) -> int:
        """Length of q."""
        return self.constraint.n_states

    def written(self) -> dict[str, Any]:
        """The arguments of `System.mechanical` for the same motion, over q0, ..., v0, ... and multipliers lam0, ...

        Parameters that are one number stay parameters; those with a value for each instance, and the masses, are put
        in as numbers. One expression a body.
        """
        q, v, _ = self.states()
        time = sp.Symbol("t", real=True)
        single = {name: value for name, value in self.parameters.items() if value is None or np.ndim(value) == 0}
        keep = {name: sp.Symbol(name, real=True) for name in single}

        def expressions(function: Function | None) -> list[sp.Expr]:
            if function is None:
                return []
            clock = {} if function.time is None else {function.time: time}
            over = q if function.n_states == self.n_states else q + v
            return [xreplaced(e, clock) for e in function.expanded(over, keep)]

        return {
            "q": q,
            "v": v,
            "mass": [float(m) for m in np.repeat(self.mass, self.constraint.dim)],
            "force": expressions(self.external_force) or None,
            "potential": sum(expressions(self.potential), sp.Integer(0)),
            "holonomic": expressions(self.constraint),
            "parameters": {keep[name]: value for name, value in single.items()},
            "time": time,
            "name": self.name,
        }

    def states(self) -> tuple[list[sp.Symbol], list[sp.Symbol], list[sp.Symbol]]:
        """The coordinates q0, ..., velocities v0, ... and multipliers lam0, ... of the system as it is written out."""
        sizes = {"q": self.n_states, "v": self.n_states, "lam": self.constraint.n_residuals}
        q, v, lam = (list(sp.symbols(f"{letter}0:{n}", real=True)) for letter, n in sizes.items())
        return q, v, lam

    def jax(self):
        """Force, multiplier, acceleration and energy, generated for JAX as pure functions."""
        from ndae.symbolic.systems.of_points_jax import JaxPoints

        return JaxPoints(self)
