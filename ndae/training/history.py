"""The record of a training run: one row an epoch, and the files that a killed process can pick up."""

import csv
import io
import math
import os
import shutil
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndae.files import partial_name, remove_partial, write_atomically
from ndae.training.checkpoints import (
    BEST,
    LAST,
    PREVIOUS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    without_prefix,
    writing,
)
from ndae.training.evaluation import Evaluation
from ndae.training.identity import Identity, describe_weights, differences

# A first step compiles, allocates and fills caches; it says nothing about the others.
WARM_UP_STEPS = 3
# By how much of its loss training has to go on after the best epoch for the choice of that epoch to matter: losses of
# neighbouring epochs, over other batches, differ by some tenths.
LATER_GAIN = 0.3
_ANOTHER = "give another folder, or resume=False to start over in this one"


class NonFiniteError(RuntimeError):
    """A loss, prediction or weight became infinite or not a number; the text says where."""


@dataclass(frozen=True)
class Row:
    """One epoch, counted from 1: the training samples as they were met, the validation samples after it.

    Errors and violations are in the data's unit; `*_unconverged` counts projections that missed their tolerance;
    `seconds` is the wall time since the row before, so that the rows add up to the time that training took.
    """

    epoch: int
    train_loss: float
    train_mae: float
    train_violation_mean: float
    train_violation_max: float
    train_unconverged: int
    val_mae: float
    val_violation_mean: float
    val_violation_max: float
    val_unconverged: int
    seconds: float

    @classmethod
    def of(cls, epoch: int, train_loss: float, train: Evaluation, validation: Evaluation, seconds: float) -> "Row":
        """A row from the two evaluations of an epoch."""
        values = _values("train", train) | _values("val", validation)
        return cls(epoch=epoch, train_loss=train_loss, seconds=seconds, **values)

    def measured(self, validation: Evaluation) -> "Row":
        """This row with another evaluation of the validation samples."""
        return replace(self, **_values("val", validation))


def _values(name: str, evaluation: Evaluation) -> dict[str, Any]:
    return {
        f"{name}_mae": evaluation.mae,
        f"{name}_violation_mean": evaluation.violation_mean,
        f"{name}_violation_max": evaluation.violation_max,
        f"{name}_unconverged": evaluation.projections.unconverged if evaluation.projections else 0,
    }


