"""Whether one tensor was computed from others, by torch's graph."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge


def comes_from(x: Any, sources: Iterable[Any]) -> bool:
    """Whether one of `sources` is in the graph that x has; what was computed without a graph can't be told."""
    if getattr(x, "grad_fn", None) is None:
        return False
    sources = [s for s in sources if isinstance(s, torch.Tensor) and s.requires_grad]
    targets = {get_gradient_edge(s).node for s in sources}
    # Nodes are numbered as they are made: what is older than all that is looked for leads to none of it.
    oldest = 0 if any(s.is_leaf for s in sources) else min((node._sequence_nr() for node in targets), default=math.inf)
    left, seen = [x.grad_fn], set()
    while left:
        node = left.pop()
        if node in targets:
            return True
        if node not in seen and node._sequence_nr() >= oldest:
            seen.add(node)
            left += [before for before, _ in node.next_functions if before is not None]
    return False
