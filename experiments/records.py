"""Finished runs as records: one small JSON each, from which every table and figure is made."""

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ndae.files import write_atomically

# What the paper calls each method, in the order of its Table 1; multipliers it writes down (eq. 6) but does not train,
# and the soft constraint is none of its.
METHOD_TITLES = {
    "none": "No constraint",
    "auxiliary": "Auxiliary loss",
    "penalty": "Penalty",
    "end": "End projection",
    "smooth": "Smooth projection",
    "tangent": "Multiplier, first order",
    "multiplier": "Multiplier",
    "soft": "Soft constraint",
}
# Which strengths a method can have. Both projections come with a penalty and an auxiliary loss, as in section 4.1;
# those with multipliers have them only where they are asked for.
STRENGTHS = {
    "none": (),
    "auxiliary": ("eta",),
    "penalty": ("gamma",),
    "end": ("gamma", "eta"),
    "smooth": ("gamma", "eta"),
    "tangent": ("gamma", "eta"),
    "multiplier": ("gamma", "eta"),
    "soft": (),
}
# What keeps a motion with multipliers from drifting off, and which force a motion learns: the first is the default.
STABILISATIONS = ("projection", "ggl", "baumgarte", "none")
FORCES = ("free", "potential")
SCHEDULES = ("constant", "cosine")
# Networks over the atoms of molecules; the last learns forces, and no other field.
ON_MOLECULES = ("equivariant", "equivariant-small", "molecular")
# Choices that only some methods have: those whose depth is physical time.
CHOICES_OF = {
    "stabilisation": ("multiplier",),
    "force": ("multiplier", "soft"),
    "max_step": ("multiplier", "soft"),
}
# Without these a record says nothing; everything else in it is optional.
_REQUIRED = (
    "problem", "method", "network", "parameters", "n_train", "horizon", "seed",
    "violation_mean", "violation_max", "train_seconds", "step_ms",
)  # fmt: skip
_ERROR = "test_mae_"
SEAL = "sha256"
# Other entries that are digests: of what a run was made from.
_DIGESTS = {"digest", "problem_digest"}
_DIGEST = re.compile("[0-9a-f]{64}")
# What a record's file holds, each an object.
_PARTS = {"config", "log", "result"}


def default_strength(method: str, name: str) -> float:
    """γ or η of a method where none is given: the paper's 10, and 0 with multipliers."""
    return 10.0 if name in STRENGTHS[method] and method not in ("tangent", "multiplier") else 0.0


