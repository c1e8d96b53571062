"""Forces of a NeuralMotion: a plain network over all nodes, and a graph network whose size does not depend on them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ndae._types import Features, Output
from ndae.fields import MimeticField
from ndae.fields.mlp import tanh_layers
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.users_code.captured import captured


@keeps_arguments
class MLPForce(nn.Module):
    """`F = W_L tanh(… tanh(W₁ y + β₁) …) + β_L` over positions and velocities of all nodes at once.

    `nodes`, `dim`: of the system; `hidden`, `depth`: width and number of hidden layers. The last layer starts at zero,
    so that an untrained motion is free of forces but for the constraint's. Time is not an input.
    """

    def __init__(self, nodes: int, dim: int, hidden: int = 64, *, depth: int = 2):
        super().__init__()
        if min(nodes, dim, hidden, depth) < 1:
            raise ValueError(f"nodes={nodes}, dim={dim}, hidden={hidden}, depth={depth}: each is at least 1")
        layers = tanh_layers(2 * nodes * dim, hidden, depth)
        self.network = nn.Sequential(*layers, _silent(nn.Linear(hidden, nodes * dim)))

    def forward(self, t: Any, y: Features) -> Output:
        """Forces `(batch, nodes, dim)` at states `(batch, nodes, 2 dim)`, in newtons."""
        return self.network(y.flatten(-2)).unflatten(-1, (y.shape[-2], y.shape[-1] // 2))


@keeps_arguments
class GraphForce(nn.Module):
    """A force on every node from itself and from its edges: `F_i = N(v_i) + (a mimetic graph network)_i`.

    `N` is a small network of the node's velocity, the same for every node (weight, drag); the rest a MimeticField
    (Eliasof et al. 2022) over the states at the two ends of an edge. The weights know nothing of the number of nodes:
    `on(edges)` puts them on another graph. Both start at zero. `edges` as in MimeticField.
    """

    def __init__(self, edges: Sequence[Sequence[int | None]], dim: int, hidden: int = 64):
        super().__init__()
        self.dim = dim
        self.node = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), _silent(nn.Linear(hidden, dim)))
        self.edge = MimeticField(edges, latent=2 * dim, hidden=hidden)
        _silent(self.edge.write)

    def on(self, edges: Sequence[Sequence[int | None]]) -> "GraphForce":
        """The same weights (shared, not copied) on another graph."""
        other = GraphForce.__new__(GraphForce)
        nn.Module.__init__(other)
        other.dim, other.node, other.edge = self.dim, self.node, self.edge.on(edges)
        return other

    def forward(self, t: Any, y: Features) -> Output:
        """Forces `(batch, nodes, dim)` at states `(batch, nodes, 2 dim)`, in newtons."""
        return self.node(y[..., self.dim :]) + self.edge(t, y)[..., self.dim :]


@keeps_arguments
class SumForce(nn.Module):
    """The sum of several forces, modules or functions `F(t, y)`: those that are known, and those to be learned.

    Modules and parameters that functions use are found and trained as well (see `ndae.users_code.captured`). Forces
    that depend on the masses (`takes_mass`, as a SystemForce with weight) get those that are learned.
    """

    def __init__(self, forces: Sequence[Callable[[Any, Features], Output]]):
        super().__init__()
        if not forces:
            raise ValueError("a sum of no forces: give at least one")
        self.parts = tuple(forces)
        self.modules_of_parts = nn.ModuleList(force for force in forces if isinstance(force, nn.Module))
        self.captured = captured(*forces)
        self.takes_mass = any(getattr(force, "takes_mass", False) for force in forces)

    def forward(self, t: Any, y: Features, mass: Any = None) -> Output:
        """Forces `(batch, nodes, dim)` at states `(batch, nodes, 2 dim)`, in newtons; `mass` (nodes,) where it is
        learned."""
        first, *others = (force_at(force, t, y, mass) for force in self.parts)
        return sum(others, first)


def force_at(force: Callable, t: Any, y: Features, mass: Any = None) -> Output:
    """`force(t, y)`, told the masses (nodes,) if these are not None and the force depends on them."""
    return force(t, y, mass=mass) if mass is not None and getattr(force, "takes_mass", False) else force(t, y)


def check_masses(force: Callable, held: nn.Module | None, masses: Any) -> None:
    """Raise ValueError where a force that depends on masses has others than the motion, or would not be told those
    that are learned, being inside of another force."""
    told = _told(force)
    for part in told:
        if hasattr(part, "check_masses"):
            part.check_masses(masses)
    everything: list[Any] = [
        module for root in (force, held) if isinstance(root, nn.Module) for module in root.modules()
    ]
    for module in everything:
        if masses.raw is not None and hasattr(module, "check_masses") and all(module is not part for part in told):
            module.check_masses(masses)
            if module.takes_mass:
                raise ValueError(
                    f"the motion learns masses, and {type(module).__name__} of {module.name}, which depends on them, "
                    "is inside of another force, which does not pass them on: give force=[..., ...] with it as a part"
                )


def _told(force: Callable) -> list[Callable]:
    """The forces that a sum passes masses on to."""
    return [part for each in force.parts for part in _told(each)] if isinstance(force, SumForce) else [force]


def _silent(last: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    return last
