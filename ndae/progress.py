"""Progress of long work: a function `progress(fraction, text)`, or a bar on the terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ndae.solvers.progress import Progress


def say(text: str) -> None:
    """A line on stderr of what a person should know and nothing else returns."""
    print(f"ndae: {text}", file=sys.stderr)


@contextmanager
def reporting(progress: bool | Progress, label: str = "") -> Iterator[Progress | None]:
    """What to call with news: `progress` itself if it is a function, a bar on stderr's terminal if it is True.

    Yields None where nobody watches (False, or stderr is no terminal); `label` goes before every text.
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
        if console.is_terminal:
            columns = (bar.BarColumn(bar_width=16), bar.TaskProgressColumn(), bar.TimeRemainingColumn(compact=True))
            # On a narrow terminal the words give way, not the numbers.
            column = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            words = bar.TextColumn("{task.description}", markup=False, table_column=column)
            with bar.Progress(*columns, words, console=console, transient=True, expand=True) as bars:
                task = bars.add_task(label, total=None)
                yield lambda fraction, text: bars.update(task, completed=fraction, total=1.0, description=start + text)
            return
    yield None
