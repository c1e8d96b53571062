"""Unknown functions supplied to torch's code: modules and functions, with derivatives that have a graph."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ndae.symbolic.backends.supplied import Supplied, Wanted, highest, index, wrong_outputs
from ndae.symbolic.expressions.unknowns import Unknown


class TorchSupplied(Supplied):
    """A module (..., n) -> (..., outputs), or a function of n tensors, with derivatives of every order by autograd.

    A module computes in the precision of what it is given: weights of another one are converted, so that the rounding
    of float32 does not reach constraints. `weights` replaces them, by name; `fixed` cuts all derivatives.
    """

    def __init__(
        self,
        unknown: Unknown,
        n: int,
        function: Callable,
        weights: dict[str, Tensor] | None = None,
        fixed: bool = False,
    ):
        self.unknown, self.n, self.function, self.fixed = unknown, n, function, fixed
        self._weights = weights
        self._own = list(function.parameters()) if isinstance(function, nn.Module) else []

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters of a module by name; none of a function."""
        if self._weights is not None:
            return self._weights
        return dict(self.function.named_parameters()) if isinstance(self.function, nn.Module) else {}

    def with_weights(self, weights: Sequence[Tensor]) -> "TorchSupplied":
        """The same with other weights, in order."""
        named = dict(zip(self.weights, weights, strict=True))
        return TorchSupplied(self.unknown, self.n, self.function, named, self.fixed)

    def frozen(self) -> "TorchSupplied":
        """The same as a constant."""
        return TorchSupplied(self.unknown, self.n, self.function, self._weights, True)

    def values(self, x: Tensor) -> Tensor:
        """(..., outputs) at points (..., n). Raises ValueError for a module that does not take n numbers."""
        function = self.function
        if isinstance(function, nn.Module):
            return self._of_module(function, x)
        found = function(*x.unbind(-1))
        if isinstance(found, list | tuple):
            found = torch.stack([torch.as_tensor(f, dtype=x.dtype).expand(x.shape[:-1]) for f in found], -1)
        found = torch.as_tensor(found, dtype=x.dtype)
        if self.unknown.outputs == 1 and found.shape != (*x.shape[:-1], 1):
            found = found.expand(x.shape[:-1])[..., None]
        if found.shape != (*x.shape[:-1], self.unknown.outputs):
            raise wrong_outputs(self.unknown, self.n, f"a shape {tuple(found.shape)}")
        return found

    def _of_module(self, module: nn.Module, x: Tensor) -> Tensor:
        points = x.reshape(-1, self.n)
        try:
            if self._weights is None and all(w.dtype == x.dtype or not w.is_floating_point() for w in self._own):
                found = module(points)
            else:
                weights = {name: w.to(x.dtype) if w.is_floating_point() else w for name, w in self.weights.items()}
                buffers = {k: b.to(x.dtype) for k, b in module.named_buffers() if b.is_floating_point()}
                found = torch.func.functional_call(module, (weights, buffers), (points,))
        except RuntimeError as error:
            if "mat1 and mat2" not in str(error) and "normalized_shape" not in str(error):
                raise
            raise ValueError(
                f"what is given for the unknown function {self.unknown} does not take {self.n} "
                f"number{'s' * (self.n != 1)} a point, (..., {self.n}): {error}"
            ) from error
        if isinstance(found, Tensor) and found.numel() == len(points) * self.unknown.outputs:
            return found.reshape(*x.shape[:-1], self.unknown.outputs)
        raise wrong_outputs(self.unknown, self.n, f"a shape {tuple(getattr(found, 'shape', ()))}")

    def derivatives(self, x: Tensor, order: int) -> list[Tensor]:
        """All derivatives up to an order, (..., outputs), (..., outputs, n), ..., each row by one backward pass."""
        if order == 0:
            return [self.values(x)]
        private: Any = torch._C
        inside = private._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
        if not inside:
            return self._by_graph(x, order)
        return self._by_transforms(x, order)

    def _by_graph(self, x: Tensor, order: int) -> list[Tensor]:
        """As `derivatives`, in half the time, outside of the transforms of torch.func."""
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            found = [self.values(x)]
            for k in range(order):
                top, more = found[-1].reshape(*x.shape[:-1], -1), wanted or k < order - 1
                rows = [_gradient(top[..., i].sum(), x, more) for i in range(top.shape[-1])]
                found.append(torch.stack(rows, -2).reshape(*found[-1].shape, self.n))
        return found if wanted else [d.detach() for d in found]

    def _by_transforms(self, x: Tensor, order: int) -> list[Tensor]:
        def below(x: Tensor) -> tuple[Tensor, list[Tensor]]:
            found = self.derivatives(x, order - 1)
            return found[-1].reshape(*x.shape[:-1], -1), found

        found: Any = torch.func.vjp(below, x, has_aux=True)
        top, pull, lower = found
        basis = torch.eye(top.shape[-1], dtype=top.dtype, device=top.device)
        rows = [pull(row.expand(top.shape))[0] for row in basis]
        return [*lower, torch.stack(rows, -2).reshape(*lower[-1].shape, self.n)]

    def __call__(self, wanted: Sequence[Wanted], places: Sequence[Sequence[Any]]) -> list[Any]:
        like = next((a for place in places for a in place if isinstance(a, Tensor)), None)
        kind: dict[str, Any] = (
            {"dtype": torch.float64} if like is None else {"dtype": like.dtype, "device": like.device}
        )
        tensors = [[torch.as_tensor(a, **kind) for a in place] for place in places]
        shapes = {a.shape for place in tensors for a in place}
        if len(shapes) > 1:
            shape = torch.broadcast_shapes(*shapes)
            tensors = [[a.expand(shape) for a in place] for place in tensors]
        return self.of_arrays(wanted, torch.stack([torch.stack(place, -1) for place in tensors]))

    def of_arrays(self, wanted: Sequence[Wanted], x: Tensor) -> list[Tensor]:
        """The wanted values, each (*batch), at places (n_places, *batch, n)."""
        if self.fixed:
            with torch.no_grad():
                return [v.detach() for v in self._of_arrays(wanted, x.detach())]
        return self._of_arrays(wanted, x)

    def _of_arrays(self, wanted: Sequence[Wanted], x: Tensor) -> list[Tensor]:
        found = self.derivatives(x, highest(wanted))
        return [found[sum(orders)][(place, ..., *index(output, orders))] for place, output, orders in wanted]


def _gradient(total: Tensor, x: Tensor, more: bool) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(total, x, create_graph=more, retain_graph=True, materialize_grads=True)
    return found
