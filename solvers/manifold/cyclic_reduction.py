"""Block cyclic reduction of a symmetric block-tridiagonal matrix, in log2(n) vectorised levels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class _Level:
    """One elimination of every other block.

    `inverse` holds D⁻¹ of the eliminated blocks; `left` = U_leftᵀ D_left⁻¹ and `right` = U_right D_right⁻¹ belong to
    each block kept and its eliminated neighbours. `padded`: a block was added.
    """

    inverse: Tensor
    left: Tensor
    right: Tensor
    padded: bool


class CyclicReduction:
    """Factorisation of a symmetric positive definite matrix with blocks D_i (..., n, m, m) on the diagonal and U_i
    (..., n - 1, m, m) above it, in O(n m³) operations and log2(n) levels.

    Every level eliminates the blocks 0, 2, 4, …, which leaves a block-tridiagonal matrix of half the size
    (Golub, Van Loan: Matrix Computations, 4th ed., section 4.5.4). Scalar blocks stay elementwise.
    """

    def __init__(self, diagonal: Float[Tensor, "*batch n m m"], upper: Float[Tensor, "*batch n_less_1 m m"]):
        self._levels = []
        while diagonal.shape[-3] > 1:
            padded = diagonal.shape[-3] % 2 == 0
            if padded:  # an identity block, coupled to nothing, gives every block kept two neighbours
                one = torch.eye(diagonal.shape[-1], dtype=diagonal.dtype, device=diagonal.device)
                one = one.expand(*diagonal.shape[:-3], 1, -1, -1)
                diagonal, upper = torch.cat([diagonal, one], -3), torch.cat([upper, torch.zeros_like(one)], -3)
            kept, to_right, to_left = diagonal[..., 1::2, :, :], upper[..., 1::2, :, :], upper[..., 0::2, :, :]
            inverse = _inverse(diagonal[..., 0::2, :, :])
            left = _product(to_left.mT, inverse[..., :-1, :, :])
            right = _product(to_right, inverse[..., 1:, :, :])
            self._levels.append(_Level(inverse, left, right, padded))
            diagonal = kept - _product(left, to_left) - _product(right, to_right.mT)
            upper = -_product(right[..., :-1, :, :], to_left[..., 1:, :, :])
        self._last = _inverse(diagonal)

    def solve(self, rhs: Float[Tensor, "*batch n m"]) -> Float[Tensor, "*batch n m"]:
        eliminated = []
        for level in self._levels:
            if level.padded:
                rhs = torch.cat([rhs, torch.zeros_like(rhs[..., :1, :])], -2)
            gone = rhs[..., 0::2, :]
            eliminated.append(gone)
            rhs = rhs[..., 1::2, :] - _apply(level.left, gone[..., :-1, :]) - _apply(level.right, gone[..., 1:, :])
        x = _apply(self._last, rhs)
        for level, gone in zip(reversed(self._levels), reversed(eliminated), strict=True):
            edge = torch.zeros_like(x[..., :1, :])
            others = torch.cat([_apply(level.left.mT, x), edge], -2) + torch.cat([edge, _apply(level.right.mT, x)], -2)
            back = _apply(level.inverse, gone) - others
            inner = torch.stack([back[..., :-1, :], x], -2).flatten(-3, -2)
            x = inner if level.padded else torch.cat([inner, back[..., -1:, :]], -2)
        return x


def _inverse(blocks: Tensor) -> Tensor:
    return blocks.reciprocal() if blocks.shape[-1] == 1 else torch.linalg.inv_ex(blocks)[0]


def _product(a: Tensor, b: Tensor) -> Tensor:
    return a * b if a.shape[-1] == 1 else a @ b


def _apply(a: Tensor, x: Tensor) -> Tensor:
    return a[..., 0] * x if a.shape[-1] == 1 else (a * x.unsqueeze(-2)).sum(-1)
