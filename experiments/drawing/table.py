"""The measured table: a row a variant, as text in the terminal, as CSV and as Markdown."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndae.experiments.problems.registry import to_learn
from ndae.experiments.runs.records import Record, Spread, error_of, group
from ndae.experiments.variants import CHOICES_OF, Setting, Variant

if TYPE_CHECKING:
    from ndae.experiments.problems.learning import LearningProblem


@dataclass(frozen=True)
class Row:
    """One line of the table; spreads are over seeds, and nothing is known of what is None.

    `error` in the problem's unit of errors, `others` the same of further tests by name, `violation_mean` and
    `violation_max` in its unit of violations, `step` in ms of one training step, `ratio` of that to the unconstrained
    network's, `paper` the paper's error. `metrics`: what else the problem measures, of the test samples, by name.
    """

    title: str
    method: str
    gamma: float
    eta: float
    seeds: int
    error: Spread | None
    violation_mean: Spread | None = None
    violation_max: Spread | None = None
    step: Spread | None = None
    ratio: float | None = None
    paper: float | None = None
    parameters: int | None = None
    train_seconds: Spread | None = None
    stabilisation: str | None = None
    force: str | None = None
    others: Mapping[str, Spread] = field(default_factory=dict)
    metrics: Mapping[str, Spread] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """All variants of one setting side by side."""

    setting: Setting
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        _, network, n_train, horizon, epochs, schedule, trajectory, keep = self.setting
        ending = f", {schedule} schedule" if schedule != "constant" else ""
        ending += f", {Path(trajectory).name}" if trajectory else ""
        ending += f", weights of the {keep} epoch" if keep != "best" else ""
        return (
            f"{self.setting.problem_name.replace('_', ' ')}: {n_train:,} training samples, {horizon} steps ahead, "
            f"{network} network, {epochs} epochs{ending}"
        )

    @property
    def problem(self) -> "LearningProblem":
        return to_learn(self.setting.problem)

    @property
    def others(self) -> list[str]:
        """Names of the further tests that any row knows the error of."""
        return list(dict.fromkeys(name for row in self.rows for name in row.others))

    @property
    def header(self) -> list[str]:
        """Names of the columns, with their units."""
        unit, *_ = self.problem.error_unit
        names = [name.format(error=unit, violation=self.problem.violation_unit) for name in _HEADER]
        return [*names[:2], *(f"{name} ({unit})" for name in self.others), *names[2:]]

    def cells(self, row: Row) -> list[str]:
        """A row as text, column by column of the header."""
        method, error, *rest = _cells(row)
        # Their spreads, as large as that of the first, would not fit beside it; the CSV has them.
        others = (row.others.get(name) for name in self.others)
        return [method, error, *("" if other is None else _number(other.mean) for other in others), *rest]

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the numbers."""
        return self.notes_on(self.header)

    def notes_on(self, columns: Sequence[str]) -> list[str]:
        """The same, where no more than these columns of the header are shown."""
        seeds = sorted({row.seeds for row in self.rows})
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        many, problem, others = seeds[-1] > 1, self.problem, self.others
        notes = [
            f"error: {problem.error_is} over the test samples"
            + f" ({self._test(problem.test_name)})" * bool(others)
            + (f", mean ± standard deviation of {count} seeds" if many else ", one seed"),
            *(f"{name}: error over {words}" for name in others if (words := problem.tests_are.get(name))),
            f"violation: {problem.violation_is}, "
            + "mean and " * any(name.startswith("violation mean") for name in columns)
            + f"largest over all {problem.violation_of}, samples"
            + " and seeds" * many,
        ]
        if "ratio" in columns:
            notes.append(
                "ratio: of a step's time to that without constraint; runs follow each other, so other load shows in it"
            )
        if any(row.paper is not None for row in self.rows):
            notes.append(f"paper: {problem.paper_is}")
        return notes

    def _test(self, name: str) -> str:
        words = self.problem.tests_are.get(name)
        return f"{name}: {words}" if words else name


