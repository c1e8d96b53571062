"""Vector functions generated for torch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.autograd import forward_ad

from ndae.symbolic.backends.loading import load
from ndae.symbolic.backends.solves import Arrays, python_loop
from ndae.symbolic.backends.supplied_torch import TorchSupplied
from ndae.symbolic.backends.vector import CompiledVector
from ndae.symbolic.code.levelled import Numerics, entries
from ndae.symbolic.code.source import ARRAY
from ndae.symbolic.ground.kept import kept, remembered

#: Up to this many definitions code is straight-line, above it is done level by level.
STRAIGHT_LIMIT = 200


def _tensor(x, like=None):
    if isinstance(x, torch.Tensor):
        return x
    return torch.tensor(x, dtype=torch.float64 if like is None else like.dtype, device=getattr(like, "device", None))


def _where(condition, a, b):
    like = next((x for x in (a, b) if isinstance(x, torch.Tensor)), None)
    if like is None:  # two numbers, in double precision whatever torch's default
        like = torch.empty((), dtype=torch.float64, device=condition.device)
    return torch.where(condition, _tensor(a, like), _tensor(b, like))


def _two(function):
    def of_two(a, b):
        like = a if isinstance(a, torch.Tensor) else b
        return function(_tensor(a, like), _tensor(b, like))

    return of_two


FUNCTIONS = {
    **{name: getattr(torch, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sqrt")},
    **{name: getattr(torch, name) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    "atan2": _two(torch.atan2),
    "power": _two(torch.pow),
    "where": _where,
    "abs": abs,  # of tensors and of numbers
    "floor": lambda x: torch.floor(_tensor(x)),
    "guard": lambda condition, x: torch.where(condition, x, x.detach()),
}


def _stack(entries):
    like = next((e for e in entries if isinstance(e, torch.Tensor)), None)
    return torch.stack(torch.broadcast_tensors(*[_tensor(e, like) for e in entries]), -1)


def _library(matrix, right):
    right = right.expand(torch.broadcast_shapes(matrix.shape[:-1], right.shape)).unsqueeze(-1)
    if forward_ad._current_level >= 0:  # forward mode twice through torch's own solve is wrong, without a word
        return (torch.linalg.inv_ex(matrix)[0] @ right).squeeze(-1)
    return torch.linalg.solve_ex(matrix, right)[0].squeeze(-1)


def _freeze(x):
    if isinstance(x, TorchSupplied):
        return x.frozen()
    return x.detach() if isinstance(x, torch.Tensor) else x


class _Implicit(torch.autograd.Function):
    """z (..., n) with equations(z, outer) = 0, whose own graph has first derivatives, with derivatives of any order.

    Those of order k + 1 are made of z as this function gives it, with derivatives of order k. Where no more than the
    first is wanted, the graph of z has it at less cost. Written with torch.func, whose transforms it goes through.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(equations, z, *outer):
        del equations, outer
        return z.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.equations, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, cotangent):
        needed = ctx.needs_input_grad[2:]
        if not torch.is_grad_enabled():
            return None, cotangent, *[None for _ in needed]
        places = [i for i, wanted in enumerate(needed) if wanted]
        _, rows, pull = _linearised(ctx.equations, ctx.saved_tensors, places)
        columns = list(zip(*[row.unbind(-1) for row in rows], strict=True))
        gradients = pull(-_stack(ARRAYS.solve(columns, cotangent.unbind(-1))))
        found = dict(zip(places, gradients, strict=True))
        return None, None, *[found.get(i) for i in range(len(needed))]

    @staticmethod
    def jvp(ctx, _, __, *changes):
        places = [i for i, change in enumerate(changes) if change is not None]
        # torch switches forward mode off in here, and with it that of the transforms around this one.
        with forward_ad._set_fwd_grad_enabled(True):
            tensors = [forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors]
            z, rows, pull = _linearised(ctx.equations, tensors, places)
            # J v as the transpose of w -> Jᵀ w, as forward mode can't be nested outside of torch.func.
            transposed: Any = torch.func.vjp(pull, torch.zeros_like(z))
            _, push = transposed
            (right,) = push(tuple(changes[i] for i in places))
            return -_stack(ARRAYS.solve([row.unbind(-1) for row in rows], right.unbind(-1)))


def _linearised(equations, tensors, places):
    """z, the rows of ∂r/∂z, and the product of a vector with ∂r/∂outer for the entries `places` of outer."""
    z, *outer = _Implicit.apply(equations, *tensors), *tensors[1:]

    def residual(*moved):
        given = list(outer)
        for i, x in zip(places, moved, strict=True):
            given[i] = x
        r, rows = equations(z.unbind(-1), given)
        return _stack(r).expand(z.shape), tuple(map(_stack, rows))

    found: Any = torch.func.vjp(residual, *[outer[i] for i in places], has_aux=True)
    _, pull, rows = found
    return z, rows, pull


