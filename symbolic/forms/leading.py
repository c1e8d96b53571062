"""The function w(y, t; p) with T(y, w, t) + shift = 0, generated as one piece of code with small solves in it."""

from collections.abc import Sequence

import sympy as sp

from ndae.symbolic.code.levelled import Levelled
from ndae.symbolic.code.source import ARRAY, Code, Style, check_generated, count_uses, identifiers, listing, unpack
from ndae.symbolic.code.tape import Tape
from ndae.symbolic.expressions.names import in_docstring
from ndae.symbolic.expressions.reading import substituted
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.forms.reduced_equations import ReducedEquations
from ndae.symbolic.forms.tearing import Plan, Solve, Tearing
from ndae.symbolic.ground.kept import Recomputed, kept
from ndae.symbolic.ground.typed import symbols_in, symbols_of


class LeadingFunction(Recomputed):
    """Code for the leading unknowns of a reduced system, (y, guess) or (y, guess, shift) -> (w, converged).

    It is compiled as a `VectorFunction` is; the last of its values is 1 where every Newton iteration converged.
    """

    def __init__(self, reduced: ReducedEquations, with_shift: bool):
        self.name = f"leading unknowns of {getattr(reduced.system, 'name', 'system')}"
        n = len(reduced.w)
        guess, shift = (tuple(sp.Dummy(f"{name}_{i}") for i in range(n)) for name in ("guess", "shift"))
        self.inputs = {"y": tuple(reduced.y), "guess": guess} | ({"shift": shift} if with_shift else {})
        self.time, self.parameters = reduced.time, {s.name: v for s, v in reduced.parameters.items()}
        self.n_outputs = n + 1
        self.needs_time = self.time is not None and any(self.time in e.free_symbols for e in reduced.equations)
        extras = (() if self.time is None else (self.time,)) + tuple(reduced.parameters)
        self._names = identifiers([*reduced.y, *reduced.w, *extras, *shift, *guess])
        self._extras = [self._names[s] for s in extras]
        self._w = [self._names[s] for s in reduced.w]
        self._groups = {key: [self._names[s] for s in symbols] for key, symbols in self.inputs.items()}
        self._reduced = reduced

    @kept
    def plan(self) -> Plan:
        """What is solved by formulas and what by numbers."""
        r, names = self._reduced, self._names
        put: dict[sp.Basic, sp.Basic] = {}
        equations = [substituted(e, names, put) for e in r.equations]
        parameters = {names[s]: None if v is None else float(v) for s, v in r.parameters.items()}
        plan = Tearing(equations, self._w, r.blocks, parameters, self._groups.get("shift")).run()
        check_generated(plan.tape, self.name)
        return plan

    @property
    def has_scalar_form(self) -> bool:
        """Whether the code can be run with Python floats: Newton's iteration is written for arrays."""
        return all(solve.linear for solve in self.plan.solves)

    def behind(self) -> list[int]:
        """For each leading unknown the entries of y that it depends on, bit j for y_j."""
        tape = self.plan.tape
        masks = {s: 1 << j for j, s in enumerate(self._groups["y"])}

        def mask(values):
            total = 0
            for s in symbols_in(values):
                total |= masks.get(s, 0)
            return total

        for solve in sorted(self.plan.solves, key=lambda solve: solve.level):
            values = [*solve.right, *(a for row in solve.matrix for a in row)]
            # Each of its unknowns depends on all that is in it, itself left out: of definitions nothing is kept yet.
            total = mask([*values, *(tape.definitions[s] for s in tape.needed(values))])
            masks |= dict.fromkeys(solve.unknowns, total)
        for s in tape.needed(self.plan.values):
            masks[s] = mask([tape.definitions[s]])
        return [mask([value]) for value in self.plan.values]

    def source(self) -> str:
        """The generated code, to read."""
        return self.values_source(ARRAY)

    def operations(self) -> int:
        """The number of definitions behind the values."""
        inner = [v for s in self.plan.solves for v in (*s.right, *(a for row in s.matrix for a in row))]
        return len(self.plan.tape.needed([*self.plan.values, *inner]))

    @kept
    def _everything(self) -> list[sp.Expr]:
        """Every value that the code computes."""
        inner = [v for s in self.plan.solves for v in (*s.right, *(a for row in s.matrix for a in row), *s.sizes)]
        return [*self.plan.values, *inner]

    def unknowns(self) -> list[str]:
        """The unknown functions in the generated code, by the names that it calls them by."""
        return self.plan.tape.unknowns(self._everything)

    def lookups(self) -> dict[str, Lookup]:
        """The tables in the generated code, by the names that it calls them by."""
        return self.plan.tape.lookups()

    def levelled(self) -> Levelled | None:
        """The function as few operations on arrays; None where Newton's iteration calls functions that are given."""
        program = Levelled(self.plan.tape, [*self._groups.values(), self._extras])
        guess, found = dict(zip(self._w, self._groups["guess"], strict=True)), []
        for stage in _stages(self.plan.solves):
            if stage[0].linear:
                program.solve(stage)
                continue
            outer, calls = _around(self.plan.tape, stage)
            if calls:
                return None
            found.append(program.newton(stage, guess, outer))
        return program.finish([*self.plan.values, sp.Mul(*found)])

    def values_source(self, style: Style) -> str:
        """Source of the function `values`."""
        plan, stages = self.plan, _stages(self.plan.solves)
        everything = self._everything
        uses = count_uses(plan.tape, everything)
        taken = {s.name for s in self._names.values()} | set(self.unknowns())
        code = Code(plan.tape, uses, taken, style)
        arguments = {key: code.unused(key, {s.name for s in self._names.values()}) for key in self._groups}
        flags = []
        for stage in stages:
            if stage[0].linear:
                _write_linear(code, stage)
            else:
                flags.append(code.fresh())
                guesses = [f"{arguments['guess']}[{self._w.index(w)}]" for s in stage for w in s.unknowns]
                _write_newton(code, stage, guesses, flags[-1])
        code.define(plan.values)
        used = {s for e in (*everything, *(plan.tape.definitions[d] for d in plan.tape.needed(everything)))
                for s in e.free_symbols}  # fmt: skip
        groups = [(key, group) for key, group in self._groups.items() if key != "guess"]
        lines = [line for key, group in groups for line in unpack(arguments[key], group, used)] + code.lines
        header = f"def values({', '.join([*arguments.values(), *[s.name for s in self._extras], *self.unknowns()])}):"
        results = listing(code, plan.values, more=[f"converged({', '.join(flags)})" if flags else "1.0"])
        body = "\n".join(f"    {line}" for line in lines)
        doc = f"{self.name}, and whether they were found."
        return f'{header}\n    """{in_docstring(doc[0].upper() + doc[1:])}"""\n{body}\n    return {results}\n'


