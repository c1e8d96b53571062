"""The paper's figures, drawn from plain numbers: curves against epoch (4, 5, 7, 8) and snapshots (6).

Every function takes data that can be kept as JSON, writes a PNG and returns its path. Figures are drawn on the Agg
canvas directly, so no display, backend or global state is involved.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ndae.experiments.problems.pendulum_data import link_lengths, violation
from ndae.experiments.problems.registry import to_learn
from ndae.experiments.runs.records import Record
from ndae.experiments.variants import METHOD_TITLES, Variant

# Okabe and Ito's palette, told apart by colour-blind readers; one colour a method in every figure.
METHOD_COLOURS = {
    "none": "#3a3a3a",
    "auxiliary": "#E69F00",
    "penalty": "#0072B2",
    "end": "#009E73",
    "smooth": "#D55E00",
    "tangent": "#56B4E9",
    "multiplier": "#CC79A7",
    "soft": "#8B5A2B",  # the palette's yellow is too light for a line
}
TRUTH_COLOUR, START_COLOUR = "#b0b0b0", "#d8d8d8"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 160,
}
_ERROR = "mean error per body (cm)"


@contextmanager
def figure(width: float, height: float, **options):
    """A figure of the house style, `width` by `height` inches."""
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained", **options)


def colour_of(variant: Variant) -> str:
    return METHOD_COLOURS[variant.method]


def curves_figure(
    runs: Mapping[Variant, Sequence[Record]],
    path: Path,
    *,
    title: str = "",
    colours: Mapping[Variant, object] | None = None,
) -> Path:
    """Draw error (left) and largest constraint violation (right) against epoch, as the paper's Figures 4, 5, 7 and 8.

    `runs`: for each variant its runs, one a seed, all of one problem, whose units the axes have. Lines are means over
    seeds, solid for validation and dashed for training data where the log has them; the shaded regions are one standard
    deviation to each side. Violations are on a logarithmic axis, since those of projections lie several orders below
    the others.
    """
    if not any(runs.values()):
        raise ValueError("no runs to draw")
    problem = to_learn(next(record for records in runs.values() for record in records).setting.problem)
    unit, *_ = problem.error_unit
    error = f"mean error per {'atom' if problem.molecule else 'body'} ({unit})"
    violation = f"largest violation ({problem.violation_unit})"
    with figure(9.0, 3.9) as sheet:
        panels = sheet.subplots(1, 2)
        columns = (
            (error, f"val_mae_{unit}", f"train_mae_{unit}"),
            (violation, "val_violation_max", "train_violation_max"),
        )
        for axes, (label, solid, dashed) in zip(panels, columns, strict=True):
            for variant, records in runs.items():
                colour = (colours or {}).get(variant, colour_of(variant))
                _mean_and_band(axes, records, solid, colour, linestyle="-")
                _mean_and_band(axes, records, dashed, colour, linestyle=(0, (3, 1.5)))
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.set_yscale("log")
            axes.margins(x=0.01)
        _plain_decades(panels[0])
        _curves_legend(sheet, runs, colours or {}, f"train_mae_{unit}")
        if title:
            sheet.suptitle(title, fontsize=10)
        return _save(sheet, path)


@dataclass(frozen=True)
class Snapshots:
    """Predictions of some test samples, for Figure 6 and the animation; nested lists of metres, so that JSON holds it.

    `start` and `truth`: the states now and `horizon` steps later, `(samples, nodes, 2)`. `predictions`: the same for
    each variant by its title, with `methods` its method. `times`: seconds of the start states.
    """

    times: Sequence[float]
    start: Sequence
    truth: Sequence
    predictions: Mapping[str, Sequence]
    methods: Mapping[str, str]
    horizon: int

    def to_json(self) -> dict:
        return asdict(self)

    def errors_cm(self, title: str) -> np.ndarray:
        """Mean distance a body between prediction and truth, in cm, for each sample."""
        difference = np.asarray(self.predictions[title]) - np.asarray(self.truth)
        return 100 * np.linalg.norm(difference, axis=-1).mean(-1)

    def violations(self, title: str) -> np.ndarray:
        """Largest error of a link's length, in m, for each sample."""
        return violation(self.predictions[title]).max(-1)


