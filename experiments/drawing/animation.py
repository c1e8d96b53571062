"""The animation: predictions of several methods beside each other, over the reference, as a GIF."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ndae.experiments.drawing.figures import (
    METHOD_COLOURS,
    TRUTH_COLOUR,
    Snapshots,
    bare,
    draw_chain,
    figure,
    two_lines,
)
from ndae.experiments.problems.pendulum_data import violation
from ndae.solvers.progress import Progress

WRONG_COLOUR = "#e8178a"  # no method's colour
# Width of the glow around a link, in points a metre of wrong length, and at most.
_GLOW, _GLOW_MOST = 120.0, 24.0


def animate(
    frames: Snapshots,
    path: Path,
    *,
    dt: float,
    frame_ms: int = 60,
    report: Progress | None = None,
) -> Path:
    """Draw each of the successive samples in `frames` as a frame of a GIF: truth in grey, a panel a method.

    Links whose length is wrong glow, the wider the more wrong; the strip below shows the largest error of a link's
    length against time. `dt`: seconds a step, `frame_ms`: how long a frame stays.
    """
    from PIL import Image

    if len(frames.times) < 2:
        raise ValueError(f"an animation needs at least two frames, got {len(frames.times)}")
    images = []
    with figure(3.4 * max(len(frames.predictions), 2), 5.8) as sheet:
        canvas = FigureCanvasAgg(sheet)
        sheet.set_dpi(90)
        show = _Scene(sheet, frames, dt).show
        for index in range(len(frames.times)):
            show(index)
            canvas.draw()
            # One palette for all frames, or the colours flicker.
            image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            images.append(
                image.quantize(64) if not images else image.quantize(palette=images[0], dither=Image.Dither.NONE)
            )
            if report:
                report((index + 1) / len(frames.times), "drawing the animation")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, save_all=True, append_images=images[1:], duration=frame_ms, loop=0, optimize=False)
    return path


class _Scene:
    """Everything that stands still is drawn once; `show` moves the rest."""

    def __init__(self, sheet, frames: Snapshots, dt: float):
        self.frames = frames
        self.then = np.asarray(frames.times) + frames.horizon * dt
        top, strip = sheet.subfigures(2, 1, height_ratios=(4.0, 1.7))
        panels = np.atleast_1d(top.subplots(1, len(frames.predictions)))
        window = self._window()
        self.moving = []
        for axes, (name, predicted) in zip(panels, frames.predictions.items(), strict=True):
            predicted = np.asarray(predicted)
            colour = METHOD_COLOURS[frames.methods[name]]
            truth = draw_chain(axes, np.asarray(frames.truth[0]), colour=TRUTH_COLOUR, width=4, marker=7)
            glow = LineCollection([], colors=WRONG_COLOUR, alpha=0.4, capstyle="butt", zorder=2)
            axes.add_collection(glow)
            line = draw_chain(axes, predicted[0], colour=colour, width=1.8, marker=4.5)
            bare(axes, window)
            axes.set_title(two_lines(name, frames.methods[name]))
            axes.set_xlabel("\n", family="monospace", fontsize=8.5)
            self.moving.append((name, predicted, violation(predicted), glow, truth, line, axes))
        handles = [
            Line2D([], [], color=TRUTH_COLOUR, linewidth=4, marker="o", markersize=7, label="reference"),
            Line2D([], [], color="black", linewidth=1.8, marker="o", markersize=4.5, label="prediction"),
            Line2D([], [], color=WRONG_COLOUR, alpha=0.4, linewidth=7, label="link of a wrong length"),
        ]
        self.clock = top.suptitle(" ", fontsize=10)
        strip.legend(handles=handles, loc="outside lower center", ncols=3)
        self._draw_strip(strip.subplots())

    def show(self, index: int) -> None:
        """Move everything to frame `index`."""
        frames = self.frames
        now = frames.times[index]
        then = self.then[index]
        self.clock.set_text(f"predicted {frames.horizon} steps ahead: at t = {now:.2f} s for t = {then:.2f} s")
        for name, predicted, wrong, glow, truth, line, axes in self.moving:
            points = np.concatenate([np.zeros((1, 2)), predicted[index]])
            line.set_data(*points.T)
            truth.set_data(*np.concatenate([np.zeros((1, 2)), frames.truth[index]]).T)
            glow.set_segments(np.stack([points[:-1], points[1:]], 1))
            glow.set_linewidths(np.minimum(_GLOW * wrong[index], _GLOW_MOST))
            error, worst = frames.errors_cm(name)[index], frames.violations(name)[index]
            axes.set_xlabel(f"error      {error:7.1f} cm    \nworst link {_length(worst)} off")
        self.cursor.set_xdata([self.then[index]] * 2)

    def _draw_strip(self, axes) -> None:
        for name in self.frames.predictions:
            colour = METHOD_COLOURS[self.frames.methods[name]]
            # A residual of exactly zero has no place on a logarithmic axis.
            axes.plot(self.then, np.maximum(self.frames.violations(name), 1e-16), color=colour)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=100))
        axes.set_xlim(self.then[0], self.then[-1])
        axes.set_xlabel("time (s)")
        axes.set_ylabel("worst link (m)")
        self.cursor = axes.axvline(self.then[0], color="black", linewidth=0.8)

    def _window(self) -> tuple[float, float, float, float]:
        points = np.concatenate([np.asarray(self.frames.truth), *map(np.asarray, self.frames.predictions.values())])
        points = np.concatenate([points.reshape(-1, 2), np.zeros((1, 2))])
        (left, bottom), (right, top) = points.min(0) - 0.3, points.max(0) + 0.3
        return left, right, bottom, top


def _length(metres: float) -> str:
    for unit, name in ((1e-2, "cm"), (1e-6, "µm")):
        if metres >= 0.05 * unit:
            return f"{metres / unit:7.1f} {name}"
    return f"{metres / 1e-9:7.2g} nm"
