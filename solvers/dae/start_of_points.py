"""Where a system of points starts: its coordinates and velocities as whole vectors, or state by state."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.solvers.arguments import named_once, numbers, points_of
from ndae.solvers.batches import common_shape
from ndae.symbolic.ground.words import listed
from ndae.symbolic.systems.system import System


def groups_of(system: System) -> dict[str, slice]:
    """Columns of the states of a system of points: coordinates "q", velocities "v", multipliers "multiplier"."""
    n, end = points_of(system).n_states, len(system.states)
    return {"q": slice(0, n), "v": slice(n, 2 * n), "multiplier": slice(2 * n, end)}


def read_points(system: System, start: Any) -> Float[np.ndarray, "*batch n_states"]:
    """All states (q, v, multipliers), NaN where `start` does not give them; batches are of common shape.

    `start` is an array (*batch, n_states), or (*batch, 2 n) of q and v alone, or a mapping. That may name single
    states, and "q" and "v" as whole vectors (*batch, n); one number for "v" is that of all velocities. Raises
    ValueError for others, and for coordinates or velocities that no sample gives; what is given for some of a batch
    alone, or finite for some alone, is for the caller to refuse.
    """
    names, groups = [s.name for s in system.states], groups_of(system)
    n = groups["q"].stop
    if not isinstance(start, Mapping):
        array = numbers("start", start, finite=False)
        if array.ndim < 1 or array.shape[-1] not in (2 * n, len(names)):
            raise ValueError(
                f"start has shape {array.shape}; expected (*batch, {2 * n}), coordinates and velocities of "
                f"{system.name!r} side by side, or a mapping: {{'q': ..., 'v': ...}}"
            )
        columns = [(slice(0, array.shape[-1]), array)]
    else:
        columns = _columns(system.name, names, groups, named_once("start", start))
    batch = common_shape({f"start[{_of(names, at)}]": value.shape[:-1] for at, value in columns})
    if 0 in batch:
        raise ValueError(f"start has batch shape {batch}: an empty batch; give at least one start")
    states = np.full((*batch, len(names)), np.nan)
    for at, value in columns:
        states[..., at] = value
    lacking = np.isnan(states[..., : 2 * n]).reshape(-1, 2 * n).all(axis=0)
    if lacking.any():
        raise ValueError(
            f"start gives no value for {listed([names[i] for i in np.flatnonzero(lacking)])}; {system.name!r} starts "
            "from coordinates and velocities, {'q': [...], 'v': [...]}, and from rest with 'v': 0"
        )
    return states


def _columns(system_name: str, names: list[str], groups: dict[str, slice], given: Mapping[str, Any]) -> list:
    columns = []
    for key, value in given.items():
        value = numbers(f"start[{key!r}]", value, finite=False)
        if key in names:
            i = names.index(key)
            columns.append((slice(i, i + 1), value[..., None]))
        elif key in ("q", "v"):
            n = groups[key].stop - groups[key].start
            if value.ndim and value.shape[-1] != n:
                raise ValueError(
                    f"start[{key!r}] has shape {value.shape}; expected (*batch, {n}), one number for each coordinate "
                    f"of {system_name!r}"
                )
            twice = [name for name in names[groups[key]] if name in given]
            if twice:
                raise ValueError(f"start gives {twice[0]} twice, by itself and in {key!r}; give it once")
            columns.append((groups[key], value if value.ndim else value[None]))
        else:
            raise ValueError(
                f"start names {key}; {system_name!r} has q and v, whole vectors, and the states {listed(names)}"
            )
    return columns


def _of(names: list[str], at: slice) -> str:
    return names[at.start] if at.stop - at.start == 1 else f"{names[at.start]} to {names[at.stop - 1]}"
