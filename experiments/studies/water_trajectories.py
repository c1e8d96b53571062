"""`python -m ndae.experiments.water`: simulated trajectories in numbers; input for CP2K, and how its motion differs."""

import argparse
import sys
from typing import Any

import numpy as np

from ndae.experiments.terminal import is_users, one_line
from ndae.experiments.water.trajectory import Trajectory


def facts(trajectory: Trajectory, horizon: int, n_samples: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Numbers of a simulated trajectory, and of `n_samples` random samples with targets `horizon` steps later.

    `energy`, `energy_range` (kJ/mol), peak to peak, `temperature` (K) of the run. Of the samples, means over atoms in
    pm: `moved`, how far; `straight`, from r + v · horizon · dt; `floor`, from the truth's own projection on the
    constraints; and `off_by` (Å), by how much distances in molecules are off. `accelerations`: rms of what differences
    of velocities over two steps are off forces over masses, relative (dt² is in it).
    """
    from ndae.experiments.water.baselines import scores, trivial_baselines
    from ndae.experiments.water.data import WaterSamples
    from ndae.experiments.water.force_field import forces, masses, temperature

    potential: Any = trajectory.potential
    kinetic: Any = trajectory.kinetic
    energy = potential + kinetic
    index = np.random.default_rng(seed).permutation(len(trajectory) - horizon)[:n_samples]
    inputs = np.concatenate([trajectory.q[index], trajectory.v[index]], -1)
    samples = WaterSamples(inputs, trajectory.q[index + horizon], index)
    errors = trivial_baselines(samples, horizon, trajectory.dt)
    middle = np.clip(index[:50], 1, None)
    before, after = (trajectory.v[middle + k].astype(float) for k in (-1, 1))
    expected = forces(trajectory.q[middle]) / masses(trajectory.n_molecules)[:, None]
    difference = (after - before) / (2 * trajectory.dt) - expected
    return {
        "energy": float(energy.mean()),
        "energy_range": float(np.ptp(energy)),
        "temperature": float(temperature(kinetic.mean(), trajectory.n_molecules)),
        "moved": errors["no motion"]["mae_pm"],
        "straight": errors["constant velocity"]["mae_pm"],
        "floor": errors["truth, projected"]["mae_pm"],
        "off_by": scores(samples.targets, samples.targets)["violation_mean"],
        "accelerations": float(np.sqrt((difference**2).mean() / (expected**2).mean())),
    }


def main() -> None:
    """Simulate, or read from the cache, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m ndae.experiments.water", description=str(__doc__).split(": ", 1)[1]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="trajectories (default: 0 1)")
    parser.add_argument("--horizon", type=int, default=50, help="steps ahead (default: 50)")
    parser.add_argument("--cp2k", metavar="FOLDER", help="write input for CP2K here, 1,000 steps of the first seed")
    parser.add_argument("--compare", metavar="FOLDER", help="say how CP2K's results in this folder differ")
    parser.add_argument("--extxyz", metavar="FILE", help="write every 50th frame of the first seed to this file")
    arguments = parser.parse_args()
    from ndae.experiments.water.simulate import simulate

    first = simulate(arguments.seeds[0], progress=_progress)
    if arguments.cp2k:
        from ndae.experiments.water.cp2k import write_input

        print(f"{write_input(first, arguments.cp2k, 1_000)}: run `cp2k -i water.inp -o water.out` in its folder")
    elif arguments.compare:
        from ndae.experiments.water.cp2k import compare

        found = compare(first, arguments.compare)
        print(f"CP2K after {found['n_steps']} steps of {first.dt:g} fs from the same start, largest differences:")
        print(f"  potential energy {found['potential']:.1e} kJ/mol")
        print(f"  forces at the start {found['force']:.1e} of the largest")
        print(f"  positions at the end {found['position']:.1e} Å, velocities {found['velocity']:.1e} Å/fs")
    elif arguments.extxyz:
        from ndae.experiments.water.trajectory import write_extxyz

        print(write_extxyz(first, arguments.extxyz, 50))
    else:
        for seed in arguments.seeds:
            _print_facts(simulate(seed, progress=_progress), arguments.horizon)


def _print_facts(trajectory: Trajectory, horizon: int) -> None:
    found = facts(trajectory, horizon)
    print(trajectory.origin)
    print(f"  total energy {found['energy']:.1f} kJ/mol, {found['energy_range']:.3f} peak to peak")
    print(f"  mean temperature {found['temperature']:.1f} K")
    print(f"  accelerations {found['accelerations']:.1e} from the force field's (rms, relative)")
    print(f"  distances in molecules {100 * found['off_by']:.2f} pm from 95.7, 95.7 and 151.3 pm")
    print(
        f"  {horizon} steps ahead, an atom: moves {found['moved']:.2f} pm, off r + v k dt {found['straight']:.2f} pm,"
    )
    print(f"  off its own projection on the constraints {found['floor']:.2f} pm")


def _progress(fraction: float, what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{what} {100 * fraction:3.0f} %", end="\n" if fraction == 1 else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        if not is_users(error):
            raise
        sys.exit(f"Error: {one_line(error)}")
