"""The maps that open a physical state into the latent space and close it again (eq. 2a and 2c)."""

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae.constants import WithConstants
from ndae.symbolic.ground.arguments import keeps_arguments


class NodeMap(Protocol):
    """What a map of one's own has, beside being a module."""

    orthonormal: bool

    def matrix(self) -> Tensor:
        """`W` `(latent, features)`, of this forward pass."""
        ...


@keeps_arguments
class LinearMap(nn.Module):
    """A learnable matrix `W` between `features` physical and `latent` latent numbers of a node.

    With `orthonormal=True` (the default) `W` is the orthonormal factor of the free parameter, so that `Wᵀ W = I` holds
    for all its values: then opening keeps lengths, and the nearest point on the constraint in the latent space is the
    nearest one in the physical space (`K_c K_cᵀ = I` in eq. 8).

    Raises a `ValueError` if `latent < features`: the physical state would not fit.
    """

    def __init__(self, features: int, latent: int, *, orthonormal: bool = True):
        super().__init__()
        if latent < features:
            raise ValueError(
                f"the latent space has {latent} numbers a node, the physical state {features}: "
                f"give latent >= features, that is at least {features}"
            )
        self.orthonormal = orthonormal
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(latent, features)))

    def matrix(self) -> Float[Tensor, "latent features"]:
        """`W`, computed from its parameter: ask once a forward pass."""
        if not self.orthonormal:
            return self.weight
        # QR with a positive diagonal, by Cholesky: the parameter stays well conditioned, as scaling changes nothing.
        factor = torch.linalg.cholesky(self.weight.mT @ self.weight)
        return torch.linalg.solve_triangular(factor, self.weight.mT, upper=False).mT

    def start_as(self, matrix: Float[Tensor, "latent features"]) -> None:
        """Take `matrix` as the present value (with orthonormal columns where the map keeps them so)."""
        with torch.no_grad():
            self.weight.copy_(matrix)


@keeps_arguments
class FixedMap(WithConstants):
    """A matrix `W` `(latent, features)` as it is given: nothing is learned.

    Raises a `ValueError` unless its columns are orthonormal, `Wᵀ W = I`.
    """

    weight: Tensor
    orthonormal = True

    def __init__(self, matrix: Float[Tensor, "latent features"]):
        super().__init__()
        error = float((matrix.mT @ matrix - torch.eye(matrix.shape[1], dtype=matrix.dtype)).abs().max())
        if not error < 1e-6:
            raise ValueError(
                f"a fixed map has orthonormal columns; here an entry of Wᵀ W differs from I by {error:.1g}"
            )
        self.keep("weight", matrix)

    def matrix(self) -> Float[Tensor, "latent features"]:
        """`W`."""
        return self.weight
