"""All methods rolled out side by side from held-out states of the paper's pendulum, against the reference.

    python -m ndae.experiments.studies.rollout [--out runs/rollout]   # makes what is missing (half an hour of one core)
    # without the 100 s, with two of the paper's methods
    python -m ndae.experiments.studies.rollout --short --methods none,end
    python -m ndae.experiments.studies.rollout --table  # table and figure from the numbers in the JSON file

**Learned.** Every model has 1,000 samples of the paper's data set (states and the positions a horizon later, one
trajectory, drawn at random). The paper's five methods and the multiplier with a free force: horizon 0.2 s, seed 0, as
`ndae train` makes them (mimetic-small network, batch 50, 50 epochs; the free force as in
ndae.experiments.studies.multiplier_table). The multiplier with a learned potential: V is an MLPPotential of one hidden
layer, horizon 0.05 s, trained by L-BFGS on all samples at once in float64 (the data have no noise to average out), the
steps of RK4 shorter in each phase, since a force learned with long steps makes up for their error; three seeds draw
data and first weights, two without the uniform field. "Potential" is the network alone. In "potential, uniform field" V
has a term a·q as well (`MLPPotential(linear=True)`): V of a weight is of that form, so this one needs its network for
nothing. That is a guess about the system, and the two are told apart. Seconds of training are wall time on a core
shared with others.

**Rolled out** from 20 states, 5 s apart, later than all samples, in float64. Motions take RK4 steps of 0.00125 s with
SmoothProjection(tol=1e-10) after each. The true force under the same steps is the ceiling: the motion is chaotic,
and errors grow tenfold in a second. The paper's networks give no velocities;
ndae.experiments.validation.propagators.HorizonMap says what they are taken to be. The reference has tolerance 1e-12.

**Measured.** The error is the mean distance of a body from where the reference has it. A state holds for the last time
before its error is above 10 cm (looked at every 0.05 s, or 0.2 s for the paper's methods, up to 10 s). Energies are of
motions over 100 s in steps of 0.0025 s from the first five of these states: largest change of ½|v|² + V with the
learned V ("own"), and with the true one, as a share of 147 J, the range of the potential. That is the energy above
rest, too: from the horizontal, where all motion began, the energy is 0 J, and shares of |E| say nothing.
"""

import argparse
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

import numpy as np
from jaxtyping import Float

from ndae.experiments.cache import cached_arrays
from ndae.experiments.files import read_json, write_json
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.runs.settings import Settings
from ndae.experiments.runs.study import Study, run_study
from ndae.experiments.studies import multiplier_table
from ndae.experiments.studies.rollout_report import FREE, HELD, POTENTIAL, TRUE, UNIFORM, figure, table
from ndae.experiments.terminal import note
from ndae.experiments.variants import Variant
from ndae.training.description import fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ndae import NeuralMotion

OUT, RESULT = Path("runs/rollout"), Path("experiments/results/rollout.json")
FIGURE = Path("experiments/results/figures/rollout.png")
N_TRAIN = 1000
SEEDS = {True: (0, 1, 2), False: (0, 1)}  # with the uniform field and without
STATES, APART = 20, 5.0
LONG_STATES = 5
SHORT, LONG = 10.0, 100.0  # s
SHORT_STEP, LONG_STEP = 0.00125, 0.0025  # s
EVERY = 0.05  # s between the times looked at
LOST = 0.1  # m
PAPER = ("none", "auxiliary", "penalty", "end", "smooth")

Motion = tuple[Float[np.ndarray, "states n_times bodies 2"], Float[np.ndarray, "states n_times bodies 2"]]


# -- learning ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """A learned potential: `phases` are pairs of RK4 steps in a horizon and epochs of 20 L-BFGS iterations."""

    linear: bool
    seed: int
    n_train: int = N_TRAIN
    horizon: int = 5
    hidden: int = 8
    depth: int = 1
    phases: tuple[tuple[int, int], ...] = ((4, 3), (10, 3), (40, 8))

    @classmethod
    def of_study(cls, linear: bool, seed: int) -> "Learned":
        """What is in the table, chosen by the validation error of seed 0; without the uniform field the network has
        more to say, and steps are shortened less, since they are not what is wrong."""
        return cls(linear, seed) if linear else cls(linear, seed, hidden=16, phases=((4, 40), (10, 12)))

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"potential{'-uniform' * self.linear}-n{self.n_train}-k{self.horizon}-s{self.seed}"


