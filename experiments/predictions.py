"""What trained networks predict, as plain arrays for figures."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.figures import Snapshots
from experiments.pendulum import DT, Samples, pendulum_data, simulate
from experiments.records import Variant, read_run


def predict(folder: Path, inputs: np.ndarray) -> np.ndarray:
    """Positions (m) predicted by the network of a finished run, `(samples, nodes, 4)` to `(samples, nodes, 2)`.

    The weights are those of the smallest validation error.
    """
    import torch

    from experiments.runs import load_model

    model = load_model(folder).eval()
    like = next(model.parameters())
    with torch.no_grad():
        y = model(torch.as_tensor(inputs, dtype=like.dtype, device=like.device))
    return y.double().cpu().numpy()


def test_snapshots(folders: Mapping[Variant, Path], samples: int) -> Snapshots:
    """Predict the first `samples` of the test samples, not chosen by how well they come out, by every variant.

    All runs must have been made with one seed, number of training samples and horizon: they share their test samples.
    """
    configs = [read_run(folder).config for folder in folders.values()]
    splits = {(config["n_train"], config["horizon"], config["seed"]) for config in configs}
    if len(splits) != 1:
        raise ValueError(f"these runs have different test samples: (n_train, horizon, seed) is one of {sorted(splits)}")
    ((n_train, horizon, seed),) = splits
    test = pendulum_data(n_train, horizon, seed).test
    chosen = Samples(test.inputs[:samples], test.targets[:samples], test.index[:samples])
    return _snapshots(folders, chosen, horizon)


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