def _stages(solves: Sequence[Solve]) -> list[list[Solve]]:
    """Independent solves of equal kind and size together, in an order in which they can be done."""
    groups: dict[tuple, list[Solve]] = {}
    for solve in solves:
        groups.setdefault((solve.level, not solve.linear, solve.size), []).append(solve)
    return [groups[key] for key in sorted(groups)]


def _write_linear(code: Code, stage: Sequence[Solve]) -> None:
    matrix = [a for solve in stage for row in solve.matrix for a in row]
    right = [b for solve in stage for b in solve.right]
    code.define([*matrix, *right])
    unknowns = ", ".join(w.name for solve in stage for w in solve.unknowns)
    size = stage[0].size
    code.lines.append(f"{unknowns} = solve_linear({listing(code, matrix)}, {listing(code, right)}, {size})")


def _around(tape: Tape, stage: Sequence[Solve]) -> tuple[list[sp.Symbol], list[str]]:
    """What the nonlinear solves of a stage contain besides their unknowns, and the functions that they call."""
    inside, outer = {w for solve in stage for w in solve.unknowns}, {}
    everything = [v for s in stage for v in (*s.right, *(a for row in s.matrix for a in row), *s.sizes)]
    needed = tape.needed(everything)
    for symbol in needed:  # in order of dependence
        if not inside.isdisjoint(tape.definitions[symbol].free_symbols):
            inside.add(symbol)
    for e in (*everything, *(tape.definitions[s] for s in needed if s in inside)):
        outer |= dict.fromkeys(sorted(symbols_of(e) - inside, key=lambda s: s.name))
    calls = {e.called for s in needed if s in inside and isinstance(e := tape.definitions[s], Applied)}
    return list(outer), sorted(calls)


def _write_newton(code: Code, stage: Sequence[Solve], guesses: Sequence[str], flag: str) -> None:
    tape, size = code.tape, stage[0].size
    unknowns = [w for solve in stage for w in solve.unknowns]
    residuals = [r for solve in stage for r in solve.right]
    entries = [a for solve in stage for row in solve.matrix for a in row]
    sizes = [s for solve in stage for s in solve.sizes]
    values = [*residuals, *entries]
    outer, calls = _around(tape, stage)
    code.define(outer, named=True)
    # Functions that are given are among what is outside: their weights are what derivatives are taken by.
    handed = [*(code.text(s) for s in outer), *calls]
    names = ", ".join(handed)
    inner = code.nested()
    inner.define(values)
    z, outside = (code.unused(name, code.taken) for name in ("z", "outer"))
    lines = [f"{', '.join(w.name for w in unknowns)}{',' * (len(unknowns) == 1)} = {z}"]
    lines += [f"{names}{',' * (len(handed) == 1)} = {outside}"] if handed else []
    # The sizes are a function of their own: the last evaluation, which carries gradients, does without them.
    measure = inner.fresh()
    measuring = inner.nested()
    measuring.define(sizes)
    body = "\n".join([*measuring.lines, f"return {listing(measuring, sizes)}"]).split("\n")
    lines += [*inner.lines, f"def {measure}():", *(f"    {line}" for line in body)]
    lines += [f"return {listing(inner, residuals)}, {listing(inner, entries)}, {measure}"]
    inner.skip(measuring)
    code.skip(inner)
    function = code.fresh()
    code.lines += [f"def {function}({z}, {outside}):", *(f"    {line}" for line in "\n".join(lines).split("\n"))]
    found = ", ".join([*(w.name for w in unknowns), flag])
    code.lines.append(f"{found} = newton({function}, [{', '.join(guesses)}], [{names}], {size})")
