"""Pendulums of the constrained Hamiltonian networks: their trajectories, samples and metric (see `studies.chnn`)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from ndae.experiments.cache import cached_arrays

if TYPE_CHECKING:
    from ndae.symbolic import System

GRAVITY, DT, N_TIMES, CHUNK = 9.81, 0.03, 100, 5
N_TEST = 100
PERTURBATION = 1e-4
_PARTS = ("train", "validation", "test", "tuning", "perturbation")
_TINY = 1e-8  # added to errors before their logarithm

Points = Float[np.ndarray, "samples *times bodies 2"]


@dataclass(frozen=True)
class Motions:
    """Trajectories: positions `q` (count, 100, bodies, 2) in m and velocities `v` likewise in m/s, 0.03 s apart."""

    q: np.ndarray
    v: np.ndarray

    @property
    def state(self) -> Float[np.ndarray, "count n_times bodies 4"]:
        """Positions before velocities of each body."""
        return np.concatenate([self.q, self.v], axis=-1)


def lengths_and_masses(bodies: int) -> tuple[Float[np.ndarray, " bodies"], Float[np.ndarray, " bodies"]]:
    """Lengths (m) and masses (kg) of the chain, from the anchor outwards."""
    generator = np.random.RandomState(0)
    masses, lengths = 0.6 + 0.8 * generator.rand(bodies), 0.6 + 0.8 * generator.rand(bodies)
    return lengths[::-1].copy(), masses[::-1].copy()


@lru_cache(maxsize=4)  # the reference solver compiles once for each system it is given
def system(bodies: int) -> "System":
    """The chain under gravity."""
    from ndae.symbolic import library

    return library.chain_pendulum(bodies, *lengths_and_masses(bodies), gravity=GRAVITY)


def seeds(bodies: int, part: str, seed: int) -> np.random.SeedSequence:
    """Where the random numbers of a part of a seed's data come from; no two share any."""
    return np.random.SeedSequence([bodies, _PARTS.index(part), seed])


