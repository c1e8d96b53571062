"""A plain multilayer perceptron as a vector field."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Latent
from ndae.symbolic.ground.arguments import keeps_arguments


@keeps_arguments
class MLP(nn.Module):
    """A smooth function of `n_in` numbers with `n_out` values, (..., n_in) -> (..., n_out), in float64.

    `hidden` units in each of `depth` hidden layers, tanh between them; `scale` is the size of the values, where that is
    far from one. The last layer starts a tenth as large as PyTorch's default. Arguments are counted in their own mean
    and spread, which `fit` takes from the recordings before it trains (`scale_to`).
    """

    shift: Tensor
    spread: Tensor
    scaled: Tensor

    def __init__(self, n_in: int, n_out: int = 1, hidden: int = 16, *, depth: int = 2, scale: float = 1.0):
        super().__init__()
        if min(n_in, n_out, hidden, depth) < 1:
            raise ValueError(f"n_in={n_in}, n_out={n_out}, hidden={hidden}, depth={depth}: each is at least 1")
        if not (scale > 0 and scale < float("inf")):
            raise ValueError(f"scale is the size of the values, positive and finite, not {scale!r}")
        last = nn.Linear(hidden, n_out)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.n_in, self.n_out, self.scale = n_in, n_out, float(scale)
        self.network = nn.Sequential(*tanh_layers(n_in, hidden, depth), last).double()
        self.register_buffer("shift", torch.zeros(n_in).double())
        self.register_buffer("spread", torch.ones(n_in).double())
        self.register_buffer("scaled", torch.tensor(False))

    def scale_to(self, x: Tensor) -> None:
        """Count arguments by what they are at points (n, n_in); done once, before weights mean anything."""
        if bool(self.scaled):
            return
        spread, size = x.std(0, unbiased=False), x.abs().amax(0)
        self.shift.copy_(x.mean(0))
        self.spread.copy_(torch.where(spread > 1e-9 * size, spread, torch.where(size > 0, size, 1.0)))
        self.scaled.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """Values at points."""
        return self.scale * self.network((x - self.shift) / self.spread)


@keeps_arguments
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
