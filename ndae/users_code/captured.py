"""What a function given in place of a module holds: the modules and parameters that it uses, found and registered."""

import dis
import functools
import inspect
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

# Functions and objects of these are not looked into: what a user wants trained is not there.
_LIBRARIES = {
    "builtins", "collections", "functools", "jax", "jaxtyping", "lightning", "math", "numpy", "operator", "scipy",
    "sympy", "torch", "torchdiffeq",
}  # fmt: skip
_DEPTH = 8


class Captured(nn.Module):
    """Modules and parameters found in functions and plain objects, registered so that they are trained, moved, put in
    evaluation mode and saved with the model that calls these; empty where there are none."""

    def __init__(self, *things: Any):
        super().__init__()
        found: dict[int, Any] = {}
        for thing in things:
            if not isinstance(thing, nn.Module):
                for path, held in tensors_and_modules(thing):
                    registers = isinstance(held, nn.Parameter | nn.Module) and not _is_being_made(held)
                    if registers and id(held) not in found:
                        found[id(held)] = held
                        self._hold(path, held)

    def _hold(self, path: str, held: Any) -> None:
        name = path.rpartition(".")[2].strip("[]'") or "held"
        while hasattr(self, name):
            name += "_"
        if isinstance(held, nn.Module):
            self.add_module(name, held)
        else:
            self.register_parameter(name, held)


def captured(*things: Any) -> Captured | None:
    """What functions and plain objects hold that can be trained, or None where that is nothing."""
    held = Captured(*things)
    return held if any(True for _ in held.state_dict()) or any(True for _ in held.children()) else None


def tensors_and_modules(thing: Any) -> Iterator[tuple[str, Any]]:
    """Paths and objects: modules, and tensors outside of modules, that a function or a plain object holds.

    Looked into are closures, defaults, partials, bound methods, attributes, containers, and the globals that the code
    names, `_DEPTH` deep.
    """
    yield from _walk(thing, getattr(thing, "__name__", type(thing).__name__), set(), 0)


def _walk(thing: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, nn.Module | Tensor):
        yield path, thing
        return
    if depth > _DEPTH or id(thing) in seen or isinstance(thing, types.ModuleType | type | str | bytes | int | float):
        return
    seen.add(id(thing))
    for name, part in _parts(thing):
        yield from _walk(part, f"{path}{name}", seen, depth + 1)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a function, a container or an object of a user's class is made of, and under which name."""
    if isinstance(thing, functools.partial):
        yield from (("", thing.func), ("", thing.args), ("", thing.keywords))
    elif isinstance(thing, types.MethodType):
        yield from ((".__self__", thing.__self__), ("", thing.__func__))
    elif isinstance(thing, types.FunctionType):
        if not _is_of_library(thing.__module__):
            yield from _parts_of_function(thing)
    elif isinstance(thing, dict):
        yield from ((f"[{key!r}]", part) for key, part in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"[{number}]", part) for number, part in enumerate(thing))
    elif not _is_of_library(type(thing).__module__):
        yield from ((f".{name}", part) for name, part in getattr(thing, "__dict__", {}).items())
        slots = {name for base in type(thing).__mro__ for name in _named(getattr(base, "__slots__", ()))}
        yield from ((f".{name}", getattr(thing, name)) for name in sorted(slots) if hasattr(thing, name))
        yield from (("", vars(base)["__call__"]) for base in type(thing).__mro__ if "__call__" in vars(base))


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
    yield from ((".default", value) for value in function.__defaults__ or ())
    yield from ((f".{name}", value) for name, value in (function.__kwdefaults__ or {}).items())
    yield from ((f".{name}", value) for name, value in vars(function).items())
    for name in _globals_named(function.__code__):
        if name in function.__globals__:
            yield f".{name}", function.__globals__[name]


def _globals_named(code: types.CodeType) -> list[str]:
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):  # functions and comprehensions written inside
            names.update(_globals_named(constant))
    return sorted(names)


def _named(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_of_library(module: str | None) -> bool:
    module = module or ""
    return module.partition(".")[0] in _LIBRARIES or module.startswith("ndae.symbolic")


def _is_being_made(module: Any) -> bool:
    """Whether a method of this module is running: in `self.motion = NeuralMotion(..., self.force)` the module that a
    force belongs to is going to hold the motion itself, has its own parts registered, and must not be held by them."""
    frame, kinds = inspect.currentframe(), type(module).__mro__
    while frame is not None:
        code = frame.f_code
        methods = (vars(kind).get(code.co_name) for kind in kinds)
        if any(getattr(method, "__code__", None) is code for method in methods) and (
            frame.f_locals.get(code.co_varnames[0]) is module
        ):
            return True
        frame = frame.f_back
    return False
