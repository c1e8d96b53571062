"""The paper's multi-body pendulum (sections 3.1 and 4.1): problem, simulation, data sets, and predictors to beat.

A chain of point masses hangs from the origin by rigid massless links, |r_i - r_{i-1}| = l with r_0 = 0 the anchor,
in a plane, under gravity along -y. Five bodies of 1 kg, links of 1 m, 9.82 m/s², samples every 0.01 s, started from
rest at the horizontal.

Everything here is NumPy; the reference solver (JAX) loads only to simulate, torch only to project.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ndae.experiments.cache import cached_arrays
from ndae.experiments.nearest import nearest_positions
from ndae.solvers.progress import Progress

if TYPE_CHECKING:
    from ndae.symbolic import Constraint, System


N_BODIES, DT = 5, 0.01
LENGTH, MASS, GRAVITY = 1.0, 1.0, 9.82
RUN_IN = 1_000
N_TRAIN, N_VAL, N_TEST = 100, 200, 1_000

# All studies share one trajectory: the run-in, 10,000 + 200 + 1,000 samples and a horizon fit into the first length.
_SIMULATED_LENGTH = 12_500
_TOLERANCE = 1e-12
_RECIPE = {"version": 1, "solver": "dopri8", "rtol": _TOLERANCE, "atol": _TOLERANCE}


@dataclass(frozen=True)
class Trajectory:
    """Motion of the pendulum: `ts` (n_times,) s, `r` (n_times, n_bodies, 2) m, `v` likewise m/s, `energy` J."""

    ts: np.ndarray
    r: np.ndarray
    v: np.ndarray
    energy: np.ndarray

    def first(self, n_times: int) -> "Trajectory":
        """The first `n_times` samples of it."""
        return Trajectory(self.ts[:n_times], self.r[:n_times], self.v[:n_times], self.energy[:n_times])


@dataclass(frozen=True)
class Samples:
    """Input-target pairs: `inputs` (B, n_bodies, 4) = (r, v) at step `index`, `targets` (B, n_bodies, 2) = r later."""

    inputs: np.ndarray
    targets: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class PendulumData:
    """The three parts of one random split, and what they were drawn with."""

    train: Samples
    val: Samples
    test: Samples
    horizon: int
    seed: int
    dt: float = DT
    run_in: int = RUN_IN

    @property
    def n_bodies(self) -> int:
        return self.train.inputs.shape[1]


def constraint(n_bodies: int = N_BODIES) -> "Constraint":
    """The links, |r_i - r_{i-1}| - 1 m = 0, over the positions (n_bodies * 2,)."""
    from ndae.symbolic import library

    return library.chain(n_bodies, dim=2, length=LENGTH)


@lru_cache(maxsize=4)  # the reference solver compiles once for each system it is given
def system(n_bodies: int = N_BODIES) -> "System":
    """The pendulum as a mechanical system: the links, unit masses, gravity."""
    from ndae.symbolic import library

    return library.chain_pendulum(n_bodies, length=LENGTH, mass=MASS, gravity=GRAVITY)


def start(n_bodies: int = N_BODIES) -> tuple[np.ndarray, np.ndarray]:
    """At rest, stretched out along the horizontal: r_i = (i, 0) m, v_i = 0; both of shape (n_bodies * 2,)."""
    r = np.zeros((n_bodies, 2))
    r[:, 0] = LENGTH * np.arange(1, n_bodies + 1)
    return r.ravel(), np.zeros(2 * n_bodies)


def potential_range(n_bodies: int = N_BODIES) -> float:
    """Potential energy (J) between the chain at the horizontal and hanging straight down: 147 J for five bodies."""
    return MASS * GRAVITY * LENGTH * n_bodies * (n_bodies + 1) / 2


def simulate(n_steps: int, dt: float = DT, n_bodies: int = N_BODIES, *, progress: Progress | None = None) -> Trajectory:
    """The reference motion over `n_steps` steps of `dt` (s) from rest at the horizontal: n_steps + 1 samples.

    Links hold within 1e-10 m at every sample and energy within 1e-6 of its range (see ndae.solve).
    The result is cached. Simulations are made in lengths of 12,500 steps and cut, so that every study up to the
    largest of the paper (10,000 training samples) reads the same trajectory; a longer one begins with the same
    samples, bit for bit. The motion is chaotic: solutions at tolerances of 1e-12 and 1e-13 agree within 1e-6 m for
    15 s and within 1 cm for 18 s, so on another machine or version of JAX the later samples are of another motion.

    Raises ValueError for a count below one or a step that is not positive, and solvers.SolveError.
    """
    n_steps, n_bodies = _count("n_steps", n_steps), _count("n_bodies", n_bodies)
    if not (isinstance(dt, float | int | np.number) and np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive time step in seconds, got {dt!r}")
    length = -(-n_steps // _SIMULATED_LENGTH) * _SIMULATED_LENGTH
    config = {"n_steps": length, "dt": float(dt), "n_bodies": n_bodies}
    config |= {"length": LENGTH, "mass": MASS, "gravity": GRAVITY}
    arrays = cached_arrays("pendulum", config, lambda: _simulated(length, dt, n_bodies, progress), recipe=_RECIPE)
    return Trajectory(**arrays).first(n_steps + 1)


def pendulum_data(
    n_train: int = N_TRAIN,
    horizon: int = 20,
    seed: int = 0,
    *,
    n_val: int = N_VAL,
    n_test: int = N_TEST,
    dt: float = DT,
    n_bodies: int = N_BODIES,
    run_in: int = RUN_IN,
    progress: Progress | None = None,
) -> PendulumData:
    """The paper's data set: samples (r_i, v_i) -> r_{i+horizon} of one trajectory, split at random by `seed`.

    Section 4.1: "we simulate a pendulum for a sufficient number of timesteps to generate the amount of data samples
    needed for training, validation and testing the neural networks plus an additional 1000 steps to ensure chaotic
    motion. [...] We randomly split the data into training, validation and testing datasets." Taken literally: after
    `run_in` steps, which are discarded, samples start at the next n_train + n_val + n_test consecutive steps, as many
    as are needed and no more (with the defaults 1,300 steps, 13 s of motion), and a random permutation deals them
    out. No step starts samples of two parts; but neighbours in time, 0.01 s apart, do fall into different parts, so
    the test measures interpolation along one trajectory, as the paper's does, and more so the larger n_train is.
    The paper does not give its number of validation samples; 200 is this project's.

    Raises ValueError for a count below one, a negative seed or run-in.
    """
    n_train, n_val, n_test = _count("n_train", n_train), _count("n_val", n_val), _count("n_test", n_test)
    horizon, seed, run_in = _count("horizon", horizon), _count("seed", seed, least=0), _count("run_in", run_in, least=0)
    n_samples = n_train + n_val + n_test
    trajectory = simulate(run_in + n_samples - 1 + horizon, dt, n_bodies, progress=progress)
    order = run_in + np.random.default_rng(seed).permutation(n_samples)
    train, val, test = (_samples(trajectory, index, horizon) for index in np.split(order, [n_train, n_train + n_val]))
    return PendulumData(train, val, test, horizon=horizon, seed=seed, dt=float(dt), run_in=run_in)


def mean_error_cm(prediction: Any, target: Any) -> float:
    """Mean Euclidean distance (cm) between predicted and true bodies, from positions (..., n_bodies, 2) in metres.

    Raises ValueError where the shapes differ, which broadcasting would hide.
    """
    prediction, target = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and target {target.shape}; give both the same")
    return float(100.0 * np.linalg.norm(prediction - target, axis=-1).mean())


def link_lengths(r: Any) -> np.ndarray:
    """Length of every link, |r_i - r_{i-1}| (m), (..., n_bodies), from positions (..., n_bodies, 2)."""
    r = np.asarray(r, dtype=np.float64)
    return np.linalg.norm(np.diff(r, axis=-2, prepend=np.zeros((*r.shape[:-2], 1, r.shape[-1]))), axis=-1)


def violation(r: Any) -> np.ndarray:
    """Length error of every link, | |r_i - r_{i-1}| - 1 m |, (..., n_bodies), from positions (..., n_bodies, 2)."""
    return np.abs(link_lengths(r) - LENGTH)


def trivial_predictions(
    samples: Samples, horizon: int, dt: float = DT, *, train: Samples | None = None
) -> dict[str, np.ndarray]:
    """What anyone predicts without learning, (B, n_bodies, 2) by name: what a network has to beat.

    "no motion" is r, "constant velocity" is r + v * horizon * dt, and the projected ones are the points of the
    manifold nearest to them (torch loads here). A sample whose projection does not converge stays as it was.
    With `train`, "nearest training sample" is the target of the training sample whose (r, v) is nearest: on the random
    split of one trajectory that is a neighbour in time, and says how much of an error is memory.
    """
    r, v = samples.inputs[..., :2], samples.inputs[..., 2:]
    guesses = {"no motion": r, "constant velocity": r + v * (horizon * dt)}
    links = constraint(r.shape[-2])
    guesses |= {f"{name}, projected": nearest_positions(links, guess) for name, guess in guesses.items()}
    if train is not None:
        from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]

        known, asked = (part.inputs.reshape(len(part), -1) for part in (train, samples))
        guesses["nearest training sample"] = train.targets[cKDTree(known).query(asked)[1]]
    return guesses


def trivial_baselines(
    samples: Samples, horizon: int, dt: float = DT, *, train: Samples | None = None
) -> dict[str, dict[str, float]]:
    """Error (cm) and violation (m) of the trivial predictors, by name: `mae_cm`, `violation_mean`, `violation_max`."""
    table = {}
    for name, prediction in trivial_predictions(samples, horizon, dt, train=train).items():
        sizes = violation(prediction)
        table[name] = {
            "mae_cm": mean_error_cm(prediction, samples.targets),
            "violation_mean": float(sizes.mean()),
            "violation_max": float(sizes.max()),
        }
    return table


def _simulated(n_steps: int, dt: float, n_bodies: int, progress: Progress | None) -> dict[str, np.ndarray]:
    from ndae.solvers import solve

    q0, v0 = start(n_bodies)
    ts = dt * np.arange(n_steps + 1)
    solution: Any = solve(system(n_bodies), {"q": q0, "v": v0}, ts, rtol=_TOLERANCE, atol=_TOLERANCE, progress=progress)
    shape = (n_steps + 1, n_bodies, 2)
    return {"ts": ts, "r": solution.q.reshape(shape), "v": solution.v.reshape(shape), "energy": solution.energy}


def _samples(trajectory: Trajectory, index: np.ndarray, horizon: int) -> Samples:
    inputs = np.concatenate([trajectory.r[index], trajectory.v[index]], axis=-1)
    return Samples(inputs, trajectory.r[index + horizon], index)


def _count(name: str, value: int, least: int = 1) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)
