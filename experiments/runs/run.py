"""One run of a study: a configuration goes in, a folder with log, checkpoints and `result.json` comes out.

Importing this costs nothing: torch, Lightning and the data load when a run begins.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndae.experiments.files import file_digest, sealed, unsealed, write_text
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.models import build_model, problem_of
from ndae.experiments.runs.records import LOG_DIGEST, error_of
from ndae.solvers.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ndae.experiments.problems.learning import LearningProblem
    from ndae.experiments.problems.samples import Parts, Samples
    from ndae.experiments.runs.models import Model
    from ndae.training.evaluation import Evaluation


def build_data(config: RunConfig, report: Progress | None = None) -> "Parts":
    """The samples of a configuration, in three parts."""
    counts = {"n_val": config.n_val, "n_test": config.n_test}
    return problem_of(config).data(config.n_train, config.horizon, config.seed, **counts, report=report)


def run(
    config: RunConfig,
    out: Path | str,
    *,
    resume: bool = True,
    progress: bool | Progress = True,
    label: str = "",
) -> dict[str, Any]:
    """Make a run in the folder `out`: data, training, test with the weights that are kept; return what `result.json`
    holds.

    The test error is the mean Euclidean distance between predicted and true bodies over the test samples, in the
    problem's `error_unit`, violations are those of the same predictions, both as the problem's `error_is` and
    `violation_is` say. Where the problem has further tests or metrics, `splits` has the same of each test by name. The
    folder gets `config.json`, `log.csv`, `checkpoints/{last,best}.ckpt` and, at the end, `result.json`; each appears
    whole or not at all.

    A finished run is not repeated, an unfinished one goes on from its last checkpoint and ends with the same numbers;
    `resume=False` makes it again from the start. `progress`: a bar on the terminal, or a function
    `progress(fraction, text)`; `label` goes before the text.

    Raises `ValueError` if `out` holds a run with another configuration or a damaged file, and what `ndae.fit` raises.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the run")
    _check_folder(config, folder)
    result_file = folder / "result.json"
    if resume and result_file.exists():
        return _read_result(config, result_file)

    from ndae.progress import reporting
    from ndae.training.fit import find_device

    # What a user may have mistyped comes before anything is written or simulated.
    device, model = find_device(config.device), build_model(config)
    folder.mkdir(parents=True, exist_ok=True)
    result_file.unlink(missing_ok=True)
    write_text(folder / "config.json", config.to_json())
    with reporting(progress, label or config.method) as report:
        result = _run(config, model, device, folder, resume, report)
    result = sealed(result)
    write_text(result_file, json.dumps(result, indent=2) + "\n")
    return result


def read_config(folder: Path | str) -> RunConfig:
    """The configuration of the run in `folder`; raises `ValueError` if it holds none, or a damaged one."""
    config = _read_config(Path(folder) / "config.json")
    if config is None:
        raise ValueError(f"{folder} holds no run: there is no config.json in it; give the folder of a run")
    return config


def load_model(folder: Path | str) -> tuple[RunConfig, "Model"]:
    """The configuration of a run and its network with the weights that it keeps, of the best epoch or the last one, on
    the CPU, in evaluation mode.

    Raises `ValueError` if `folder` holds no run, and `ndae.training.CheckpointError` if there is no sound checkpoint
    yet.
    """
    from ndae.training.checkpoints import load_weights

    config = read_config(folder)
    return config, load_weights(build_model(config), Path(folder) / checkpoint_of(config)).eval()


def checkpoint_of(config: RunConfig) -> str:
    """The checkpoint with the weights that a run keeps, in its folder."""
    return f"checkpoints/{config.keep}.ckpt"