def make_tables(records: Iterable[Record]) -> list[Table]:
    """Make one table for each setting found in `records`."""
    return [_make_table(setting, runs) for setting, runs in group(records).items()]


def _make_table(setting: Setting, runs: Mapping[Variant, Sequence[Record]]) -> Table:
    # The paper had data of its own, and not that of a file.
    paper = {} if setting.trajectory else to_learn(setting.problem).paper.get((setting.horizon, setting.n_train), {})
    plain = next((_spread(rs, "step_ms").mean for v, rs in runs.items() if v.method == "none"), None)
    rows = [_row(variant, records, plain, paper.get(variant)) for variant, records in runs.items()]
    return Table(setting, (*_baseline_rows(setting, runs), *rows))


def _row(variant: Variant, records: Sequence[Record], plain_step: float | None, paper: float | None) -> Row:
    step = _spread(records, "step_ms")
    return Row(
        title=variant.title,
        method=variant.method,
        gamma=variant.gamma,
        eta=variant.eta,
        seeds=len(records),
        error=Spread.of(record.error for record in records),
        violation_mean=_spread(records, "violation_mean"),
        violation_max=_spread(records, "violation_max"),
        step=step,
        ratio=step.mean / plain_step if plain_step else None,
        paper=paper,
        parameters=int(records[0].result["parameters"]),
        train_seconds=_spread(records, "train_seconds"),
        stabilisation=variant.stabilisation if variant.method in CHOICES_OF["stabilisation"] else None,
        force=variant.force if variant.method in CHOICES_OF["force"] else None,
        others=_others(records),
        metrics=_metrics(records),
    )


def _splits(records: Sequence[Record]) -> tuple[str, dict[str, list[Mapping]]]:
    """The name of the test samples, and what the records that have further tests say of each, by name."""
    name = to_learn(records[0].setting.problem).test_name
    known = [record.result["splits"] for record in records if "splits" in record.result]
    shared = [split for split in (known[0] if known else ()) if all(split in splits for splits in known)]
    return name, {split: [splits[split] for splits in known] for split in shared}


def _others(records: Sequence[Record]) -> dict[str, Spread]:
    test, splits = _splits(records)
    return {name: Spread.of(map(error_of, found)) for name, found in splits.items() if name != test}


def _metrics(records: Sequence[Record]) -> dict[str, Spread]:
    test, splits = _splits(records)
    found = splits.get(test, [])
    own = ("violation_mean", "violation_max", "baselines")
    names = [name for name in (found[0] if found else ()) if name not in own and not name.startswith("test_mae_")]
    return {name: Spread.of(measures[name] for measures in found) for name in names}


def _baseline_rows(setting: Setting, runs: Mapping[Variant, Sequence[Record]]) -> list[Row]:
    # Test samples depend on the seed only, so any variant's records tell; the one with most seeds tells best.
    most_seeds, key = max(runs.values(), key=len), f"mae_{to_learn(setting.problem).error_unit[0]}"
    known = [record.result["baselines"] for record in most_seeds if "baselines" in record.result]
    test, splits = _splits(most_seeds)
    further = {name: [found.get("baselines", {}) for found in splits[name]] for name in splits if name != test}
    rows: dict[str, Row] = {}
    # Some are of a further test alone: only where it shares its time with the training samples is one nearest in time.
    for name in dict.fromkeys(name for tables in (known, *further.values()) for name in (tables[0] if tables else ())):
        error, mean, most = (_over(known, name, measure) for measure in (key, "violation_mean", "violation_max"))
        unprojected = rows.get(name.removesuffix(", projected"))
        if (
            error
            and unprojected
            and unprojected.error
            and math.isclose(unprojected.error.mean, error.mean, rel_tol=1e-6)
        ):
            continue
        others = {split: spread for split, tables in further.items() if (spread := _over(tables, name, key))}
        seeds = len(known) or len(most_seeds)
        rows[name] = Row(f"({_shortened(name)})", name, 0.0, 0.0, seeds, error, mean, most, others=others)
    return list(rows.values())


