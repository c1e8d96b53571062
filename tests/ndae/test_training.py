"""Training: the loss by hand, the choice of the best epoch, kills at many moments, and files that attack."""

import contextlib
import csv
import math
import os
import pickle
import random
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from ndae.checkpoints import CheckpointError, load_checkpoint, load_weights, only_writer
from ndae.evaluation import evaluate
from ndae.history import NonFiniteError
from ndae.training import fit
from solvers import IntegrationError
from tests.killable import start
from tests.ndae.standin import NODES, Prediction, Standin, UnitCircle, data, standin, train_into

TRAIN, VALIDATION = data(23, 0), data(11, 1)


def train(out: Path, model: nn.Module | None = None, **options):
    settings = {"epochs": 3, "batch_size": 5, "seed": 1, "learning_rate": 1e-2, "device": "cpu"} | options
    return fit(standin() if model is None else model, TRAIN, VALIDATION, out=out, **settings)


def rows_without_seconds(out: Path) -> list[list[str]]:
    rows = list(csv.reader((out / "log.csv").open()))
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


# --- what is minimised, what is measured -----------------------------------------------------------------------------


def test_a_step_descends_half_squares_plus_regularisation(tmp_path):
    model, rate = standin(dropout=0.0).double(), 0.1
    copy = standin(dropout=0.0).double()
    inputs, targets = TRAIN
    loss = 0.0
    for x, target in zip(inputs, targets, strict=True):
        y = copy(x[None])[0]
        loss = loss + 0.5 * sum((y[i, d] - target[i, d]) ** 2 for i in range(NODES) for d in range(2)) / len(inputs)
        loss = loss + 0.05 * sum((y[i].norm() - 1) ** 2 for i in range(NODES)) / len(inputs)
    gradients = torch.autograd.grad(loss, list(copy.parameters()))
    expected = [weight - rate * gradient for weight, gradient in zip(copy.parameters(), gradients, strict=True)]

    result = train(
        tmp_path, model, epochs=1, batch_size=len(inputs), optimizer=lambda weights: torch.optim.SGD(weights, lr=rate)
    )
    for weight, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.detach(), value.detach(), rtol=1e-12, atol=1e-14)
    assert result.rows[0].train_loss == pytest.approx(loss.item(), rel=1e-12)


def test_evaluation_by_hand():
    model = standin().double().train()
    inputs, targets = VALIDATION
    found = evaluate(model, inputs.numpy(), targets.numpy(), batch_size=4)
    assert model.training
    y = model.eval()(inputs).detach()
    errors = [math.dist(y[s, i], targets[s, i]) for s in range(len(y)) for i in range(NODES)]
    violations = [abs(math.hypot(*y[s, i]) - 1) for s in range(len(y)) for i in range(NODES)]
    assert found.mae == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    assert found.violation_mean == pytest.approx(sum(violations) / len(violations), rel=1e-12)
    assert found.violation_max == pytest.approx(max(violations), rel=1e-12)
    assert found.projections is None


def test_a_nan_in_one_batch_is_not_lost_in_the_maximum():
    class Broken(Standin):
        def predict(self, x):
            y = super().predict(x).y.clone()
            y[x[:, 0, 0] == VALIDATION[0][2, 0, 0]] = math.nan
            return Prediction(y, y.new_zeros(()))

    assert math.isnan(evaluate(Broken().double(), *VALIDATION, batch_size=3).violation_max)


def test_any_module_can_be_trained(tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x)

    result = train(tmp_path, Plain(), epochs=2)
    assert result.rows[1].train_loss < result.rows[0].train_loss
    assert math.isnan(result.rows[0].val_violation_max)


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


def test_best_is_chosen_by_prediction_error_not_by_loss(tmp_path):
    model, result = train_drifting(tmp_path)
    losses = [row.train_loss for row in result.rows]
    assert losses == sorted(losses, reverse=True)
    assert result.best.epoch == 1 and len(result.rows) == 9
    kept = load_checkpoint(result.best_checkpoint)["state_dict"]["model.shift"]
    last = load_checkpoint(result.last_checkpoint)["state_dict"]["model.shift"]
    assert torch.equal(model.shift.detach(), kept)
    assert kept.norm() < last.norm() / 3


