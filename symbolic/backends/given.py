"""What a user gives for an unknown function, made callable for the generated code of each array library."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndae.symbolic.backends.numpy_calls import called_by_numpy
from ndae.symbolic.backends.supplied import Supplied, Wanted
from ndae.symbolic.backends.supplied_numpy import NumpySupplied
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.ground.kept import Recomputed, kept

_TRIED = (TypeError, ValueError, AttributeError, RuntimeError, NotImplementedError)


class Given(Recomputed):
    """A torch module, or a function of torch, JAX or NumPy, for an unknown function of `n` arguments.

    A module takes a tensor (..., n) and gives (..., outputs); anything else that is called takes n arrays of one shape
    and gives an array of that shape, or a list of them. Each library is served by the function itself where it takes
    that library's arrays, else by way of another library; derivatives are automatic ones. Raises ValueError for what is
    none of these, TypeError, when it is used, for a function that the library can't be served with.
    """

    def __init__(self, unknown: Unknown, n: int, value: Any):
        self.unknown, self.n, self.value = unknown, n, value
        if isinstance(value, type) or not callable(value):
            raise ValueError(
                f"the unknown function {unknown} is given {value!r}: expected a torch module, a function of "
                f"{n} argument{'s' * (n != 1)}, or ndae.table(...)"
            )

    def __repr__(self) -> str:
        return f"Given({self.unknown}, {self.value!r})"

    @property
    def module(self) -> Any:
        """The torch module that it is, or None."""
        torch = sys.modules.get("torch")
        return self.value if torch is not None and isinstance(self.value, torch.nn.Module) else None

    def numpy(self) -> Supplied:
        """For NumPy."""
        return self._numpy

    def torch(self) -> Any:
        """For torch."""
        return self._torch

    def jax(self) -> Any:
        """For JAX, with the present weights."""
        if self.module is None:
            return self._jax
        from ndae.symbolic.backends.supplied_jax import JaxSupplied

        return JaxSupplied(self.unknown, self.n, self._converted.updated(self.module), True)

    @kept
    def _numpy(self) -> Supplied:
        if self.module is not None:
            return NumpySupplied(self.unknown, self.n, None, self._through_torch)
        plain = None if self._fails(self.value, np.full(2, 0.6)) else self.value
        otherwise = self._through_torch if plain is None and self._is_of_torch() else self._through_jax
        return NumpySupplied(self.unknown, self.n, plain, otherwise)

    def _is_of_torch(self) -> bool:
        torch = sys.modules.get("torch")
        return torch is not None and not self._fails(self.value, torch.full((2,), 0.6, dtype=torch.float64))

    def _through_torch(self, wanted: Sequence[Wanted], x: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.no_grad():
            return [v.numpy() for v in self.torch().of_arrays(wanted, torch.as_tensor(x))]

    def _through_jax(self, wanted: Sequence[Wanted], x: np.ndarray) -> list[np.ndarray]:
        import equinox as eqx
        import jax

        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            return [np.asarray(v) for v in eqx.filter_jit(_of_arrays)(self.jax(), tuple(wanted), x)]

    @kept
    def _torch(self) -> Any:
        with needing(f"the function {self.unknown} in torch"):
            import torch

            from ndae.symbolic.backends.supplied_torch import TorchSupplied
        if self.module is not None:
            return TorchSupplied(self.unknown, self.n, self.module)
        return TorchSupplied(self.unknown, self.n, self._function_of_torch(torch))

    def _function_of_torch(self, torch: Any) -> Callable:
        # With a gradient, so that NumPy does not make an array of it in silence.
        reasons, probe = [], torch.full((2,), 0.6, dtype=torch.float64, requires_grad=True)
        for function in (self.value, called_by_numpy(self.value, torch)):
            with torch.enable_grad():
                failed = self._fails(function, probe)
            if not failed:
                return function
            reasons.append(failed)
        from ndae.symbolic.backends.jax_in_torch import in_torch

        if not self._fails_in_jax(self.value):
            return in_torch(self.jax())
        raise TypeError(self._refusal("torch", reasons))

    @kept
    def _jax(self) -> Any:
        import jax.numpy as jnp
        from jax.tree_util import Partial, all_leaves

        from ndae.symbolic.backends.supplied_jax import JaxSupplied

        reasons = []
        for function in (self.value, called_by_numpy(self.value, jnp)):
            failed = self._fails_in_jax(function)
            if not failed:
                plain = all_leaves([function])  # a function, no pytree with weights of its own
                return JaxSupplied(self.unknown, self.n, Partial(function) if plain else function, False)
            reasons.append(failed)
        if self._is_of_torch():
            return JaxSupplied(self.unknown, self.n, self._converted, True)
        raise TypeError(self._refusal("JAX", reasons))

    @kept
    def _converted(self) -> Any:
        from ndae.symbolic.backends.torch_to_jax import converted

        return converted(self.module or self.torch().values, self.n)

    def _fails(self, function: Callable, probe: Any) -> str:
        """Why a function does not take arrays of a kind, or nothing."""
        try:
            values = function(*[probe] * self.n)
        except _TRIED as error:
            return f"{type(error).__name__}: {error}"
        of_kind = type(probe)
        there = values if isinstance(values, list | tuple) else [values]
        good = all(isinstance(v, of_kind | float | int | np.generic) for v in there)
        return "" if good else f"it gives {type(there[0]).__name__}"

    def _fails_in_jax(self, function: Callable) -> str:
        import jax

        try:
            # Behind a function of Python's own: JAX crashes on one of NumPy's.
            jax.eval_shape(lambda *x: function(*x), *[jax.ShapeDtypeStruct((), np.float32)] * self.n)
        except _TRIED as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return ""

    def _refusal(self, library: str, reasons: Sequence[str]) -> str:
        return (
            f"the function given for {self.unknown} can't be used in {library}, which is where values or derivatives "
            f"of it are needed ({reasons[0]}): write it with operators, NumPy's functions, or those of "
            f"{library}; values on a grid are a function by ndae.table(x, values, kind='cubic')"
        )


def _of_arrays(supplied: Any, wanted: Any, x: Any) -> Any:
    return supplied.of_arrays(wanted, x)
