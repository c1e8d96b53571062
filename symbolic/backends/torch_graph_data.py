"""A graph of torch's operators as plain data: no tensors of torch, and equal where it says the same."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

# What no operator of a value depends on.
_PLACEMENT = ("device", "layout", "memory_format", "pin_memory", "non_blocking")


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step; of inputs, x is 0 and weights and constants follow."""

    step: int


@dataclass(frozen=True)
class Step:
    """An operator with what it is called with, and the shapes and dtypes of its results; none of results not used."""

    operator: str
    args: tuple
    kwargs: tuple[tuple[str, Any], ...]
    results: tuple[tuple[tuple[int, ...], str], ...]


@dataclass(frozen=True)
class Graph:
    """Steps from x, weights by name and constants to one result."""

    steps: tuple[Step, ...]
    weights: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    result: Ref
    shape: tuple[int, ...]
    # Whether a constant is trained outside of the module's parameters.
    learned_constants: bool
    # Functions whose derivatives are not those of what they compute.
    own_rules: tuple[str, ...]


def as_data(graph: GraphModule, names: list[str], own_rules: list[str]) -> Graph:
    # What has no result reports errors of factorisations, whose numbers are NaN then.
    nodes = [node for node in graph.graph.nodes if node.op == "output" or "val" in node.meta]
    x, *places = [node for node in nodes if node.op == "placeholder"]
    used = [(name, node) for name, node in zip(names, places, strict=True) if node.users]
    held = [node for node in nodes if node.op == "get_attr"]
    refs: dict[Node, Ref] = {x: Ref(0)}
    for node in [node for _, node in used] + held:
        refs[node] = Ref(len(refs))
    tensors = [getattr(graph, str(node.target)) for node in held]
    steps = []
    for node in nodes:
        if node.op == "call_function":
            refs[node] = Ref(len(refs))
            operator = str(node.target) if isinstance(node.target, torch._ops.OpOverload) else "getitem"
            kwargs = {name: value for name, value in node.kwargs.items() if name not in _PLACEMENT}
            steps.append(
                Step(
                    operator, _plain(node.args, refs), tuple((k, _plain(v, refs)) for k, v in kwargs.items()),
                    _results(node),
                )
            )  # fmt: skip
    result = nodes[-1].args[0]
    assert isinstance(result, Node)
    return Graph(
        tuple(steps),
        tuple(name for name, _ in used),
        tuple(tensor.detach().cpu().numpy().copy() for tensor in tensors),
        refs[result],
        tuple(result.meta["val"].shape),
        any(tensor.requires_grad for tensor in tensors),
        tuple(own_rules),
    )


def _plain(value: Any, refs: dict[Node, Ref]) -> Any:
    if isinstance(value, Node):
        return refs[value]
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v, refs) for v in value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
        return None
    return value


def _results(node: Node) -> tuple:
    value = node.meta["val"]
    many = isinstance(value, (tuple, list))
    taken: set[Any] = {cast(Any, user.args[1]) for user in node.users} if many else {0}
    return tuple(
        (tuple(v.shape), str(v.dtype).removeprefix("torch.")) if i in taken and isinstance(v, Tensor) else None
        for i, v in enumerate(value if many else (value,))
    )
