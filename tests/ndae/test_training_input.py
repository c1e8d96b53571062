"""What `fit` is given: arrays in any memory layout, numbers that are none, folders that can't be written."""

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import ndae
from ndae.symbolic import library
from ndae.training.checkpoints import CheckpointError
from ndae.training.fit import _check, fit
from ndae.training.history import NonFiniteError
from tests.ndae.standin import data, standin
from tests.ndae.trainings import TRAIN, VALIDATION, rows_without_seconds, train

INPUTS, TARGETS = (part.numpy() for part in TRAIN)


def fit_on(train_data, out: Path, **options):
    return fit(standin(), train_data, VALIDATION, out=out, epochs=1, batch_size=10, device="cpu", **options)


LAYOUTS = {
    "big-endian": lambda a: a.astype(">f8"),
    "reversed": lambda a: a[::-1].copy()[::-1],
    "fortran": np.asfortranarray,
    "read-only": lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "object": lambda a: a.astype(object),
    "long double": lambda a: a.astype(np.longdouble),
    "list": lambda a: a.tolist(),
    "tensor": torch.as_tensor,
}


@pytest.mark.filterwarnings("error:The given NumPy array")
def test_layouts_of_arrays_change_nothing(tmp_path):
    fit_on((INPUTS, TARGETS), tmp_path / "plain")
    for name, layout in LAYOUTS.items():
        fit_on((layout(INPUTS), layout(TARGETS)), tmp_path / "plain")  # the data's identity: the run is finished
        fit_on((layout(INPUTS), layout(TARGETS)), tmp_path / name)
        assert rows_without_seconds(tmp_path / name) == rows_without_seconds(tmp_path / "plain"), name


def test_a_last_dimension_of_one_without_stride(tmp_path):
    """`a[..., None]` has stride 0 there, and so has no view as bytes."""
    position = np.linspace(0.0, 1.0, 12).reshape(6, 2)
    inputs, targets = position[..., None], 2 * position[..., None]
    assert torch.as_tensor(inputs).stride()[-1] == 0
    model = torch.nn.Linear(1, 1).double()
    fit(model, (inputs, targets), (inputs, targets), out=tmp_path, epochs=1, device="cpu")
    assert len(fit(model, (inputs, targets), (inputs, targets), out=tmp_path, epochs=2, device="cpu").rows) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(complex), "training inputs: complex numbers"),
        (lambda a: a.astype(str), "training inputs: an array of <U32 holds no numbers"),
        (lambda a: np.ma.masked_greater(a, 0.9), r"training inputs: \d+ entries are masked"),
        (lambda a: [row.tolist() for row in a[:-1]] + [[1.0]], "training inputs: not an array of numbers"),
    ],
)
def test_what_holds_no_numbers_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        fit_on((change(INPUTS), TARGETS), tmp_path)
    with pytest.raises(ValueError, match="third part maps names"):
        fit_on((INPUTS, TARGETS, [1.0]), tmp_path)


NO_NUMBERS = [
    *({"learning_rate": rate} for rate in (math.nan, math.inf, 0, -1, "fast", None, 10**400)),
    *({"epochs": n} for n in (0, -1, 2.0, True, None)),
    {"seed": True}, {"seed": -1}, {"batch_size": 0}, {"early_stopping": 0}, {"gradient_clip": math.nan},
]  # fmt: skip


@pytest.mark.parametrize("options", NO_NUMBERS, ids=str)
def test_numbers_that_are_none_are_named(tmp_path, options):
    # Behind the tests' own check of types, which a user does not have.
    given = {"epochs": 3, "batch_size": 5, "learning_rate": 0.1, "gradient_clip": None}
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        _check(**given | {"early_stopping": None, "seed": 0, "precision": None} | options)


@pytest.mark.parametrize("rate", [1e30, 1e300])
def test_a_learning_rate_beyond_reason_is_named(tmp_path, rate):
    """The closing map is orthonormal by a factorisation, which fails on weights of 1e30 before anything is infinite."""
    model = ndae.models.build_network(
        "mlp", library.chain(3, 2).torch(), ndae.methods.SmoothProjection(), edges=[(None, 0), (0, 1), (1, 2)],
        features=4, dim=2, n_layers=1,
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match=r"at epoch 1, step 2: .*smaller learning_rate"):
        fit(model, data(20, 0), data(5, 1), out=tmp_path, epochs=2, learning_rate=rate, device="cpu")
    with pytest.raises(NonFiniteError, match=r"at epoch 1, step 2: .*smaller learning_rate"):
        train(tmp_path / "other", learning_rate=rate)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt", "log.csv"])
def test_a_full_disk_is_one_sentence_and_training_goes_on_after_it(tmp_path, monkeypatch, name):
    train(tmp_path / "whole", epochs=2)
    train(tmp_path / "full", epochs=1)
    fsync = os.fsync

    def full(handle: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=rf"{name} could not be written \(No space left on device\).*make room"):
        train(tmp_path / "full", epochs=2)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial"))
    train(tmp_path / "full", epochs=2)
    assert rows_without_seconds(tmp_path / "full") == rows_without_seconds(tmp_path / "whole")


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="is a file: give a folder"):
        train(file)
    with pytest.raises(CheckpointError, match="could not be written"):
        train(file / "below")
    assert file.read_text() == "mine"

    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(CheckpointError, match=r"could not be written \(Permission denied\)"):
        train(tmp_path / "out")
