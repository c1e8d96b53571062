"""The table and the figure of `ndae.experiments.studies.water_rollout`, drawn from its JSON file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def table(found: Mapping[str, Any]) -> str:
    """A line a model as Markdown."""
    at = list(found["constant_velocity"]["error_pm"])
    lines = [
        "| motion | lost | temperature (K) | off by (rms) | drift of own energy (kJ/mol, rms) | of true energy | "
        "O-H (pm) | first O-O peak (pm) | its height | " + " | ".join(f"error at {t} fs (pm)" for t in at) + " |",
        "| :-- |" + " ---: |" * (8 + len(at)),
    ]
    for row in [found["openmm"], *found["rows"]]:
        starts, errors = row["lost_fs"], row["error_pm"]
        lost = [time for time in starts if time is not None]
        bond, (place, height) = row["bond_A"], row["oxygens"].values()
        cells = [
            row["name"],
            f"{len(lost)} of {len(starts)}, from {min(lost):g} fs" if lost else "none",
            f"{row['temperature_K']['mean']:.1f}",
            f"{row['temperature_K']['rms_deviation']:.2g}" if errors else "",
            _drift(row["drift"].get("own")),
            _drift(row["drift"]["true"]),
            f"{100 * bond['mean']:.2f} ± {100 * bond['std']:.2f}",
            "lost" if place is None else f"{100 * place:.1f}",
            "lost" if height is None else f"{height:.2f}",
            *(_pm(errors[t]) if t in errors else "" for t in at),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    errors = found["constant_velocity"]["error_pm"]
    lines.append("| constant velocity |" + " |" * 8 + " " + " | ".join(_pm(errors[t]) for t in at) + " |")
    return "\n".join(lines)


def _drift(drift: Mapping[str, float | None] | None) -> str:
    if drift is None:
        return ""
    if drift["rms_kJ"] is None:
        return "lost"
    return f"{drift['rms_kJ']:.2g} ({drift['rms_percent']:.2g} %)"


def _pm(value: float | None) -> str:
    return "lost" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def figure(found: Mapping[str, Any], path: Path) -> Path:
    """Temperature from one start, energies and error over time (medians and quartiles of all starts), and how distances
    in molecules and between them are distributed; OpenMM's are grey and wide."""
    from matplotlib.ticker import FuncFormatter

    from ndae.experiments.drawing.figures import TRUTH_COLOUR, figure as sheet_of

    times, rows = np.array(found["times_fs"]), found["rows"]
    styles = _styles(rows)
    with sheet_of(10.8, 6.3) as sheet:
        (warm, own, true), (bond, oxygens, error) = sheet.subplots(2, 3)
        middles = [(np.array(found[name][1:]) + found[name][:-1]) / 2 for name in ("bond_edges_A", "oxygens_edges_A")]
        wide = {"color": TRUTH_COLOUR, "linewidth": 4, "zorder": 1, "label": "OpenMM, steps of 0.1 fs"}
        panels = ((warm, times, "temperature_one_K"), (bond, middles[0], "bond"), (oxygens, middles[1], "oxygens"))
        for axes, x, name in panels:
            axes.plot(x, _numbers(found["openmm"]["curves"][name]), **wide)
            for row, style in zip(rows, styles, strict=True):
                axes.plot(x, _numbers(row["curves"][name]), **style)
        for axes, name in ((own, "own_kJ"), (true, "true_kJ"), (error, "error_pm")):
            for row, style in zip(rows, styles, strict=True):
                if name in row["curves"]:
                    _band(axes, times, row["curves"][name], style)
        _band(true, times, found["openmm"]["curves"]["true_kJ"], wide)
        dashed = {"color": "black", "linewidth": 1, "linestyle": (0, (6, 3)), "label": "constant velocity"}
        _band(error, times, found["constant_velocity"]["curve_pm"], dashed)
        known = _numbers(found["openmm"]["curves"]["temperature_one_K"])
        warm.set(ylim=(0.8 * known.min(), 1.25 * known.max()))
        warm.set(ylabel="temperature (K)", title="Temperature, from one start")
        own.set(ylabel="change since the start (kJ/mol)", title="Energy, of the motion's own potential")
        true.set(ylabel="change since the start (kJ/mol)", title="Energy, of the true potential")
        true.set_yscale("symlog", linthresh=1.0)
        true.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axes in (warm, own, true):
            axes.set(xlabel="time (fs)", xlim=(0, times[-1]))
        bond.set(xlabel="O-H distance in a molecule (Å)", ylabel="density (1/Å)", title="O-H bonds")
        # Bonds that a projection holds are a spike, which would leave all others flat.
        usual = _numbers(found["openmm"]["curves"]["bond"]).max()
        bond.set(xlim=(middles[0][0], middles[0][-1]), ylim=(0, 2 * usual))
        oxygens.set(
            xlabel="O-O distance (Å)", ylabel="g(r), at liquid density", title="Distances of oxygens, later half"
        )
        oxygens.set(xlim=(middles[1][0], middles[1][-1]), ylim=(0, None))
        error.set(xlabel="time (fs)", ylabel="mean error per atom (pm)", title="Error", xscale="log", yscale="log")
        error.set(xlim=(times[1], times[-1]))
        for axis in (error.xaxis, error.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        handles, labels = error.get_legend_handles_labels()
        grey, name = (x[0] for x in bond.get_legend_handles_labels())
        sheet.legend([grey, *handles], [name, *labels], loc="outside lower center", ncols=3)
        starts = " and ".join(f"{count} {where}" for where, count in found["starts"].items())
        sheet.suptitle(
            f"{found['n_molecules']} water molecules rolled out from held-out starts ({starts}); medians, quartiles",
            fontsize=10,
        )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.savefig(path)
    return path


def _styles(rows: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A colour a method; an ordered series of colours where several rows are of one."""
    from ndae.experiments.drawing.figures import METHOD_COLOURS, series_colours

    methods = [row["method"] for row in rows if row["method"]]
    colours = (
        [METHOD_COLOURS[method] for method in methods]
        if len(set(methods)) == len(methods)
        else series_colours(len(methods))
    )
    after = iter(colours)
    dotted = {"color": "black", "linewidth": 0.9, "linestyle": (0, (1, 1.5))}
    return [
        {"label": row["name"], "color": next(after), "linewidth": 1.3}
        if row["method"]
        else {"label": row["name"], **dotted}
        for row in rows
    ]


def _band(axes, x: np.ndarray, quartiles: list, style: Mapping[str, Any]) -> None:
    low, middle, high = map(_numbers, quartiles)
    axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _numbers(values: list) -> np.ndarray:
    return np.array(values, dtype=float)  # None is NaN