def draw(bodies: int, count: int, source: Any) -> tuple[Points, Points]:
    """Positions and velocities (count, bodies, 2) as they are drawn, before the projection; the first do not depend on
    `count`."""
    lengths, _ = lengths_and_masses(bodies)
    numbers = np.random.default_rng(source).standard_normal((count, 6 * bodies))
    angle, rate, noise = np.split(numbers, [bodies, 2 * bodies], axis=1)
    noise = noise.reshape(count, 2, bodies, 2).swapaxes(0, 1)
    link = lengths[:, None] * np.stack([np.sin(angle), -np.cos(angle)], -1)
    turning = (lengths * rate)[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return link.cumsum(1) + 0.2 * noise[0], 3 * (0.5 * turning.cumsum(1) + 0.4 * noise[1])


def onto_manifold(q: Points, v: Points, *, tol: float = 1e-13, max_iterations: int = 500) -> tuple[Points, Points]:
    """Positions and velocities moved together onto |d|² = l² and 2 d·ḋ = 0 of every link, each sample by itself.

    Gauss-Newton steps in (q, v), the smallest that solve the linearised equations, every component clipped at half the
    root mean square of the state. Raises ValueError if a sample has not converged after `max_iterations`.
    """
    bodies = q.shape[1]
    lengths, _ = lengths_and_masses(bodies)
    difference = np.eye(bodies) - np.eye(bodies, k=-1)
    z = np.concatenate([q, v], 1)  # (samples, 2 bodies, 2)
    for _ in range(max_iterations):
        link, rate = difference @ z[:, :bodies], difference @ z[:, bodies:]
        c = np.concatenate([(link**2).sum(-1) - lengths**2, 2 * (link * rate).sum(-1)], 1)
        moving = np.sqrt((c**2).mean(1)) > tol
        if not moving.any():
            return z[:, :bodies], z[:, bodies:]
        along, across = (
            (2 * difference[:, :, None] * part[:, :, None, :]).reshape(len(z), bodies, 2 * bodies)
            for part in (link, rate)
        )
        jacobian = np.block([[along, np.zeros_like(along)], [across, along]])
        multiplier = np.linalg.solve(jacobian @ jacobian.swapaxes(1, 2), c[..., None])
        step = -(jacobian.swapaxes(1, 2) @ multiplier).reshape(z.shape)
        largest = np.sqrt((z**2).mean((1, 2), keepdims=True)) / 2
        z = z + np.where(moving[:, None, None], step.clip(-largest, largest), 0.0)
    raise ValueError(f"{moving.sum()} of {len(z)} starts are not on the manifold after {max_iterations} steps")


def motions(bodies: int, count: int, part: str, seed: int) -> Motions:
    """`count` trajectories of a part ("train", "validation", "test", "tuning"), cached."""

    def make() -> dict[str, np.ndarray]:
        return asdict(rolled_out(*onto_manifold(*draw(bodies, count, seeds(bodies, part, seed)))))

    config = _config(bodies) | {"count": count, "part": part, "seed": seed}
    return Motions(**cached_arrays("chnn", config, make, recipe={"version": 1, "rtol": 1e-10}))


def _config(bodies: int) -> dict[str, Any]:
    """What all motions of a pendulum depend on."""
    from ndae.training.description import fingerprint

    return {"bodies": bodies, "system": fingerprint(system(bodies)), "dt": DT, "n_times": N_TIMES}


def rolled_out(q: Points, v: Points) -> Motions:
    """The true motion over 100 points from positions and velocities (count, bodies, 2)."""
    from ndae.solvers import solve

    count, bodies, _ = q.shape
    start = {"q": q.reshape(count, -1), "v": v.reshape(count, -1)}
    solution: Any = solve(system(bodies), start, DT * np.arange(N_TIMES), rtol=1e-10, atol=1e-10)
    return Motions(*(part.reshape(count, N_TIMES, bodies, 2) for part in (solution.q, solution.v)))


def chunks(of: Motions, source: Any) -> Motions:
    """One chunk of five points of each trajectory, drawn among the twenty that do not overlap."""
    first = CHUNK * np.random.default_rng(source).integers(N_TIMES // CHUNK, size=len(of.q))
    chosen = np.arange(len(of.q))[:, None], first[:, None] + np.arange(CHUNK)
    return Motions(of.q[chosen], of.v[chosen])


def samples(bodies: int, count: int, part: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (count, bodies, 4), states at the start of chunks, and targets (count, 4, bodies, 2), positions after."""
    chunk = chunks(motions(bodies, count, part, seed), seeds(bodies, part, seed).spawn(1)[0])
    return chunk.state[:, 0], chunk.q[:, 1:]


def long_motions(bodies: int, part: str = "test", count: int = N_TEST) -> Motions:
    """The true motions of the test: 100 points from the starts of one chunk of each of 100 trajectories, cached."""

    def make() -> dict[str, np.ndarray]:
        state, _ = samples(bodies, count, part, 0)
        return asdict(rolled_out(state[..., :2], state[..., 2:]))

    config = _config(bodies) | {"count": count, "part": part, "long": True}
    return Motions(**cached_arrays("chnn", config, make, recipe={"version": 1, "rtol": 1e-10}))


def relative_error(predicted: Motions, true: Motions) -> Float[np.ndarray, "count n_times"]:
    """‖z - ẑ‖ / (‖z‖ + ‖ẑ‖) at every time, over positions and velocities of all bodies."""
    a, b = predicted.state, true.state
    if a.shape != b.shape:
        raise ValueError(f"the prediction has shape {a.shape}, the truth {b.shape}: expected the same")
    size = [np.sqrt((z**2).sum((-2, -1))) for z in (a - b, a, b)]
    return size[0] / (size[1] + size[2])


def over_time(error: Float[np.ndarray, "count n_times"]) -> Float[np.ndarray, " count"]:
    """Their geometric mean over time: exp(∫ log(error + 1e-8) dt / 3 s) by the trapezoidal rule."""
    return np.exp(np.trapezoid(np.log(error + _TINY), dx=DT, axis=-1) / (N_TIMES * DT))


def geometric_mean(values: Sequence[float] | np.ndarray) -> float:
    """exp of the mean logarithm."""
    return float(np.exp(np.log(values).mean()))


def floor(bodies: int) -> Float[np.ndarray, " count"]:
    """The metric of each test motion for the truth from a start perturbed by 1e-4 a component, projected; cached."""
    true = long_motions(bodies)

    def make() -> dict[str, np.ndarray]:
        noise = np.random.default_rng(seeds(bodies, "perturbation", 0)).standard_normal((2, *true.q[:, 0].shape))
        start = onto_manifold(true.q[:, 0] + PERTURBATION * noise[0], true.v[:, 0] + PERTURBATION * noise[1])
        return {"floor": over_time(relative_error(rolled_out(*start), true))}

    config = _config(bodies) | {"count": N_TEST, "perturbation": PERTURBATION}
    return cached_arrays("chnn-floor", config, make, recipe={"version": 1, "rtol": 1e-10})["floor"]
