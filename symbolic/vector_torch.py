"""Vector functions generated for torch."""

from collections.abc import Mapping

import torch

from symbolic.compile import load
from symbolic.scalar_code import ARRAY
from symbolic.solves import Arrays, python_loop
from symbolic.vector_backends import CompiledVector


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
    "guard": lambda condition, x: torch.where(condition, x, x.detach()),
}


def _stack(entries):
    like = next((e for e in entries if isinstance(e, torch.Tensor)), None)
    return torch.stack(torch.broadcast_tensors(*[_tensor(e, like) for e in entries]), -1)


def _library(matrix, right):
    return torch.linalg.solve_ex(matrix, right.expand(matrix.shape[:-1]).unsqueeze(-1))[0].squeeze(-1)


def _freeze(x):
    return x.detach() if isinstance(x, torch.Tensor) else x


ARRAYS = Arrays(torch, _stack, _library, 0, _freeze, python_loop)
FUNCTIONS |= ARRAYS.functions()


class TorchVector(CompiledVector):
    """A vector function for torch: batched, fit for autograd and torch.func."""

    def __init__(self, function):
        super().__init__(function)
        self._kernels: dict = {}
        self._kept: dict = {}

    def _kernel(self, which):
        if which not in self._kernels:
            if which is None:
                source = self.function.values_source(ARRAY)
            else:
                source = self.function.entries_source(which, self.layout(which).entries, ARRAY)
            (self._kernels[which],) = load(source, FUNCTIONS).values()
        return self._kernels[which]

    def _evaluate(self, which, vectors, t, parameters):
        self._checked(vectors)
        return run(self, self._kernel(which), vectors, t, parameters)

    def __call__(self, *vectors, t=None, parameters: Mapping | None = None):
        return join_vector(*self._evaluate(None, vectors, t, parameters))

    def jacobian(self, which: str, *vectors, t=None, parameters: Mapping | None = None):
        layout = self.layout(which)
        entries, shape, like = self._evaluate(which, vectors, t, parameters)
        key = (which, like.dtype, like.device)
        if key not in self._kept:
            constants, table = layout.table
            self._kept[key] = torch.as_tensor(constants).to(like), torch.as_tensor(table, device=like.device)
        constants, table = self._kept[key]
        both = torch.cat([join_vector(entries, shape, like), constants.expand(*shape, -1)], -1)
        return both.index_select(-1, table).unflatten(-1, layout.shape)


def run(compiled, generated, vectors, t, parameters):
    """Entries that generated code gives for vectors (..., n), the batch's shape, and a tensor to copy the type of."""
    like = next(iter(vectors))
    extras = list(compiled._values(parameters).values())
    if compiled.has_time:
        extras.insert(0, compiled._time(t))
    extras = [torch.as_tensor(e, dtype=like.dtype, device=like.device) for e in extras]
    shape = torch.broadcast_shapes(*[v.shape[:-1] for v in vectors], *[e.shape for e in extras])
    return generated(*[v.unbind(-1) for v in vectors], *extras), shape, like


def join_vector(entries, shape, like):
    """Numbers and tensors side by side on a new last axis, (*shape, n)."""
    if not entries:
        return like.new_zeros((*shape, 0))
    entries = [e if isinstance(e, torch.Tensor) else like.new_full((), e) for e in entries]
    return torch.stack([(e if e.shape == shape else e.expand(shape)).to(like.dtype) for e in entries], -1)
