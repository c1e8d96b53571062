"""Definitions of a tape as a few array operations: equal operations that do not wait for one another, done together.

Straight-line code has one array operation a definition. Large systems repeat few kinds of operations over many
definitions; with all values of one depth in one array, each kind is one gather and one operation, so that the number
of operations is that of kinds and depths, whatever the number of equations.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.code.term_sizes import Size
from ndae.symbolic.expressions.choices import Both, Either, Equal, Floor, Guard, Less, LessEqual, Not, Select
from ndae.symbolic.expressions.tables import Lookup, Table
from ndae.symbolic.expressions.unknowns import Applied

_SHORT = 3  # sums of up to so many terms with factors 1 and -1 are grouped by those factors
_HALF = sp.Rational(1, 2)
_CALLED = {Size.__name__: "abs", Floor.__name__: "floor"}


@dataclass
class Fetch:
    """Where some values are: (segment, place) each; then the rows of those segments below one another."""

    where: list[tuple[int, int]]
    segments: tuple[int, ...] = ()
    index: np.ndarray | slice | None = None

    @property
    def rows(self) -> np.ndarray | slice:
        """`index`, once it is resolved."""
        assert self.index is not None
        return self.index

    def resolve(self, lengths: Sequence[int]) -> None:
        """Find the rows, once the lengths of all segments are known."""
        self.segments = tuple(sorted({s for s, _ in self.where}))
        starts = dict(zip(self.segments, np.cumsum([0, *(lengths[s] for s in self.segments)]), strict=False))
        index = np.array([starts[s] + place for s, place in self.where], dtype=np.intp)
        following = len(index) > 0 and bool(np.all(np.diff(index) == 1))
        self.index = slice(int(index[0]), int(index[-1]) + 1) if following else index


@dataclass
class Group:
    """Equal operations: `kind` of operands (each a Fetch), with factors for sums and an exponent for powers."""

    kind: str
    operands: list[Fetch]
    detail: Any = None


@dataclass
class Level:
    """Groups that wait only for earlier segments; their results side by side are the next segment."""

    groups: list[Group]


@dataclass
class LinearSolves:
    """Equal linear systems, whose unknowns are the next segment; `zero[i][j]`: zero by its place in all of them."""

    matrix: Fetch
    right: Fetch
    size: int
    zero: list[list[bool]] = field(default_factory=list)


@dataclass
class NewtonSolves:
    """Equal nonlinear systems, whose unknowns, and 1 where all are found, are the next segment.

    `inside` has the first unknown of each, the second and so on as segments, and then what is `outer`; it gives the
    first residual of each and so on, and those entries of the Jacobian that are not `zero` in all. `sizes` gives those
    of the residuals.
    """

    guess: list[Fetch]
    outer: Fetch
    inside: "Levelled"
    sizes: "Levelled"
    zero: list[bool]


class Levelled:
    """A program over input segments (vectors, then single values) that gives values of a tape in one array.

    `run(numerics, segments)` takes arrays (n, *batch) of one batch shape and gives (n_values, *batch).
    """

    def __init__(self, tape: Tape, segments: Sequence[Sequence[sp.Symbol]]):
        self.tape = tape
        self.steps: list[Level | LinearSolves | NewtonSolves] = []
        self.constants: list[float] = [0.0, 1.0]
        self._constant_place: dict[float, int] = {0.0: 0, 1.0: 1}
        self._n_given = len(segments)
        self._lengths = [*map(len, segments), 0]  # of segments; the constants come behind those given
        self._fetches: list[Fetch] = []
        self._where: dict[Any, tuple[int, int]] = {
            symbol: (i, j) for i, group in enumerate(segments) for j, symbol in enumerate(group)
        }
        self._depth: dict[Any, int] = dict.fromkeys(self._where, 0)
        self.output: Fetch | None = None

    @property
    def n_operations(self) -> int:
        """The number of operations on arrays, a solve counted as one."""
        return sum(len(step.groups) if isinstance(step, Level) else 1 for step in self.steps)

    # -- building ----------------------------------------------------------------------------------------------------

    def need(self, values: Sequence[sp.Basic]) -> None:
        """Schedule the definitions behind some values, and these values."""
        pending: dict[Any, tuple] = {}
        for symbol in self.tape.needed(values, self._where):
            self._lower(symbol, self.tape.definitions[symbol], pending)
        for value in values:
            self._operand(value, pending)
        by_depth: dict[int, dict[tuple, list]] = {}
        for key, (kind, detail, operands) in pending.items():
            by_depth.setdefault(self._depth[key], {}).setdefault((kind, detail), []).append((key, operands))
        for depth in sorted(by_depth):
            groups, offset = [], 0
            for (kind, detail), members in by_depth[depth].items():
                group, width = self._group(kind, detail, [operands for _, operands in members])
                groups.append(group)
                for place, (key, _) in enumerate(members):
                    self._where[key] = (len(self._lengths), offset + place)
                offset += width
            self.steps.append(Level(groups))
            self._lengths.append(offset)
        for key in pending:
            self._depth[key] = 0  # what is done is an input to what comes

    def solve(self, stage: Sequence) -> None:
        """Schedule the linear `Solve`s of one stage."""
        size = stage[0].size
        matrix = [a for solve in stage for row in solve.matrix for a in row]
        right = [b for solve in stage for b in solve.right]
        self.need([*matrix, *right])
        zero = [[all(s.matrix[i][j] == 0 for s in stage) for j in range(size)] for i in range(size)]
        self.steps.append(LinearSolves(self._fetch(matrix), self._fetch(right), size, zero))
        for place, symbol in enumerate(w for solve in stage for w in solve.unknowns):
            self._where[symbol] = (len(self._lengths), place)
            self._depth[symbol] = 0
        self._lengths.append(len(right))

    def newton(self, stage: Sequence, guess: Mapping[sp.Symbol, sp.Symbol], outer: Sequence[sp.Symbol]) -> sp.Symbol:
        """Schedule the nonlinear `Solve`s of one stage, with the inputs that are guesses of their unknowns and what
        they contain besides; the symbol of whether all were found."""
        size = stage[0].size
        unknowns = [[solve.unknowns[i] for solve in stage] for i in range(size)]
        residuals = [solve.right[i] for i in range(size) for solve in stage]
        entries = [[solve.matrix[i][j] for solve in stage] for i in range(size) for j in range(size)]
        zero = [all(e == 0 for e in group) for group in entries]
        values = [*residuals, *(e for group, z in zip(entries, zero, strict=True) if not z for e in group)]
        self.need(outer)
        inside, sizes = (Levelled(self.tape, [*unknowns, outer]) for _ in range(2))
        inside.finish(values)
        sizes.finish([solve.sizes[i] for i in range(size) for solve in stage])
        fetched = [self._fetch([guess[w] for w in group]) for group in unknowns]
        self.steps.append(NewtonSolves(fetched, self._fetch(outer), inside, sizes, zero))
        found = sp.Dummy("found")
        for place, symbol in enumerate([*(w for group in unknowns for w in group), found]):
            self._where[symbol] = (len(self._lengths), place)
            self._depth[symbol] = 0
        self._lengths.append(size * len(stage) + 1)
        return found

    def finish(self, values: Sequence[sp.Basic]) -> "Levelled":
        """Schedule the values that the program gives."""
        self.need(values)
        self.output = self._fetch(values)
        self._lengths[self._n_given] = len(self.constants)
        self._constant_array = np.array(self.constants)
        for fetch in self._fetches:
            fetch.resolve(self._lengths)
        return self

    def _lower(self, symbol: Any, e: sp.Basic, pending: dict) -> None:
        """Note a definition as (kind, detail, operands) with its depth."""
        if isinstance(e, sp.Add):
            terms = [t.as_coeff_Mul() for t in e.args]
            operands = tuple(self._operand(x, pending) for _, x in terms)
            factors = tuple(float(c) for c, _ in terms)
            for i, (c, x) in enumerate(terms):
                if x.is_number:  # a number is a factor of the constant one
                    factors = (*factors[:i], float(c * x), *factors[i + 1 :])
                    operands = (*operands[:i], self._operand(sp.S.One, pending), *operands[i + 1 :])
            if len(terms) <= _SHORT and all(abs(f) == 1 for f in factors):
                order = sorted(range(len(terms)), key=lambda i: -factors[i])
                entry = "signed", tuple(factors[i] for i in order), tuple(operands[i] for i in order)
            else:
                entry = "sum", _padded(len(terms)), tuple(zip(factors, operands, strict=True))
        elif isinstance(e, sp.Mul):
            operands = tuple(self._operand(f, pending) for f in e.args)
            entry = "product", len(operands), operands
        elif isinstance(e, sp.Pow) and e.exp.is_Rational:
            entry = "power", e.exp, (self._operand(e.base, pending),)
        elif isinstance(e, sp.Pow):
            entry = "call", "power", tuple(self._operand(a, pending) for a in e.args)
        elif isinstance(e, Applied):
            places = tuple(self._operand(a, pending) for a in e.places)
            entry = "unknown", e.called, (e.wanted, *places)
        elif isinstance(e, Lookup):
            entry = "call", (e.table, e.order), (self._operand(e.place, pending),)
        else:
            entry = "call", type(e).__name__, tuple(self._operand(a, pending) for a in e.args)
        names = [x[1] if entry[0] == "sum" else x for x in entry[2][entry[0] == "unknown" :]]
        self._depth[symbol] = 1 + max((self._depth[n] for n in names), default=0)
        pending[symbol] = entry

    def _operand(self, value: sp.Basic, pending: dict) -> Any:
        """The key of a value, which is noted itself where it is no symbol."""
        if isinstance(value, sp.Symbol):
            return value
        if value in (sp.true, sp.false):
            value = sp.S.One if value == sp.true else sp.S.Zero
        if value.is_number:
            number = float(cast(sp.Expr, value))
            if number not in self._constant_place:
                self._constant_place[number] = len(self.constants)
                self.constants.append(number)
            self._where[number] = (self._n_given, self._constant_place[number])
            self._depth[number] = 0
            return number
        if value not in self._where and value not in pending:
            coefficient, rest = cast(sp.Expr, value).as_coeff_Mul()
            if coefficient != 1:
                inner = self._operand(rest, pending)
                self._depth[value] = 1 + self._depth[inner]
                pending[value] = "sum", 1, ((float(coefficient), inner),)
            else:
                self._lower(value, value, pending)
        return value

    def _group(self, kind: str, detail: Any, members: list) -> tuple[Group, int]:
        if kind == "sum":
            width = detail
            factors = np.zeros((width, len(members)))
            names = [[0.0] * len(members) for _ in range(width)]
            self._operand(sp.S.Zero, {})
            for k, terms in enumerate(members):
                for i, (factor, name) in enumerate(terms):
                    factors[i, k], names[i][k] = factor, name
            return Group("sum", [self._fetch_keys([n for row in names for n in row])], factors), len(members)
        if kind == "unknown":
            places = {key: i for i, key in enumerate(dict.fromkeys(tuple(place) for _, *place in members))}
            wanted = tuple((places[tuple(place)], *which) for which, *place in members)
            operands = [self._fetch_keys(list(column)) for column in zip(*places, strict=True)]
            return Group(kind, operands, (detail, wanted)), len(members)
        operands = [self._fetch_keys([m[i] for m in members]) for i in range(len(members[0]))]
        return Group(kind, operands, detail), len(members)

    def _fetch(self, values: Sequence[sp.Basic]) -> Fetch:
        return self._fetch_keys([self._operand(v, {}) for v in values])

    def _fetch_keys(self, keys: Sequence) -> Fetch:
        fetch = Fetch([self._where[key] for key in keys])
        self._fetches.append(fetch)
        return fetch

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, numerics: "Numerics", given: Sequence, unknowns: Mapping[str, Callable] = {}) -> Any:
        """The values, (n_values, *batch); `unknowns` are the functions that calls of unknown ones go to, by name."""
        n = numerics
        constants = n.constant(self._constant_array, given[0])
        shape = (len(self.constants), *given[0].shape[1:])
        constants = n.broadcast(constants.reshape(-1, *[1] * (len(shape) - 1)), shape)
        segments = [*given, constants]

        def fetch(f: Fetch):
            if len(f.segments) < 2:  # of nothing, nothing of the constants
                return n.take(segments[f.segments[0]], f.rows) if f.segments else constants[:0]
            return n.take(n.concatenate([segments[s] for s in f.segments]), f.rows)

        for step in self.steps:
            if isinstance(step, LinearSolves):
                segments.append(_solve(n, step, fetch(step.matrix), fetch(step.right)))
            elif isinstance(step, NewtonSolves):
                segments.append(_newton(n, step, [fetch(f) for f in step.guess], fetch(step.outer)))
            else:
                results = [_apply(n, group, [fetch(f) for f in group.operands], unknowns) for group in step.groups]
                segments.append(results[0] if len(results) == 1 else n.concatenate(results))
        assert self.output is not None  # finished
        return fetch(self.output)


class Numerics(ABC):
    """Array functions of a backend, on arrays with their values on the first axis."""

    functions: Mapping[str, Callable]
    arrays: Any  # ndae.symbolic.backends.solves.Arrays

    @abstractmethod
    def constant(self, numbers: np.ndarray, like: Any) -> Any:
        """Numbers as an array of the type of `like`."""

    @abstractmethod
    def take(self, x: Any, index: np.ndarray | slice) -> Any:
        """Rows of an array."""

    @abstractmethod
    def concatenate(self, arrays: Sequence) -> Any:
        """Rows of several arrays below one another."""

    @abstractmethod
    def broadcast(self, x: Any, shape: tuple[int, ...]) -> Any:
        """An array in a larger shape."""

    @abstractmethod
    def first(self, x: Any, shape: tuple[int, ...]) -> Any:
        """A vector (..., n) as (n, *shape)."""

    @abstractmethod
    def column(self, values: Sequence, shape: tuple[int, ...], like: Any) -> Any:
        """Single values (...) below one another, (n, *shape)."""

    @abstractmethod
    def lookup(self, table: Table, order: int) -> Callable:
        """A derivative of a table as a function of arrays."""

    @abstractmethod
    def as_number(self, condition: Any, like: Any) -> Any:
        """1 where a condition holds, otherwise 0."""


def _apply(n: Numerics, group: Group, operands: list, unknowns: Mapping[str, Callable]) -> Any:
    if group.kind == "sum":
        (x,), factors = operands, group.detail
        factors = n.constant(factors, x).reshape(*factors.shape, *[1] * (x.ndim - 1))
        return (x.reshape(*factors.shape[:2], *x.shape[1:]) * factors).sum(0)
    if group.kind == "signed":
        total = operands[0] if group.detail[0] > 0 else -operands[0]
        for sign, x in zip(group.detail[1:], operands[1:], strict=True):
            total = total + x if sign > 0 else total - x
        return total
    if group.kind == "product":
        total = operands[0]
        for x in operands[1:]:
            total = total * x
        return total
    if group.kind == "power":
        return _power(n, operands[0], group.detail)
    if group.kind == "unknown":
        name, wanted = group.detail
        x = operands[0]
        values = unknowns[name](wanted, [list(place) for place in zip(*operands, strict=True)])
        return n.concatenate([n.broadcast(v, x.shape[1:])[None] for v in values])
    if isinstance(group.detail, tuple):
        return n.lookup(*group.detail)(*operands)
    return _call(n, group.detail, operands)


def _power(n: Numerics, x: Any, exponent: sp.Expr) -> Any:
    if exponent < 0:
        return 1.0 / _power(n, x, -exponent)
    if exponent == _HALF:
        return n.functions["sqrt"](x)
    if exponent.is_Integer:
        return x if exponent == 1 else x * x if exponent == 2 else x ** int(exponent)
    return n.functions["power"](x, float(exponent))


def _call(n: Numerics, name: str, x: list) -> Any:
    """Conditions are the numbers 1 and 0."""
    if name == Less.__name__:
        return n.as_number(x[0] < x[1], x[0])
    if name == LessEqual.__name__:
        return n.as_number(x[0] <= x[1], x[0])
    if name == Equal.__name__:
        return n.as_number(x[0] == x[1], x[0])
    if name == Both.__name__:
        return x[0] * x[1]
    if name == Either.__name__:
        return x[0] + x[1] - x[0] * x[1]
    if name == Not.__name__:
        return 1 - x[0]
    if name == Select.__name__:
        return n.functions["where"](x[0] > 0.5, x[1], x[2])
    if name == Guard.__name__:
        return n.functions["guard"](x[0] > 0.5, x[1])
    return n.functions[_CALLED.get(name, name)](*x)


def _solve(n: Numerics, step: LinearSolves, matrix: Any, right: Any) -> Any:
    size, batch = step.size, tuple(matrix.shape[1:])
    matrix = matrix.reshape(-1, size, size, *batch)
    right = right.reshape(-1, size, *batch)
    rows = [[0.0 if step.zero[i][j] else matrix[:, i, j] for j in range(size)] for i in range(size)]
    x = n.arrays.solve(rows, [right[:, i] for i in range(size)])
    blocks = [y[b : b + 1] for b in range(right.shape[0]) for y in x]
    return n.concatenate(blocks)


def _newton(n: Numerics, step: NewtonSolves, guess: Sequence, outer: Any) -> Any:
    xp, n_blocks = n.arrays.xp, guess[0].shape[0]

    def groups(values):
        """Rows of values, a group below the other, as arrays (*batch, n_blocks)."""
        found = values.reshape(-1, n_blocks, *values.shape[1:])
        return [xp.moveaxis(found[i], 0, -1) for i in range(found.shape[0])]

    def evaluate(z, given):
        segments = [*(xp.moveaxis(x, -1, 0) for x in z), *given]
        found = groups(step.inside.run(n, segments))
        entries = iter(found[len(z) :])
        jacobian = [0.0 if zero else next(entries) for zero in step.zero]
        return found[: len(z)], jacobian, lambda: groups(step.sizes.run(n, segments))

    z, found = n.arrays.newton_by_groups(evaluate, [xp.moveaxis(g, 0, -1) for g in guess], [outer])
    z = [xp.moveaxis(x, -1, 0) for x in z]
    return n.concatenate([*z, n.as_number(found, z[0])[None]])


def _padded(n: int) -> int:
    """The width of the group that a sum of n terms goes to."""
    width = 4
    while width < n:
        width += max(width // 4, 1)
    return n if n <= 4 else width


def entries(
    program: Levelled,
    numerics: Numerics,
    vectors: Sequence,
    extras: Sequence,
    shape: tuple,
    unknowns: Mapping[str, Callable] = {},
) -> Any:
    """The values of a program (n_values, *shape) for vectors (..., n) and single values that broadcast to `shape`."""
    segments = [numerics.first(v, shape) for v in vectors]
    return program.run(numerics, [*segments, numerics.column(extras, shape, segments[0])], unknowns)
