"""What trained networks predict, as plain arrays for figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndae.experiments.drawing.figures import Snapshots
from ndae.experiments.problems.pendulum_data import DT, Samples, simulate
from ndae.experiments.variants import Variant


def predict(folder: Path, inputs: np.ndarray) -> np.ndarray:
    """Positions (m) predicted by the network of a finished run, `(samples, nodes, 4)` to `(samples, nodes, 2)`.

    The weights are those of the smallest validation error.
    """
    import torch

    from ndae.experiments.runs.run import load_model

    _, model = load_model(folder)
    like = next(model.parameters())
    with torch.no_grad():
        y = model(torch.as_tensor(inputs, dtype=like.dtype))
    return y.double().numpy()


def test_snapshots(folders: Mapping[Variant, Path], samples: int) -> Snapshots:
    """Predict the first `samples` of the test samples, not chosen by how well they come out, by every variant.

    All runs must have been made with one seed, number of training samples and horizon: they share their test samples.
    """
    from ndae.experiments.runs.config import RunConfig
    from ndae.experiments.runs.run import build_data

    configs = [RunConfig.from_json((folder / "config.json").read_text(encoding="utf-8")) for folder in folders.values()]
    splits = {(c.n_train, c.n_val, c.n_test, c.horizon, c.seed) for c in configs}
    if len(splits) != 1:
        raise ValueError(f"these runs have different test samples: (n_train, n_val, n_test, horizon, seed) {splits}")
    test: Any = build_data(configs[0]).test  # of the pendulum, whose samples have an index
    chosen = Samples(test.inputs[:samples], test.targets[:samples], test.index[:samples])
    return _snapshots(folders, chosen, configs[0].horizon)


def sequence(folders: Mapping[Variant, Path], steps: np.ndarray, horizon: int) -> Snapshots:
    """Predict from the true state at each of `steps` of the trajectory, by every variant."""
    trajectory = simulate(int(steps.max()) + horizon)
    inputs = np.concatenate([trajectory.r[steps], trajectory.v[steps]], -1)
    return _snapshots(folders, Samples(inputs, trajectory.r[steps + horizon], steps), horizon)


def _snapshots(folders: Mapping[Variant, Path], samples: Samples, horizon: int) -> Snapshots:
    return Snapshots(
        times=(DT * samples.index).tolist(),
        start=samples.inputs[..., :2].tolist(),
        truth=samples.targets.tolist(),
        predictions={variant.title: predict(folder, samples.inputs).tolist() for variant, folder in folders.items()},
        methods={variant.title: variant.method for variant in folders},
        horizon=horizon,
    )
