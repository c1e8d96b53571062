"""The pendulums of the constrained Hamiltonian networks, by their protocol and metric, learned by a NeuralMotion.

    # makes the runs that are missing
    python -m ndae.experiments.studies.chnn --bodies 2 --n-train 100 --seeds 3 [--out runs/chnn]
    python -m ndae.experiments.studies.chnn --table  # from finished runs alone

Finzi, Wang, Wilson: Simplifying Hamiltonian and Lagrangian Neural Networks via Explicit Constraints (NeurIPS 2020,
arXiv 2010.13581). What follows was read from their code (github.com/mfinzi/constrained-hamiltonian-neural-networks,
commit c624a63: biases/systems/chain_pendulum.py, rigid_body.py, biases/datasets.py, biases/models/constrained_hnn.py,
pl_trainer.py) and from the notebooks and tables behind their figures.

**System.** A chain of N point masses in the plane on massless links, hung at the origin; gravity 9.81 m/s². Masses
(kg) and lengths (m) are 0.6 + 0.8 u with u from NumPy's generator of seed 0, masses drawn first, and handed out from
the end: the first body gets the last of each. Starts: each link's angle from the downward vertical and its rate (1/s)
are standard normal; to the positions of the bodies 0.2 m of normal noise is added, velocities are 3 (0.5 v + 0.4
noise); then both move to the manifold together by Gauss-Newton steps (smallest change of (q, v), no component of a
step larger than half the root mean square of the state).

**Samples.** Each trajectory has 100 points 0.03 s apart (3 s), cut into 20 chunks of 5 points. A sample is one chunk
of one trajectory, drawn at random: the state at its first point is the input, the motion over the other four (0.12 s)
the target. `n_train` samples come from as many trajectories: 800 in the comparison of systems, 10 to 10,000 in that of
data efficiency.

**Theirs.** V(x) is a network (three hidden layers of 256, tanh), log-masses are learned, Hamiltonian form in (x, p)
(CLNN: Lagrangian, in (x, v)) with multipliers at the acceleration level and without projection. Loss: mean |z - ẑ|
over positions and velocities of all five points. torchdiffeq's rk4, one step of 0.03 s between points; AdamW, learning
rate 3e-3 by a cosine to zero, weight decay 1e-4, batch 200, 2,000 epochs, float32, 100 validation samples.

**Test.** 100 trajectories of their own; from the first state of a random chunk of each, model and truth are rolled out
over 100 points 0.03 s apart (adaptive, 1e-7). The error at a time is ‖z - ẑ‖ / (‖z‖ + ‖ẑ‖) over positions and
velocities of all bodies together. Of each trajectory, exp(∫ log(error + 1e-8) dt / 3 s) by the trapezoidal rule over
the 100 points: a geometric mean over time (the points span 2.97 s, so the integral is divided by a little more than
its length; this makes 9.3e-5 of a constant 8.5e-5, for them and for us). Their tables hold that number for every test
trajectory; their figures plot its mean over trajectories. Here it is the geometric mean over trajectories, with the
plain mean beside it. The floor is the same number for the truth from starts that differ by 1e-4 normal noise in each
component, projected.

**Ours, what differs.** (1) Draws are NumPy's, so trajectories have their distribution, not their digits; the 100 test
trajectories are the same for all seeds, training and validation trajectories and first weights differ by seed. Their
figures are of one seed of data. (2) Truth is this project's reference solver in float64 at 1e-10. (3) Targets are the
positions at the four points, no velocities; loss ½|q - q̂|². (4) V is an MLPPotential, smaller than theirs: two hidden
layers of 64 for one and two bodies, one of 16 for more, tanh. The equations are those of NeuralMotion in float64, in
RK4 steps of 0.015 s and then 0.0075 s. No projection in training, as theirs, since a chunk is 0.12 s; in the test
SmoothProjection(tol=1e-10) after every step of 0.0025 s. Masses are learned, from 1 kg each; forces and masses are
known up to a common factor. (5) Trained by L-BFGS on all samples at once, since without noise there is nothing to
average out. The epoch (20 iterations) with the smallest validation error is kept. What was chosen was chosen without
the test trajectories: for two bodies on rollouts of trajectories that are in no part of seeds 0 to 2 ("tuning"), for
five by the validation error of seed 0. (6) Seconds are of the processor, of runs that were not interrupted.
"""

import argparse
import math
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

import numpy as np

