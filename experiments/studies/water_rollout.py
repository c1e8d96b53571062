"""Learned motions of water rolled out for a picosecond from held-out starts, beside OpenMM's.

    # runs of `ndae train water`, by default those of the table
    python -m ndae.experiments.studies.water_rollout [RUN ...]
    python -m ndae.experiments.studies.water_rollout --table      # table and figure from the numbers in the JSON file

**Starts.** Five at the beginning of the last 15 % of the trajectory, of which the first 80 % were for training, and ten
over the whole of the trajectory from the other seed. Models get positions and velocities, and nothing later.

**Rolled out.** In steps of 5 fs, each from what the one before predicted, in float64. A NeuralMotion has velocities. A
network gives positions alone: its velocity is the rate at which its prediction changes as the state that it is made
from moves on, with the true acceleration there, as in experiments.propagators.HorizonMap (the difference of successive
positions is half a step behind, of bonds that swing in two steps, and would be wrong of an exact map too). The true
force under the steps of velocity Verlet that soft constraints are trained with, 0.25 fs, is the ceiling: OpenMM's
trajectory has steps of 0.1 fs, and the motion is chaotic. A start is lost where numbers are not finite, an O-H distance
is above 1.3 Å or the temperature above 1,000 K; all figures are of times before.

**Measured.** Temperature: of 3 n_atoms − 6 degrees of freedom, since momentum and angular momentum are zero (less one
for every rigid distance, where a method keeps these). Energies: kinetic and learned potential ("own"), and kinetic and
the force field's potential ("true"), relative to the start; drift is the slope of a straight line through them, times
the duration. Distances between oxygens, of the later half of the time: how many there are to how many there would be at
the density of liquid water, 0.0334 molecules/Å³; for a cluster the ratio falls to zero. Errors are mean distances of an
atom from where OpenMM has it, medians over starts.
"""

import argparse
import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ndae.experiments.files import read_json, write_json
from ndae.experiments.terminal import is_users, note, one_line
from ndae.experiments.variants import METHOD_TITLES, Variant
from ndae.experiments.water.force_field import BOLTZMANN, KJ_PER_MOL, kinetic_energy, potential_energy
from ndae.experiments.water.measures import (
    DENSITY,
    bond_lengths,
    density,
    drift,
    first_peak,
    quartiles,
    radial_distribution,
    short,
    temperature_of,
)
from ndae.experiments.water.simulate import TEMPERATURE
from ndae.experiments.water.trajectory import LONGEST_BOND, Trajectory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ndae import NeuralMotion

OUT = Path("experiments/results/water")
STEP, DURATION = 5.0, 1_000.0  # fs
BLOCKED_STARTS, OTHER_STARTS = 5, 10
ERRORS_AT = (5, 50, 100, 1_000)  # fs
HOTTEST = 1_000.0  # K
TRUE = "True force"
_BLOCK = 0.85  # of the trajectory, before what is held out
_LENGTHS = np.linspace(0.8, 1.16, 73)  # Å, O-H
_DISTANCES = np.linspace(2.0, 10.0, 161)  # Å, O-O
_SPACING = 1e-3  # fs, between the states of a difference
_TIGHT = 1e-10  # Å

States = Float[np.ndarray, "starts atoms 6"]
Frames = Float[np.ndarray, "starts n_times atoms 3"]
# The states one step later.
Step = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Reference:
    """Starts and what came after them: `q`, `v` (starts, n_times, atoms, 3), `step` (fs) apart; `where` each is."""

    q: Frames
    v: Frames
    step: float
    where: tuple[str, ...]

    @property
    def times(self) -> np.ndarray:
        """Times (n_times,) in fs after the start."""
        return self.step * np.arange(self.q.shape[1])


@dataclass(frozen=True)
class Rolled:
    """What is rolled out: `step`, a function of states (starts, atoms, 6) that gives those one step later.

    `n_dof`: degrees of freedom of its temperature; `about`: what the row of the JSON file says of it; `energy`: its own
    energy (starts,) of states, in amu Å²/fs²; `begin`: where motion begins that does not begin at the start given.
    """

    step: Step
    n_dof: int
    about: Mapping[str, Any]
    energy: Callable[["Tensor"], "Tensor"] | None = None
    begin: Step | None = None


