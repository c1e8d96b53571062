"""Molecules of which some atoms are alike, and what a network may see of them: their symmetries, and their geometry."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ndae.constants import WithConstants


class Molecule:
    """The atoms of a molecule by letters, equal letters being interchangeable: `("O", "H", "H")` of water.

    With two atoms alike, everything about a molecule is split into what an exchange of these leaves as it is (even) and
    what it turns round (odd): positions into those of the other atoms with `(r₁ + r₂)/√2`, and `(r₁ − r₂)/√2`. The
    matrices that do so are orthogonal.

    Raises a `ValueError` for no atoms, and for more than one pair of atoms alike.
    """

    def __init__(self, atoms: Sequence[str]):
        self.atoms = tuple(atoms)
        kinds = list(dict.fromkeys(self.atoms))
        places = [[a for a, atom in enumerate(self.atoms) if atom == kind] for kind in kinds]
        alike = [place for place in places if len(place) > 1]
        if not self.atoms:
            raise ValueError("a molecule needs at least one atom, such as molecule=('O', 'H', 'H')")
        if len(alike) > 1 or any(len(place) > 2 for place in alike):
            raise ValueError(
                f"molecule={self.atoms}: at most one pair of atoms may be alike; give the others letters of their own, "
                "such as ('C', 'H', 'H', 'Ha', 'Hb'), which only tells them apart"
            )
        self.n_atoms = len(self.atoms)
        self.pairs = tuple(itertools.combinations(range(self.n_atoms), 2))
        order = list(range(self.n_atoms))
        if alike:
            first, second = alike[0]
            order[first], order[second] = second, first
        self.exchanged = tuple(order)
        swapped = [self.pairs.index(tuple(sorted((order[a], order[b])))) for a, b in self.pairs]
        self.split, self.n_even = _split(order)
        self.split_pairs, self.n_even_pairs = _split(swapped)
        # Which atom (row) is of which kind (column).
        self.kinds = torch.tensor([[float(a in place) for place in places] for a in range(self.n_atoms)])
        self.n_kinds = len(kinds)

    @property
    def n_odd(self) -> int:
        """How many of the split positions are odd: one where two atoms are alike, none otherwise."""
        return self.n_atoms - self.n_even


def _split(order: Sequence[int]) -> tuple[Tensor, int]:
    """The orthogonal matrix to what an exchange of places leaves as it is, then what it turns round; how many the
    former are."""
    even, odd = [], []
    for i, j in enumerate(order):
        if j >= i:
            row = torch.zeros(len(order), dtype=torch.float64)
            row[i] = row[j] = 1.0 if i == j else math.sqrt(0.5)
            even.append(row)
            if j > i:
                row = row.clone()
                row[j] = -row[j]
                odd.append(row)
    rows = even + odd
    return torch.stack(rows) if rows else torch.zeros(0, 0, dtype=torch.float64), len(even)


@dataclass(frozen=True)
class Surroundings:
    """The geometry of all molecules of all samples in a row, as the blocks of a network need it.

    `vectors`: positions about the molecule's centre, split; `internal`: distances within the molecule, split and
    scaled. `sender`: the molecules around each, in as many slots as the one with most neighbours needs; `harmonics`
    there, `(1, √3 unit vector)`; `envelope`, which falls smoothly to zero at the cutoff and is zero in empty slots;
    and `radial`, functions of the distance of each atom here from each atom there. `pairs`: what each molecule sees of
    the atoms around it, as even scalars, even vectors, odd scalars, odd vectors.
    """

    vectors: Float[Tensor, "nodes atoms 3"]
    internal: Float[Tensor, "nodes distances"]
    sender: Int[Tensor, "nodes slots"]
    harmonics: Float[Tensor, "nodes 4 slots"]
    envelope: Float[Tensor, "nodes 1 slots"]
    radial: Float[Tensor, "nodes functions slots"]
    pairs: Float[Tensor, "nodes seen"]


class Geometry(WithConstants):
    """From the positions of molecules to their `Surroundings`: nothing in it is learned.

    Molecules see each other while their centres are nearer than `cutoff` (in the unit of positions), by functions of
    the distances between their atoms, Gaussians `f_k(log d)` from a quarter of the cutoff to five quarters, times
    `(1 − (R/cutoff)²)³` of the distance R of centres: two derivatives go to zero there. What a molecule sees is, for
    each of its atoms a and each kind of atoms b, `Σ_b f_k(d_ab)` and `Σ_b f_k(d_ab) (r_b − r_a)/d_ab`, split into even
    and odd.

    `lengths`: usual distances within a molecule, for the atom pairs (0, 1), (0, 2), ..., (1, 2), ...; what the network
    sees of a distance d is `(d/length − 1)/spread`.
    """

    centres: Tensor
    lengths: Tensor
    split: Tensor
    split_pairs: Tensor
    kinds: Tensor
    first: Tensor
    second: Tensor

    def __init__(
        self,
        molecule: Molecule,
        *,
        cutoff: float,
        n_functions: int,
        lengths: Sequence[float] | None = None,
        spread: float = 0.05,
        neighbours: float = 12.0,
    ):
        super().__init__()
        if not (cutoff > 0 and spread > 0 and neighbours > 0):
            raise ValueError(f"cutoff={cutoff}, spread={spread}, neighbours={neighbours}: each is positive")
        if n_functions < 2:
            raise ValueError(f"n_functions={n_functions}: at least 2 functions of a distance")
        if lengths is not None and (len(lengths) != len(molecule.pairs) or not all(d > 0 for d in lengths)):
            raise ValueError(
                f"lengths={tuple(lengths)}: expected {len(molecule.pairs)} positive ones, for the atom pairs "
                f"{list(molecule.pairs)} of {molecule.atoms}"
            )
        self.molecule, self.cutoff, self.n_functions = molecule, float(cutoff), n_functions
        self.spread, self.neighbours = float(spread), float(neighbours)
        # Gaussians exp(−½ (log d − μ)²/width²) with the width their distance from each other, x = log d scaled so that
        # they are exp(−(x − centre)²).
        self.width = math.log(5.0) / (n_functions - 1)
        self.middle = math.log(cutoff / 4) + math.log(5.0) / 2
        self.keep("centres", math.sqrt(0.5) * (torch.arange(n_functions, dtype=torch.float64) - (n_functions - 1) / 2))
        self.keep("lengths", torch.tensor(lengths or [1.0] * len(molecule.pairs), dtype=torch.float64))
        self.keep("split", molecule.split)
        self.keep("split_pairs", molecule.split_pairs)
        self.keep("kinds", molecule.kinds)
        ends = torch.tensor(molecule.pairs, dtype=torch.long).reshape(-1, 2)
        self.register_buffer("first", ends[:, 0].contiguous(), persistent=False)
        self.register_buffer("second", ends[:, 1].contiguous(), persistent=False)

    def forward(self, positions: Float[Tensor, "samples molecules atoms 3"]) -> Surroundings:
        """Surroundings of all `samples * molecules` molecules."""
        centre = positions.mean(-2)
        about = (positions - centre.unsqueeze(-2)).flatten(0, 1)
        sender = self._neighbours(centre.detach())
        centre = centre.flatten(0, 1)
        nodes, slots = sender.shape
        kinds = self.molecule.n_kinds

        # Slots come last from here on, and coordinates before them: arithmetic along an axis of three is slow.
        line = centre.index_select(0, sender.flatten()).unflatten(0, (nodes, slots)) - centre.unsqueeze(1)
        line = line.mT.contiguous()
        distance = torch.linalg.vector_norm(line, dim=1, keepdim=True)
        envelope = (1 - (distance / self.cutoff).square()).clamp(min=0) ** 3

        # Of all pairs of an atom here and an atom there: (nodes, atoms here, atoms there, 3 or functions, slots).
        there = about.index_select(0, sender.flatten()).unflatten(0, (nodes, slots)).permute(0, 2, 3, 1)
        across = (there + line.unsqueeze(1)).unsqueeze(1) - about[:, :, None, :, None]
        apart = torch.linalg.vector_norm(across, dim=3, keepdim=True)
        functions = self._functions(apart, envelope[:, None, None])
        toward = torch.cat([torch.ones_like(apart), across * (math.sqrt(3) / apart)], 3)

        # Summed over slots in one product; written out, it would be the largest array by far.
        seen = torch.matmul(functions, toward.mT).flatten(3)
        seen = torch.matmul(self.kinds.mT, seen).flatten(2) / math.sqrt(self.neighbours)
        seen = torch.matmul(self.split, seen).unflatten(-1, (kinds, self.n_functions, 4))
        even = self.molecule.n_even
        parts = [seen[:, :even, ..., 0], seen[:, :even, ..., 1:], seen[:, even:, ..., 0], seen[:, even:, ..., 1:]]

        return Surroundings(
            vectors=torch.matmul(self.split, about),
            internal=self._internal(about),
            sender=sender,
            harmonics=torch.cat([torch.ones_like(distance), math.sqrt(3) * line / distance], 1),
            envelope=envelope,
            radial=functions.flatten(1, 3),
            pairs=torch.cat([part.flatten(1) for part in parts], -1),
        )

    def _neighbours(self, centre: Tensor) -> Tensor:
        samples, molecules, _ = centre.shape
        near = (centre.unsqueeze(2) - centre.unsqueeze(1)).square().sum(-1) < self.cutoff**2
        # A molecule itself comes last and takes no slot: its distance has no derivative.
        order = near.to(torch.int8) - 2 * torch.eye(molecules, dtype=torch.int8, device=centre.device)
        slots = max(int(near.sum(-1).max()) - 1, 0)  # not even itself, where a position is not finite
        sender = order.topk(slots, dim=-1).indices
        return (sender + molecules * torch.arange(samples, device=centre.device)[:, None, None]).flatten(0, 1)

    def _functions(self, distance: Tensor, envelope: Tensor) -> Tensor:
        # exp(−(x − μ)²) as exp(−x² + 2 μ x) exp(−μ²): the largest arrays of all, so each operation on them counts.
        x = (distance.log() - self.middle) * (math.sqrt(0.5) / self.width)
        centres = self.centres[:, None]
        return torch.exp(torch.addcmul(-x.square(), x, 2 * centres)) * (envelope * torch.exp(-centres.square()))

    def _internal(self, about: Tensor) -> Tensor:
        between = about.index_select(-2, self.second) - about.index_select(-2, self.first)
        distance = torch.linalg.vector_norm(between, dim=-1)
        return ((distance / self.lengths - 1) / self.spread) @ self.split_pairs.mT