def _run(
    config: RunConfig, model: "Model", device: "torch.device", folder: Path, resume: bool, report: Progress | None
) -> dict[str, Any]:
    import torch

    from ndae.training.fit import fit

    problem, data = problem_of(config), build_data(config, report)
    unit, scale = problem.error_unit
    train, val = ((part.inputs, part.targets, problem.conditions(part)) for part in (data.train, data.val))
    trained = fit(
        model,
        train,
        val,
        out=folder,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        gradient_clip=config.gradient_clip,
        early_stopping=config.patience,
        keep=config.keep,
        seed=config.seed,
        device=device,
        resume=resume,
        progress=report or False,
        error_unit=problem.error_unit,
    )
    model.to(device)
    measured, baselines, others = {}, problem.baselines(data), problem.tests(data)
    for name, samples in {problem.test_name: data.test, **others}.items():
        if report:
            report(0.0, f"testing the weights of epoch {trained.kept.epoch}" + f" ({name})" * bool(others))
        measured[name] = _measure(model, problem, samples)
    (test, further), splits = measured[problem.test_name], {}
    if others or further:
        for name, (found, metrics) in measured.items():
            guesses = baselines if name == problem.test_name else problem.baselines_of(data, name)
            splits[name] = _measures(found, problem) | metrics | ({"baselines": guesses} if guesses else {})
    return dataclasses.asdict(config) | {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **_measures(test, problem),
        f"val_mae_{unit}": scale * trained.kept.val_mae,
        "best_epoch": trained.best.epoch,
        "epochs_done": len(trained.rows),
        "train_seconds": trained.seconds,
        "step_ms": trained.step_ms,
        "projections": dataclasses.asdict(test.projections) if test.projections else None,
        "unconverged_in_training": sum(row.train_unconverged for row in trained.rows),
        "baselines": baselines,
        **({"splits": splits} if splits else {}),
        **({"digest": file_digest(config.trajectory)} if config.trajectory is not None else {}),
        LOG_DIGEST: file_digest(trained.log),
        "device_used": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in ("ndae", "torch", "lightning", "jax", "diffrax")},
    }


def _measure(
    model: "torch.nn.Module", problem: "LearningProblem", samples: "Samples"
) -> tuple["Evaluation", dict[str, float]]:
    """How good predictions of `samples` are, and what further measures the problem has of them."""
    import numpy as np

    from ndae.training.evaluation import evaluate

    with _recording(model) as predictions:
        found = evaluate(model, samples.inputs, samples.targets, problem.conditions(samples))
    return found, problem.metrics(np.concatenate(predictions), np.asarray(samples.targets, dtype=np.float64))


@contextmanager
def _recording(model: Any) -> Iterator[list["np.ndarray"]]:
    """Keep what `model` predicts meanwhile, batch by batch: an evaluation keeps its errors alone."""
    predictions, predict = [], model.predict

    def recorded(*inputs, **conditions):
        prediction = predict(*inputs, **conditions)
        predictions.append(prediction.y.detach().double().cpu().numpy())
        return prediction

    model.predict = recorded
    try:
        yield predictions
    finally:
        del model.predict


def _measures(found: "Evaluation", problem: "LearningProblem") -> dict[str, float]:
    unit, scale = problem.error_unit
    return {
        f"test_mae_{unit}": scale * found.mae,
        "violation_mean": found.violation_mean,
        "violation_max": found.violation_max,
    }


def _check_folder(config: RunConfig, folder: Path) -> None:
    there = _read_config(folder / "config.json")
    if there is None or there == config:
        return
    ours, theirs = dataclasses.asdict(config), dataclasses.asdict(there)
    if {**ours, "problem_digest": None} == {**theirs, "problem_digest": None}:
        raise ValueError(f"{config.problem} has changed since the run in {folder} was begun: give another folder")
    listing = ", ".join(f"{name} {theirs[name]} (now {ours[name]})" for name in ours if ours[name] != theirs[name])
    raise ValueError(
        f"{folder} holds a run with another configuration, {listing}: give another folder, or remove that one"
    )


def _read_config(path: Path) -> RunConfig | None:
    if not path.exists():
        return None
    try:
        return RunConfig.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no configuration of a run ({error}): give another folder, or remove that one"
        ) from error


def _read_result(config: RunConfig, path: Path) -> dict[str, Any]:
    mend = f"{path} is not the result of this run: remove the file to finish the run again"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(mend) from error
    # Results made before a field was there have its default.
    ours = {field.name for field in dataclasses.fields(RunConfig)}
    try:
        theirs = RunConfig(**{name: value for name, value in result.items() if name in ours})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(mend) from error
    unsealed(result, path)
    if theirs != config:
        raise ValueError(mend)
    try:
        error_of(result)
    except ValueError as error:
        raise ValueError(mend) from error
    trajectory = None if config.trajectory is None else Path(config.trajectory)
    if trajectory and trajectory.exists() and file_digest(trajectory) != result.get("digest"):
        raise ValueError(
            f"{path} is of another content of {trajectory}, which has changed since: give another folder for a new run"
        )
    return result
