"""A loss, schedules, callbacks, loggers and DataLoaders of the user's own."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ndae import progress
from ndae.training import Plateau
from ndae.training.checkpoints import CheckpointError
from tests.ndae.standin import standin
from tests.ndae.trainings import TRAIN, VALIDATION, assert_same_training, train


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(tmp_path, name, data=None, **options):
    from ndae import fit

    model = standin()
    settings = {"epochs": 3, "seed": 1, "learning_rate": 1e-2, "device": "cpu"} | options
    if not isinstance(data, DataLoader):
        settings.setdefault("batch_size", 5)
    result = fit(model, TRAIN if data is None else data, VALIDATION, out=tmp_path / name, **settings)
    return model, result


def test_own_loss_of_half_squares_is_the_default_one(tmp_path):
    default, _ = trained(tmp_path, "default")
    own, _ = trained(tmp_path, "own", loss=lambda y, target: (y - target).square().flatten(1).sum(1) / 2)
    assert torch.equal(weights(default), weights(own))
    huber, _ = trained(tmp_path, "huber", loss=torch.nn.HuberLoss(delta=0.1))
    assert not torch.equal(weights(default), weights(huber))


def test_a_loss_is_part_of_what_a_training_is(tmp_path):
    trained(tmp_path, "run", loss=torch.nn.HuberLoss(delta=0.1), epochs=1)
    with pytest.raises(CheckpointError, match=r"another loss.delta 0.1 .now 0.2"):
        trained(tmp_path, "run", loss=torch.nn.HuberLoss(delta=0.2))


@pytest.mark.parametrize(
    "loss, match",
    [
        (lambda y, target: (y - target).abs(), "expected a tensor, the mean over the batch or one number a sample"),
        (lambda y, target: 0.0, "gave float"),
        (torch.nn.PReLU(), "parameters that want a gradient"),
    ],
)
def test_losses_that_are_none_are_refused(tmp_path, loss, match):
    with pytest.raises(ValueError, match=match):
        trained(tmp_path, "run", loss=loss)


def test_plateau_falls_where_errors_do_not():
    plateau = Plateau(factor=0.5, patience=2, gain=0.0, least=0.2)
    assert [plateau.share([3.0, 2.0, 2.5, 2.1, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0][:n]) for n in range(11)] == [
        1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="factor"):
        Plateau(factor=2.0)


class Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_end(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_plateau_and_own_schedules_set_the_learning_rate(tmp_path):
    watching = Rates()
    # No error is below a thousandth of the one before: each epoch but the first is without gain.
    _, result = trained(
        tmp_path, "plateau", epochs=4, callbacks=[watching], schedule=Plateau(0.5, patience=1, gain=0.999)
    )
    steps = len(watching.rates) // 4
    assert watching.rates[::steps] == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])
    assert len(result.rows) == 4
    own, cosine = Rates(), Rates()
    trained(tmp_path, "own", callbacks=[own], schedule=lambda done: 1 - done)
    trained(tmp_path, "cosine", callbacks=[cosine], schedule="cosine")
    assert own.rates == pytest.approx([1e-2 * (1 - i / len(own.rates)) for i in range(len(own.rates))])
    assert cosine.rates != own.rates
    with pytest.raises(ValueError, match="schedule 'linear' is unknown"):
        trained(tmp_path, "unknown", schedule="linear")


def test_plateau_goes_on_where_a_killed_training_was(tmp_path):
    schedule = Plateau(0.5, patience=1, gain=0.9)
    train(tmp_path / "whole", epochs=4, schedule=schedule)
    train(tmp_path / "cut", epochs=2, schedule=schedule)
    train(tmp_path / "cut", epochs=4, schedule=schedule)
    assert_same_training(tmp_path / "whole", tmp_path / "cut")


def test_callbacks_and_loggers_of_lightning_have_the_columns_of_the_log(tmp_path):
    stops = EarlyStopping("val_mae", patience=1, min_delta=1e9)  # nothing is so much better
    keeps = ModelCheckpoint(dirpath=tmp_path / "kept", monitor="val_mae")
    logger = CSVLogger(tmp_path, name="logged", version=0)
    _, result = trained(tmp_path, "run", epochs=9, callbacks=[stops, keeps], logger=logger)
    assert len(result.rows) == 2 and result.stopped_early
    assert len(list((tmp_path / "kept").glob("*.ckpt"))) == 1
    logged = list(csv.DictReader((tmp_path / "logged/version_0/metrics.csv").open()))
    assert [float(row["val_mae"]) for row in logged] == pytest.approx([row.val_mae for row in result.rows])
    # That it was stopped is known to the next process: nothing is trained again.
    _, again = trained(tmp_path, "run", epochs=9, callbacks=[EarlyStopping("val_mae", patience=1, min_delta=1e9)])
    assert len(again.rows) == 2 and again.resumed_from == 2


def loader(**options):
    dataset = TensorDataset(*(torch.as_tensor(part) for part in TRAIN))
    return DataLoader(dataset, **({"batch_size": 5, "shuffle": True} | options))


def test_a_loader_trains_and_goes_on_bit_for_bit(tmp_path):
    train(tmp_path / "tensors")
    model, result = trained(tmp_path, "whole", loader())
    assert result.rows[0].train_loss > 0
    trained(tmp_path, "cut", loader(), epochs=2)
    again, _ = trained(tmp_path, "cut", loader())
    assert torch.equal(weights(model), weights(again))
    # A generator of its own takes part in it no less, wherever its numbers have come to.
    own = loader(generator=torch.Generator().manual_seed(5))
    first, _ = trained(tmp_path, "own", own)
    second, _ = trained(tmp_path, "own again", own)
    assert torch.equal(weights(first), weights(second))


def test_batches_of_a_loader_are_part_of_what_a_training_is(tmp_path):
    trained(tmp_path, "run", loader(shuffle=False), epochs=1)
    with pytest.raises(CheckpointError, match="another batch_size"):
        trained(tmp_path, "run", loader(shuffle=False, batch_size=4))


class Noisy(Dataset):
    """Adds noise to what is drawn, anew each time."""

    def __len__(self):
        return len(TRAIN[0])

    def __getitem__(self, i):
        x, y = (torch.as_tensor(part[i]) for part in TRAIN)
        return x + 0.01 * torch.randn_like(x), y


def test_what_a_dataset_draws_is_followed_and_drawn_by_the_seed(tmp_path):
    model, _ = trained(tmp_path, "noisy", DataLoader(Noisy(), batch_size=5))
    other, _ = trained(tmp_path, "again", DataLoader(Noisy(), batch_size=5))
    plain, _ = trained(tmp_path, "plain", loader(shuffle=False))
    assert torch.equal(weights(model), weights(other))
    assert not torch.equal(weights(model), weights(plain))


def test_loaders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size is the DataLoader's own"):
        trained(tmp_path, "run", loader(), batch_size=3)
    with pytest.raises(ValueError, match="training data: give a pair"):
        trained(tmp_path, "run", DataLoader(torch.zeros(4, 3, 2)))


def test_progress_in_a_pipe_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress.reporting(True, "training") as report:
        for k in range(101):
            report(k / 100, f"epoch {k}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0].startswith("ndae: training: epoch 10 (10%")
