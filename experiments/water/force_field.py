"""Flexible TIP3P water in the CHARMM form, as an OpenMM system; its energy and forces.

`V = Σ_bonds ½ k_b (r − r₀)² + Σ_angles ½ k_a (θ − θ₀)² + Σ_pairs q_i q_j / (4πε₀ r) + 4 ε ((σ/r)¹² − (σ/r)⁶)`, of
atoms in different molecules, ε and σ mixed by Lorentz and Berthelot, without a cutoff and without boundaries.
W. L. Jorgensen et al., J. Chem. Phys. 79, 926 (1983); A. D. MacKerell et al., J. Phys. Chem. B 102, 3586 (1998), with
Lennard-Jones terms on hydrogen. k_b and k_a are 900 and 110 kcal/mol (CHARMM's own form has no ½, and half of them).
"""

from functools import lru_cache
from typing import Any

import numpy as np

from ndae.experiments.water.missing import load

MASSES = (15.999, 1.008, 1.008)  # amu, of O, H, H
SYMBOLS = ("O", "H", "H")
KCAL = 4.184  # kJ
KJ_PER_MOL = 1e-4  # amu Å²/fs²
BOLTZMANN = 0.00831446261815324  # kJ/mol/K

BOND, BOND_LENGTH = 900.0, 0.9572  # kcal/mol/Å², Å
ANGLE, ANGLE_DEGREES = 110.0, 104.52  # kcal/mol/rad², degrees
CHARGES = (-0.834, 0.417, 0.417)  # e
EPSILON = (0.152073, 0.04598, 0.04598)  # kcal/mol
SIGMA = (3.1507, 0.400, 0.400)  # Å


def masses(n_molecules: int) -> np.ndarray:
    """Masses of the atoms of so many molecules (3 n_molecules,), in amu."""
    return np.tile(MASSES, n_molecules)


def kinetic_energy(v: np.ndarray) -> np.ndarray:
    """Kinetic energy (...,) in kJ/mol, from velocities (..., atoms, 3) in Å/fs."""
    v = np.asarray(v, dtype=np.float64)
    return np.einsum("a,...ax,...ax->...", masses(v.shape[-2] // 3), v, v) / 2 / KJ_PER_MOL


def temperature(kinetic: Any, n_molecules: int) -> Any:
    """Temperature in K of a kinetic energy in kJ/mol, `2 K / (k_B f)` with f = 9 n_molecules − 6 degrees of freedom.

    Six are gone with the centre's and the angular momentum, which a simulation without boundaries keeps at zero.
    """
    return 2 * kinetic / ((9 * n_molecules - 6) * BOLTZMANN)


def system(n_molecules: int):
    """The `openmm.System` of so many molecules, in OpenMM's units (nm, ps, amu, kJ/mol)."""
    openmm = load("openmm", "the simulation of water")
    system = openmm.System()
    bonds, angles, pairs = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.NonbondedForce()
    pairs.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    for oxygen in range(0, 3 * n_molecules, 3):
        atoms = range(oxygen, oxygen + 3)
        for mass, charge, sigma, epsilon in zip(MASSES, CHARGES, SIGMA, EPSILON, strict=True):
            system.addParticle(mass)
            pairs.addParticle(charge, sigma / 10, epsilon * KCAL)
        for hydrogen in atoms[1:]:
            bonds.addBond(oxygen, hydrogen, BOND_LENGTH / 10, BOND * KCAL * 100)
        angles.addAngle(atoms[1], oxygen, atoms[2], np.deg2rad(ANGLE_DEGREES), ANGLE * KCAL)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            pairs.addException(atoms[i], atoms[j], 0.0, 0.1, 0.0)
    for force in (bonds, angles, pairs):
        system.addForce(force)
    return system


def context(system, integrator):
    """An `openmm.Context` on the Reference platform: float64 in one thread, so that reruns are bitwise equal."""
    openmm = load("openmm", "the simulation of water")
    return openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))


def plain(quantity) -> Any:
    """The number or array of an OpenMM quantity, in OpenMM's units."""
    return quantity.value_in_unit_system(load("openmm.unit", "the simulation of water").md_unit_system)


def potential_energy(q: np.ndarray) -> np.ndarray:
    """Potential energy (...,) in kJ/mol by OpenMM, from positions (..., atoms, 3) in Å.

    Raises ValueError for positions that are not of whole molecules, and MissingPackage without OpenMM.
    """
    return _evaluated(q)[0]


def forces(q: np.ndarray) -> np.ndarray:
    """Forces (..., atoms, 3) in amu Å/fs² by OpenMM, from positions likewise in Å; raises as potential_energy does."""
    return _evaluated(q)[1]


def _evaluated(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q = np.asarray(q, dtype=np.float64)
    if q.ndim < 2 or q.shape[-1] != 3 or q.shape[-2] % 3 or not q.shape[-2]:
        raise ValueError(f"q has shape {q.shape}, expected (..., 3 n_molecules, 3): positions of whole molecules")
    points = q.reshape(-1, *q.shape[-2:])
    evaluate = _evaluator(q.shape[-2] // 3)
    energy, force = np.empty(len(points)), np.empty_like(points)
    for i, point in enumerate(points):
        evaluate.setPositions(point / 10)
        state = evaluate.getState(getEnergy=True, getForces=True)
        energy[i] = plain(state.getPotentialEnergy())
        force[i] = plain(state.getForces(asNumpy=True))
    return energy.reshape(q.shape[:-2]), force.reshape(q.shape) * (KJ_PER_MOL / 10)


@lru_cache(maxsize=4)
def _evaluator(n_molecules: int):
    openmm = load("openmm", "the simulation of water")
    return context(system(n_molecules), openmm.VerletIntegrator(1e-4))
