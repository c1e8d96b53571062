"""Functions written with NumPy, called on arrays of JAX or torch: NumPy hands its own functions on by its protocols."""

import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

_OTHERWISE: Mapping[str, Mapping[str, str]] = {"torch": {"power": "pow", "concatenate": "cat", "absolute": "abs"}}


def called_by_numpy(function: Callable, module: ModuleType) -> Callable:
    """`function` on arrays of another library, `module` (jax.numpy or torch): np.exp becomes its exp.

    Raises TypeError where NumPy's function has none of that name there.
    """

    def handed_on(*arrays: Any) -> Any:
        return _taken(function(*(_Array(a, module) for a in arrays)))

    return handed_on


class _Array:
    """An array of another library that NumPy's functions, and operators, take."""

    def __init__(self, value: Any, module: ModuleType):
        self.value, self.module = value, module

    def _named(self, name: str) -> Callable:
        name = _OTHERWISE.get(self.module.__name__, {}).get(name, name)
        found = getattr(self.module, name, None)
        if found is None:
            raise TypeError(f"{self.module.__name__} has no {name}")
        return found

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **more: Any) -> Any:
        if method != "__call__" or more:
            raise TypeError(f"np.{ufunc.__name__} with {method} {sorted(more)} has no counterpart")
        return self._apply(self._named(ufunc.__name__), inputs)

    def __array_function__(self, function: Callable, types: Any, args: tuple, more: Mapping[str, Any]) -> Any:
        return self._apply(self._named(function.__name__), args, more)

    def _apply(self, function: Callable, args: tuple, more: Mapping[str, Any] = {}) -> Any:
        given = _taken(list(args))
        if self.module.__name__ == "torch" and function is not self._named("where"):
            given = [self._tensor(a) if isinstance(a, float | int | np.generic) else a for a in given]
        elif self.module.__name__ != "torch":  # JAX takes no lists
            given = [np.asarray(a) if isinstance(a, list) and not _holds_arrays(a) else a for a in given]
        return _wrapped(function(*given, **{k: _taken(v) for k, v in more.items()}), self.module)

    def _tensor(self, number: Any) -> Any:
        return self.module.as_tensor(number, dtype=self.value.dtype, device=self.value.device)

    def __getitem__(self, place: Any) -> Any:
        return _wrapped(self.value[_taken(place)], self.module)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        return self.value.ndim


def _operator(name: str, reflected: bool) -> Callable:
    function = getattr(operator, name)

    def apply(self: _Array, *others: Any) -> Any:
        given = (*_taken(list(others)), self.value) if reflected else (self.value, *_taken(list(others)))
        return _wrapped(function(*given), self.module)

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "matmul"):
    setattr(_Array, f"__{_name}__", _operator(_name, False))
    setattr(_Array, f"__r{_name}__", _operator(_name, True))
for _name in ("neg", "pos", "abs", "lt", "le", "gt", "ge"):
    setattr(_Array, f"__{_name}__", _operator(_name, False))


def _holds_arrays(entries: Any) -> bool:
    return any(hasattr(a, "shape") and a.shape for a in entries)


def _taken(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    return type(value)(map(_taken, value)) if type(value) in (list, tuple) else value


def _wrapped(value: Any, module: ModuleType) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_wrapped(v, module) for v in value)
    return _Array(value, module) if hasattr(value, "shape") else value
