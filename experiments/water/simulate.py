"""Molecular dynamics of a cluster of flexible water molecules at constant energy, by OpenMM.

A start at 300 K that stays near 300 K, then velocity Verlet: positions and velocities of every step, at the same time.
"""

from collections.abc import Callable

import numpy as np

from ndae.experiments.cache import cached_arrays
from ndae.experiments.water.force_field import (
    ANGLE_DEGREES,
    BOND_LENGTH,
    context,
    kinetic_energy,
    masses,
    plain,
    system,
    temperature,
)
from ndae.experiments.water.missing import load
from ndae.experiments.water.trajectory import Trajectory
from ndae.solvers.progress import Progress

N_MOLECULES, DT, N_STEPS = 32, 0.1, 100_000  # the paper's, section 3.2: fs
TEMPERATURE, TEMPERATURE_BAND = 300.0, 5.0  # K
CHECKED_PS, CHECKS, MAX_TRIES = 10.0, 5, 60
ENERGY_EVERY = 10

_SPACING = 3.1  # Å, of the lattice: about water's own
_WALL, _WALL_STIFFNESS = 10.0, 1000.0  # Å for up to 32 molecules; kJ/mol/nm²
_LANGEVIN_STEP, _FRICTION = 0.5, 5.0  # fs, 1/ps
# Of how it is made, where no number below says it.
_VERSION = 1


