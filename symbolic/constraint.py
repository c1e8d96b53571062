"""Vector functions and constraints, written once over a few local coordinates and laid over many index tuples."""

import math
import numbers
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import sympy as sp

from symbolic.derive import Derivation
from symbolic.expressions import ANCHOR, as_expressions, check_smooth, check_symbols
from symbolic.programs import Programs
from symbolic.structure import Layout, Structure, gram_structure


class Function:
    """A smooth vector function c(y, t; p) of a state y, with everything that derives from it.

    Made from a plain list of expressions over named states, or by `Function.template` from a few local points laid over
    index tuples. The state is one vector (..., n_states): point by point, the coordinates of a point together. The
    residual is (..., n_residuals): instance by instance.

    Raises ValueError, naming the thing and the mend, on an undeclared, unused or doubly declared symbol, a non-smooth or
    unsupported function, a parameter that is not finite or has a wrong shape, and an index out of range.
    """

    def __init__(
        self,
        expressions: Sequence[sp.Expr],
        states: Sequence[sp.Symbol],
        parameters: Mapping[sp.Symbol, float | None] | Sequence[sp.Symbol] | None = None,
        time: sp.Symbol | None = None,
        name: str = "function",
        unconstrained: Sequence[sp.Symbol] = (),
    ):
        states = _symbols(states, f"{name}: states")
        points = [sp.Matrix([s]) for s in states]
        self._build(expressions, points, [tuple(range(len(points)))], None, parameters, None, time, name, unconstrained)

    @classmethod
    def template(
        cls,
        expressions: Sequence[sp.Expr],
        points: Sequence[sp.Matrix],
        over: Sequence[Sequence[int | str]],
        n_points: int | None = None,
        parameters: Mapping[sp.Symbol, float | np.ndarray | None] | Sequence[sp.Symbol] | None = None,
        anchors: Mapping[str, Sequence[float]] | None = None,
        time: sp.Symbol | None = None,
        name: str = "function",
    ):
        """Lay expressions over local `points` (as made by `point`) over every tuple of `over`.

        A tuple holds, for each local point, the number of a point of the state or the name of an anchor: a fixed point,
        by default ANCHOR at the origin. Parameters are one number, or an array (n_instances,).
        """
        self = cls.__new__(cls)
        self._build(expressions, points, over, n_points, parameters, anchors, time, name)
        return self

    def _build(self, expressions, points, over, n_points, parameters, anchors, time, name, unconstrained=None):
        if not isinstance(name, str) or not name:
            raise ValueError(f"name={name!r}: expected a non-empty text")
        template = unconstrained is None
        self.name, self.is_template = name, template
        self.expressions = as_expressions(expressions, name)
        self.points = _points(points, name)
        self.dim = len(self.points[0])
        self.coordinates = tuple(s for p in self.points for s in p)
        self.time = time
        if time is not None and not isinstance(time, sp.Symbol):
            raise ValueError(f"{name}: time={time!r}: expected a SymPy symbol")
        values = _parameter_items(parameters, name)
        self.parameter_symbols = tuple(symbol for symbol, _ in values)
        for i, expression in enumerate(self.expressions):
            check_smooth(expression, f"{name}: expression {i} ({_short(expression)})")
        declared = {"state": self.coordinates, "parameter": self.parameter_symbols, "time": () if time is None else (time,)}
        check_symbols(self.expressions, declared, name)
        self._check_used(unconstrained or ())
        for i, expression in enumerate(self.expressions):
            if not expression.free_symbols.intersection(self.coordinates):
                raise ValueError(f"{name}: expression {i} ({_short(expression)}) holds no state: it can't be satisfied by one; remove it")
        self.layout, self.anchors = _layout(over, n_points, anchors, len(self.points), self.dim, name)
        self.parameters = {s.name: _parameter_value(s.name, v, self.n_instances, template, name) for s, v in values}

    def _check_used(self, unconstrained):
        used = set().union(*(e.free_symbols for e in self.expressions))
        for symbol in unconstrained:
            if symbol not in self.coordinates or symbol in used:
                reason = "it is used" if symbol in used else "it is no state"
                raise ValueError(f"{self.name}: unconstrained={symbol}: {reason}: remove it from that list")
        for p in self.points:
            if used.isdisjoint(p) and p[0] not in unconstrained:
                what = "local point (" + ", ".join(s.name for s in p) + ")" if self.is_template else f"state {p[0].name!r}"
                mend = "" if self.is_template else f", or list it in unconstrained=[{p[0].name}] if it is free to move"
                raise ValueError(f"{self.name}: {what} is declared but no expression uses it: remove it{mend}")
        for symbol in (*self.parameter_symbols, *(() if self.time is None else (self.time,))):
            if symbol not in used:
                role = "time" if symbol == self.time else "parameter"
                raise ValueError(f"{self.name}: {role} {symbol.name!r} is declared but no expression uses it: remove it or use it")

    # -- sizes -------------------------------------------------------------------------------------------------------

    @property
    def n_points(self) -> int:
        """Number of movable points in the state (plain list: of states)."""
        return self.layout.n_points

    @property
    def n_states(self) -> int:
        """Length of the state vector, n_points * dim."""
        return self.layout.n_points * self.dim

    @property
    def n_instances(self) -> int:
        """Number of index tuples; 1 for a plain list."""
        return self.layout.n_instances

    @property
    def n_local(self) -> int:
        """Number of expressions, the residuals of one instance."""
        return len(self.expressions)

    @property
    def n_residuals(self) -> int:
        """Length of the residual vector, n_instances * n_local."""
        return self.n_instances * self.n_local

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Name of each state, in the order of the state vector."""
        if not self.is_template:
            return tuple(s.name for s in self.coordinates)
        return tuple(f"{i}.{axis}" for i in range(self.n_points) for axis in range(self.dim))

    @cached_property
    def structure(self) -> Structure:
        """Block structure of the Gram matrix J A Jᵀ."""
        return gram_structure(self.layout)

    @cached_property
    def derivation(self) -> Derivation:
        """The symbolic derivatives of one instance."""
        return Derivation(self.expressions, self.coordinates, self.time)

    @cached_property
    def programs(self) -> Programs:
        """The functions to generate, for one instance."""
        return Programs(self.expressions, self.coordinates, self.time, self.parameter_symbols)

    def jacobian_expressions(self) -> sp.Matrix:
        """∂c/∂x of one instance, (n_local, k * dim)."""
        return sp.Matrix(self.derivation.jacobian)

    # -- compiled ----------------------------------------------------------------------------------------------------

    def torch(self, learn: Sequence[str] = ()):
        """Generate the function for torch: an nn.Module whose parameters named in `learn` are trained."""
        from symbolic.torch_backend import compile_torch

        return compile_torch(self, learn)

    def jax(self):
        """Generate the function for JAX: pure functions for jit, vmap and grad."""
        from symbolic.jax_backend import compile_jax

        return compile_jax(self)

    def numpy(self):
        """Generate the function for NumPy."""
        from symbolic.numpy_backend import compile_numpy

        return compile_numpy(self)


class Constraint(Function):
    """A function that should vanish: c(y, t; p) = 0 (paper, eq. 1b), with its hidden levels."""


def _short(expression: sp.Expr) -> str:
    text = str(expression)
    return text if len(text) <= 60 else text[:57] + "..."


def _symbols(symbols, what: str) -> list[sp.Symbol]:
    if isinstance(symbols, sp.Symbol):
        symbols = [symbols]
    if isinstance(symbols, str):
        raise ValueError(f"{what}: expected SymPy symbols, got the text {symbols!r}: write sympy.symbols({symbols!r})")
    symbols = list(symbols)
    for s in symbols:
        if not isinstance(s, sp.Symbol):
            raise ValueError(f"{what}: expected SymPy symbols, got {s!r}")
    if not symbols:
        raise ValueError(f"{what}: none given: name at least one")
    return symbols


def _points(points, name: str) -> tuple[tuple[sp.Symbol, ...], ...]:
    if isinstance(points, sp.MatrixBase):
        points = [points]
    result = tuple(tuple(_symbols(p, f"{name}: point {i}")) for i, p in enumerate(points))
    if not result:
        raise ValueError(f"{name}: no local points: make them by point(name, dim)")
    if len({len(p) for p in result}) > 1:
        raise ValueError(f"{name}: local points have dimensions {[len(p) for p in result]}: all points need the same one")
    return result


def _parameter_items(parameters, name: str) -> list[tuple[sp.Symbol, object]]:
    if parameters is None:
        return []
    items = list(parameters.items()) if isinstance(parameters, Mapping) else [(s, None) for s in parameters]
    for symbol, _ in items:
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"{name}: parameters: expected SymPy symbols, got {symbol!r}")
    return items


def _parameter_value(parameter: str, value, n_instances: int, template: bool, name: str):
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: parameter {parameter!r} is {value!r}: expected a number or None") from None
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: parameter {parameter!r} is not finite ({value}): give finite numbers")
    if array.ndim == 0:
        return float(array)
    if not template or array.shape != (n_instances,):
        expected = f"a number or an array ({n_instances},), one value for each instance" if template else "a number"
        raise ValueError(f"{name}: parameter {parameter!r} has shape {array.shape}, expected {expected}")
    return array


def _layout(over, n_points, anchors, k: int, dim: int, name: str) -> tuple[Layout, dict[str, tuple[float, ...]]]:
    anchors = {ANCHOR: (0.0,) * dim} | {key: tuple(map(float, value)) for key, value in (anchors or {}).items()}
    for key, value in anchors.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: anchor {key!r}: the name of an anchor is a text")
        if len(value) != dim or not all(map(math.isfinite, value)):
            raise ValueError(f"{name}: anchor {key!r} is at {value}: expected {dim} finite coordinates")
    rows = {key: -1 - i for i, key in enumerate(anchors)}
    if isinstance(over, np.ndarray) and over.dtype.kind in "iu" and over.ndim == 2:
        slots = over.astype(np.int64)
        over = slots.tolist() if slots.shape[1] != k else slots
    if not isinstance(over, np.ndarray):
        slots = np.empty((len(over), k), dtype=np.int64)
        for i, entry in enumerate(over):
            entry = tuple(entry) if isinstance(entry, (Sequence, np.ndarray)) and not isinstance(entry, str) else (entry,)
            if len(entry) != k:
                raise ValueError(f"{name}: over[{i}] = {entry} has {len(entry)} entries, expected {k}, one for each local point")
            for j, index in enumerate(entry):
                if isinstance(index, str):
                    if index not in rows:
                        raise ValueError(f"{name}: over[{i}] = {entry} names the anchor {index!r}; known are {list(rows)}: add it to anchors=")
                    slots[i, j] = rows[index]
                elif isinstance(index, numbers.Integral) and not isinstance(index, bool) and index >= 0:
                    slots[i, j] = int(index)
                else:
                    raise ValueError(f"{name}: over[{i}] = {entry} holds {index!r}: expected a point's number (0 or more) or an anchor's name")
    elif slots.size and slots.min() < 0:
        raise ValueError(f"{name}: over holds {slots.min()}: points are numbered from 0")
    if not len(slots):
        raise ValueError(f"{name}: over is empty: give at least one tuple of {k} points")
    if slots.max() < 0:
        raise ValueError(f"{name}: over holds anchors alone, so nothing can move: use a point's number")
    n_points = int(slots.max()) + 1 if n_points is None else n_points
    if slots.max() >= n_points:
        i = int(np.argmax(slots.max(axis=1)))
        raise ValueError(f"{name}: over[{i}] uses point {slots.max()}, out of range: with n_points={n_points} the points are 0 to {n_points - 1}")
    ordered = np.sort(slots, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        i = int(np.argmax(twice.any(axis=1)))
        raise ValueError(f"{name}: over[{i}] = {tuple(slots[i])} uses a point twice: write such an instance as a template of its own")
    if (slots.max(axis=1) < 0).any():
        i = int(np.argmin(slots.max(axis=1)))
        raise ValueError(f"{name}: over[{i}] holds anchors alone: remove it")
    return Layout(slots, np.array(list(anchors.values())), n_points, dim), anchors
