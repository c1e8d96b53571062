"""Vectors of expressions over several named input vectors, generated for NumPy, JAX and torch with their Jacobians."""

from collections.abc import Mapping, Sequence
from copy import copy

import numpy as np
import sympy as sp

from ndae.symbolic.backends.vector import CompiledVector
from ndae.symbolic.backends.vector_numpy import NumpyVector
from ndae.symbolic.code.levelled import Levelled
from ndae.symbolic.code.source import ARRAY, FUNCTION_NAMES, Code, Style, check_generated, function_source, identifiers
from ndae.symbolic.code.tape import Tape
from ndae.symbolic.code.term_sizes import term_sizes
from ndae.symbolic.expressions.corners import as_corners
from ndae.symbolic.expressions.names import is_identifier
from ndae.symbolic.expressions.reading import as_expressions, check_symbols, substituted
from ndae.symbolic.expressions.tables import Lookup
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.ground.kept import Recomputed, kept, remembered


class VectorFunction(Recomputed):
    """m expressions f(a, b, ..., t; p) of several input vectors, time and parameters, with sparse Jacobians.

    `inputs` names the vectors and lists their symbols, {"y": [x, v], "w": [a]}: calls take them in this order.
    `parameters` are symbols with default values, or None where every call has to give one. Besides the smooth functions
    the expressions may contain Abs, sign, Max, Min and Piecewise with comparisons; at a kink the derivative is that of
    the first branch that holds. Raises ValueError on undeclared or doubly declared symbols and unsupported functions.
    """

    def __init__(
        self,
        expressions: Sequence[sp.Expr],
        inputs: Mapping[str, Sequence[sp.Symbol]],
        time: sp.Symbol | None = None,
        parameters: Mapping[sp.Symbol, float | None] | None = None,
        name: str = "function",
    ):
        self.name = name
        self._sizes: tuple[VectorFunction, str] | None = None  # of which function, by which input
        expressions = list(expressions)
        self.expressions = as_expressions(expressions, name) if expressions else ()
        self.inputs = {key: tuple(symbols) for key, symbols in inputs.items()}
        self.time, self.parameters = time, {s.name: _default(s, v, name) for s, v in (parameters or {}).items()}
        declared: dict[str, tuple[sp.Symbol, ...]] = {f"input {key}": symbols for key, symbols in self.inputs.items()}
        declared |= {"parameter": tuple(parameters or {}), "time": () if time is None else (time,)}
        check_symbols(self.expressions, declared, name)
        for key in self.inputs:
            if not is_identifier(key) or key in FUNCTION_NAMES:
                raise ValueError(f"{name}: input name {key!r} is no identifier that is free: write a name like 'y'")
        every = [s for group in declared.values() for s in group]
        self._names = identifiers(every)
        self._groups = {key: tuple(self._names[s] for s in symbols) for key, symbols in self.inputs.items()}
        extras = (() if time is None else (time,)) + tuple(parameters or {})
        self._extras = tuple(self._names[s] for s in extras)
        for e in self.expressions:
            if e.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
                raise ValueError(f"{name}: {e} is no finite number: rewrite it")
        self.has_scalar_form = True
        self.n_outputs = len(self.expressions)
        self.needs_time = time is not None and any(time in e.free_symbols for e in self.expressions)

    def sizes(self, by: str) -> "VectorFunction":
        """The sizes of what is added up in each value as an input moves (ndae.symbolic.code.term_sizes)."""
        other = copy(self)
        other.name, other._sizes = f"sizes of {self.name}", (self, by)
        return other

    @kept
    def _tape(self) -> tuple[Tape, list[sp.Expr]]:
        if self._sizes is not None:
            of, by = self._sizes
            tape, values = of._tape
            return tape, term_sizes(tape, values, self._groups[by])
        tape, put = Tape(), {}
        values = [tape.value(substituted(as_corners(e), self._names, put)) for e in self.expressions]
        check_generated(tape, self.name)
        return tape, values

    def entries(self, which: str) -> tuple[np.ndarray, np.ndarray, list[sp.Expr]]:
        """Rows, columns and values on the tape of the entries of ∂f/∂`which` that are not zero everywhere."""
        if which not in self._groups:
            raise ValueError(f"{self.name}: no input {which!r}: it has {list(self._groups)}")
        tape, values = self._tape
        rows, columns, found = [], [], []
        places = {s: j for j, s in enumerate(self._groups[which])}
        for i, value in enumerate(values):
            for j, entry in tape.row(value, places).items():
                rows.append(i)
                columns.append(j)
                found.append(entry)
        return np.array(rows, dtype=np.intp), np.array(columns, dtype=np.intp), found

    def source(self, jacobians: Sequence[str] = ()) -> str:
        """The generated code, one source for all backends, to read: values, and Jacobians by the named inputs."""
        parts = [self.values_source(ARRAY)]
        for which in jacobians:
            rows, columns, entries = self.entries(which)
            places = ", ".join(f"({i}, {j})" for i, j in zip(rows, columns, strict=True))
            doc = f"Entries of the Jacobian by {which}, at {places}."
            parts.append(self._source(f"jacobian_{which}", doc, entries, ARRAY))
        return "\n\n".join(parts)

    def values_source(self, style: Style) -> str:
        """Source of the function `values`, which takes lists of entries and gives a list."""
        return self._source("values", f"{self.name}.", self._tape[1], style)

    def entries_source(self, which: str, entries: Sequence[sp.Expr], style: Style) -> str:
        """Source of the function `entries`, which gives entries of the Jacobian by `which` as a list."""
        return self._source("entries", f"Entries of the Jacobian by {which}.", entries, style)

    def operations(self, entries: Sequence[sp.Expr] | None = None) -> int:
        """The number of definitions behind the values, or behind entries of a Jacobian."""
        return len(self._tape[0].needed(self._tape[1] if entries is None else entries))

    def lookups(self) -> dict[str, Lookup]:
        """The tables in the generated code, by the names that it calls them by."""
        return self._tape[0].lookups()

    def unknowns(self, entries: Sequence[sp.Expr] | None = None) -> list[str]:
        """The unknown functions in the generated code, by the names that it calls them by."""
        return self._tape[0].unknowns(self._tape[1] if entries is None else entries)

    def levelled(self, entries: Sequence[sp.Expr] | None = None) -> Levelled:
        """The values, or entries of a Jacobian, as few operations on arrays; inputs are the vectors and the rest."""
        tape, values = self._tape
        return Levelled(tape, [*self._groups.values(), self._extras]).finish(values if entries is None else entries)

    def _source(self, name, doc, values, style):
        taken = {s.name for s in self._names.values()}
        arguments = [(Code.unused(key, taken | self._groups.keys() - {key}), g) for key, g in self._groups.items()]
        return function_source(name, doc, self._tape[0], arguments, self._extras, values, style)

    @kept
    def _compiled(self) -> dict[str, CompiledVector]:
        return {}

    def _backend(self, name, make):
        return remembered(self._compiled, name, make)

    def numpy(self) -> CompiledVector:
        """Compiled for NumPy: single points by Python floats and `math`, batches by arrays."""
        return self._backend("numpy", lambda: NumpyVector(self))

    def jax(self) -> CompiledVector:
        """Compiled for JAX: pure, fit for jit, vmap and grad."""
        from ndae.symbolic.backends.vector_jax import JaxVector

        return self._backend("jax", lambda: JaxVector(self))

    def torch(self) -> CompiledVector:
        """Compiled for torch: batched, fit for autograd."""
        with needing("a function in torch"):
            from ndae.symbolic.backends.vector_torch import TorchVector

        return self._backend("torch", lambda: TorchVector(self))


def _default(symbol: sp.Symbol, value, name: str) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: parameter {symbol.name!r} has default {value!r}: expected a number or None"
        ) from None
