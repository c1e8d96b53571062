"""Checkpoints that are damaged, foreign or hostile."""

import contextlib
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from ndae.training.checkpoints import CheckpointError, load_weights, only_writer
from tests.ndae.standin import standin
from tests.ndae.trainings import (
    TRAIN,
    train,
    train_drifting,
)
from tests.systems import Attack

# --- files that are damaged, foreign or hostile ----------------------------------------------------------------------


def hostile(kind: str, path: Path, marker: Path) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Attack(marker)))
    else:
        torch.save({"state_dict": {"model.shift": Attack(marker)}, "ndae": Attack(marker)}, path)
    if kind == "legacy":
        torch.save({"state_dict": Attack(marker)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy"])
@pytest.mark.parametrize("name", ["last", "best"])
def test_hostile_checkpoints_are_refused_unread(tmp_path, kind, name):
    result, marker = train(tmp_path), tmp_path / "executed"
    path = {"last": result.last_checkpoint, "best": result.best_checkpoint}[name]
    hostile(kind, path, marker)
    with pytest.raises(CheckpointError, match="no checkpoint of ndae"):
        load_weights(standin(), path)
    with pytest.raises(CheckpointError, match="no checkpoint of ndae"):
        train(tmp_path, epochs=4)
    assert not marker.exists()
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert marker.exists(), "the attack was harmless, so the test proves nothing"


def test_lightning_itself_restores_without_unpickling(tmp_path):
    import lightning

    from ndae.training._lightning import Regression, SafeCheckpointIO, quiet
    from ndae.training.evaluation import Data
    from ndae.training.loaders import Batches

    hostile("zip", tmp_path / "evil.ckpt", tmp_path / "executed")
    module = Regression(standin(), lambda weights: torch.optim.SGD(weights, lr=0.1), lambda done: 1.0, 5, 0)
    with quiet():
        trainer = lightning.pytorch.Trainer(
            accelerator="cpu", plugins=[SafeCheckpointIO()], logger=False, enable_checkpointing=False, max_epochs=1,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        with pytest.raises(CheckpointError, match="more than tensors"):
            trainer.fit(module, Batches(Data(*TRAIN, {}), 5, 0), ckpt_path=tmp_path / "evil.ckpt", weights_only=False)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("size", [0, 100, 5000, -1])
def test_cut_checkpoints_are_noticed(tmp_path, size):
    result = train(tmp_path)
    os.truncate(result.last_checkpoint, size if size >= 0 else result.last_checkpoint.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        train(tmp_path, epochs=4)


def test_a_lost_best_checkpoint_is_noticed(tmp_path):
    _, result = train_drifting(tmp_path)
    result.best_checkpoint.unlink()
    with pytest.raises(CheckpointError, match="not the best checkpoint of this run, which is of epoch 1"):
        train_drifting(tmp_path)


def test_foreign_weights_are_refused(tmp_path):
    result = train(tmp_path)
    with pytest.raises(CheckpointError, match=r"another network's weights: 6 .* first 'bias'"):
        load_weights(nn.Linear(2, 2), result.best_checkpoint)
    other = standin()
    other.net = nn.Sequential(other.net[0], nn.SiLU(), nn.SiLU(), nn.SiLU(), other.net[3])
    with pytest.raises(CheckpointError, match=r"4 of 4 entries differ in name or shape, first 'net\.3\.bias'"):
        load_weights(other, result.best_checkpoint)
    with pytest.raises(CheckpointError, match=r"training with another model\.net\.2 .*Dropout \(now .*SiLU\)"):
        train(tmp_path, other, epochs=4)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*missing\.ckpt"):
        load_weights(standin(), tmp_path / "missing.ckpt")


def test_one_training_a_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(CheckpointError, match="another process is training"):
        train(tmp_path)
    train(tmp_path)
