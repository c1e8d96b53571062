"""Training on Lightning: a log, checkpoints by validation error, and the same end however often it is killed."""

import functools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ndae.models.neural_system import NeuralSystem
from ndae.models.pieces import regress_on_constraints
from ndae.progress import reporting, say
from ndae.solvers.progress import Progress
from ndae.symbolic.ground.extras import needing
from ndae.training.checkpoints import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    only_writer,
    without_prefix,
    writing,
)
from ndae.training.data_violation import DataViolation, as_plain, data_violations, holds_predictions, warn_of_violations
from ndae.training.evaluation import Data, as_data, evaluate, reference_tensor
from ndae.training.history import Files, History, Row
from ndae.training.identity import Identity, unknown_parts
from ndae.training.levenberg import MOST_WEIGHTS, Levenberg, is_sum_of_squares
from ndae.training.loaders import Batches, LoadedBatches, recordings_of
from ndae.training.losses import Loss, checked_loss
from ndae.training.optimizers import lbfgs
from ndae.training.recordings import RecordingFit, Windows
from ndae.training.scaling import scale_by_data
from ndae.training.schedules import Plateau, checked_schedule, factor
from ndae.training.taking_part import check_taking_part

PRECISIONS = (None, "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class TrainingResult:
    """What a training run left: its rows, the best epoch, its cost and its files.

    `rows`: one `Row` an epoch, errors in the data's unit. `best`: the row of the smallest validation error; `kept`:
    that of the epoch whose weights are returned; if these are an earlier process's, its errors are measured anew.
    `resumed_from`: epochs that were there before; 0 for a training made in one go. `seconds`: wall time of the epochs
    done, validation and checkpoints included, summed over every process that took part; what a killed process had done
    of an epoch that was trained again is not in it. `step_ms`: median wall milliseconds of a training step without the
    first three.
    `data_violations`: how far the "training" and "validation" data are from the constraint, their "inputs" and
    "targets"; at the weights that are kept, where numbers of the constraint are learned.
    """

    rows: tuple[Row, ...]
    best: Row
    kept: Row
    stopped_early: bool
    resumed_from: int = field(compare=False)  # how a result came to be is no part of it
    seconds: float
    step_ms: float
    best_checkpoint: Path
    last_checkpoint: Path
    log: Path
    data_violations: dict[str, dict[str, DataViolation]]


def fit(
    model: nn.Module,
    train: Any,
    validation: Any = None,
    *,
    out: Path | str,
    epochs: int | None = None,
    batch_size: int | None = None,
    windows: Windows | None = None,
    learning_rate: float = 1e-3,
    schedule: str | Plateau | Callable[[float], float] = "constant",
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
    loss: Loss | None = None,
    gradient_clip: float | None = None,
    early_stopping: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    precision: str | None = None,
    keep: str = "best",
    resume: bool = True,
    progress: bool | Progress = False,
    callbacks: Sequence[Any] = (),
    logger: Any = None,
    error_unit: tuple[str, float] = ("", 1.0),
) -> TrainingResult:
    """Train `model`, and leave the weights of the epoch with the smallest validation error in it, or of the last one.

    Minimises `L = mean over samples of ½|y − target|² + regularisation` (eq. 4) with `model.predict(x)` giving an
    object with `y` `(batch, nodes, dim)` and `regularisation` (a scalar, already a mean over the batch); a module
    without `predict` is trained on `model(x)` alone. `model.constraint.residual(y.flatten(-2))`, where there is one,
    gives the violations that are logged.

    `train`, `validation`: pairs of arrays, inputs `(n, nodes, features)` and targets `(n, nodes, dim)`, or
    `(n, n_times, nodes, dim)` of a model that predicts at several times; they are kept on the device, in the precision
    of the weights. A third part may tell the model more of each sample, `{name: (n, ...)}`, by keyword: such as
    `{"duration": (n,), "t0": (n,)}` of a NeuralMotion, so that one batch holds samples of several horizons. A model
    with a method `check(inputs, **conditions)` may refuse them. `schedule`: "constant" or "cosine" (to zero), times
    `learning_rate`. `optimizer`: makes one from the parameters, with learning rates of its own; Adam if left out.
    `gradient_clip`: largest norm of the gradient. `early_stopping`: epochs without a better validation error after
    which training ends. `keep`: "best" or "last", the epoch whose weights `model` ends with; it is warned of where the
    best is not to be told from the last, by the standard error of paired differences over the validation samples, while
    the training loss went on falling after it. `device`: "auto" (a CUDA device if there is one), "cpu", "cuda",
    "cuda:1". `precision`: the weights' own if left out; "16-mixed" or "bf16-mixed" for Lightning's mixed precision.
    `progress`: a function `progress(fraction, text)`, called after each step, or True for a bar on a terminal or in a
    notebook, and lines elsewhere. `callbacks`, `logger`: Lightning's, for its Trainer, which know the log's columns by
    name ("val_mae"); they are no part of what tells trainings apart, and their state travels in the checkpoints.
    `error_unit`: name of the unit of errors in the log and how many of it a unit of the data is, such as
    `("cm", 100.0)`.

    A `NeuralSystem` is trained on `Recording`s, one or a list, and validated on others (on the same, if left out).
    `windows` says how they are cut and whether starts are learned. Errors are in standard deviations of the noise, or,
    where `sigma` is not known, in sizes of the outputs; what was not seen does not count. Networks that are in
    constraints over observed states begin by regression on what was observed; then all windows are one batch for
    L-BFGS, ten iterations an epoch and 40 epochs, unless `batch_size`, `optimizer` or `epochs` say otherwise.

    `out` gets `log.csv`, `checkpoints/last.ckpt` (after every epoch), `checkpoints/previous.ckpt` (the one before) and
    `checkpoints/best.ckpt` (smallest mean Euclidean error per body on the validation samples), each with a digest: a
    file of which one bit has changed is refused by name, with those that are sound. A run that was killed, at any
    moment and by any means, goes on from `last.ckpt` and ends with the weights and the log (but for seconds) that it
    would have had, bit for bit on the CPU with the same number of threads: order, learning rate and random numbers of
    an epoch depend on `seed` and the epoch only. That it is the same training is told by everything that its result
    depends on (`ndae.training.identity`): the structure of the model with its constants, methods, generated and own
    code, the optimiser, the data, these arguments, and the weights at the start (those that the run has come to are its
    own as well). Code of installed packages counts by name; that their versions have changed is warned of. For another
    training in `out` the error names what differs. A line on stderr says from which epoch a training goes on; what is
    finished is evaluated again. With `resume=False` what `out` holds of an earlier training is removed first.

    A NeuralDAE whose quantities (the first `dim` features) are of unlike size, or far from zero beside their changes,
    by more than 30, gets sizes and centres of all features from the training inputs, says so in a line, and has its
    errors counted in these sizes.

    How far inputs and targets are from the constraint is measured first, is in the result and the checkpoints' history,
    and warned of where predictions are held on the constraint and could not follow the data.

    Raises `ValueError` for arguments that don't fit, and for a tensor that wants a gradient and takes part in the loss
    without being a parameter of the model, which would not be trained (parameters that take no part are warned of);
    `CheckpointError` if `out` holds a damaged checkpoint or one of another training, or can't be written (a full disk);
    `NonFiniteError` if a loss or an error stops being finite, with the checkpoints of the epochs before kept.
    """
    if isinstance(model, NeuralSystem):
        given = dict(out=out, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule)
        given |= dict(optimizer=optimizer, gradient_clip=gradient_clip, early_stopping=early_stopping, seed=seed)
        given |= dict(device=device, precision=precision, keep=keep, resume=resume, progress=progress, loss=loss)
        given |= dict(callbacks=callbacks, logger=logger)
        return _fit_recordings(model, train, validation, windows or Windows(), given)
    if windows is not None:
        raise ValueError("windows= is for recordings of a NeuralSystem; of a NeuralMotion, see ndae.models.Shooting")
    if validation is None or epochs is None:
        raise ValueError("give validation data, and epochs=, the number of times that training goes through the data")
    loaded = isinstance(train, DataLoader)
    if loaded and batch_size is not None:
        raise ValueError("batch_size is the DataLoader's own: leave it out")
    batch_size = 10 if batch_size is None else batch_size
    schedule, loss = checked_schedule(schedule), checked_loss(loss)
    _check(epochs, batch_size, learning_rate, gradient_clip, early_stopping, seed, precision)
    if keep not in ("best", "last"):
        raise ValueError(f'keep={keep!r} is unknown: give "best" or "last", the epoch whose weights are kept')
    place = find_device(device)
    plan = _Plan(
        epochs, batch_size, learning_rate, schedule, optimizer, loss, gradient_clip, seed, place, precision,
        early_stopping, keep, list(callbacks), logger,
    )  # fmt: skip
    samples, loader = _data(model, train, "training", plan)
    checks, _ = _data(model, validation, "validation", plan)
    scale_by_data(model, samples)
    numbers = plan.numbers(reference_tensor(model).dtype)
    if loader is not None:
        numbers["batch_size"] = loader.sizes
    identity = Identity.of(model, samples, checks, optimizer, numbers)
    folder = _folder(out)
    with only_writer(folder), torch.random.fork_rng(devices=_cuda_devices(place)):
        files = Files(folder, identity, error_unit)
        if not resume:
            files.clear()
        return _run(model, samples, loader, checks, files, plan, progress)


def _run(
    model: nn.Module,
    samples: Data,
    loader: LoadedBatches | None,
    checks: Data,
    files: Files,
    plan: "_Plan",
    progress: bool | Progress,
) -> TrainingResult:
    """The epochs that are missing, and what all of them came to."""
    folder, keep, history = files.folder, plan.keep, files.resume(plan.early_stopping)
    violations = {"training": data_violations(model, samples), "validation": data_violations(model, checks)}
    history.data = as_plain(violations)
    if holds_predictions(model):
        warn_of_violations(model, violations)
    done = len(history.rows)
    _check_done(done, files, plan.epochs)
    if done < plan.epochs and not history.should_stop:
        if done:  # Lightning will do so again; its own error for another network fills a page
            load_weights(model, files.last)
            say(f"going on with the training in {folder} from epoch {done + 1} of {plan.epochs}")
        _train(model, samples, loader, checks, files, history, plan, progress)
    files.check_best(history)
    load_weights(model, files.best if keep == "best" else files.last)
    kept = history.best if keep == "best" else history.rows[-1]
    if kept.epoch <= done:
        if done == len(history.rows):
            say(f"the training in {folder} is finished: its weights of epoch {kept.epoch} are evaluated again")
        kept = _evaluated_again(model, checks, kept, plan.place, plan.precision, folder)
    if keep == "best" and history.doubt:
        warnings.warn(history.doubt, stacklevel=3)
    if not holds_predictions(model) and holds_predictions(model, with_learned=True):
        violations = {"training": data_violations(model, samples), "validation": data_violations(model, checks)}
        warn_of_violations(model, violations, learned=True)
    return TrainingResult(
        rows=tuple(history.rows),
        best=kept if keep == "best" else history.best,
        kept=kept,
        stopped_early=len(history.rows) < plan.epochs,
        resumed_from=done,
        seconds=history.seconds,
        step_ms=history.step_ms,
        best_checkpoint=files.best,
        last_checkpoint=files.last,
        log=files.log,
        data_violations=violations,
    )


def _check_done(done: int, files: Files, epochs: int) -> None:
    """Warn of a training that can't be told from others; raise CheckpointError where more epochs are there than were
    asked for."""
    if not done and (unknown := unknown_parts(files.identity.settings)):
        warnings.warn(
            "this training can't be gone on with should it be killed, since nobody could tell that it is the same: "
            f"{'; '.join(unknown)}. Leave that out of the model, or give its class a __reduce__, as for pickle",
            stacklevel=4,
        )
    if done > epochs:
        raise CheckpointError(
            f"{files.folder} holds a training of {done} epochs, {epochs} were asked for: "
            f"ask for at least {done}, give another folder, or resume=False to start over in this one"
        )


def _fit_recordings(
    model: NeuralSystem, train: Any, validation: Any, windows: Windows, given: dict[str, Any]
) -> TrainingResult:
    """Training on recordings: all pieces in one batch, unless others are asked for."""
    given["device"] = "cpu" if given["device"] == "auto" else given["device"]
    if torch.device(given["device"]).type != "cpu" or given["precision"] is not None:
        raise ValueError("a NeuralSystem computes in float64 on the CPU: leave device and precision out")
    train, loaded = recordings_of(train, "training")
    validation, _ = recordings_of(validation, "validation")
    if loaded is not None:
        if given["batch_size"] is not None:
            raise ValueError("batch_size is the DataLoader's own: leave it out")
        given["batch_size"] = loaded
    whole = RecordingFit(model, train, validation, windows)
    samples, checks = whole.data
    if given["batch_size"] is None:
        given["batch_size"] = len(samples[0])
        if given["optimizer"] is None:
            few = sum(p.numel() for p in model.parameters() if p.requires_grad) <= MOST_WEIGHTS
            # Levenberg's steps are those of a sum of squares, and have no rate.
            plain = given["loss"] is None and given["schedule"] == "constant" and given["gradient_clip"] is None
            few = few and plain and is_sum_of_squares(model)
            given["optimizer"] = Levenberg() if few else lbfgs(scale=1.0, max_iter=10, history_size=50)
    if isinstance(given["optimizer"], Levenberg):
        if given["loss"] is not None:
            raise ValueError("Levenberg minimises a sum of squares: give lbfgs() where there is a loss= of your own")
        given["optimizer"] = given["optimizer"].of(whole)
    given["epochs"] = 40 if given["epochs"] is None else given["epochs"]
    if not (given["resume"] and _take_up_starts(whole, Path(given["out"]) / "checkpoints")):
        regress_on_constraints(model, whole.train_pieces)
    return fit(whole, samples, checks, error_unit=("sigma", 1.0), **given)


def _take_up_starts(whole: RecordingFit, folder: Path) -> bool:
    """Whether the model has the weights that a training there ended with; the starts of its windows are that one's
    then."""
    own = {f"model.{name}": weight for name, weight in whole.model.state_dict().items()}
    for file in (folder / "best.ckpt", folder / "last.ckpt"):
        try:
            weights = without_prefix(load_checkpoint(file)["state_dict"]) if file.exists() else {}
        except CheckpointError:
            continue  # `fit` says which one is damaged
        if weights and all(name in weights and torch.equal(weights[name], weight) for name, weight in own.items()):
            moved = weights.get("moved")
            if moved is not None and moved.shape == whole.moved.shape:
                with torch.no_grad():
                    whole.moved.copy_(moved)
                    whole.done.copy_(weights["done"])
                    if weights["checked"].shape == whole.checked.shape:
                        whole.checked.copy_(weights["checked"])
            return True
    return False


@dataclass(frozen=True)
class _Plan:
    """How to train, as `fit` is asked."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Any
    optimizer: Callable[[Any], torch.optim.Optimizer] | None
    loss: Loss | None
    gradient_clip: float | None
    seed: int
    place: torch.device
    precision: str | None
    early_stopping: int | None
    keep: str
    callbacks: list[Any]
    logger: Any

    def numbers(self, dtype: torch.dtype) -> dict[str, Any]:
        """What of it the result depends on, for weights of a precision."""
        numbers = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "learning_rate": float(self.learning_rate) if self.optimizer is None else "of its own optimizer",
            "schedule": self.schedule,
            "gradient_clip": None if self.gradient_clip is None else float(self.gradient_clip),
            "precision": self.precision or str(dtype).removeprefix("torch."),
        }
        if self.schedule != "constant" and not isinstance(self.schedule, Plateau):
            numbers["epochs"] = self.epochs  # only then does an epoch depend on how many there will be
        if self.loss is not None:
            numbers["loss"] = self.loss
        return numbers


def _data(model: nn.Module, given: Any, name: str, plan: _Plan) -> tuple[Data, LoadedBatches | None]:
    """The samples of that name on the device, as the model takes them, and the loader that they are of."""
    # Lightning moves the module there too; data and module meet in the precision of the weights.
    dtype, loader = reference_tensor(model).dtype, None
    if isinstance(given, DataLoader):
        loader = LoadedBatches(given, plan.seed, name, plan.place, dtype)
        data = loader.looked_at()
    else:
        data = as_data(given, name, plan.place, dtype)
    if hasattr(model, "check"):
        try:
            check: Any = model.to(plan.place).check
            check(data.inputs, **data.conditions)
        except ValueError as error:
            raise ValueError(f"{name} data: {error}") from error
    return data, loader


def _train(
    model: nn.Module,
    samples: Data,
    loader: LoadedBatches | None,
    checks: Data,
    files: Files,
    history: History,
    plan: _Plan,
    progress: bool | Progress,
) -> None:
    # Lightning takes seconds to import; everything above answers without it.
    with needing("ndae.fit"):
        from ndae.training import _lightning

    place, epochs = plan.place, plan.epochs
    batches = loader or Batches(samples, plan.batch_size, plan.seed)
    adam = functools.partial(torch.optim.Adam, lr=plan.learning_rate, fused=place.type in ("cpu", "cuda"))
    was = reference_tensor(model).device, model.training
    rate, n_steps = factor(plan.schedule, history), epochs * len(batches)
    module = _lightning.Regression(model, plan.optimizer or adam, rate, n_steps, plan.seed, plan.loss)
    model.to(place).train()
    try:
        check_taking_part(model, samples, plan.loss)
        with reporting(progress, "training") as report:
            callbacks: list[_lightning.Callback] = [_lightning.Measurer(history, checks), *plan.callbacks]
            callbacks.append(_lightning.Recorder(history, files))
            if report:
                callbacks.append(_lightning.Reporter(report, history, epochs, files.error_unit))
            _lightning.train(
                module, batches, callbacks, plan.logger, epochs=epochs, device=place, precision=plan.precision,
                gradient_clip=plan.gradient_clip, folder=files.folder, checkpoint=files.last if history.rows else None,
            )  # fmt: skip
    finally:
        model.to(was[0]).train(was[1])


def _evaluated_again(
    model: nn.Module, checks: Data, best: Row, place: torch.device, precision: str | None, folder: Path
) -> Row:
    """The row of the best epoch with what the model returned scores here and now; warns where that is not what it
    scored when it was trained."""
    was = reference_tensor(model).device
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision or "")
    try:
        with torch.autocast(place.type, dtype=half, enabled=half is not None):
            found = best.measured(evaluate(model.to(place), *checks))
    finally:
        model.to(was)
    # Other machines, devices and numbers of threads round otherwise; predictions are about as large as the targets.
    rounding = 100 * torch.finfo(half or checks.targets.dtype).eps * float(checks.targets.abs().max())
    if not math.isclose(found.val_mae, best.val_mae, rel_tol=1e-2, abs_tol=rounding):
        warnings.warn(
            f"{folder}: the weights of epoch {best.epoch} have a validation error of {found.val_mae:g} here, and had "
            f"{best.val_mae:g} when they were trained: the model depends on something that its description does not "
            "tell; the result has what is measured here",
            stacklevel=3,
        )
    return found


def _folder(out: Path | str) -> Path:
    """The folder of a training, made where there is none."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={str(out)!r} is a file: give a folder")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_device(device: str | torch.device) -> torch.device:
    """The device meant by a name; raises `ValueError` if there is none such here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is unknown: give 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    present = found.type == "cuda" and (found.index or 0) < torch.cuda.device_count()
    if not present and found.type != "cpu":
        here = "cpu" + "".join(f", cuda:{index}" for index in range(torch.cuda.device_count()))
        raise ValueError(f"there is no device {device!r} here, only {here}: give one of them, or 'auto'")
    return found


def _check(epochs, batch_size, learning_rate, gradient_clip, early_stopping, seed, precision) -> None:
    counts = {"epochs": (epochs, 1), "batch_size": (batch_size, 1), "early_stopping": (early_stopping, 1)}
    for name, (value, least) in (counts | {"seed": (seed, 0)}).items():
        optional = value is None and name == "early_stopping"
        if not optional and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is a whole number of at least {least}, not {value!r}")
    for name, value in {"learning_rate": learning_rate, "gradient_clip": gradient_clip}.items():
        optional = value is None and name == "gradient_clip"
        if not optional and not (
            isinstance(value, Real) and 0 < value <= sys.float_info.max  # pyright: ignore[reportOperatorIssue]
        ):
            raise ValueError(f"{name} is positive and finite, not {value!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: give one of {', '.join(map(str, PRECISIONS))}")


def _cuda_devices(place: torch.device) -> list[torch.device]:
    return [place] if place.type == "cuda" else []
