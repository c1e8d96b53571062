"""Work-precision diagram: how many digits a solver gets for how many seconds, drawn from a cross-check's JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from ndae.experiments.drawing.figures import figure

# Okabe and Ito's palette, for readers who see fewer colours: one a formulation, ours filled, others' open.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3a3a3a", "#8c6d31", "#9a9a9a")
_MARKERS = {"torch": "D", "IDA": "s", "Radau": "^"}


def work_precision(check: Mapping[str, Any], path: Path) -> Path:
    """Draw digits of the differential variables (and, at the right, of all) against seconds into `path`, a PNG.

    `check` is what ndae.experiments.crosscheck.report.to_json gives: a line for each solver and formulation, its points
    from the loosest to the tightest tolerance. Solves that failed have no point. Raises ValueError where no solve
    succeeded.
    """
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in check["runs"]:
        lines.setdefault((run["solver"], run["formulation"]), [])
        if run["failure"] is None:
            lines[run["solver"], run["formulation"]].append(run)
    if not any(lines.values()):
        raise ValueError(f"no solve of {check['problem']} succeeded: there is nothing to draw")
    panels = [("digits_differential", "correct digits, differential variables")]
    if len(check["differential"]) < len(check["states"]):
        panels.append(("digits_all", "correct digits, all variables"))
    with figure(4.6 * len(panels) + 1.9, 4.0) as sheet:
        axes = sheet.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        handles = []
        for axis, (key, label) in zip(axes, panels, strict=True):
            handles = [
                _line(axis, runs, key, colour, f"{solver}, {formulation}")
                for colour, ((solver, formulation), runs) in zip(_cycle(len(lines)), lines.items(), strict=True)
            ]
            axis.set_xscale("log")
            axis.set_xlabel("seconds, after compilation")
            axis.set_ylabel(label)
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylim(bottom=0)
        sheet.legend(handles=handles, loc="outside right upper")
        tolerances = sorted({run["rtol"] for run in check["runs"]})
        span = "rtol " + " to ".join(f"{rtol:.0e}" for rtol in dict.fromkeys((tolerances[-1], tolerances[0])))
        sheet.suptitle(f"{check['problem']} (index {check['index']}): {span}")
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.savefig(path)
    return path


def _line(axis: Any, runs: list[Mapping[str, Any]], key: str, colour: str, label: str) -> Any:
    solver = label.split(",")[0]
    points = [(run["seconds"], run[key]) for run in runs if run[key] is not None]
    seconds, digits = zip(*points, strict=True) if points else ((), ())
    outside = solver in _MARKERS
    (line,) = axis.plot(
        seconds,
        digits,
        color=colour,
        marker=_MARKERS.get(solver, "o"),
        markerfacecolor="white" if outside else colour,
        linestyle="--" if outside else "-",
        label=label if points else f"{label} (failed)",
    )
    return line


def _cycle(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]
