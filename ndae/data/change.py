"""How much the outputs of recordings change: what errors of unlike outputs are scaled by."""

from collections.abc import Iterable

import numpy as np

from ndae.data.recording import Recording

# Changes below this share of the magnitude are rounding.
_ROUNDING = 64 * np.finfo(float).eps


class Size(float):
    """A positive number, and the reason for it."""

    reason: str

    def __new__(cls, value: float, reason: str) -> "Size":
        size = super().__new__(cls, value)
        size.reason = reason
        return size

    def __getnewargs__(self) -> tuple[float, str]:
        return float(self), self.reason


def sizes(recordings: Iterable[Recording]) -> dict[str, Size]:
    """By output, the size of its change over all recordings: half the range that the middle 90 % of what was seen span.

    A few outliers do not move it. It is never zero: an output that stays put but for less than a tenth of its rows has
    half of its whole range, a constant one its magnitude, one that is zero or never seen has 1; `reason` says which.
    """
    by_output: dict[str, list[np.ndarray]] = {}
    for recording in recordings:
        for name, values in recording.values.items():
            by_output.setdefault(name, []).append(values[~np.isnan(values)])
    return {name: size_of(np.concatenate(parts)) for name, parts in by_output.items()}


def size_of(values: np.ndarray) -> Size:
    """The size of the change of one quantity, of all its values."""
    if not len(values):
        return Size(1.0, "never seen")
    magnitude = float(np.abs(values).max())
    for low, high, reason in ((0.05, 0.95, "half the range of the middle 90 %"), (0.0, 1.0, "half the range")):
        below, above = (float(end) for end in np.quantile(values, [low, high]))
        change = above / 2 - below / 2  # the range itself may be beyond the largest number
        if change > _ROUNDING * magnitude:
            return Size(change, reason)
    return Size(magnitude, "constant: its magnitude") if magnitude else Size(1.0, "always zero")
