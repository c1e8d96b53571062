"""Training: the loss by hand, the choice of the best epoch, numbers that are not finite, what a user sees."""

import csv
import math
import signal
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from ndae.solvers import IntegrationError
from ndae.training.checkpoints import load_checkpoint
from ndae.training.evaluation import evaluate
from ndae.training.fit import fit
from ndae.training.history import NonFiniteError
from tests.counting import n_calls
from tests.ndae.standin import NODES, Prediction, Standin, UnitCircle, data, standin
from tests.ndae.trainings import (
    TRAIN,
    VALIDATION,
    assert_same_training,
    process_in,
    train,
    train_drifting,
)

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


# --- numbers that are not finite -------------------------------------------------------------------------------------


def poisoned(sample: int, step: int):
    """Predictions, of the training's own model, that are NaN for one sample from the n-th step on."""
    mark, steps = TRAIN[0][sample, 0, 0].float(), iter(range(10**6))

    def predict(model, x, conditions=None):
        prediction = model.predict(x)
        hit = (x[:, 0, 0] == mark)[:, None, None]
        return replace(prediction, y=torch.where(hit & (next(steps) >= step), math.nan, prediction.y))

    return predict


def test_a_nan_names_epoch_step_and_sample_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    from ndae.training import _lightning

    monkeypatch.setattr(_lightning, "predict", poisoned(sample=17, step=10))
    with pytest.raises(NonFiniteError, match=r"epoch 3, step \d: the prediction of training sample 17 is not finite"):
        train(tmp_path)
    monkeypatch.undo()
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
    names = ("last", "previous", "best")
    assert files == {"run/.lock", "run/log.csv", *(f"run/checkpoints/{name}.ckpt" for name in names)}


def test_progress_says_what_is_going_on(tmp_path):
    news = []
    train(tmp_path, epochs=2, progress=lambda *new: news.append(new), error_unit=("cm", 100.0))
    assert [fraction for fraction, _ in news] == [step / 10 for step in range(1, 11)]
    assert "epoch 1/2, loss " in news[0][1] and "validation" not in news[0][1]
    assert "epoch 2/2" in news[-1][1] and " cm (best " in news[-1][1]


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

    def interrupt(fraction, text):
        if fraction == 7 / 15:
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
    """Lightning's part of a step: 1,800 calls, about a millisecond, where a training step takes 5 to 200 ms."""

    def fitted(n: int) -> int:
        options = {"out": tmp_path / str(n), "epochs": 1, "device": "cpu"}
        return n_calls(lambda: fit(standin(), data(n, 0), VALIDATION, **options))

    def plain() -> None:
        for x, target in zip(inputs.float().split(10), targets.float().split(10), strict=True):
            prediction = model.predict(x)
            loss = (prediction.y - target).square().flatten(1).sum(1).mean() / 2 + prediction.regularisation
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    model, (inputs, targets) = standin(), data(1000, 0)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    fitted(100)  # imports, and what is made once
    assert (fitted(2000) - fitted(1000) - n_calls(plain)) / 100 < 3000


def test_the_constraint_of_the_standin_is_the_circle():
    y = torch.tensor([[3.0, 4.0, 0.0, 1.0, 1.0, 0.0]])
    assert UnitCircle().residual(y).tolist() == [[4.0, 0.0, 0.0]]
