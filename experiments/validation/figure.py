"""The figure of `ndae validate`: error, its parts, violation and energy against time."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator

from ndae.experiments.drawing.figures import METHOD_COLOURS, figure
from ndae.experiments.validation.report import Validation, spread, title_of

# The network in its method's colour, rolled out solid and one horizon on dashed; its counterparts in greys.
_ONE = (0, (4, 1.5))
_CONTROLS = {
    "velocities": ("true field, velocities rebuilt", "#8c8c8c", (0, (1, 1.2))),
    "integrator": ("true field in its place", "#8c8c8c", "-"),
}
_NOTHING = 1e-16


def validation_figure(found: Validation, path: Path | str) -> Path:
    """Draw what was found, four panels against time, and return the file's path.

    Lines are medians over trajectories and shaded regions reach from the low to the high quartile; violations are the
    largest of all trajectories. An axis ends where errors are far beyond the system's size.
    """
    method: Any = found.about.get("method")
    colour = METHOD_COLOURS.get(method, "#0072B2")
    with figure(9.0, 6.6) as sheet:
        (rolled, one), (violation, energy) = sheet.subplots(2, 2, sharex=True)
        for axes in (rolled, one, violation, energy):
            axes.set_yscale("log")
        _draw_rollout(rolled, found, colour)
        _draw_one_period(one, found, colour)
        _draw_violation(violation, found, colour)
        drawn = [rolled, one, violation]
        if found.energy_range is None:
            energy.set_axis_off()
            one.set_xlabel("time since the held-out state (s)")
            one.tick_params(labelbottom=True)
        else:
            _draw_energy(energy, found, found.energy_range, colour)
            drawn.append(energy)
        for axes in drawn:
            axes.yaxis.set_major_locator(LogLocator(numticks=8))
            axes.set_xlim(0, found.ts[-1])
            axes.margins(x=0)
        for axes in drawn[2:]:
            axes.set_xlabel("time since the held-out state (s)")
        sheet.suptitle(title_of(found.about), fontsize=10)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.savefig(path)
        return path


def _draw_rollout(axes, found: Validation, colour) -> None:
    axes.set_title("Rolled out: error and what causes it")
    axes.set_ylabel("mean error per body (m)")
    _median(axes, found.ts[1:], found.rollout["error"][:, 1:], colour, label="network")
    for name, (label, grey, line) in _CONTROLS.items():
        if name in found.control_errors:
            _median(axes, found.ts[1:], found.control_errors[name][:, 1:], grey, label=label, linestyle=line)
    higher = found.unrelated is not None and found.unrelated > found.threshold
    _level(axes, found.threshold, f"a tenth of {found.size_of}", below=higher)
    if found.unrelated is not None:
        _level(axes, found.unrelated, "two unrelated states", at=0.45, below=not higher)
    axes.legend(loc="best", fontsize=8)
    _end_at(axes, 10 * found.size)
    _leave_room(axes, max(found.threshold, found.unrelated or 0.0))


def _draw_one_period(axes, found: Validation, colour) -> None:
    axes.set_title(f"One horizon on ({found.period:g} s), from true states")
    axes.set_ylabel("mean error per body (m)")
    ts = found.ts[1:]
    _median(axes, ts, found.one_period["error"], colour, label="network", linestyle=_ONE)
    label, grey, line = _CONTROLS["integrator"]
    _median(axes, ts, found.one_period["integrator"], grey, label=label, linestyle=line)
    _level(axes, found.threshold, f"a tenth of {found.size_of}")
    axes.legend(loc="best", fontsize=8)
    _end_at(axes, 10 * found.size)
    _leave_room(axes, found.threshold)


def _draw_violation(axes, found: Validation, colour) -> None:
    axes.set_title("Largest violation of all trajectories")
    axes.set_ylabel("|c| (m), |dc/dt| (m/s)")
    for name, label, shade in (("velocity", "velocity", 0.45), ("position", "position", 1.0)):
        if f"{name}_violation" not in found.rollout:
            continue
        for curves, ts, line, how in (
            (found.rollout, found.ts[1:], "-", "rolled out"),
            (found.one_period, found.ts[1:], _ONE, "one horizon on"),
        ):
            values = curves[f"{name}_violation"][:, -len(ts) :].max(0)
            axes.plot(
                ts, np.maximum(values, _NOTHING), color=colour, alpha=shade, linestyle=line, label=f"{label}, {how}"
            )
    _end_at(axes, 1e6)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend, over the curves
    axes.legend(loc="upper right", fontsize=7, ncols=2, columnspacing=1.2)


def _draw_energy(axes, found: Validation, energy_range: float, colour) -> None:
    axes.set_title("Energy")
    axes.set_ylabel("error of the energy (J)")
    _median(axes, found.ts[1:], found.rollout["energy_error"][:, 1:], colour, label="rolled out")
    _median(axes, found.ts[1:], found.one_period["energy_error"], colour, label="one horizon on", linestyle=_ONE)
    _level(axes, energy_range, "range of the potential energy")
    axes.legend(loc="lower right", fontsize=8)
    _end_at(axes, 100 * energy_range)
    _leave_room(axes, energy_range)


def _median(axes, ts: np.ndarray, values: np.ndarray, colour, *, label: str, linestyle: Any = "-") -> None:
    statistics = {name: np.maximum(curve, _NOTHING) for name, curve in spread(values).items()}
    axes.plot(ts, statistics["median"], color=colour, linestyle=linestyle, label=label)
    axes.fill_between(ts, statistics["low"], statistics["high"], color=colour, alpha=0.18, linewidth=0)


def _level(axes, value: float, words: str, at: float = 0.0, below: bool = False) -> None:
    axes.axhline(value, color="black", linewidth=0.7, linestyle=(0, (1, 2)))
    # At the left, where errors are small; behind the curves, since they need not be.
    axes.annotate(
        words, (at, value), xycoords=axes.get_yaxis_transform(), xytext=(3, -2 if below else 2),
        textcoords="offset points", va="top" if below else "bottom", fontsize=7, zorder=1.5,
    )  # fmt: skip


def _leave_room(axes, level: float) -> None:
    """Have the axis reach far enough over a level for the words that stand on it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, level * (level / low) ** 0.08))


def _end_at(axes, most: float) -> None:
    """Cut off what is beyond `most`: an axis over thirty decades shows nothing."""
    low, high = axes.get_ylim()
    if high > most:
        axes.set_ylim(low, most)
