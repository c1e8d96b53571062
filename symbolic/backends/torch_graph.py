"""A torch module's graph of operators (ATen), as plain data that another backend runs."""

import logging
import traceback
import warnings
from collections.abc import Callable, Container
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ndae.symbolic.backends.torch_graph_data import Graph, as_data
from ndae.symbolic.ground.words import listed, shortened

_BY_HOST = "or run it in torch, slower, with by_host=True"
# An identity through which no derivative goes, in place of what torch does without a graph.
_OWN = torch.library.Library("ndae", "DEF")
_OWN.define("cut(Tensor x) -> Tensor")
_OWN.impl("cut", lambda x: x.clone(), "CompositeExplicitAutograd")
_DETACHING: tuple[Any, ...] = (Tensor.detach, torch.detach, cast(Any, Tensor.data).__get__)


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

    def value(x: Tensor, *given: Tensor) -> Any:
        x = x.clone()  # which the module may change
        if isinstance(module, nn.Module):
            return functional_call(module, dict(zip(names, given, strict=True)), (x,))
        return module(x)

    def at(x: Tensor, *given: Tensor) -> Tensor:
        with cuts:
            y = value(x, *given)
            own_rules.update(_with_derivatives_of_their_own(y))
            return _checked(y, n_in, module, cuts)

    def trace(mode: str, *given: Tensor) -> Graph:
        graph = _made(at, known, mode, *given)
        if any(_changes(node) for node in graph.graph.nodes):
            functional = functionalize(graph, remove="mutations_and_views")
            graph = _made(functional, known, mode, *(v.detach() for v in given))
        graph.graph.eliminate_dead_code()
        _refuse(graph, module)
        return as_data(graph, names, sorted(own_rules))

    with torch.enable_grad(), torch.inference_mode(False), _default(dtype), _explained(module, n_in):
        given = [x, *weights.values()]
        try:
            graph = trace("fake", *given)
        except Exception as error:
            if isinstance(error, _Refused) or _is_of_values(error):
                raise
            graph = _by_values(trace, given, module, error)
        _check_points(value, *given)
    return graph


def _by_values(trace: Callable[..., Graph], given: list[Tensor], module: Callable, error: Exception) -> Graph:
    """The graph where torch can't trace without values: by those at two points, which must not be in it."""
    found = []
    for scale in (1.0, 1.0 + 2**-7):
        moved = [v.detach() * scale if v.is_floating_point() else v.clone() for v in given]
        try:
            moved = [m.requires_grad_(v.requires_grad) for m, v in zip(moved, given, strict=True)]
            found.append(trace("real", *moved))
        except _Refused:
            raise
        except Exception as other:
            raise (other if _is_of_values(other) else error) from None
    one, other = found
    constants = zip(one.constants, other.constants, strict=True) if len(one.constants) == len(other.constants) else ()
    if (one.steps, len(one.constants)) != (other.steps, len(other.constants)) or not all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in constants
    ):
        raise _Refused(
            f"{called(module)} makes numbers of values, outside of torch or by a branch: write it in torch's "
            f"operators, {_BY_HOST}"
        )
    return one


def _check_points(value: Callable, x: Tensor, *weights: Tensor) -> None:
    """Raises where a point's value depends on other points of a batch, as JAX's would not."""
    points = torch.linspace(0.2, 0.8, 3 * x.shape[1], dtype=x.dtype).reshape(3, -1)
    with torch.no_grad():
        try:
            together, alone = value(points, *weights), value(points[-1:], *weights)
        except Exception:  # a module of one point at a time
            return
    scale = together.abs().max()
    same = together.shape[:1] == (3,) and torch.allclose(together[-1:], alone, 0, 1e-5 * float(scale), equal_nan=True)
    if not same and scale.isfinite():
        raise _Refused(
            "the module's value at a point depends on the other points of a batch: write it over the last axis alone"
        )


def _made(at: Callable, known: Container[str], mode: Any, *given: Tensor) -> GraphModule:
    table: dict[Any, Callable] = {
        op: fn for op, fn in torch.export.default_decompositions().items() if str(op) not in known
    }
    return make_fx(at, decomposition_table=table, tracing_mode=mode, _allow_non_fake_inputs=True)(*given)


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
        if _is_of_values(error):
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


def _is_of_values(error: Exception) -> bool:
    """Whether torch says that a value was asked for while it traces."""
    names = ("GuardOnDataDependent", "DataDependentOutput", "DynamicOutputShape")
    return type(error).__name__.startswith(names) or "data-dependent" in str(error)


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
        raise _Refused(
            f"{called(module)} draws random numbers ({listed(dict.fromkeys(random))}), as dropout does in training "
            "mode: call .eval() on it first, or leave them out"
        )
    changing = [node.target for node in graph.graph.nodes if _changes(node) or _over_batch(node)]
    if changing:
        raise _Refused(
            f"{called(module)} changes its own state while it computes ({listed(dict.fromkeys(changing))}), as "
            "normalisation over a batch does in training mode: call .eval() on it first"
        )
    values = [part for node in graph.graph.nodes for part in pytree.tree_leaves(node.meta.get("val"))]
    if any(map(_of_values, values)) or any(map(_takes_where, graph.graph.nodes)):
        raise _Refused(
            f"{called(module)} has numbers or shapes made of values: write it over tensors of fixed shapes, {_BY_HOST}"
        )


def _takes_where(node: Node) -> bool:
    """Whether it takes entries by truth values, x[x > 0]: how many, depends on values. One number may be put there."""
    operator = str(node.target)
    if operator in ("aten.nonzero.default", "aten.masked_select.default"):
        return True
    if operator not in ("aten.index.Tensor", "aten.index_put.default"):
        return False
    indices = [arg for arg in cast(Any, node.args[1]) if arg is not None]
    masked = any(index.meta["val"].dtype == torch.bool for index in indices)
    one_number = operator == "aten.index_put.default" and cast(Any, node.args[2]).meta["val"].numel() == 1
    return masked and not (one_number and len(indices) == len(cast(Any, node.args[1])) == 1)


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
