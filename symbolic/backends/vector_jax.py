"""Vector functions generated for JAX."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from ndae.symbolic.backends.jax_arrays import from_host, places
from ndae.symbolic.backends.loading import load
from ndae.symbolic.backends.small_solves import MOST_UNKNOWNS, solve_small
from ndae.symbolic.backends.solves import Arrays
from ndae.symbolic.backends.supplied import Supplied
from ndae.symbolic.backends.vector import CompiledVector
from ndae.symbolic.code.levelled import Numerics, entries
from ndae.symbolic.code.source import ARRAY
from ndae.symbolic.ground.kept import remembered

#: Up to this many definitions code is straight-line, above it is done level by level.
STRAIGHT_LIMIT = 1500
#: And from so many on where they are few operations over and over: an operation for so many definitions.
REPEATED, TIMES = 200, 8

FUNCTIONS = {
    **{
        name: getattr(jnp, name)
        for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sqrt", "where")
    },
    **{f"a{name}": getattr(jnp, f"arc{name}") for name in ("sin", "cos", "tan", "tan2", "sinh", "cosh", "tanh")},
    "power": jnp.power,
    "abs": jnp.abs,
    "floor": jnp.floor,
    "guard": lambda condition, x: jnp.where(condition, x, jax.lax.stop_gradient(x)),
}


def _stack(entries):
    return jnp.stack(jnp.broadcast_arrays(*entries), -1)


def _library(matrix, right):
    return jnp.linalg.solve(matrix, right[..., None])[..., 0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(equations, z, outer):
    del equations, outer
    return z


@_implicit.defjvp
def _implicit_derivative(equations, primals, tangents):
    (z, outer), (_, changes) = primals, tangents
    z = _implicit(equations, z, outer)  # of whose derivatives those of the next order are made
    _, right, rows = jax.jvp(lambda outer: equations(z, outer), (outer,), (changes,), has_aux=True)
    return z, [jnp.broadcast_to(-d, x.shape) for d, x in zip(ARRAYS.solve(rows, right), z, strict=True)]


ARRAYS = Arrays(
    jnp,
    _stack,
    _library,
    jax.lax.stop_gradient,
    jax.lax.while_loop,
    small=solve_small,
    most_small=MOST_UNKNOWNS,
    implicit=_implicit,
)
FUNCTIONS |= ARRAYS.functions()


def lookup(table, order):
    """A derivative of a table as a function of an array."""
    low, high = table.reach

    def at(x):
        x = jnp.asarray(x)
        breaks, rows = (jnp.asarray(a) for a in (table.breaks, table.derivative(order)))
        within = (x >= low) & (x <= high)
        x = jnp.clip(x, table.first, table.last) if table.held else x
        i = jnp.clip(jnp.searchsorted(breaks, jax.lax.stop_gradient(x), side="right") - 1, 0, rows.shape[0] - 1)
        row, s = rows[i], x - breaks[i]
        value = row[..., 0]
        for k in range(1, rows.shape[1]):
            value = value * s + row[..., k]
        return jnp.where(within, value, (0.0 if order else value) if table.held else jnp.nan)

    return at


class JaxNumerics(Numerics):
    functions, arrays = FUNCTIONS, ARRAYS

    def constant(self, numbers, like):
        return jnp.asarray(numbers, like.dtype)

    def take(self, x, index):
        return x[index if isinstance(index, slice) else places(index)]

    def concatenate(self, arrays):
        return jnp.concatenate(arrays)

    def broadcast(self, x, shape):
        return jnp.broadcast_to(x, shape)

    def first(self, x, shape):
        return jnp.moveaxis(jnp.broadcast_to(x, (*shape, x.shape[-1])), -1, 0)

    def column(self, values, shape, like):
        if not values:
            return jnp.zeros((0, *shape), like.dtype)
        return jnp.stack([jnp.broadcast_to(jnp.asarray(v, like.dtype), shape) for v in values])

    def lookup(self, table, order):
        return lookup(table, order)

    def as_number(self, condition, like):
        return condition.astype(like.dtype)


NUMERICS = JaxNumerics()


class Rows:
    """The entries of a vector (..., n), sliced off when they are asked for."""

    def __init__(self, x):
        self._x, self._known = x, {}

    def __getitem__(self, i):
        if i not in self._known:
            self._known[i] = jax.lax.index_in_dim(self._x, i, axis=self._x.ndim - 1, keepdims=False)
        return self._known[i]

    def __iter__(self):
        return (self[i] for i in range(self._x.shape[-1]))


class JaxVector(CompiledVector):
    """A vector function for JAX: pure, traced once for every shape, fit for jit, vmap, grad and jvp."""

    def _kernel(self, which):
        return remembered(self._kernels, which, lambda: self._make(which))

    def _make(self, which):
        layout = None if which is None else self.layout(which)
        wanted = [] if layout is None else [layout.entries]
        n = self.function.operations(*wanted)
        program = self.function.levelled(*wanted) if n > REPEATED else None
        if program is None or (n <= STRAIGHT_LIMIT and TIMES * program.n_operations > n):
            source = self.function.values_source(ARRAY)
            if layout is not None:
                source = self.function.entries_source(which, layout.entries, ARRAY)
            looked_up = {name: lookup(e.table, e.order) for name, e in self.function.lookups().items()}
            (function,) = load(source, FUNCTIONS | looked_up).values()

            def generated(vectors, extras, shape, dtype, calls):
                return join_vector(function(*map(Rows, vectors), *extras, *calls.values()), shape, dtype)
        else:

            def generated(vectors, extras, shape, dtype, calls):
                return jnp.moveaxis(entries(program, NUMERICS, vectors, extras, shape, calls), 0, -1)

        def join(values, shape, dtype):
            return values if layout is None else join_matrix(values, layout, shape, dtype)

        # Compiled as one call: a solver that traces its vector field many times traces this code once.
        return jax.jit(lambda *a: call(self, generated, join, *a))

    def _evaluate(self, which, vectors, t, parameters):
        vectors = [from_host(v) for v in vectors]
        self._checked(vectors)
        self._values(parameters)
        calls = self._functions(which, parameters)
        numbers = ((k, v) for k, v in (parameters or {}).items() if not isinstance(v, Supplied))
        given = {getattr(key, "name", key): jnp.asarray(value) for key, value in numbers}
        t = jnp.asarray(self._time(t)) if self.has_time else None
        return self._kernel(which)(vectors, t, given, calls)

    def __call__(self, *vectors, t=None, parameters: Mapping | None = None):
        return self._evaluate(None, vectors, t, parameters)

    def jacobian(self, which: str, *vectors, t=None, parameters: Mapping | None = None):
        self.layout(which)
        return self._evaluate(which, vectors, t, parameters)


def call(compiled, generated, join, vectors, t, given, calls):
    """Run generated code on vectors (..., n) and join the entries that come out."""
    dtype = jnp.result_type(*vectors, float)
    vectors = [v.astype(dtype) for v in vectors]
    # Defaults stay numbers, which the compiler folds.
    extras = [given[k].astype(dtype) if k in given else v for k, v in compiled.parameters.items()]
    if t is not None:
        extras.insert(0, t.astype(dtype))
    shape = jnp.broadcast_shapes(*[v.shape[:-1] for v in vectors], *[jnp.shape(e) for e in extras])
    try:
        values = generated(vectors, extras, shape, dtype, calls)
    except ZeroDivisionError:
        raise ValueError(f"{compiled.name}: the defaults of its parameters divide by zero: change them") from None
    return join(values, shape, dtype)


def join_vector(entries, shape, dtype):
    """Numbers and arrays side by side on a new last axis, (*shape, n)."""
    if not entries:
        return jnp.zeros((*shape, 0), dtype)
    return jnp.stack([_as(e, shape, dtype) for e in entries], -1)


def join_matrix(values, layout, shape, dtype):
    """Entries of a sparse matrix as a dense one, (*shape, m, n)."""
    constants, table = layout.table
    constants = jnp.broadcast_to(jnp.asarray(constants, dtype), (*shape, len(constants)))
    both = jnp.concatenate([values, constants], -1)
    return both[..., places(table)].reshape(*shape, *layout.shape)


def _as(entry, shape, dtype):
    if getattr(entry, "shape", None) != shape or entry.dtype != dtype:
        entry = jnp.broadcast_to(jnp.asarray(entry, dtype), shape)
    return entry
