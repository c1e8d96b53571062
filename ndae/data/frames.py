"""What recordings are made of, from the columns of a frame: pandas, polars, xarray, or a dict of arrays."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ndae.data.numbers import clock, instants, name_of, numbers
from ndae.symbolic.ground.words import check_known, listed


def parts_of(
    frame: Any,
    *,
    outputs: Any,
    time: Any = None,
    every: float | None = None,
    inputs: Any = None,
    parameters: Any = None,
    by: Any = None,
    sigma: Any = None,
    start: Any = None,
    name: str = "",
    sort: bool = False,
) -> list[dict[str, Any]]:
    """What `Recording` is made of, for each value of the column `by` in order of appearance; without `by`, once.

    The other arguments are those of `read_recordings` and of `Recording.from_frame`.
    """
    columns = _Columns(frame, f"frame {name}" if name else "frame")
    given = {"output": outputs, "input": inputs, "parameter": parameters}
    roles = {role: _roles(asked, role) for role, asked in given.items()}
    deviations = {name_of(key): part for key, part in sigma.items()} if isinstance(sigma, Mapping) else None
    asked = [column for role in roles.values() for column, _ in role.values()]
    known = {name_of(key): part for key, part in (start or {}).items()}
    asked += [part for parts in (deviations or {}, known) for part in parts.values() if isinstance(part, str)]
    columns.check([*asked, *([] if by is None else [by])])
    times = columns.times(time) if every is None else columns.counted(every)
    at, _ = instants(times, columns.called(time))  # all of them, so that an error names its row

    def of(label: str, rows: np.ndarray) -> dict[str, Any]:
        what = " ".join(filter(None, [name, label]))
        rows = _ordered(at, rows, sort, by is None, what or columns.what)
        there = times[rows] if every is None else times[: len(rows)]

        def part(column: Any) -> np.ndarray:
            return columns.array(column)[rows]

        return dict(
            times=there,
            values={key: part(column) for key, (column, _) in roles["output"].items()},
            inputs={key: (there, part(column), kind or "linear") for key, (column, kind) in roles["input"].items()},
            parameters={
                key: _constant(part(column), rows, f"{what or columns.what}: the parameter {column}")
                for key, (column, _) in roles["parameter"].items()
            },
            sigma=sigma
            if deviations is None
            else {key: part(one) if isinstance(one, str) else one for key, one in deviations.items()},
            start={key: float(part(one)[0]) if isinstance(one, str) else one for key, one in known.items()},
            name=what,
        )

    return [of(label, rows) for label, rows in _groups(columns, by, len(at))]


class _Columns:
    """The columns of a frame, by name."""

    def __init__(self, frame: Any, what: str):
        self.frame, self.what = frame, what
        self._arrays: dict[Any, np.ndarray] = {}
        if hasattr(frame, "data_vars"):
            self.names = [str(name) for name in frame.variables]
        elif hasattr(frame, "columns"):
            self.names = list(frame.columns)
        elif isinstance(frame, Mapping):
            self.names = list(frame)
        else:
            raise ValueError(
                f"{type(frame).__name__} is no frame: give one of pandas, polars or xarray, or a dict of arrays"
            )

    def check(self, asked: list) -> None:
        check_known(asked, self.names, self.what, "column")

    def check_times(self, name: Any) -> None:
        if (name is None and not hasattr(self.frame, "index")) or (name is not None and name not in self.names):
            raise ValueError(
                f"{self.what} has no column {'for the times' if name is None else repr(name)}; it has "
                f"{listed(self.names, 20)}: name the column of times by time=, or give every=, the time between rows"
            )

    def called(self, name: Any) -> str:
        return f"{self.what}: {'index' if name is None else name}"

    def column(self, name: Any) -> Any:
        """As the frame holds it; without a name, its index."""
        return self.frame.index if name is None else self.frame[name]

    def times(self, name: Any) -> np.ndarray:
        """Times as they are: numbers, dates or durations."""
        self.check_times(name)
        what = self.called(name)
        return _line(clock(self.column(name), what), what)

    def counted(self, every: float) -> np.ndarray:
        """Times of rows that are so far apart, from 0 on."""
        if not 0 < every < np.inf:
            raise ValueError(f"{self.what}: every={every!r}, expected the time between rows")
        names = [name for name in self.names if np.ndim(self.frame[name]) == 1]
        return every * np.arange(len(self.frame[names[0]]) if names else 0)

    def array(self, name: Any) -> np.ndarray:
        """A column in numbers."""
        if name not in self._arrays:
            what = self.called(name)
            self._arrays[name] = _line(numbers(self.column(name), what), what)
        return self._arrays[name]


def _line(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim != 1:
        raise ValueError(f"{what} has shape {array.shape}, expected (n,), a number for each time")
    return array


def _roles(given: Any, role: str) -> dict[str, tuple[Any, str | None]]:
    """By name, the column and, of inputs, the kind of table."""
    if given is None:
        return {}
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Mapping):
        given = {name_of(column): name_of(column) for column in given}
    found = {}
    for key, column in given.items():
        kind = None
        if role == "input" and isinstance(column, tuple):
            column, kind = column
        found[name_of(key)] = (column, kind)
    return found


def _groups(columns: _Columns, by: Any, n: int) -> Iterator[tuple[str, np.ndarray]]:
    if not n:
        raise ValueError(f"{columns.what} has no rows")
    if by is None:
        yield "", np.arange(n)
        return
    labels = np.asarray(columns.column(by)).tolist()
    missing = [i for i, label in enumerate(labels) if label is None or label != label]
    if missing:
        raise ValueError(f"{columns.what}: {by}, row {missing[0]} is empty: it tells which recording the row is of")
    rows: dict[Any, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    for label, those in rows.items():
        yield f"{by}={label}", np.array(those)


def _ordered(at: np.ndarray, rows: np.ndarray, sort: bool, alone: bool, what: str) -> np.ndarray:
    """Rows in order of time; raises ValueError, naming them by their place in the frame, where they are not."""
    back = np.flatnonzero(np.diff(at[rows]) < 0)
    if len(back) and not sort:
        i, j = rows[back[0]], rows[back[0] + 1]
        several = ", and by= where a column tells several recordings apart" if alone else ""
        raise ValueError(
            f"{what}: row {j} has time {at[j]:.9g}, after {at[i]:.9g} in row {i}: give sort=True to put rows in order"
            f"{several}"
        )
    rows = rows[np.argsort(at[rows], kind="stable")]
    same = np.flatnonzero(np.diff(at[rows]) == 0)
    if len(same):
        pairs = listed((f"{rows[i]} and {rows[i + 1]} at {at[rows[i]]:.9g}" for i in same), 4)
        raise ValueError(f"{what}: rows of the same time: {pairs}: keep one row of each time")
    return rows


def _constant(values: np.ndarray, rows: np.ndarray, what: str) -> float:
    other = np.flatnonzero(values != values[0])
    if len(other):
        raise ValueError(
            f"{what} is {values[0]:.9g} in row {rows[0]} and {values[other[0]]:.9g} in row {rows[other[0]]}: a "
            "parameter is constant in a recording; give what changes as an input"
        )
    return float(values[0])