def snapshots_figure(snapshots: Snapshots, path: Path, *, title: str = "") -> Path:
    """Draw predictions over the truth, a row a sample and a column a variant, as the paper's Figure 6.

    The number under each pendulum is that prediction's mean error a body; the thin line is where it started.
    """
    rows, columns = len(snapshots.times), len(snapshots.predictions)
    if not rows or not columns:
        raise ValueError("no snapshots to draw")
    with figure(max(1.75 * columns + 0.3, 5.0), 1.9 * rows + 0.7) as sheet:  # one column is narrower than the legend
        panels = sheet.subplots(rows, columns, squeeze=False)
        for row in range(rows):
            start, truth = np.asarray(snapshots.start[row]), np.asarray(snapshots.truth[row])
            drawn = [start, truth, *(np.asarray(p[row]) for p in snapshots.predictions.values())]
            window = _window(np.stack(drawn))
            for axes, (name, predicted) in zip(panels[row], snapshots.predictions.items(), strict=True):
                draw_chain(axes, start, colour=START_COLOUR, width=0.8, marker=0)
                draw_chain(axes, truth, colour=TRUTH_COLOUR, width=3.2, marker=6)
                draw_chain(axes, np.asarray(predicted[row]), colour=METHOD_COLOURS[snapshots.methods[name]], width=1.5)
                bare(axes, window)
                error = snapshots.errors_cm(name)[row]
                axes.set_xlabel(
                    f"{error:.2g} cm" if error < 1 else f"{error:.1f} cm" if error < 100 else f"{error:.0f} cm"
                )
            panels[row, 0].set_ylabel(f"t = {snapshots.times[row]:.2f} s")
        for axes, name in zip(panels[0], snapshots.predictions, strict=True):
            axes.set_title(two_lines(name, snapshots.methods[name]), fontsize=9)
        handles = [
            Line2D([], [], color=START_COLOUR, linewidth=0.8, label="state now"),
            Line2D([], [], color=TRUTH_COLOUR, linewidth=3.2, label=f"truth {snapshots.horizon} steps later"),
            Line2D([], [], color="black", linewidth=1.5, marker="o", markersize=3.5, label="prediction (in colour)"),
        ]
        sheet.legend(handles=handles, loc="outside lower center", ncols=3)
        if title:
            sheet.suptitle(title, fontsize=10)
        return _save(sheet, path)


def drift_figure(frames: Snapshots, path: Path, *, dt: float, title: str = "") -> Path:
    """Draw error (left) and the lengths that predicted links take (right) against time, all methods in one.

    The shaded regions on the right reach from the shortest to the longest link of each prediction; the truth is a line.
    """
    then = np.asarray(frames.times) + frames.horizon * dt
    with figure(9.0, 3.4) as sheet:
        error, lengths = sheet.subplots(1, 2)
        for name, predicted in frames.predictions.items():
            colour = METHOD_COLOURS[frames.methods[name]]
            error.plot(then, frames.errors_cm(name), color=colour, label=name)
            links = link_lengths(predicted)
            low, high = links.min(-1), links.max(-1)
            lengths.fill_between(then, low, high, color=colour, alpha=0.3, linewidth=0)
            lengths.plot(then, np.column_stack([low, high]), color=colour, linewidth=0.9)
        error.set(xlabel="time (s)", ylabel=_ERROR, xlim=(then[0], then[-1]), ylim=(0, None))
        lengths.set(xlabel="time (s)", ylabel="shortest to longest link (m)", xlim=(then[0], then[-1]))
        sheet.legend(*error.get_legend_handles_labels(), loc="outside lower center", ncols=len(frames.predictions))
        if title:
            sheet.suptitle(title, fontsize=10)
        return _save(sheet, path)


