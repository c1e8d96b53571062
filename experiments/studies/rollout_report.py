"""The table and the figure of `ndae.experiments.studies.rollout`, drawn from its JSON file."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ndae.experiments.variants import METHOD_TITLES

HELD = 5.0  # s
TRUE, FREE, POTENTIAL, UNIFORM = "true force", "free force", "potential", "potential, uniform field"


def table(found: Mapping[str, Any]) -> str:
    """A line a model as Markdown."""
    lines = [
        "| model | seed | holds 10 cm for (s): median (quartiles) | states that hold 5 s | error at 5 s (cm): mean | "
        "median | force off by | links off by (m), 10 s | 100 s | own energy off by, 100 s | true energy off by, 10 s "
        "| 100 s | training (s) |",
        "| :-- " + "| ---: " * 12 + "|",
    ]
    for row in found["rows"]:
        low, middle, high = np.percentile(row["holds_s"], [25, 50, 75])
        errors, long = [math.inf if e is None else e for e in row["error_5s_cm"]], row.get("long", {})
        small: list[float | None] = [row.get("force_error") or math.nan]
        small += [row["links_off_m"], long.get("links_off_m", math.nan), long.get("own_energy_change", math.nan)]
        small += [row["energy_change"], long.get("energy_change", math.nan)]
        cells = [
            row["name"],
            "" if row["seed"] is None else str(row["seed"]),
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            f"{100 * row['share_5s']:.0f} %",
            _cm(float(np.mean(errors))),
            _cm(median(errors)),
            *map(_small, small),
            f"{row['train_seconds']:.0f}" if "train_seconds" in row else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _small(value: float | None) -> str:
    if value is None or value > 1e3:
        return "lost"
    return "" if math.isnan(value) else f"{value:.0e}"


def _cm(value: float) -> str:
    return "lost" if value > 1e4 else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def figure(found: Mapping[str, Any], path: Path) -> Path:
    """Error from one state and on average, links and energy over time, all methods in each panel, on logarithmic axes.

    Energy goes on to the end of the long rollouts, where a method has one. What leaves a panel at its top is lost.
    """
    from ndae.experiments.drawing.figures import METHOD_COLOURS, TRUTH_COLOUR, figure as sheet_of

    lines = {FREE: (0, (1, 1.2)), POTENTIAL: (0, (4, 1.5)), UNIFORM: "-"}
    titles = {name: f"Multiplier, {name}" for name in lines} | {TRUE: "true force, same steps"}
    with sheet_of(9.6, 7.4) as sheet:
        (one, mean), (links, energy) = sheet.subplots(2, 2)
        for row in sorted(found["rows"], key=lambda row: list(METHOD_TITLES).index(row["method"])):
            if "curves" not in row:
                continue
            name, curves = row["name"], row["curves"]
            style = {"color": METHOD_COLOURS[row["method"]], "linestyle": lines.get(name, "-")}
            if name == TRUE:
                style = {"color": TRUTH_COLOUR, "linewidth": 3.5, "zorder": 1}
            ts = curves["ts"]
            for axes, curve, scale in (
                (one, "error_one", 100), (mean, "error_mean", 100), (links, "links_off", 1),
            ):  # fmt: skip
                axes.plot(
                    ts[1:], scale * np.array(curves[curve][1:], dtype=float), label=titles.get(name, name), **style
                )
            end = row.get("long", {}).get("curves", curves)
            energy.plot(
                end["ts"][1:], 100 * np.maximum.accumulate(np.array(end["energy_change"][1:], dtype=float)), **style
            )
        for axes in (one, mean):
            axes.axhline(found["lost_cm"], color="black", linewidth=0.8, linestyle=(0, (6, 3)))
            axes.axvline(HELD, color="black", linewidth=0.8, linestyle=(0, (6, 3)))
            axes.set(xlabel="time (s)", ylabel="mean error per body (cm)", ylim=(1e-6, 1e3), xlim=(0, found["seconds"]))
        one.set_title("error, from the first state")
        mean.set_title(f"error, mean over {found['states']} states")
        links.set(
            xlabel="time (s)", ylabel="largest error of a link (m)", ylim=(1e-11, 1e2), xlim=(0, found["seconds"])
        )
        links.set_title("links")
        energy.axhline(0.1, color="black", linewidth=0.8, linestyle=(0, (6, 3)))
        energy.set(xlabel="time (s)", ylabel="largest change so far (% of 147 J)", xscale="log", ylim=(1e-7, 1e4))
        energy.set_title("true energy along the motion")
        for axes in (one, mean, links, energy):
            axes.set_yscale("log")
        handles, labels = one.get_legend_handles_labels()
        sheet.legend(handles, labels, loc="outside lower center", ncols=3)
        sheet.suptitle(f"Rolled out from held-out states, {found['n_train']:,} training samples, seed 0", fontsize=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.savefig(path)
    return path
