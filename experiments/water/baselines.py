"""Errors of predicted molecules, and what anyone predicts of them without learning: what a network has to beat."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ndae.experiments.nearest import nearest_positions
from ndae.experiments.water.data import RANDOM, WaterData, WaterSamples
from ndae.experiments.water.force_field import masses

if TYPE_CHECKING:
    from ndae.symbolic import Constraint

DISTANCES = (0.957, 0.957, 1.513)  # Å: O-H, O-H, H-H, the paper's (section 3.2)
_PAIRS = ((0, 1), (0, 2), (1, 2))


def constraint(n_molecules: int) -> "Constraint":
    """The three distances of every molecule, |r_i − r_j| − d = 0, over the positions (9 n_molecules,) in Å."""
    from ndae.symbolic import library

    return library.rigid_molecules(n_molecules, DISTANCES)


def mean_error_pm(prediction: Any, target: Any) -> float:
    """Mean Euclidean distance (pm) between predicted and true atoms, from positions (..., atoms, 3) in Å.

    Raises ValueError where the shapes differ, which broadcasting would hide.
    """
    return _mean_norm(*_pair(prediction, target))


def molecule_error_pm(prediction: Any, target: Any) -> float:
    """Mean over molecules of the norm of the nine errors of one (pm), from positions (..., 3 n_molecules, 3) in Å."""
    prediction, target = _pair(prediction, target)
    return _mean_norm(*(x.reshape(*x.shape[:-2], -1, 9) for x in (prediction, target)))


def violation(r: Any) -> np.ndarray:
    """Error of every distance, (..., n_molecules, 3) in Å: O-H, O-H, H-H; from positions (..., 3 n_molecules, 3)."""
    r = np.asarray(r, dtype=np.float64)
    atoms = r.reshape(*r.shape[:-2], -1, 3, 3)
    sizes = [np.linalg.norm(atoms[..., j, :] - atoms[..., i, :], axis=-1) for i, j in _PAIRS]
    return np.abs(np.stack(sizes, -1) - DISTANCES)


def trivial_predictions(
    samples: WaterSamples,
    horizon: int,
    dt: float,
    *,
    train: WaterSamples | None = None,
    same_time: bool = False,
) -> dict[str, np.ndarray]:
    """What anyone predicts without learning, (B, atoms, 3) in Å by name.

    - "no motion", "constant velocity": r and r + v · horizon · dt.
    - "..., projected": the point nearest to it with all distances right; "..., projected by mass": nearest with each
      atom's distance weighted by its mass. A sample whose projection does not converge stays as it was.
    - "truth, projected": the floor for what ends on the constraints exactly, the truth being off them.
    - "nearest training sample", with `train`: the target of the sample nearest in (r, v · horizon · dt).
    - "nearest in time", with `train` and `same_time`, which says that both are of the same stretch of a trajectory:
      the target of the sample nearest in time. It says how much of an error is memory.
    """
    r, v = np.split(samples.inputs.astype(np.float64), 2, -1)
    guesses = {"no motion": r, "constant velocity": r + v * (horizon * dt)}
    free = guesses | {"truth": samples.targets.astype(np.float64)}
    distances, mass = constraint(r.shape[-2] // 3), masses(r.shape[-2] // 3)
    guesses |= {f"{name}, projected": nearest_positions(distances, guess) for name, guess in free.items()}
    moving = "constant velocity"
    guesses[f"{moving}, projected by mass"] = nearest_positions(distances, guesses[moving], mass)
    if train is not None:
        guesses["nearest training sample"] = train.targets[_nearest(train, samples, horizon * dt)]
        if same_time:
            guesses["nearest in time"] = train.targets[_nearest_in_time(train.index, samples.index)]
    return guesses


def trivial_baselines(
    samples: WaterSamples,
    horizon: int,
    dt: float,
    *,
    train: WaterSamples | None = None,
    same_time: bool = False,
) -> dict[str, dict[str, float]]:
    """Errors of the trivial predictions by name: `mae_pm` of an atom, `molecule_pm` of a molecule, and of the distances
    `violation_mean` and `violation_max` in Å."""
    guesses = trivial_predictions(samples, horizon, dt, train=train, same_time=same_time)
    return {name: scores(guess, samples.targets) for name, guess in guesses.items()}


def scores(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """`mae_pm`, `molecule_pm` and, in Å, `violation_mean` and `violation_max` of positions (..., atoms, 3) in Å."""
    sizes = violation(prediction)
    return {
        "mae_pm": mean_error_pm(prediction, target),
        "molecule_pm": molecule_error_pm(prediction, target),
        "violation_mean": float(sizes.mean()),
        "violation_max": float(sizes.max()),
    }


def baselines(data: WaterData, test: str) -> dict[str, dict[str, float]]:
    """Errors of the trivial predictions on the test set of a name; raises ValueError where there is none such."""
    if test not in data.tests:
        raise ValueError(f"there are no test samples {test!r}: give one of {', '.join(map(repr, data.tests))}")
    return trivial_baselines(data.tests[test], data.horizon, data.dt, train=data.train, same_time=test == RANDOM)


def _pair(prediction: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    prediction, target = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and target {target.shape}; give both the same")
    return prediction, target


def _mean_norm(prediction: np.ndarray, target: np.ndarray) -> float:
    return float(100.0 * np.linalg.norm(prediction - target, axis=-1).mean())


def _nearest(train: WaterSamples, samples: WaterSamples, time: float) -> np.ndarray:
    """Index of the training sample nearest to each, by matrix products: trees do not help in 576 dimensions."""
    # Neighbours in time are 1e-2 Å apart and molecules 10: float64, about a common origin.
    known, asked = (_features(part, time) for part in (train, samples))
    origin = known.mean(0)
    known -= origin
    sizes = (known**2).sum(1)
    blocks = np.array_split(asked - origin, -(-len(asked) // 500))
    return np.concatenate([np.argmin(sizes - 2 * block @ known.T, axis=1) for block in blocks])


def _features(samples: WaterSamples, time: float) -> np.ndarray:
    r, v = np.split(samples.inputs.astype(np.float64), 2, -1)
    return np.concatenate([r, time * v], -1).reshape(len(samples), -1)


def _nearest_in_time(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    order = np.argsort(known)
    times = known[order]
    after = np.clip(np.searchsorted(times, asked), 1, len(times) - 1) if len(times) > 1 else np.zeros_like(asked)
    before = np.maximum(after - 1, 0)
    return order[np.where(asked - times[before] <= times[after] - asked, before, after)]