def _implicit(equations, z, outer):
    places = [i for i, x in enumerate(outer) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    functions = [(i, f, list(f.weights.values())) for i, f in enumerate(outer) if isinstance(f, TorchSupplied)]
    weights = [w for _, _, own in functions for w in own]

    def of_tensors(z, tensors):
        given, tensors = list(outer), list(tensors)
        for i in places:
            given[i] = tensors.pop(0)
        for i, f, own in functions:
            given[i] = f.with_weights([tensors.pop(0) for _ in own])
        return equations(z, given)

    if torch.is_grad_enabled():
        residual, rows = equations(z, outer)
        change = ARRAYS.solve([[_freeze(a) for a in row] for row in rows], residual)
        z = [x - d for x, d in zip(z, change, strict=True)]
    return _Implicit.apply(of_tensors, _stack(z), *[outer[i] for i in places], *weights).unbind(-1)


ARRAYS = Arrays(torch, _stack, _library, _freeze, python_loop, implicit=_implicit)
FUNCTIONS |= ARRAYS.functions()


class TorchNumerics(Numerics):
    functions, arrays = FUNCTIONS, ARRAYS

    def __init__(self):
        self._kept: dict = {}

    def _keep(self, numbers, dtype, device):
        """A table as a tensor. The table is kept beside it: another one could get its id."""
        key = (id(numbers), dtype, device)
        if key not in self._kept:
            self._kept[key] = numbers, torch.tensor(numbers, dtype=dtype, device=device)
        return self._kept[key][1]

    def constant(self, numbers, like):
        return self._keep(numbers, like.dtype, like.device)

    def take(self, x, index):
        return x[index] if isinstance(index, slice) else x.index_select(0, self._keep(index, torch.long, x.device))

    def concatenate(self, arrays):
        return torch.cat(list(arrays))

    def broadcast(self, x, shape):
        return x.expand(shape)

    def first(self, x, shape):
        return x.expand(*shape, x.shape[-1]).movedim(-1, 0)

    def column(self, values, shape, like):
        if not values:
            return like.new_zeros((0, *shape))
        return torch.stack([v.expand(shape) for v in values])

    def lookup(self, table, order):
        low, high = table.reach

        def at(x):
            x = _tensor(x)
            rows, breaks = self.constant(table.derivative(order), x), self.constant(table.breaks, x)
            within = (x >= low) & (x <= high)
            x = x.clamp(table.first, table.last) if table.held else x
            i = torch.searchsorted(breaks, x.detach().contiguous(), right=True) - 1
            i = i.clamp(0, rows.shape[0] - 1)
            row, s = rows[i], x - breaks[i]
            value = row[..., 0]
            for k in range(1, rows.shape[1]):
                value = value * s + row[..., k]
            outside = value if table.held and not order else torch.full_like(value, 0.0 if table.held else torch.nan)
            return torch.where(within, value, outside)

        return at

    def as_number(self, condition, like):
        return condition.to(like.dtype)


class TorchVector(CompiledVector):
    """A vector function for torch: batched, fit for autograd and torch.func."""

    @kept
    def _tables(self) -> dict:
        """Index tables of Jacobians as tensors."""
        return {}

    @kept
    def _numerics(self) -> TorchNumerics:
        return TorchNumerics()

    def _kernel(self, which):
        return remembered(self._kernels, which, lambda: self._make(which))

    def _make(self, which):
        layout = None if which is None else self.layout(which)
        wanted = [] if layout is None else [layout.entries]
        program = self.function.levelled(*wanted) if self.function.operations(*wanted) > STRAIGHT_LIMIT else None
        if program is None:
            source = self.function.values_source(ARRAY)
            if layout is not None:
                source = self.function.entries_source(which, layout.entries, ARRAY)
            looked_up = {name: self._numerics.lookup(e.table, e.order) for name, e in self.function.lookups().items()}
            (generated,) = load(source, FUNCTIONS | looked_up).values()

            def straight(vectors, extras, shape, like, calls):
                values = generated(*[v.unbind(-1) for v in vectors], *extras, *calls.values())
                return join_vector(values, shape, like)

            return straight

        def levelled(vectors, extras, shape, like, calls):
            return entries(program, self._numerics, vectors, extras, shape, calls).movedim(0, -1)

        return levelled

    def _evaluate(self, which, vectors, t, parameters):
        self._checked(vectors)
        like = vectors[0]
        extras = list(self._values(parameters).values())
        if self.has_time:
            extras.insert(0, self._time(t))
        extras = [torch.as_tensor(e, dtype=like.dtype, device=like.device) for e in extras]
        shapes = {v.shape[:-1] for v in vectors} | {e.shape for e in extras if e.ndim}
        shape = shapes.pop() if len(shapes) == 1 else torch.broadcast_shapes(*shapes)
        calls = self._functions(which, parameters)
        return self._kernel(which)(vectors, extras, shape, like, calls), shape, like

    def __call__(self, *vectors, t=None, parameters: Mapping | None = None):
        return self._evaluate(None, vectors, t, parameters)[0]

    def jacobian(self, which: str, *vectors, t=None, parameters: Mapping | None = None):
        layout = self.layout(which)
        values, shape, like = self._evaluate(which, vectors, t, parameters)
        key = (which, like.dtype, like.device)
        if key not in self._tables:
            constants, table = layout.table
            self._tables[key] = torch.as_tensor(constants).to(like), torch.as_tensor(table, device=like.device)
        constants, table = self._tables[key]
        both = torch.cat([values, constants.expand(*shape, -1)], -1)
        return both.index_select(-1, table).unflatten(-1, layout.shape)


def join_vector(entries, shape, like):
    """Numbers and tensors side by side on a new last axis, (*shape, n)."""
    if not entries:
        return like.new_zeros((*shape, 0))
    entries = [e if isinstance(e, torch.Tensor) else like.new_full((), e) for e in entries]
    return torch.stack([(e if e.shape == shape else e.expand(shape)).to(like.dtype) for e in entries], -1)