def draw_chain(axes, r: np.ndarray, *, colour, width: float, marker: float = 3.5, **options) -> Line2D:
    """Draw the chain `(nodes, 2)` from the origin through its bodies."""
    points = np.concatenate([np.zeros((1, 2)), r])
    markers = {"marker": "o", "markersize": marker, "markevery": slice(1, None)} if marker else {}
    (line,) = axes.plot(
        *points.T, color=colour, linewidth=width, solid_joinstyle="round", solid_capstyle="round", **markers, **options
    )
    return line


def bare(axes, window: tuple[float, float, float, float]) -> None:
    """Show `window` (left, right, bottom, top, in m) at equal scales without ticks, and the point of suspension."""
    axes.plot(0, 0, marker="s", color="black", markersize=3, zorder=5)
    axes.set(xlim=window[:2], ylim=window[2:], xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def two_lines(title: str, method: str) -> str:
    """Break a variant's title between the method's name and its strengths."""
    name = METHOD_TITLES[method]
    return f"{name}\n{title.removeprefix(name).strip()}"


def series_colours(count: int) -> list:
    """Colours of an ordered series (a sweep), dark to light, still visible on white."""
    return [matplotlib.colormaps["viridis"](0.85 * i / max(count - 1, 1)) for i in range(count)]


def _mean_and_band(axes, records: Sequence[Record], column: str, colour, *, linestyle) -> None:
    logs = [record.log for record in records if len(record.log.get(column, ()))]
    if not logs:
        return
    length = max(len(log[column]) for log in logs)  # early stopping may end some seeds before others
    values = np.full((len(logs), length), np.nan)
    for row, log in zip(values, logs, strict=True):
        row[: len(log[column])] = log[column]
    epochs = np.asarray(max((log["epoch"] for log in logs), key=len))
    counts = np.isfinite(values).sum(0)
    mean = np.nansum(values, 0) / np.maximum(counts, 1)
    axes.plot(epochs, np.where(counts > 0, mean, np.nan), color=colour, linestyle=linestyle)
    if len(logs) < 2:
        return
    spread = np.sqrt(np.nansum((values - mean) ** 2, 0) / np.maximum(counts - 1, 1))
    low = mean - spread
    # A logarithmic axis has no zero: a band that reaches it ends at the smallest seed.
    low = np.where(low > 0, low, np.nanmin(np.where(np.isnan(values), np.inf, values), 0))
    axes.fill_between(epochs, low, mean + spread, color=colour, alpha=0.15, linewidth=0)


def _curves_legend(
    sheet: Figure, runs: Mapping[Variant, Sequence[Record]], colours: Mapping[Variant, Any], training: str
) -> None:
    lines = [Line2D([], [], color=colours.get(v, colour_of(v)), label=v.title) for v, rs in runs.items() if rs]
    seeds = max(len(records) for records in runs.values())
    lines.append(Line2D([], [], color="black", label="validation"))
    if any(len(record.log.get(training, ())) for records in runs.values() for record in records):
        lines.append(Line2D([], [], color="black", linestyle=(0, (3, 1.5)), label="training"))
    if seeds > 1:
        lines.append(Line2D([], [], color="black", alpha=0.2, linewidth=7, label=f"±1 std of {seeds} seeds"))
    sheet.legend(handles=lines, loc="outside lower center", ncols=min(4, math.ceil(len(lines) / 2)))


def _plain_decades(axes) -> None:
    # Errors span one decade or less: 20, 30, 40 read better than powers of ten.
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _window(points: np.ndarray) -> tuple[float, float, float, float]:
    """A square around `points` `(..., 2)` and the origin, with a margin."""
    points = np.concatenate([points.reshape(-1, 2), np.zeros((1, 2))])
    centre = (points.min(0) + points.max(0)) / 2
    half = 1.08 * max((points.max(0) - points.min(0)).max() / 2, 1e-9)
    return centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half


def _save(sheet: Figure, path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path)
    return path