@dataclass
class History:
    """Rows of the epochs done, the wall time of every step, and what follows from them alone.

    `patience`: training stops once that many epochs in a row brought no smaller validation error. `data`: how far the
    data was from the constraint when training began, as plain values. `best_errors`, `last_errors` (samples,): the
    errors of validation samples after those epochs. `stopped`: whether a callback ended training after the last one.
    """

    rows: list[Row] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    patience: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    best_errors: torch.Tensor | None = None
    last_errors: torch.Tensor | None = None
    stopped: bool = False

    def add(self, row: Row, errors: torch.Tensor | None) -> None:
        """Add an epoch, with the errors of its validation samples."""
        self.rows.append(row)
        self.last_errors = errors
        if self.best is row:
            self.best_errors = errors

    @property
    def doubt(self) -> str | None:
        """Why the best epoch may be one by chance, or None.

        It may where training went on getting better after it, by more than LATER_GAIN of its loss, and the validation
        error of the last epoch is larger by less than two standard errors of the mean of paired differences over the
        samples: then these cannot tell the epochs apart.
        """
        best, last = self.best, self.rows[-1]
        if best is last or self.best_errors is None or self.last_errors is None or len(self.best_errors) < 2:
            return None
        difference = self.last_errors - self.best_errors
        mean, error = float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))
        if not difference.any() or mean > 2 * error or last.train_loss > (1 - LATER_GAIN) * best.train_loss:
            return None
        return (
            f"epoch {best.epoch} of {last.epoch} has the smallest validation error, by chance as far as can be told: "
            f"the last one's is larger by {mean:.2g} ± {error:.2g} of {best.val_mae:.3g}, while the training loss went "
            f"on from {best.train_loss:.3g} to {last.train_loss:.3g}. Where starts are noisy, validate from those "
            "fitted to the data (Shooting.windows), over longer times or on more samples; or take the last epoch, "
            'fit(..., keep="last")'
        )

    @property
    def best(self) -> Row:
        """The row of the smallest validation error, the earliest of equals."""
        return min(self.rows, key=lambda row: row.val_mae)

    @property
    def should_stop(self) -> bool:
        """Whether early stopping or a callback ends training here."""
        return self.stopped or (
            self.patience is not None and bool(self.rows) and self.rows[-1].epoch - self.best.epoch >= self.patience
        )

    @property
    def stopped_at(self) -> int | None:
        """The first epoch at which early stopping ends training, None if it does not."""
        best = None
        for row in self.rows:
            best = row if best is None or row.val_mae < best.val_mae else best
            if self.patience is not None and row.epoch - best.epoch >= self.patience:
                return row.epoch
        return None

    @property
    def seconds(self) -> float:
        """Wall time of the epochs done, validation and checkpoints included, over all processes that took part."""
        return sum(row.seconds for row in self.rows)

    @property
    def step_ms(self) -> float:
        """Median wall time of a training step in milliseconds, without the first few."""
        steps = self.step_seconds[WARM_UP_STEPS:] or self.step_seconds
        return 1e3 * statistics.median(steps) if steps else float("nan")

    def to_plain(self) -> dict[str, Any]:
        """The history as tensors and plain values, for a checkpoint."""
        seconds = torch.tensor(self.step_seconds, dtype=torch.float64)
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "step_seconds": seconds, "data": self.data, "stopped": self.stopped} | self._errors()

    def _errors(self) -> dict[str, torch.Tensor]:
        known = {"best_errors": self.best_errors, "last_errors": self.last_errors}
        return {name: errors for name, errors in known.items() if errors is not None}

    @classmethod
    def from_plain(cls, plain: dict[str, Any], patience: int | None) -> "History":
        """Read what `to_plain` made."""
        history = cls([Row(**row) for row in plain["rows"]], plain["step_seconds"].tolist(), patience)
        history.stopped = plain["stopped"]
        history.best_errors, history.last_errors = plain.get("best_errors"), plain.get("last_errors")
        return history


def log_text(rows: Sequence[Row], error_unit: tuple[str, float]) -> str:
    """The rows as CSV; mean errors in `error_unit = (name, how many of them a unit of the data is)`."""
    name, scale = error_unit
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = list(Row.__dataclass_fields__)
    writer.writerow([f"{column}_{name}" if name and column.endswith("_mae") else column for column in columns])
    for row in rows:
        values = asdict(row)
        writer.writerow([values[column] * scale if column.endswith("_mae") else values[column] for column in columns])
    return text.getvalue()


