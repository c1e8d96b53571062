"""Trajectories of water molecules: what one is, and files of them that ASE reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from ndae.experiments.water.force_field import MASSES, SYMBOLS
from ndae.experiments.water.missing import load

LONGEST_BOND = 1.3  # Å; an O-H bond of liquid water is 0.96, the nearest hydrogen of another molecule at 1.5 to 2
_LONGEST_JUMP = 2.0  # Å, of a molecule between frames beyond what its velocity explains
_SLOW_ENOUGH = 20.0  # fs between frames for which a molecule's velocity is what its centre does


@dataclass(frozen=True)
class Trajectory:
    """Motion of water molecules, atoms in the order O, H, H: frames `dt` (fs) apart.

    `q`, `v` (n_times, 3 n_molecules, 3): positions in Å and velocities in Å/fs at the same time. `potential`,
    `kinetic`: energies in kJ/mol of every `energy_every`-th frame, or None. `origin`: where it is from, in words.
    """

    q: np.ndarray
    v: np.ndarray
    dt: float
    potential: np.ndarray | None = None
    kinetic: np.ndarray | None = None
    energy_every: int = 1
    origin: str = ""

    def __len__(self) -> int:
        return len(self.q)

    @property
    def n_molecules(self) -> int:
        return self.q.shape[1] // 3

    def first(self, n_times: int) -> "Trajectory":
        """The first `n_times` frames of it."""
        rows = -(-n_times // self.energy_every)
        potential, kinetic = (None if x is None else x[:rows] for x in (self.potential, self.kinetic))
        return Trajectory(
            self.q[:n_times], self.v[:n_times], self.dt, potential, kinetic, self.energy_every, self.origin
        )


def read_trajectory(path: Path | str, frame_step: float | None = None) -> Trajectory:
    """The trajectory of water molecules in a file that ASE reads with velocities, such as extxyz with momenta.

    Frames are `frame_step` (fs) apart, by default as their `time` (fs) says. Positions are in Å; momenta are in ASE's
    unit, amu Å / (Å √(amu/eV)), as ASE writes them. Atoms that are not in the order O, H, H are put into it, oxygens in
    the file's order and each with the two hydrogens within 1.3 Å in the first frame.

    Raises ValueError for a file that ASE cannot read; fewer than three frames; numbers that are not finite; velocities
    that are missing or all zero; frames of other atoms, or of the same in another order; anything but molecules of
    ordinary water; hydrogens that belong to no oxygen or to two; molecules torn at a periodic boundary, or put back by
    one (unwrap these); times that are unknown or not equally spaced; velocities that positions contradict, as in
    another unit or step. OSError where the file cannot be read, MissingPackage without ASE.
    """
    if frame_step is not None and not (np.isfinite(frame_step) and frame_step > 0):
        raise ValueError(f"frame_step must be a positive time in fs, got {frame_step!r}")
    frames = _Frames(str(path))
    for atoms in _frames(path):
        frames.add(atoms)
    return frames.trajectory(frame_step)


def count_molecules(path: Path | str) -> int:
    """How many water molecules are in a file that ASE reads, by its first frame; raises as read_trajectory does."""
    frames = _Frames(str(path))
    for atoms in _frames(path):
        frames.add(atoms)
        return len(frames.symbols) // 3
    raise ValueError(f"{path}: it has no frames: give a trajectory of three or more")


def write_extxyz(trajectory: Trajectory, path: Path | str, every: int = 1) -> Path:
    """Write every `every`-th frame as extxyz, with momenta (ASE's unit) and `time` (fs); the path.

    Raises ValueError for an `every` below one, MissingPackage without ASE.
    """
    if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
        raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
    ase, io, units = (load(name, "writing extxyz") for name in ("ase", "ase.io", "ase.units"))
    path = Path(path)
    with path.open("w") as file:
        for i in range(0, len(trajectory), every):
            atoms = ase.Atoms(SYMBOLS * trajectory.n_molecules, trajectory.q[i].astype(float))
            atoms.set_masses(np.tile(MASSES, trajectory.n_molecules))
            atoms.set_velocities(trajectory.v[i].astype(float) / units.fs)
            del atoms.arrays["masses"]  # they are ASE's own
            atoms.info["time"] = round(i * trajectory.dt, 9)
            io.write(file, atoms, format="extxyz")
    return path


def _frames(path: Path | str) -> Iterator:
    io = load("ase.io", "reading a trajectory")
    with open(path, "rb"):  # what the file system has against it, in its own words
        pass
    try:
        yield from io.iread(str(path), index=":", do_not_split_by_at_sign=True)
    except ValueError as error:
        raise ValueError(f"{path}: ASE can not read it as a trajectory ({error})") from error
    except Exception as error:  # every format fails in its own way: KeyError, IndexError, UnknownFileTypeError
        raise ValueError(f"{path}: ASE can not read it as a trajectory ({type(error).__name__}: {error})") from error


class _Frames:
    """The frames of a file, checked as they come and as a whole."""

    def __init__(self, path: str):
        self.path = path
        self.q, self.v, self.times = [], [], []
        self.symbols: list[str] = []
        self.cell: str = ""

    def __len__(self) -> int:
        return len(self.q)

    def add(self, atoms) -> None:
        symbols = atoms.get_chemical_symbols()
        if not self.q:
            self.symbols = symbols
            self._check_composition()
            if atoms.pbc.any():
                self.cell = "the cell is periodic: "
        elif len(symbols) != len(self.symbols):
            self._refuse(
                f"frame {len(self)} has {len(symbols)} atoms and frame 0 has {len(self.symbols)}: give frames of the "
                "same atoms"
            )
        elif symbols != self.symbols:
            other = next(i for i, pair in enumerate(zip(symbols, self.symbols, strict=True)) if len(set(pair)) > 1)
            self._refuse(
                f"atom {other} is {symbols[other]} in frame {len(self)} and {self.symbols[other]} in frame 0: give "
                "frames with the atoms in one order"
            )
        if not atoms.has("momenta"):
            self._refuse(
                f"frame {len(self)} has no velocities (it has {', '.join(sorted(atoms.arrays))}): give a file with "
                "them, such as extxyz with a column momenta:R:3"
            )
        self._check_masses(atoms.get_masses())
        velocity = atoms.get_velocities() * load("ase.units", "reading a trajectory").fs
        for what, x in (("positions", atoms.positions), ("velocities", velocity)):
            if not np.isfinite(x).all():
                atom = int(np.argmax(~np.isfinite(x).all(1)))
                self._refuse(f"{what} of atom {atom} in frame {len(self)} are not finite")
        self.q.append(atoms.positions.astype(np.float32))
        self.v.append(velocity.astype(np.float32))
        self.times.append(atoms.info.get("time"))

    def trajectory(self, frame_step: float | None) -> Trajectory:
        if len(self) < 3:
            self._refuse(f"it has {len(self)} frames: give a trajectory of three or more")
        dt = self._frame_step() if frame_step is None else float(frame_step)
        order = self._order()
        q, v = np.stack(self.q)[:, order], np.stack(self.v)[:, order]
        self._check_bonds(q)
        self._check_motion(q, v, dt)
        return Trajectory(q, v, dt, origin=f"{Path(self.path).name}, frames {dt:g} fs apart")

    def _check_composition(self) -> None:
        counts = {symbol: self.symbols.count(symbol) for symbol in dict.fromkeys(self.symbols)}
        if set(counts) != {"O", "H"} or counts["H"] != 2 * counts["O"]:
            found = ", ".join(f"{count} {symbol}" for symbol, count in counts.items()) or "no atoms"
            self._refuse(f"frame 0 has {found}: expected water molecules alone, two H for every O")

    def _check_masses(self, masses: np.ndarray) -> None:
        expected = np.where(np.array(self.symbols) == "O", MASSES[0], MASSES[1])
        off = np.abs(masses - expected) > 0.01 * expected
        if off.any():
            atom = int(np.argmax(off))
            self._refuse(
                f"atom {atom} ({self.symbols[atom]}) in frame {len(self)} has a mass of {masses[atom]:g} amu: expected "
                f"ordinary water, O of {MASSES[0]} and H of {MASSES[1]}"
            )

    def _frame_step(self) -> float:
        missing = next((i for i, time in enumerate(self.times) if not isinstance(time, int | float | np.number)), None)
        if missing is not None:
            self._refuse(f"frame {missing} has no time in its header: give frame_step, the time between frames in fs")
        steps = np.diff(np.array(self.times, dtype=np.float64))
        dt = float(steps.mean())
        off = ~(np.abs(steps - dt) <= 1e-3 * dt)
        if off.any() or not dt > 0:
            i = int(np.argmax(off))
            self._refuse(
                f"frames {i} and {i + 1} are {steps[i]:g} fs apart, on average it is {dt:g}: give frames at equal "
                "steps of time, or frame_step if the times are wrong"
            )
        return float(f"{dt:.9g}")  # 0.1, not 0.1 as rounding left it

    def _order(self) -> np.ndarray:
        """Indices that put the atoms into the order O, H, H."""
        q = self.q[0].astype(np.float64)
        oxygens, hydrogens = (np.array([i for i, s in enumerate(self.symbols) if s == symbol]) for symbol in "OH")
        bonded = np.linalg.norm(q[oxygens, None] - q[hydrogens], axis=-1) <= LONGEST_BOND
        if (bonded.sum(0) == 1).all() and (bonded.sum(1) == 2).all():
            # Rows of `nonzero` go by oxygen, and by hydrogen within one.
            pairs = hydrogens[np.nonzero(bonded)[1]].reshape(-1, 2)
            return np.column_stack([oxygens, pairs]).ravel()
        wrong = np.flatnonzero(bonded.sum(0) != 1)
        if len(wrong):
            atom, count = hydrogens[wrong[0]], bonded[:, wrong[0]].sum()
            found = f"atom {atom} (H) in frame 0 has {count} oxygens within {LONGEST_BOND} Å, not one"
        else:
            molecule = int(np.argmax(bonded.sum(1) != 2))
            found = (
                f"atom {oxygens[molecule]} (O) in frame 0 has {bonded[molecule].sum()} hydrogens within "
                f"{LONGEST_BOND} Å, not two"
            )
        self._refuse(f"{found}: {self.cell}give whole molecules, unwrapped if a periodic boundary tore them")

    def _check_bonds(self, q: np.ndarray) -> None:
        atoms = q.reshape(len(q), -1, 3, 3)
        bonds = np.linalg.norm(atoms[:, :, 1:] - atoms[:, :, :1], axis=-1).max(-1)
        torn = bonds > LONGEST_BOND
        if torn.any():
            frame, molecule = (int(x) for x in np.unravel_index(np.argmax(torn), torn.shape))
            self._refuse(
                f"molecule {molecule} (from 0, by oxygens) is torn in frame {frame}: an O-H distance is "
                f"{bonds[frame, molecule]:.3g} Å, more than {LONGEST_BOND}; {self.cell}give whole molecules, unwrapped"
            )

    def _check_motion(self, q: np.ndarray, v: np.ndarray, dt: float) -> None:
        """Raise where the centres of molecules do not move as their velocities say."""
        if not v.any():
            self._refuse("all velocities are zero: give a trajectory that has them")
        weights = np.array(MASSES) / sum(MASSES)
        place, speed = (
            np.einsum("a,tmax->tmx", weights, x.reshape(len(x), -1, 3, 3), dtype=np.float64) for x in (q, v)
        )
        jump = np.linalg.norm(np.diff(place, axis=0) - dt * (speed[1:] + speed[:-1]) / 2, axis=-1)
        if jump.max() > _LONGEST_JUMP:
            frame, molecule = (int(x) for x in np.unravel_index(np.argmax(jump > _LONGEST_JUMP), jump.shape))
            self._refuse(
                f"molecule {molecule} (from 0, by oxygens) jumps by {jump[frame, molecule]:.3g} Å between frames "
                f"{frame} and {frame + 1}, beyond what its velocity explains: {self.cell}give an unwrapped trajectory, "
                "with the right step of time"
            )
        if dt > _SLOW_ENOUGH:
            return
        moved = (place[2:] - place[:-2]) / (2 * dt)
        ratio = float((moved * speed[1:-1]).sum() / (speed[1:-1] ** 2).sum())
        if not 0.8 < ratio < 1.25:
            self._refuse(
                f"molecules move {ratio:.3g} times as fast as their velocities say, in frames {dt:g} fs apart: the "
                "step of time is another (give frame_step in fs), or the momenta are not in ASE's unit"
            )

    def _refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"{self.path}: {reason}")
