"""Finished runs as records: one small JSON each, from which every table and figure is made."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndae.experiments.files import file_digest, read_json, sealed, write_text
from ndae.experiments.variants import KEEPS, SCHEDULES, Setting, Variant

# Without these a record says nothing; everything else in it is optional.
_REQUIRED = (
    "problem", "method", "network", "parameters", "n_train", "horizon", "seed",
    "violation_mean", "violation_max", "train_seconds", "step_ms",
)  # fmt: skip
_ERROR = "test_mae_"
# Of a run's result: the digest of its log.csv.
LOG_DIGEST = "log_digest"
# What a record's file holds, each an object.
_PARTS = {"config", "log", "result"}


@dataclass(frozen=True)
class Record:
    """One finished run: its configuration, its result and its log by column (one entry an epoch)."""

    config: Mapping
    result: Mapping
    log: Mapping[str, Sequence[float]]

    @property
    def variant(self) -> Variant:
        # Records made before there was a choice have none.
        choices = {name: self._either(name) for name in ("stabilisation", "force")}
        given = {name: value for name, value in choices.items() if value is not None}
        return Variant.of(self.result["method"], self._strength("gamma"), self._strength("eta"), **given)

    @property
    def setting(self) -> Setting:
        """What must agree for two runs to stand in one table."""
        epochs = self.result.get("epochs", self.config.get("epochs", len(self.log.get("epoch", ()))))
        problem, network, n_train, horizon = (self.result[key] for key in ("problem", "network", "n_train", "horizon"))
        schedule = self._either("schedule") or SCHEDULES[0]
        trajectory, keep = self._either("trajectory") or "", self._either("keep") or KEEPS[0]
        return Setting(problem, network, n_train, horizon, epochs, schedule, trajectory, keep)

    @property
    def seed(self) -> int:
        return self.result["seed"]

    @property
    def error(self) -> float:
        """The test error, in the unit of its problem."""
        return error_of(self.result)

    def _either(self, name: str):
        return self.result.get(name, self.config.get(name))

    def _strength(self, name: str) -> float:
        value = self._either(name)
        if value is None:
            raise ValueError(f"run {self.result['method']!r}, seed {self.seed}: neither result nor config has {name!r}")
        return value


def error_of(result: Mapping) -> float:
    """The test error of a result, in whatever unit its name says; raises ValueError where there is none."""
    return result[_ERROR + unit_of(result)]


def unit_of(result: Mapping) -> str:
    """The unit of a result's errors, such as cm; raises ValueError where it has no error, or errors in two units."""
    units = [key.removeprefix(_ERROR) for key in result if key.startswith(_ERROR)]
    if len(units) != 1:
        raise ValueError(f"a result has one error {_ERROR}cm (or of another unit), this one has {len(units)}")
    return units[0]


def read_run(directory: Path) -> Record:
    """Read the finished run in `directory` (`config.json`, `log.csv`, `result.json`).

    Raises `ValueError` naming the file that is damaged, and `FileNotFoundError` where a run has not finished.
    """
    directory = Path(directory)
    config, log = read_json(directory / "config.json"), directory / "log.csv"
    result = dict(_checked_result(read_json(directory / "result.json"), directory / "result.json"))
    # Runs made before it was kept have none.
    if result.pop(LOG_DIGEST, None) not in (None, file_digest(log)):
        raise ValueError(f"{log} is damaged: its digest is not that of its content; restore it, or make the run again")
    return Record(config, result, _read_log(log))


def write_record(record: Record, path: Path) -> None:
    """Write `record` as one small JSON, replacing an older file in one step."""
    content = {"config": dict(record.config), "result": dict(record.result), "log": _rounded(record.log)}
    content = sealed(json.loads(json.dumps(content)))
    write_text(Path(path), json.dumps(content, indent=1, allow_nan=True).replace(",\n   ", ", ") + "\n")


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote; raises `ValueError` naming the file and what it lacks."""
    content = read_json(path)
    lacking = [key for key in sorted(_PARTS) if not isinstance(content.get(key), dict)]
    if lacking:
        raise ValueError(f"{path}: no record of a run, it has no {' and no '.join(map(repr, lacking))}")
    return Record(content["config"], _checked_result(content["result"], path), content["log"])


def read_records(directory: Path) -> list[Record]:
    """Read every finished run in `directory`: exported records (`*.json`), or else run folders (`**/result.json`).

    JSON files of another kind, such as the data of a figure, are passed over. Raises `ValueError` naming a damaged
    file, or where there is no run, and `FileNotFoundError` where there is no such folder.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no folder {directory} with finished runs")
    records = [read_record(path) for path in sorted(directory.glob("*.json")) if _PARTS & read_json(path).keys()]
    if not records:
        folders = sorted(path.parent for path in directory.rglob("result.json"))
        records = [read_run(folder) for folder in folders]
    if not records:
        raise ValueError(f"{directory} holds no finished run: expected records (*.json) or folders with result.json")
    return records


def record_name(record: Record) -> str:
    """File name of a record, the same for the same setting, variant and seed."""
    return run_name(record.setting, record.variant, record.seed) + ".json"


def run_name(setting: Setting, variant: Variant, seed: int) -> str:
    """Name of a run's folder: everything that tells it from other runs, but for the problem of the paper and other
    defaults."""
    strengths = [f"{letter}{value:g}" for letter, value in (("g", variant.gamma), ("e", variant.eta)) if value]
    parts = [setting.problem_name] * (setting.problem != "pendulum")
    parts += [variant.method, *variant.choices, *strengths]
    parts += [setting.network, f"n{setting.n_train}", f"k{setting.horizon}", f"ep{setting.epochs}"]
    parts += [setting.schedule] * (setting.schedule != SCHEDULES[0])
    parts += [Path(setting.trajectory).stem] * (setting.trajectory != "")
    parts += [setting.keep] * (setting.keep != KEEPS[0]) + [f"s{seed}"]
    return "-".join(parts)


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (nan for one value) and largest value of a number over seeds."""

    mean: float
    std: float
    largest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = [float(value) for value in values]
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, math.nan, mean)
        variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance), max(values))


def group(records: Iterable[Record]) -> dict[Setting, dict[Variant, list[Record]]]:
    """Sort records by setting, then by variant in the paper's order, then by seed.

    Raises `ValueError` where one setting and variant has a seed twice: the mean over seeds would count it double.
    """
    groups: dict[Setting, dict[Variant, list[Record]]] = {}
    for record in sorted(records, key=lambda r: (r.setting, r.variant.order, r.seed)):
        runs = groups.setdefault(record.setting, {}).setdefault(record.variant, [])
        if runs and runs[-1].seed == record.seed:
            raise ValueError(
                f"{record.variant.title}, seed {record.seed}: two runs of one setting {tuple(record.setting)}"
            )
        runs.append(record)
    return groups


def _checked_result(result: dict, path: Path) -> dict:
    lacking = [key for key in _REQUIRED if key not in result]
    if not any(key.startswith(_ERROR) for key in result):
        lacking.append(f"{_ERROR}cm (or of another unit)")
    if lacking:
        raise ValueError(f"{path}: the result lacks {', '.join(lacking)}")
    return result


def _read_log(path: Path) -> dict[str, list[float]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _rounded(log: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    # Six digits draw any curve; full precision would triple the size of a committed record.
    return {name: [float(f"{value:.6g}") for value in column] for name, column in log.items()}