def test_early_stopping_stays_stopped(tmp_path):
    _, result = train_drifting(tmp_path, early_stopping=3)
    assert result.stopped_early and [row.epoch for row in result.rows] == [1, 2, 3, 4]
    _, again = train_drifting(tmp_path, early_stopping=3)
    assert again == result


def test_float64_and_schedule(tmp_path):
    model = standin().double()
    result = train(tmp_path, model, schedule="cosine", epochs=4)
    assert all(weight.dtype == torch.float64 for weight in model.parameters())
    checkpoint = load_checkpoint(result.last_checkpoint)
    # The last of 4 × 5 steps is taken at 19/20 of the way.
    rate = checkpoint["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-2 * 0.5 * (1 + math.cos(math.pi * 19 / 20)), rel=1e-12)


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
    from ndae._lightning import Batches
    from ndae.evaluation import Data

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


def process_in(out: Path, kill: tuple | None = None, **options):
    """Train the stand-in in a process of its own."""
    return start(train_into, str(out), kill, **options)


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


# --- files that are damaged, foreign or hostile ----------------------------------------------------------------------


class Attack:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


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

    from ndae._lightning import Batches, Regression, SafeCheckpointIO, quiet
    from ndae.evaluation import Data

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
        train(tmp_path, other, epochs=4)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*missing\.ckpt"):
        load_weights(standin(), tmp_path / "missing.ckpt")


def test_one_training_a_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(CheckpointError, match="another process is training"):
        train(tmp_path)
    train(tmp_path)


# --- numbers that are not finite -------------------------------------------------------------------------------------


class Poisoned(Standin):
    """Gives NaN for one sample from its n-th step on."""

    def __init__(self, sample: int, step: int):
        super().__init__()
        self.load_state_dict(standin().state_dict())
        self.mark, self.left = TRAIN[0][sample, 0, 0].float(), step

    def predict(self, x):
        prediction = super().predict(x)
        hit = (x[:, 0, 0] == self.mark)[:, None, None]
        if self.training:
            self.left -= 1
        y = torch.where(hit & (self.left < 0), math.nan, prediction.y)
        return Prediction(y, prediction.regularisation)


def test_a_nan_names_epoch_step_and_sample_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"epoch 3, step \d: the prediction of training sample 17 is not finite"):
        train(tmp_path, Poisoned(sample=17, step=10))
    checkpoint = load_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert len(checkpoint["ndae"]["history"]["rows"]) == 2
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    train(tmp_path)
    train(tmp_path.with_name("whole"))
    assert_same_training(tmp_path, tmp_path.with_name("whole"))


def test_an_overflow_names_the_weights(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step \d: the step before left \d weights not finite, first 'net"):
        train(tmp_path, learning_rate=1e38, batch_size=1)
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_an_overflow_in_the_last_step_is_not_written(tmp_path):
    with pytest.raises(NonFiniteError, match="validation error is nan after epoch 1"):
        train(tmp_path, batch_size=23, optimizer=lambda weights: torch.optim.SGD(weights, lr=math.nan))
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


@pytest.mark.parametrize("part", [0, 1])
def test_data_that_is_not_finite_names_the_sample(tmp_path, part):
    broken = [tensor.clone() for tensor in TRAIN]
    broken[part][7, 1, 1] = math.inf
    with pytest.raises(ValueError, match=r"training (inputs|targets): 1 of 23 samples .* first sample 7"):
        fit(standin(), tuple(broken), VALIDATION, out=tmp_path, epochs=1)


def test_a_failed_solve_names_epoch_step_and_samples(tmp_path):
    class Failing(Standin):
        def predict(self, x):
            raise IntegrationError("a state is not finite")

    with pytest.raises(NonFiniteError, match=r"epoch 1, step 1: a state is not finite \(training samples \d+, \d"):
        train(tmp_path, Failing())


def test_a_failed_solve_in_validation_names_the_epoch(tmp_path):
    class Failing(Standin):
        def predict(self, x):
            if not self.training:
                raise IntegrationError("a state is not finite")
            return super().predict(x)

    with pytest.raises(NonFiniteError, match="validation failed after epoch 1: a state is not finite"):
        train(tmp_path, Failing())


def test_an_error_of_the_model_says_when(tmp_path):
    class Failing(Standin):
        def predict(self, x):
            raise ArithmeticError("no luck")

    with pytest.raises(ArithmeticError, match="no luck") as caught:
        train(tmp_path, Failing())
    assert "epoch 1, step 1" in caught.value.__notes__[0]


# --- what a user sees ------------------------------------------------------------------------------------------------


def test_training_is_silent_and_leaves_only_its_files(tmp_path, capfd, recwarn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "run", progress=True)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"run/.lock", "run/log.csv", "run/checkpoints/last.ckpt", "run/checkpoints/best.ckpt"}


