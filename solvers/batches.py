"""Starts and parameters over one batch, some of which may be refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def broadcast_parameters(parameters: Mapping[str, Any] | None, batch: tuple[int, ...]) -> dict[str, Any] | None:
    """Parameters with a value for each of the batch in the batch's shape; the others as they are."""
    if not parameters:
        return None
    return {name: np.broadcast_to(value, batch) if np.ndim(value) else value for name, value in parameters.items()}


def at_index(parameters: Mapping[str, Any] | None, index: tuple[int, ...]) -> dict[str, float]:
    """The parameters of one of a batch: the value itself where there is one for all."""
    return {
        name: float(np.asarray(value)[index]) if np.ndim(value) else float(value)
        for name, value in (parameters or {}).items()
    }


#: Why there is no solve, by index of a batch. In place of it, None asks for an exception.
Refused = dict[tuple[int, ...], str] | None


def refuse(refused: Refused, index: tuple[int, ...], reason: str) -> None:
    """Note the first reason for a sample; raises ValueError where nobody notes."""
    if refused is None:
        raise ValueError(reason)
    refused.setdefault(index, reason)


def stand_in(values: np.ndarray, batch: tuple[int, ...], refused: Refused) -> np.ndarray:
    """Values (*batch, ...) with those of the first good sample for the refused ones: solves go on as many as they were,
    so that nothing is compiled again."""
    if not refused or np.shape(values)[: len(batch)] != batch:
        return values
    good = next(index for index in np.ndindex(batch) if index not in refused)
    values = np.array(values)
    for index in refused:
        values[index] = values[good]
    return values


def common_shape(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that all broadcast to; raises ValueError, with each that has one, if they do not."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(f"the batch shapes do not go together: {given}; give the same, or one value for all") from None
