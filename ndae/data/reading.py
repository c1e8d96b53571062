"""Recordings from files: text, Parquet, NetCDF and HDF5, read by the libraries for these."""

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ndae.data.frames import parts_of
from ndae.data.recording import Recording
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.ground.words import listed

_PACKED = {".gz", ".bz2", ".xz", ".zip", ".zst"}


def read_recordings(
    files: str | Path | Iterable[str | Path],
    *,
    outputs: Any,
    time: Any = "t",
    every: float | None = None,
    inputs: Any = None,
    parameters: Any = None,
    by: Any = None,
    sigma: Any = None,
    start: Any = None,
    sort: bool = False,
    **reading: Any,
) -> list[Recording]:
    """The recordings in files: one for each file, or for each value of a column.

    - `files`: a path, a pattern such as "runs/*.csv" (in order of names), or a list of them. .csv, .tsv and .txt are
      read by pandas (packed as .gz, .bz2, .xz or .zip too), .parquet by pandas and pyarrow, .nc by xarray, .h5 and
      .hdf5 by h5py (data sets of one axis, inside of groups as "group/name").
    - `outputs`: names of columns, or {output: column}. An empty field is unseen.
    - `time`: the column of times. Dates (ISO 8601) become seconds since the first of each recording. `every`: instead,
      the time between rows, where times are not written down.
    - `inputs`: the same; {input: (column, kind)} for a kind of `ndae.table`. An empty field is left out.
    - `parameters`: the same, of columns that are constant within a recording.
    - `by`: the column that tells recordings apart, where a file holds several.
    - `sigma`: the standard deviation of the noise, a number, or {output: number or column}.
    - `start`: values of states at the first time that are known exactly, {state: number}, of all recordings, or
      {state: column}, whose first row has it.
    - `sort`: put rows in order of time, which else are refused.
    - further arguments go to the reader of pandas, such as sep=";", decimal=",", comment="#", skiprows=[1].

    Rows are counted as the file's reader counts them, the first below the header being 0. Units are those of the file.
    Raises FileNotFoundError where there is no file; ValueError, naming file, row and column, for columns that are not
    there, for text among numbers, for times that go back or occur twice, and for files without rows;
    MissingExtraError, without the extra `data`.
    """
    found = []
    for path in _paths(files):
        try:
            frame = _frame(path, reading)
            parts = parts_of(
                frame, time=time, every=every, outputs=outputs, inputs=inputs, parameters=parameters, by=by,
                sigma=sigma, start=start, sort=sort, name=_stem(path),
            )  # fmt: skip
            found += [Recording(**part) for part in parts]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return found


def _paths(files: Any) -> list[Path]:
    if isinstance(files, (str, Path)):
        return _matching(files)
    paths = [path for one in files for path in _matching(one)]
    if not paths:
        raise ValueError("files is empty: give a path, a pattern or a list of them")
    return paths


def _matching(file: str | Path) -> list[Path]:
    if Path(file).is_file():
        return [Path(file)]
    found = [Path(path) for path in sorted(glob.glob(str(file), recursive=True)) if Path(path).is_file()]
    if not found:
        folder = Path(file).parent
        there = listed(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise FileNotFoundError(f"no file {file}; in {folder} there is: {there}")
    return found


def _stem(path: Path) -> str:
    """The name of a file without what tells its kind."""
    inner = path.with_suffix("") if path.suffix.lower() in _PACKED else path
    return inner.stem


def _frame(path: Path, reading: dict[str, Any]) -> Any:
    kind = (path.with_suffix("") if path.suffix.lower() in _PACKED else path).suffix.lower()
    if kind not in _READERS:
        raise ValueError(f"files {kind or 'without a suffix'} are not read: expected one of {listed(_READERS, 20)}")
    reader = _READERS[kind]
    if reading and reader not in (_text, _parquet):
        raise ValueError(f"{listed(reading)}: arguments of pandas, which does not read {kind}")
    with needing(f"reading {kind}"):
        return reader(path, reading)


def _text(path: Path, reading: dict[str, Any]) -> Any:
    import pandas as pd

    usual: dict[str, Any] = {"sep": "\t" if ".tsv" in path.suffixes else ",", "skipinitialspace": True}
    try:
        frame = pd.read_csv(path, **usual | reading)
    except pd.errors.EmptyDataError:
        raise ValueError("the file is empty") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not in UTF-8 ({error}): give encoding=, such as encoding='latin-1'") from None
    except pd.errors.ParserError as error:
        raise ValueError(f"no table of columns ({error}): give sep=, comment= or skiprows=") from None
    if len(frame.columns) == 1:
        header = str(frame.columns[0])
        mark = next((mark for mark in (";", "\t", "|", ",") if mark in header), None)
        if mark:
            raise ValueError(f"the file has one column, {header!r}: give sep={mark!r}")
    return frame


def _parquet(path: Path, reading: dict[str, Any]) -> Any:
    import pandas as pd
    import pyarrow  # noqa: F401  # pandas says less where it is missing

    return pd.read_parquet(path, engine="pyarrow", **reading)


def _netcdf(path: Path, _: dict[str, Any]) -> Any:
    import h5netcdf  # noqa: F401  # what xarray reads files of version 4 by
    import xarray as xr

    with xr.open_dataset(path) as data:
        return data.load()


def _hdf5(path: Path, _: dict[str, Any]) -> dict[str, np.ndarray]:
    import h5py

    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 1:
            is_text = h5py.check_string_dtype(item.dtype) is not None
            found[name] = np.array(item.asstr()[()] if is_text else item[()])

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


_READERS = {
    ".csv": _text, ".tsv": _text, ".txt": _text, ".dat": _text, ".parquet": _parquet, ".pq": _parquet,
    ".nc": _netcdf, ".nc4": _netcdf, ".h5": _hdf5, ".hdf5": _hdf5, ".hdf": _hdf5,
}  # fmt: skip
