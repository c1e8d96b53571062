"""What training hands to Lightning: the module, the batches, safe checkpoint files, the log and the progress bar."""

import contextlib
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn

from ndae.solvers import IntegrationError, ProjectionError
from ndae.solvers.progress import Progress
from ndae.training.checkpoints import load_checkpoint, save_checkpoint
from ndae.training.evaluation import Data, Tally, check_output, evaluate, predict
from ndae.training.history import Files, History, NonFiniteError, Row, epoch_seed
from ndae.training.interrupts import was_interrupted

REMEDY = "try a smaller learning_rate, gradient_clip, or weaker gamma and eta"
LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]
# What a forward pass raises where numbers have left the range in which it can be done.
NUMERICAL = (IntegrationError, ProjectionError, LinAlgError)


class SafeCheckpointIO(CheckpointIO):
    """Lightning's way to files, so that no road through it writes in place or unpickles."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write atomically."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values, whatever Lightning's default for `weights_only` is."""
        return load_checkpoint(Path(path), "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file."""
        Path(path).unlink(missing_ok=True)


class Batches:
    """Batches of tensors that stay on the device, in an order that depends on the seed and the epoch alone."""

    def __init__(self, data: Data, batch_size: int, seed: int):
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.epoch = 0
        self.sampler = self  # Lightning tells the sampler of its loader which epoch begins

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch (counted from 0)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.data.inputs) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Data]]:
        # A generator: the order is drawn when the first batch is asked for, after the epoch is known.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch, 0))
        order = torch.randperm(len(self.data.inputs), generator=generator)
        for chosen in order.split(self.batch_size):
            yield chosen, self.data.take(chosen.to(self.data.inputs.device))


