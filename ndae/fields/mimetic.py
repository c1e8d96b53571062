"""The mimetic graph network of the paper's appendix A.2 (Eliasof et al. 2022)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Latent
from ndae.fields.edges import Edges, read_edges
from ndae.symbolic.ground.arguments import keeps_arguments

ORIGIN = None
"""An end of an edge that is no body but a fixed point at the origin."""


@keeps_arguments
class MimeticField(nn.Module):
    """A vector field on the nodes of a graph whose work is done on its edges, as mimetic finite differences do.

    With `A` the mean of an edge's two ends and `G` their difference, nodes go to edges, products are formed there, and
    the transposes bring the result back:

        e = (A z, G z, A z ⊙ G z, G z ⊙ G z, A z ⊙ A z),   (a, b) = W₂ tanh(W₁ e + β₁) + β₂,   σ(z) = Aᵀ a + Gᵀ b

    `edges`: pairs of node indices, an end of `ORIGIN` (`None`) being a fixed point at the origin, whose latent state is
    zero; `latent`: numbers a node; `hidden`: width on an edge. The weights do not depend on the number of nodes, so
    that a field trained on one chain can be put on a longer one (`on`). Depth `τ` is not an input.

    Raises a `ValueError` for an edge from a node to itself or to a negative index, and if there are no edges.
    """

    first: Tensor
    second: Tensor

    def __init__(self, edges: Edges, latent: int, hidden: int):
        super().__init__()
        self.latent, self.hidden = latent, hidden
        self.read = nn.Linear(5 * latent, hidden)
        self.write = nn.Linear(hidden, 2 * latent)
        self._lay(edges)

    def on(self, edges: Edges) -> "MimeticField":
        """The same weights (shared, not copied) on another graph."""
        other = MimeticField.__new__(MimeticField)
        nn.Module.__init__(other)
        other.latent, other.hidden, other.read, other.write = self.latent, self.hidden, self.read, self.write
        other._lay(edges)
        return other

    def _lay(self, edges: Edges) -> None:
        self.n_nodes, first, second = read_edges(edges, "a mimetic field")
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    def forward(self, tau: Float[Tensor, ""] | float, z: Latent) -> Latent:
        """`σ(z)` `(batch, nodes, latent)`; raises a `ValueError` for another number of nodes than the graph has."""
        if z.shape[-2:] != (self.n_nodes, self.latent):
            raise ValueError(
                f"the graph has {self.n_nodes} nodes of {self.latent} numbers, the state is {tuple(z.shape[-2:])}; "
                "put the field on another graph with `on(edges)`"
            )
        padded = nn.functional.pad(z, (0, 0, 0, 1))
        first, second = padded.index_select(-2, self.first), padded.index_select(-2, self.second)
        mean, gradient = (first + second) / 2, second - first
        edge = torch.cat([mean, gradient, mean * gradient, gradient.square(), mean.square()], -1)
        average, flux = self.write(torch.tanh(self.read(edge))).chunk(2, -1)
        average = average / 2
        out = torch.zeros_like(padded)
        out = out.index_add(-2, self.first, average - flux).index_add(-2, self.second, average + flux)
        return out[..., :-1, :]