def build_model(config: Learned, n_steps: int) -> "NeuralMotion":
    """The motion under a potential to be learned, first weights by the seed alone, in float64."""
    import torch

    import ndae
    from ndae.forces.potentials import MLPPotential, PotentialForce

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        potential = MLPPotential(pendulum.N_BODIES, 2, config.hidden, depth=config.depth, linear=config.linear)
    return ndae.NeuralMotion(
        pendulum.constraint().torch(), PotentialForce(potential), duration=config.horizon * pendulum.DT,
        n_steps=n_steps, mass=pendulum.MASS, method=ndae.methods.Unconstrained(),
    ).double()  # fmt: skip


def learn(config: Learned, out: Path) -> tuple["nn.Module", dict[str, Any]]:
    """The force of a potential, trained under `out` or read from there, and what training said."""
    import ndae
    from ndae.training.optimizers import lbfgs

    data = pendulum.pendulum_data(config.n_train, config.horizon, config.seed)
    weights, seconds = None, 0.0
    for number, (n_steps, epochs) in enumerate(config.phases, 1):
        model = build_model(config, n_steps)
        if weights is not None:
            model.load_state_dict(weights)
        # A loss of 1e-16 m² is to be large beside the 1e-10 below which L-BFGS leaves out curvature; with a history as
        # long as there are weights it is BFGS, which the last digits need.
        found = ndae.fit(
            model, (data.train.inputs, data.train.targets), (data.val.inputs, data.val.targets),
            out=out / config.name / f"phase-{number}-{n_steps}-steps", epochs=epochs, batch_size=config.n_train,
            optimizer=lbfgs(1e16, history_size=300), seed=config.seed, device="cpu",
        )  # fmt: skip
        weights, seconds = model.state_dict(), seconds + found.seconds
    return model.eval().force, {
        "config": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "train_seconds": round(seconds, 1),
        "validation_error_cm": 100 * found.best.val_mae,
    }


def paper_study(methods: Sequence[str] = PAPER) -> Study:
    """The paper's methods on the same number of samples."""
    variants = tuple(Variant.of(method) for method in methods)
    return Study(Settings(network="mimetic-small", n_train=N_TRAIN, batch_size=50), variants, (0,))


def free_study() -> Study:
    """The multiplier with a free force, as in the table of such models."""
    return replace(multiplier_table.study(20, N_TRAIN), seeds=(0,))


def true_force(t: Any, y: "Tensor") -> "Tensor":
    """The weight of every body."""
    return y.new_tensor([0.0, -pendulum.MASS * pendulum.GRAVITY]).expand(*y.shape[:-1], 2)


# -- motions -----------------------------------------------------------------------------------------------------------


def beside(forces: Sequence[Any]) -> Any:
    """One force for a batch of as many equal parts as there are forces, each for its own part: one rollout of all."""
    import torch

    def force(t: Any, y: "Tensor") -> "Tensor":
        return torch.cat([own(t, part) for own, part in zip(forces, y.chunk(len(forces)), strict=True)])

    return force


def motions(
    forces: Mapping[Any, Any],
    state: Float[np.ndarray, "states bodies 4"] | Float[np.ndarray, "forces states bodies 4"],
    ts: np.ndarray,
    step: float,
) -> tuple[dict[Any, Motion], int]:
    """Motions under each force, from the same states or from some for each, and how many projections did not converge.

    Cached by states, times, pendulum and everything that the forces are.
    """
    arrays = cached_arrays(
        "rollout",
        _config(ts, state) | {"step": step, "forces": [fingerprint(force) for force in forces.values()]},
        lambda: _motions(forces, np.broadcast_to(state, (len(forces), *state.shape[-3:])), ts, step),
        recipe={"version": 1, "tol": 1e-10},
    )
    parts = zip(*(np.split(arrays[name], len(forces)) for name in ("q", "v")), strict=True)
    return dict(zip(forces, parts, strict=True)), int(arrays["unconverged"])


