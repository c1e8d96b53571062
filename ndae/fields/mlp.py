"""A plain multilayer perceptron as a vector field."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Latent


class MLPField(nn.Module):
    """`σ(z) = W_L tanh(… tanh(W₁ z + β₁) …) + β_L` over all nodes of a sample at once.

    `nodes` and `latent`: the shape of a sample's state; `hidden`: width; `depth`: number of hidden layers. The output
    layer starts a tenth as large as PyTorch's default, so that a new network moves its state little.
    """

    def __init__(self, nodes: int, latent: int, hidden: int, *, depth: int = 2):
        super().__init__()
        if min(nodes, latent, hidden, depth) < 1:
            raise ValueError(f"nodes={nodes}, latent={latent}, hidden={hidden}, depth={depth}: each is at least 1")
        layers = tanh_layers(nodes * latent, hidden, depth)
        last = nn.Linear(hidden, nodes * latent)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.nodes, self.latent = nodes, latent
        self.network = nn.Sequential(*layers, last)

    def forward(self, tau: Float[Tensor, ""] | float, z: Latent) -> Latent:
        """`σ(z)`, in the shape of `z`; raises a `ValueError` if that is not `(…, nodes, latent)`."""
        if z.shape[-2:] != (self.nodes, self.latent):
            raise ValueError(
                f"the field is over {(self.nodes, self.latent)} numbers, the state is {tuple(z.shape[-2:])}"
            )
        return self.network(z.flatten(-2)).unflatten(-1, (self.nodes, self.latent))


def tanh_layers(n_inputs: int, hidden: int, depth: int) -> list[nn.Module]:
    """`depth` linear layers of width `hidden`, each with a tanh behind it."""
    widths = [n_inputs, *[hidden] * depth]
    return [module for a, b in itertools.pairwise(widths) for module in (nn.Linear(a, b), nn.Tanh())]
