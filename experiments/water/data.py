"""Samples of a trajectory of water, in one training set and several test sets: of the same stretch of time, or not."""

from dataclasses import dataclass

import numpy as np

from ndae.experiments.water.simulate import simulate
from ndae.experiments.water.trajectory import Trajectory
from ndae.solvers.progress import Progress

RANDOM, BLOCKED, OTHER = "random", "time-blocked", "other seed"
_LEARNED, _GAP = 80, 5  # per cent of the trajectory that train, val and the random test are of; then left out


@dataclass(frozen=True)
class WaterSamples:
    """Input-target pairs: `inputs` (B, atoms, 6) = (r, v) in Å and Å/fs at step `index`, `targets` (B, atoms, 3) = r
    in Å later; float32."""

    inputs: np.ndarray
    targets: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class WaterData:
    """One training set, and the test sets by name.

    - "random": of the same stretch of time as `train`, dealt out at random as the paper does. Neighbours in time are
      in different parts, so that it measures interpolation along one trajectory, and more so the larger `train` is.
    - "time-blocked": of the end of the trajectory, after a gap; this is `test`.
    - "other seed": of another trajectory, where there is one.
    """

    train: WaterSamples
    val: WaterSamples
    tests: dict[str, WaterSamples]
    horizon: int
    seed: int
    dt: float
    origin: str

    @property
    def test(self) -> WaterSamples:
        """The time-blocked test samples."""
        return self.tests[BLOCKED]


def water_data(
    n_train: int,
    horizon: int,
    seed: int,
    *,
    n_val: int = 200,
    n_test: int = 1_000,
    trajectory: Trajectory | None = None,
    other: Trajectory | None = None,
    progress: Progress | None = None,
) -> WaterData:
    """Samples (r_i, v_i) -> r_{i+horizon} of a trajectory, drawn by `seed`; targets in the same block as inputs.

    Train, val and the random test are drawn without repetition from the first 80 % of the trajectory, so that no step
    starts samples of two of them; the next 5 % are left out; the time-blocked test is of the last 15 %. n_test samples
    in each test set. Val and test sets do not depend on n_train, and the samples of a smaller one are in the larger.

    `trajectory`: by default `simulate(seed=0)`, 10 ps; `other`: where no trajectory is given, `simulate(seed=1)`. These
    do not depend on `seed`.

    Raises ValueError for a count below one, a trajectory too short for the counts, and an `other` of another step or
    number of molecules; what simulate raises.
    """
    for name, value, least in (
        ("n_train", n_train, 1), ("horizon", horizon, 1), ("seed", seed, 0), ("n_val", n_val, 1), ("n_test", n_test, 1),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if trajectory is None:
        trajectory = simulate(0, progress=progress)
        other = simulate(1, progress=progress) if other is None else other
    if other is not None and (other.dt, other.n_molecules) != (trajectory.dt, trajectory.n_molecules):
        raise ValueError(
            f"the other trajectory has {other.n_molecules} molecules in steps of {other.dt:g} fs, the first "
            f"{trajectory.n_molecules} in steps of {trajectory.dt:g}: give two of the same kind"
        )
    n = len(trajectory)
    learned, blocked = n * _LEARNED // 100, -(-n * (_LEARNED + _GAP) // 100)
    random = np.random.default_rng(seed)
    wanted = {"n_test": n_test, "n_val": n_val, "n_train": n_train}
    drawn = _drawn(random, 0, learned, horizon, wanted, f"the first {_LEARNED} % of the trajectory ({n} frames)")
    in_block, val, train = np.split(drawn, [n_test, n_test + n_val])
    rest = f"the last {100 - _LEARNED - _GAP} % of the trajectory ({n} frames)"
    tests = {
        RANDOM: _samples(trajectory, in_block, horizon),
        BLOCKED: _samples(trajectory, _drawn(random, blocked, n, horizon, {"n_test": n_test}, rest), horizon),
    }
    if other is not None:
        where = f"the other trajectory ({len(other)} frames)"
        tests[OTHER] = _samples(other, _drawn(random, 0, len(other), horizon, {"n_test": n_test}, where), horizon)
    train, val = (_samples(trajectory, index, horizon) for index in (train, val))
    return WaterData(train, val, tests, int(horizon), int(seed), trajectory.dt, trajectory.origin)


def _drawn(
    random: np.random.Generator, first: int, end: int, horizon: int, wanted: dict[str, int], where: str
) -> np.ndarray:
    """Different steps of [first, end − horizon), at random; the first ones do not depend on how many are wanted."""
    there, total = max(0, end - horizon - first), sum(wanted.values())
    if total > there:
        counts = " + ".join(f"{name} {count}" for name, count in wanted.items())
        raise ValueError(
            f"{where} has {there} samples with targets {horizon} steps later in it, fewer than {total} ({counts}): ask "
            "for fewer samples, or give a longer trajectory"
        )
    return first + random.permutation(there)[:total]


def _samples(trajectory: Trajectory, index: np.ndarray, horizon: int) -> WaterSamples:
    inputs = np.concatenate([trajectory.q[index], trajectory.v[index]], axis=-1)
    return WaterSamples(inputs.astype(np.float32), trajectory.q[index + horizon].astype(np.float32), index)
