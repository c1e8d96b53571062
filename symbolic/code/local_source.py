"""From a program on a tape to readable straight-line source."""

import copy

import sympy as sp

from ndae.symbolic.code.local_programs import MATRIX, RESERVED, Program
from ndae.symbolic.code.source import Code, Style, count_uses
from ndae.symbolic.code.tape import Tape

#: The name of each backend's array module in generated source.
_MODULES = {"torch": "torch", "jax": "jnp", "numpy": "np"}
_HALF = sp.Rational(1, 2)


def emit(program: Program, extras: tuple[sp.Symbol, ...], backend: str) -> str:
    """Source of one function, whose size depends on the expressions alone.

    What is used once and is short is written where it is used; all else gets a name.
    """
    tape, outputs = _with_shared_roots(program.tape), [value for _, values in program.outputs for value in values]
    taken = {s.name for _, group in program.inputs for s in group} | {s.name for s in extras} | RESERVED
    code = Code(tape, count_uses(tape, outputs), taken, Style(module=_MODULES[backend]))
    code.define(outputs)

    used = {s for e in (*outputs, *(tape.definitions[d] for d in tape.needed(outputs))) for s in e.free_symbols}
    lines = [f'"""{program.doc}"""']
    for array, group in program.inputs:
        if used.isdisjoint(group):
            continue
        split = "split_rows" if array == "ws" else "split"
        names = ", ".join(s.name for s in group)
        lines.append(f"{names} = {array}" if len(group) == 1 else f"{names} = {split}({array}, {len(group)})")
    lines += code.lines

    first, coordinates = program.inputs[0]
    results = []
    for join, values in program.outputs:
        entries = [code.text(v) for v in values]
        if len(values) == 1 and join != MATRIX and _depends(values[0], set(coordinates), tape):
            results.append(entries[0])  # it has the shape of the state already
        else:
            results.append(f"{join}([{', '.join(entries)}], {first}, {len(coordinates)})")
    lines.append(f"return {', '.join(results)}")
    header = f"def {program.name}({', '.join([a for a, _ in program.inputs] + [s.name for s in extras])}):"
    return "\n".join([header, *(f"    {line}" for line in lines), ""])


def _with_shared_roots(tape: Tape) -> Tape:
    """The tape with √s as s u, where u = rsqrt(s) is there as well."""
    roots = {e.base: s for s, e in tape.definitions.items() if isinstance(e, sp.Pow) and e.exp == -_HALF}
    shared = copy.copy(tape)
    shared.definitions = {
        s: e.base * roots[e.base] if isinstance(e, sp.Pow) and e.exp == _HALF else e
        for s, e in tape.definitions.items()
    }
    return shared


def _depends(value: sp.Expr, on: set[sp.Symbol], tape: Tape) -> bool:
    behind = [value, *(tape.definitions[s] for s in tape.needed([value]))]
    return any(not on.isdisjoint(e.free_symbols) for e in behind)
