"""Learned potentials, and the conservative force of a potential."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ndae._types import Features, Output
from ndae.fields.edges import Edges, read_edges
from ndae.fields.mlp import tanh_layers
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.users_code.captured import captured

Energy = Float[Tensor, "*batch"]


@keeps_arguments
class PotentialForce(nn.Module):
    """`F = −∇_q V(q)`: the force of a potential, under which `½ vᵀ M v + V(q)` stays what it is.

    Conserved under constraints that do not depend on time, to the order of the integrator. `potential`: a module or
    function from positions `(batch, nodes, dim)` to a number a sample, `(batch,)`, in joules. If it has a method
    `gradient(q)`, as MLPPotential and GraphPotential do, that is used; automatic differentiation otherwise, also where
    gradients are off. Differentiable again either way. Time is not an input. Modules that a function uses are trained.

    Raises a ValueError if the potential gives anything but a number a sample, or does not depend on `q`.
    """

    def __init__(self, potential: Callable[[Output], Energy]):
        super().__init__()
        self.potential, self.captured = potential, captured(potential)

    def energy(self, q: Output) -> Energy:
        """`V(q)` of each sample, in joules."""
        energy = self.potential(q)
        if energy.shape != q.shape[:-2]:
            raise ValueError(
                f"the potential has shape {tuple(energy.shape)} for positions {tuple(q.shape)}, expected "
                f"{tuple(q.shape[:-2])}: a number a sample"
            )
        return energy

    def forward(self, t: Any, y: Features) -> Output:
        """Forces `(batch, nodes, dim)` at states `(batch, nodes, 2 dim)`, in newtons."""
        q = y[..., : y.shape[-1] // 2]
        gradient = getattr(self.potential, "gradient", None)
        return -(self._differentiated(q) if gradient is None else gradient(q))

    def _differentiated(self, q: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            # A start that wants no gradient is no part of any graph; one that does has to stay in its own.
            return self._slope(q if q.requires_grad else q.detach().requires_grad_(), create_graph=True)
        # Validation loops run in inference mode, whose tensors take no part in differentiation: hence the copy.
        with torch.inference_mode(False), torch.enable_grad():
            return self._slope(q.clone().detach().requires_grad_(), create_graph=False)

    def _slope(self, q: Tensor, create_graph: bool) -> Tensor:
        energy = self.energy(q)
        if not energy.requires_grad:
            raise ValueError("the potential does not depend on q: write V(q) in torch, without detach() or no_grad()")
        (slope,) = torch.autograd.grad(energy.sum(), q, create_graph=create_graph, materialize_grads=True)
        return slope


@keeps_arguments
class MLPPotential(nn.Module):
    """`V(q) = wᵀ tanh(… tanh(W₁ q + β₁) …)`, in joules, over the positions of all nodes at once.

    `nodes`, `dim`: of the system; `hidden`, `depth`: width and number of hidden layers. `linear=True` adds `a·q`, which
    holds a uniform field (weight) exactly, and beyond the samples too; `a` is in N. `w` and `a` start at zero, so that
    an untrained potential has no slope. A constant in V would be no force, so there is none. Raises a ValueError for
    sizes below one, and for positions of another shape.
    """

    def __init__(self, nodes: int, dim: int, hidden: int = 64, *, depth: int = 2, linear: bool = False):
        super().__init__()
        if min(nodes, dim, hidden, depth) < 1:
            raise ValueError(f"nodes={nodes}, dim={dim}, hidden={hidden}, depth={depth}: each is at least 1")
        self.nodes, self.dim = nodes, dim
        self.network = ScalarNetwork(nodes * dim, hidden, depth)
        self.linear = nn.Parameter(torch.zeros(nodes * dim)) if linear else None

    def forward(self, q: Output) -> Energy:
        """`V(q)` `(batch,)` at positions `(batch, nodes, dim)`."""
        flat = self._flat(q)
        energy = self.network(flat)
        return energy if self.linear is None else energy + flat @ self.linear

    def gradient(self, q: Output) -> Output:
        """`∇V(q)` `(batch, nodes, dim)` in closed form: `a + W₁ᵀ ((1 − h₁²) ∘ … W_Lᵀ ((1 − h_L²) ∘ w))`, with `h` what
        the layers give."""
        slope = self.network.gradient(self._flat(q))
        slope = slope if self.linear is None else slope + self.linear
        return slope.unflatten(-1, (self.nodes, self.dim))

    def _flat(self, q: Tensor) -> Tensor:
        if q.shape[-2:] != (self.nodes, self.dim):
            raise ValueError(f"the potential is over {(self.nodes, self.dim)} numbers, q has {tuple(q.shape[-2:])}")
        return q.flatten(-2)


@keeps_arguments
class GraphPotential(nn.Module):
    """`V(q) = Σ_i U(q_i) + Σ_(i,j) W(d, |d|²)`, in joules, `d = q_j − q_i`: one network U for nodes, one W for edges.

    U knows where a node is (weight, a field from outside); W what lies between two nodes, wherever they are, and which
    of them is named first. `edges` as in MimeticField: pairs of node indices, an end of `ORIGIN` (`None`) being the
    origin. On a link of fixed length a W of the distance alone would move nothing, hence `d`. The weights know nothing
    of the number of nodes: `on(edges)` puts them on another graph. `hidden`, `depth`: of both networks. No slope at the
    start.

    Raises a ValueError for sizes below one, for no edges, for an edge that joins no two nodes, and for positions of
    another shape.
    """

    first: Tensor
    second: Tensor

    def __init__(self, edges: Edges, dim: int, hidden: int = 64, *, depth: int = 1):
        super().__init__()
        if min(dim, hidden, depth) < 1:
            raise ValueError(f"dim={dim}, hidden={hidden}, depth={depth}: each is at least 1")
        self.dim = dim
        self.node = ScalarNetwork(dim, hidden, depth)
        self.edge = ScalarNetwork(dim + 1, hidden, depth)
        self._lay(edges)

    def on(self, edges: Edges) -> "GraphPotential":
        """The same weights (shared, not copied) on another graph."""
        other = GraphPotential.__new__(GraphPotential)
        nn.Module.__init__(other)
        other.dim, other.node, other.edge = self.dim, self.node, self.edge
        other._lay(edges)
        return other.to(self.first.device)

    def _lay(self, edges: Edges) -> None:
        self.nodes, first, second = read_edges(edges, "a graph potential")
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    def forward(self, q: Output) -> Energy:
        """`V(q)` `(batch,)` at positions `(batch, nodes, dim)`."""
        return self.node(self._checked(q)).sum(-1) + self.edge(self._pairs(q)).sum(-1)

    def gradient(self, q: Output) -> Output:
        """`∇V(q)` `(batch, nodes, dim)` in closed form."""
        at_nodes, pairs = self.node.gradient(self._checked(q)), self._pairs(q)
        along, of_square = self.edge.gradient(pairs).split([self.dim, 1], -1)
        pull = torch.addcmul(along, pairs[..., : self.dim], of_square, value=2)
        total = functional.pad(at_nodes, (0, 0, 0, 1))
        return total.index_add(-2, self.second, pull).index_add(-2, self.first, pull, alpha=-1)[..., :-1, :]

    def _pairs(self, q: Tensor) -> Tensor:
        padded = functional.pad(q, (0, 0, 0, 1))
        d = padded.index_select(-2, self.second) - padded.index_select(-2, self.first)
        return torch.cat([d, d.square().sum(-1, keepdim=True)], -1)

    def _checked(self, q: Tensor) -> Tensor:
        if q.shape[-2:] != (self.nodes, self.dim):
            raise ValueError(
                f"the graph has {self.nodes} nodes in {self.dim} dimensions, q has {tuple(q.shape[-2:])}; put the "
                "potential on another graph with `on(edges)`"
            )
        return q


class ScalarNetwork(nn.Module):
    """`wᵀ tanh(… tanh(W₁ x + β₁) …)`, w zero at the start, and its gradient with respect to x."""

    def __init__(self, n_inputs: int, hidden: int, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(tanh_layers(n_inputs, hidden, depth)[::2])  # linear ones; each has a tanh behind it
        self.last = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Float[Tensor, "*shape n_inputs"]) -> Float[Tensor, "*shape"]:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x @ self.last

    def gradient(self, x: Float[Tensor, "*shape n_inputs"]) -> Float[Tensor, "*shape n_inputs"]:
        passed = []
        layer: Any
        for layer in self.layers:
            weight = layer.weight
            x = torch.tanh(functional.linear(x, weight, layer.bias))
            passed.append((weight, x))
        slope = self.last.expand_as(x)
        for weight, h in reversed(passed):
            slope = torch.ops.aten.tanh_backward(slope, h) @ weight  # (1 − h²) ∘ slope, as one operation
        return slope
