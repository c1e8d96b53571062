"""What training hands to Lightning: the module, the batches, safe checkpoint files, the log and the progress bar."""

import contextlib
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment  # pyright: ignore[reportPrivateImportUsage]
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn

from ndae.solvers import IntegrationError, ProjectionError
from ndae.solvers.progress import Progress
from ndae.training.checkpoints import load_checkpoint, save_checkpoint
from ndae.training.evaluation import Data, Tally, check_output, evaluate, predict
from ndae.training.history import Files, History, NonFiniteError, Row, epoch_seed
from ndae.training.interrupts import was_interrupted
from ndae.training.losses import Loss, half_squares, loss_of

REMEDY = "try a smaller learning_rate, gradient_clip, or weaker gamma and eta"
LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]
# What a forward pass raises where numbers have left the range in which it can be done.
NUMERICAL = (IntegrationError, ProjectionError, LinAlgError)


class SafeCheckpointIO(CheckpointIO):
    """Lightning's way to files, so that no road through it writes in place or unpickles."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write atomically."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # a ModelCheckpoint may name any folder
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values, whatever Lightning's default for `weights_only` is."""
        return load_checkpoint(Path(path), "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file."""
        Path(path).unlink(missing_ok=True)


class Regression(LightningModule):
    """`mean ½|y − target|² + regularisation` of a model (eq. 4, both means over the batch), or with a loss of the
    user's, and how it is descended."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Any], torch.optim.Optimizer],
        factor: Callable[[float], float],
        total_steps: int,
        seed: int,
        loss: Loss | None = None,
    ):
        super().__init__()
        self.model, self.seed = model, seed
        self._own_loss = loss
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
        loss = loss_of(self.model, self._own_loss, prediction, target)
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            cause = self._broken_weights()
            good = half_squares(prediction.y, target).isfinite().cpu()
            if cause is None and not good.all():
                cause = f"the prediction of training sample {_listing(chosen[~good])} is not finite"
            if cause is None and self._own_loss is not None and math.isfinite(float(prediction.regularisation)):
                cause = "loss(y, target) is not finite, of predictions that are"
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


class Measurer(Callback):
    """Validates after every epoch, and tells Lightning: `trainer.callback_metrics` and loggers have the columns of the
    log, but for seconds, by name."""

    def __init__(self, history: History, validation: Data):
        self.history, self.validation = history, validation
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
        """Validate; raises `NonFiniteError` before anything is written."""
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
        told = {name: float(value) for name, value in asdict(row).items() if name not in ("epoch", "seconds")}
        pl_module.log_dict(told, on_step=False, on_epoch=True)
        trainer.should_stop = trainer.should_stop or self.history.should_stop


class Recorder(Checkpoint):
    """Writes the log and checkpoints after every epoch, when all other callbacks had it (Lightning calls those of its
    kind last); what is known travels in the checkpoint."""

    def __init__(self, history: History, files: Files):
        self.history, self.files = history, files

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write."""
        self.history.stopped = trainer.should_stop and not self.history.should_stop
        self.files.keep_previous()
        trainer.save_checkpoint(self.files.last)
        row = self.history.rows[-1]
        if self.history.best is row:
            self.files.write_best(pl_module.state_dict(), row)
        self.files.write_log(self.history)

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
    batches: Any,
    callbacks: list[Callback],
    logger: Any = None,
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
            logger=logger or False,
            log_every_n_steps=1,
            enable_checkpointing=True,  # by the Recorder
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
