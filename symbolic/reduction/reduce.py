"""Index reduction: from any DAE to an ODE with leading equations of index 1 and the hidden constraints."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import sympy as sp

from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.forms.reduced import ReducedSystem
from ndae.symbolic.forms.reduced_equations import Block
from ndae.symbolic.ground.typed import symbols_in, symbols_of
from ndae.symbolic.ground.words import listed, shortened
from ndae.symbolic.numeric.sizes import typical_sizes
from ndae.symbolic.reduction.chains import Chains, Row, eliminate_aliases
from ndae.symbolic.reduction.dependence import Dependence
from ndae.symbolic.reduction.graphs import (
    Offsets,
    StructureError,
    maximum_matching,
    pantelides,
    solution_order,
    unmatched,
)
from ndae.symbolic.reduction.index_along_solutions import solution_index
from ndae.symbolic.reduction.index_of_linear import linear_index
from ndae.symbolic.reduction.redundant import Independent, without_redundant
from ndae.symbolic.reduction.solution_points import solution_points

_NAMED = 12  # equations or unknowns that an error lists


class Analysis(NamedTuple):
    """What the structure of some rows says."""

    signature: list[dict[int, int]]
    offsets: Offsets
    leading: list[list[int]]  # for each row the variables whose leading derivative it contains once differentiated
    groups: list[list[int]]  # rows in the order of solution


def reduce_index(system: Equations) -> ReducedSystem:
    """Reduce a system to index 1.

    1. An equation x' − u = 0 makes u the derivative of x. 2. Pantelides' algorithm says how often each equation must
    be differentiated. 3. Where the Jacobian of the equations so differentiated by the leading unknowns is singular
    everywhere, equations are replaced by combinations in which these cancel, differentiated fewer times (G. Tan, N. S.
    Nedialkov and J. D. Pryce, Conversion methods for improving structural analysis of DAEs, BIT 57 (2017) 845), and 2
    and 3 are repeated. Redundant constraints, where a system may have them, are left out before. Raises StructureError
    where no unique solution can exist by structure, and where 3 fails.
    """
    _check_counts(system)
    if system.redundant is not None:
        try:
            found = without_redundant(system)
        except StructureError:
            found = without_redundant(system, _sizes(system))
        if found is not None:
            return _of_whole(system, found, _reduced_at_sizes(found.equations))
    return _reduced_at_sizes(system)


def _of_whole(system: Equations, found: Independent, reduced: ReducedSystem) -> ReducedSystem:
    """The reduced form of the system with its redundant equations, from that of the one without."""
    strange = symbols_in(found.redundant.values()) - {*reduced.y, *reduced.parameters, reduced.time}
    if strange:
        raise StructureError(
            f"{system.name}: redundant equations contain {min(map(str, strange))}, which the others determine only as "
            "a leading unknown: leave them out by hand"
        )
    n = system.n_states
    return replace(
        reduced,
        system=system,
        states=reduced.states[:n],
        state_rates=reduced.state_rates[:n],
        origins=tuple(
            tuple(o for o in map(found.origins.__getitem__, own) if o is not None) for own in reduced.origins
        ),
        redundant=found.redundant,
        least_norm=found.least_norm,
    )


def _reduced_at_sizes(system: Equations) -> ReducedSystem:
    try:
        return _reduced(system, {})
    except StructureError as error:
        first, sizes = error, _sizes(system)
        if not sizes:
            raise
    # Ranks were judged where all unknowns are of size one, which says little where they are of 1e-9 and 1e9.
    try:
        return _reduced(system, sizes)
    except StructureError as error:
        if str(error) == str(first) and not error.by_numbers:
            raise
        small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        raise StructureError(
            f"{error}; this was judged in numbers, and the unknowns seem to be of unlike sizes, from "
            f"{sizes[small]:.0e} ({small}) to {sizes[large]:.0e} ({large}): if it isn't so, write the system in units "
            "in which all are near one",
            error.equations,
            error.unknowns,
            by_numbers=True,
        ) from None


def _sizes(system: Equations) -> dict[sp.Symbol, float]:
    moving = sorted(symbols_in(system.equations), key=str)
    entries = {s: system.derivative_of(s) for s in moving}
    return typical_sizes(system.equations, {s: entry[0] for s, entry in entries.items() if entry is not None})


def _reduced(system: Equations, sizes: Mapping[sp.Symbol, float]) -> ReducedSystem:
    keep: set[sp.Symbol] = set()
    while True:
        chains, rows = eliminate_aliases(system, keep, sizes)
        rows, analysis, jacobian = _make_regular(system, chains, rows)
        orders = analysis.offsets.orders
        lost = {s for s in system.states for j, k in [chains.position[s]] if k > orders[j]}
        if not lost:
            return _assemble(system, chains, rows, analysis, jacobian)
        keep |= lost  # nothing but its alias determines it


def _make_regular(system: Equations, chains: Chains, rows: Sequence[Row]):
    """Rows whose differentiated Jacobian is regular, with their structure and that Jacobian."""
    known: dict[sp.Expr, dict[sp.Symbol, sp.Expr]] = {}

    def slopes(expression, symbols):
        found = known.setdefault(expression, {})
        found.update(partials(expression, [s for s in symbols if s not in found]))
        return [found[s] for s in symbols]

    while True:
        analysis = analyse(system, chains, rows)
        c, d = analysis.offsets.differentiations, analysis.offsets.orders
        jacobian = {}
        for i, columns in enumerate(analysis.leading):
            entries = slopes(rows[i].expression, [chains.symbol(j, d[j] - c[i]) for j in columns])
            jacobian |= {(i, j): e for j, e in zip(columns, entries, strict=True)}
        better = Dependence(system, chains, rows, analysis, jacobian).better_rows()
        if better is None:
            return rows, analysis, jacobian
        rows = better


def analyse(system: Equations, chains: Chains, rows: Sequence[Row]) -> Analysis:
    """Pantelides' offsets and the order of solution; raises StructureError, with names, where there are none."""
    signature = [chains.signature(row.expression) for row in rows]
    over, under = unmatched(signature, chains.n_variables)
    if over or under:
        raise _singular_structure(system, chains, rows, over, under)
    offsets = pantelides(signature, chains.n_variables)
    c, d = offsets.differentiations, offsets.orders
    leading = [[j for j, order in row.items() if order + c[i] == d[j]] for i, row in enumerate(signature)]
    return Analysis(signature, offsets, leading, solution_order(leading, offsets.matching))


