"""Rigid molecules of any shape: in a line, in a plane, of many atoms; projected, and turning as rigid bodies do."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from ndae import NeuralMotion, System, library, project, solve

TURNS = np.arange(6) * np.pi / 3
RING = np.stack([np.cos(TURNS), np.sin(TURNS), 0 * TURNS], 1)
CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
# Positions in ångström, masses, and an axis about which a free molecule keeps turning at a constant rate.
MOLECULES = {
    "CO2": (np.array([[0, 0, 0], [1.16, 0, 0], [-1.16, 0, 0]]), [12.0, 16.0, 16.0], [0, 0.6, 0.8]),
    "benzene": (np.concatenate([1.39 * RING, 2.48 * RING]), [12.0] * 6 + [1.0] * 6, [0, 0, 1]),
    "methane": (np.concatenate([np.zeros((1, 3)), 0.629 * CORNERS]), [12.0] + [1.0] * 4, [0.36, 0.48, 0.8]),
}
INDEPENDENT = {"CO2": 3 * 3 - 5, "benzene": 3 * 12 - 6, "methane": 3 * 5 - 6}
N, RATE = 2, 2.0


@dataclass
class Case:
    """Two molecules at places and turns of their own, which turn at RATE about an axis of theirs and move on."""

    name: str

    def __post_init__(self):
        self.positions, masses, axis = MOLECULES[self.name]
        self.masses = np.tile(masses, N)
        self.constraint = library.rigid_molecules(N, positions=self.positions)
        self.compiled = self.constraint.torch()
        rng = np.random.default_rng(0)
        self.turns, self.places, self.moves = Rotation.random(N, rng=rng), *rng.normal(size=(2, N, 1, 3))
        self.axes = self.turns.apply(axis)

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (N * atoms, 3)."""
        arms = (Rotation.from_rotvec(RATE * t * self.axes) * self.turns).as_matrix() @ self.positions.T
        arms = arms.transpose(0, 2, 1)
        v = np.cross(RATE * self.axes[:, None], arms) + self.moves
        return (arms + self.places + t * self.moves).reshape(-1, 3), v.reshape(-1, 3)

    def distances(self, q) -> np.ndarray:
        atoms = np.reshape(q, (-1, N, *self.positions.shape))
        return np.linalg.norm(atoms[..., :, None, :] - atoms[..., None, :, :], axis=-1)


@pytest.fixture(scope="module", params=MOLECULES)
def case(request):
    return Case(request.param)


def test_as_many_independent_constraints_as_a_rigid_body_needs(case):
    q = torch.as_tensor(case.at(0.3)[0].reshape(1, -1))
    assert case.compiled.n_residuals == N * INDEPENDENT[case.name]
    assert torch.linalg.matrix_rank(case.compiled.jacobian(q)).item() == N * INDEPENDENT[case.name]
    assert case.compiled.structure_kind == "block_diagonal"
    assert case.compiled.residual(q).abs().max() < 1e-14


def test_projections_keep_what_is_rigid_and_restore_what_is_not(case):
    q = case.at(0.7)[0].reshape(1, -1)
    kept = project(case.compiled, q).y.numpy()
    assert np.abs(kept - q).max() < 1e-14
    shaken = q + 0.05 * np.random.default_rng(1).normal(size=(3, q.shape[1]))
    restored = project(case.compiled, shaken, rtol=1e-13).y.numpy()
    assert np.abs(case.distances(restored) - case.distances(q)).max() < 1e-12
    assert np.abs(restored - shaken).max() < 0.5


def test_a_free_molecule_turns_at_a_constant_rate(case):
    """The motion of a rigid body in closed form: energy, shape and place are all in it."""
    motion = NeuralMotion(
        case.compiled, lambda t, y: torch.zeros_like(y[..., :3]), duration=0.2, n_steps=20, mass=case.masses
    )
    found = motion.trajectory(np.concatenate(case.at(0.0), -1)[None], [0.0, 0.2])
    for i, t in enumerate((0.0, 0.2)):
        q, v = case.at(t)
        assert np.abs(found.q[0, i].numpy() - q).max() < 1e-7
        assert np.abs(found.v[0, i].numpy() - v).max() < 1e-7
    energies = (torch.as_tensor(case.masses)[:, None] * found.v.square()).sum((-2, -1))[0] / 2
    assert (energies - energies[0]).abs().max() < 1e-6 * energies[0]