def simulate(
    seed: int = 0,
    n_steps: int = N_STEPS,
    n_molecules: int = N_MOLECULES,
    *,
    dt: float = DT,
    equilibration_ps: float = 20.0,
    check_temperature: bool = True,
    progress: Progress | None = None,
) -> Trajectory:
    """Motion of `n_molecules` waters without boundaries over `n_steps` steps of `dt` (fs): n_steps + 1 samples.

    1. Randomly turned molecules on a lattice; minimised; `equilibration_ps` of Langevin dynamics at 300 K (friction
       5/ps) with a soft wall that holds the oxygens within 10 Å of the origin.
    2. Momentum of the centre and angular momentum removed, velocities scaled to exactly 300 K.
    3. Velocity Verlet without wall or thermostat, with forces of `ndae.experiments.water.force_field` in float64, kept
       as float32. Potential and kinetic energy are of every 10th step.

    Starts hold more or less potential energy, and come to other temperatures on their own. Taken is the first of a
    sequence that `seed` fixes, 60 at most, whose mean temperature over the first 10 ps is within 5 K of 300 (and within
    5 K + 10 K ps / t over the first t = 2, 4, 6 and 8 ps, to give up soon): about one in five of 32 molecules is, so
    that it takes half a minute or several. `check_temperature=False` takes the first of all; short runs are then short.

    Cached, for each version of OpenMM, force field and setting of these steps. With the check, runs are made in lengths
    of 10 ps and cut. A longer run begins with the same samples, and reruns are bitwise equal, on one machine: the
    motion is chaotic, and on a machine that rounds otherwise it is another one after a few ps. `progress(fraction,
    text)`: of the present start.

    Raises ValueError for a count below one, a negative seed, a step that is not positive or so long that the motion is
    not finite, or no start of the right temperature (too few molecules); MissingPackage without OpenMM.
    """
    for name, value, least in (("seed", seed, 0), ("n_steps", n_steps, 1), ("n_molecules", n_molecules, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive time step in fs, got {dt!r}")
    if not (np.isfinite(equilibration_ps) and equilibration_ps >= 0):
        raise ValueError(f"equilibration_ps must be a time in ps, 0 or longer, got {equilibration_ps!r}")
    openmm = load("openmm", "the simulation of water")
    checked = int(np.ceil(1000 * CHECKED_PS / dt - 1e-6)) if check_temperature else 0
    length = -(-int(n_steps) // checked) * checked if checked else int(n_steps)
    config = {
        "seed": int(seed), "n_steps": length, "n_molecules": int(n_molecules), "dt": float(dt),
        "equilibration_ps": float(equilibration_ps), "check_temperature": bool(check_temperature),
    }  # fmt: skip

    def make() -> dict[str, np.ndarray]:
        return _accepted(int(seed), length, int(n_molecules), float(dt), float(equilibration_ps), checked, progress)

    arrays = cached_arrays("water", config, make, recipe=_recipe(int(n_molecules)))
    start = int(arrays.pop("start"))
    origin = (
        f"OpenMM {openmm.__version__}, {n_molecules} flexible TIP3P (CHARMM) molecules, constant energy, steps of "
        f"{dt:g} fs, seed {seed}, start {start}"
    )
    return Trajectory(**arrays, dt=float(dt), energy_every=ENERGY_EVERY, origin=origin).first(int(n_steps) + 1)


def _recipe(n_molecules: int) -> dict[str, object]:
    """What the motion follows from, beside what is asked for."""
    from ndae.training.description import fingerprint

    openmm = load("openmm", "the simulation of water")
    return {
        "version": _VERSION,
        "openmm": openmm.__version__,
        "force_field": fingerprint(openmm.XmlSerializer.serialize(system(n_molecules))),
        "temperature": [TEMPERATURE, TEMPERATURE_BAND, CHECKED_PS, CHECKS],
        "start": [_SPACING, ANGLE_DEGREES, BOND_LENGTH, _WALL, _WALL_STIFFNESS, _LANGEVIN_STEP, _FRICTION],
        "energy_every": ENERGY_EVERY,
    }


def _accepted(
    seed: int, n_steps: int, n_molecules: int, dt: float, equilibration_ps: float, checked: int, say: Progress | None
) -> dict[str, np.ndarray]:
    found = []
    for start in range(MAX_TRIES):
        what = f"water, seed {seed}, start {start}"
        q, v = _start(seed, start, n_molecules, equilibration_ps, _part(say, f"{what}: equilibration", 0.0, 0.2))
        run = _run(q, v, n_steps, dt, checked, _part(say, f"{what}: constant energy", 0.2, 1.0))
        if isinstance(run, dict):
            return run | {"start": np.array(start)}
        found.append(f"{run:.0f}")
    raise ValueError(
        f"none of {MAX_TRIES} starts of seed {seed} stays within {TEMPERATURE_BAND:g} K of {TEMPERATURE:g} K for "
        f"{CHECKED_PS:g} ps (mean temperatures in K until given up: {', '.join(found)}): give another seed or more "
        f"molecules than {n_molecules}, or check_temperature=False to take the first"
    )


def _part(say: Progress | None, what: str, first: float, last: float) -> Callable[[int, int], None]:
    """`report(done, of)` of a stage that takes a try from `first` to `last` of its fraction."""

    def report(done: int, of: int) -> None:
        if say:
            say(first + (last - first) * done / of, what)

    return report


def _start(
    seed: int, start: int, n_molecules: int, equilibration_ps: float, report: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Equilibrated positions and velocities, in nm and nm/ps, at 300 K and at rest as a whole."""
    openmm = load("openmm", "the simulation of water")
    random = np.random.default_rng([seed, start])
    walled = system(n_molecules)
    wall = openmm.CustomExternalForce("k * max(0, sqrt(x^2 + y^2 + z^2) - radius)^2")
    wall.addGlobalParameter("k", _WALL_STIFFNESS)
    wall.addGlobalParameter("radius", _WALL / 10 * max(1.0, n_molecules / N_MOLECULES) ** (1 / 3))
    for oxygen in range(0, 3 * n_molecules, 3):
        wall.addParticle(oxygen, [])
    walled.addForce(wall)
    langevin = openmm.LangevinMiddleIntegrator(TEMPERATURE, _FRICTION, _LANGEVIN_STEP / 1000)
    langevin.setRandomNumberSeed(_openmm_seed(random))
    bath = context(walled, langevin)
    bath.setPositions(_lattice(n_molecules, random) / 10)
    openmm.LocalEnergyMinimizer.minimize(bath, 10.0, 200)
    bath.setVelocitiesToTemperature(TEMPERATURE, _openmm_seed(random))
    n_steps = round(1000 * equilibration_ps / _LANGEVIN_STEP)
    for done in range(0, n_steps, 1000):
        report(done, n_steps)
        langevin.step(min(1000, n_steps - done))
    state = bath.getState(getPositions=True, getVelocities=True)
    q, v = plain(state.getPositions(asNumpy=True)), plain(state.getVelocities(asNumpy=True))
    q, v = _at_rest(q, v, masses(n_molecules)[:, None])
    return q, v * np.sqrt(TEMPERATURE / temperature(kinetic_energy(v / 100), n_molecules))


def _openmm_seed(random: np.random.Generator) -> int:
    return int(random.integers(1, 2**31 - 1))  # OpenMM draws its own for 0


def _lattice(n_molecules: int, random: np.random.Generator) -> np.ndarray:
    """Molecules of the force field's own shape, each turned at random, on the lattice points nearest to the origin."""
    from scipy.spatial.transform import Rotation

    side = np.arange(np.ceil(n_molecules ** (1 / 3) - 1e-9))
    sites = np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3) - side.mean()
    sites = _SPACING * sites[np.argsort(np.linalg.norm(sites, axis=1), kind="stable")[:n_molecules]]
    angle = np.deg2rad(ANGLE_DEGREES)
    shape = BOND_LENGTH * np.array([[0, 0, 0], [1, 0, 0], [np.cos(angle), np.sin(angle), 0]])
    turns = Rotation.from_quat(random.normal(size=(n_molecules, 4))).as_matrix()
    return (sites[:, None] + np.einsum("nij,aj->nai", turns, shape)).reshape(-1, 3)


def _at_rest(q: np.ndarray, v: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions about the centre of mass, and velocities without a momentum of it and without angular momentum."""
    q, v = (x - (mass * x).sum(0) / mass.sum() for x in (q, v))
    inertia = (mass * q).T @ q
    inertia = np.trace(inertia) * np.eye(3) - inertia
    return q, v - np.cross(np.linalg.solve(inertia, (mass * np.cross(q, v)).sum(0)), q)


def _velocity_verlet(dt: float):
    """Velocity Verlet in steps of `dt` (fs), for OpenMM's own is leapfrog: its velocities are half a step behind."""
    integrator = load("openmm", "the simulation of water").CustomIntegrator(dt / 1000)
    integrator.addComputePerDof("v", "v + 0.5 * dt * f / m")
    integrator.addComputePerDof("x", "x + dt * v")
    integrator.addComputePerDof("v", "v + 0.5 * dt * f / m")
    return integrator


def _run(
    q0: np.ndarray, v0: np.ndarray, n_steps: int, dt: float, checked: int, report: Callable[[int, int], None]
) -> dict[str, np.ndarray] | float:
    """Positions (Å), velocities (Å/fs) and energies (kJ/mol) from a start in nm and nm/ps.

    Or the mean temperature so far, at a check within the first `checked` steps where it is not near to 300 K.
    """
    openmm, n_molecules = load("openmm", "the simulation of water"), len(q0) // 3
    integrator = _velocity_verlet(dt)
    free = context(system(n_molecules), integrator)
    free.setPositions(q0)
    free.setVelocities(v0)
    q, v = (np.empty((n_steps + 1, *q0.shape), np.float32) for _ in range(2))
    potential, kinetic = (np.empty(n_steps // ENERGY_EVERY + 1) for _ in range(2))
    # By how much the mean of part of the time may be off beyond what that of the whole may.
    part = checked // CHECKS
    checks = {i * part: 10.0 / (CHECKED_PS * i / CHECKS) for i in range(1, CHECKS) if part} | {checked: 0.0}
    checks.pop(0, None)  # no check asked for
    for step in range(n_steps + 1):
        row, between = divmod(step, ENERGY_EVERY)
        state = free.getState(getPositions=True, getVelocities=True, getEnergy=not between)
        with np.errstate(over="ignore"):  # is found below
            q[step] = 10 * plain(state.getPositions(asNumpy=True))
            v[step] = plain(state.getVelocities(asNumpy=True)) / 100
        if not between:
            potential[row], kinetic[row] = plain(state.getPotentialEnergy()), plain(state.getKineticEnergy())
        if step % 1000 == 0:
            report(step, n_steps)
            if not np.isfinite(q[step]).all():
                break
        if step in checks:
            mean = float(temperature(kinetic[: row + 1].mean(), n_molecules))
            if abs(mean - TEMPERATURE) > TEMPERATURE_BAND + checks[step]:
                return mean
        if step < n_steps:
            try:
                integrator.step(1)
            except openmm.OpenMMException:  # of coordinates that are not finite
                q[step] = np.nan
                break
    if not (np.isfinite(q[step]).all() and np.isfinite(v[step]).all()):
        raise ValueError(
            f"the motion of {n_molecules} molecules is not finite in steps of {dt:g} fs: give a smaller dt"
        )
    return {"q": q, "v": v, "potential": potential, "kinetic": kinetic}
