"""Unknown functions supplied to JAX's code: pytrees, so that what is compiled once serves all weights."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ndae.symbolic.backends.supplied import Supplied, Wanted, highest, index, wrong_outputs
from ndae.symbolic.expressions.unknowns import Unknown


class JaxSupplied(eqx.Module, Supplied):
    """A function of a point, with derivatives of every order by forward mode.

    `function` is a pytree whose arrays are its weights; it takes n numbers, or where `packed` one vector (n,).
    """

    unknown: Unknown = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    n: int = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    function: Any
    packed: bool = eqx.field(static=True)

    def point(self, x: Any) -> Any:
        """The values (outputs,) at one point (n,)."""
        values = self.function(x) if self.packed else self.function(*[x[i] for i in range(self.n)])
        if isinstance(values, list | tuple):
            values = jnp.stack([jnp.asarray(v) for v in values])
        values = jnp.asarray(values, x.dtype)
        if values.size != self.unknown.outputs:
            raise wrong_outputs(self.unknown, self.n, f"an array of shape {values.shape}")
        return values.reshape(-1)

    def derivatives(self, x: Any, order: int) -> list[Any]:
        """All derivatives at one point up to an order, (outputs,), (outputs, n), ..."""
        found = lambda x: (lambda v: (v, [v]))(self.point(x))  # noqa: E731
        for _ in range(order):
            found = _next(found)
        return found(x)[1]

    def __call__(self, wanted: Sequence[Wanted], places: Sequence[Sequence[Any]]) -> list[Any]:
        shape = jnp.broadcast_shapes(*[jnp.shape(x) for place in places for x in place])
        x = jnp.stack([jnp.stack([jnp.broadcast_to(jnp.asarray(a), shape) for a in place], -1) for place in places])
        return self.of_arrays(wanted, x.astype(jnp.result_type(x, float)))

    def of_arrays(self, wanted: Sequence[Wanted], x: Any) -> list[Any]:
        """The wanted values, each (*batch), at places (n_places, *batch, n)."""
        found = jax.vmap(lambda x: self.derivatives(x, highest(wanted)))(x.reshape(-1, self.n))
        found = [d.reshape(*x.shape[:-1], *d.shape[1:]) for d in found]
        return [found[sum(orders)][(place, ..., *index(output, orders))] for place, output, orders in wanted]


def _next(found: Any) -> Any:
    def higher(x: Any) -> Any:
        top, lower = jax.jacfwd(found, has_aux=True)(x)
        return top, [*lower, top]

    return higher