def test_the_reference_turns_carbon_dioxide_too():
    case = Case("CO2")
    q, v = (part.reshape(-1) for part in case.at(0.0))
    found = solve(System.of_points(case.constraint, case.masses), {"q": q, "v": v}, [0.0, 0.5, 1.0])
    assert np.abs(found.q[-1].reshape(-1, 3) - case.at(1.0)[0]).max() < 1e-8
    assert np.abs(found.energy - found.energy[0]).max() < 1e-9 * found.energy[0]


@pytest.mark.parametrize(
    ("positions", "count"),
    [
        (MOLECULES["CO2"][0][:, :2], 2 * 3 - 3),
        (1.39 * RING[:, :2], 2 * 6 - 3),
        (MOLECULES["CO2"][0][1:], 1),
        (np.eye(4)[:, :3], 6),
        (MOLECULES["methane"][0] @ Rotation.from_rotvec([1, 2, 3]).as_matrix() + 7, 9),
    ],
    ids=["line in the plane", "hexagon in the plane", "pair", "four atoms", "moved methane"],
)
def test_of_other_shapes_and_dimensions(positions, count):
    assert library.rigid_molecules(1, positions=positions).n_residuals == count


def test_positions_of_few_atoms_are_their_distances():
    """Water by positions is water by distances, with the same names to learn."""
    half = math.acos((2 * 0.957**2 - 1.513**2) / (2 * 0.957**2)) / 2
    water = [[0, 0, 0], *([0.957 * math.sin(a), 0.957 * math.cos(a), 0] for a in (half, -half))]
    found, known = library.rigid_molecules(1, positions=water), library.rigid_molecules(1)
    assert found.expressions == known.expressions
    assert found.parameters == pytest.approx(known.parameters)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"distances": (1.16, 1.16, 2.32)}, r"3 atoms in a line.*positions=\[\[0.0, 0.0, 0.0\], \[-?1.16, 0.0, 0.0\]"),
        ({"distances": (1, 1, 2**0.5, 2**0.5, 1, 1), "atoms": 4}, r"4 atoms in a plane.*write rigid_molecules\(2, pos"),
        ({"distances": (1.0, 1.0, 3.0)}, r"no 3 atoms have these; some have \(1.5, 1.5, 3.0\)"),
        ({"distances": [1.0] * 10, "atoms": 5}, r"expected 2 to 4 in 3 dimensions.*give positions="),
        ({"positions": [[0, 0, 0], [1, 1e-5, 0], [2, 0, 0]]}, "off a line by .*distances can't hold"),
        ({"positions": [*MOLECULES["benzene"][0], [0, 0, 1e-4]]}, "off a plane by"),
        ({"positions": [[0, 0, 0], [1, 0, 0], [0, 0, 0]]}, "points 0 and 2 are at the same place"),
        ({"positions": [[0, 0, 0]]}, r"expected finite numbers \(atoms, dim\)"),
        ({"positions": [[0, 0, 0], [1, np.nan, 0]]}, "expected finite numbers"),
    ],
)
def test_what_no_rigid_molecule_is_made_of(options, match):
    with pytest.raises(ValueError, match=match):
        library.rigid_molecules(2, **options)


def test_what_is_written_for_atoms_in_a_line_can_be_copied():
    with pytest.raises(ValueError, match="in a line") as told:
        library.rigid_molecules(1, (1.16, 1.16, 2.32))
    positions = json.loads(str(told.value).split("positions=")[1][:-1])
    assert library.rigid_molecules(1, positions=positions).n_residuals == 4


def test_of_distances_in_a_line_none_is_said_to_follow_from_the_others():
    """Three atoms could bend without one of the distances."""
    told = r"depend on one another there: .*where none does.*rigid_molecules\(positions=...\)"
    with pytest.raises(ValueError, match=told):
        library.fixed_distances([(0, 1), (0, 2), (1, 2)], [1.16, 1.16, 2.32])
    triangle = library.fixed_distances([(0, 1), (0, 2), (1, 2)], [1.0, 1.0, 1.0])
    line = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [-1, 0, 0]]]).repeat(1, 1, 2)
    motion = NeuralMotion(triangle, lambda t, y: 0 * y[..., :3], duration=0.1, start_tol=2.0)
    with pytest.raises(ValueError, match=r"0, 1, 2 are redundant.*where none does.*rigid_molecules"):
        motion.check(torch.cat([line[..., :3], 0 * line[..., :3]], -1))
