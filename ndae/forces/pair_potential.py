"""A potential of distances between atoms of different molecules: one learned function for each pair of kinds."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Output
from ndae.forces.potentials import Energy
from ndae.symbolic.ground.arguments import keeps_arguments

# Six times the powers of t of the four cubic B-splines that an interval of knots has, for t in [0, 1].
_CUBIC = [[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]


@keeps_arguments
class PairPotential(nn.Module):
    """`V(q) = Σ W_ab(|q_i − q_j|)` over all pairs of nodes of different groups, `a` and `b` their kinds.

    `W_ab(r) = A_ab / r + S_ab(r)`: a tail, which charges have, and a cubic spline, with `n_knots` intervals from
    `shortest` to `cutoff`, where it ends with slope and curvature zero. A and S are learned, for each pair of kinds;
    below `shortest` S goes on straight. Invariant under all motions of space and exchanges of nodes of a kind within
    a group, and of like groups.

    - `kinds` (nodes,), `groups` (nodes,): of each node, as numbers or names: element and molecule.
    - `energy`: a typical energy of a pair; `shortest`, `cutoff` and the tail's A / energy are in units of length.

    Use it in a PotentialForce. Raises ValueError for kinds and groups of different lengths, for no pair, and for
    numbers that are not positive.
    """

    which: Tensor
    above: Tensor
    below: Tensor
    cubic: Tensor

    def __init__(
        self,
        kinds: Sequence,
        groups: Sequence,
        *,
        energy: float,
        shortest: float,
        cutoff: float,
        n_knots: int = 44,
    ):
        super().__init__()
        if len(kinds) != len(groups):
            raise ValueError(f"{len(kinds)} kinds and {len(groups)} groups: expected one of each for every node")
        if not (math.isfinite(energy) and energy > 0 and 0 <= shortest < cutoff < math.inf and n_knots >= 4):
            raise ValueError(
                f"energy={energy!r}, shortest={shortest!r}, cutoff={cutoff!r}, n_knots={n_knots!r}: expected a "
                "positive energy, shortest below cutoff, and at least 4 knots"
            )
        first, second = torch.triu_indices(len(kinds), len(kinds), 1)
        apart = _numbered(groups)[first] != _numbered(groups)[second]
        if not apart.any():
            raise ValueError("all nodes are of one group, so that there is no pair: give the molecule of each atom")
        first, second = first[apart], second[apart]
        names = sorted(set(kinds), key=str)
        kind = torch.tensor([names.index(k) for k in kinds])
        low, high = torch.minimum(kind[first], kind[second]), torch.maximum(kind[first], kind[second])
        pairs, which = torch.unique(low * len(names) + high, return_inverse=True)
        self.pairs = [(names[int(p) // len(names)], names[int(p) % len(names)]) for p in pairs]
        self.nodes, self.energy, self.shortest, self.cutoff = len(kinds), float(energy), float(shortest), float(cutoff)
        self.n_knots, self.spacing = n_knots, (cutoff - shortest) / n_knots
        self.tail = nn.Parameter(torch.zeros(len(pairs)))
        self.knots = nn.Parameter(torch.zeros(len(pairs), n_knots))
        for name, buffer in {
            "which": which,
            "above": first * len(kinds) + second,
            "below": second * len(kinds) + first,
            "cubic": torch.tensor(_CUBIC, dtype=torch.get_default_dtype()),
        }.items():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, q: Output) -> Energy:
        """`V(q)` `(batch,)` at positions `(batch, nodes, dim)`."""
        r, powers, t, beyond = self._at(q)
        value = powers[..., 0] + t * (powers[..., 1] + t * (powers[..., 2] + t * powers[..., 3]))
        value = value + beyond * powers[..., 1]
        return (value + self._tails() / r).sum(-1)

    def gradient(self, q: Output) -> Output:
        """`∇V(q)` `(batch, nodes, dim)`: on node i, Σ_j W'(r) (q_i − q_j) / r."""
        r, powers, t, _ = self._at(q)
        slope = (powers[..., 1] + t * (2 * powers[..., 2] + 3 * t * powers[..., 3])) / self.spacing
        pull = (slope - self._tails() / r.square()) / r
        # As a symmetric matrix of all nodes: a product takes the place of a sum over scattered pairs.
        full = pull.new_zeros((*pull.shape[:-1], self.nodes**2))
        full = full.index_copy(-1, self.above, pull).index_copy(-1, self.below, pull)
        full = full.unflatten(-1, (self.nodes, self.nodes))
        return full.sum(-1, keepdim=True) * q - full @ q

    def _tails(self) -> Tensor:
        return (self.energy * self.tail)[self.which]

    def _at(self, q: Tensor) -> tuple[Tensor, Float[Tensor, "*pairs 4"], Tensor, Tensor]:
        """Of every pair: the distance, the powers of its interval, where in that it is, and how far below the first."""
        if q.shape[-2] != self.nodes:
            raise ValueError(f"the potential is over {self.nodes} nodes, q has {q.shape[-2]}")
        away = (q.unsqueeze(-2) - q.unsqueeze(-3)).square().sum(-1).flatten(-2)
        r = away.index_select(-1, self.above).sqrt()
        u = (r - self.shortest) / self.spacing
        inside = u.clamp(0, self.n_knots)
        interval = inside.detach().long().clamp_max(self.n_knots - 1)
        rows = self.powers().flatten(0, 1).index_select(0, (self.which * self.n_knots + interval).flatten())
        # At the cutoff all powers but the constant's are zero there, so that what lies beyond has none of its own.
        return r, rows.unflatten(0, interval.shape), inside - interval, (u - inside).clamp_max(0)

    def powers(self) -> Float[Tensor, "pairs n_knots 4"]:
        """The spline as a polynomial in each interval: coefficients of 1, t, t², t³."""
        padded = nn.functional.pad(self.energy / 6 * self.knots, (0, 3))
        return padded.unfold(-1, 4, 1) @ self.cubic.mT


def _numbered(names: Sequence) -> Tensor:
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([known[name] for name in names])
