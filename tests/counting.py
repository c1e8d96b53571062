"""How much is done, counted instead of timed: the same on any machine, however busy it is."""

import sys
from collections.abc import Callable


class TooManyCallsError(AssertionError):
    """Work was cut off that went beyond what it may take."""


def n_calls(function: Callable[[], object], most: float = float("inf")) -> int:
    """How many functions, of Python and of C, are called by `function`; it is cut off after `most`."""
    count = 0

    def count_call(frame, event, argument):
        nonlocal count
        if event in ("call", "c_call"):
            count += 1
            if count > most:
                raise TooManyCallsError(f"more than {most} calls")

    before = sys.getprofile()
    sys.setprofile(count_call)
    try:
        function()
    finally:
        sys.setprofile(before)
    if count > most:  # and whoever was cut off has kept it to himself
        raise TooManyCallsError(f"more than {most} calls")
    return count
