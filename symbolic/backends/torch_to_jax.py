"""Modules of torch as functions of JAX: traced once at a point to torch's operators, which JAX then runs."""

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ndae.symbolic.backends.jax_arrays import from_host
from ndae.symbolic.backends.torch_by_host import HostModule, at_points
from ndae.symbolic.backends.torch_to_jax_operators import TABLE
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.ground.words import listed

if TYPE_CHECKING:
    import torch

    from ndae.symbolic.backends.torch_graph_data import Graph


def converted(
    module: Callable, n_in: int, *, dtype: "torch.dtype | None" = None, by_host: bool = False
) -> "ConvertedModule | HostModule":
    """A torch module, or a function of torch, as a function of JAX: the same values and derivatives.

    It is traced at one point, x (1, n_in), in the mode (training or not) that it is in, and JAX maps it over points, so
    that a point's value never depends on its neighbours. Parts that torch takes no derivative of (detach, no_grad) have
    none here.

    - `module`: maps a tensor (..., n_in) to (..., n_out), or to (...) for one output.
    - `dtype`: what it is computed in, float64 if not given. Weights in float32 are taken into float64 as they are,
      which loses nothing; new tensors are made in it.
    - `by_host`: run it in torch instead, slower (HostModule), as for a module that branches on values. So is, with a
      warning that names them, a module with operators that are not in the table.

    Raises ValueError for a module that branches on values, draws random numbers (dropout in training mode), changes its
    own state (batch normalisation in training mode) or gives another shape; MissingExtraError without torch.
    """
    with needing("a torch module in JAX"):
        import torch

        from ndae.symbolic.backends.torch_graph import called, in_precision, state_of, traced

    dtype = torch.float64 if dtype is None else dtype
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    if by_host:
        return HostModule.of(module, n_in, dtype)
    graph = traced(module, n_in, dtype, TABLE)
    missing = sorted({step.operator for step in graph.steps} - TABLE.keys() - {"getitem"})
    missing += [f"{name}, with derivatives of its own" for name in graph.own_rules]
    if missing:
        warnings.warn(
            f"{called(module)} uses operators of torch that are not known in JAX: {listed(missing)}. It runs in torch "
            "on the host instead, slower, and its weights have no derivatives in JAX",
            stacklevel=2,
        )
        return HostModule.of(module, n_in, dtype)
    state = {name: _numbers(in_precision(x, dtype)) for name, x in state_of(module).items()}
    program = Program(graph, state, called(module), n_in, _name(dtype))
    return ConvertedModule(program, program.arrays(state))


def _name(dtype: "torch.dtype") -> str:
    return str(dtype).removeprefix("torch.")


def _numbers(x: "torch.Tensor") -> np.ndarray:
    return x.numpy()


class Program:
    """What JAX runs for a module of some architecture, equal by content to that of another of the same.

    Floating numbers are handed to it; whole numbers and truth values, which are indices as a rule, are part of it.
    """

    def __init__(self, graph: "Graph", state: dict, module: str, n_in: int, dtype: str):
        self.module, self.n_in, self.dtype = module, n_in, dtype
        self.n_out = graph.shape[1] if len(graph.shape) == 2 else 1
        self.shapes = {name: (x.shape, x.dtype.kind) for name, x in state.items()}
        self.learned_constants = graph.learned_constants
        self._graph = graph
        inputs = [*(state[name] for name in graph.weights), *graph.constants]
        self._is_array = [x.dtype.kind == "f" for x in inputs]
        self._fixed = [None if given else x for given, x in zip(self._is_array, inputs, strict=True)]
        contents = [
            x.shape if fixed is None else (x.dtype, x.shape, x.tobytes())
            for fixed, x in zip(self._fixed, inputs, strict=True)
        ]
        self._key = repr((module, n_in, dtype, self.shapes, graph.steps, graph.weights, graph.result, contents))
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def arrays(self, state: dict[str, np.ndarray]) -> tuple[jax.Array, ...]:
        """What it is called with beside x: weights of that state, then constants."""
        inputs = [*(state[name] for name in self._graph.weights), *self._graph.constants]
        with jax.enable_x64(True):
            return tuple(from_host(x) for given, x in zip(self._is_array, inputs, strict=True) if given)

    def changed(self, state: dict[str, np.ndarray]) -> list[str]:
        """Weights that are part of the program and are others now."""
        pairs = zip(self._graph.weights, self._fixed, strict=False)
        return [name for name, fixed in pairs if fixed is not None and not np.array_equal(fixed, state[name])]

    def run(self, arrays: tuple, x: jax.Array) -> jax.Array:
        """The outputs (n_out,) at one point (n_in,)."""
        given = iter(arrays)
        done: list[Any] = [x[None], *(next(given) if fixed is None else fixed for fixed in self._fixed)]
        for step in self._graph.steps:
            args, kwargs = _filled(step.args, done), {name: _filled(v, done) for name, v in step.kwargs}
            if step.operator == "getitem":
                done.append(args[0][args[1]])
                continue
            out = TABLE[step.operator](*args, **kwargs)
            many = isinstance(out, tuple)
            parts = [
                part if result is None else _as_traced(part, *result, step.operator)
                for part, result in zip(out if many else (out,), step.results, strict=True)
            ]
            done.append(tuple(parts) if many else parts[0])
        return jnp.asarray(done[self._graph.result.step], self.dtype).reshape(self.n_out)