def long_motions(
    forces: Mapping[Any, Any], state: np.ndarray, ts: np.ndarray, step: float, piece: int = 50
) -> tuple[dict[Any, Motion], int]:
    """The same in pieces of so many times, each cached, so that what was killed goes on from the last of them."""
    pieces, unconverged = [], 0
    for first in range(0, len(ts) - 1, piece):
        found, more = motions(forces, state, ts[first : first + piece + 1], step)
        state = np.stack([np.concatenate([q[:, -1], v[:, -1]], -1) for q, v in found.values()])
        pieces.append(found if not pieces else {key: (q[:, 1:], v[:, 1:]) for key, (q, v) in found.items()})
        unconverged += more
    return {key: _joined([part[key] for part in pieces]) for key in forces}, unconverged


def _joined(pieces: Sequence[Motion]) -> Motion:
    q, v = (np.concatenate(x, 1) for x in zip(*pieces, strict=True))
    return q, v


def _motions(forces: Mapping[Any, Any], state: np.ndarray, ts: np.ndarray, step: float) -> dict[str, np.ndarray]:
    import torch

    import ndae

    every = float(ts[1] - ts[0])
    model = ndae.NeuralMotion(
        pendulum.constraint(state.shape[-2]).torch(), beside(list(forces.values())), duration=every,
        n_steps=round(every / step), mass=pendulum.MASS, starts="given",
        method=ndae.methods.SmoothProjection(tol=1e-10),
    )  # fmt: skip
    x = torch.as_tensor(np.concatenate(state))
    path, unconverged = [x], 0
    with torch.no_grad():
        # One at a time: a trajectory remembers each of its projections.
        for t0, t1 in itertools.pairwise(ts):
            found = model.trajectory(path[-1], [t0, t1])
            path.append(torch.cat([found.q[:, -1], found.v[:, -1]], -1))
            unconverged += sum(int((~projection.converged).sum()) for projection in found.projections)
    whole = torch.stack(path, 1).numpy()
    return {"q": whole[..., :2], "v": whole[..., 2:], "unconverged": np.array(unconverged)}


def network_motion(folder: Path, state: np.ndarray, seconds: float) -> tuple[np.ndarray, Motion]:
    """Times and motion of a network of the paper, a horizon at a time."""
    from ndae.experiments.runs.run import load_model
    from ndae.experiments.validation.propagators import HorizonMap, roll_out
    from ndae.experiments.validation.truth import truth_of

    model: Any
    config, model = load_model(folder)
    period = config.horizon * pendulum.DT
    n, bodies, _ = state.shape
    q, v = (part.reshape(n, -1) for part in (state[..., :2], state[..., 2:]))
    n_periods = round(seconds / period)
    found = roll_out(HorizonMap(model, truth_of(pendulum.system()).motion, period), q, v, n_periods)
    q, v = (part.reshape(n, n_periods + 1, bodies, 2) for part in found)
    return period * np.arange(n_periods + 1), (q, v)


def reference(state: np.ndarray, ts: np.ndarray) -> Motion:
    """The reference motion from the same states, cached."""

    def make() -> dict[str, np.ndarray]:
        from ndae.solvers import solve

        n, bodies, _ = state.shape
        q, v = (part.reshape(n, -1) for part in (state[..., :2], state[..., 2:]))
        found = solve(pendulum.system(bodies), {"q": q, "v": v}, ts, rtol=1e-12, atol=1e-12)
        return {name: getattr(found, name).reshape(n, len(ts), bodies, 2) for name in ("q", "v")}

    arrays = cached_arrays("rollout-reference", _config(ts, state), make, recipe={"version": 1, "tol": 1e-12})
    return arrays["q"], arrays["v"]


def held_out_state(n: int = STATES) -> Float[np.ndarray, "states bodies 4"]:
    """States later than all samples of every model here."""
    from ndae.experiments.runs.config import RunConfig
    from ndae.experiments.validation.validate import pendulum_held_out

    found = pendulum_held_out(RunConfig(n_train=N_TRAIN, horizon=20), n, APART)
    return np.concatenate([part.reshape(n, -1, 2) for part in (found.q, found.v)], -1)


# -- measures ----------------------------------------------------------------------------------------------------------