def _assemble(system: Equations, chains: Chains, rows, analysis: Analysis, jacobian) -> ReducedSystem:
    c, d = analysis.offsets.differentiations, analysis.offsets.orders
    n = chains.n_variables
    y = [(j, k) for k in range(max(d, default=0)) for j in range(n) if k < d[j]]
    w = tuple(chains.symbol(j, d[j]) for j in range(n))
    levels: list[list[sp.Expr]] = []
    for i, row in enumerate(rows):
        levels.append([row.expression])
        for _ in range(c[i]):
            levels[i].append(chains.derivative(levels[i][-1]))
    constraint_of = sorted(((i, k) for i in range(n) for k in range(c[i])), key=lambda entry: entry[::-1])
    constraints = tuple(levels[i][k] for i, k in constraint_of)
    equations = tuple(entries[-1] for entries in levels)
    index = _index(chains, rows, analysis, [chains.position[s] for s in system.states])
    # Structure is right about index 0, where F has a regular Jacobian by x', and so about index 1.
    exact = linear_index(system, index) if index > 1 else index
    if exact is None or any(e.free_symbols & chains.position.keys() for e in jacobian.values()):
        points = solution_points(system, chains, rows, analysis, jacobian, constraints, equations)
        if exact is None and points is not None:
            exact = solution_index(system, chains, analysis, jacobian, equations, points, index)
    blocks = []
    for group in analysis.groups:
        owned = (analysis.offsets.matching.columns[i] for i in group)
        unknowns = sorted(j for j in owned if j is not None)  # all: it is perfect
        inside = {w[j] for j in unknowns}
        columns = set(unknowns)
        entries = [jacobian[i, j] for i in group for j in analysis.leading[i] if j in columns]
        blocks.append(Block(tuple(group), tuple(unknowns), not any(e.free_symbols & inside for e in entries)))
    places = [chains.position[s] for s in system.states]
    return ReducedSystem(
        system=system,
        index=index if exact is None else exact,
        y=tuple(chains.symbol(j, k) for j, k in y),
        w=w,
        rates=tuple(chains.symbol(j, k + 1) for j, k in y),
        equations=equations,
        differentiations=tuple(c),
        constraints=constraints,
        constraint_of=tuple(constraint_of),
        algebraic_equations=tuple(i for i, row in enumerate(rows) if _is_algebraic(system, row.expression)),
        blocks=tuple(blocks),
        states=system.states,
        state_rates=tuple(chains.symbol(j, k + 1) if k < d[j] else None for j, k in places),
        invariants=dict(system.invariants),
        time=system.time,
        parameters=dict(system.parameters),
        origins=tuple(row.origins for row in rows),
    )


