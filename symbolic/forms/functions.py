"""Everything that a solver asks of a reduced system, generated for one backend."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndae.symbolic.backends.given import Given
from ndae.symbolic.backends.vector import CompiledVector, parameter_values
from ndae.symbolic.backends.vector_numpy import NumpyVector
from ndae.symbolic.forms.leading import LeadingFunction
from ndae.symbolic.forms.reduced_equations import ReducedEquations
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.ground.kept import Recomputed, kept, remembered
from ndae.symbolic.ground.typed import symbols_of


class ReducedFunctions(Recomputed):
    """The functions of a `ReducedEquations` for "numpy", "jax" or "torch", over any leading batch dimensions.

    y (..., n_y) is the state of the ODE y' = rates(y, w), w (..., n_w) the leading unknowns, which T(y, w, t) = 0
    determines, and C(y, t) = 0 (n_constraints) the hidden constraints. `t` and values of `parameters={name: value}` are
    numbers or arrays of the batch's shape. Generated on first use. Raises ValueError on wrong lengths, unknown or
    missing parameters, or a missing time.

    Parameters do not change along a solution: hidden constraints are derivatives in time with dp/dt = 0. One that is in
    them (`constant`) and a function of the state or of time therefore belongs into the system's equations. In torch one
    whose graph comes from y or t is refused, with a ValueError; without a graph, and in the others, nothing tells.
    """

    def __init__(self, reduced: ReducedEquations, backend: str):
        if backend not in ("numpy", "jax", "torch"):
            raise ValueError(f"backend={backend!r}: expected numpy, jax or torch")
        self.reduced, self.backend = reduced, backend
        self.name = getattr(reduced.system, "name", "system")
        self.n_y, self.n_w = len(reduced.y), len(reduced.w)
        self.n_states, self.n_constraints = len(reduced.states), len(reduced.constraints)
        self.parameters = {s.name: v for s, v in reduced.parameters.items()}
        self.constant = frozenset(s.name for c in reduced.constraints for s in symbols_of(c) & set(reduced.parameters))
        self.functions: Mapping[str, Given] = {}
        self._both = {"y": reduced.y, "w": reduced.w}

    def __repr__(self) -> str:
        sizes = f"n_y={self.n_y}, n_w={self.n_w}, n_constraints={self.n_constraints}"
        return f"ReducedFunctions({self.name}, {self.backend}, {sizes}, parameters={list(self.parameters)})"

    def _vector(self, name: str, expressions, inputs) -> CompiledVector:
        def make():
            r = self.reduced
            return VectorFunction(expressions, inputs, r.time, r.parameters, f"{name} of {self.name}")

        return getattr(remembered(self._shared, name, make), self.backend)()

    def _sizes(self, of: CompiledVector, by: str) -> CompiledVector:
        sizes = remembered(self._shared, ("sizes", of.name), lambda: of.function.sizes(by))
        return getattr(sizes, self.backend)()

    def _check_constant(self, y, t, parameters: Mapping | None) -> None:
        if self.backend != "torch" or not parameters or not self._xp.is_grad_enabled():
            return
        from ndae.symbolic.backends.graph_torch import comes_from

        for key, value in parameters.items():
            name = getattr(key, "name", key)
            if name in self.constant and comes_from(value, (y, t)):
                raise ValueError(
                    f"{self.name}: parameter {name!r} is computed from the state or the time that it is given with, "
                    "and is in an equation that is differentiated in time with parameters held fixed: write what it "
                    "depends on into the equations. A constant computed from this very state goes with y.clone()"
                )

    @kept
    def _known(self) -> dict[str, CompiledVector]:
        return {}

    @kept
    def _shared(self) -> dict[Any, Any]:
        return self.reduced.shared

    def sharing(self, reduced: ReducedEquations, functions: Mapping[str, Given]) -> "ReducedFunctions":
        """The same compiled code, with what its unknown functions are."""
        own = object.__new__(ReducedFunctions)
        known = {"_known": self._known, "_shared": self._shared}
        own.__dict__.update(self.__dict__, **known, reduced=reduced, functions=dict(functions))
        return own

    def with_functions(self, parameters: Mapping | None) -> Mapping | None:
        """Parameters, and with them what unknown functions are, by name, as far as that is not among them."""
        if not self.functions:
            return parameters
        return {name: getattr(f, self.backend)() for name, f in self.functions.items()} | {**(parameters or {})}

    @property
    def _top(self) -> CompiledVector:
        return self._vector("leading system", self.reduced.equations, self._both)

    @property
    def _constraints(self) -> CompiledVector:
        return self._vector("constraints", self.reduced.constraints, {"y": self.reduced.y})

    # -- the leading system ------------------------------------------------------------------------------------------

    def leading_system(self, y, w, t=None, parameters: Mapping | None = None) -> Any:
        """T(y, w, t), shape (..., n_w)."""
        self._check_constant(y, t, parameters)
        return self._top(y, w, t=t, parameters=self.with_functions(parameters))

    def leading_jacobian(self, y, w, t=None, parameters: Mapping | None = None, by: str = "w") -> Any:
        """∂T/∂w, shape (..., n_w, n_w); with by="y" ∂T/∂y, shape (..., n_w, n_y)."""
        return self._top.jacobian(by, y, w, t=t, parameters=self.with_functions(parameters))

    def leading_sizes(self, y, w, t=None, parameters: Mapping | None = None) -> Any:
        """How large what is added up in each of T(y, w, t) is, as w moves, (..., n_w): times eps, its rounding."""
        return self._sizes(self._top, "w")(y, w, t=t, parameters=self.with_functions(parameters))

    def leading_error(self, y, w, t=None, parameters: Mapping | None = None) -> Any:
        """How well w solves its equations: the largest |T_i(y, w, t)| over the size of what is added up in T_i, (...).

        Of a w found to rounding, some machine epsilons (backward error; Oettli and Prager 1964). NaN where w is.
        """
        tiny = float(np.finfo(np.float32).tiny)
        residual = abs(self.leading_system(y, w, t, parameters))
        error = residual / (self.leading_sizes(y, w, t, parameters) + tiny)
        return error.max(-1) if self.backend != "torch" else error.amax(-1)

    def solve_leading(self, y, t=None, parameters: Mapping | None = None, shift=None, guess=None):
        """w (..., n_w) with T(y, w, t) + shift = 0, and whether it was found, boolean (...).

        Linear parts are solved by formulas and elimination; nonlinear blocks by damped Newton iteration from their
        entries of `guess` (default zeros) to rounding. Derivatives of w (JAX, torch), of any order, are those of the
        implicit function. Where nothing is found, at a singular matrix or without convergence, w is not to be used.
        """
        self._check_constant(y, t, parameters)
        name = "leading unknowns" + ("" if shift is None else " with shift")
        function = remembered(self._known, name, lambda: _COMPILERS[self.backend](self._leading(shift is not None)))
        guess = self._array(np.zeros(self.n_w), y) if guess is None else guess
        found = function(y, guess, *([] if shift is None else [shift]), t=t, parameters=self.with_functions(parameters))
        w = found[..., :-1]
        return w, (found[..., -1] > 0.5) & self._xp.isfinite(w).all(-1)

    def _leading(self, with_shift: bool) -> LeadingFunction:
        name = "leading unknowns" + " with shift" * with_shift
        return remembered(self._shared, name, lambda: LeadingFunction(self.reduced, with_shift))

    def leading_source(self) -> str:
        """The generated code of `solve_leading`, to read."""
        return self._leading(False).source()

    # -- constraints -------------------------------------------------------------------------------------------------

    def constraints(self, y, t=None, parameters: Mapping | None = None) -> Any:
        """C(y, t), shape (..., n_constraints)."""
        self._check_constant(y, t, parameters)
        return self._constraints(y, t=t, parameters=self.with_functions(parameters))

    def constraints_jacobian(self, y, t=None, parameters: Mapping | None = None) -> Any:
        """∂C/∂y, shape (..., n_constraints, n_y)."""
        self._check_constant(y, t, parameters)
        return self._constraints.jacobian("y", y, t=t, parameters=self.with_functions(parameters))

    def constraints_sizes(self, y, t=None, parameters: Mapping | None = None) -> Any:
        """How large what is added up in C(y, t) is, as y moves, (..., n_constraints): times eps, its rounding."""
        return self._sizes(self._constraints, "y")(y, t=t, parameters=self.with_functions(parameters))

    def redundant(self, y, t=None, parameters: Mapping | None = None) -> Any:
        """Residuals of the redundant equations, shape (..., n_redundant)."""
        return self._redundant(y, t=t, parameters=self.with_functions(parameters))

    def redundant_jacobian(self, y, t=None, parameters: Mapping | None = None) -> Any:
        """Their Jacobian by y, shape (..., n_redundant, n_y)."""
        return self._redundant.jacobian("y", y, t=t, parameters=self.with_functions(parameters))

    @property
    def _redundant(self) -> CompiledVector:
        return self._vector("redundant equations", list(self.reduced.redundant.values()), {"y": self.reduced.y})

    def constraints_time_derivative(self, y, t=None, parameters: Mapping | None = None) -> Any:
        """∂C/∂t at fixed y, shape (..., n_constraints)."""
        r = self.reduced
        if r.time is None:
            return 0 * self.constraints(y, t, parameters)
        if t is None:
            t = 0.0
            if self._constraints.needs_time:
                raise ValueError(f"constraints of {self.name} depend on time: pass t=")

        def make():
            inputs = {"y": r.y, "t": [r.time]}
            return VectorFunction(r.constraints, inputs, None, r.parameters, f"constraints of {self.name}")

        times = self._array(t, y)[..., None]
        function = getattr(remembered(self._shared, "constraints in time", make), self.backend)()
        return function.jacobian("t", y, times, parameters=self.with_functions(parameters))[..., 0]

    def levels(self, y, w, t=None, parameters: Mapping | None = None) -> dict[str, Any]:
        """Residuals by level, {"level 0": (..., m_0), ...}: the algebraic equations and their derivatives.

        And {"redundant": ...} of those that follow from them.
        """
        levels = self.reduced.levels
        kinds = {kind for entries in levels.values() for _, kind, _ in entries}
        values = {}
        if "constraint" in kinds:
            values["constraint"] = self.constraints(y, t, parameters)
        if "leading" in kinds:
            values["leading"] = self.leading_system(y, w, t, parameters)
        result = {}
        for name, entries in levels.items():
            parts = [values[kind][..., place] for _, kind, place in entries]
            result[name] = self._xp.stack(self._broadcast(parts), -1)
        return result | ({"redundant": self.redundant(y, t, parameters)} if self.reduced.redundant else {})

    # -- wiring ------------------------------------------------------------------------------------------------------

    @kept
    def _places(self) -> dict[str, np.ndarray]:
        place = {s: i for i, s in enumerate((*self.reduced.y, *self.reduced.w))}
        unknown = len(place)  # the place of NaN
        names = {"rates": self.reduced.rates, "states": self.reduced.states, "state_rates": self.reduced.state_rates}
        return {
            key: np.array([unknown if s is None else place[s] for s in symbols], dtype=np.int32)
            for key, symbols in names.items()
        }

    def _gathered(self, key: str, y, w, nan: bool = False) -> Any:
        y, w = self._array(y), self._array(w)
        parts = [y, w]
        if y.shape[:-1] != w.shape[:-1]:
            batch = np.broadcast_shapes(tuple(y.shape[:-1]), tuple(w.shape[:-1]))
            parts = [self._xp.broadcast_to(a, (*batch, a.shape[-1])) for a in parts]
        if nan:
            parts.append(self._xp.full_like(parts[1][..., :1], np.nan))  # there may be no y
        return self._xp.concatenate(parts, -1)[..., self._places[key]]

    def rates(self, y, w) -> Any:
        """y', shape (..., n_y): entries of y and w."""
        return self._gathered("rates", y, w)

    def rates_sparsity(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the entries of dy'/dy that can differ from zero, w being what the equations make of y."""
        behind, places = self._leading(False).behind(), self._places["rates"]
        masks = [1 << int(j) if j < self.n_y else behind[j - self.n_y] for j in places]
        columns = [[j for j, bit in enumerate(reversed(bin(mask))) if bit == "1"] for mask in masks]
        rows = np.repeat(np.arange(self.n_y), [len(own) for own in columns])
        return rows, np.array([j for own in columns for j in own], dtype=np.intp)

    def states(self, y, w, t=None, parameters: Mapping | None = None) -> Any:
        """The states of the system, in its order, (..., n_states)."""
        return self._gathered("states", y, w)

    def state_rates(self, y, w) -> Any:
        """Derivatives of the states (..., n_states), NaN where y and w do not hold them."""
        return self._gathered("state_rates", y, w, nan=True)

    def invariants(self, y, w, t=None, parameters: Mapping | None = None) -> dict[str, Any]:
        """Values of the invariants by name, each of the batch's shape."""
        expressions = self.reduced.invariants
        if not expressions:
            parameter_values(self.name, self.parameters, parameters)
            return {}
        given = self.with_functions(parameters)
        values = self._vector("invariants", list(expressions.values()), self._both)(y, w, t=t, parameters=given)
        return {name: values[..., i] for i, name in enumerate(expressions)}

    # -- arrays of the backend ---------------------------------------------------------------------------------------

    @kept
    def _xp(self):
        if self.backend == "numpy":
            return np
        if self.backend == "jax":
            import jax.numpy as jnp

            return jnp
        import torch

        return torch

    @kept
    def _from_host(self):
        from ndae.symbolic.backends.jax_arrays import from_host

        return from_host

    def _array(self, x, like=None) -> Any:
        if self.backend == "torch":
            if not isinstance(x, self._xp.Tensor):
                kind = {} if like is None else {"dtype": like.dtype, "device": like.device}
                x = self._xp.as_tensor(x, **kind)
            return x
        # What is put beside `like` has its precision, without a word.
        return self._from_host(x) if self.backend == "jax" and like is None else self._xp.asarray(x)

    def _broadcast(self, arrays):
        shape = np.broadcast_shapes(*[tuple(a.shape) for a in arrays])
        return [self._xp.broadcast_to(a, shape) for a in arrays]


def _jax_vector(function) -> CompiledVector:
    from ndae.symbolic.backends.vector_jax import JaxVector

    return JaxVector(function)


def _torch_vector(function) -> CompiledVector:
    with needing("a function in torch"):
        from ndae.symbolic.backends.vector_torch import TorchVector

    return TorchVector(function)


_COMPILERS = {"numpy": NumpyVector, "jax": _jax_vector, "torch": _torch_vector}
