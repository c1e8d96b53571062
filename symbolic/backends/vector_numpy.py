"""Calls of generated vector functions: arguments, batches and dense Jacobians; and the NumPy form of them."""

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import numpy as np

from ndae.symbolic.backends.loading import load
from ndae.symbolic.backends.solves import Arrays, eliminate_floats, python_loop
from ndae.symbolic.backends.vector import CompiledVector
from ndae.symbolic.code.levelled import Numerics, entries as entries_of
from ndae.symbolic.code.source import PLAIN_ARRAY, SCALAR
from ndae.symbolic.ground.kept import remembered

_F64 = np.dtype(np.float64)
_NOT_FINITE = (OverflowError, ValueError, ZeroDivisionError)  # of Python's floats, where arrays give inf or NaN


MATH_FUNCTIONS = {
    name: getattr(math, name)
    for name in (
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh"),
        *("asinh", "acosh", "atanh", "exp", "log", "sqrt"),
    )
} | {"power": math.pow, "floor": lambda x: float(math.floor(x))}

NUMPY_FUNCTIONS = {
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sqrt")},
    **{f"a{name}": getattr(np, f"arc{name}") for name in ("sin", "cos", "tan", "tan2", "sinh", "cosh", "tanh")},
    "power": np.power,
    "where": np.where,
    "abs": np.abs,
    "floor": np.floor,
}


def _stack(entries) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*entries), -1)


def _library(matrix, right) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, right[..., None])[..., 0]
    except np.linalg.LinAlgError:  # one of a batch is singular: the others are still solved
        shape = np.broadcast_shapes(matrix.shape[:-1], right.shape)
        matrix, right = np.broadcast_to(matrix, (*shape, shape[-1])), np.broadcast_to(right, shape)
        x = np.full(shape, np.nan)
        for index in np.ndindex(shape[:-1]):
            with suppress(np.linalg.LinAlgError):
                x[index] = np.linalg.solve(matrix[index], right[index])
        return x


NUMPY_ARRAYS = Arrays(np, _stack, _library, lambda x: x, python_loop)
SCALAR_NAMES = MATH_FUNCTIONS | {"solve_linear": eliminate_floats}
ARRAY_NAMES = NUMPY_FUNCTIONS | NUMPY_ARRAYS.functions()


class NumpyNumerics(Numerics):
    functions, arrays = NUMPY_FUNCTIONS | {"guard": lambda condition, x: x}, NUMPY_ARRAYS

    def constant(self, numbers, like):
        return numbers

    def take(self, x, index):
        return x[index]

    def concatenate(self, arrays):
        return np.concatenate(arrays)

    def broadcast(self, x, shape):
        return np.broadcast_to(x, shape)

    def first(self, x, shape):
        return np.ascontiguousarray(np.moveaxis(np.broadcast_to(x, (*shape, x.shape[-1])), -1, 0))

    def column(self, values, shape, like):
        return np.stack([np.broadcast_to(v, shape) for v in values]) if values else np.zeros((0, *shape))

    def lookup(self, table, order):
        return partial(table.values, order=order)

    def as_number(self, condition, like):
        return condition.astype(_F64)


NUMERICS = NumpyNumerics()
#: Up to this many definitions batches are done by straight-line code, above level by level.
STRAIGHT_LIMIT = 500


