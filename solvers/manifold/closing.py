"""The closing map y = K z of every point and its transpose, K = `weight`ᵀ."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

#: Below this many products elementwise arithmetic is used: waking the threads of a BLAS costs more than the work.
_SMALL = 200_000


def close(z: Float[Tensor, "*batch n_points latent"], weight: Float[Tensor, "latent dim"]) -> Tensor:
    """z @ weight, shape (..., n_points, dim)."""
    if z.numel() * weight.shape[-1] > _SMALL:
        return z @ weight
    return (z.unsqueeze(-1) * weight).sum(-2)


def lift(y: Float[Tensor, "*batch n_points dim"], weight: Float[Tensor, "latent dim"]) -> Tensor:
    """y @ weightᵀ, shape (..., n_points, latent)."""
    if y.numel() * weight.shape[-2] > _SMALL:
        return y @ weight.mT
    return (y.unsqueeze(-2) * weight).sum(-1)


def inverse_metric(
    constraint: Any, weight: Float[Tensor, "latent dim"], nodes: int, orthonormal: bool, sizes: Tensor | None
) -> Tensor | None:
    """K Kᵀ of every point of the constraint, (n_points, d, d), by which a step in z moves y = K z; None for I.

    `orthonormal` takes K Kᵀ = I on the caller's word, with `sizes` s (dim,) K Kᵀ = diag(s²): then the points of a
    constraint may also be the single numbers. Raises ValueError where they are other ones than those of z.
    """
    if orthonormal and sizes is None:
        return None
    dim = weight.shape[-1]
    if (dim, nodes) == (constraint.dim, constraint.n_points):
        gram = torch.diag(sizes**2) if orthonormal and sizes is not None else weight.mT @ weight
        return gram.to(weight.dtype).expand(nodes, dim, dim)
    if orthonormal and sizes is not None and constraint.dim == 1:
        return (sizes**2).to(weight.dtype).repeat(nodes)[:, None, None]
    raise ValueError(
        f"y has {nodes} points of {dim} numbers, which are measured by a map whose columns are not orthonormal; "
        f"{constraint.name} has {constraint.n_points} points of {constraint.dim}: make the map orthonormal, or write "
        "the constraint over the same points"
    )
