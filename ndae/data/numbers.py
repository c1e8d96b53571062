"""Columns of measured numbers and times, as NumPy, pandas, xarray and Python hold them, made arrays of NumPy."""

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ndae.symbolic.ground.words import shortened

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_WITH_COMMA = re.compile(r"[-+]?\d*,\d+")


def name_of(given: Any) -> str:
    """A text as it is, and the name of what has one."""
    return given if isinstance(given, str) else str(getattr(given, "name", given))


def numbers(given: Any, what: str) -> np.ndarray:
    """An array of float64 in which NaN is missing: None, NA, a masked entry, not a number.

    Raises ValueError, naming the row (the first is 0) and what stands there, for text that is no number, for dates and
    for complex numbers.
    """
    if isinstance(given, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(given), np.nan, numbers(given.data, what))
    array = _as_array(given, what)
    if array.dtype.kind in "iufb":
        return np.array(array, dtype=np.float64)
    if array.dtype.kind not in "OUST":
        raise ValueError(f"{what} holds {array.dtype}, expected real numbers")
    found = np.empty(array.shape)
    for place, value in np.ndenumerate(array):
        found[place] = _number(value, f"{what}, row {place[0] if place else 0}")
    return found


def _as_array(given: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # ragged lists, tensors with a graph
        raise ValueError(
            f"{what}: no array of numbers ({shortened(error, 120)}): give numbers, as many in each"
        ) from None


def _number(value: Any, what: str) -> float:
    if _is_missing(value):
        return np.nan
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    text = str(text) if isinstance(text, str) else text  # of NumPy, whose repr is longer
    if isinstance(text, str):
        if _NUMBER.fullmatch(text.strip()):
            return float(text)
        comma = (
            ", with a decimal comma: give decimal=',' where it is read" if _WITH_COMMA.fullmatch(text.strip()) else ""
        )
        raise ValueError(
            f"{what} is the text {shortened(repr(text), 40)}{comma}, expected a number: leave the row out, or write "
            "what is missing as NaN"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {shortened(repr(value), 40)}, expected a number") from None


def _is_missing(value: Any) -> bool:
    if isinstance(value, (str, bytes)):
        return str(value).strip().lower() == "nan"
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def clock(given: Any, what: str) -> np.ndarray:
    """Times as numbers, as durations, or as dates: datetime64 in nanoseconds, in UTC where they have a zone.

    Text is read as a number or as a date of ISO 8601; anything else is a ValueError that names the row.
    """
    array = _as_array(_in_utc(given), what)
    if array.dtype.kind in "Mm":
        return array.astype(f"{array.dtype.kind}8[ns]")
    if array.dtype.kind not in "OUT" or not array.size or _is_number(array.flat[0]):
        return numbers(array, what)
    found = np.empty(array.shape, dtype="datetime64[ns]")
    for place, value in np.ndenumerate(array):
        found[place] = _date(value, f"{what}, row {place[0] if place else 0}")
    return found


def _in_utc(given: Any) -> Any:
    if getattr(getattr(given, "dtype", None), "tz", None) is None:
        return given
    there = given.dt if hasattr(given, "dt") else given  # pandas: a column, or an index
    return np.asarray(there.tz_convert("UTC"), dtype="datetime64[ns]")


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    return not hasattr(value, "isoformat") and not isinstance(value, np.datetime64)


def _date(value: Any, what: str) -> np.datetime64:
    if _is_missing(value):
        return np.datetime64("NaT", "ns")
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[ns]")
    try:
        date = datetime.fromisoformat(value.strip() if isinstance(value, str) else value.isoformat())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(
            f"{what}: {shortened(repr(value), 40)} is neither a number nor a date such as 2026-05-04T12:30:00.5"
        ) from None
    return np.datetime64(date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date, "ns")


def instants(given: Any, what: str) -> tuple[np.ndarray, np.datetime64 | None]:
    """Times `(n,)` in numbers, and of dates the first of all, from which they are counted in seconds.

    Durations are in seconds. Raises ValueError, naming the row, where there is no time.
    """
    array = clock(given, what)
    if array.ndim != 1:
        raise ValueError(f"{what} have shape {array.shape}, expected (n,)")
    missing = ~np.isfinite(array)
    if missing.any():
        i = int(np.flatnonzero(missing)[0])
        raise ValueError(f"{what}, row {i}: {array[i]} is no time: leave out rows without one")
    origin = array.min() if array.dtype.kind == "M" and len(array) else None
    if array.dtype.kind in "Mm":
        array = (array if origin is None else array - origin) / np.timedelta64(1, "s")
    return np.asarray(array, dtype=np.float64), origin


def frozen(array: Any) -> np.ndarray:
    """An array that nobody can write to: itself where that is so, or a copy."""
    array = np.asarray(array)
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array
