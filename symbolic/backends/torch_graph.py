"""A torch module's graph of operators (ATen), as plain data that another backend runs."""

import logging
import traceback
import warnings
from collections.abc import Callable, Container
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ndae.symbolic.ground.words import listed, shortened

_BY_HOST = "or run it in torch, slower, with by_host=True"
# What no operator of a value depends on.
_PLACEMENT = ("device", "layout", "memory_format", "pin_memory", "non_blocking")
# An identity through which no derivative goes, in place of what torch does without a graph.
_OWN = torch.library.Library("ndae", "DEF")
_OWN.define("cut(Tensor x) -> Tensor")
_OWN.impl("cut", lambda x: x.clone(), "CompositeExplicitAutograd")
_DETACHING: tuple[Any, ...] = (Tensor.detach, torch.detach, cast(Any, Tensor.data).__get__)


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


class _Cuts(TorchFunctionMode):
    """Marks what torch takes no derivative of: detach, a part under no_grad, grad without create_graph."""

    def __init__(self) -> None:
        super().__init__()
        self.n_cuts = 0
        self._aliases: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self._check_in_place(func, args)
        out = func(*args, **(kwargs or {}))
        if func is torch.autograd.grad:
            cut = not (kwargs or {}).get("create_graph", len(args) > 4 and args[4])
        else:
            cut = func in _DETACHING or not torch.is_grad_enabled()
        return pytree.tree_map_only(Tensor, lambda x: self._cut(x, func in _DETACHING), out) if cut else out

    def _cut(self, x: Tensor, detached: bool) -> Tensor:
        if not x.is_floating_point() or x.requires_grad:
            return x
        self.n_cuts += 1
        marked = torch.ops.ndae.cut(x)
        if detached or x._is_view():
            self._aliases.append(marked)
        return marked

    def _check_in_place(self, func: Any, args: tuple) -> None:
        """What is marked is a copy: a change of it would not reach the tensor that it is a view of."""
        name = getattr(func, "__name__", "")
        changes = name in ("__setitem__", "copy_") or (name.endswith("_") and not name.startswith("__"))
        if changes and name != "requires_grad_" and args and isinstance(args[0], Tensor):
            own = (args[0], args[0]._base)
            if any(alias is part for alias in self._aliases for part in own):
                raise _Refused(
                    f"a tensor is changed through detach(), .data or a view under no_grad() ({name}): write it without "
                    f"a change in place, {_BY_HOST}"
                )


def state_of(module: Callable) -> dict[str, Tensor]:
    """Parameters and buffers by name, one name for each; none of a function."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())} if isinstance(module, nn.Module) else {}


def in_precision(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy on the CPU without a graph, of floating numbers in another precision."""
    return x.detach().to("cpu", dtype if x.is_floating_point() else x.dtype, copy=True)


def traced(module: Callable, n_in: int, dtype: torch.dtype, known: Container[str]) -> Graph:
    """The graph of a module at one point, x (1, n_in), of operators known where torch can write others by them.

    Raises ValueError, with what to write instead, for a graph that depends on values, for random operators and for a
    module that changes its own state.
    """
    weights = {
        name: in_precision(x, dtype).requires_grad_(isinstance(x, nn.Parameter) and x.is_floating_point())
        for name, x in state_of(module).items()
    }
    x = torch.full((1, n_in), 0.5, dtype=dtype, requires_grad=True)
    names, cuts, own_rules = list(weights), _Cuts(), set[str]()

    def at(x: Tensor, *given: Tensor) -> Tensor:
        x = x.clone()  # which the module may change
        with cuts:
            if isinstance(module, nn.Module):
                y = functional_call(module, dict(zip(names, given, strict=True)), (x,))
            else:
                y = module(x)
            own_rules.update(_with_derivatives_of_their_own(y))
            return _checked(y, n_in, module, cuts)

    with torch.enable_grad(), torch.inference_mode(False), _default(dtype), _explained(module, n_in):
        graph = _made(at, known, x, *weights.values())
        if any(_changes(node) for node in graph.graph.nodes):
            graph = _made(
                functionalize(graph, remove="mutations_and_views"), known, *(v.detach() for v in (x, *weights.values()))
            )
    graph.graph.eliminate_dead_code()
    _refuse(graph, module)
    return _as_data(graph, names, sorted(own_rules))