def error_of(motion: Motion, true: Motion) -> Float[np.ndarray, "states n_times"]:
    """Mean distance (m) of a body from where the reference has it; infinite where there is no number."""
    distance = np.linalg.norm(motion[0] - true[0], axis=-1).mean(-1)
    return np.where(np.isfinite(distance), distance, np.inf)


def holds(ts: np.ndarray, error: np.ndarray) -> Float[np.ndarray, " states"]:
    """The last time (s) of each state before its error is above 10 cm for the first time."""
    lost = error > LOST
    first = np.where(lost.any(-1), lost.argmax(-1), len(ts))
    return ts[np.maximum(first - 1, 0)]


def energy_change(motion: Motion, potential: Any = None) -> Float[np.ndarray, "states n_times"]:
    """Change of ½|v|² + V since the start as a share of the true potential's range, V the true one if not given."""
    q, v = motion
    at = pendulum.MASS * pendulum.GRAVITY * q[..., 1].sum(-1) if potential is None else potential(q)
    energy = pendulum.MASS * (v**2).sum((-2, -1)) / 2 + at
    change = np.abs(energy - energy[:, :1]) / pendulum.potential_range(q.shape[-2])
    return np.where(np.isfinite(change), change, np.inf)


def links_off(motion: Motion) -> Float[np.ndarray, "states n_times"]:
    """Largest error (m) of a link's length."""
    off = pendulum.violation(motion[0]).max(-1)
    return np.where(np.isfinite(off), off, np.inf)


def force_error(force: Any, q: Float[np.ndarray, "samples bodies 2"]) -> float:
    """Mean of |learned − true| / |true| at positions, of what of these forces moves the chain: the tangential part."""
    import torch

    from ndae.solvers.manifold.multipliers import tangent_velocity

    links, at = pendulum.constraint(q.shape[1]).torch(), torch.as_tensor(q)
    y = torch.cat([at, torch.zeros_like(at)], -1)
    with torch.no_grad():
        true, learned = (tangent_velocity(links, at.flatten(1), f(0.0, y).flatten(1)) for f in (true_force, force))
    return float(((learned - true).norm(dim=-1) / true.norm(dim=-1)).mean())


def measured(ts: np.ndarray, motion: Motion, true: Motion) -> dict[str, Any]:
    """What the table says of a rollout of up to 10 s, and its curves."""
    error, then = error_of(motion, true), int(np.searchsorted(ts, HELD - 1e-9))
    held = holds(ts, error)
    shown = slice(None, None, max(1, round(0.1 / (ts[1] - ts[0]))))
    curves = {
        "ts": ts, "error_one": error[0], "error_mean": error.mean(0), "links_off": links_off(motion).max(0),
        "energy_change": energy_change(motion).max(0),
    }  # fmt: skip
    return {
        "holds_s": held.round(3).tolist(),
        "share_5s": float((held >= HELD - 1e-9).mean()),
        "error_5s_cm": _shortened(100 * error[:, then]),
        "links_off_m": _shortened([links_off(motion).max()])[0],
        "energy_change": _shortened([energy_change(motion).max()])[0],
        "curves": {name: _shortened(curve[shown]) for name, curve in curves.items()},
    }


