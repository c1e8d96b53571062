"""Runs on a System with unknown functions and recordings: `ndae train`, `compare`, `validate` of a `DataProblem`.

A run's folder has config.json, log.csv, checkpoints/, model.safetensors (for `ndae.load`), a picture of each function
that was learned, and result.json, which is written last.
"""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndae.experiments.files import file_digest, read_json, write_json, write_text
from ndae.experiments.problems.data_problem import DataProblem
from ndae.experiments.problems.registry import data_problem
from ndae.experiments.terminal import UserError
from ndae.experiments.variants import Variant

if TYPE_CHECKING:
    from ndae.models.crosscheck import LearnedCheck
    from ndae.models.neural_system import NeuralSystem

_PARTS = ("digits", "residual", "invariants", "missed", "integrator", "failures")
MODEL, RESULT, CONFIG = "model.safetensors", "result.json", "config.json"
METHODS = "none,auxiliary,penalty,end-alone,smooth-alone"
#: Settings of `ndae train` that a run of this kind has, beside its problem.
SETTINGS = ("method", "gamma", "eta", "epochs", "batch_size", "learning_rate", "patience", "keep", "seed", "integrator")


def train(problem: DataProblem, file: str, out: Path, given: Mapping[str, Any], *, fresh: bool = False) -> dict:
    """Learn one problem, and return what result.json holds; what is finished is only read.

    `given`: settings by name, of SETTINGS, that go before the problem's own. Raises UserError where `out` holds another
    run, and what `ndae.fit` raises.
    """
    import torch

    import ndae
    from ndae.models.saving import save

    config = {"problem": file, **_digests(problem, file), **given}
    _check_folder(out, config, fresh)
    if (out / RESULT).exists() and not fresh:
        return read_json(out / RESULT)
    seed, fit = int(given.get("seed", 0)), {**problem.fit}
    fit |= {name: given[name] for name in ("epochs", "batch_size", "learning_rate", "keep") if name in given}
    fit |= {"early_stopping": given["patience"]} if "patience" in given else {}
    torch.manual_seed(seed)
    model = problem.model(**_options(given))
    write_json(out / CONFIG, config)
    began = time.perf_counter()
    trained = ndae.fit(
        model, problem.train, problem.validation or None, out=out, seed=seed, resume=not fresh, progress=True, **fit
    )
    save(model, out / MODEL)
    result = {
        **config, "name": problem.name, "epochs_done": len(trained.rows), "kept_epoch": trained.kept.epoch,
        "train_loss": trained.rows[-1].train_loss, "validation": trained.kept.val_mae,
        "held_out": _missed(model, problem.held_out), "sigma": _in_sigma(problem.held_out),
        "learned": model.parameters_now(), "train_seconds": trained.seconds, "seconds": time.perf_counter() - began,
    }  # fmt: skip
    for name, function in model.system.functions.items():
        if function.module is not None:
            model.function(name).plot(out / f"{name}.png", problem.held_out)
    write_json(out / RESULT, result)
    return result


