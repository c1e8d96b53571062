"""Edges of a graph as index tensors, the origin as one more node."""

from collections.abc import Sequence

import torch
from torch import Tensor

Edges = Sequence[Sequence[int | None]]


def read_edges(edges: Edges, what: str) -> tuple[int, Tensor, Tensor]:
    """The number of nodes, and the first and second ends of all edges; the origin (None) is the node after the last.

    Raises ValueError, naming `what`, for no edges and for an edge that does not join two different nodes.
    """
    if not edges:
        raise ValueError(f"{what} needs at least one edge: a pair of node indices")
    for edge in edges:
        if len(edge) != 2 or edge[0] == edge[1] or any(end is not None and end < 0 for end in edge):
            raise ValueError(f"edge {edge!r}: an edge joins two different nodes, or a node and ORIGIN")
    nodes = 1 + max(end for edge in edges for end in edge if end is not None)
    ends = torch.tensor([[nodes if end is None else end for end in edge] for edge in edges])
    return nodes, ends[:, 0].contiguous(), ends[:, 1].contiguous()
