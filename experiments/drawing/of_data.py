"""Recordings beside what was learned of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def recordings_figure(checked: Any, recordings: Sequence[Any], path: Path) -> Path:
    """Draw what was seen, as dots, and the reference solution of the learned system, as lines: an output a row, a
    recording a column."""
    import matplotlib.figure

    outputs = list(dict.fromkeys(name for r in recordings for name in r.values))
    size = 3.4 * len(recordings), 2.2 * len(outputs)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(outputs), len(recordings), squeeze=False, sharex="col"))
    for column, (r, found) in enumerate(zip(recordings, checked.recordings, strict=True)):
        for row, name in enumerate(outputs):
            axes = grid[row, column]
            if name in r.values:
                axes.plot(r.times, r.values[name], ".", color="0.5", markersize=3, label="seen")
            if name in found.shown:
                axes.plot(r.times, found.shown[name], "C0-", label="learned")
            if column == 0:
                axes.set_ylabel(name)
            if row == 0:
                axes.set_title(found.name, fontsize="small")
            if row == len(outputs) - 1:
                axes.set_xlabel("t")
    grid[0, 0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