class NumpyVector(CompiledVector):
    """A vector function for NumPy: single points by Python floats and `math`, batches by arrays.

    Where a value does not exist, as the logarithm of a negative number, it is NaN or infinite, and nothing is raised.
    """

    def __init__(self, function):
        super().__init__(function)
        complete = None not in self.parameters.values()
        self._defaults = tuple(self.parameters.values()) if complete else None
        self._sizes = tuple(self.inputs.values())

    def _kernel(self, which: str | None) -> SimpleNamespace:
        return remembered(self._kernels, which, lambda: self._make(which))

    def _make(self, which: str | None) -> SimpleNamespace:
        wanted = [] if which is None else [self.layout(which).entries]
        program = self.function.levelled(*wanted) if self.function.operations(*wanted) > STRAIGHT_LIMIT else None
        if program is None:
            (batch,) = self._loaded(which, PLAIN_ARRAY).values()
        else:
            batch = None
        single = _no_single
        if self.function.has_scalar_form:
            (single,) = self._loaded(which, SCALAR).values()
        return SimpleNamespace(single=single, batch=batch, program=program)

    def _loaded(self, which, style):
        source = self._source(which, style)
        looked_up = self.function.lookups().items()
        if style is SCALAR:
            return load(source, SCALAR_NAMES | {name: e.table.of_number(e.order) for name, e in looked_up})
        return load(source, ARRAY_NAMES | {name: NUMERICS.lookup(e.table, e.order) for name, e in looked_up})

    def _source(self, which, style):
        if which is None:
            return self.function.values_source(style)
        return self.function.entries_source(which, self.layout(which).entries, style)

    def _evaluate(self, which, vectors, t, parameters):
        """Entries of one point as a list of floats, or of a batch as a list of arrays; then shape and dtype."""
        kernel = self._kernels.get(which) or self._kernel(which)
        calls = self._functions(which, parameters)
        extras = self._defaults if not parameters else self._numbers(parameters)
        if extras is not None and self._are_points(vectors):
            single = not self.has_time or t.__class__ is float or np.ndim(t) == 0
            if single:
                extras = (float(self._time(t)), *extras) if self.has_time else extras
                try:
                    return kernel.single(*[v.tolist() for v in vectors], *extras, *calls.values()), None, _F64
                except _NOT_FINITE:
                    pass
        return self._evaluate_batch(kernel, vectors, t, parameters, calls)

    def _are_points(self, vectors) -> bool:
        """Whether all vectors are single points in double precision, of the right lengths."""
        if len(vectors) != len(self._sizes):
            return False
        for vector, n in zip(vectors, self._sizes, strict=True):
            if vector.__class__ is not np.ndarray or vector.shape != (n,) or vector.dtype is not _F64:
                return False
        return True

    def _numbers(self, parameters: Mapping) -> tuple[float, ...] | None:
        """All parameters as numbers, or None if one is an array."""
        values = tuple(self._values(parameters).values())
        return tuple(map(float, values)) if all(isinstance(v, float | int) for v in values) else None

    def _evaluate_batch(self, kernel, vectors, t, parameters, calls):
        vectors = [np.asarray(v) for v in vectors]
        self._checked(vectors)
        dtype = np.result_type(*vectors, np.float32) if vectors else _F64
        dtype = dtype if dtype in (np.float32, np.float64) else _F64
        extras = list(self._values(parameters).values())
        if self.has_time:
            extras.insert(0, self._time(t))
        extras = [np.asarray(e, dtype=_F64) for e in extras]
        shape = np.broadcast_shapes(*[v.shape[:-1] for v in vectors], *[e.shape for e in extras])
        if shape == ():
            try:
                lists = [v.astype(_F64).tolist() for v in vectors]
                return kernel.single(*lists, *map(float, extras), *calls.values()), None, dtype
            except _NOT_FINITE:
                pass
        if kernel.program is not None:
            vectors = [v.astype(_F64, copy=False) for v in vectors]
            with np.errstate(all="ignore"):
                return entries_of(kernel.program, NUMERICS, vectors, extras, shape, calls), shape, dtype
        columns = [np.ascontiguousarray(np.moveaxis(v, -1, 0), dtype=_F64) for v in vectors]
        columns = [[np.float64(e) for e in c] if c.ndim == 1 else c for c in columns]
        with np.errstate(all="ignore"):
            entries = kernel.batch(*columns, *[e if e.ndim else e[()] for e in extras], *calls.values())
        return entries, shape, dtype

    def __call__(self, *vectors, t=None, parameters: Mapping | None = None):
        entries, shape, dtype = self._evaluate(None, vectors, t, parameters)
        if shape is None:
            return np.array(entries, dtype=dtype)
        return stacked(entries, shape, dtype)

    def jacobian(self, which: str, *vectors, t=None, parameters: Mapping | None = None):
        layout = self._layouts.get(which) or self.layout(which)
        entries, shape, dtype = self._evaluate(which, vectors, t, parameters)
        if shape is None:
            matrix = layout.template.copy()
            matrix.reshape(-1)[layout.flat] = entries
            return matrix.astype(dtype, copy=False)
        matrix = np.broadcast_to(layout.template, (*shape, *layout.shape)).astype(dtype)
        matrix.reshape(*shape, math.prod(layout.shape))[..., layout.flat] = stacked(entries, shape, dtype)
        return matrix


def _no_single(*arguments):
    raise ValueError  # points are batches of shape ()


def stacked(entries, shape, dtype) -> np.ndarray:
    """Numbers and arrays side by side on a new last axis."""
    out = entries
    if not isinstance(entries, np.ndarray):
        out = np.empty((len(entries), *shape), dtype=dtype)
        for i, entry in enumerate(entries):
            out[i] = entry
    return np.ascontiguousarray(np.moveaxis(out, 0, -1), dtype=dtype)