def _over(tables: Sequence[Mapping], name: str, measure: str) -> Spread | None:
    """The spread over seeds of what a trivial predictor measures; None where a seed does not have it."""
    known = tables and all(name in table for table in tables)
    return Spread.of(table[name][measure] for table in tables) if known else None


def _shortened(name: str) -> str:
    name = name.replace("constant velocity, projected by", "const. vel., proj. by")
    return name.replace("constant", "const.").replace("projected", "proj.").replace("training ", "")


def _spread(records: Sequence[Record], key: str) -> Spread:
    return Spread.of(record.result[key] for record in records)


_HEADER = (
    "method", "error ({error})", "paper", "violation mean ({violation})", "violation max ({violation})", "step (ms)",
    "ratio", "parameters",
)  # fmt: skip

_TIMES = ("step (ms)", "ratio")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.title,
        "" if row.error is None else _with_spread(row.error),
        "" if row.paper is None else f"{row.paper:g}" if row.paper < 10 else f"{row.paper:.1f}",
        "" if row.violation_mean is None else f"{row.violation_mean.mean:.1e}",
        # The largest over seeds too: an average would hide the worst.
        "" if row.violation_max is None else f"{row.violation_max.largest:.1e}",
        "" if row.step is None else f"{row.step.mean:.0f}" if row.step.mean >= 10 else f"{row.step.mean:.1f}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.parameters is None else f"{row.parameters:,}",
    )


def describe_run(record: Record) -> str:
    """One finished run as a few lines of text, beside the trivial predictors and the paper where they are known."""
    result, (table,) = record.result, make_tables([record])
    row: Any = table.rows[-1]  # of a run, of which everything is known
    projections, problem = result.get("projections"), table.problem
    unit, (error_unit, _) = problem.violation_unit, problem.error_unit
    paper = f" (paper: {row.paper:g} {error_unit})" if row.paper else ""
    test = f" ({problem.test_name})" if row.others else ""
    lines = [
        f"{table.title}, seed {record.seed}",
        f"  method      {row.title}, {row.parameters:,} parameters",
        f"  test error  {row.error.mean:.2f} {error_unit}{paper}, {problem.error_is}{test}",
        *(f"              {other.mean:.2f} {error_unit} ({name})" for name, other in row.others.items()),
        *([f"  further     {', '.join(_measured(*item) for item in row.metrics.items())}"] if row.metrics else []),
        f"  violation   {result['violation_mean']:.1e} {unit} mean, {result['violation_max']:.1e} {unit} most, "
        f"{problem.violation_is}",
        f"  training    {result['train_seconds']:.0f} s, {result['step_ms']:.1f} ms a step",
    ]
    if projections:
        lines.append(
            f"  projections {projections['count']:,} in the test, of {projections['iterations_mean']:.1f} iterations, "
            f"{projections['iterations_max']} at most, {projections['unconverged']:,} not converged"
        )
    guesses = ((other.title.strip("()"), other.error.mean) for other in table.rows[:-1] if other.error)
    others = "; ".join(f"{title} {error:.1f} {error_unit}" for title, error in guesses)
    return "\n".join(lines + ([f"  for scale   {others}"] if others else []))


def print_table(table: Table, say) -> None:
    """Print the table with `say`, a rich console's `print`: at most 80 columns wide, 100 with further tests, the notes
    below it.

    The number of parameters gets a column only where the variants differ in it. With further tests there is no room for
    the ratio of times, nor for both parameters and mean violations.
    """
    from rich import box
    from rich.table import Table as RichTable

    counts = {row.parameters for row in table.rows if row.parameters is not None}
    left_out = ["parameters"] if len(counts) < 2 else ["violation mean"] if table.others else []
    left_out += ["ratio"] if table.others else []
    shown = [index for index, name in enumerate(table.header) if not name.startswith(tuple(left_out))]
    columns = [table.header[index] for index in shown]
    notes = table.notes_on(columns) + ([f"parameters: {counts.pop():,} each"] if len(counts) == 1 else [])
    best = min((row.error.mean for row in table.rows if row.error and row.parameters is not None), default=None)
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in columns:
        first, _, rest = name.partition(" ")
        drawn.add_column(f"{first}\n{rest}", justify="left" if name == "method" else "right", no_wrap=True)
    for row in table.rows:
        baseline = row.parameters is None
        style = "dim" if baseline else "bold" if row.error and row.error.mean == best else None
        cells = table.cells(row)
        drawn.add_row(*(cells[index] for index in shown), style=style)
    say(table.title, style="bold", markup=False)
    say(drawn)
    for note in notes:
        say(f"  {note}", style="dim", markup=False)


