"""How a leading system T(y, w, t) + shift = 0 is solved for w: what by formulas, what by small numeric solves.

Block by block, unknowns whose coefficient is a constant are eliminated on the tape (tearing), which for a mechanical
system turns its accelerations into formulas and leaves the Gram matrix of its constraints. One linear equation that is
left is solved by division, more by elimination with numbers, nonlinear ones by Newton's method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.code.term_sizes import term_sizes
from ndae.symbolic.ground.typed import symbols_of, xreplaced

#: A constant pivot must be at least this large against the constants in its row (threshold pivoting).
_PIVOT = 0.1
#: Pivots that would touch more entries than this are left to the numeric solve.
_MOST_FILL = 400
#: A sum of constants below this fraction of its terms is taken for rounding, and never divided by.
_CANCELLED = 1e-9


@dataclass
class Solve:
    """A square system of one block that is left for numbers: A unknowns = right, or residual(unknowns) = 0."""

    unknowns: list[sp.Symbol]
    matrix: list[list[sp.Expr]]  # A, or the Jacobian of the residual
    right: list[sp.Expr]  # right-hand side, or the residual
    linear: bool
    sizes: list[sp.Expr] = field(default_factory=list)  # of what is added up in each residual
    level: int = 0  # solves of a level depend on those of lower levels alone

    @property
    def size(self) -> int:
        return len(self.unknowns)


@dataclass
class Plan:
    """The solution of a leading system on a tape: numeric solves, and w as values that may depend on their unknowns."""

    tape: Tape
    solves: list[Solve] = field(default_factory=list)
    values: list[sp.Expr] = field(default_factory=list)


class Tearing:
    """Makes the plan for one leading system; symbols of equations, unknowns and shift are those of the code."""

    def __init__(
        self,
        equations: Sequence[sp.Expr],
        unknowns: Sequence[sp.Symbol],
        blocks: Sequence,
        parameters: Mapping[sp.Symbol, float | None],
        shift: Sequence[sp.Symbol] | None = None,
    ):
        self.equations, self.unknowns, self.shift = equations, list(unknowns), shift
        self.blocks, self.parameters = blocks, dict(parameters)
        self.tape = Tape()
        self._masks: dict[sp.Symbol, int] = {}
        self._numbers: dict[sp.Symbol, float | None] = dict(parameters)
        self._bits = {w: 1 << i for i, w in enumerate(self.unknowns)}
        self._variable = 1 << len(self.unknowns)  # stands for y, t and shift
        self.known: dict[sp.Symbol, sp.Expr] = {}
        self.plan = Plan(self.tape)

    def run(self) -> Plan:
        """Go through all blocks."""
        for block in self.blocks:
            unknowns = [self.unknowns[j] for j in block.unknowns]
            equations = [self.equations[i].xreplace(self.known) for i in block.equations]
            added = [sp.S.Zero if self.shift is None else self.shift[i] for i in block.equations]
            if not (block.linear and self._linear(equations, added, unknowns)):
                self._nonlinear([e + s for e, s in zip(equations, added, strict=True)], unknowns)
        self.plan.values = [self.known.get(w, w) for w in self.unknowns]
        level: dict[int, int] = {}
        for solve in self.plan.solves:
            mask = 0
            for value in (*solve.right, *(a for row in solve.matrix for a in row)):
                mask |= self._mask(value)
            own = sum(self._bits[w] for w in solve.unknowns)
            solve.level = 1 + max((n for bits, n in level.items() if bits & mask & ~own), default=0)
            level[own] = solve.level
        return self.plan

    # -- what a value depends on -------------------------------------------------------------------------------------

    def _mask(self, value: sp.Basic) -> int:
        """Bits of the unknowns behind a value, and of everything else that is no parameter."""
        mask = 0
        for s in symbols_of(value):
            if s not in self._masks:
                if s in self._bits:
                    self._masks[s] = self._bits[s]
                elif s in self.tape.definitions:
                    for inner in self.tape.needed([s]):
                        if inner != s and inner not in self._masks:
                            self._masks[inner] = self._mask(self.tape.definitions[inner])
                    self._masks[s] = self._mask(self.tape.definitions[s])
                else:
                    self._masks[s] = 0 if s in self.parameters else self._variable
            mask |= self._masks[s]
        return mask

    def _number(self, value: sp.Expr) -> float | None:
        """The number that a constant value is, with parameters at their defaults; None if that is unknown."""
        if self._mask(value):
            return None
        numbers = {}
        for s in symbols_of(value):
            if s not in self._numbers:
                self._numbers[s] = self._number(self.tape.definitions[s])
            numbers[s] = self._numbers[s]
        if None in numbers.values():
            return None
        try:
            return float(xreplaced(value, {s: sp.Float(v) for s, v in numbers.items()}))
        except (TypeError, ValueError):
            return None

    # -- linear blocks -----------------------------------------------------------------------------------------------

    def _linear(self, equations, added, unknowns) -> bool:
        tape, n = self.tape, len(unknowns)
        # Terms without unknowns would be differentiated for nothing.
        inside = set(unknowns)
        parts = [[a for a in sp.Add.make_args(e) if not inside.isdisjoint(a.free_symbols)] for e in equations]
        places = {w: j for j, w in enumerate(unknowns)}
        rows = [tape.row(tape.value(sp.Add(*part)), places) for part in parts]
        own = sum(self._bits[w] for w in unknowns)
        if any(self._mask(a) & own for row in rows for a in row.values()):
            return False
        zero = dict.fromkeys(unknowns, sp.S.Zero)
        constants = [tape.value(e.xreplace(zero)) for e in equations]
        system = _Sparse(self, rows, [tape.value(-b - s) for b, s in zip(constants, added, strict=True)])
        order = system.eliminate()
        left_rows = sorted(set(range(n)) - {i for i, _ in order})
        left = sorted(set(range(n)) - {j for _, j in order})
        if len(left) == 1:
            (i,), (j,) = left_rows, left
            self.known[unknowns[j]] = tape.value(system.right(i) / tape.value(system.entry(i, j)))
        elif left:
            matrix = [[system.entry(i, j) for j in left] for i in left_rows]
            right = [system.right(i) for i in left_rows]
            self.plan.solves.append(Solve([unknowns[j] for j in left], matrix, right, linear=True))
        for i, j in reversed(order):
            others = [(k, system.entry(i, k)) for k in system.columns(i) if k != j]
            terms = [tape.value(a * self.known.get(unknowns[k], unknowns[k])) for k, a in others]
            total = tape.value(sp.Add(system.right(i), *[-term for term in terms]))
            self.known[unknowns[j]] = tape.value(total / system.entry(i, j))
        return True

    # -- nonlinear blocks --------------------------------------------------------------------------------------------

    def _nonlinear(self, equations, unknowns) -> None:
        tape, unknowns, torn = self.tape, list(unknowns), []
        equations = [tape.value(e) for e in equations]

        def row(value):
            return tape.adjoints([value], [sp.S.One], unknowns)

        rows = [row(value) for value in equations]
        while (found := self._constant_entry(rows)) is not None and len(unknowns) > 1:
            i, j = found
            w, coefficient = unknowns.pop(j), rows[i][j]
            (rest,) = tape.replaced([equations[i]], {w: sp.S.Zero})
            value = tape.value(-rest / coefficient)
            touched = [r for r in range(len(rows)) if rows[r][j] != 0 and r != i]
            torn.append((w, value))
            for r in range(len(rows)):
                if r in touched:
                    (equations[r],) = tape.replaced([equations[r]], {w: value})
                    rows[r] = row(equations[r])
                else:
                    rows[r].pop(j)
            del equations[i], rows[i]
        sizes = term_sizes(tape, equations, unknowns)
        self.plan.solves.append(Solve(unknowns, rows, equations, linear=False, sizes=sizes))
        # A torn value may contain unknowns torn after it: they are replaced from the last to the first.
        later: dict[sp.Symbol, sp.Expr] = {}
        for w, value in reversed(torn):
            (later[w],) = tape.replaced([value], later)
            self.known[w] = later[w]

    def _constant_entry(self, rows) -> tuple[int, int] | None:
        best = None
        for i, row in enumerate(rows):
            numbers = {j: x for j, a in enumerate(row) if a != 0 and (x := self._number(a))}
            largest = max(map(abs, numbers.values()), default=0)
            for j, x in numbers.items():
                if abs(x) >= _PIVOT * largest:
                    cost = (sum(a != 0 for a in row) - 1) * (sum(r[j] != 0 for r in rows) - 1)
                    # of equal cost, put in what is linear: roots and logarithms stay where they were written
                    curved = sum(a != 0 for a in row) - len(numbers)
                    best = min(best or (cost, curved, i, j), (cost, curved, i, j))
        return best and best[2:]


class _Sparse:
    """A sparse linear system on the tape; sums are put on the tape when they are first read."""

    def __init__(self, tearing: Tearing, rows: Sequence[Mapping[int, sp.Expr]], right: Sequence[sp.Expr]):
        self._tearing, self._tape = tearing, tearing.tape
        self._rows = [{j: [a] for j, a in row.items()} for row in rows]
        self._right = [[b] for b in right]
        self._sizes = [{j: abs(tearing._number(a[0]) or 0) for j, a in row.items()} for row in self._rows]

    def columns(self, i: int) -> list[int]:
        return [j for j in self._rows[i] if self.entry(i, j) != 0]

    def entry(self, i: int, j: int) -> sp.Expr:
        terms = self._rows[i].get(j)
        if terms is None:
            return sp.S.Zero
        if len(terms) > 1:
            total = self._tape.value(sp.Add(*terms))
            if total.is_number and abs(total) <= 1e-13 * self._sizes[i][j]:
                total = sp.S.Zero
            terms[:] = [total]
        return terms[0]

    def right(self, i: int) -> sp.Expr:
        self._right[i][:] = [self._tape.value(sp.Add(*self._right[i]))]
        return self._right[i][0]

    def eliminate(self) -> list[tuple[int, int]]:
        """Eliminate by constant pivots, least fill first; gives the pivots in order."""
        left, order = set(range(len(self._rows))), []
        while (found := self._pivot(left)) is not None:
            i, j = found
            order.append(found)
            left.discard(i)
            pivot, tape = self.entry(i, j), self._tape
            for r in sorted(left):
                factor = self.entry(r, j)
                if factor == 0:
                    continue
                ratio = tape.value(-factor / pivot)
                del self._rows[r][j]
                for k in self.columns(i):
                    if k != j:
                        term = tape.value(ratio * self.entry(i, k))
                        self._rows[r].setdefault(k, []).append(term)
                        size = abs(self._tearing._number(term) or 0)
                        self._sizes[r][k] = self._sizes[r].get(k, 0) + size
                self._right[r].append(tape.value(ratio * self.right(i)))
        return order

    def _pivot(self, left: set[int]) -> tuple[int, int] | None:
        columns = {i: self.columns(i) for i in left}
        count: dict[int, int] = {}
        for js in columns.values():
            for j in js:
                count[j] = count.get(j, 0) + 1
        best = None
        for i, js in columns.items():
            numbers = {j: abs(x) for j in js if (x := self._tearing._number(self.entry(i, j)))}
            largest = max(numbers.values(), default=0)
            for j, x in numbers.items():
                cost = (len(js) - 1) * (count[j] - 1)
                if x >= _PIVOT * largest and x > _CANCELLED * self._sizes[i].get(j, 0) and cost <= _MOST_FILL:
                    best = min(best or (cost, i, j), (cost, i, j))
        return best and best[1:]