from ndae.experiments.studies.chnn_data import (
    CHUNK,
    DT,
    N_TIMES,
    Motions,
    floor,
    geometric_mean,
    lengths_and_masses,
    long_motions,
    over_time,
    relative_error,
    samples,
)

if TYPE_CHECKING:
    from ndae import NeuralMotion

N_VALIDATION = 100
RESULTS = Path("experiments/results/chnn")
_TEST_STEPS = 48  # in 0.12 s: RK4 with the true force is then at the metric's floor of 1e-8 (2 bodies) to 1e-7 (5)

# Their geometric and plain means over the 100 trajectories, (CHNN, CLNN), computed from pendulum-geom-mean.csv and
# data-efficiency-pendulum.csv in their notebooks; of two bodies and 800 samples, which are in both, the smaller.
THEIRS = {
    (1, 800): ((6.08e-5, 5.23e-5), (7.46e-5, 7.40e-5)),
    (2, 10): ((1.61e-2, 1.34e-2), (5.48e-2, 5.30e-2)),
    (2, 100): ((9.36e-4, 6.35e-4), (5.94e-3, 6.42e-3)),
    (2, 800): ((9.60e-5, 1.14e-4), (3.92e-4, 1.80e-4)),
    (2, 1000): ((7.84e-5, 9.71e-5), (1.78e-3, 6.06e-4)),
    (3, 800): ((3.43e-4, 3.26e-4), (3.34e-3, 1.98e-3)),
    (5, 800): ((1.07e-3, 9.33e-4), (3.61e-3, 4.30e-3)),
}


