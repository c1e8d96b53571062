"""A function of JAX as one of torch, with derivatives of every order."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch


def in_torch(supplied: Any) -> Callable:
    """The function of a JaxSupplied, called with n tensors of one shape, giving a list of `outputs` tensors."""

    def function(*places: Any) -> list[Any]:
        x = torch.stack(torch.broadcast_tensors(*places), -1)
        return list(_Derivative.apply(x, supplied, 0).unbind(-1))

    return function


class _Derivative(torch.autograd.Function):
    """All derivatives of one order at points (..., n), (..., outputs, n, ..., n); its own is that of the next order."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x, supplied, order):
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            flat = x.detach().double().cpu().reshape(-1, x.shape[-1]).numpy()
            found = np.array(jax.vmap(lambda p: supplied.derivatives(p, order)[-1])(flat))
        return torch.as_tensor(found).to(x).reshape(*x.shape[:-1], *found.shape[1:])

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.supplied, ctx.order = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        slope = _Derivative.apply(x, ctx.supplied, ctx.order + 1)
        inner = tuple(range(x.ndim - 1, cotangent.ndim))
        return (cotangent[..., None] * slope).sum(inner), None, None