@dataclass(frozen=True)
class Variant:
    """A method at the strengths it really uses: γ (eq. 14) and η (eq. 4) are 0 where the method has no such term.

    `stabilisation` is of the method "multiplier", what keeps its constraints from drifting off; `force` of that and of
    "soft", whether the force is free or has a potential.
    """

    method: str
    gamma: float = 0.0
    eta: float = 0.0
    stabilisation: str = STABILISATIONS[0]
    force: str = FORCES[0]

    @classmethod
    def of(
        cls,
        method: str,
        gamma: float | None = None,
        eta: float | None = None,
        stabilisation: str = STABILISATIONS[0],
        force: str = FORCES[0],
    ) -> "Variant":
        """Build a variant, dropping what `method` does not use; strengths left out are `default_strength`.

        Raises `ValueError` for an unknown method, stabilisation or force.
        """
        if method not in METHOD_TITLES:
            raise ValueError(f"unknown method {method!r}: expected one of {', '.join(METHOD_TITLES)}")
        for name, value, known in (("stabilisation", stabilisation, STABILISATIONS), ("force", force, FORCES)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: expected one of {', '.join(known)}")
        gamma, eta = (
            default_strength(method, name) if value is None else float(value) if name in STRENGTHS[method] else 0.0
            for name, value in (("gamma", gamma), ("eta", eta))
        )
        chosen = {"stabilisation": stabilisation, "force": force}
        return cls(method, gamma, eta, **{name: v for name, v in chosen.items() if method in CHOICES_OF[name]})

    @classmethod
    def parse(cls, text: str, gamma: float | None = None, eta: float | None = None, **motion: str) -> "Variant":
        """Read a name as typed: a method, or with `-alone` behind it a projection or multiplier with γ = η = 0.

        `motion`: stabilisation and force of a multiplier.
        """
        name = text.strip()
        method = name.removesuffix("-alone")
        if method != name and method not in ("end", "smooth", "multiplier"):
            raise ValueError(
                f"unknown method {name!r}: only 'end', 'smooth' and 'multiplier' can be run '-alone' (without γ and η)"
            )
        return cls.of(method, 0.0, 0.0, **motion) if method != name else cls.of(method, gamma, eta, **motion)

    @property
    def alone(self) -> bool:
        """Whether this is a projection with neither penalty nor auxiliary loss."""
        return self.method in ("end", "smooth") and self.gamma == 0 and self.eta == 0

    @property
    def name(self) -> str:
        """Name for folders and the command line, such as `smooth`, `end-alone` or `multiplier-ggl`."""
        return f"{self.method}-alone" if self.alone else "-".join([self.method, *self.choices])

    @property
    def choices(self) -> list[str]:
        """Stabilisation and force where they are not the default."""
        choices = []
        if self.stabilisation != STABILISATIONS[0]:
            choices.append("drifting" if self.stabilisation == "none" else self.stabilisation)
        if self.force != FORCES[0]:
            choices.append(self.force)
        return choices

    @property
    def strengths(self) -> str:
        """The strengths in the paper's notation: `γ=10`, `γ,η=10`, `γ=3, η=10`, `alone` or nothing."""
        if self.alone:
            return "alone"
        if self.gamma and self.gamma == self.eta:
            return f"γ,η={self.gamma:g}"
        parts = [f"γ={self.gamma:g}"] if self.gamma or self.method == "penalty" else []
        parts += [f"η={self.eta:g}"] if self.eta or self.method == "auxiliary" else []
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """Name for tables and legends, such as `Smooth projection γ,η=10` or `Multiplier GGL, potential`."""
        choices = [{"ggl": "GGL", "baumgarte": "Baumgarte"}.get(choice, choice) for choice in self.choices]
        return f"{METHOD_TITLES[self.method]} {', '.join([*choices, *filter(None, [self.strengths])])}".strip()

    @property
    def order(self) -> tuple:
        """Sort key: the paper's order, projections alone after all others."""
        choices = STABILISATIONS.index(self.stabilisation), FORCES.index(self.force)
        return self.alone, list(METHOD_TITLES).index(self.method), *choices, self.gamma, self.eta


class Setting(NamedTuple):
    """What must agree for two runs to stand in one table."""

    problem: str
    network: str
    n_train: int
    horizon: int
    epochs: int
    schedule: str = SCHEDULES[0]
    trajectory: str = ""

    @property
    def problem_name(self) -> str:
        """The name of the problem, of the user's file that it is in if it is one."""
        return Path(self.problem).stem

    @property
    def name(self) -> str:
        """For files: everything that is not the default."""
        _, *parts, schedule, trajectory = self
        parts = [self.problem_name, *parts]
        parts += [schedule] * (schedule != SCHEDULES[0]) + [Path(trajectory).stem] * (trajectory != "")
        return "-".join(map(str, parts))


def _of_the_paper(columns: Mapping[tuple[int, int], Sequence[float]]) -> dict[tuple[int, int], dict[Variant, float]]:
    variants = (
        Variant("none"),
        Variant("auxiliary", eta=10),
        Variant("penalty", gamma=10),
        Variant("end", 10, 10),
        Variant("smooth", 10, 10),
    )
    return {key: dict(zip(variants, column, strict=True)) for key, column in columns.items()}


# Table 1 of the paper: mean absolute error in cm over 1,000 test samples, keyed by (horizon k, n_t).
PAPER_TABLE_1 = _of_the_paper({
    (20, 100): (35.0, 35.1, 32.6, 29.8, 27.9),
    (20, 1000): (6.40, 8.52, 5.72, 6.89, 7.35),
    (20, 10000): (2.39, 2.94, 2.32, 2.93, 2.85),
    (50, 100): (67.6, 78.0, 66.3, 68.8, 73.2),
    (50, 1000): (10.7, 31.8, 13.1, 40.9, 40.3),
    (50, 10000): (3.98, 27.4, 5.43, 48.8, 52.7),
})  # fmt: skip
# Table 2 of the paper, of water: in pm.
PAPER_TABLE_2 = _of_the_paper({
    (50, 100): (6.80, 6.82, 4.59, 3.63, 3.55),
    (50, 1000): (6.67, 6.70, 4.05, 3.62, 3.50),
    (50, 10000): (3.79, 3.28, 1.52, 3.13, 3.18),
})  # fmt: skip


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
        keys = ("problem", "network", "n_train", "horizon")
        made = self._either("schedule") or SCHEDULES[0], self._either("trajectory") or ""
        return Setting(*(self.result[key] for key in keys), epochs, *made)

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
    config = _read_json(directory / "config.json")
    result = _checked_result(_read_json(directory / "result.json"), directory / "result.json")
    check_seal(result, directory / "result.json")
    result = {name: value for name, value in result.items() if name != SEAL}
    return Record(config, result, _read_log(directory / "log.csv"))


def write_record(record: Record, path: Path) -> None:
    """Write `record` as one small JSON, replacing an older file in one step."""
    content = {"config": dict(record.config), "result": dict(record.result), "log": _rounded(record.log)}
    content = sealed(json.loads(json.dumps(content)))
    write_text(Path(path), json.dumps(content, indent=1, allow_nan=True).replace(",\n   ", ", ") + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, making its folder, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def sealed(content: Mapping) -> dict:
    """JSON content with a digest of the rest of it as its last entry."""
    return {**content, SEAL: _json_digest(content)}


def check_seal(content: Mapping, path: Path) -> None:
    """Raise `ValueError` where the content of a JSON file is not what was written. A file without a digest passes: made
    before there was one, or by hand."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    # A digest under a name that has changed is a digest all the same.
    strays = [n for n, v in rest.items() if n not in _DIGESTS and isinstance(v, str) and _DIGEST.fullmatch(v)]
    if strays or (SEAL in content and content[SEAL] != _json_digest(rest)):
        raise ValueError(f"{path} is damaged: its digest is not that of its content; restore it, or make it again")


def _json_digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path) -> Record:
    """Read what `write_record` wrote; raises `ValueError` naming the file and what it lacks."""
    content = _read_json(path)
    check_seal(content, path)
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
    records = [read_record(path) for path in sorted(directory.glob("*.json")) if _PARTS & _read_json(path).keys()]
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
    parts += [Path(setting.trajectory).stem] * (setting.trajectory != "") + [f"s{seed}"]
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


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, got {type(content).__name__}")
    return content


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
