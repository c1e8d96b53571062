"""A torch module called from JAX on the host, for what can't be written in JAX."""

import copy
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ndae.symbolic.backends.jax_arrays import from_host

if TYPE_CHECKING:
    import torch

# Points at which a module is asked whether it is a function of each point alone.
_N_ASKED = 4


def at_points(f: Callable, x: Any, n_in: int, dtype: str) -> jax.Array:
    """f, of a point (n_in,), at points (..., n_in), in a precision."""
    if dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            "a module that is computed in float64 needs JAX in 64 bits: call it inside `with jax.enable_x64(True):`, "
            "or convert it with dtype=torch.float32"
        )
    x = from_host(x).astype(dtype)
    if not x.ndim or x.shape[-1] != n_in:
        raise ValueError(f"x has shape {x.shape}, expected (..., {n_in}): the arguments on the last axis")
    if x.ndim == 1:
        return f(x)
    y = jax.vmap(f)(x.reshape(-1, n_in))
    return y.reshape(*x.shape[:-1], y.shape[-1])


class _Host:
    """A module as it was, with its derivatives at points in NumPy."""

    def __init__(self, function: Callable, n_in: int, dtype: "torch.dtype"):
        self.function, self.n_in, self.torch_dtype = function, n_in, dtype
        self.dtype = str(dtype).removeprefix("torch.")
        self.n_out = self._asked()

    def _asked(self) -> int:
        """The number of outputs; raises ValueError where one point's value is not a function of it alone."""
        import torch

        x = torch.linspace(0.2, 0.8, _N_ASKED * self.n_in, dtype=self.torch_dtype).reshape(_N_ASKED, self.n_in)
        with torch.no_grad():
            together, again, alone = self.function(x), self.function(x), self.function(x[:1])
        if together.shape[:1] != (_N_ASKED,) or together.ndim > 2:
            raise ValueError(
                f"the module gives {tuple(together.shape)} at x of shape {tuple(x.shape)}, expected ({_N_ASKED}, "
                f"n_out), or ({_N_ASKED},) for one output"
            )
        scale = together.abs().max()
        if not torch.equal(together, again) or (together[:1] - alone).abs().max() > 1e-5 * scale:
            raise ValueError(
                "the module's value at a point is another each time, or depends on the other points of a batch, as "
                "with dropout and normalisation over a batch in training mode: call .eval() on it first"
            )
        return 1 if together.ndim == 1 else together.shape[1]

    def derivative(self, order: int, x: Any) -> np.ndarray:
        """The derivatives of an order, (..., n_out, n_in, ..., n_in), at points (..., n_in)."""
        import torch

        x = np.array(x, dtype=self.dtype)
        at = torch.from_numpy(x.reshape(-1, self.n_in)).requires_grad_(order > 0)
        with torch.inference_mode(False), torch.set_grad_enabled(order > 0):
            y = self.function(at).reshape(len(at), self.n_out)
            for _ in range(order):
                columns = [_slope(y[:, i].sum(), at) for i in range(y.shape[1])]
                y = torch.stack(columns, 1).flatten(1)
        return y.detach().numpy().astype(self.dtype).reshape(*x.shape[:-1], self.n_out, *(self.n_in,) * order)


def _slope(y: "torch.Tensor", at: "torch.Tensor") -> "torch.Tensor":
    import torch

    if not y.requires_grad:  # the derivative of what is constant by now
        return torch.zeros_like(at)
    return torch.autograd.grad(y, at, create_graph=True, materialize_grads=True)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _on_host(host: _Host, order: int, x: jax.Array) -> jax.Array:
    shape = (host.n_out, *(host.n_in,) * order)
    result = jax.ShapeDtypeStruct(shape, jnp.dtype(host.dtype))
    return jax.pure_callback(functools.partial(host.derivative, order), result, x, vmap_method="broadcast_all")


@_on_host.defjvp
def _(host: _Host, order: int, primals: tuple, tangents: tuple):
    (x,), (along,) = primals, tangents
    # All partial derivatives, so that JAX can transpose the product with a direction.
    return _on_host(host, order, x), jnp.tensordot(_on_host(host, order + 1, x), along, 1)


@jax.tree_util.register_pytree_node_class
class HostModule:
    """A torch module run in torch by a callback from JAX, f(x): (..., n_in) to (..., n_out): right, and slower.

    It has derivatives of any order by x, by torch's automatic differentiation, and none by its weights: jax.grad by it
    is an error of JAX (TypeError), since its only leaf is a whole number. Its weights are those it had when it was made
    (of a function that is no module, those it finds when it is called); `updated` takes new ones, for which JAX
    compiles again.
    """

    def __init__(self, host: _Host, token: Any):
        self.host, self.token = host, token

    @classmethod
    def of(cls, module: Callable, n_in: int, dtype: "torch.dtype") -> "HostModule":
        """A copy of the module in a precision; raises ValueError where it is not a function of each point alone."""
        import torch

        if isinstance(module, torch.nn.Module):
            module = copy.deepcopy(module).to("cpu", dtype)
        return cls(_Host(module, n_in, dtype), np.int32(0))

    @property
    def n_in(self) -> int:
        """Arguments of a point."""
        return self.host.n_in

    @property
    def n_out(self) -> int:
        """Outputs of a point."""
        return self.host.n_out

    def __call__(self, x: Any) -> jax.Array:
        """The outputs (..., n_out) at points (..., n_in)."""
        return at_points(functools.partial(_on_host, self.host, 0), x, self.n_in, self.host.dtype)

    def updated(self, module: Callable) -> "HostModule":
        """The same of a module's present weights."""
        return HostModule.of(module, self.n_in, self.host.torch_dtype)

    def tree_flatten(self) -> tuple[tuple[Any], _Host]:
        """For JAX: a number of no meaning, and what is static."""
        return (self.token,), self.host

    @classmethod
    def tree_unflatten(cls, host: _Host, leaves: tuple[Any]) -> "HostModule":
        """For JAX: the inverse of `tree_flatten`."""
        return cls(host, *leaves)
