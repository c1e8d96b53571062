"""The maps that open a physical state into the latent space and close it again (eq. 2a and 2c)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class LinearMap(nn.Module):
    """A learnable matrix `W` between `features` physical and `latent` latent numbers of a node.

    With `orthonormal=True` (the default) `Wᵀ W = I` holds for every value of the parameters: then opening keeps
    lengths, `W` closed after `Wᵀ` opened is the identity, and the nearest point on the constraint in the latent space
    is the nearest one in the physical space (`K_c K_cᵀ = I` in eq. 8).

    Raises a `ValueError` if `latent < features`: the physical state would not fit.
    """

    def __init__(self, features: int, latent: int, *, orthonormal: bool = True):
        super().__init__()
        if latent < features:
            raise ValueError(
                f"the latent space has {latent} numbers a node, the physical state {features}: give latent >= {features}"
            )
        self.orthonormal = orthonormal
        weight = torch.empty(latent, features)
        nn.init.orthogonal_(weight)
        self.weight = nn.Parameter(weight)
        if orthonormal:
            parametrizations.orthogonal(self, "weight", orthogonal_map="householder")

    def matrix(self) -> Float[Tensor, "latent features"]:
        """`W`, computed from its parametrisation: ask once a forward pass."""
        return self.weight

    def start_as(self, matrix: Float[Tensor, "latent features"]) -> None:
        """Take `matrix` as the present value (with orthonormal columns where the map keeps them so)."""
        with torch.no_grad():
            self.weight = matrix
