"""Progress of long work: a function `progress(fraction, text)`, a bar on the terminal or in a notebook, or lines."""

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ndae.solvers.progress import Progress


def say(text: str) -> None:
    """A line on stderr of what a person should know and nothing else returns."""
    print(f"ndae: {text}", file=sys.stderr)


#: Where there is no bar, a line is written when so much more is done, and so many seconds have gone by.
LINE_SHARE, LINE_SECONDS = 0.1, 30.0


@contextmanager
def reporting(progress: bool | Progress, label: str = "") -> Iterator[Progress | None]:
    """What to call with news: `progress` itself if it is a function; if it is True a bar on stderr's terminal or in a
    notebook (with ipywidgets), and where stderr is a pipe or a file a line now and then.

    Yields None for False; `label` goes before every text.
    """
    start = f"{label}: " if label else ""
    if callable(progress):
        yield lambda fraction, text: progress(fraction, start + text)
        return
    if progress:
        from rich import progress as bar
        from rich.console import Console
        from rich.table import Column

        console = Console(stderr=True, highlight=False)
        if console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets")):
            columns = (bar.BarColumn(bar_width=16), bar.TaskProgressColumn(), bar.TimeRemainingColumn(compact=True))
            # On a narrow terminal the words give way, not the numbers.
            column = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            words = bar.TextColumn("{task.description}", markup=False, table_column=column)
            with bar.Progress(*columns, words, console=console, transient=True, expand=True) as bars:
                task = bars.add_task(label, total=None)
                yield lambda fraction, text: bars.update(task, completed=fraction, total=1.0, description=start + text)
            return
        yield _lines(start)
        return
    yield None


def _lines(start: str) -> Progress:
    """Writes a line when there is something new to tell; work of a few seconds gets none."""
    last, began = [0.0, time.monotonic()], time.monotonic()

    def report(fraction: float, text: str) -> None:
        now = time.monotonic()
        if fraction - last[0] >= LINE_SHARE * (1 - 1e-9) and now - last[1] >= LINE_SECONDS:
            last[:] = fraction, now
            say(f"{start}{text} ({fraction:.0%}, {now - began:.0f} s)")

    return report
