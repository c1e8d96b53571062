"""Unknowns of a DAE as functions of time, each with a chain of symbols for its derivatives."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.expressions.reading import substituted
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.ground.typed import symbols_in, symbols_of


@dataclass(frozen=True)
class Row:
    """One equation of the system under reduction.

    `origins` are the user's equations in it, `depth` how often one of them was differentiated to make it.
    """

    expression: sp.Expr
    origins: tuple[int, ...]
    depth: int = 0


class Chains:
    """Variable j and its derivatives: `symbol(j, k)` is x_j^(k), the user's own symbol where there is one."""

    def __init__(
        self, named: Sequence[Sequence[sp.Symbol]], time: sp.Symbol | None, sizes: Mapping[sp.Symbol, float] = {}
    ):
        self._symbols = [list(chain) for chain in named]
        self.time, self.sizes = time, sizes
        self.position = {s: (j, k) for j, chain in enumerate(self._symbols) for k, s in enumerate(chain)}

    @property
    def n_variables(self) -> int:
        """Number of variables."""
        return len(self._symbols)

    def symbol(self, j: int, k: int) -> sp.Symbol:
        """x_j^(k)."""
        chain = self._symbols[j]
        while len(chain) <= k:
            new = dot(chain[-1])
            self.position[new] = (j, len(chain))
            chain.append(new)
        return chain[k]

    def size(self, symbol: sp.Symbol) -> float:
        """The magnitude at which a symbol is tried: that of the state it is, or is a derivative of."""
        j, k = self.position.get(symbol, (0, -1))
        known = (self.sizes[s] for s in self._symbols[j][k::-1] if s in self.sizes) if k >= 0 else ()
        return next(iter(known), 1.0)

    def symbols(self, j: int) -> list[sp.Symbol]:
        """x_j and its derivatives as far as they have been used."""
        return list(self._symbols[j])

    def signature(self, expression: sp.Expr) -> dict[int, int]:
        """The highest derivative of each variable in an expression."""
        result: dict[int, int] = {}
        for s in symbols_of(expression):
            if s in self.position:
                j, k = self.position[s]
                result[j] = max(k, result.get(j, 0))
        return dict(sorted(result.items()))

    def derivative(self, expression: sp.Expr, order: int = 1) -> sp.Expr:
        """The total time derivative, by the chain rule."""
        for _ in range(order):
            moving = sorted((s for s in symbols_of(expression) if s in self.position), key=self.position.__getitem__)
            slopes = partials(expression, moving if self.time is None else [*moving, self.time])
            terms = [slopes[s] * self.symbol(j, k + 1) for s in moving for j, k in [self.position[s]]]
            terms += [] if self.time is None else [slopes[self.time]]
            expression = sp.Add(*terms)
        return expression


def eliminate_aliases(
    system: Equations, keep: Collection[sp.Symbol] = (), sizes: Mapping[sp.Symbol, float] = {}
) -> tuple[Chains, list[Row]]:
    """Equations x' − u = 0 name u as the derivative of x: u goes as an unknown, its derivative is x''.

    Only where u is differentiated somewhere itself (else the equation determines an algebraic u), and not for u in
    `keep`. A constant factor before x' − u makes no difference. `sizes` are those at which states are tried.
    """
    differentiated = {s: entry for s in _symbols(system) if (entry := system.derivative_of(s)) and entry[1] > 0}
    following: dict[sp.Symbol, sp.Symbol] = {}
    taken: set[sp.Symbol] = set()
    used: set[int] = set()
    wanted = {state for state, _ in differentiated.values()} - set(keep)
    for i, equation in enumerate(system.equations):
        pair = _alias(system, equation)
        if pair is None:
            continue
        x, u = pair
        if u not in wanted or u in taken or x in following or _end(following, u) == x:
            continue
        following[x] = u
        taken.add(u)
        used.add(i)
    chains = []
    for state in system.states:
        if state not in taken:
            chain = [state]
            while chain[-1] in following:
                chain.append(following[chain[-1]])
            chains.append(chain)
    result = Chains(chains, system.time, sizes)
    table = {}
    for symbol, (state, order) in differentiated.items():
        j, k = result.position[state]
        table[symbol] = result.symbol(j, k + order)
    known: dict[sp.Basic, sp.Basic] = {}
    rows = [Row(substituted(e, table, known), (i,)) for i, e in enumerate(system.equations) if i not in used]
    return result, rows


def _symbols(system: Equations) -> list[sp.Symbol]:
    return sorted(symbols_in(system.equations), key=str)


def _end(following, x):
    while x in following:
        x = following[x]
    return x


def _alias(system: Equations, equation: sp.Expr) -> tuple[sp.Symbol, sp.Symbol] | None:
    """(x, u) if the equation is a (x' − u) = 0 with a constant a."""
    entries = {s: entry for s in symbols_of(equation) if (entry := system.derivative_of(s)) is not None}
    if len(entries) != 2 or (system.time is not None and system.time in equation.free_symbols):
        return None
    (rate, (x, order)), (u, (_, none)) = sorted(entries.items(), key=lambda item: -item[1][1])
    if (order, none) != (1, 0) or x == u:
        return None
    factor = partials(equation, [rate])[rate]
    if factor.free_symbols & {rate, u} or factor == 0:
        return None
    rest = substituted(equation, {rate: u}, {})  # of an equation that is affine in the rate
    return (x, u) if rest == 0 or sp.expand_mul(rest) == 0 else None
