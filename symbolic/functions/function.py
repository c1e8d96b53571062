"""Vector functions and constraints, written once over a few local coordinates and laid over many index tuples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import sympy as sp

from ndae.symbolic.code.local_programs import Program, Programs
from ndae.symbolic.expressions.limits import check_size
from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.expressions.reading import as_expressions, check_smooth, check_symbols
from ndae.symbolic.functions import reading as validate
from ndae.symbolic.functions.derivation import MAX_LEVEL, Derivation, written_size
from ndae.symbolic.functions.layout import Layout, Structure, gram_structure
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.ground.kept import Recomputed, kept
from ndae.symbolic.ground.typed import xreplaced
from ndae.symbolic.ground.words import shortened
from ndae.symbolic.numeric.divisors import check_divisors

if TYPE_CHECKING:
    Expressions = Sequence[sp.Expr | sp.Equality | sp.Matrix] | sp.Expr | sp.Equality | sp.Matrix
    Symbols = Sequence[sp.Symbol] | sp.Symbol
    Points = Sequence[sp.Matrix]
    Over = Sequence[Sequence[int | str]] | np.ndarray
    Parameters = Mapping[sp.Symbol, float | Sequence[float] | np.ndarray | None] | Sequence[sp.Symbol] | None
    Anchors = Mapping[str, Sequence[float]] | None
    Time = sp.Symbol | None
else:  # checked by hand, with errors that name the mend, which run-time type checks must not forestall
    Expressions = Symbols = Points = Over = Parameters = Anchors = Time = Any


class Function(Recomputed):
    """A smooth vector function c(y, t; p) of a state y, with everything that derives from it.

    Made from a plain list of expressions over named `states`, or by `Function.template` from a few local points laid
    over index tuples. The state is one vector (..., n_states): point by point, the coordinates of a point together; a
    plain list is one instance over points of dimension 1. The residual is (..., n_residuals): instance by instance.
    `parameters` maps symbols to default values; None, or a mere list of symbols, means that every call has to give
    the value.

    Raises ValueError, naming the thing and the mend, on a symbol that is undeclared, unused or declared twice (states
    that are free to move are listed in `unconstrained`), a non-smooth or unsupported function, and a parameter that
    is not finite.
    """

    def __init__(
        self,
        expressions: Expressions,
        states: Symbols,
        parameters: Parameters = None,
        time: Time = None,
        name: str = "function",
        unconstrained: Symbols = (),
    ):
        states = validate.read_symbols(states, f"{name}: states")
        points = [sp.Matrix([s]) for s in states]
        over = [tuple(range(len(states)))]
        self._read(expressions, points, over, None, parameters, None, time, name, validate.as_tuple(unconstrained))

    @classmethod
    def template(
        cls,
        expressions: Expressions,
        points: Points,
        over: Over,
        n_points: int | None = None,
        parameters: Parameters = None,
        anchors: Anchors = None,
        time: Time = None,
        name: str = "function",
    ) -> Self:
        """Lay expressions over local `points` (as made by `point`) over every tuple of `over`.

        A tuple holds, for each local point, the number of a point of the state (`n_points` of them, by default one more
        than the largest number used) or the name of an anchor: a fixed point, by default ANCHOR at the origin.
        Parameters are one number, or an array (n_instances,). Raises ValueError as the class does, and on an index
        out of range.
        """
        self = cls.__new__(cls)
        self._read(expressions, points, over, n_points, parameters, anchors, time, name)
        return self

    def _read(self, expressions, points, over, n_points, parameters, anchors, time, name, unconstrained=None):
        """Check and keep what the user gave; `unconstrained` is None for a template."""
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name={name!r}: expected a non-empty text")
        if time is not None and not isinstance(time, sp.Symbol):
            raise ValueError(f"{name}: time={time!r}: expected a SymPy symbol")
        if time is not None:
            check_name(time.name, f"{name}: the time")
        template = unconstrained is None
        points = validate.read_points(points, name)
        parameters = validate.read_parameters(parameters, name)
        layout, anchors = validate.read_layout(over, n_points, anchors, len(points), len(points[0]), name)
        expressions = as_expressions(expressions, name)
        for i, expression in enumerate(expressions):
            check_size(expression, f"{name}: expression {i}")
        self._keep(expressions, points, tuple(s for s, _ in parameters), time, layout, anchors, name, template)
        for i, expression in enumerate(expressions):
            check_smooth(expression, f"{name}: expression {i} ({shortened(expression)})")
        declared = {
            "state": self.coordinates,
            "parameter": self.parameter_symbols,
            "time": () if time is None else (time,),
        }
        check_symbols(expressions, declared, name)
        validate.check_used(self, unconstrained or ())
        self.parameters = {
            s.name: validate.read_value(s.name, value, self.n_instances, template, name) for s, value in parameters
        }
        defaults = {s: self.parameters[s.name] for s, _ in parameters}
        for i, expression in enumerate(expressions):
            check_divisors(expression, f"{name}: expression {i} ({shortened(expression)})", defaults)

    def _keep(self, expressions, points, parameter_symbols, time, layout: Layout, anchors, name, is_template):
        self.name, self.is_template = name, is_template
        self.expressions, self.points, self.time = expressions, points, time
        self.dim = len(points[0])
        self.coordinates = tuple(s for p in points for s in p)
        self.parameter_symbols, self.layout, self.anchors = parameter_symbols, layout, anchors

    def __repr__(self) -> str:
        sizes = f"n_residuals={self.n_residuals}, n_states={self.n_states}, n_instances={self.n_instances}"
        return f"{type(self).__name__}({self.name!r}, {sizes}, parameters={list(self.parameters)})"

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

    @kept
    def states(self) -> tuple[str, ...]:
        """Name of each state, in the order of the state vector."""
        if not self.is_template:
            return tuple(s.name for s in self.coordinates)
        return tuple(f"{i}.{axis}" for i in range(self.n_points) for axis in range(self.dim))

    @kept
    def structure(self) -> Structure:
        """Block structure of the Gram matrix J A Jᵀ."""
        return gram_structure(self.layout)

    # -- derived, in SymPy -------------------------------------------------------------------------------------------

    @kept
    def derivation(self) -> Derivation:
        """The symbolic derivatives of one instance."""
        extras = (() if self.time is None else (self.time,)) + self.parameter_symbols
        return Derivation(self.programs, self.coordinates, extras)

    @kept
    def programs(self) -> Programs:
        """The functions to generate, for one instance."""
        return Programs(self.expressions, self.coordinates, self.time, self.parameter_symbols)

    def jacobian_expressions(self) -> sp.Matrix:
        """∂c/∂x of one instance, (n_local, local coordinates)."""
        return sp.Matrix(self.derivation.jacobian)

    def expanded(self, states: Sequence[sp.Expr], keep: Mapping[str, sp.Expr] | None = None) -> list[sp.Expr]:
        """Every residual written out over given state expressions (n_states), default parameters put in as numbers.

        Parameters named in `keep` become the expressions given there instead. Raises ValueError on another number of
        states, and on a parameter that has no default value and is not kept.
        """
        if len(states) != self.n_states:
            raise ValueError(f"{self.name}: {len(states)} states given, expected {self.n_states}")
        keep = keep or {}
        kept = {s: keep[s.name] for s in self.parameter_symbols if s.name in keep}
        own = [s for s in self.parameter_symbols if s not in kept]
        missing = [s.name for s in own if self.parameters[s.name] is None]
        if missing:
            raise ValueError(f"{self.name}: parameters {missing} have no default: give one to write the function out")
        anchors, result = list(self.anchors.values()), []
        for i, slots in enumerate(self.layout.slots):
            values: dict[sp.Symbol, Any] = {s: self.parameters[s.name] for s in own}
            values = kept | {s: sp.Float(float(v[i] if np.ndim(v) else v)) for s, v in values.items()}
            for p, slot in zip(self.points, slots, strict=True):
                place = anchors[-1 - slot] if slot < 0 else states[slot * self.dim : (slot + 1) * self.dim]
                values.update(zip(p, map(sp.sympify, place), strict=True))
            result += [xreplaced(e, values) for e in self.expressions]
        return result

    def velocity_level(self) -> "Function":
        """dc/dt = J v + ∂c/∂t as a function of (q, v) side by side, (..., 2 n_states).

        Point i of q has its velocity at point n_points + i; anchors rest. Parameters that drop out are gone.
        """
        d = self.derivation
        self._check_level(self.programs.velocity(), "velocity level", "jvp and time_derivative")
        return self._level(d.velocity, (d.v,), "velocity level")

    def acceleration_level(self) -> "Function":
        """d²c/dt² = J a + curvature(q, v, t) as a function of (q, v, a) side by side, (..., 3 n_states)."""
        d = self.derivation
        self._check_level(self.programs.acceleration(), "acceleration level", "curvature and jvp")
        return self._level(d.acceleration, (d.v, d.a), "acceleration level")

    def _check_level(self, program: Program, level: str, instead: str) -> None:
        operations = written_size(program)
        if operations > MAX_LEVEL:
            raise ValueError(
                f"{self.name}: its {level} has {operations:,} operations written out, at most {MAX_LEVEL:,} become a "
                f"function of its own: {instead} of the compiled function compute it from parts that are shared"
            )

    def _level(self, expressions, rates, suffix: str) -> "Function":
        """The same layout over the points of q followed by those of its rates."""
        n, k = self.n_points, len(self.points)
        rest = "at_rest"
        while rest in self.anchors:
            rest += "_"
        slots = [self.layout.slots]
        for order in range(1, len(rates) + 1):
            slots.append(np.where(self.layout.slots < 0, -1 - len(self.anchors), self.layout.slots + order * n))
        layout = Layout(
            np.concatenate(slots, axis=1),
            np.concatenate([self.layout.anchors, np.zeros((1, self.dim))]),
            n * (len(rates) + 1),
            self.dim,
        )
        points = self.points + tuple(r[i * self.dim : (i + 1) * self.dim] for r in rates for i in range(k))
        used = set().union(*(e.free_symbols for e in expressions))
        time = self.time if self.time in used else None
        kept = tuple(s for s in self.parameter_symbols if s in used)
        anchors = self.anchors | {rest: (0.0,) * self.dim}
        level = type(self).__new__(type(self))
        level._keep(tuple(expressions), points, kept, time, layout, anchors, f"{self.name}, {suffix}", self.is_template)
        level.parameters = {s.name: self.parameters[s.name] for s in kept}
        return level

    # -- text --------------------------------------------------------------------------------------------------------

    def describe(self, levels: int = 2) -> str:
        """What was derived, to read: sizes, structure, residual, Jacobian, and the velocity and acceleration level.

        `levels` is the number of time derivatives to show, 0 to 2. Raises ValueError on another number.
        """
        from ndae.symbolic.functions.text import describe

        return describe(self, levels)

    def source(self, backend: str, levels: int = 0) -> str:
        """The generated functions for "torch", "jax" or "numpy", to read; with `levels`, those of the hidden levels
        too.

        Raises ValueError on another backend or number of levels.
        """
        from ndae.symbolic.functions.text import source

        return source(self, backend, levels)

    def save(self, path: str | Path, backend: str) -> Path:
        """Write a stand-alone Python file for one backend, which runs without SymPy and this package.

        The file offers `function`, with the methods of `.torch()`, `.jax()` or `.numpy()`, and the same as plain names.
        Raises ValueError on another backend.
        """
        from ndae.symbolic.functions.text import standalone

        path = Path(path)
        path.write_text(standalone(self, backend), encoding="utf-8")
        return path

    # -- compiled ----------------------------------------------------------------------------------------------------

    def torch(self, learn: Sequence[str] = ()):
        """Generate the function for torch: an nn.Module (`TorchFunction`) whose parameters in `learn` are trained."""
        with needing("a function in torch"):
            from ndae.symbolic.backends.local_torch import compile_torch

        return compile_torch(self, learn)

    def jax(self):
        """Generate the function for JAX: pure functions for jit, vmap and grad."""
        from ndae.symbolic.backends.local_jax import compile_jax

        return compile_jax(self)

    def numpy(self):
        """Generate the function for NumPy."""
        from ndae.symbolic.backends.local_numpy import compile_numpy

        return compile_numpy(self)
