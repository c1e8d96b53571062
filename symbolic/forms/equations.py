"""The equations of a system as data, and which symbols in them are derivatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.unknowns import Unknown, arities
from ndae.symbolic.ground.kept import Recomputed, kept
from ndae.symbolic.ground.typed import symbols_of


@dataclass(frozen=True, eq=False)  # systems are told apart by identity: what is compiled for one is kept with it
class Equations(Recomputed):
    """n equations F(x', x, t; p) = 0 over n states x, read and checked: plain symbols, derivatives as `dot(x)`."""

    name: str
    equations: tuple[sp.Expr, ...]
    states: tuple[sp.Symbol, ...]
    parameters: Mapping[sp.Symbol, float | None] = field(default_factory=dict)
    time: sp.Symbol | None = None
    invariants: Mapping[str, sp.Expr] = field(default_factory=dict)
    outputs: Mapping[str, sp.Expr] = field(default_factory=dict)  # what instruments show
    redundant: str | None = None  # "least-norm": constraints may follow from others

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.states)

    def derivative_of(self, symbol: sp.Symbol) -> tuple[sp.Symbol, int] | None:
        """The state and the order of derivative that a symbol stands for, (x, 0) for x itself; None for others."""
        base, order = symbol.name, 0
        while True:
            state = self.by_name.get(base)
            if state is not None:
                return (state, order) if symbol == (dot(state, order) if order else state) else None
            if not base.endswith("_dot"):
                return None
            base, order = base[: -len("_dot")], order + 1

    def is_algebraic(self, i: int) -> bool:
        """Whether equation i contains no derivative."""
        found = (self.derivative_of(s) for s in symbols_of(self.equations[i]))
        return not any(entry is not None and entry[1] > 0 for entry in found)

    @kept
    def unknowns(self) -> dict[Unknown, int]:
        """The functions that nobody knows, and how many arguments each has."""
        return arities((*self.equations, *self.invariants.values(), *self.outputs.values()), self.name)

    @kept
    def by_name(self) -> dict[str, sp.Symbol]:
        """The states by their names."""
        return {s.name: s for s in self.states}