def _is_algebraic(system: Equations, expression: sp.Expr) -> bool:
    entries = (system.derivative_of(s) for s in symbols_of(expression))
    return not any(entry is not None and entry[1] > 0 for entry in entries)


def _index(chains: Chains, rows: Sequence[Row], analysis: Analysis, places) -> int:
    """How often user's equations are differentiated to determine the derivative of every state.

    Followed through the order of solution: a leading derivative needs its group of equations and what these contain;
    the derivative of an algebraic variable needs them differentiated once more. Where that once more falls on other
    equations than the most differentiated ones, this is less than max c + 1, the structural index.
    """
    c, d, matching = analysis.offsets
    group_of = {i: g for g, group in enumerate(analysis.groups) for i in group}
    depth, seen = 0, set()
    stack = [(j, k + 1 - d[j]) for j, k in places if k + 1 >= d[j]]
    while stack:
        j, extra = stack.pop()
        g = group_of[matching.rows[j]]
        if (g, extra) in seen:
            continue
        seen.add((g, extra))
        for i in analysis.groups[g]:
            depth = max(depth, rows[i].depth + c[i] + extra)
            for other, order in analysis.signature[i].items():
                behind = d[other] - c[i] - order  # of the leading derivative of `other`
                if extra >= behind:
                    stack.append((other, extra - behind))
    return depth


# -- refusals --------------------------------------------------------------------------------------------------------


def _check_counts(system: Equations) -> None:
    n, m = len(system.equations), len(system.states)
    if n == m:
        return
    place = {s: j for j, s in enumerate(system.states)}
    incidence = []
    for e in system.equations:
        entries = (system.derivative_of(s) for s in symbols_of(e))
        incidence.append(sorted({place[entry[0]] for entry in entries if entry is not None}))
    matching = maximum_matching(incidence, m)
    left = [i for i, j in enumerate(matching.columns) if j is None]
    free = [s.name for s, i in zip(system.states, matching.rows, strict=True) if i is None]
    over, under = unmatched(incidence, m)
    names = [system.states[j].name for j in under]
    advice = "remove equations or add unknowns" if n > m else "add equations, or make states parameters"
    raise StructureError(
        f"{system.name}: {n} equation{'s' * (n != 1)} for {m} unknown{'s' * (m != 1)}: {advice}."
        + (f" Without an unknown of their own: {_equations(system, left)}" if left else "")
        + (f" (too many among {_equations(system, over)})" if len(over) > len(left) else "")
        + (f" Without an equation of their own: unknowns {_listed(free)}" if free else "")
        + (f" (too few equations for {_listed(names)})" if len(names) > len(free) else ""),
        over,
        names,
    )


def _singular_structure(system, chains: Chains, rows, over, under) -> StructureError:
    names = [s.name for j in under for s in chains.symbols(j) if s in system.states]
    origins = sorted({i for row in over for i in rows[row].origins})
    parts = []
    if over:
        inside = sorted({j for i in over for j in chains.signature(rows[i].expression)})
        unknowns = [chains.symbol(j, 0).name for j in inside]
        whole = all(len(rows[i].origins) == 1 for i in over)
        combined = "" if whole else f", combined to {_listed([f'0 = {rows[i].expression}' for i in over])}"
        parts.append(
            f"too many equations for the unknowns {_listed(unknowns)}: {_equations(system, origins)}{combined}"
            if inside
            else f"without any unknown: {_equations(system, origins)}{combined}; leave out constraints that follow "
            'from others, or accept them by System(..., redundant="least-norm")'
        )
    if under:
        parts.append(f"too few equations for the unknowns {_listed(names)}")
    return StructureError(
        f"{system.name}: structurally singular, so no unique solution exists; " + "; ".join(parts), origins, names
    )


def _listed(entries: Sequence[str]) -> str:
    return listed((shortened(e, 70) for e in entries), _NAMED)


def _equations(system: Equations, numbers: Sequence[int]) -> str:
    one = "equation " if len(numbers) == 1 else "equations "
    return one + _listed([f"{i} (0 = {system.equations[i]})" for i in numbers])
