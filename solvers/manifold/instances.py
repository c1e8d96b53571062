"""A constraint whose instances share no state, as many small ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def separate(
    constraint, y: Tensor, t: Any, parameters: Mapping | None, inverse_metric: Tensor | None
) -> tuple[Any, Tensor, tuple] | None:
    """The constraint of one instance, the states (..., n_instances, local_states), and time, parameters and metric.

    None where there is nothing to separate: where instances meet, where states belong to none, where points are fixed,
    or where the metric differs from instance to instance. Differentiable.
    """
    n, local = constraint.n_instances, constraint.local_states
    rows = getattr(constraint, "table_gather_rows", None)
    apart = constraint.structure_kind == "block_diagonal" and n > 1 and n * local == constraint.n_states
    if not apart or rows is None or not hasattr(constraint, "one_instance"):
        return None
    if inverse_metric is not None:
        points = constraint.table_point_of_slot.reshape(n, -1)
        blocks = inverse_metric[points]
        if not bool((blocks == blocks[:1]).all()):
            return None
        inverse_metric = blocks[0]
    states = y.index_select(-1, rows).unflatten(-1, (n, local))
    batch = states.shape[:-1]
    if isinstance(t, Tensor) and t.dim():
        t = t.unsqueeze(-1).expand(batch)
    given = {name: torch.as_tensor(value, dtype=y.dtype, device=y.device) for name, value in (parameters or {}).items()}
    # One a sample and instance each, (..., n_instances, 1), or one for all.
    each = {
        name: value.expand(batch).unsqueeze(-1) if value.dim() else value
        for name, value in (constraint.values(y) | given).items()
    }
    return constraint.one_instance(), states, (t, each, inverse_metric)
