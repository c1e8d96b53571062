"""Progress of long work: a function `report(done, total, what)`, or a bar on the terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[float, float, str], object]


def say(text: str) -> None:
    """A line on stderr of what a person should know and nothing else returns."""
    print(f"ndae: {text}", file=sys.stderr)


@contextmanager
def reporting(progress: bool | Report, label: str = "") -> Iterator[Report | None]:
    """What to call with news: `progress` itself if it is a function, a bar on stderr's terminal if it is True.

    Yields None where nobody watches (False, or stderr is no terminal); `label` goes before every `what`.
    """
    start = f"{label}: " if label else ""
    if callable(progress):
        yield lambda done, total, what: progress(done, total, start + what)
        return
    if progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            columns = (BarColumn(bar_width=16), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
            # On a narrow terminal the words give way, not the numbers.
            words = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
            with Progress(*columns, words, console=console, transient=True, expand=True) as bars:
                task = bars.add_task(label, total=None)
                yield lambda done, total, what: bars.update(task, completed=done, total=total, description=start + what)
            return
    yield None