def measured_long(ts: np.ndarray, motion: Motion, force: Any) -> dict[str, Any]:
    """What the table says of a rollout of 100 s, and the energy over its course."""
    change = energy_change(motion)
    links, energy = _shortened([links_off(motion).max(), change.max()])
    found: dict[str, Any] = {"links_off_m": links, "energy_change": energy}
    if hasattr(force, "energy"):
        import torch

        def potential(q: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return force.energy(torch.as_tensor(q)).numpy()

        found["own_energy_change"] = float(energy_change(motion, potential).max())
    shown = np.unique(np.geomspace(1, len(ts) - 1, 80).round().astype(int))
    # The largest up to then, so that what lies between the times shown is not lost.
    growing = np.maximum.accumulate(change.max(0))
    return found | {"curves": {"ts": _shortened(ts[shown]), "energy_change": _shortened(growing[shown])}}


# -- study -------------------------------------------------------------------------------------------------------------


def study(out: Path, methods: Sequence[str] = PAPER, short_only: bool = False) -> dict[str, Any]:
    """Train what is missing under `out`, roll all out, and measure: the content of the JSON file."""
    import torch

    from ndae.experiments.runs.run import load_model

    forces: dict[tuple[str, int | None], Any] = {(TRUE, None): true_force}
    about: dict[tuple[str, int | None], dict] = {(TRUE, None): {}}
    for name, linear in ((UNIFORM, True), (POTENTIAL, False)):
        for seed in SEEDS[linear]:
            forces[name, seed], about[name, seed] = learn(Learned.of_study(linear, seed), out)
            note(f"{name}, seed {seed}: {about[name, seed]['train_seconds']:.0f} s")
    (free,) = run_study(free_study(), out).records
    folder = out / "runs" / free_study().name(Variant("multiplier"), 0)
    forces[FREE, 0] = load_model(folder)[1].double().force
    about[FREE, 0] = _about(free)

    state, ts, long_ts = held_out_state(), EVERY * np.arange(round(SHORT / EVERY) + 1), 0.2 * np.arange(501)
    true = reference(state, ts)
    began = time.process_time()
    short, unconverged = motions(forces, state, ts, SHORT_STEP)
    note(f"{SHORT:g} s rolled out in {time.process_time() - began:.0f} s of the processor")
    long, more_unconverged = {}, 0
    if not short_only:
        long, more_unconverged = long_motions(forces, state[:LONG_STATES], long_ts, LONG_STEP)
        note(f"{LONG:g} s as well, {time.process_time() - began:.0f} s of the processor")
    rows = []
    for key, force in forces.items():
        name, seed = key
        row = {"name": name, "method": "multiplier", "seed": seed} | about[key] | measured(ts, short[key], true)
        row |= {"force_error": force_error(force, true[0].reshape(-1, *state.shape[1:-1], 2)) if name != FREE else None}
        if long:
            row["long"] = measured_long(long_ts, long[key], force)
        if seed:  # drawn are those of seed 0
            row.pop("curves")
            row.get("long", {}).pop("curves", None)
        rows.append(row)
    for record in run_study(paper_study(methods), out).records:
        variant = record.variant
        folder = out / "runs" / paper_study().name(variant, 0)
        at, motion = network_motion(folder, state, SHORT)
        same = np.searchsorted(ts, at - 1e-9)
        row = {"name": variant.title, "method": variant.method, "seed": 0} | _about(record)
        rows.append(row | measured(at, motion, (true[0][:, same], true[1][:, same])))
    return {
        "states": STATES, "apart_s": APART, "seconds": SHORT, "step_s": SHORT_STEP, "long_seconds": LONG,
        "long_states": LONG_STATES, "long_step_s": LONG_STEP, "n_train": N_TRAIN, "lost_cm": 100 * LOST,
        "versions": {"torch": torch.__version__},
        "unconverged": unconverged + more_unconverged, "rows": rows,
    }  # fmt: skip


def _about(record: Any) -> dict[str, Any]:
    return {
        "parameters": record.result["parameters"],
        "train_seconds": round(record.result["train_seconds"], 1),
        "test_error_cm": record.result["test_mae_cm"],
    }


def _config(ts: np.ndarray, state: np.ndarray) -> dict[str, str]:
    """What a motion of the pendulum depends on beside its force."""
    system = pendulum.system(state.shape[-2])
    return {"ts": fingerprint(ts), "start": fingerprint(np.asarray(state)), "system": fingerprint(system)}


def _shortened(values: Any) -> list[float | None]:
    """Four digits of each, None (JSON has no infinity) where a motion went beyond all numbers."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where logs and checkpoints go")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file with all numbers")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="PNG file to draw")
    parser.add_argument("--methods", default=",".join(PAPER), help="which of the paper's methods, comma-separated")
    parser.add_argument("--short", action="store_true", help="leave out the rollouts of 100 s")
    parser.add_argument("--table", action="store_true", help="table and figure of the JSON file, and no runs")
    options = parser.parse_args(arguments)
    if not options.table:
        options.result.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.result, study(options.out, options.methods.split(","), options.short))
    found = read_json(options.result)
    figure(found, options.figure)
    print(table(found))


if __name__ == "__main__":
    main()
