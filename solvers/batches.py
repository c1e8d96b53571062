"""Starts and parameters over one batch."""

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