@dataclass(frozen=True)
class Config:
    """A run: `phases` are pairs of RK4 steps in 0.12 s and epochs of 20 L-BFGS iterations, one after the other."""

    bodies: int
    n_train: int
    seed: int = 0
    hidden: int = 64
    depth: int = 2
    phases: tuple[tuple[int, int], ...] = ((8, 50),)

    def __post_init__(self):
        for name in ("bodies", "n_train"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")

    @classmethod
    def of_study(cls, bodies: int, n_train: int, seed: int) -> "Config":
        """The run with what was chosen on the tuning trajectories."""
        # Fine steps are dear, and needed in the end alone, for samples of quick motion.
        if bodies > 2:
            return cls(bodies, n_train, seed, hidden=16, depth=1, phases=((8, 10), (16, 40)))
        return cls(bodies, n_train, seed, phases=((8, 50),) if n_train <= 100 else ((8, 30), (16, 10)))

    @property
    def name(self) -> str:
        """Name of its folder and its record."""
        return f"pendulum{self.bodies}-n{self.n_train}-s{self.seed}"


def build_model(config: Config, n_steps: int, method: Any = None) -> "NeuralMotion":
    """The motion under a learned potential with learned masses, weights by the seed alone, in float64."""
    import torch

    import ndae
    from ndae.forces.potentials import MLPPotential, PotentialForce
    from ndae.symbolic import library

    lengths, _ = lengths_and_masses(config.bodies)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        force = PotentialForce(MLPPotential(config.bodies, 2, config.hidden, depth=config.depth))
        model = ndae.NeuralMotion(
            library.chain(config.bodies, 2, lengths).torch(), force, duration=(CHUNK - 1) * DT, n_steps=n_steps,
            n_times=CHUNK - 1, learn_mass=True, method=ndae.methods.Unconstrained() if method is None else method,
        )  # fmt: skip
    return model.double()


def predicted_motions(model: "NeuralMotion", state: np.ndarray) -> Motions:
    """The model's motion over 100 points from states (count, bodies, 4)."""
    import torch

    with torch.no_grad():
        motion = model.trajectory(torch.as_tensor(state), DT * np.arange(N_TIMES))
    return Motions(motion.q.numpy(), motion.v.numpy())


def tested(config: Config, weights: Any, part: str = "test") -> dict[str, Any]:
    """The metric of weights on the 100 test motions, and how far the links are from their lengths on the way."""
    import ndae

    model = build_model(config, _TEST_STEPS, ndae.methods.SmoothProjection(tol=1e-10))
    model.load_state_dict(weights)
    true = long_motions(config.bodies, part)
    predicted = predicted_motions(model.eval(), true.state[:, 0])
    lengths, masses = lengths_and_masses(config.bodies)
    link = np.linalg.norm(np.diff(predicted.q, axis=-2, prepend=0.0), axis=-1)
    by_motion = over_time(relative_error(predicted, true))
    learned = model.mass.detach().numpy()
    return {
        "geometric_mean": geometric_mean(by_motion),
        "mean": float(by_motion.mean()),
        "median": float(np.median(by_motion)),
        "worst": float(by_motion.max()),
        "violation_max": float(np.abs(link - lengths).max()),
        "mass_error": float(np.abs(learned / learned.sum() / (masses / masses.sum()) - 1).max()),
        "by_motion": [float(f"{value:.4g}") for value in by_motion],
    }


def run(config: Config, out: Path, results: Path = RESULTS) -> dict[str, Any]:
    """Make a run under `out`, or go on with it, and write its record to `results`; a finished one is only read."""
    from ndae.experiments.files import read_json, write_json

    record = results / f"{config.name}.json"
    if record.exists():
        found = read_json(record)
        if Config(**found["config"] | {"phases": tuple(map(tuple, found["config"]["phases"]))}) != config:
            raise ValueError(f"{record} is of another configuration: remove it, or give another --results")
        return found
    import ndae

    train = samples(config.bodies, config.n_train, "train", config.seed)
    validation = samples(config.bodies, N_VALIDATION, "validation", config.seed)
    fresh = not (out / config.name).exists()  # what killed processes spent is not known
    began, seconds, weights = time.process_time(), 0.0, None
    for number, (n_steps, epochs) in enumerate(config.phases, 1):
        model = build_model(config, n_steps)
        if weights is not None:
            model.load_state_dict(weights)
        trained = ndae.fit(
            model, train, validation, out=out / config.name / f"phase-{number}", epochs=epochs,
            batch_size=config.n_train, optimizer=ndae.training.lbfgs(), seed=config.seed, device="cpu",
        )  # fmt: skip
        weights, seconds = model.state_dict(), seconds + trained.seconds
    cpu_seconds = time.process_time() - began
    under = floor(config.bodies)
    result = {
        "config": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "train_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1) if fresh else None,
        "best_epoch": trained.best.epoch,
        "train_loss": trained.best.train_loss,
        "validation_error": trained.best.val_mae,
        "floor": {"geometric_mean": geometric_mean(under), "mean": float(under.mean())},
        "test": tested(config, weights),
    }
    results.mkdir(parents=True, exist_ok=True)
    write_json(record, result, indent=1)
    return result


def read_results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All finished runs."""
    from ndae.experiments.files import read_json

    return [read_json(path) for path in sorted(folder.glob("pendulum*.json"))]


def markdown(runs: Iterable[dict[str, Any]]) -> str:
    """A line for each number of bodies and samples: median and range over seeds, beside their figures."""
    lines = [
        "| bodies | samples | seeds | ours (smallest to largest) | CHNN | CLNN | floor | plain mean: ours | CHNN "
        "| CLNN | off the links by at most (m) | masses off by | training (CPU s) |",
        "| ---: " * 13 + "|",
    ]
    groups: dict[tuple[int, int], list] = {}
    for result in runs:
        groups.setdefault((result["config"]["bodies"], result["config"]["n_train"]), []).append(result)
    for (bodies, n_train), group in sorted(groups.items()):
        theirs = THEIRS.get((bodies, n_train), ((math.nan, math.nan), (math.nan, math.nan)))
        found = [result["test"]["geometric_mean"] for result in group]
        spent = [result["cpu_seconds"] for result in group if result["cpu_seconds"] is not None]
        cells = [
            str(bodies),
            f"{n_train:,}",
            str(len(group)),
            f"{median(found):.1e} ({min(found):.1e} to {max(found):.1e})",
            *map(_number, theirs[0]),
            _number(group[0]["floor"]["geometric_mean"]),
            _number(median(result["test"]["mean"] for result in group)),
            *map(_number, theirs[1]),
            f"{max(result['test']['violation_max'] for result in group):.0e}",
            f"{max(result['test']['mass_error'] for result in group):.0e}",
            f"{median(spent):.0f}" if spent else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--bodies", type=int, default=2)
    parser.add_argument("--n-train", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/chnn"), help="where logs and checkpoints go")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="the table of what there is, and no runs")
    options = parser.parse_args()
    if not options.table:
        from ndae.experiments.terminal import note

        for seed in range(options.seeds):
            config = Config.of_study(options.bodies, options.n_train, seed)
            result = run(config, options.out, options.results)
            note(f"{config.name}: {result['test']['geometric_mean']:.2e}, {result['train_seconds']:.0f} s")
    print(markdown(read_results(options.results)))


if __name__ == "__main__":
    main()
