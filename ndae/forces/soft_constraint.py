"""A constraint that holds only nearly, as a potential with learned stiffness and rest values."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Output
from ndae.forces.potentials import Energy, ScalarNetwork
from ndae.solvers.tensors import compiled
from ndae.symbolic.ground.arguments import keeps_arguments


@keeps_arguments
class SoftConstraint(nn.Module):
    """`V(q) = Σ ½ dᵀ K d + U(d)` over the instances of a constraint, `d = c(q) − b`: what bonds do that are not rigid.

    The penalty of eq. (14) with H learned, as a potential in time: `−∇V = −Jᵀ (K d + ∇U)`. The stiffness K, symmetric
    and positive definite (`K = k L Lᵀ`), and the rest values b are those of one instance of the template and shared by
    all; of a distance, b is how much longer it is at rest. U, a small network without linear or quadratic task of its
    own, is what is anharmonic.

    - `constraint`: symbolic or compiled, a template of `n_local` residuals an instance (a plain list is one instance).
    - `stiffness` k: where K starts, k times the identity; in energy per squared unit of the constraint.
    - `size`: a typical violation, in the constraint's unit, by which b and the network's inputs are scaled.
    - `alike`: groups of local residuals that are alike, such as `[(0, 1)]` for the two O-H distances of water: V does
      not change if two of them change places. (The exchange must be one that an exchange of points brings about.)
    - `anharmonic`: width of U's two hidden layers; 0 for none.

    Use it in a PotentialForce. Raises ValueError for a stiffness or size that is not positive, and for residuals in
    `alike` that there are not, or that are in two groups.
    """

    constraint: Any
    orders: Tensor

    def __init__(
        self,
        constraint: Any,
        stiffness: float,
        *,
        size: float = 0.1,
        alike: Sequence[Sequence[int]] = (),
        anharmonic: int = 0,
    ):
        super().__init__()
        constraint = compiled(constraint)
        for name, value in (("stiffness", stiffness), ("size", size)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}={value!r}: expected a positive number")
        n = constraint.n_local
        members = [i for group in alike for i in group]
        if len(set(members)) != len(members) or not set(members) <= set(range(n)):
            raise ValueError(f"alike={list(alike)!r}: expected disjoint groups of residuals among 0 to {n - 1}")
        self.constraint, self.k, self.size = constraint, float(stiffness), float(size)
        self.factor = nn.Parameter(torch.eye(n))
        self.rest = nn.Parameter(torch.zeros(n))
        self.network = ScalarNetwork(n, anharmonic, 2) if anharmonic else None
        self.register_buffer("orders", torch.tensor(_orders(n, alike)), persistent=False)

    @property
    def stiffness(self) -> Float[Tensor, "n_local n_local"]:
        """K, symmetric and positive definite."""
        K = self.k * (self.factor @ self.factor.mT)
        return torch.stack([K[order][:, order] for order in self.orders]).mean(0)

    @property
    def rest_values(self) -> Float[Tensor, " n_local"]:
        """b, in the constraint's unit."""
        return self.size * self.rest[self.orders].mean(0)

    def forward(self, q: Output) -> Energy:
        """`V(q)` `(batch,)` at positions `(batch, nodes, dim)`."""
        d = self._residual(q)
        energy = ((d @ self.stiffness) * d).sum((-2, -1)) / 2
        if self.network is None:
            return energy
        share = self.k * self.size**2 / len(self.orders)
        return energy + share * self.network(d[..., self.orders] / self.size).sum((-2, -1))

    def gradient(self, q: Output) -> Output:
        """`∇V(q)` `(batch, nodes, dim)`: Jᵀ (K d + ∇U(d))."""
        d = self._residual(q)
        pull = d @ self.stiffness
        if self.network is not None:
            slopes = self.network.gradient(d[..., self.orders] / self.size)
            back = self.orders.argsort(-1).expand_as(slopes)
            pull = pull + self.k * self.size / len(self.orders) * slopes.gather(-1, back).sum(-2)
        return self.constraint.vjp(q.flatten(-2), pull.flatten(-2)).unflatten(-1, q.shape[-2:])

    def _residual(self, q: Tensor) -> Tensor:
        c = self.constraint.residual(q.flatten(-2))
        return c.unflatten(-1, (-1, self.constraint.n_local)) - self.rest_values


def _orders(n: int, alike: Sequence[Sequence[int]]) -> list[list[int]]:
    """All orders of n residuals in which those alike change places."""
    orders = [list(range(n))]
    for group in alike:
        changed = []
        for order in orders:
            for permuted in itertools.permutations(group):
                new = list(order)
                for place, member in zip(group, permuted, strict=True):
                    new[place] = order[member]
                changed.append(new)
        orders = changed
    return orders