def compare(
    problem: DataProblem,
    file: str,
    out: Path,
    given: Mapping[str, Any],
    methods: Sequence[str],
    seeds: int,
    fresh: bool,
) -> list[dict]:
    """Learn one problem by several methods and seeds, seeds outermost; the results of all."""
    found = []
    for seed in range(seeds):
        for name in methods:
            variant = Variant.parse(name, given.get("gamma"), given.get("eta"))
            own = {"method": variant.method, "gamma": variant.gamma, "eta": variant.eta, "seed": seed}
            folder = out / "runs" / f"{variant.name}-s{seed}"
            made = train(problem, file, folder, {**given, **own}, fresh=fresh)
            found.append(made | {"title": variant.title, "variant": variant.name})
    return found


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds a model that was learned from recordings."""
    return (Path(folder) / MODEL).is_file()


def read_run(folder: Path) -> tuple["NeuralSystem", DataProblem]:
    """The model that a run ended with and the problem that it learned; raises UserError where that file is gone or has
    changed since, whose recordings then are others."""
    from ndae.models.saving import asked, load

    config = read_json(folder / CONFIG)
    file = config["problem"]
    problem = data_problem(file)
    if problem is None:
        raise UserError(f"{folder} was made of {file}, which is no file of a problem with data any more")
    changed = [what for what, digest in _digests(problem, file).items() if digest != config[what]]
    if changed:
        what = f"the recordings of {file} have" if changed == ["digest"] else f"{file} has"
        raise UserError(f"{what} changed since the run in {folder}: train it anew in another folder")
    wanted = asked(folder / MODEL)
    functions = {getattr(k, "name", str(k)): v for k, v in problem.functions().items()}
    return load(folder / MODEL, {name: functions[name] for name in wanted if name in functions}), problem


def check(folder: Path, **options: Any) -> tuple["LearnedCheck", DataProblem]:
    """`ndae.crosscheck` of a run on the recordings that it did not learn from."""
    import ndae

    model, problem = read_run(folder)
    return ndae.crosscheck(model, problem.held_out, **options), problem


def to_json(checked: "LearnedCheck") -> dict[str, Any]:
    """What a cross-check found, without the solutions."""
    each = [{"name": r.name} | {part: dict(getattr(r, part)) for part in _PARTS} for r in checked.recordings]
    return {"system": checked.system, "sigma": checked.sigma, "least_digits": checked.least, "recordings": each}


def describe(result: Mapping[str, Any]) -> str:
    """What a run came to, in a line or two."""
    unit = _unit(result["sigma"])
    text = (
        f"{result['name']}: missed {result['validation']:.3g} {unit} in validation and {result['held_out']:.3g} held "
        f"out, after {result['epochs_done']} epochs and {result['train_seconds']:.0f} s"
    )
    learned = ", ".join(f"{name} = {value:.5g}" for name, value in result["learned"].items())
    return text + (f"\nlearned: {learned}" if learned else "")


def write_table(results: Sequence[Mapping[str, Any]], out: Path, exported: Path | None) -> list[Path]:
    """Print the table of a comparison, and write it as CSV, with a small JSON for each run."""
    from rich.table import Table

    from ndae.experiments.terminal import console

    head, *rows = table(results)
    shown = Table(*head)
    for row in rows:
        shown.add_row(*row)
    console().print(shown)
    written = [out / "table.csv"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_text(written[0], text.getvalue())
    for result in results:
        written.append((exported or out / "results") / f"{result['variant']}-s{result['seed']}.json")
        write_json(written[-1], result)
    return written


def _unit(sigma: bool) -> str:
    return "standard deviations" if sigma else "sizes of the outputs"


def table(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Rows of a comparison, a method each: errors of every seed, in standard deviations or sizes; seconds."""
    titles = dict.fromkeys(r["title"] for r in results)
    unit = _unit(all(r["sigma"] for r in results))
    rows = [["method", f"validation, {unit}", "held out", "learned", "seconds"]]
    for title in titles:
        own = [r for r in results if r["title"] == title]
        learned = {name: [r["learned"][name] for r in own] for name in own[0]["learned"]}
        rows.append([
            title, ", ".join(f"{r['validation']:.3g}" for r in own), ", ".join(f"{r['held_out']:.3g}" for r in own),
            "; ".join(f"{name} {', '.join(f'{v:.4g}' for v in values)}" for name, values in learned.items()),
            ", ".join(f"{r['train_seconds']:.0f}" for r in own),
        ])  # fmt: skip
    return rows


def _digests(problem: DataProblem, file: str) -> dict[str, str]:
    """Of the file and of all recordings."""
    from ndae.training.description import fingerprint

    recordings = [list(part) for part in (problem.train, problem.validation, problem.test)]
    return {"problem_digest": file_digest(file), "digest": fingerprint(recordings)}


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    from ndae import methods

    found = {"integrator": given["integrator"]} if "integrator" in given else {}
    if "method" not in given:
        return found
    variant = Variant.of(given["method"], given.get("gamma"), given.get("eta"))
    made: dict[str, Any] = {
        "none": methods.Unconstrained, "auxiliary": lambda: methods.Auxiliary(variant.eta),
        "penalty": lambda: methods.Penalty(variant.gamma), "end": methods.EndProjection,
        "smooth": methods.SmoothProjection,
    }  # fmt: skip
    if variant.method not in made:
        raise UserError(
            f"--method {variant.method} is of networks over depth; multipliers of a system are eliminated whatever the "
            f"method: give one of {', '.join(made)}"
        )
    method = made[variant.method]()
    if variant.method in ("end", "smooth"):
        method = method + methods.Penalty(variant.gamma) if variant.gamma else method
        method = method + methods.Auxiliary(variant.eta) if variant.eta else method
    return found | {"method": method}


def _missed(model: "NeuralSystem", recordings: Sequence[Any]) -> float:
    """The mean over times of what is missed of recordings, from starts fitted to them, in their deviations or sizes."""
    from ndae.training.evaluation import evaluate
    from ndae.training.recordings import RecordingFit, Windows

    whole = RecordingFit(model, recordings, recordings, Windows())
    return evaluate(whole, *whole.data[1]).mae


def _in_sigma(recordings: Sequence[Any]) -> bool:
    return all(set(r.sigma) >= set(r.values) for r in recordings)


def _check_folder(out: Path, config: Mapping[str, Any], fresh: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder for the run")
    if fresh or not (out / CONFIG).exists():
        out.mkdir(parents=True, exist_ok=True)
        (out / RESULT).unlink(missing_ok=True)
        return
    there = read_json(out / CONFIG)
    differing = [name for name in there.keys() | config.keys() if there.get(name) != config.get(name)]
    if differing:
        raise UserError(
            f"{out} holds a run with another {', '.join(sorted(differing))}: give another folder, or --fresh"
        )