class Files:
    """The files of a run: `checkpoints/last.ckpt`, `checkpoints/best.ckpt` and `log.csv`.

    `last.ckpt` carries the settings and the history, so it is the truth. It is written first; `best.ckpt` and the log
    are made again from it whenever they turn out to be older, and so a kill between two writes changes nothing.
    `previous.ckpt` is the `last.ckpt` of the epoch before, to put in its place should that one be damaged.
    """

    def __init__(self, folder: Path, identity: Identity, error_unit: tuple[str, float] = ("", 1.0)):
        self.folder, self.identity, self.error_unit = folder, identity, error_unit
        self.checkpoints = folder / "checkpoints"
        self.last, self.previous, self.best = (self.checkpoints / name for name in (LAST, PREVIOUS, BEST))
        self.log = folder / "log.csv"
        with writing(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what an earlier training left: the file that training would go on from first."""
        for path in (self.last, self.previous, self.best, self.log):
            with writing(path):
                path.unlink(missing_ok=True)

    def resume(self, patience: int | None) -> History:
        """The history to go on from, empty if there is none, with the other files brought in step with it.

        Raises `CheckpointError` if the files are damaged or belong to a training with other settings.
        """
        for folder in (self.folder, self.checkpoints):
            remove_partial(folder)
        if not self.last.exists():
            self.clear()
            return History(patience=patience)
        checkpoint = load_checkpoint(self.last)
        try:
            theirs = Identity(*(checkpoint["ndae"][part] for part in ("settings", "start", "versions")))
            history = History.from_plain(checkpoint["ndae"]["history"], patience)
            best, last = history.best, history.rows[-1]
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise CheckpointError(f"{self.last} is no checkpoint of a training run; remove it to start over") from error
        self._check_identity(theirs, checkpoint["state_dict"])
        if (end := history.stopped_at) is not None and end < last.epoch:
            raise CheckpointError(
                f"early_stopping={patience} would have ended training after epoch {end}, and "
                f"{self.folder} holds {last.epoch} epochs: {_ANOTHER}"
            )
        if best == last and not self._has_best(best):
            self.write_best(checkpoint["state_dict"], best)
        # After `previous.ckpt` was put in the place of the last one, the best may be of an epoch that is made again.
        if not self._has_best(best) and not self._best_row().get("epoch", 0) > last.epoch:
            self.check_best(history)
        self.write_log(history)
        return history

    def _check_identity(self, theirs: Identity, weights: dict[str, torch.Tensor]) -> None:
        """Raise `CheckpointError`, naming what differs, for another training than the one whose checkpoint is there."""
        if differing := differences(theirs.settings, self.identity.settings):
            raise CheckpointError(f"{self.folder} holds a training with another {', '.join(differing)}: {_ANOTHER}")
        # Weights that this very training has come to are its own as well as those that it began with.
        ours, known = self.identity.start, [theirs.start, describe_weights(without_prefix(weights))]
        if ours not in known and self.best.exists():
            known.append(describe_weights(without_prefix(load_checkpoint(self.best)["state_dict"])))
        if ours not in known:
            names = [name for name in ours if ours[name] != theirs.start.get(name)]
            raise CheckpointError(
                f"{self.folder} holds a training that began with other weights: {len(names)} of {len(ours)} differ, "
                f"first {names[0]!r}. Seed torch before the model is built (torch.manual_seed), or put the training's "
                f"own weights into the model to go on from them "
                f"(ndae.training.load_weights(model, {str(self.last)!r})), or "
                f"else {_ANOTHER}"
            )
        if changed := differences(theirs.versions, self.identity.versions):
            warnings.warn(
                f"{self.folder}: the training there was made with another {', '.join(changed)}, so that what it goes "
                "on to is not the same to the last bit",
                stacklevel=3,
            )

    def keep_previous(self) -> None:
        """Keep the last checkpoint under its second name, before there is a newer one; costs no copy where the file
        system has links."""
        if not self.last.exists():
            return
        partial = partial_name(self.previous)
        with writing(self.previous):
            try:
                try:
                    os.link(self.last, partial)
                except OSError:
                    shutil.copyfile(self.last, partial)
                os.replace(partial, self.previous)
            finally:
                partial.unlink(missing_ok=True)

    def check_best(self, history: History) -> None:
        """Raise `CheckpointError` unless `best.ckpt` is of the best epoch of this very run."""
        if not self._has_best(history.best):
            raise CheckpointError(
                f"{self.best} is not the best checkpoint of this run, which is of epoch {history.best.epoch}: restore "
                f"it from a copy, or pass resume=False to start over; {self.last} has the weights of epoch "
                f"{history.rows[-1].epoch}"
            )

    def write_best(self, weights: dict[str, torch.Tensor], row: Row) -> None:
        """Write the weights of the best epoch."""
        origin = self.identity.to_plain() | {"row": asdict(row)}
        save_checkpoint({"state_dict": dict(weights), "ndae": origin}, self.best)

    def write_log(self, history: History) -> None:
        """Write the whole log; it is small, and so it never holds half a row."""
        text = log_text(history.rows, self.error_unit).encode()
        with writing(self.log):
            write_atomically(self.log, lambda file: file.write(text))

    def _has_best(self, row: Row) -> bool:
        # By its text, in which a violation that is not a number equals itself.
        return repr(self._best_row()) == repr(asdict(row))

    def _best_row(self) -> dict[str, Any]:
        if not self.best.exists():
            return {}
        row = load_checkpoint(self.best).get("ndae", {}).get("row")
        return row if isinstance(row, dict) else {}


def epoch_seed(seed: int, epoch: int, purpose: int) -> int:
    """A seed for one epoch and one purpose: nothing that happened before has a part in it."""
    return int(np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0] >> 1)
