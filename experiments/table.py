"""The measured table: a row a variant, as text in the terminal, as CSV and as Markdown."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from experiments.motions import find
from experiments.records import PAPER_TABLE_1, Record, Setting, Spread, Variant, group


@dataclass(frozen=True)
class Row:
    """One line of the table; spreads are over seeds, and nothing is known of what is None.

    `error` in cm, `violation_mean` and `violation_max` in the problem's unit, `step` in ms of one training step,
    `ratio` of that to the unconstrained network's, `paper` the paper's error in cm.
    """

    title: str
    method: str
    gamma: float
    eta: float
    seeds: int
    error: Spread
    violation_mean: Spread | None = None
    violation_max: Spread | None = None
    step: Spread | None = None
    ratio: float | None = None
    paper: float | None = None
    parameters: int | None = None
    train_seconds: Spread | None = None
    stabilisation: str | None = None
    force: str | None = None


@dataclass(frozen=True)
class Table:
    """All variants of one setting side by side."""

    setting: Setting
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        problem, network, n_train, horizon, epochs, schedule = self.setting
        ending = f", {schedule} schedule" if schedule != "constant" else ""
        return (
            f"{problem.replace('_', ' ')}: {n_train:,} training samples, {horizon} steps ahead, "
            f"{network} network, {epochs} epochs{ending}"
        )

    @property
    def header(self) -> list[str]:
        """Names of the columns, with their units."""
        unit = find(self.setting.problem).violation_unit
        return [name.replace("(m)", f"({unit})") for name in _HEADER]

    @property
    def notes(self) -> list[str]:
        """What a reader must know to read the numbers."""
        seeds = sorted({row.seeds for row in self.rows})
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        many, problem = seeds[-1] > 1, find(self.setting.problem)
        notes = [
            f"error: {problem.error_is} over the test samples"
            + (f", mean ± standard deviation of {count} seeds" if many else ", one seed"),
            f"violation: {problem.violation_is}, mean and largest over all {problem.violation_of}, samples"
            + " and seeds" * many,
            "ratio: of a step's time to that without constraint; runs follow each other, so other load shows in it",
        ]
        if any(row.paper is not None for row in self.rows):
            notes.append("paper: error in its Table 1 (mimetic network of 5.8 M parameters, mean of three runs)")
        return notes


def make_tables(records: Iterable[Record]) -> list[Table]:
    """Make one table for each setting found in `records`."""
    return [_make_table(setting, runs) for setting, runs in group(records).items()]


def _make_table(setting: Setting, runs: Mapping[Variant, Sequence[Record]]) -> Table:
    paper = PAPER_TABLE_1.get((setting.horizon, setting.n_train), {}) if setting.problem == "pendulum" else {}
    plain = next((_spread(rs, "step_ms").mean for v, rs in runs.items() if v.method == "none"), None)
    rows = [_row(variant, records, plain, paper.get(variant)) for variant, records in runs.items()]
    return Table(setting, (*_baseline_rows(runs), *rows))


def _row(variant: Variant, records: Sequence[Record], plain_step: float | None, paper: float | None) -> Row:
    step = _spread(records, "step_ms")
    return Row(
        title=variant.title,
        method=variant.method,
        gamma=variant.gamma,
        eta=variant.eta,
        seeds=len(records),
        error=_spread(records, "test_mae_cm"),
        violation_mean=_spread(records, "violation_mean"),
        violation_max=_spread(records, "violation_max"),
        step=step,
        ratio=step.mean / plain_step if plain_step else None,
        paper=paper,
        parameters=int(records[0].result["parameters"]),
        train_seconds=_spread(records, "train_seconds"),
        stabilisation=variant.stabilisation if variant.method == "multiplier" else None,
        force=variant.force if variant.method == "multiplier" else None,
    )


def _baseline_rows(runs: Mapping[Variant, Sequence[Record]]) -> list[Row]:
    # Test samples depend on the seed only, so any variant's records tell; the one with most seeds tells best.
    known = [record.result["baselines"] for record in max(runs.values(), key=len) if "baselines" in record.result]
    rows: dict[str, Row] = {}
    for name in known[0] if known else ():
        values = [baselines[name] for baselines in known]
        error, mean, most = (Spread.of(v[key] for v in values) for key in ("mae_cm", "violation_mean", "violation_max"))
        unprojected = rows.get(name.removesuffix(", projected"))
        if unprojected is None or not math.isclose(unprojected.error.mean, error.mean, rel_tol=1e-6):
            title = name.replace("constant", "const.").replace("projected", "proj.").replace("training ", "")
            rows[name] = Row(f"({title})", name, 0.0, 0.0, len(known), error, mean, most)
    return list(rows.values())


def _spread(records: Sequence[Record], key: str) -> Spread:
    return Spread.of(record.result[key] for record in records)


_HEADER = (
    "method", "error (cm)", "paper", "violation mean (m)", "violation max (m)", "step (ms)", "ratio", "parameters",
)  # fmt: skip

_TIMES = ("step (ms)", "ratio")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.title,
        _with_spread(row.error),
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
    row = table.rows[-1]
    projections, problem = result.get("projections"), find(table.setting.problem)
    unit, paper = problem.violation_unit, f" (paper: {row.paper:g} cm)" if row.paper else ""
    lines = [
        f"{table.title}, seed {record.seed}",
        f"  method      {row.title}, {row.parameters:,} parameters",
        f"  test error  {row.error.mean:.2f} cm{paper}, {problem.error_is}",
        f"  violation   {result['violation_mean']:.1e} {unit} mean, {result['violation_max']:.1e} {unit} most, "
        f"{problem.violation_is}",
        f"  training    {result['train_seconds']:.0f} s, {result['step_ms']:.1f} ms a step",
    ]
    if projections:
        lines.append(
            f"  projections {projections['count']:,} in the test, of {projections['iterations_mean']:.1f} iterations, "
            f"{projections['iterations_max']} at most, {projections['unconverged']:,} not converged"
        )
    others = "; ".join(f"{other.title.strip('()')} {other.error.mean:.1f} cm" for other in table.rows[:-1])
    return "\n".join(lines + ([f"  for scale   {others}"] if others else []))


def print_table(table: Table, say) -> None:
    """Print the table with `say`, a rich console's `print`: at most 80 columns wide, the notes below it.

    The number of parameters gets a column only where the variants differ in it.
    """
    from rich import box
    from rich.table import Table as RichTable

    counts = {row.parameters for row in table.rows if row.parameters is not None}
    shown = len(_HEADER) - (1 if len(counts) < 2 else 0)
    notes = table.notes + ([f"parameters: {counts.pop():,} each"] if len(counts) == 1 else [])
    best = min((row.error.mean for row in table.rows if row.parameters is not None), default=None)
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in table.header[:shown]:
        first, _, rest = name.partition(" ")
        drawn.add_column(f"{first}\n{rest}", justify="left" if name == "method" else "right", no_wrap=True)
    for row in table.rows:
        baseline = row.parameters is None
        style = "dim" if baseline else "bold" if row.error.mean == best else None
        drawn.add_row(*_cells(row)[:shown], style=style)
    say(table.title, style="bold", markup=False)
    say(drawn)
    for note in notes:
        say(f"  {note}", style="dim", markup=False)


def to_markdown(tables: Iterable[Table]) -> str:
    """The tables as Markdown, for a README: without times, which are measured apart (`experiments.benchmarks`)."""
    shown = [index for index, name in enumerate(_HEADER) if name not in _TIMES]
    lines = []
    for table in tables:
        lines += [f"**{table.title}**", "", "| " + " | ".join(table.header[index] for index in shown) + " |"]
        lines.append("| --- |" + " ---: |" * (len(shown) - 1))
        for row in table.rows:
            cells = _cells(row)
            lines.append("| " + " | ".join(cells[index] for index in shown) + " |")
        lines += ["", *(f"- {note}" for note in table.notes if not note.startswith("ratio")), ""]
    return "\n".join(lines)


def to_csv(tables: Iterable[Table]) -> str:
    """The tables as CSV in full precision; a standard deviation of a single seed is empty."""
    spreads = {
        "test_mae_cm": "error", "violation_mean": "violation_mean", "violation_max": "violation_max", "step_ms": "step",
        "train_seconds": "train_seconds",
    }  # fmt: skip
    head = ["problem", "network", "parameters", "n_train", "horizon", "epochs", "schedule"]
    head += ["method", "gamma", "eta", "stabilisation", "force", "seeds"]
    head += [f"{name}{end}" for name in spreads for end in ("", "_std")] + ["step_ratio", "paper_mae_cm"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for table in tables:
        for row in table.rows:
            problem, network, n_train, horizon, epochs, schedule = table.setting
            line = [problem, network, row.parameters, n_train, horizon, epochs, schedule]
            line += [row.method, row.gamma, row.eta, row.stabilisation, row.force, row.seeds]
            for attribute in spreads.values():
                spread = getattr(row, attribute)
                line += [None, None] if spread is None else [spread.mean, _known(spread.std)]
            writer.writerow([*line, row.ratio, row.paper])
    return out.getvalue()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _with_spread(spread: Spread) -> str:
    digits = 3 if spread.mean < 1 else 2 if spread.mean < 10 else 1
    text = f"{spread.mean:.{digits}f}"
    return text if math.isnan(spread.std) else f"{text} ± {spread.std:.{digits}f}"
