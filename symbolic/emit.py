"""From a list of expressions to straight-line source: shared subexpressions, then one joined array."""

import keyword
from collections.abc import Sequence
from dataclasses import dataclass

import sympy as sp

from symbolic.printers import ArrayPrinter, Rsqrt

#: How the entries of an output are joined: the instances' rows, the columns of the state, or a matrix for each instance.
ROWS, COLUMNS, MATRIX = "rows", "columns", "matrix"
RESERVED = {"torch", "jnp", "jax", "np", "rsqrt", "rows", "columns", "matrix", "split", "split_rows", "time"}


@dataclass(frozen=True)
class Program:
    """One function to generate: array inputs with the symbols that they are split into, and outputs with their join."""

    name: str
    doc: str
    inputs: tuple[tuple[str, tuple[sp.Symbol, ...]], ...]
    outputs: tuple[tuple[str, tuple[sp.Expr, ...]], ...]


def safe_roots(expression: sp.Expr) -> sp.Expr:
    """Write every half-integer power of s with the one helper u = rsqrt(s): √s = s u, s^(-1/2) = u, s^(-3/2) = u³."""

    def is_root(node):
        return node.is_Pow and node.exp.is_Rational and node.exp.q == 2 and not node.base.is_number

    def rewrite(base, exponent):
        u = Rsqrt(base)
        return base ** (exponent + sp.Rational(1, 2)) * u if exponent > 0 else u ** (-2 * exponent)

    return expression.replace(is_root, lambda node: rewrite(node.base, node.exp))


def identifiers(symbols: Sequence[sp.Symbol]) -> dict[sp.Symbol, sp.Symbol]:
    """Map symbols to ones whose names are Python identifiers, free of keywords, of each other and of the helpers."""
    taken, result = set(RESERVED), {}
    for symbol in symbols:
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in symbol.name) or "_"
        if name[0].isdigit() or keyword.iskeyword(name):
            name = "_" + name
        while name in taken:
            name += "_"
        taken.add(name)
        result[symbol] = sp.Symbol(name, **symbol.assumptions0) if name != symbol.name else symbol
    return result


def emit(program: Program, extras: Sequence[sp.Symbol], backend: str) -> str:
    """Source of one function, whose size depends on the expressions alone."""
    printer = ArrayPrinter(backend)
    symbols = [s for _, group in program.inputs for s in group] + list(extras)
    names = identifiers(symbols)
    flat = [safe_roots(e.xreplace(names)) for _, entries in program.outputs for e in entries]
    arrays = {name for name, _ in program.inputs}
    taken = {s.name for s in names.values()} | RESERVED | arrays
    fresh = (sp.Symbol(f"s{i}") for i in range(10**9) if f"s{i}" not in taken)
    shared, flat = sp.cse(flat, symbols=fresh, order="none", list=True)

    used = set().union(*(e.free_symbols for e in flat), *(e.free_symbols for _, e in shared))
    lines = [f"def {program.name}({', '.join([n for n, _ in program.inputs] + [names[s].name for s in extras])}):"]
    lines.append(f'    """{program.doc}"""')
    for array, group in program.inputs:
        split = "split_rows" if array == "w" else "split"
        if not used.intersection(names[s] for s in group) or len(group) == 0:
            continue
        if len(group) == 1:
            lines.append(f"    {names[group[0]].name} = {array}")
        else:
            left = ", ".join(names[s].name for s in group)
            lines.append(f"    {left} = {split}({array}, {len(group)})")
    lines += [f"    {symbol.name} = {printer._print(value)}" for symbol, value in shared]
    results, position = [], 0
    like = program.inputs[0][0]
    for join, entries in program.outputs:
        part = flat[position : position + len(entries)]
        position += len(entries)
        if len(part) == 1 and join != MATRIX and used_arrays(part[0], shared, program, names):
            results.append(printer._print(part[0]))
        else:
            width = len(program.inputs[0][1])
            results.append(f"{join}([{', '.join(printer._print(e) for e in part)}], {like}, {width})")
    lines.append(f"    return {', '.join(results)}")
    return "\n".join(lines) + "\n"


def used_arrays(expression, shared, program, names) -> bool:
    """Whether an entry depends on every sample, so that it has the shape of the state without being broadcast."""
    definitions = dict(shared)
    stack, seen = [expression], set()
    full = {names[s] for array, group in program.inputs if array == program.inputs[0][0] for s in group}
    while stack:
        for symbol in stack.pop().free_symbols - seen:
            seen.add(symbol)
            if symbol in full:
                return True
            if symbol in definitions:
                stack.append(definitions[symbol])
    return False