def reference(
    blocked: Trajectory,
    other: Trajectory | None,
    *,
    n_blocked: int = BLOCKED_STARTS,
    n_other: int = OTHER_STARTS,
    step: float = STEP,
    duration: float = DURATION,
) -> Reference:
    """Starts spread evenly over the last 15 % of `blocked` and over all of `other`, with all that followed.

    Raises ValueError for a step that is not a whole number of frames, a duration that is not one of steps, and where
    no start has so much after it.
    """
    found: dict[str, list] = {"q": [], "v": [], "where": []}
    parts = [("time-blocked", blocked, math.ceil(_BLOCK * len(blocked)), n_blocked)]
    parts += [("other seed", other, 0, n_other)] if other is not None else []
    for where, trajectory, first, count in parts:
        every = _whole(step, trajectory.dt, "step")
        frames = every * np.arange(_whole(duration, step, "duration") + 1)
        last = len(trajectory) - 1 - frames[-1]
        if last < first:
            raise ValueError(
                f"{where}: there are {(len(trajectory) - 1 - first) * trajectory.dt:g} fs to start in, fewer than a "
                f"duration of {duration:g} fs: give a shorter one"
            )
        for start in np.linspace(first, last, count).round().astype(int):
            found["q"].append(trajectory.q[start + frames].astype(np.float64))
            found["v"].append(trajectory.v[start + frames].astype(np.float64))
            found["where"].append(where)
    return Reference(np.stack(found["q"]), np.stack(found["v"]), float(step), tuple(found["where"]))


def _whole(time: float, unit: float, name: str) -> int:
    count = round(time / unit)
    if count < 1 or abs(count * unit - time) > 1e-6 * time:
        raise ValueError(f"{name} is {time:g} fs, expected a whole number of {unit:g} fs")
    return count


# -- what is rolled out ------------------------------------------------------------------------------------------------


def of_run(folder: Path, step: float = STEP) -> Rolled:
    """The trained model of a run; raises what `load_model` does, and ValueError for one that is not of water."""
    from ndae.experiments.runs.models import problem_of
    from ndae.experiments.runs.run import load_model

    config, model = load_model(folder)
    if config.problem != "water":
        raise ValueError(f"{folder} is a run of {config.problem}: give runs of water")
    about = {name: getattr(config, name) for name in ("method", "network", "n_train", "horizon", "seed")}
    title = f"{METHOD_TITLES[config.method]}, {config.network}, {config.n_train:,} samples"
    about |= {"name": title + f", seed {config.seed}" * bool(config.seed), "run": Path(folder).name}
    return of_model(model, config.horizon * problem_of(config).dt, about, step)


def of_model(model: Any, period: float, about: Mapping[str, Any], step: float = STEP) -> Rolled:
    """A NeuralMotion, or a network that predicts positions `period` (fs) ahead, which has to be one step."""
    from ndae import NeuralMotion
    from ndae.methods import EndProjection, SmoothProjection

    model = copy.deepcopy(model).double().eval()
    parts = model.method.parts
    n_atoms = model.constraint.n_points
    rigid = getattr(model, "multipliers", False) or any(
        isinstance(part, EndProjection | SmoothProjection) for part in parts
    )
    n_dof = 3 * n_atoms - 6 - rigid * model.constraint.n_residuals
    if isinstance(model, NeuralMotion):
        model.start_tol = float("inf")  # what drifted off is to be seen, not refused
        own = model.energy if _has_energy(model) else None
        begin = (lambda x: _states(model, x, step)[:, 0]) if model.starts == "project" else None
        return Rolled(lambda x: _states(model, x, step)[:, -1], n_dof, about, own, begin)
    if abs(period - step) > 1e-6 * step:
        raise ValueError(f"the network predicts {period:g} fs ahead: it can not be rolled out in steps of {step:g} fs")
    return Rolled(_network_step(model, parts), n_dof, about)


def _states(model: "NeuralMotion", x: "Tensor", step: float) -> "Tensor":
    import torch

    motion = model.trajectory(x, [0.0, step])
    return torch.cat([motion.q, motion.v], -1)


def _has_energy(model: "NeuralMotion") -> bool:
    return all(hasattr(force, "energy") for force in getattr(model.force, "parts", [model.force]))


