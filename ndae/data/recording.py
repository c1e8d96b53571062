"""A recording: what was seen of a system at times of its own, with its inputs and parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from ndae.data.frames import parts_of
from ndae.data.numbers import frozen, instants, name_of, numbers
from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.expressions.tables import Table, table
from ndae.symbolic.ground.words import check_known, listed


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Recording:
    """What instruments showed of one run of a system: times `(n,)`, and by output values `(n,)`, NaN where unseen.

    - `times`: strictly increasing, as irregular as they are, in the unit of the system's time. Dates (datetime64,
      pandas timestamps, text such as 2026-05-04T12:30) become seconds since the first, which is kept as `origin`;
      durations become seconds.
    - `values`: by the name of the output, or by an object that has a `name`. An array, a list, a pandas or an xarray
      object; None, NA and masked entries are unseen as NaN is.
    - `inputs`: by name, (times, values), (times, values, kind) with a kind of `ndae.table` ("linear" if not given), or
      an `ndae.table`. Entries that are NaN are left out: between what is left the input is read by its kind.
    - `parameters`: by name, a number each that holds for this run.
    - `sigma`: the standard deviation of the noise in the unit of the output: one number, or by output a number or an
      array `(n,)`. Not given, it is not known.
    - `start`: values of states at the first time that are known exactly, by name; others are estimated.
    - `name`: what it is called in messages.

    The mappings and arrays cannot be changed. Raises ValueError, naming row and mend, for times that do not increase,
    for values that are infinite or of another length, for a noise that is not positive and finite, and for inputs that
    do not cover the times.
    """

    times: np.ndarray
    values: Mapping[str, np.ndarray]
    inputs: Mapping[str, Table]
    parameters: Mapping[str, float]
    sigma: Mapping[str, np.ndarray]
    start: Mapping[str, float]
    name: str
    origin: np.datetime64 | None

    def __init__(
        self,
        times: Any,
        values: Mapping[Any, Any],
        *,
        inputs: Mapping[Any, Any] | None = None,
        parameters: Mapping[Any, Any] | None = None,
        sigma: Any = None,
        start: Mapping[Any, Any] | None = None,
        name: str = "",
    ):
        what = f"recording {name}" if name else "recording"
        times, origin = instants(times, f"{what}: times")
        _check_order(times, what)
        seen = {key: _output(given, len(times), f"{what}: {key}") for key, given in _named(values, what, "output")}
        if not seen:
            raise ValueError(f"{what} shows no output: give values, such as {{'x': [...]}}")
        self._set(
            times=frozen(times),
            values=MappingProxyType(seen),
            inputs=MappingProxyType(
                {k: _input(given, k, times, origin, what) for k, given in _named(inputs or {}, what, "input")}
            ),
            parameters=MappingProxyType(
                {k: _parameter(given, f"{what}: {k}") for k, given in _named(parameters or {}, what, "parameter")}
            ),
            sigma=MappingProxyType(_sigma(sigma, seen, what)),
            start=MappingProxyType(
                {k: _parameter(given, f"{what}: start of {k}") for k, given in _named(start or {}, what, "start")}
            ),
            name=str(name),
            origin=origin,
        )

    def _set(self, **parts: Any) -> None:
        for part, value in parts.items():
            object.__setattr__(self, part, value)

    # Mappings that can't be written to can't be pickled either.
    def __reduce__(self) -> tuple:
        mappings = (dict(part) for part in (self.values, self.inputs, self.parameters, self.sigma, self.start))
        return _unpickled, (self.times, *mappings, self.name, self.origin)

    @staticmethod
    def from_frame(
        frame: Any,
        *,
        outputs: Any,
        time: Any = None,
        every: float | None = None,
        inputs: Any = None,
        parameters: Any = None,
        sigma: Any = None,
        start: Any = None,
        name: str = "",
        sort: bool = False,
    ) -> "Recording":
        """One recording of the columns of a frame: pandas, polars, an xarray Dataset, or a dict of arrays.

        - `outputs`: names of columns, or {output: column}.
        - `time`: the column of times; not given, the index of a pandas frame. `every`: the time between rows, where
          they are not written down.
        - `inputs`: as outputs; {input: (column, kind)} for a kind of `ndae.table`.
        - `parameters`: as outputs, of columns that are constant.
        - `sigma`: a number, or {output: number or the name of a column}.
        - `start`: {state: number known exactly, or the name of a column, whose first row has it}.
        - `sort`: put rows in order of time, which else are refused.

        Raises ValueError for columns that are not there, with those that are, and for all that `Recording` refuses.
        """
        (one,) = parts_of(
            frame, time=time, every=every, outputs=outputs, inputs=inputs, parameters=parameters, sigma=sigma,
            start=start, name=name, sort=sort,
        )  # fmt: skip
        return Recording(**one)

    # -- what is in it -----------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self.values)

    @property
    def seen(self) -> Mapping[str, np.ndarray]:
        """By output, `(n,)`, whether it was seen."""
        return MappingProxyType({name: frozen(~np.isnan(values)) for name, values in self.values.items()})

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        parts = [f"{self.name!r}"] if self.name else []
        parts += [f"{self.times[0]:g} to {self.times[-1]:g} in {len(self)} times"]
        parts += ["seen " + listed(f"{name} {int(mask.sum())}" for name, mask in self.seen.items())]
        parts += ["inputs " + listed(self.inputs)] if self.inputs else []
        parts += [listed(f"{name}={value:g}" for name, value in self.parameters.items())] if self.parameters else []
        return f"Recording({'; '.join(parts)})"

    # -- parts of it -------------------------------------------------------------------------------------------------

    def window(self, start: int, n: int) -> "Recording":
        """The n rows from row `start` on, with the inputs whole and times as they are."""
        if start < 0 or n < 1 or start + n > len(self):
            raise ValueError(f"rows {start} to {start + n - 1} of {self!r}: it has rows 0 to {len(self) - 1}")
        return self._rows(slice(start, start + n))

    def windows(
        self, length: int | None = None, *, stride: float | None = None, duration: float | None = None
    ) -> Iterator["Recording"]:
        """Parts one after another: of `length` rows, or, `length` not given, of a `duration` of time.

        They begin `stride` apart, in rows or in time; not given, where the one before ends, so that each row is in one.
        The last is shorter where the rows end. By time, a part is [a, a + duration), and those without rows are left
        out.
        """
        if (length is None) == (duration is None):
            raise ValueError("give length, a number of rows, or duration=, a span of time")
        size = length if duration is None else duration
        step = size if stride is None else stride
        if duration is None and not all(isinstance(n, (int, np.integer)) for n in (size, step)):
            raise ValueError(f"length={size!r}, stride={step!r} are numbers of rows: give duration= for a span of time")
        if not (size and step and 0 < size < np.inf and 0 < step < np.inf):
            raise ValueError(f"windows of {size!r}, {step!r} apart: both are positive")
        return self._windows(np.arange(len(self)) if duration is None else self.times, size, step)

    def _windows(self, place: np.ndarray, size: float, step: float) -> Iterator["Recording"]:
        k, end = 0, -1
        while end < len(place):
            # Where one ends as the next begins, by the same sum: rounding leaves no row between them.
            until = (k + 1) * step if step == size else k * step + size
            first, end = np.searchsorted(place, [place[0] + k * step, place[0] + until])
            k += 1
            if end > first:
                yield self._rows(slice(int(first), int(end)))
            elif first < len(place):  # on to the next row, over a gap
                k = max(k, int((place[first] - size - place[0]) // step))

    def between(self, begin: float, end: float) -> "Recording":
        """The rows with begin ≤ time ≤ end; raises ValueError where there are none."""
        rows = np.flatnonzero((self.times >= begin) & (self.times <= end))
        if not len(rows):
            raise ValueError(f"{self!r} has no times from {begin:g} to {end:g}")
        return self._rows(slice(int(rows[0]), int(rows[-1]) + 1))

    def only(self, outputs: Any) -> "Recording":
        """The same with these outputs alone: a name, or several."""
        single = isinstance(outputs, str) or hasattr(outputs, "name")
        names = [name_of(output) for output in ([outputs] if single else outputs)]
        check_known(names, self.values, self.name or "recording", "output")
        if not names:
            raise ValueError(f"{self!r}: no outputs are left: name at least one")
        return self._replaced(
            values={name: self.values[name] for name in names},
            sigma={name: self.sigma[name] for name in names if name in self.sigma},
        )

    def _rows(self, rows: slice) -> "Recording":
        return self._replaced(
            times=self.times[rows],
            values={name: values[rows] for name, values in self.values.items()},
            sigma={name: values[rows] for name, values in self.sigma.items()},
            start=self.start if rows.start == 0 else {},
        )

    def _replaced(self, **parts: Any) -> "Recording":
        there = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _unpickled(*(there | parts).values())


def _unpickled(*parts: Any) -> Recording:
    """A recording of parts that were checked before."""
    made: Recording = object.__new__(Recording)
    times, values, inputs, parameters, sigma, start, name, origin = parts
    arrays = (MappingProxyType({k: frozen(v) for k, v in mapping.items()}) for mapping in (values, sigma))
    values, sigma = arrays
    inputs, parameters, start = (MappingProxyType(dict(part)) for part in (inputs, parameters, start))
    made._set(
        times=frozen(times), values=values, inputs=inputs, parameters=parameters, sigma=sigma, start=start, name=name,
        origin=origin,
    )  # fmt: skip
    return made


# -- what is given, checked --------------------------------------------------------------------------------------------


def _named(given: Any, what: str, kind: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: {kind}s are {type(given).__name__}, expected a dict by name, such as {{'x': ...}}")
    names = [name_of(key) for key in given]
    for name in names:
        check_name(name, f"{what}: {kind}")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{what}: {kind}s {listed(sorted(twice))} are given twice")
    return zip(names, given.values(), strict=True)


def _check_order(times: np.ndarray, what: str) -> None:
    if not len(times):
        raise ValueError(f"{what} has no rows")
    wrong = np.flatnonzero(~(np.diff(times) > 0))
    if len(wrong):
        i = int(wrong[0])
        how = "are the same: keep one of the two" if times[i] == times[i + 1] else "go back: put rows in order of time"
        raise ValueError(f"{what}: times of rows {i} and {i + 1}, {times[i]:.9g} and {times[i + 1]:.9g}, {how}")


def _column(given: Any, n: int, what: str) -> np.ndarray:
    array = numbers(given, what)
    if array.shape != (n,):
        raise ValueError(f"{what} has shape {array.shape}, expected ({n},), a number for each time")
    if np.isinf(array).any():
        raise ValueError(f"{what}, row {int(np.flatnonzero(np.isinf(array))[0])} is infinite: write NaN where unseen")
    return array


def _output(given: Any, n: int, what: str) -> np.ndarray:
    return frozen(_column(given, n, what))


def _parameter(given: Any, what: str) -> float:
    try:
        value = float(numbers(given, what))
    except (TypeError, ValueError):
        value = np.nan
    if isinstance(given, bool) or not np.isfinite(value):
        raise ValueError(f"{what} is {given!r}, expected a finite number")
    return value


def _input(given: Any, name: str, times: np.ndarray, origin: np.datetime64 | None, what: str) -> Table:
    what = f"{what}: input {name}"
    if not isinstance(given, Table):
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise ValueError(f"{what}: expected (times, values), (times, values, kind) or ndae.table(...)")
        kind = given[2] if len(given) == 3 else "linear"
        at, its_origin = instants(given[0], f"{what}: times")
        if (its_origin is None) != (origin is None):
            raise ValueError(f"{what}: its times are {_clock(its_origin)}, those of the recording {_clock(origin)}")
        if origin is not None and its_origin is not None:
            at = at + (its_origin - origin) / np.timedelta64(1, "s")
        values = _column(given[1], len(at), what)
        there = ~np.isnan(values)
        try:
            given = table(at[there], values[there], kind, name=name)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    low, high = given.reach
    if not given.held and (times[0] < low or times[-1] > high):
        raise ValueError(
            f"{what} is known from {given.first:.9g} to {given.last:.9g}, and the recording goes from "
            f"{times[0]:.9g} to {times[-1]:.9g}: leave out rows outside, or keep its end values by "
            "ndae.table(times, values, outside='hold')"
        )
    return given


def _clock(origin: np.datetime64 | None) -> str:
    return "numbers" if origin is None else "dates"


def _sigma(given: Any, outputs: Mapping[str, np.ndarray], what: str) -> dict[str, np.ndarray]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if np.ndim(given) and len(outputs) > 1:
            raise ValueError(
                f"{what}: sigma is an array, and outputs are {listed(outputs)}: say of which, {{name: array}}"
            )
        given = dict.fromkeys(outputs, given)
    named = dict(_named(given, what, "sigma"))
    check_known(named, outputs, what, "output")
    return {name: _deviation(one, outputs[name], f"{what}: sigma of {name}") for name, one in named.items()}


def _deviation(given: Any, values: np.ndarray, what: str) -> np.ndarray:
    array = numbers(given, what)
    array = _column(array if array.ndim else np.full(len(values), array), len(values), what)
    wrong = np.flatnonzero(~(array > 0) & ~np.isnan(values))
    if len(wrong):
        raise ValueError(
            f"{what}, row {wrong[0]} is {array[wrong[0]]:g}, expected a standard deviation, positive, in the unit of "
            "the output"
        )
    return frozen(array)
