"""Reads what a user gives to a function or constraint, and says what is wrong with it."""

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.expressions.points import ANCHOR
from ndae.symbolic.functions.layout import Layout
from ndae.symbolic.ground.words import shortened


def as_tuple(value) -> tuple:
    """One thing, or a sequence of things, as a tuple."""
    several = isinstance(value, (Sequence, sp.MatrixBase, Iterator))
    return tuple(cast("Iterable[Any]", value)) if several else (value,)


def read_symbols(symbols, what: str) -> list[sp.Symbol]:
    if isinstance(symbols, sp.Symbol):
        symbols = [symbols]
    if isinstance(symbols, str):
        raise ValueError(f"{what}: expected SymPy symbols, got the text {symbols!r}: write sympy.symbols({symbols!r})")
    symbols = list(symbols)
    for s in symbols:
        if not isinstance(s, sp.Symbol):
            raise ValueError(f"{what}: expected SymPy symbols, got {s!r}")
        check_name(s.name, f"{what}: the symbol")
    if not symbols:
        raise ValueError(f"{what}: none given: name at least one")
    return symbols


def read_points(points, name: str) -> tuple[tuple[sp.Symbol, ...], ...]:
    if isinstance(points, sp.MatrixBase):
        points = [points]
    result = tuple(tuple(read_symbols(p, f"{name}: point {i}")) for i, p in enumerate(points))
    if not result:
        raise ValueError(f"{name}: no local points: make them by point(name, dim)")
    if len({len(p) for p in result}) > 1:
        raise ValueError(
            f"{name}: local points have dimensions {[len(p) for p in result]}: all points need the same one"
        )
    return result


def read_parameters(parameters, name: str) -> list[tuple[sp.Symbol, object]]:
    if parameters is None:
        return []
    items: list[tuple[Any, Any]] = (
        list(parameters.items()) if isinstance(parameters, Mapping) else [(s, None) for s in parameters]
    )
    for symbol, _ in items:
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"{name}: parameters: expected SymPy symbols, got {symbol!r}")
        check_name(symbol.name, f"{name}: the parameter")
    return items


def read_value(parameter: str, value, n_instances: int, template: bool, name: str):
    if value is None:
        return None
    try:
        array = np.array(value, dtype=np.float64)  # a copy: the user's array stays the user's
    except (TypeError, ValueError):
        raise ValueError(f"{name}: parameter {parameter!r} is {value!r}: expected a number or None") from None
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: parameter {parameter!r} is not finite ({value}): give finite numbers")
    if array.ndim == 0:
        return float(array)
    if not template or array.shape != (n_instances,):
        expected = f"a number or an array ({n_instances},), one value for each instance" if template else "a number"
        raise ValueError(f"{name}: parameter {parameter!r} has shape {array.shape}, expected {expected}")
    return array


def _slots(over, rows: Mapping[str, int], k: int, name: str) -> np.ndarray:
    """The point of each slot, (n_instances, k); `rows` are the numbers that stand for anchors."""
    over = list(over) if isinstance(over, Iterator) else over
    slots = np.empty((len(over), k), dtype=np.int64)
    for i, entry in enumerate(over):
        entry = tuple(entry) if isinstance(entry, (Sequence, np.ndarray)) and not isinstance(entry, str) else (entry,)
        if len(entry) != k:
            raise ValueError(
                f"{name}: over[{i}] = {entry} has {len(entry)} entries, expected {k}, one for each local point"
            )
        for j, index in enumerate(entry):
            if isinstance(index, str):
                if index not in rows:
                    raise ValueError(
                        f"{name}: over[{i}] = {entry} names the anchor {index!r}; known are {list(rows)}: "
                        f"add it to anchors="
                    )
                slots[i, j] = rows[index]
            elif isinstance(index, numbers.Integral) and not isinstance(index, bool) and int(index) >= 0:
                slots[i, j] = int(index)
            else:
                raise ValueError(
                    f"{name}: over[{i}] = {entry} holds {index!r}: expected a point's number (0 or more) "
                    f"or an anchor's name"
                )
    return slots


def read_layout(over, n_points, anchors, k: int, dim: int, name: str) -> tuple[Layout, dict[str, tuple[float, ...]]]:
    anchors = {ANCHOR: (0.0,) * dim} | {key: tuple(map(float, value)) for key, value in (anchors or {}).items()}
    for key, value in anchors.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: anchor {key!r}: the name of an anchor is a text")
        if len(value) != dim or not all(map(math.isfinite, value)):
            raise ValueError(f"{name}: anchor {key!r} is at {value}: expected {dim} finite coordinates")
    rows = {key: -1 - i for i, key in enumerate(anchors)}
    if isinstance(over, np.ndarray) and over.dtype.kind in "iu" and over.ndim == 2:
        slots = over.astype(np.int64)
        over = slots.tolist() if slots.shape[1] != k else slots
    if not isinstance(over, np.ndarray):
        slots = _slots(over, rows, k, name)
    elif slots.size and slots.min() < 0:
        raise ValueError(f"{name}: over holds {slots.min()}: points are numbered from 0")
    if not len(slots):
        raise ValueError(f"{name}: over is empty: give at least one tuple of {k} points")
    if slots.max() < 0:
        raise ValueError(f"{name}: over holds anchors alone, so nothing can move: use a point's number")
    n_points = int(slots.max()) + 1 if n_points is None else n_points
    if slots.max() >= n_points:
        i = int(np.argmax(slots.max(axis=1)))
        raise ValueError(
            f"{name}: over[{i}] uses point {slots.max()}, out of range: with n_points={n_points} the points "
            f"are 0 to {n_points - 1}"
        )
    ordered = np.sort(slots, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        i = int(np.argmax(twice.any(axis=1)))
        raise ValueError(
            f"{name}: over[{i}] = {tuple(slots[i].tolist())} uses a point twice: write such an instance as a "
            f"template of its own"
        )
    if (slots.max(axis=1) < 0).any():
        i = int(np.argmin(slots.max(axis=1)))
        raise ValueError(f"{name}: over[{i}] holds anchors alone: remove it")
    return Layout(slots, np.array(list(anchors.values())), n_points, dim), anchors


def check_used(function, unconstrained) -> None:
    """Raise ValueError on what is declared and no expression uses, and on an expression without any state."""
    name, used = function.name, set().union(*(e.free_symbols for e in function.expressions))
    for symbol in unconstrained:
        if symbol not in function.coordinates or symbol in used:
            reason = "an expression uses it" if symbol in used else "it is no state"
            raise ValueError(f"{name}: unconstrained={symbol}: {reason}: remove it from that list")
    for p in function.points:
        if used.isdisjoint(p) and p[0] not in unconstrained:
            if function.is_template:
                raise ValueError(
                    f"{name}: local point ({', '.join(s.name for s in p)}) is declared but no expression uses "
                    f"it: remove it"
                )
            raise ValueError(
                f"{name}: state {p[0].name!r} is declared but no expression uses it: remove it, or list it in "
                f"unconstrained=[{p[0].name}] if it is free to move"
            )
    for symbol in (*function.parameter_symbols, *(() if function.time is None else (function.time,))):
        if symbol not in used:
            role = "time" if symbol == function.time else "parameter"
            raise ValueError(
                f"{name}: {role} {symbol.name!r} is declared but no expression uses it: remove it or use it"
            )
    for i, expression in enumerate(function.expressions):
        if expression.free_symbols.isdisjoint(function.coordinates):
            raise ValueError(
                f"{name}: expression {i} ({shortened(expression)}) holds no state, so nothing can satisfy it: remove it"
            )
