"""Checkpoints of which single bits have changed: none is read, and what is sound is named."""

import random
import shutil
from pathlib import Path

import pytest
import torch

from ndae.training.checkpoints import CheckpointError, load_checkpoint, load_weights, save_checkpoint
from tests.ndae.standin import standin
from tests.ndae.trainings import assert_same_training, train, train_drifting


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(out)
    return out


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def assert_no_flip_is_read(trained: Path, out: Path, name: str, flips: int) -> None:
    shutil.copytree(trained, out)
    path = out / "checkpoints" / name
    sound, chance = path.read_bytes(), random.Random(name)
    n_bits = 8 * len(sound)
    # The ends, where an archive keeps its directory and the digest is, and anywhere between.
    bits = [*range(8), *range(n_bits - 8, n_bits), *(chance.randrange(n_bits) for _ in range(flips - 16))]
    for bit in bits:
        path.write_bytes(sound)
        flip(path, bit)
        with pytest.raises(CheckpointError, match=f"{name} is no checkpoint of ndae"):
            load_weights(standin(), path)
    with pytest.raises(CheckpointError, match=f"{name} is no checkpoint of ndae"):
        train(out, epochs=4)
    path.write_bytes(sound)
    train(out, epochs=4)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_flipped_bits_are_noticed(trained, tmp_path, name):
    assert_no_flip_is_read(trained, tmp_path / "out", name, 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_five_hundred_flipped_bits_are_noticed(trained, tmp_path, name):
    assert_no_flip_is_read(trained, tmp_path / "out", name, 500)


def test_the_checkpoint_before_a_damaged_one_is_offered_and_ends_the_same(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "out")
    folder = tmp_path / "out" / "checkpoints"
    flip(folder / "last.ckpt", 40_000)
    with pytest.raises(CheckpointError, match=r"digest is not that of its content; sound beside it: previous\.ckpt "
                       r"\(epoch 2\), best\.ckpt.*put previous\.ckpt in its place to go on from epoch 2"):  # fmt: skip
        train(tmp_path / "out", epochs=5)
    (folder / "previous.ckpt").rename(folder / "last.ckpt")
    train(tmp_path / "out", epochs=5)
    train(tmp_path / "whole", epochs=5)
    assert_same_training(tmp_path / "out", tmp_path / "whole")


def test_damaged_best_weights_name_those_that_are_sound(tmp_path):
    _, result = train_drifting(tmp_path)
    assert result.best.epoch == 1
    flip(result.best_checkpoint, 9_000)
    with pytest.raises(CheckpointError, match=r"best\.ckpt .*sound beside it: last\.ckpt \(epoch 9\), previous\.ckpt "
                       r"\(epoch 8\)"):  # fmt: skip
        train_drifting(tmp_path)


def test_best_weights_of_another_run_are_refused(tmp_path):
    """They may be of the same epoch, sound and of the same shape."""
    train_drifting(tmp_path / "a")
    train_drifting(tmp_path / "b", learning_rate=2e-2)
    shutil.copyfile(tmp_path / "b/checkpoints/best.ckpt", tmp_path / "a/checkpoints/best.ckpt")
    with pytest.raises(CheckpointError, match="not the best checkpoint of this run, which is of epoch 1"):
        train_drifting(tmp_path / "a")


def test_a_file_without_a_digest_is_refused(tmp_path):
    torch.save({"state_dict": standin().state_dict()}, tmp_path / "old.ckpt")
    with pytest.raises(CheckpointError, match="does not end in a digest: damaged or cut short, or of an earlier"):
        load_weights(standin(), tmp_path / "old.ckpt")


def test_other_programs_read_a_checkpoint(tmp_path):
    content = {"state_dict": {"w": torch.arange(3.0)}}
    save_checkpoint(content, tmp_path / "a.ckpt")
    for read in (torch.load(tmp_path / "a.ckpt", weights_only=True), load_checkpoint(tmp_path / "a.ckpt")):
        assert torch.equal(read["state_dict"]["w"], content["state_dict"]["w"])