def _made(at: Callable, known: Container[str], *given: Tensor) -> GraphModule:
    table: dict[Any, Callable] = {
        op: fn for op, fn in torch.export.default_decompositions().items() if str(op) not in known
    }
    return make_fx(at, decomposition_table=table, tracing_mode="fake", _allow_non_fake_inputs=True)(*given)


@contextmanager
def _default(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _checked(y: Any, n_in: int, module: Callable, cuts: _Cuts) -> Tensor:
    if not isinstance(y, Tensor) or y.ndim not in (1, 2) or y.shape[0] != 1:
        got = f"a tensor {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        mend = "; write squeeze(-1) for squeeze(), which takes the axis of points too" if got == "a tensor ()" else ""
        raise _Refused(
            f"{called(module)} gives {got} at x of shape (1, {n_in}), expected (1, n_out), or (1,) for one output: it "
            f"maps (..., n_in) to (..., n_out){mend}"
        )
    if cuts.n_cuts and not y.requires_grad:
        raise _Refused(
            f"{called(module)} has no derivative by x in torch, since all of it is detached: leave out detach() and "
            "no_grad(), and give create_graph=True to torch.autograd.grad"
        )
    return y


class _Refused(ValueError):
    """An error that says what to write instead."""


@contextmanager
def _explained(module: Callable, n_in: int):
    """Raises ValueError with the line of the module in place of what torch says while it traces."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    loud, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own insides
            yield
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        where, text = _line(error), str(error)
        if type(error).__name__.startswith(("GuardOnDataDependent", "DataDependentOutput", "DynamicOutputShape")) or (
            "data-dependent" in text
        ):
            raise ValueError(
                f"{called(module)} branches on values, or makes numbers or shapes of them{where}: one branch would "
                f"stand for all. Write torch.where(condition, a, b) over tensors of fixed shapes, {_BY_HOST}"
            ) from error
        eval_mode = ", call .eval() on it, since it is in training mode" if getattr(module, "training", False) else ""
        raise ValueError(
            f"{called(module)} can't be traced at x of shape (1, {n_in}){where}: {type(error).__name__}: "
            f"{shortened(text.splitlines()[0] if text else '', 200)}. Check that it maps (..., {n_in}) to "
            f"(..., n_out){eval_mode}, {_BY_HOST}"
        ) from error
    finally:
        log.disabled = loud


def _line(error: Exception) -> str:
    """Where in the user's code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    return f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""


def called(module: Callable) -> str:
    """A module's class, or a function's name."""
    return type(module).__name__ if isinstance(module, nn.Module) else getattr(module, "__name__", repr(module))


def _changes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _refuse(graph: GraphModule, module: Callable) -> None:
    operators = [node.target for node in graph.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    random = [op for op in operators if torch.Tag.nondeterministic_seeded in op.tags]
    if random:
        raise ValueError(
            f"{called(module)} draws random numbers ({listed(dict.fromkeys(random))}), as dropout does in training "
            "mode: call .eval() on it first, or leave them out"
        )
    changing = [node.target for node in graph.graph.nodes if _changes(node) or _over_batch(node)]
    if changing:
        raise ValueError(
            f"{called(module)} changes its own state while it computes ({listed(dict.fromkeys(changing))}), as "
            "normalisation over a batch does in training mode: call .eval() on it first"
        )
    if any(_of_values(part) for node in graph.graph.nodes for part in pytree.tree_leaves(node.meta.get("val"))):
        raise ValueError(
            f"{called(module)} has shapes that depend on values: write it over tensors of fixed shapes, {_BY_HOST}"
        )


def _of_values(x: Any) -> bool:
    """Whether it is a number made of values, or has such a shape."""
    if isinstance(x, Tensor):
        return not all(isinstance(n, int) for n in x.shape)
    return isinstance(x, torch.SymInt | torch.SymFloat | torch.SymBool)


def _with_derivatives_of_their_own(y: Any) -> set[str]:
    """Names of torch.autograd.Function classes that y was computed by."""
    left, seen, found = [getattr(y, "grad_fn", None)], set(), set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [before for before, _ in node.next_functions]
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(type(node).__name__.removesuffix("Backward"))
    return found


def _over_batch(node: Node) -> bool:
    """Whether it normalises by a batch, and keeps the statistics of that."""
    return str(node.target) == "aten.native_batch_norm.default" and bool(node.args[5]) and node.args[3] is not None


# -- the graph as data -------------------------------------------------------------------------------------------------


def _as_data(graph: GraphModule, names: list[str], own_rules: list[str]) -> Graph:
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
