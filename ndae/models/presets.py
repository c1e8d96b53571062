"""Ready-made neural DAEs by name, in the sizes of the paper and for two cores."""

from collections.abc import Sequence
from typing import Any

from ndae.fields import MimeticField, MLPField
from ndae.methods import Method
from ndae.models.maps import FixedMap
from ndae.models.molecular_dae import MolecularDAE
from ndae.models.neural_dae import NeuralDAE
from ndae.solvers.tensors import compiled

NETWORKS = ("mimetic", "mimetic-small", "mlp")
MOLECULAR_NETWORKS = ("equivariant", "equivariant-small")
_MIMETIC = {"mimetic": {"latent": 128, "hidden": 808}, "mimetic-small": {"latent": 32, "hidden": 200}}
_MLP = {"latent": 16, "hidden": 256}
# Channels by kind: scalars, pseudo-scalars, vectors, pseudo-vectors.
_EQUIVARIANT: dict[str, dict[str, Any]] = {
    "equivariant": {
        "even": (120, 48, 96, 48), "odd": (112, 48, 96, 48), "n_functions": 12,
        "sent": 16, "hidden": 64, "width": 10, "n_layers": 8, "cutoff": 8.0,
    },
    "equivariant-small": {
        "even": (24, 4, 16, 8), "odd": (16, 4, 12, 8), "n_functions": 6,
        "sent": 4, "hidden": 16, "width": 4, "n_layers": 4, "cutoff": 5.5,
    },
}  # fmt: skip


def build_network(
    name: str,
    constraint: Any,
    method: Method | None = None,
    *,
    edges: Sequence[Sequence[int | None]],
    features: int,
    dim: int,
    n_layers: int = 8,
    shared: bool = False,
    **options: Any,
) -> NeuralDAE:
    """A neural DAE over the nodes of a graph, by name.

    `"mimetic"`: the paper's graph network, 8 layers, 5.8 million parameters for 4 features. `"mimetic-small"`: the same
    with 0.36 million. `"mlp"`: all nodes of a sample at once, told apart by their index and not by their place in the
    graph; 0.86 million for five nodes.

    `edges`: see `MimeticField`; `features`, `dim` and `options`: see `NeuralDAE`; `shared`: one set of weights over
    depth instead of one a layer. Raises a `ValueError` for an unknown name.
    """
    if name in _MIMETIC:
        sizes = _MIMETIC[name]
        fields = [MimeticField(edges, **sizes) for _ in range(1 if shared else n_layers)]
    elif name == "mlp":
        sizes = _MLP
        nodes = 1 + max(end for edge in edges for end in edge if end is not None)
        fields = [MLPField(nodes, **sizes) for _ in range(1 if shared else n_layers)]
    else:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    depth = {"n_layers": n_layers} if shared else {}
    return NeuralDAE(
        fields[0] if shared else fields, constraint, method,
        features=features, dim=dim, latent=sizes["latent"], **depth, **options,
    )  # fmt: skip


def build_molecular_network(
    name: str,
    constraint: Any,
    method: Method | None = None,
    *,
    molecule: Sequence[str],
    velocity_scale: float,
    lengths: Sequence[float] | None = None,
    cutoff: float | None = None,
    n_layers: int | None = None,
    shared: bool = False,
    guess: str = "constant velocity",
    initial_step: float = 0.05,
    sizes: dict[str, Any] | None = None,
    **options: Any,
) -> MolecularDAE:
    """An equivariant neural DAE over the atoms of molecules that are all alike, by name (appendix A.1).

    `"equivariant"`: 8 layers, 2.8 million parameters for water. `"equivariant-small"`: 62,000, for two CPU cores; it
    learns well at a learning rate of 5e-3 that falls to zero.

    `molecule`: its atoms in order by letters, equal ones being interchangeable, `("O", "H", "H")`; `velocity_scale`:
    the time that is predicted ahead, and `guess`: what an untrained network predicts, see `MolecularDAE`; `lengths`:
    usual distances within a molecule, see `Geometry`; `cutoff`: from which distance of their centres on molecules do
    not see each other, in the unit of positions (8 and 5.5 Å if left out); `shared`: one set of weights over depth;
    `sizes`: widths in place of the preset's; `options`: see `NeuralDAE`. Raises a `ValueError` for an unknown name, and
    if the atoms of the constraint are no whole molecules.
    """
    if name not in _EQUIVARIANT:
        raise ValueError(f"no molecular network is called {name!r}; there are {', '.join(MOLECULAR_NETWORKS)}")
    from ndae.fields.equivariant import Channels, EquivariantField, MolecularLayout
    from ndae.fields.molecules import Geometry, Molecule

    preset, constraint = _EQUIVARIANT[name] | (sizes or {}), compiled(constraint)
    atoms = Molecule(molecule)
    if constraint.n_states % (3 * atoms.n_atoms):
        raise ValueError(
            f"the constraint has {constraint.n_states} states, which is no whole number of molecules {atoms.atoms} of "
            f"{3 * atoms.n_atoms}"
        )
    layers: int = n_layers or preset["n_layers"]
    channels = Channels.of(preset["even"], preset["odd"] if atoms.n_odd else (0, 0, 0, 0))
    geometry = Geometry(atoms, cutoff=cutoff or preset["cutoff"], n_functions=preset["n_functions"], lengths=lengths)
    # Layers are short, so that RK4 is stable under a penalty with the paper's γ = 10, and fields stronger instead.
    widths: dict[str, Any] = {key: preset[key] for key in ("sent", "hidden", "width")} | {"scale": 16 / layers}
    fields = [EquivariantField(channels, geometry, **widths) for _ in range(1 if shared else layers)]
    matrix = MolecularLayout(atoms, channels).matrix
    dae = NeuralDAE(
        fields[0] if shared else fields, constraint, method,
        features=6 * atoms.n_atoms, dim=3 * atoms.n_atoms, latent=channels.dim,
        open=FixedMap(matrix), close=FixedMap(matrix[:, : 3 * atoms.n_atoms]),
        n_layers=layers, initial_step=initial_step, **options,
    )  # fmt: skip
    return MolecularDAE(dae, atoms.n_atoms, velocity_scale=velocity_scale, guess=guess)
