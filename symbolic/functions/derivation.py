"""What follows from an expression c(x, t; p), in readable SymPy over the user's own symbols."""

from collections.abc import Callable, Sequence

import sympy as sp

from ndae.symbolic.code.local_programs import Program, Programs
from ndae.symbolic.expressions.written import MAX_WRITTEN, shared_lines, size
from ndae.symbolic.ground.kept import Recomputed, kept
from ndae.symbolic.ground.typed import xreplaced

MAX_LEVEL = 3000  # operations of a hidden level, written out, that becomes a function of its own


def written_size(program: Program) -> int:
    """Operations of the longest value of a program, once the definitions behind it are written out in it."""
    values, sizes = [v for _, entries in program.outputs for v in entries], {}
    for symbol in program.tape.needed(values):
        sizes[symbol] = size(program.tape.definitions[symbol], sizes)
    return max(size(v, sizes) for v in values)


class Derivation(Recomputed):
    """Jacobian and hidden levels of m expressions over the n coordinates of one instance.

    Read off the programs' tapes, where formulas stay short; powers of lengths stay half-integer, so that functions
    generated from the results are finite where two points meet.
    """

    def __init__(self, programs: Programs, coordinates: Sequence[sp.Symbol], extras: Sequence[sp.Symbol]):
        self._programs = programs
        self._users = dict(zip((*programs.x, *programs.extras), (*coordinates, *extras), strict=True))
        self.v, self.a = programs.v, programs.a

    def _expanded(self, program: Program) -> list[sp.Expr]:
        tape = program.tape
        full: dict[sp.Symbol, sp.Expr] = dict(self._users)
        values = [v for _, entries in program.outputs for v in entries]
        for symbol in tape.needed(values):
            full[symbol] = xreplaced(tape.definitions[symbol], full)
        return [xreplaced(v, full) for v in values]

    def lines(self, program: Program, heads: Sequence[str], expanded: Callable[[], list[sp.Expr]], show) -> list[str]:
        """A line for each value of a program; long ones by its definitions, without writing them out."""
        values = [v for _, entries in program.outputs for v in entries]
        steps = {s: program.tape.definitions[s] for s in program.tape.needed(values)}
        if written_size(program) <= MAX_WRITTEN:
            return [f"  {head}{show(e)}" for head, e in zip(heads, expanded(), strict=True)]
        return shared_lines(heads, values, steps, show, self._users.values(), self._users)

    @kept
    def jacobian(self) -> list[list[sp.Expr]]:
        """∂c/∂x, a row for each expression."""
        entries, n = self._expanded(self._programs.local_jacobian()), len(self._programs.x)
        return [entries[i : i + n] for i in range(0, len(entries), n)]

    @kept
    def velocity(self) -> list[sp.Expr]:
        """dc/dt = J v + ∂c/∂t."""
        return self._expanded(self._programs.velocity())

    @kept
    def curvature(self) -> list[sp.Expr]:
        """d²c/dt² − J a = vᵀ ∇²c v + 2 ∂J/∂t v + ∂²c/∂t²."""
        return self._expanded(self._programs.curvature())

    @kept
    def acceleration(self) -> list[sp.Expr]:
        """d²c/dt² = J a + curvature."""
        return self._expanded(self._programs.acceleration())