class Regression(LightningModule):
    """`mean ½|y − target|² + regularisation` of a model (eq. 4, both means over the batch), and how it is descended."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        factor: Callable[[float], float],
        total_steps: int,
        seed: int,
    ):
        super().__init__()
        self.model, self.seed = model, seed
        self._optimizer, self._factor, self._total_steps = optimizer, factor, total_steps
        self._rates: list[float] = []
        self.tally = Tally(model)
        self.loss, self.loss_sum = math.nan, 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser; its learning rates are remembered as the ones that the schedule multiplies."""
        optimizer = self._optimizer([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        self._rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Start the sums and the random numbers of an epoch; both depend on nothing that happened before."""
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch, 1))
        self.tally, self.loss_sum = Tally(self.model), 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate: a function of the step's number, so that there is no scheduler's state to lose."""
        factor = self._factor(self.global_step / self._total_steps)
        optimizer: Any = self.optimizers(use_pl_optimizer=False)  # the one, no list
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def training_step(self, batch: tuple[Tensor, Data], batch_idx: int) -> Tensor:
        """The loss of a batch; raises `NonFiniteError`, with what is known of the cause, before weights are touched."""
        chosen, (x, target, conditions) = batch
        when = f"at epoch {self.current_epoch + 1}, step {batch_idx + 1}"
        try:
            prediction = predict(self.model, x, conditions)
        except NUMERICAL as error:
            cause = self._broken_weights() or f"{error} (training samples {_listing(chosen)})"
            raise NonFiniteError(f"the forward pass failed {when}: {cause}; {REMEDY}") from error
        except Exception as error:
            if cause := self._broken_weights():
                raise NonFiniteError(f"the forward pass failed {when}: {cause}; {REMEDY}") from error
            error.add_note(f"in training, {when}")
            raise
        check_output(prediction.y, target)
        squares = (prediction.y - target).square().flatten(1).sum(1)
        loss = squares.mean() / 2 + prediction.regularisation
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            cause = self._broken_weights()
            if cause is None and not squares.isfinite().all():
                cause = f"the prediction of training sample {_listing(chosen[~squares.isfinite().cpu()])} is not finite"
            cause = cause or f"the regularisation is {float(prediction.regularisation)}"
            raise NonFiniteError(f"the loss is {self.loss} {when}: {cause}; {REMEDY}")
        self.loss_sum += self.loss * len(x)
        self.tally.add(prediction, target)
        return loss

    def _broken_weights(self) -> str | None:
        broken = [name for name, weight in self.model.named_parameters() if not weight.isfinite().all()]
        if broken:
            return f"the step before left {len(broken)} weights not finite, first {broken[0]!r}: it overflowed"
        return None


def _listing(samples: Tensor) -> str:
    return ", ".join(map(str, samples.tolist()))


class Recorder(Callback):
    """Validates, logs and checkpoints after every epoch; what it knows travels in the checkpoint."""

    def __init__(self, history: History, files: Files, validation: Data):
        self.history, self.files, self.validation = history, files, validation
        self._epoch_began = self._step_began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._epoch_began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the first step; the others begin where the one before ends, fetching included."""
        self._step_began = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Record a step's time."""
        now = time.perf_counter()
        self.history.step_seconds.append(now - self._step_began)
        self._step_began = now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Validate, then write; raises `NonFiniteError` before anything is written."""
        epoch = trainer.current_epoch + 1
        train = pl_module.tally.result()
        try:
            with trainer.precision_plugin.forward_context():
                validation = evaluate(pl_module.model, *self.validation)
        except NUMERICAL as error:
            raise NonFiniteError(f"validation failed after epoch {epoch}: {error}; {REMEDY}") from error
        if not math.isfinite(validation.mae):
            raise NonFiniteError(f"the validation error is {validation.mae} after epoch {epoch}; {REMEDY}")
        now = time.perf_counter()
        row = Row.of(epoch, pl_module.loss_sum / train.samples, train, validation, now - self._epoch_began)
        self._epoch_began = now
        self.history.add(row, validation.errors)
        self.files.keep_previous()
        trainer.save_checkpoint(self.files.last)
        if self.history.best is row:
            self.files.write_best(pl_module.state_dict(), row)
        self.files.write_log(self.history)
        trainer.should_stop = self.history.should_stop

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what training this is and the history to Lightning's own content."""
        checkpoint["ndae"] = self.files.identity.to_plain() | {"history": self.history.to_plain()}


class DiesAtOnce(Callback):
    """Takes SIGTERM back from Lightning, which sits on it until the epoch ends and then leaves with status 0."""

    def __init__(self):
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has put its handler in place by now; at the end it puts the old one back itself."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)


class Reporter(Callback):
    """Tells whoever watches how far training is."""

    def __init__(self, report: Progress, history: History, epochs: int, error_unit: tuple[str, float]):
        self.report, self.history, self.epochs, self.error_unit = report, history, epochs, error_unit

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Report a step."""
        n_steps = self.epochs * trainer.num_training_batches
        self.report(trainer.global_step / n_steps, self._what(trainer, pl_module))

    def _what(self, trainer: Trainer, pl_module: LightningModule) -> str:
        what = f"epoch {trainer.current_epoch + 1}/{self.epochs}, loss {pl_module.loss:.3g}"
        if self.history.rows:
            unit, scale = self.error_unit
            last, best = self.history.rows[-1], self.history.best
            what += f", validation {last.val_mae * scale:.3g} {unit}".rstrip()
            what += f" (best {best.val_mae * scale:.3g}, epoch {best.epoch})"
        return what


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's advice, tips and hardware listing from the user while the block runs."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def train(
    module: Regression,
    batches: Batches,
    callbacks: list[Callback],
    *,
    epochs: int,
    device: torch.device,
    precision: Any,
    gradient_clip: float | None,
    folder: Path,
    checkpoint: Path | None,
) -> None:
    """Run Lightning's loop over the epochs left; go on from `checkpoint` where one is given."""
    with quiet(), _interruptible():
        trainer = Trainer(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=1 if device.index is None else [device.index],
            precision=precision,
            max_epochs=epochs,
            gradient_clip_val=gradient_clip,
            callbacks=[*callbacks, DiesAtOnce()],
            plugins=[SafeCheckpointIO(), LightningEnvironment()],
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, batches, ckpt_path=checkpoint, weights_only=True)
        except LinAlgError as error:  # of a forward pass is reported there
            raise NonFiniteError(
                f"the backward pass failed at epoch {trainer.current_epoch + 1}: {error}; {REMEDY}"
            ) from error


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    # Lightning answers Ctrl-C by ignoring that signal for good and leaving with status 1; callers expect the exception.
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as leaving:
        if not was_interrupted(leaving):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
