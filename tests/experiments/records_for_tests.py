"""Made-up finished runs, for tests of what is drawn and written from them."""

import json

import numpy as np

from ndae.experiments.drawing.figures import Snapshots
from ndae.experiments.runs.records import Record
from ndae.experiments.variants import Variant

PAPERS = (
    Variant("none"),
    Variant("auxiliary", eta=10.0),
    Variant("penalty", gamma=10.0),
    Variant("end", 10.0, 10.0),
    Variant("smooth", 10.0, 10.0),
)
ALONE = (Variant("end"), Variant("smooth"))


def record(variant: Variant, seed: int = 0, *, epochs: int = 4, error: float | None = None, **changes) -> Record:
    """A run with smooth made-up curves whose numbers differ between variants and seeds."""
    random = np.random.default_rng([seed, variant.order[1], variant.alone])
    epoch = np.arange(1, epochs + 1)
    val = 40 + 30 * np.exp(-epoch / 3) + random.normal(0, 2)
    violation = (1e-6 if variant.method in ("end", "smooth") else 0.1) * random.uniform(0.5, 1.5, epochs)
    log = {
        "epoch": epoch,
        "train_loss": val,
        "train_mae_cm": val / 2,
        "train_violation_max": violation / 2,
        "val_mae_cm": val,
        "val_violation_mean": violation / 5,
        "val_violation_max": violation,
        "seconds": np.full(epochs, 2.5),
    }
    config = {
        "problem": "pendulum", "method": variant.method, "gamma": variant.gamma, "eta": variant.eta, "n_train": 100,
        "horizon": 20, "seed": seed, "epochs": epochs, "network": "mimetic", "schedule": "constant",
        "stabilisation": variant.stabilisation, "force": variant.force,
    }  # fmt: skip
    result = {key: config[key] for key in ("problem", "method", "network", "n_train", "horizon", "seed")} | {
        "parameters": 5_778_048,
        "test_mae_cm": float(val[-1]) if error is None else error,
        "violation_mean": float(violation[-1] / 5),
        "violation_max": float(violation[-1]),
        "train_seconds": 10.0,
        "step_ms": 200.0 + 10 * variant.order[1],
    }
    config |= {key: value for key, value in changes.items() if key in config}
    return Record(config, result | changes, {name: column.tolist() for name, column in log.items()})


def write_run(made: Record, folder) -> None:
    """Write `made` as a run folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(made.config))
    (folder / "result.json").write_text(json.dumps(made.result))
    rows = [",".join(made.log), *(",".join(map(repr, row)) for row in zip(*made.log.values(), strict=True))]
    (folder / "log.csv").write_text("\n".join(rows) + "\n")


def chain(angles: np.ndarray) -> np.ndarray:
    """Positions of a chain of unit links from the angles of its links to the downward vertical."""
    return np.cumsum(np.stack([np.sin(angles), -np.cos(angles)], -1), -2)


def snapshots(samples: int = 2, variants=PAPERS) -> Snapshots:
    """Snapshots of made-up predictions that err by a few centimetres."""
    random = np.random.default_rng(0)
    start = chain(random.uniform(-1.5, 1.5, (samples, 5)))
    truth = chain(random.uniform(-1.5, 1.5, (samples, 5)))
    return Snapshots(
        times=[10.0 + sample for sample in range(samples)],
        start=start.tolist(),
        truth=truth.tolist(),
        predictions={v.title: (truth + random.normal(0, 0.1, truth.shape)).tolist() for v in variants},
        methods={v.title: v.method for v in variants},
        horizon=20,
    )
