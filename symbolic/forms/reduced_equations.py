"""A DAE after index reduction: an ODE for the state y, the equations for what leads it, and the hidden constraints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy as sp

from ndae.symbolic.expressions.recipes import recipe_of
from ndae.symbolic.expressions.written import lines_of
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.ground.kept import Recomputed, kept
from ndae.symbolic.ground.words import listed


@dataclass(frozen=True)
class Block:
    """One irreducible part of the leading system: equations and the leading unknowns that they are solved for."""

    equations: tuple[int, ...]
    unknowns: tuple[int, ...]
    linear: bool


@dataclass(frozen=True, eq=False)
class ReducedEquations(Recomputed):
    """y' = rates(y, w), T(y, w, t) = 0, with the hidden constraints C(y, t) = 0 that the equations imply.

    With c_i the number of times that equation f_i is differentiated and d_j the highest derivative of variable x_j in
    the result (Pantelides 1988): y holds x_j^(k) for k < d_j, w the leading x_j^(d_j) (a highest derivative, or where
    d_j = 0 an algebraic variable), T the n equations f_i^(c_i), and C all f_i^(k), k < c_i.
    """

    system: Equations  # what it came from
    index: int
    y: tuple[sp.Symbol, ...]  # (N,)
    w: tuple[sp.Symbol, ...]  # (n,)
    rates: tuple[sp.Symbol, ...]  # (N,): dy_i/dt, each a symbol of y or w
    equations: tuple[sp.Expr, ...]  # (n,): T, over y, w, time, parameters
    differentiations: tuple[int, ...]  # (n,): c_i
    constraints: tuple[sp.Expr, ...]  # (M,): C, over y, time, parameters, ordered by level
    constraint_of: tuple[tuple[int, int], ...]  # (M,): (i, k): this constraint is f_i^(k)
    algebraic_equations: tuple[int, ...]  # the i for which f_i itself contains no derivative
    blocks: tuple[Block, ...]  # in the order in which they are solved
    states: tuple[sp.Symbol, ...]  # (n_states,): for each state of the system, the symbol of y or w that it is
    state_rates: tuple[sp.Symbol | None, ...]  # (n_states,): its derivative in y or w, or None
    invariants: Mapping[str, sp.Expr] = field(default_factory=dict)  # over y, w, time, parameters
    time: sp.Symbol | None = None
    parameters: Mapping[sp.Symbol, float | None] = field(default_factory=dict)
    origins: tuple[tuple[int, ...], ...] = ()  # (n,): the user's equations that f_i was made of
    redundant: Mapping[int, sp.Expr] = field(default_factory=dict)  # the user's equations that follow from C, over y
    least_norm: tuple[sp.Symbol, ...] = ()  # the multipliers that these leave open, the least in the sum of squares

    @kept
    def shared(self) -> dict[Any, Any]:
        """What the functions of all backends are generated from, by name: tapes are made once."""
        return {}

    def recipe(self) -> str | None:
        """All that decides what the functions are, as text; None where tables or unknown functions stand in it."""
        symbols = [*self.y, *self.w, *self.rates, *self.states, *self.state_rates, *self.parameters, self.time]
        named = (*self.invariants.values(), *self.redundant.values())
        written = recipe_of([*self.equations, *self.constraints, *named, *(s for s in symbols if s is not None)])
        if written is None:
            return None
        return repr(
            (
                written,
                [s is None for s in symbols],
                [None if v is None else float(v).hex() for v in self.parameters.values()],
                (self.index, self.differentiations, self.constraint_of, self.algebraic_equations),
                [(b.equations, b.unknowns, b.linear) for b in self.blocks],
                [len(part) for part in (self.y, self.equations, self.constraints, self.invariants, self.redundant)],
                self.system.name,
            )
        )

    # -- levels ------------------------------------------------------------------------------------------------------

    @property
    def levels(self) -> dict[str, list[tuple[int, str, int]]]:
        """Where residuals of each level are: "level 0" the constraining equations, "level k" their k-th derivatives.

        Constraining are equations without derivatives, and others where they had to be differentiated themselves, so
        that every hidden constraint is on some level. An entry (i, "constraint", m) is f_i^(k) found as constraint m,
        (i, "leading", i) as leading equation i, which is the highest level k = c_i.
        """
        place = {entry: m for m, entry in enumerate(self.constraint_of)}
        held = [i for i, c in enumerate(self.differentiations) if c > 0 or i in self.algebraic_equations]
        result: dict[str, list[tuple[int, str, int]]] = {}
        for k in range(max((self.differentiations[i] for i in held), default=-1) + 1):
            entries = [i for i in held if self.differentiations[i] >= k]
            result[f"level {k}"] = [
                (i, "leading", i) if k == self.differentiations[i] else (i, "constraint", place[i, k]) for i in entries
            ]
        return result

    # -- text --------------------------------------------------------------------------------------------------------

    def describe(self) -> str:
        """What the reduction found, to read: index, state, hidden constraints by level, and the leading equations."""
        y, w, rates = (listed(symbols, len(symbols)) for symbols in (self.y, self.w, self.rates))  # all of them
        lines = [
            f"{self.system.name}: differentiation index {self.index}",
            f"  state y      {y}",
            f"  leading w    {w}, solved for in {len(self.blocks)} block{'s' * (len(self.blocks) != 1)}",
            f"  y'           {rates}",
        ]
        for level in sorted({k for _, k in self.constraint_of}):
            lines += ["", "constraints" if level == 0 else f"hidden constraints, differentiated {level} x"]
            rows = [m for m, (_, k) in enumerate(self.constraint_of) if k == level]
            lines += lines_of(["0 = "] * len(rows), [self.constraints[m] for m in rows])
        if self.redundant:
            lines += ["", "redundant equations, which follow from the constraints and are checked"]
            lines += lines_of([f"{i:>3}  0 = " for i in self.redundant], list(self.redundant.values()))
            lines.append(f"  of the multipliers that they leave open, {listed(self.least_norm)}, those of least norm")
        lines += ["", "leading equations, with how often each was differentiated"]
        lines += lines_of([f"{c} x  0 = " for c in self.differentiations], self.equations)
        return "\n".join(lines) + "\n"
