"""The same motion by CP2K, a code of other makers: input for it, and a comparison with what it found.

CP2K's `KIND CHARMM` has no ½: its constants are half of `ndae.experiments.water.force_field`'s, 450 and 55 kcal/mol.
"""

from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np

from ndae.experiments.water import force_field as ff
from ndae.experiments.water.trajectory import Trajectory

HARTREE = 2625.4996394799  # kJ/mol
_BOHR, _ATOMIC_TIME = 0.529177210903, 0.024188843265857  # Å, fs
_KINDS = {"O": 0, "H": 1}
_INPUT = """&GLOBAL
  PROJECT water
  RUN_TYPE MD
  PRINT_LEVEL LOW
&END
&MOTION
  &MD
    ENSEMBLE NVE
    STEPS {n_steps}
    TIMESTEP [fs] {dt:g}
  &END
  &PRINT
{prints}  &END
&END
&FORCE_EVAL
  METHOD FIST
  &MM
    &FORCEFIELD
      SHIFT_CUTOFF F
      &SPLINE
        EPS_SPLINE [hartree] 1E-11
        EMAX_SPLINE [hartree] 5
      &END
{charges}      &BOND
        ATOMS O H
        KIND CHARMM
        K [kcalmol*angstrom^-2] {bond:g}
        R0 [angstrom] {bond_length}
      &END
      &BEND
        ATOMS H O H
        KIND CHARMM
        K [kcalmol*rad^-2] {angle:g}
        THETA0 [deg] {angle_degrees}
      &END
      &NONBONDED
{pairs}      &END
    &END
    &POISSON
      PERIODIC NONE
      &EWALD
        EWALD_TYPE NONE
      &END
    &END
  &END
  &SUBSYS
    &CELL
      ABC [angstrom] 100 100 100
      PERIODIC NONE
    &END
    &TOPOLOGY
      COORD_FILE_NAME water.xyz
      COORD_FILE_FORMAT XYZ
      CONN_FILE_FORMAT MOL_SET
      &MOL_SET
        &MOLECULE
          CONN_FILE_FORMAT PSF
          CONN_FILE_NAME water.psf
          NMOL {n_molecules}
        &END
      &END
      EXCLUDE_VDW 1-3
      EXCLUDE_EI 1-3
    &END
    &VELOCITY
{velocities}    &END
{kinds}  &END
&END
"""


