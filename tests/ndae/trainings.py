"""Trainings of the stand-in for the tests, and how two of them are compared."""

import csv
from pathlib import Path

import torch
from torch import nn

from ndae.training.checkpoints import load_checkpoint
from ndae.training.fit import fit
from tests.killable import start
from tests.ndae.standin import Prediction, UnitCircle, data, standin, train_into

TRAIN, VALIDATION = data(23, 0), data(11, 1)


def train(out: Path, model: nn.Module | None = None, **options):
    settings = {"epochs": 3, "batch_size": 5, "seed": 1, "learning_rate": 1e-2, "device": "cpu"} | options
    return fit(standin() if model is None else model, TRAIN, VALIDATION, out=out, **settings)


def rows_without_seconds(out: Path) -> list[list[str]]:
    rows = list(csv.reader((out / "log.csv").read_text().splitlines()))
    kept = [column for column, name in enumerate(rows[0]) if name != "seconds"]
    return [[row[column] for column in kept] for row in rows]


def assert_same_training(a: Path, b: Path) -> None:
    """Weights and optimiser state of both checkpoints, and the log, bit for bit."""
    assert rows_without_seconds(a) == rows_without_seconds(b)
    for name in ("last", "best"):
        one, other = (load_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for folder in (a, b))
        assert one["state_dict"].keys() == other["state_dict"].keys()
        for key, value in one["state_dict"].items():
            assert torch.equal(value, other["state_dict"][key]), (name, key)
        if name == "last":
            one, other = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, other))
            assert one.keys() == other.keys()
            for slot in one:
                for key, value in one[slot].items():
                    assert torch.equal(value, other[slot][key]), (slot, key)


def process_in(out: Path, kill: tuple | None = None, **options):
    """Train the stand-in in a process of its own."""
    return start(train_into, str(out), kill, **options)


class Drifting(nn.Module):
    """A model that starts at the truth and is pulled away from it by its regularisation."""

    def __init__(self):
        super().__init__()
        self.shift, self.constraint = nn.Parameter(torch.zeros(2)), UnitCircle()

    def predict(self, x):
        y = x[..., :2] + self.shift
        return Prediction(y, 50 * (self.shift - 1).square().sum())


def train_drifting(out: Path, **options):
    model = Drifting()
    still = tuple((inputs, inputs[..., :2]) for inputs, _ in (TRAIN, VALIDATION))
    settings = {"epochs": 9, "learning_rate": 1e-2, "seed": 0, "device": "cpu"} | options
    return model, fit(model, *still, out=out, **settings)
