"""From a program on a tape to readable straight-line source."""

import sympy as sp

from ndae.symbolic.code.local_printer import ArrayPrinter
from ndae.symbolic.code.local_programs import MATRIX, RESERVED, Program
from ndae.symbolic.ground.typed import symbols_of

_HALF = sp.Rational(1, 2)
_MAX_INLINE = 60  # characters


def emit(program: Program, extras: tuple[sp.Symbol, ...], backend: str) -> str:
    """Source of one function, whose size depends on the expressions alone.

    What is used once and is short is written where it is used; all else gets a name.
    """
    definitions = _written(program)
    outputs = [value for _, values in program.outputs for value in values]
    order = _needed(outputs, definitions)
    uses = _count_uses([*[definitions[s] for s in order], *outputs])
    inputs = {s for _, group in program.inputs for s in group} | set(extras)
    taken = {s.name for s in inputs} | RESERVED
    fresh = (name for i in range(10**9) if (name := f"s{i}") not in taken)

    printer = ArrayPrinter(backend, definitions)
    body = []
    for symbol in order:
        text = printer.doprint_entry(definitions[symbol])
        if uses[symbol] == 1 and len(text) <= _MAX_INLINE:
            printer.inline[symbol] = text
        else:
            printer.names[symbol] = next(fresh)
            body.append(f"{printer.names[symbol]} = {text}")

    used = {s for e in [*[definitions[s] for s in order], *outputs] for s in e.free_symbols}
    lines = [f"def {program.name}({', '.join([a for a, _ in program.inputs] + [s.name for s in extras])}):"]
    lines.append(f'    """{program.doc}"""')
    for array, group in program.inputs:
        if used.isdisjoint(group):
            continue
        split = "split_rows" if array == "ws" else "split"
        names = ", ".join(s.name for s in group)
        lines.append(f"    {names} = {array}" if len(group) == 1 else f"    {names} = {split}({array}, {len(group)})")
    lines += ["    " + line for line in body]

    first, width = program.inputs[0][0], len(program.inputs[0][1])
    coordinates, results = set(program.inputs[0][1]), []
    for join, values in program.outputs:
        entries = [printer.doprint_entry(v) for v in values]
        if len(values) == 1 and join != MATRIX and _depends([values[0]], coordinates, definitions):
            results.append(entries[0])  # it has the shape of the state already
        else:
            results.append(f"{join}([{', '.join(entries)}], {first}, {width})")
    lines.append(f"    return {', '.join(results)}")
    return "\n".join(lines) + "\n"


def _written(program: Program) -> dict[sp.Symbol, sp.Expr]:
    """The tape's definitions as they are computed: √s as s u with u = rsqrt(s)."""
    roots = {e.base: s for s, e in program.tape.definitions.items() if isinstance(e, sp.Pow) and e.exp == -_HALF}
    return {
        s: e.base * roots[e.base] if isinstance(e, sp.Pow) and e.exp == _HALF else e
        for s, e in program.tape.definitions.items()
    }


def _needed(values, definitions) -> list[sp.Symbol]:
    found, stack = set[sp.Symbol](), [s for v in values for s in symbols_of(v)]
    while stack:
        symbol = stack.pop()
        if symbol in definitions and symbol not in found:
            found.add(symbol)
            stack.extend(symbols_of(definitions[symbol]))
    return [s for s in definitions if s in found]


def _depends(values, on: set[sp.Symbol], definitions) -> bool:
    behind = [*values, *[definitions[s] for s in _needed(values, definitions)]]
    return any(not on.isdisjoint(e.free_symbols) for e in behind)


def _count_uses(expressions) -> dict[sp.Symbol, int]:
    """How often each symbol would be written; the base of a power counts for more, since it is written repeatedly."""
    uses: dict[sp.Symbol, int] = {}
    for e in expressions:
        for node in sp.preorder_traversal(e):
            if isinstance(node, sp.Symbol):
                uses[node] = uses.get(node, 0) + 1
            elif (
                isinstance(node, sp.Pow)
                and node.exp.is_Integer
                and node.exp not in (-1, 2)
                and isinstance(node.base, sp.Symbol)
            ):
                uses[node.base] = uses.get(node.base, 0) + 1
    return uses
