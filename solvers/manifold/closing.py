"""The closing map y = K z of every point and its transpose, K = `weight`ᵀ."""

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