def to_markdown(tables: Iterable[Table]) -> str:
    """The tables as Markdown, for a README: without times, which are measured apart (`ndae.experiments.benchmarks`)."""
    lines = []
    for table in tables:
        shown = [index for index, name in enumerate(table.header) if name not in _TIMES]
        lines += [f"**{table.title}**", "", "| " + " | ".join(table.header[index] for index in shown) + " |"]
        lines.append("| --- |" + " ---: |" * (len(shown) - 1))
        for row in table.rows:
            cells = table.cells(row)
            lines.append("| " + " | ".join(cells[index] for index in shown) + " |")
        lines += ["", *(f"- {note}" for note in table.notes_on([table.header[index] for index in shown])), ""]
    return "\n".join(lines)


def to_csv(tables: Iterable[Table]) -> str:
    """The tables as CSV in full precision; a standard deviation of a single seed is empty.

    Errors have columns by their unit, `test_mae_cm`, and by the further test, `test_mae_pm_random`: a row has those of
    its problem.
    """
    lines = [_csv_line(table, row) for table in tables for row in table.rows]
    # Columns in groups, so that those that only some rows have stand beside their like.
    head = {group: dict.fromkeys(name for line in lines for name in line[group]) for group in _CSV_GROUPS}
    names = [name for group in head.values() for name in group]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({name: value for group in line.values() for name, value in group.items()})
    return out.getvalue()


_CSV_GROUPS = ("setting", "method", "errors", "measures", "paper")


def _csv_line(table: Table, row: Row) -> dict[str, dict]:
    """The cells of a row by group and by the name of their column."""
    problem, network, n_train, horizon, epochs, schedule, trajectory, keep = table.setting
    unit, *_ = table.problem.error_unit
    spreads = {name: getattr(row, name) for name in ("violation_mean", "violation_max")}
    spreads |= {"step_ms": row.step, "train_seconds": row.train_seconds}
    others = {f"test_mae_{unit}_{name.replace(' ', '_')}": spread for name, spread in row.others.items()}
    setting = {
        "problem": problem, "network": network, "parameters": row.parameters, "n_train": n_train, "horizon": horizon,
        "epochs": epochs, "schedule": schedule,
    }  # fmt: skip
    method = ("method", "gamma", "eta", "stabilisation", "force", "seeds")
    return {
        "setting": setting
        | ({"trajectory": trajectory} if trajectory else {})
        | ({"keep": keep} if keep != "best" else {}),
        "method": {name: getattr(row, name) for name in method},
        "errors": _with_std({f"test_mae_{unit}": row.error} | others | dict(row.metrics)),
        "measures": _with_std(spreads) | {"step_ratio": row.ratio},
        "paper": {f"paper_mae_{unit}": row.paper},
    }


def _with_std(spreads: Mapping[str, Spread | None]) -> dict[str, float | None]:
    cells: dict[str, float | None] = {}
    for name, spread in spreads.items():
        cells |= {name: spread and spread.mean, f"{name}_std": spread and _known(spread.std)}
    return cells


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _with_spread(spread: Spread) -> str:
    text = _number(spread.mean)
    return text if math.isnan(spread.std) else f"{text} ± {spread.std:.{_digits(spread.mean)}f}"


def _number(value: float) -> str:
    return f"{value:.{_digits(value)}f}"


def _digits(value: float) -> int:
    return 3 if value < 1 else 2 if value < 10 else 1


def _measured(name: str, spread: Spread) -> str:
    words, _, unit = name.replace("mae_", "").rpartition("_")
    return f"{words.replace('_', ' ')} {_number(spread.mean)} {unit}" if words else f"{name} {_number(spread.mean)}"