def test_progress_says_what_is_going_on(tmp_path):
    news = []
    train(tmp_path, epochs=2, progress=lambda *new: news.append(new), error_unit=("cm", 100.0))
    assert [done for done, _, _ in news] == list(range(1, 11)) and {total for _, total, _ in news} == {10}
    assert "epoch 1/2, loss " in news[0][2] and "validation" not in news[0][2]
    assert "epoch 2/2" in news[-1][2] and " cm (best " in news[-1][2]


def test_log_has_the_columns_and_the_unit(tmp_path):
    result = train(tmp_path, error_unit=("cm", 100.0))
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert list(rows[0]) == [
        "epoch", "train_loss", "train_mae_cm", "train_violation_mean", "train_violation_max", "train_unconverged",
        "val_mae_cm", "val_violation_mean", "val_violation_max", "val_unconverged", "seconds",
    ]  # fmt: skip
    assert [float(row["val_mae_cm"]) for row in rows] == [100 * row.val_mae for row in result.rows]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert result.seconds == sum(float(row["seconds"]) for row in rows)


def test_interrupt_reaches_the_caller(tmp_path):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(done, total, what):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    train(tmp_path)
    train(tmp_path.with_name("whole"))
    assert_same_training(tmp_path, tmp_path.with_name("whole"))


def test_sigterm_ends_training_at_once(tmp_path):
    process = process_in(tmp_path, epochs=10**6)
    while not (tmp_path / "checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is a whole number of at least 1, not 0"),
        ({"seed": -1}, "seed is a whole number"),
        ({"learning_rate": 0.0}, "learning_rate is positive"),
        ({"schedule": "linear"}, "schedule 'linear' is unknown: give one of constant, cosine"),
        ({"device": "cuda:99"}, "no device 'cuda:99' here, only cpu"),
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"precision": "8"}, "precision '8' is unknown"),
    ],
)
def test_arguments_are_checked(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_shapes_are_checked(tmp_path):
    inputs, targets = TRAIN
    with pytest.raises(ValueError, match=r"got \(23, 3, 4\) and \(22, 3, 2\)"):
        fit(standin(), (inputs, targets[:-1]), VALIDATION, out=tmp_path, epochs=1)
    with pytest.raises(ValueError, match=r"the model gives \(\d+, 3, 2\), the targets are \(\d+, 3, 1\)"):
        fit(standin(), (inputs, targets[..., :1]), VALIDATION, out=tmp_path, epochs=1)


def test_a_step_costs_little_more_than_a_plain_loop(tmp_path):
    """Lightning's part of a step, where the step itself is next to nothing; a training step takes 5 to 200 ms."""
    inputs, targets = data(2000, 0)
    result = fit(standin(), (inputs, targets), VALIDATION, out=tmp_path, epochs=2, device="cpu")
    model = standin()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    plain = []
    for x, target in zip(inputs.float().split(10), targets.float().split(10), strict=True):
        start = time.perf_counter()
        prediction = model.predict(x)
        loss = (prediction.y - target).square().flatten(1).sum(1).mean() / 2 + prediction.regularisation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plain.append(time.perf_counter() - start)
    assert result.step_ms - 1e3 * sorted(plain)[len(plain) // 2] < 3.0


def test_the_constraint_of_the_standin_is_the_circle():
    y = torch.tensor([[3.0, 4.0, 0.0, 1.0, 1.0, 0.0]])
    assert UnitCircle().residual(y).tolist() == [[4.0, 0.0, 0.0]]
