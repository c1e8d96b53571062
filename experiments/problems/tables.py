"""Tables of a problem file: inputs in numbers, in the file itself or in a CSV file beside it."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndae.symbolic.expressions.tables import Table, table
from ndae.symbolic.ground.words import check_known

MAX_CSV_BYTES = 100_000_000
_KEYS = ("t", "values", "csv", "columns", "kind", "outside")


def read_table(name: str, said: Mapping[str, Any], folder: Path | None) -> Table:
    """The table {"t": [...], "values": [...]} or {"csv": file, "columns": [time, value]}, with "kind" and "outside".

    A CSV file stands beside the problem's, in `folder`; its first line may name the columns, of which the first two are
    read where `columns` names none. Raises ValueError, naming the key, the row and the mend, and OSError.
    """
    check_known(said, _KEYS, f"tables.{name}", "key")
    if ("csv" in said) == ("t" in said or "values" in said):
        raise ValueError(f'tables.{name}: give either "t" and "values", or "csv" with the name of a file')
    if "csv" in said:
        ts, values = _columns(_beside(said["csv"], folder), said.get("columns"))
    else:
        ts, values = (said.get(key) for key in ("t", "values"))
        for key, column in (("t", ts), ("values", values)):
            if not isinstance(column, list) or not all(type(v) in (int, float) for v in column):
                raise ValueError(f"tables.{name}.{key}: expected a list of numbers")
    return table(ts, values, said.get("kind", "linear"), outside=said.get("outside", "refuse"), name=name)


def _beside(csv_name: Any, folder: Path | None) -> Path:
    if not isinstance(csv_name, str) or not csv_name or csv_name != Path(csv_name.replace("\\", "/")).name:
        raise ValueError(f"csv: {csv_name!r}: expected the name of a file beside the problem's, without a folder")
    if folder is None:
        raise ValueError(f'csv: {csv_name!r}: a problem that is no file has none beside it: give "t" and "values"')
    path = folder / csv_name
    if path.resolve().parent != folder.resolve():
        raise ValueError(f"csv: {csv_name!r} is a link to another folder: put the file itself beside the problem's")
    if not path.is_file():
        raise ValueError(f"csv: there is no file {path}")
    if path.stat().st_size > MAX_CSV_BYTES:
        raise ValueError(f"csv: {path} has more than {MAX_CSV_BYTES:,} bytes")
    return path


def _columns(path: Path, wanted: Any) -> tuple[list[float], list[float]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = [(i, row) for i, row in enumerate(csv.reader(lines), 1) if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError(f"csv: {path.name} is empty")
    header = [cell.strip() for cell in rows[0][1]]
    named = not all(is_number(cell) for cell in header)
    places = [0, 1]
    if wanted is not None:
        if not isinstance(wanted, list) or len(wanted) != 2 or not all(isinstance(w, str) for w in wanted):
            raise ValueError(f"columns: {wanted!r}: expected two names, of the times and of the values")
        missing = [w for w in wanted if not named or w not in header]
        if missing:
            there = ", ".join(header) if named else "none, its first line is numbers"
            raise ValueError(f"columns: {path.name} has no column {missing[0]!r}; its columns are {there}")
        places = [header.index(w) for w in wanted]
    found: tuple[list[float], list[float]] = ([], [])
    for line, row in rows[1:] if named else rows:
        for place, column in zip(places, found, strict=True):
            if place >= len(row) or not is_number(row[place].strip()):
                cell = repr(row[place]) if place < len(row) else "missing"
                raise ValueError(f"csv: line {line} of {path.name}, column {place + 1}: {cell} is no number")
            column.append(float(row[place]))
    return found


def is_number(text: str) -> bool:
    """Whether text is one number in plain digits; float() takes underscores and the digits of other scripts too."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text