def write_input(trajectory: Trajectory, folder: Path | str, n_steps: int = 100) -> Path:
    """Write `water.inp`, `water.xyz` and `water.psf` into the folder: CP2K's input for `n_steps` steps from the start.

    Run there, `cp2k -i water.inp -o water.out`, it leaves `water-pos-1.xyz`, `water-vel-1.xyz`, `water-frc-1.xyz` and
    `water-1.ener`, which `compare` reads. Raises ValueError for fewer frames than it needs.
    """
    if not 1 <= n_steps < len(trajectory):
        raise ValueError(f"n_steps={n_steps}: the trajectory has frames for 1 to {len(trajectory) - 1}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    symbols = ff.SYMBOLS * trajectory.n_molecules
    rows = (f"{s} {x:.9f} {y:.9f} {z:.9f}" for s, (x, y, z) in zip(symbols, trajectory.q[0].tolist(), strict=True))
    (folder / "water.xyz").write_text("\n".join([str(len(symbols)), "", *rows]) + "\n")
    (folder / "water.psf").write_text(_psf())
    path = folder / "water.inp"
    path.write_text(cp2k_input(trajectory, n_steps))
    return path


def cp2k_input(trajectory: Trajectory, n_steps: int) -> str:
    """The text of `water.inp`: force field, first velocities, and what to print."""
    charges = "".join(
        f"      &CHARGE\n        ATOM {kind}\n        CHARGE {ff.CHARGES[i]}\n      &END\n"
        for kind, i in _KINDS.items()
    )
    pairs = "".join(
        f"        &LENNARD-JONES\n          ATOMS {a} {b}\n"
        f"          EPSILON [kcalmol] {np.sqrt(ff.EPSILON[i] * ff.EPSILON[j]):.10g}\n"
        f"          SIGMA [angstrom] {(ff.SIGMA[i] + ff.SIGMA[j]) / 2:.10g}\n          RCUT [angstrom] 100\n"
        "        &END\n"
        for (a, i), (b, j) in combinations_with_replacement(_KINDS.items(), 2)
    )
    velocities = "".join(
        f"      {x:.12f} {y:.12f} {z:.12f}\n" for x, y, z in (trajectory.v[0] * (_ATOMIC_TIME / _BOHR)).tolist()
    )
    kinds = "".join(f"    &KIND {kind}\n      MASS {ff.MASSES[i]}\n    &END\n" for kind, i in _KINDS.items())
    prints = "".join(
        f"    &{what}\n      FORMAT XYZ\n      {unit}\n      &EACH\n        MD 1\n      &END\n    &END\n"
        for what, unit in (
            ("TRAJECTORY", "UNIT angstrom"),
            ("VELOCITIES", "UNIT angstrom*fs^-1"),
            ("FORCES", "UNIT hartree*bohr^-1"),
        )
    )
    return _INPUT.format(
        n_steps=n_steps, dt=trajectory.dt, n_molecules=trajectory.n_molecules, charges=charges, pairs=pairs,
        kinds=kinds, velocities=velocities, prints=prints, bond=ff.BOND / 2, bond_length=ff.BOND_LENGTH,
        angle=ff.ANGLE / 2, angle_degrees=ff.ANGLE_DEGREES,
    )  # fmt: skip


def _psf() -> str:
    """One molecule in CHARMM's PSF format, in its columns: atoms, bonds, angle, and five empty lists."""
    atoms = "".join(
        f"{i:8} WAT  1    WAT  {kind:4} {kind:4} {charge:10.6f}     {mass:9.4f}           0\n"
        for i, (kind, charge, mass) in enumerate(zip(ff.SYMBOLS, ff.CHARGES, ff.MASSES, strict=True), 1)
    )
    bonds, angle = ("".join(f"{i:8}" for i in indices) for indices in ((1, 2, 1, 3), (2, 1, 3)))
    lists = [f"{1:8} !NTITLE\n REMARKS water\n", f"{3:8} !NATOM\n{atoms}", f"{2:8} !NBOND\n{bonds}\n"]
    lists += [
        f"{1:8} !NTHETA\n{angle}\n",
        *(f"{0:8} !{name}\n\n" for name in ("NPHI", "NIMPHI", "NDON", "NACC", "NNB")),
    ]
    return "PSF\n\n" + "\n".join(lists)


def compare(trajectory: Trajectory, folder: Path | str) -> dict[str, float]:
    """By how much CP2K's motion in the folder differs from the trajectory that it was written from.

    `potential` (kJ/mol), largest difference at the frames whose energy is known; `force`, largest difference of a
    component at the first frame, over the largest component; `position` (Å) and `velocity` (Å/fs), largest at the last
    frame; `n_steps`. Forces of the trajectory are OpenMM's. Raises OSError where CP2K left no results.
    """
    folder = Path(folder)
    q, v, f = (_read_xyz(folder / f"water-{what}-1.xyz") for what in ("pos", "vel", "frc"))
    found = np.loadtxt(folder / "water-1.ener", ndmin=2)[:, 4] * HARTREE
    n = len(q)
    ours = trajectory.first(n)
    expected = ff.forces(q[0])
    potential: Any = ours.potential
    return {
        "n_steps": n - 1,
        "potential": float(np.abs(found[:: ours.energy_every][: len(potential)] - potential).max()),
        "force": float(np.abs(f[0] * HARTREE / _BOHR * ff.KJ_PER_MOL - expected).max() / np.abs(expected).max()),
        "position": float(np.abs(q[-1] - ours.q[-1]).max()),
        "velocity": float(np.abs(v[-1] - ours.v[-1]).max()),
    }


def _read_xyz(path: Path) -> np.ndarray:
    """Numbers (frames, atoms, 3) of an XYZ file."""
    lines = path.read_text().splitlines()
    size = int(lines[0]) + 2
    frames = [lines[i + 2 : i + size] for i in range(0, len(lines), size)]
    return np.array([[line.split()[1:4] for line in frame] for frame in frames], dtype=np.float64)
