"""The equivariant network of the paper's appendix A.1, on e3nn, with one node a molecule."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ndae._types import Latent
from ndae.fields.molecules import Geometry, Molecule, Surroundings
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.symbolic.ground.extras import needing

with needing("an equivariant network"):
    from e3nn import o3

KINDS = ("0e", "0o", "1o", "1e")
"""Scalars, pseudo-scalars, vectors, pseudo-vectors."""

Nodes = Float[Tensor, "nodes _"]


@dataclass(frozen=True)
class Channels:
    """How many scalars, pseudo-scalars, vectors and pseudo-vectors a node has that an exchange of its like atoms leaves
    as they are (even), and how many that it turns round (odd), in this order.

    `blocks`: (number, kind, grade), the grade being 0 or 1; a kind may come more than once.
    """

    blocks: tuple[tuple[int, str, int], ...]

    @staticmethod
    def of(even: Sequence[int], odd: Sequence[int] = (0, 0, 0, 0)) -> "Channels":
        """The channels with so many of each kind."""
        return Channels(
            tuple(
                (n, kind, grade)
                for grade, counts in enumerate((even, odd))
                for n, kind in zip(counts, KINDS, strict=True)
                if n
            )
        )

    def __add__(self, other: "Channels") -> "Channels":
        return Channels(self.blocks + other.blocks)

    @property
    def irreps(self) -> o3.Irreps:
        """As representations of O(3), block by block."""
        irreps: Any = o3.Irreps([(n, kind) for n, kind, _ in self.blocks])  # e3nn's class is not typed right
        return irreps

    @property
    def dim(self) -> int:
        """Numbers a node."""
        return self.irreps.dim

    def start(self, kind: str, grade: int) -> int:
        """Where the first block of a kind and grade begins."""
        for block, place in zip(self.blocks, self.irreps.slices(), strict=True):
            if block[1:] == (kind, grade):
                return place.start
        raise ValueError(f"there are no channels of kind {kind} and grade {grade}")


def _numbers(kind: str) -> int:
    irrep: Any = o3.Irrep(kind)
    return irrep.dim


def graded_linear(inside: Channels, outside: Channels, *, bias: bool = False) -> o3.Linear:
    """A linear map that mixes channels of one kind and one grade."""
    joined = [
        (i, j)
        for (i, a), (j, b) in itertools.product(enumerate(inside.blocks), enumerate(outside.blocks))
        if a[1:] == b[1:]
    ]
    biases = [bias and block[1:] == ("0e", 0) for block in outside.blocks]
    return o3.Linear(inside.irreps, outside.irreps, instructions=joined, biases=biases)


class GradedGate(nn.Module):
    """`silu` of even scalars, and everything else times the logistic function of one more even scalar each."""

    gate_of: Tensor

    def __init__(self, channels: Channels):
        super().__init__()
        scalars = tuple(block for block in channels.blocks if block[1:] == ("0e", 0))
        others = tuple(block for block in channels.blocks if block[1:] != ("0e", 0))
        gates = sum(n for n, *_ in others)
        self.inside = Channels((*scalars, (gates, "0e", 0), *others))
        self.outside = Channels((*scalars, *others))
        self.sizes = [sum(n for n, *_ in scalars), gates, Channels(others).dim]
        repeats = torch.tensor([_numbers(kind) for n, kind, _ in others for _ in range(n)])
        self.register_buffer("gate_of", torch.arange(gates).repeat_interleave(repeats), persistent=False)

    def forward(self, x: Nodes) -> Nodes:
        scalars, gates, others = x.split(self.sizes, -1)
        gates = torch.sigmoid(gates).index_select(-1, self.gate_of)
        # Twice the logistic function is one at zero; silu is scaled to keep the variance of normal numbers.
        return torch.cat([1.68 * functional.silu(scalars), 2 * gates * others], -1)


class SelfProduct(nn.Module):
    """All products, up to vectors, of `width` pairs of channels for every two kinds and grades: of scalars, of a scalar
    and a vector, and the inner and outer product of vectors.

    Even times even and odd times odd is even, even times odd is odd; parities multiply. These are the numbers that
    e3nn's TensorProduct gives (normalisation "component"), in a dozen operations instead of hundreds.
    """

    to_left: Tensor
    to_right: Tensor
    from_out: Tensor

    def __init__(self, channels: Channels, width: int):
        super().__init__()
        present = dict.fromkeys(block[1:] for block in channels.blocks)
        pairs = [
            (a, b)
            for a, b in itertools.product(present, present)
            if KINDS.index(a[0]) <= KINDS.index(b[0]) and (a[0] != b[0] or a[1] <= b[1])
        ]
        scalars = [(a, b) for a, b in pairs if _is_scalar(a) and _is_scalar(b)]
        mixed = [(a, b) for a, b in pairs if _is_scalar(a) and not _is_scalar(b)]
        vectors = [(a, b) for a, b in pairs if not _is_scalar(a)]
        self.left, to_left = _laid_out(channels, [a for a, _ in scalars + mixed + vectors], width)
        self.right, to_right = _laid_out(channels, [b for _, b in scalars + mixed + vectors], width)
        inner = [_product(a, b, "0") for a, b in scalars + vectors]
        outer = [_product(a, b, "1") for a, b in mixed + vectors]
        self.outside, from_out = _sorted_channels(inner + outer, width)
        self.register_buffer("to_left", to_left, persistent=False)
        self.register_buffer("to_right", to_right, persistent=False)
        self.register_buffer("from_out", torch.argsort(from_out), persistent=False)
        n_scalars, n_mixed, n_vectors = (width * len(part) for part in (scalars, mixed, vectors))
        self.left_sizes = [n_scalars, n_mixed, 3 * n_vectors]
        self.right_sizes = [n_scalars, 3 * n_mixed, 3 * n_vectors]

    def forward(self, x: Nodes) -> Nodes:
        s, t, v = self.left(x).index_select(-1, self.to_left).split(self.left_sizes, -1)
        r, u, w = self.right(x).index_select(-1, self.to_right).split(self.right_sizes, -1)
        u, v, w = (part.unflatten(-1, (-1, 3)) for part in (u, v, w))
        inner = [s * r, (v * w).sum(-1) / math.sqrt(3)]
        outer = [t.unsqueeze(-1) * u, torch.linalg.cross(v, w) / math.sqrt(2)]
        products = torch.cat([*inner, *(part.flatten(-2) for part in outer)], -1)
        return products.index_select(-1, self.from_out)


Slot = tuple[str, int]


def _is_scalar(slot: Slot) -> bool:
    return slot[0] in ("0e", "0o")


def _product(a: Slot, b: Slot, degree: str) -> Slot:
    """The kind and grade of a product that is a scalar (degree "0") or a vector ("1")."""
    return degree + ("e" if a[0][1] == b[0][1] else "o"), a[1] ^ b[1]


def _sorted_channels(slots: Sequence[Slot], width: int) -> tuple[Channels, Tensor]:
    """Channels that hold `width` of a kind and grade for every slot, and where the numbers of each slot are in them."""
    channels = Channels.of(*[[width * slots.count((kind, grade)) for kind in KINDS] for grade in (0, 1)])
    taken: dict[Slot, int] = {}
    places = []
    for slot in slots:
        size = width * _numbers(slot[0])
        begin = channels.start(*slot) + taken.get(slot, 0)
        taken[slot] = taken.get(slot, 0) + size
        places.append(torch.arange(begin, begin + size))
    return channels, torch.cat(places)


def _laid_out(channels: Channels, slots: Sequence[Slot], width: int) -> tuple[o3.Linear, Tensor]:
    factors, places = _sorted_channels(slots, width)
    return graded_linear(channels, factors), places


class RadialWeights(nn.Module):
    """`W₂ silu(W₁ f)`, with f the functions of the distances between the atoms of two molecules, summed over those
    between like atoms."""

    alike: Tensor

    def __init__(self, geometry: Geometry, hidden: int, n_weights: int):
        super().__init__()
        kinds = geometry.molecule.kinds
        self.first = nn.Parameter(torch.randn(hidden, kinds.shape[1] ** 2, geometry.n_functions))
        self.second = nn.Parameter(torch.randn(n_weights, hidden))
        self.register_buffer("alike", torch.kron(kinds, kinds).to(torch.get_default_dtype()), persistent=False)

    def forward(self, radial: Float[Tensor, "nodes functions slots"]) -> Float[Tensor, "nodes _ slots"]:
        first = torch.matmul(self.alike, self.first).flatten(1) / math.sqrt(self.first[0].numel())
        second = self.second * (1.68 / math.sqrt(self.second.shape[1]))
        # Of one matrix and a stack, matmul would turn the stack about in memory.
        h = functional.silu(torch.bmm(first.expand(len(radial), -1, -1), radial))
        return torch.bmm(second.expand(len(radial), -1, -1), h)


class Convolution(nn.Module):
    """`Σ_j w(d_ij) (x_j ⊗ Y(r_ij))` over the molecules around, with Y a constant and the direction, up to vectors.

    `sent`: even channels of each kind that molecules send; `hidden`: width of the network from functions of distances
    to the weights w.
    """

    places: Tensor

    def __init__(self, geometry: Geometry, *, sent: int, hidden: int):
        super().__init__()
        self.inside = Channels.of((sent,) * 4)
        # Of a scalar: times a constant, times the direction; of a vector: inner product, outer product, as it is.
        received = [(kind, 0) for kind in ("0e", "0o", "1o", "1e", "0e", "0o", "1e", "1o", "1o", "1e")]
        self.outside, places = _sorted_channels(received, sent)
        self.register_buffer("places", torch.argsort(places), persistent=False)
        self.sent, self.neighbours = sent, geometry.neighbours
        self.weights = RadialWeights(geometry, hidden, 10 * sent)

    def forward(self, x: Nodes, around: Surroundings) -> Nodes:
        sent = x.index_select(0, around.sender.flatten()).unflatten(0, around.sender.shape).mT
        s, v = sent.split([2 * self.sent, 6 * self.sent], 1)
        weights = self.weights(around.radial) * (around.envelope / math.sqrt(self.neighbours))
        on_s, on_v = weights.split([4 * self.sent, 6 * self.sent], 1)
        # Weighted, and then summed over the molecules around with each of their harmonics.
        y = around.harmonics.mT
        s = torch.matmul((on_s.unflatten(1, (2, -1)) * s.unsqueeze(1)).flatten(1, 2), y).unflatten(1, (2, -1))
        v = on_v.unflatten(1, (3, -1, 1)) * v.unflatten(1, (1, -1, 3))
        v = torch.matmul(v.flatten(1, 3), y).unflatten(1, (3, -1, 3))
        inner = v[:, 0, ..., 1:].diagonal(dim1=-2, dim2=-1).sum(-1) / math.sqrt(3)
        turned = v[:, 1, ..., 1:]
        turned = torch.stack([turned[..., i, j] - turned[..., j, i] for i, j in ((1, 2), (2, 0), (0, 1))], -1)
        parts = [s[:, 0, :, 0], s[:, 1, :, 1:], inner, turned / math.sqrt(2), v[:, 2, ..., 0]]
        return torch.cat([part.flatten(1) for part in parts], -1).index_select(-1, self.places)


class PropagationBlock(nn.Module):
    """A convolution over the molecules around, a gate, and a product of the node with itself (appendix A.1).

        m_i = Σ_j w(d_ij) (K x_j ⊗ Y(r_ij)),   h = b(gate(A x_i + B m_i + C p_i)),   y_i = D h + E (F h ⊗ G h)

    with p what the molecule sees of the atoms around it (`Surroundings.pairs`), and b(h) = h/√(1 + mean h²).

    `channels`: of a node; `width`: channels of each product; the rest as in `Convolution`. Odd quantities of a sender
    enter by their products alone, which are even.
    """

    def __init__(self, channels: Channels, geometry: Geometry, *, sent: int, hidden: int, width: int):
        super().__init__()
        molecule, seen = geometry.molecule, geometry.n_functions * geometry.molecule.n_kinds
        even = molecule.n_even_pairs
        inside = channels + Channels.of((even, 0, 0, 0), (len(molecule.pairs) - even, 0, 0, 0))
        even, odd = seen * molecule.n_even, seen * molecule.n_odd
        self.convolve = Convolution(geometry, sent=sent, hidden=hidden)
        self.send = graded_linear(inside, self.convolve.inside)
        self.gate = GradedGate(channels)
        self.own = graded_linear(inside, self.gate.inside, bias=True)
        self.others = graded_linear(self.convolve.outside, self.gate.inside)
        self.seen = graded_linear(Channels.of((even, 0, even, 0), (odd, 0, odd, 0)), self.gate.inside)
        self.product = SelfProduct(self.gate.outside, width)
        self.out = graded_linear(self.gate.outside + self.product.outside, channels, bias=True)

    def forward(self, x: Nodes, around: Surroundings) -> Nodes:
        x = torch.cat([x, around.internal], -1)
        received = self.convolve(self.send(x), around)
        h = self.gate(self.own(x) + self.others(received) + self.seen(around.pairs))
        # Bounded, so that the field grows no faster than its state: a product's own growth has no end in depth.
        h = h * torch.rsqrt(1 + h.square().mean(-1, keepdim=True))
        return self.out(torch.cat([h, self.product(h)], -1))


class MolecularLayout:
    """How the positions and velocities of a molecule's atoms lie in its channels: split into even and odd, first among
    the vectors of either, positions before velocities.

    `matrix` `(channels.dim, 6 atoms)` opens positions of all atoms, then their velocities; its columns are orthonormal.
    There is nothing to learn in it: another orthonormal map of the same symmetries would only be another basis of the
    channels, which the linear maps of every field choose as it is.
    """

    def __init__(self, molecule: Molecule, channels: Channels):
        even, odd = molecule.n_even, molecule.n_odd
        counts = {block[1:]: block[0] for block in channels.blocks}
        if counts.get(("1o", 0), 0) < 2 * even or counts.get(("1o", 1), 0) < 2 * odd:
            raise ValueError(
                f"{channels.irreps} is too little for positions and velocities of {molecule.atoms}: at least "
                f"{2 * even} even vectors and {2 * odd} odd ones"
            )
        starts = [channels.start("1o", 0)] * even + ([channels.start("1o", 1)] * odd if odd else [])
        numbers = [*range(even), *range(odd)]
        positions = [start + 3 * i for start, i in zip(starts, numbers, strict=True)]
        velocities = [p + 3 * (even if i < even else odd) for i, p in enumerate(positions)]
        self.positions, self.velocities = (
            torch.tensor([[p, p + 1, p + 2] for p in places]) for places in (positions, velocities)
        )
        matrix = torch.zeros(channels.dim, 2, molecule.n_atoms, 3, dtype=torch.float64)
        for part, places in enumerate((positions, velocities)):
            for row, place in zip(molecule.split, places, strict=True):
                for axis in range(3):
                    matrix[place + axis, part, :, axis] = row
        self.matrix = matrix.flatten(1)


@keeps_arguments
class EquivariantField(nn.Module):
    """A vector field on molecules that turns, is mirrored, and is permuted with them, and that no translation changes.

    The latent state of a molecule is `channels`, among them its atoms' positions (see `MolecularLayout`): these are
    where the field sees its molecules now, so that geometry evolves with depth. What goes into the `PropagationBlock`
    are positions about the molecule's centre, and `gain` times all other channels; what comes out, times `scale`,
    starts small.
    """

    places: Tensor
    gains: Tensor

    def __init__(
        self,
        channels: Channels,
        geometry: Geometry,
        *,
        sent: int,
        hidden: int,
        width: int,
        gain: float = 10.0,
        scale: float = 1.0,
    ):
        super().__init__()
        self.channels, self.geometry, self.gain, self.scale = channels, geometry, float(gain), float(scale)
        layout = MolecularLayout(geometry.molecule, channels)
        self.block = PropagationBlock(channels, geometry, sent=sent, hidden=hidden, width=width)
        with torch.no_grad():
            cast(Tensor, self.block.out.weight).mul_(0.1)
        places = layout.positions.flatten()
        gains = torch.full((channels.dim,), self.gain)
        gains[places] = 0.0
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("gains", gains.to(torch.get_default_dtype()), persistent=False)

    def forward(self, tau: Float[Tensor, ""] | float, z: Latent) -> Latent:
        """`σ(z)` in the shape of `z`; raises a `ValueError` if that has other channels."""
        if z.shape[-1] != self.channels.dim:
            raise ValueError(f"the field has {self.channels.dim} numbers a molecule, the state {z.shape[-1]}")
        molecules = z.shape[-2]
        flat = z.reshape(-1, molecules, z.shape[-1])
        split = flat.index_select(-1, self.places).unflatten(-1, (-1, 3))
        around = self.geometry(torch.matmul(self.geometry.split.mT, split))
        x = (flat * self.gains).flatten(0, 1).index_add(-1, self.places, around.vectors.flatten(1))
        return self.scale * self.block(x, around).reshape(z.shape)
