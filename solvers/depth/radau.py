"""One implicit step of Radau IIA of order 5 in torch, for stiff equations that are learned in."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Hairer and Wanner, Solving ODEs II, table IV.5.6.
_S6 = np.sqrt(6.0)
_NODES = [(4 - _S6) / 10, (4 + _S6) / 10, 1.0]
_MATRIX = [
    [(88 - 7 * _S6) / 360, (296 - 169 * _S6) / 1800, (-2 + 3 * _S6) / 225],
    [(296 + 169 * _S6) / 1800, (88 + 7 * _S6) / 360, (-2 - 3 * _S6) / 225],
    [(16 - _S6) / 36, (16 + _S6) / 36, 1 / 9],
]
_MAX_ITERATIONS = 12
# A step of Newton's iteration relatively below this is followed by one more, which squares it.
_CLOSE = 1e-8

OfState = Callable[[Tensor, Tensor], Tensor]


def radau_step(field: OfState, jacobian: OfState, t: Tensor, y: Tensor, h: Tensor) -> Tensor:
    """y (*batch, n) at t + h: Zᵢ = h Σⱼ aᵢⱼ f(t + cⱼ h, y + Zⱼ), i = 1..3, and y + Z₃.

    `t` and `h` are (*batch), `jacobian(t, y)` is ∂f/∂y (*batch, n, n). Newton's iteration with the Jacobians of all
    stages, each sample by itself but in step; NaN where it does not converge. Derivatives of first order by y, h and
    what f depends on are those of the implicit function.
    """
    c, a = (torch.tensor(x, dtype=y.dtype, device=y.device) for x in (_NODES, _MATRIX))
    n, times = y.shape[-1], t[..., None] + c * h[..., None]

    def residual(z: Tensor, y: Tensor) -> Tensor:
        slopes = torch.stack([field(times[..., j], y + z[..., j, :]) for j in range(3)], -2)
        return z - h[..., None, None] * torch.einsum("ij,...jk->...ik", a, slopes)

    def matrix(z: Tensor) -> Tensor:
        blocks = torch.stack([jacobian(times[..., j], y + z[..., j, :]) for j in range(3)], -3)
        whole = -h[..., None, None, None, None] * a[:, None, :, None] * blocks.movedim(-3, -2)[..., None, :, :, :]
        return whole.reshape(*y.shape[:-1], 3 * n, 3 * n) + torch.eye(3 * n, dtype=y.dtype, device=y.device)

    def solved(matrix: Tensor, right: Tensor) -> Tensor:
        return torch.linalg.solve_ex(matrix, right.flatten(-2)[..., None])[0][..., 0].unflatten(-1, (3, n))

    with torch.no_grad():
        z, close = torch.zeros(*y.shape[:-1], 3, n, dtype=y.dtype, device=y.device), torch.zeros(()).bool()
        lost = ~y.isfinite().all(-1)  # which is not waited for
        size = y.abs()[..., None, :]
        size = size + 1e-4 * size.amax(-1, keepdim=True)
        for _ in range(_MAX_ITERATIONS):
            change = solved(matrix(z), residual(z, y))
            z = z - change
            if bool(close.all()):
                break
            close = (change.abs() <= _CLOSE * (size + z.abs())).flatten(-2).all(-1) | lost
        newton = matrix(z)
    z = z - solved(newton, residual(z, y))
    good = close if close.ndim else close.expand(y.shape[:-1])
    return torch.where(good[..., None], y + z[..., 2, :], torch.nan)
