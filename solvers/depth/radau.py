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
_CLOSE = 1e-6

OfState = Callable[[Tensor, Tensor], Tensor]


def radau_step(field: OfState, jacobian: OfState, t: Tensor, y: Tensor, h: Tensor) -> Tensor:
    """y (*batch, n) at t + h: Zᵢ = h Σⱼ aᵢⱼ f(t + cⱼ h, y + Zⱼ), i = 1..3, and y + Z₃.

    `t` and `h` are (*batch), `jacobian(t, y)` is ∂f/∂y (*batch, n, n). Both are asked for all stages at once, which
    are on an axis before the others, (3, *batch, n). Newton's iteration with the Jacobians of all stages, each sample
    by itself but in step; NaN where it does not converge. Derivatives of first order by y, h and what f depends on are
    those of the implicit function.
    """
    c, a = (torch.tensor(x, dtype=y.dtype, device=y.device) for x in (_NODES, _MATRIX))
    n = y.shape[-1]
    times = t + c.view(3, *[1] * h.ndim) * h
    one = torch.eye(3 * n, dtype=y.dtype, device=y.device)

    def residual(z: Tensor, y: Tensor) -> Tensor:
        return z - h[..., None] * torch.einsum("ij,j...k->i...k", a, field(times, y + z))

    def matrix(z: Tensor) -> Tensor:
        blocks = jacobian(times, y + z).movedim(0, -2)  # (*batch, n, 3, n)
        whole = a[:, None, :, None] * blocks[..., None, :, :, :]
        return one - h[..., None, None] * whole.reshape(*y.shape[:-1], 3 * n, 3 * n)

    def solved(matrix: Tensor, right: Tensor) -> Tensor:
        right = right.movedim(0, -2).flatten(-2)[..., None]
        return torch.linalg.solve_ex(matrix, right)[0][..., 0].unflatten(-1, (3, n)).movedim(-2, 0)

    with torch.no_grad():
        z, close = torch.zeros(3, *y.shape, dtype=y.dtype, device=y.device), torch.zeros(()).bool()
        lost = ~y.isfinite().all(-1)  # which is not waited for
        size = y.abs() + 1e-4 * y.abs().amax(-1, keepdim=True)
        for _ in range(_MAX_ITERATIONS):
            change = solved(matrix(z), residual(z, y))
            z = z - change
            close = (change.abs() <= _CLOSE * (size + z.abs())).all(0).all(-1) | lost
            if bool(close.all()):
                break
        newton = matrix(z)
    z = z - solved(newton, residual(z, y))
    good = close if close.ndim else close.expand(y.shape[:-1])
    return torch.where(good[..., None], y + z[2], torch.nan)
