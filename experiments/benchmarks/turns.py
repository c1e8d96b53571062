"""Work that takes turns in one process, so that whatever else the machine does falls on all alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles


def measure(
    turns: Mapping[str, Callable[[], None]], base: str, rounds: int, times: Mapping[str, int] | None = None
) -> dict[str, dict[str, float]]:
    """Median `ms` of each, and its `ratio` to `base` in the same round, the median with quartiles `low` and `high`.

    `times`: how often a turn does what is told, where not once.
    """
    times = times or {}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    names = list(turns)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            turns[name]()
            seconds[name].append((time.perf_counter() - start) / times.get(name, 1))
    figures = {}
    for name, taken in seconds.items():
        low, middle, high = quantiles([a / b for a, b in zip(taken, seconds[base], strict=True)], n=4)
        figures[name] = {"ms": 1e3 * median(taken), "ratio": middle, "low": low, "high": high}
    return figures
