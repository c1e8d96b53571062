"""Training that goes on: the same numbers after any end, kills at many moments."""

import random
import signal
from pathlib import Path

import pytest
import torch

from ndae.training.checkpoints import CheckpointError, load_checkpoint
from ndae.training.fit import fit
from tests.ndae.standin import data, standin
from tests.ndae.trainings import (
    VALIDATION,
    assert_same_training,
    process_in,
    rows_without_seconds,
    train,
)

# --- the same numbers ------------------------------------------------------------------------------------------------


def test_two_trainings_are_equal_and_leave_the_random_state_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(tmp_path / "a")
    assert torch.equal(torch.rand(2), expected)
    torch.rand(100)
    train(tmp_path / "b")
    assert_same_training(tmp_path / "a", tmp_path / "b")
    train(tmp_path / "c", seed=2)
    assert rows_without_seconds(tmp_path / "c") != rows_without_seconds(tmp_path / "a")


def test_order_depends_on_seed_and_epoch_only():
    from ndae.training.evaluation import Data
    from ndae.training.loaders import Batches

    inputs = torch.arange(23.0).reshape(23, 1, 1)
    batches = Batches(Data(inputs, inputs, {"t0": inputs[:, 0, 0]}), 5, seed=7)
    orders = {}
    for epoch in (0, 3, 1, 3, 0):
        batches.set_epoch(epoch)
        chosen, data = zip(*batches, strict=True)
        chosen = torch.cat(chosen)
        assert torch.equal(inputs[chosen], torch.cat([part.inputs for part in data]))
        assert torch.equal(chosen.float(), torch.cat([part.conditions["t0"] for part in data]))
        assert sorted(chosen.tolist()) == list(range(23))
        assert orders.setdefault(epoch, chosen.tolist()) == chosen.tolist()
    assert len({tuple(order) for order in orders.values()}) == 3
    assert [len(part[0]) for part in batches] == [5, 5, 5, 5, 3]


def test_more_epochs_go_on_from_the_last(tmp_path):
    train(tmp_path / "a", epochs=2)
    train(tmp_path / "a", epochs=5)
    train(tmp_path / "b", epochs=5)
    assert_same_training(tmp_path / "a", tmp_path / "b")
    with pytest.raises(CheckpointError, match="5 epochs, 4 were asked for"):
        train(tmp_path / "a", epochs=4)


def test_resume_false_starts_over(tmp_path):
    train(tmp_path / "a", epochs=2, seed=9)
    train(tmp_path / "a", resume=False)
    train(tmp_path / "b")
    assert_same_training(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("change", [{"seed": 2}, {"batch_size": 4}, {"learning_rate": 0.1}, {"schedule": "cosine"}])
def test_another_training_is_not_gone_on_with(tmp_path, change):
    train(tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match=f"another .*{next(iter(change))}.*another folder"):
        train(tmp_path, **change)


def test_other_data_is_not_gone_on_with(tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="another data"):
        fit(standin(), data(23, 8), VALIDATION, out=tmp_path, epochs=2, batch_size=5, seed=1, learning_rate=1e-2)


# --- SIGKILL ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    process = process_in(out)
    process.join()
    assert process.exitcode == 0
    return out


# 5 steps an epoch, 4 epochs; a step is counted within its process.
MOMENTS = {
    "first step": [("step", 1)],
    "every few steps": [("step", 3), ("step", 7), ("step", 5), ("step", 6)],
    "first checkpoint half written": [("before", "last.ckpt", 1)],
    "between last and best": [("after", "last.ckpt", 1), ("after", "last.ckpt", 1), ("after", "last.ckpt", 1)],
    "best half written": [("before", "best.ckpt", 1), ("before", "best.ckpt", 2)],
    "between best and log": [("after", "best.ckpt", 2)],
    "log half written": [("before", "log.csv", 1), ("before", "log.csv", 2)],
    "after the very last checkpoint": [("after", "last.ckpt", 4)],
    "half of the very last": [("before", "last.ckpt", 4)],
}


@pytest.mark.parametrize("moments", MOMENTS.values(), ids=MOMENTS)
def test_killed_at_a_moment(uninterrupted, tmp_path, moments):
    for moment in moments:
        process = process_in(tmp_path, moment)
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
    process = process_in(tmp_path)
    process.join()
    assert process.exitcode == 0
    assert_same_training(tmp_path, uninterrupted)
    assert not list(tmp_path.rglob("*.partial"))


def test_killed_at_random_from_outside(tmp_path):
    process_in(tmp_path / "whole", epochs=50).join()
    out = tmp_path / "killed"
    kills, chance = 0, random.Random(0)
    while True:
        process = process_in(out, epochs=50)
        # By what it has done, not by the clock: machines differ in speed. Then at any point within an epoch.
        enough = epochs_done(out) + chance.randint(1, 8)
        while process.is_alive() and epochs_done(out) < enough:
            process.join(0.001)
        process.join(chance.uniform(0.0, 0.02))
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills > 1
    assert_same_training(out, tmp_path / "whole")


def epochs_done(out: Path) -> int:
    log = out / "log.csv"
    return len(log.read_text().splitlines()) - 1 if log.exists() else 0


def test_seconds_add_up_over_kills(tmp_path):
    process_in(tmp_path, ("step", 12)).join()
    before = [row["seconds"] for row in load_checkpoint(tmp_path / "checkpoints/last.ckpt")["ndae"]["history"]["rows"]]
    process_in(tmp_path).join()
    history = load_checkpoint(tmp_path / "checkpoints/last.ckpt")["ndae"]["history"]
    assert len(before) == 2 and [row["seconds"] for row in history["rows"]][:2] == before
    assert len(history["step_seconds"]) == 20 and (history["step_seconds"] > 0).all()