def _network_step(model: "nn.Module", parts: Sequence) -> Step:
    import torch

    from ndae.experiments.water.force_field import forces, masses

    for part in parts:  # differences would show where an iteration stopped
        if hasattr(part, "tol"):
            part.tol = _TIGHT

    def step(x: "Tensor") -> "Tensor":
        q, v = x.chunk(2, -1)
        a = torch.as_tensor(forces(q.numpy()) / masses(q.shape[-2] // 3)[:, None])
        rate = torch.cat([v, a], -1)
        velocity = (model(x + _SPACING * rate) - model(x - _SPACING * rate)) / (2 * _SPACING)
        return torch.cat([model(x), velocity], -1)

    return step


def true_force(n_molecules: int, longest: float | None = None, step: float = STEP) -> Rolled:
    """The force field itself under velocity Verlet, in steps of at most `longest` (fs), by default those of learned
    motions."""
    import torch

    from ndae import NeuralMotion
    from ndae.experiments.problems.library.water import WaterProblem
    from ndae.experiments.water.baselines import constraint
    from ndae.experiments.water.force_field import forces, masses

    def force(t: Any, x: "Tensor") -> "Tensor":
        return torch.as_tensor(forces(x[..., :3].numpy()))

    longest = longest or WaterProblem.soft_step
    model = NeuralMotion(
        constraint(n_molecules).torch(), force, duration=step, n_steps=math.ceil(step / longest * (1 - 1e-9)),
        mass=tuple(masses(n_molecules).tolist()), multipliers=False, integrator="velocity_verlet",
    )  # fmt: skip
    return of_model(model, step, {"name": f"{TRUE}, steps of {longest:g} fs", "method": None}, step)


# -- rolling out -------------------------------------------------------------------------------------------------------


def roll_out(
    rolled: Rolled, x: States, n_steps: int, say: Callable[[int, int], None] | None = None
) -> tuple[Frames, Frames]:
    """Positions and velocities at 0, 1, ..., `n_steps` steps; NaN from where a start is lost, which stops it alone."""
    import torch

    frames = np.full((len(x), n_steps + 1, *x.shape[1:]), np.nan)
    with torch.no_grad():
        frames[:, 0] = x if rolled.begin is None else rolled.begin(torch.as_tensor(x)).numpy()
        for k in range(n_steps):
            going = np.flatnonzero(np.isfinite(frames[:, k]).all((1, 2)))
            if not len(going):
                break
            after = rolled.step(torch.as_tensor(frames[going, k])).numpy()
            frames[going, k + 1] = np.where(_lost(after, rolled.n_dof)[:, None, None], np.nan, after)
            if say:
                say(k + 1, n_steps)
    q, v = np.split(frames, 2, -1)
    return q, v


def _lost(x: States, n_dof: int) -> np.ndarray:
    finite: Any = np.isfinite(x).all((1, 2))
    q, v = np.split(np.where(finite[:, None, None], x, 0.0), 2, -1)
    return ~finite | (bond_lengths(q).max((1, 2)) > LONGEST_BOND) | (temperature_of(v, n_dof) > HOTTEST)


# -- what is measured --------------------------------------------------------------------------------------------------


def measure(rolled: Rolled | None, truth: Reference, say: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """The row of the JSON file of what is rolled out from the starts of `truth`; of `truth` itself for None."""
    n_steps, n_molecules = truth.q.shape[1] - 1, truth.q.shape[2] // 3
    full = 9 * n_molecules - 6
    if rolled is None:
        (q, v), n_dof, about = (truth.q, truth.v), full, {"name": "OpenMM", "method": None}
    else:
        q, v = roll_out(rolled, np.concatenate([truth.q[:, 0], truth.v[:, 0]], -1), n_steps, say)
        n_dof, about = rolled.n_dof, rolled.about
    there: Any = np.isfinite(q).all((2, 3))
    lost = [None if ok.all() else float(truth.times[np.argmin(ok)]) for ok in there]
    warm, meant = temperature_of(v, n_dof), temperature_of(truth.v, full)
    kinetic, unit = kinetic_energy(v), n_dof * BOLTZMANN * TEMPERATURE
    potential = np.full_like(kinetic, np.nan)
    potential[there] = potential_energy(q[there])
    energies = {"true": kinetic + potential}
    if rolled is not None and rolled.energy is not None:
        energies["own"] = _own(rolled.energy, q, v, there) / KJ_PER_MOL
    late = truth.times >= truth.times[-1] / 2
    error = 100 * np.linalg.norm(q - truth.q, axis=-1).mean(-1)
    g = radial_distribution(q[:, late, ::3], _DISTANCES)
    peak = first_peak(g, _DISTANCES) if g.any() else (None, None)
    lengths = bond_lengths(q[there])
    row = dict(about) | {
        "degrees_of_freedom": n_dof,
        "lost_fs": lost,
        "temperature_K": {
            "mean": float(np.nanmean(warm)),
            "rms_deviation": float(np.sqrt(np.nanmean((warm - meant) ** 2))),
        },
        "drift": {name: drift(energy, truth.times, unit) for name, energy in energies.items()},
        "bond_A": {"mean": float(lengths.mean()), "std": float(lengths.std())},
        "oxygens": dict(zip(("first_peak_A", "height"), peak, strict=True)),
        "error_pm": {},
    }
    if rolled is not None:
        row["error_pm"] = _at_times(error, truth)
    curves = {"temperature_one_K": warm[_one(truth)], "bond": density(lengths, _LENGTHS), "oxygens": g}
    curves |= {"error_pm": quartiles(error)} if rolled is not None else {}
    curves |= {f"{name}_kJ": quartiles(energy - energy[:, :1]) for name, energy in energies.items()}
    return row | {"curves": {name: short(curve) for name, curve in curves.items()}}


def _one(truth: Reference) -> int:
    """The start that is shown alone: the first that is of the other seed, if there is one."""
    return truth.where.index("other seed") if "other seed" in truth.where else 0


def _own(energy: Callable, q: np.ndarray, v: np.ndarray, there: np.ndarray) -> np.ndarray:
    import torch

    found = np.full(there.shape, np.nan)
    with torch.no_grad():
        states = torch.as_tensor(np.concatenate([q[there], v[there]], -1))
        found[there] = torch.cat([energy(part) for part in states.split(200)]).numpy()
    return found


def _at_times(error: np.ndarray, truth: Reference) -> dict[str, float | None]:
    """Medians over starts at the times of `ERRORS_AT` that are reached, None where half of the starts are lost."""
    at = [round(t / truth.step) for t in ERRORS_AT if t <= truth.times[-1]]
    middle = quartiles(error)[1]
    return {f"{truth.times[i]:g}": None if np.isnan(middle[i]) else float(middle[i]) for i in at}


def study(
    rolls: Sequence[Rolled], truth: Reference, say: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Everything that the table and the figure show, as plain numbers."""
    rows = []
    for rolled in rolls:
        name = rolled.about["name"]
        rows.append(measure(rolled, truth, say and (lambda done, of, name=name: say(name, done, of))))
    straight = truth.q[:, :1] + truth.times[:, None, None] * truth.v[:, :1]
    error = 100 * np.linalg.norm(straight - truth.q, axis=-1).mean(-1)
    return {
        "n_molecules": truth.q.shape[2] // 3,
        "starts": {where: truth.where.count(where) for where in dict.fromkeys(truth.where)},
        "shown_alone": truth.where[_one(truth)],
        "times_fs": short(truth.times),
        "bond_edges_A": short(_LENGTHS),
        "oxygens_edges_A": short(_DISTANCES),
        "density_per_A3": DENSITY,
        "openmm": measure(None, truth),
        "constant_velocity": {"error_pm": _at_times(error, truth), "curve_pm": short(quartiles(error))},
        "rows": rows,
    }


# -- the command -------------------------------------------------------------------------------------------------------


def default_runs(runs: Path = Path("runs/water/runs")) -> list[Path]:
    """Seed 0 of every row of ndae.experiments.studies.water_table that is finished; raises ValueError where none is."""
    from ndae.experiments.studies.water_table import EPOCHS, study as row

    folders = [runs / row(n_train).name(Variant("soft"), 0) for n_train in EPOCHS]
    found = [folder for folder in folders if (folder / "result.json").exists()]
    if not found:
        raise ValueError(f"no finished run of the table in {runs}: give folders of runs, or make them first")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs of ndae train water")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for rollout.json and rollout.png")
    parser.add_argument("--duration", type=float, default=DURATION, help="how long, in fs")
    parser.add_argument("--blocked", type=int, default=BLOCKED_STARTS, help="starts at the end of the trajectory")
    parser.add_argument("--other", type=int, default=OTHER_STARTS, help="starts in that of the other seed")
    parser.add_argument("--table", action="store_true", help="draw the numbers that are there")
    options = parser.parse_args()
    try:
        if not options.table:
            _make(options)
        _show(options.out)
    except Exception as error:
        if not is_users(error):
            raise
        note(f"rollout: {one_line(error)}")
        sys.exit(1)


def _make(options: argparse.Namespace) -> None:
    from ndae.experiments.water.simulate import N_MOLECULES, simulate

    for name in ("blocked", "other"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is a number of starts, at least 1, not {getattr(options, name)}")
    rolls = [true_force(N_MOLECULES), *(of_run(folder) for folder in options.runs or default_runs())]
    truth = reference(
        simulate(0), simulate(1), n_blocked=options.blocked, n_other=options.other, duration=options.duration
    )

    def say(name: str, done: int, of: int) -> None:
        if done % 50 == 0 or done == of:
            note(f"{name}: {done * STEP:g} of {of * STEP:g} fs")

    found = study(rolls, truth, say)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "rollout.json", found, separators=(",", ":"))


def _show(out: Path) -> None:
    from ndae.experiments.studies.water_rollout_figure import figure, table

    found = read_json(out / "rollout.json")
    note(f"{figure(found, out / 'rollout.png')}")
    print(table(found))


if __name__ == "__main__":
    main()