def _filled(value: Any, done: list) -> Any:
    if isinstance(value, tuple):
        return tuple(_filled(v, done) for v in value)
    return done[value.step] if hasattr(value, "step") else value


def _as_traced(x: Any, shape: tuple[int, ...], dtype: str, operator: str) -> Any:
    """A result in torch's precision, which JAX may choose otherwise."""
    x = jnp.asarray(x)
    if x.shape != shape:
        raise RuntimeError(f"{operator} gives {x.shape} in JAX and {shape} in torch, which is a fault of ndae")
    return x.astype(dtype)


@jax.tree_util.register_pytree_node_class
class ConvertedModule:
    """A torch module as a function of JAX, f(x): (..., n_in) to (..., n_out), for jit, vmap, grad and jacfwd.

    A pytree: its leaves are the floating parameters, buffers and constants that the module uses, in its precision, so
    that it may be differentiated by them; `program`, what is done with them, is static and equal for all modules of an
    architecture, so that new weights compile nothing.
    """

    def __init__(self, program: Program, arrays: tuple[Any, ...]):
        self.program, self.arrays = program, arrays

    @property
    def n_in(self) -> int:
        """Arguments of a point."""
        return self.program.n_in

    @property
    def n_out(self) -> int:
        """Outputs of a point."""
        return self.program.n_out

    @property
    def weights(self) -> dict[str, Any]:
        """The leaves that are parameters and buffers of the module, by name; of weights tied, the first name."""
        graph = self.program._graph
        names = [name for name, given in zip(graph.weights, self.program._is_array, strict=False) if given]
        return dict(zip(names, self.arrays, strict=False))

    def __call__(self, x: Any) -> jax.Array:
        """The outputs (..., n_out) at points (..., n_in)."""
        return at_points(functools.partial(self.program.run, self.arrays), x, self.n_in, self.program.dtype)

    def updated(self, module: Callable) -> "ConvertedModule":
        """The same with a module's present weights, without a new trace.

        A function that is no module, and a module that trains tensors which are no parameters of it, are traced anew.
        Numbers that are no tensors, and the mode, are those of the first trace. Raises ValueError for a module of other
        names or shapes.
        """
        import torch

        from ndae.symbolic.backends.torch_graph import called, in_precision, state_of

        dtype, module = getattr(torch, self.program.dtype), getattr(module, "_orig_mod", module)
        if not isinstance(module, torch.nn.Module) or self.program.learned_constants:
            new = converted(module, self.n_in, dtype=dtype)
            if not isinstance(new, ConvertedModule) or new.program != self.program:
                raise ValueError(f"{called(module)} is another function than was converted: convert it anew")
            return new
        state = {name: _numbers(in_precision(x, dtype)) for name, x in state_of(module).items()}
        shapes = {name: (x.shape, x.dtype.kind) for name, x in state.items()}
        if called(module) != self.program.module or shapes != self.program.shapes:
            named = [
                name for name in {**shapes, **self.program.shapes} if shapes.get(name) != self.program.shapes.get(name)
            ]
            raise ValueError(
                f"{called(module)} is no {self.program.module} as it was converted (weights that differ: "
                f"{listed(named)}): convert it anew"
            )
        changed = self.program.changed(state)
        if changed:
            raise ValueError(f"indices of {called(module)} have changed ({listed(changed)}): convert it anew")
        return ConvertedModule(self.program, self.program.arrays(state))

    def tree_flatten(self) -> tuple[tuple[Any, ...], Program]:
        """For JAX: the arrays, and what is static."""
        return self.arrays, self.program

    @classmethod
    def tree_unflatten(cls, program: Program, arrays: tuple[Any, ...]) -> "ConvertedModule":
        """For JAX: the inverse of `tree_flatten`."""
        return cls(program, arrays)
