"""Equivariant forces and potentials of a NeuralMotion over the atoms of molecules."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Features, Output
from ndae.fields.equivariant import Channels, MolecularLayout, PropagationBlock, graded_linear
from ndae.fields.molecules import Geometry, Molecule
from ndae.symbolic.ground.arguments import keeps_arguments

Energy = Float[Tensor, "*batch"]
_SIZES = {"even": (24, 4, 16, 8), "odd": (16, 4, 12, 8), "sent": 4, "hidden": 16, "width": 4}


class _Blocks(nn.Module):
    """Blocks of the equivariant network over one geometry, `x ← x + block(x)`, from atoms to channels of molecules."""

    places: Tensor
    velocities: Tensor

    def __init__(
        self,
        molecule: Sequence[str],
        n_molecules: int,
        *,
        n_blocks: int,
        cutoff: float,
        lengths: Sequence[float] | None,
        n_functions: int,
        sizes: dict[str, Any] | None,
    ):
        super().__init__()
        if min(n_molecules, n_blocks) < 1:
            raise ValueError(f"n_molecules={n_molecules}, n_blocks={n_blocks}: each is at least 1")
        self.molecule, self.n_molecules = Molecule(molecule), n_molecules
        sizes = _SIZES | (sizes or {})
        even, odd = sizes.pop("even"), sizes.pop("odd")
        self.channels = Channels.of(even, odd if self.molecule.n_odd else (0, 0, 0, 0))
        self.geometry = Geometry(self.molecule, cutoff=cutoff, n_functions=n_functions, lengths=lengths)
        layout = MolecularLayout(self.molecule, self.channels)
        self.register_buffer("places", layout.positions.flatten(), persistent=False)
        self.register_buffer("velocities", layout.velocities.flatten(), persistent=False)
        self.blocks = nn.ModuleList(PropagationBlock(self.channels, self.geometry, **sizes) for _ in range(n_blocks))

    def forward(self, q: Output, v: Output | None = None) -> Float[Tensor, "molecules numbers"]:
        """Channels of all molecules of all samples in a row, from positions and, where given, velocities."""
        atoms = self.n_molecules * self.molecule.n_atoms
        if q.shape[-2:] != (atoms, 3):
            raise ValueError(
                f"{self.n_molecules} molecules {self.molecule.atoms} are {(atoms, 3)} numbers, the positions are "
                f"{tuple(q.shape[-2:])}"
            )
        around = self.geometry(q.reshape(-1, self.n_molecules, self.molecule.n_atoms, 3))
        x = q.new_zeros(len(around.vectors), self.channels.dim)
        x = x.index_add(-1, self.places, around.vectors.flatten(1))
        if v is not None:
            split = torch.matmul(self.geometry.split, v.reshape(-1, self.molecule.n_atoms, 3))
            x = x.index_add(-1, self.velocities, split.flatten(1))
        for block in self.blocks:
            x = x + block(x, around)
        return x


@keeps_arguments
class EquivariantForce(nn.Module):
    """Forces on the atoms of molecules that turn with them: `F(R q) = R F(q)`, and none that a translation changes.

    Blocks of the network of appendix A.1 (`PropagationBlock`) over the geometry of the present positions, with a
    molecule a node. They are not the gradient of a potential (see `EquivariantPotential`), and zero at the start.

    `molecule`: its atoms in order by letters, equal ones being interchangeable; `cutoff`, `lengths`, `n_functions`: see
    `Geometry`; `scale`: the unit of forces in which the network counts, so that numbers in it are about one;
    `velocity_scale`: a time, by which velocities become numbers of about a length; left out, forces are of positions
    alone. `sizes`: widths in place of the usual ones. Time is not an input.
    """

    def __init__(
        self,
        molecule: Sequence[str],
        n_molecules: int,
        *,
        n_blocks: int = 2,
        cutoff: float = 6.0,
        lengths: Sequence[float] | None = None,
        scale: float = 1.0,
        velocity_scale: float | None = None,
        n_functions: int = 8,
        sizes: dict[str, Any] | None = None,
    ):
        super().__init__()
        _positive(scale=scale, velocity_scale=velocity_scale)
        self.network = _Blocks(
            molecule, n_molecules, n_blocks=n_blocks, cutoff=cutoff, lengths=lengths, n_functions=n_functions,
            sizes=sizes,
        )  # fmt: skip
        atoms = self.network.molecule
        self.scale, self.velocity_scale = float(scale), velocity_scale
        self.read = graded_linear(self.network.channels, Channels.of((0, 0, atoms.n_even, 0), (0, 0, atoms.n_odd, 0)))
        with torch.no_grad():
            cast(Tensor, self.read.weight).zero_()

    def forward(self, t: Any, y: Features) -> Output:
        """Forces `(batch, atoms, 3)` at states `(batch, atoms, 6)`, positions before velocities."""
        q, v = y[..., :3], y[..., 3:]
        x = self.network(q, None if self.velocity_scale is None else self.velocity_scale * v)
        split = self.read(x).unflatten(-1, (-1, 3))
        return self.scale * torch.matmul(self.network.geometry.split.mT, split).reshape(q.shape)


@keeps_arguments
class EquivariantPotential(nn.Module):
    """`V(q) = Σ_i u(scalars of molecule i)`: an energy of molecules that nothing turns, moves or permutes changes.

    For `PotentialForce`: differentiable twice. The sum goes over molecules, so that of two groups beyond the cutoff of
    each other the energies add. Blocks as in `EquivariantForce`, and the same arguments; `scale`: the unit of energies.
    Zero at the start.
    """

    def __init__(
        self,
        molecule: Sequence[str],
        n_molecules: int,
        *,
        n_blocks: int = 1,
        cutoff: float = 6.0,
        lengths: Sequence[float] | None = None,
        scale: float = 1.0,
        n_functions: int = 8,
        sizes: dict[str, Any] | None = None,
    ):
        super().__init__()
        _positive(scale=scale)
        self.network = _Blocks(
            molecule, n_molecules, n_blocks=n_blocks, cutoff=cutoff, lengths=lengths, n_functions=n_functions,
            sizes=sizes,
        )  # fmt: skip
        self.scale = float(scale)
        self.n_scalars = self.network.channels.blocks[0][0]
        first, last = nn.Linear(self.n_scalars, 32), nn.Linear(32, 1, bias=False)
        self.read = nn.Sequential(first, nn.SiLU(), last)
        with torch.no_grad():
            last.weight.zero_()

    def forward(self, q: Output) -> Energy:
        """`V(q)` `(batch,)` at positions `(batch, atoms, 3)`."""
        scalars = self.network(q)[:, : self.n_scalars]
        return self.scale * self.read(scalars).reshape(*q.shape[:-2], -1).sum(-1)


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} is positive and finite, not {value!r}")
