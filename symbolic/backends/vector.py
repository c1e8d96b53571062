"""What compiled functions of vectors have in common, whatever the array library."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from ndae.symbolic.backends.supplied import Supplied
from ndae.symbolic.expressions.unknowns import called
from ndae.symbolic.ground.kept import Recomputed, kept, remembered
from ndae.symbolic.ground.words import check_known


class DenseLayout:
    """Where the entries of a sparse Jacobian go: numbers into a template, the others by index."""

    def __init__(self, shape: tuple[int, int], rows, columns, entries):
        constant = np.array([e.is_number for e in entries], dtype=bool)
        flat = np.asarray(rows, dtype=np.intp) * shape[1] + np.asarray(columns, dtype=np.intp)
        self.shape = shape
        self.flat = flat[~constant]
        self.entries = [e for e, c in zip(entries, constant, strict=True) if not c]
        self.template = np.zeros(shape)
        self.template.reshape(-1)[flat[constant]] = [float(e) for e, c in zip(entries, constant, strict=True) if c]
        self.sparsity = np.zeros(shape, dtype=bool)
        self.sparsity.reshape(-1)[flat] = True

    @kept
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Constants k, and for each place of the matrix its position in (entries, k)."""
        constants, inverse = np.unique(self.template, return_inverse=True)
        table = inverse.reshape(-1) + len(self.entries)
        table[self.flat] = np.arange(len(self.entries))
        return constants, table


class CompiledVector(Recomputed, ABC):
    """A vector function f(a, b, ..., t; p) generated for one backend, over any leading batch dimensions.

    Every input vector has shape (..., n) with batch dimensions that broadcast; `t` is a number or an array of the
    batch's shape, and so are the values of `parameters={name: value}`, which replace defaults. Raises ValueError on
    another length, an unknown or missing parameter, or a missing time.
    """

    def __init__(self, function):
        self.function, self.name = function, function.name
        self.inputs = {key: len(symbols) for key, symbols in function.inputs.items()}
        self.n_outputs = function.n_outputs
        self.parameters = dict(function.parameters)
        self.has_time = function.time is not None
        self.needs_time = function.needs_time

    def __repr__(self) -> str:
        sizes = ", ".join(f"{key}: {n}" for key, n in self.inputs.items())
        return f"{type(self).__name__}({self.name}, {sizes} -> {self.n_outputs}, parameters={list(self.parameters)})"

    @abstractmethod
    def __call__(self, *vectors, t=None, parameters: Mapping | None = None) -> Any:
        """f(a, b, ..., t; p), shape (..., n_outputs)."""

    @abstractmethod
    def jacobian(self, which: str, *vectors, t=None, parameters: Mapping | None = None) -> Any:
        """∂f/∂`which` as a dense matrix (..., n_outputs, n), of which only entries that can differ from zero are
        computed."""

    def sparsity(self, which: str) -> np.ndarray:
        """Which entries of ∂f/∂`which` can differ from zero, boolean (n_outputs, n)."""
        return self.layout(which).sparsity.copy()

    def layout(self, which: str) -> DenseLayout:
        """Where the entries of the Jacobian by `which` go."""

        def make():
            rows, columns, entries = self.function.entries(which)
            return DenseLayout((self.n_outputs, self.inputs[which]), rows, columns, entries)

        return remembered(self._layouts, which, make)

    @kept
    def _layouts(self) -> dict[str, DenseLayout]:
        return {}

    @kept
    def _kernels(self) -> dict[str | None, Any]:
        """What was compiled: the values (None), and Jacobians by name."""
        return {}

    def _checked(self, vectors) -> None:
        if len(vectors) != len(self.inputs):
            raise ValueError(f"{self.name}: {len(vectors)} vectors given, expected {len(self.inputs)}: {self.inputs}")
        for vector, (key, n) in zip(vectors, self.inputs.items(), strict=True):
            shape = tuple(getattr(vector, "shape", ()))
            if not shape or shape[-1] != n:
                names = ", ".join(s.name for s in self.function.inputs[key][:8]) + (", ..." if n > 8 else "")
                raise ValueError(f"{self.name}: {key} has shape {shape}, expected (..., {n}): ({names})")

    def _time(self, t):
        if t is None and self.needs_time:
            raise ValueError(f"{self.name} depends on time: pass t=")
        return 0.0 if t is None else t

    def _values(self, parameters: Mapping | None) -> dict:
        """Values of all parameters by name, in order."""
        return parameter_values(self.name, self.parameters, parameters)

    def _unknowns(self, which: str | None) -> list[str]:
        """The unknown functions in the code of the values (None) or of a Jacobian, by the names it calls them by."""

        def make():
            return self.function.unknowns(*([] if which is None else [self.layout(which).entries]))

        return remembered(self._called, which, make)

    @kept
    def _called(self) -> dict[str | None, list[str]]:
        return {}

    def _functions(self, which: str | None, parameters: Mapping | None) -> dict[str, Any]:
        """What unknown functions are, by the names that the code calls them by; raises ValueError for a missing one."""
        needed = self._unknowns(which)
        if not needed:
            return {}
        there = {called(f.unknown): f for f in (parameters or {}).values() if isinstance(f, Supplied)}
        for name in needed:
            if name not in there:
                known = name.removeprefix("unknown_")
                raise ValueError(
                    f"{self.name}: the unknown function {known!r} is not given: pass functions={{{known!r}: ...}}, or "
                    "make the system by system.given({...})"
                )
        return {name: there[name] for name in needed}


def parameter_values(name: str, defaults: Mapping, given: Mapping | None) -> dict:
    """Values by name, in order: those given, else the defaults. Raises ValueError on unknown and missing ones."""
    given = {
        getattr(key, "name", key): value for key, value in (given or {}).items() if not isinstance(value, Supplied)
    }
    check_known(given, defaults, repr(name))
    values = {key: given.get(key, default) for key, default in defaults.items()}
    for key, value in values.items():
        if value is None:
            raise ValueError(f"{name}: parameter {key!r} has no default: pass parameters={{{key!r}: value}}")
    return values
