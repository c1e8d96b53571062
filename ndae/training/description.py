"""What an object is, written out flat, so that two can be compared and what differs be named.

A description maps the path of every part (`model.constraint.learned.L`, `global physics.G`, `class nets.Force.forward`)
to a text that says what it is: a number itself, a digest of an array, of a function's code or of generated source.
Nothing stands for something else: what can't be described is said to be unknown, and equals nothing, itself included.
"""

import copyreg
import dis
import enum
import functools
import itertools
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import sympy as sp
import torch
import torch.fx
from torch import Tensor, nn

from ndae.symbolic.ground.arguments import KEPT
from ndae.users_code.own_code import code_bytes, codes, digest, full_name, is_library, source_digest

Description = dict[str, str]

UNKNOWN = "unknown: "
#: Values up to these sizes are written out, others are digested.
_SHOWN_NUMBERS, _SHOWN_LETTERS, _SHOWN_ITEMS, _SHOWN_PARTS = 6, 80, 12, 60
#: What every nn.Module has, whatever it computes; its hooks are described apart.
_OF_EVERY_MODULE = {*vars(nn.Module()), KEPT}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
#: Packages whose wrappers of a function compute what it does: checks of types, and compilation.
_TRANSPARENT = ("jaxtyping", "beartype", "torch._dynamo")
_OF_EVERY_OPTIMIZER = set(vars(torch.optim.SGD([torch.zeros(1)], 1.0))) - {"param_groups"}
#: Attributes of a class that compute nothing in training: an object's attributes say what its __init__ did.
_NOT_COMPUTING = {
    "__init__", "__post_init__", "__repr__", "__str__", "extra_repr", "__module__", "__qualname__", "__doc__",
    "__dict__", "__weakref__", "__annotations__", "__slots__", "__match_args__", "__dataclass_fields__",
    "__dataclass_params__", "__abstractmethods__", "__parameters__", "__orig_bases__", "__firstlineno__",
    "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__jit_unused_properties__",
    "_abc_impl", "__hash__", "__final__",
}  # fmt: skip
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))


class Describer:
    """Collects descriptions. What is in the state dict of `model` is described by its name there, shape and precision,
    since training changes it; all other numbers by their values.

    `found`: the description so far. `libraries`: packages whose code is in it by name alone: the standard library, what
    is installed, and this project; all other code is described by what it does.
    """

    def __init__(self, model: nn.Module | None = None):
        self.found: Description = {}
        self.libraries: set[str] = set()
        modules = [] if model is None else list(model.modules())
        self._parameters = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        self._saved = {
            id(b) for m in modules for name, b in m._buffers.items() if name not in m._non_persistent_buffers_set
        }
        self._paths: dict[int, str] = {}
        self._classes: set[int] = set()
        self._alive: list[Any] = []  # so that no id in use is given to another object

    def add(self, path: str, value: Any) -> None:
        """Describe `value` under `path`, and everything that it is made of."""
        try:
            text = self._as_text(value)
            if text is not None:
                self._put(path, text)
            elif id(value) in self._paths:
                self._put(path, f"the same as {self._paths[id(value)]}")
            else:
                self._paths[id(value)] = path
                self._alive.append(value)
                self._describe(path, value)
        except RecursionError:
            self._put(path, f"{UNKNOWN}too deeply nested")

    def _put(self, path: str, text: str) -> None:
        while path in self.found:  # two classes or functions may have one name
            path += "'"
        self.found[path] = text

    def _as_text(self, value: Any) -> str | None:
        """What can be said in one line, or None."""
        if isinstance(value, enum.Enum):
            return f"{self._name(type(value))}.{value.name}"
        if isinstance(value, str) and type(value) is str:
            return repr(value) if len(value) <= _SHOWN_LETTERS else f"text {digest(value.encode())}"
        if isinstance(value, bytes) and len(value) > _SHOWN_LETTERS:
            return f"bytes {digest(value)}"
        if type(value) in _PLAIN:
            return repr(value)
        if isinstance(value, type):
            return f"class {self._name(value)}"
        if isinstance(value, nn.Parameter) and id(value) in self._parameters:
            return f"parameter {self._parameters[id(value)]}"
        if isinstance(value, Tensor):
            return tensor_text(value)
        if isinstance(value, np.generic):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return _array_text(value)
        if isinstance(value, torch.device):
            return "a device"  # a run may go on on another one
        if isinstance(value, sp.Basic | sp.MatrixBase):
            return _expression_text(value)
        if isinstance(value, types.BuiltinFunctionType) and isinstance(
            value.__self__, types.ModuleType | type | types.NoneType
        ):
            return f"function {self._name(value)}"
        return None

    def _describe(self, path: str, value: Any) -> None:
        if isinstance(value, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            self._script(path, value)
        elif isinstance(value, nn.Module):
            self._module(path, value)
        elif isinstance(value, torch.optim.Optimizer):
            self._put(path, self._name(type(value)))
            hooks = {name: tuple(vars(value)[name].values()) for name in _OPTIMIZER_HOOKS if vars(value).get(name)}
            own = {name: part for name, part in vars(value).items() if name not in _OF_EVERY_OPTIMIZER}
            self._each(path, own | hooks, ".")
        elif isinstance(value, types.ModuleType):
            self._put(path, f"module {value.__name__}{source_digest(value)}")
        elif isinstance(value, types.FunctionType):
            self._function(path, value)
        elif isinstance(value, types.MethodType):
            self._put(path, "method")
            self._each(path, {"function": value.__func__, "object": value.__self__}, ".")
        elif isinstance(value, staticmethod | classmethod):
            self.add(path, value.__func__)
        elif isinstance(value, property):
            self.add(path, value.fget)
        elif isinstance(value, functools.cached_property):
            self.add(path, value.func)
        elif isinstance(value, dict) and isinstance(source := getattr(value, "source", None), str):
            self._put(path, "generated functions")  # of a Constraint.torch()
            self.add(f"{path}.source", source)
        elif type(value) in (list, tuple, set, frozenset, dict, types.MappingProxyType, np.ndarray):
            self._container(path, value)
        elif hasattr(value, "__wrapped__") and callable(value):  # what functools.cache or jax.jit make of a function
            self._put(path, self._name(type(value)))
            self.add(f"{path}.function", value.__wrapped__)
        else:
            self._object(path, value)

    def _each(self, path: str, parts: Mapping[str, Any], sign: str) -> None:
        for name, part in parts.items():
            self.add(f"{path}{sign}{name}", part)

    def _container(self, path: str, value: Any) -> None:
        text = _plain_text(value) if len(value) > _SHOWN_ITEMS else None
        self._put(path, f"{type(value).__name__} of {len(value)}" + (f" {digest(text.encode())}" if text else ""))
        if text:
            return
        if isinstance(value, set | frozenset):
            # Without an order of their own: by what they are.
            value = sorted(value, key=lambda item: str(sorted(describe(item).items())))
        if isinstance(value, Mapping):
            for number, (key, item) in enumerate(value.items()):
                text = self._as_text(key)
                if text is None:
                    self.add(f"{path}.keys[{number}]", key)
                self.add(f"{path}[{number if text is None else text}]", item)
        else:
            for number, item in enumerate(value):
                self.add(f"{path}[{number}]", item)

    def _script(self, path: str, value: Any) -> None:
        try:
            self._put(path, f"script {digest(value.code.encode())}")
        except Exception as error:  # of a script without the method forward
            self._put(path, f"{UNKNOWN}a {full_name(type(value))} does not tell its code ({error})")
        if isinstance(value, torch.jit.ScriptModule):
            self._each(path, dict(value.named_parameters()) | dict(value.named_buffers()), ".")

    def _module(self, path: str, module: nn.Module) -> None:
        if "_orig_mod" in module._modules:  # torch.compile's
            self.add(path, module._modules["_orig_mod"])
            return
        self._put(path, self._name(type(module)))
        for name, parameter in module._parameters.items():
            self._put(f"{path}.{name}", "None" if parameter is None else self._parameter_text(parameter))
        constant = {name: b for name, b in module._buffers.items() if b is None or id(b) not in self._saved}
        hooks = {hooks: tuple(getattr(module, hooks).values()) for hooks in _HOOKS if getattr(module, hooks, None)}
        own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
        if isinstance(module, torch.fx.GraphModule):
            own = {"code": module.code}
        self._each(path, dict(module._modules), ".")  # first: a list of them in an attribute then only refers to them
        for name, value in (constant | self._meant(module, own) | hooks).items():
            self._in_short(f"{path}.{name}", value)

    def _in_short(self, path: str, value: Any) -> None:
        """Describe a part, and by one digest if that is long."""
        before = len(self.found)
        self.add(path, value)
        if len(self.found) - before > _SHOWN_PARTS:
            new = itertools.islice(self.found.items(), before, None)
            inside = {key: text for key, text in new if key.startswith(path) and not text.startswith(UNKNOWN)}
            for key in inside:
                del self.found[key]
            self._put(path, f"{len(inside)} parts {digest(repr(inside).encode())}")

    def _parameter_text(self, parameter: nn.Parameter) -> str:
        name = self._parameters.get(id(parameter))
        learned = "learned" if parameter.requires_grad else "fixed"
        if getattr(parameter, "_backward_hooks", None) or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"{UNKNOWN}it has hooks, whose work on its gradient can't be told"
        if name is None:  # no part of the model: a number like others
            return f"{learned} {tensor_text(parameter)}"
        return f"{learned} parameter {name}, {parameter.dtype} {tuple(parameter.shape)}"

    def _meant(self, value: Any, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes but for those that only keep what follows from the others."""
        cls = type(value)
        made = [name for name in attributes if isinstance(getattr(cls, name, None), functools.cached_property)]
        # The compiled forms of an equation, and similar, are made when they are first needed.
        private = cls.__module__.startswith(("symbolic.", "solvers.")) and not isinstance(value, nn.Module)
        return {name: v for name, v in attributes.items() if name not in made and not (private and name[:1] == "_")}

    def _object(self, path: str, value: Any) -> None:
        """Any other object: by its attributes, or what it would be pickled as."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception as error:  # whatever the object's class says
            self._put(path, f"{UNKNOWN}a {full_name(type(value))} does not tell what it holds ({error})")
            return
        if isinstance(reduced, str):
            self._put(path, f"{self._name(type(value))} {reduced}")
            return
        parts: tuple[Any, ...] = (*reduced, None, None, None)
        make, arguments, state, items, pairs = parts[:5]
        self._put(path, self._name(type(value)))
        makers = (copyreg.__newobj__, copyreg._reconstructor)  # pyright: ignore[reportAttributeAccessIssue]
        if make in makers or make is type(value):
            arguments = [a for a in arguments if a is not type(value) and a is not object]
        else:
            self.add(f"{path}.made by", make)
        if arguments:
            self.add(f"{path}.arguments", list(arguments))
        own_state = getattr(type(value), "__getstate__", None) is not getattr(object, "__getstate__", None)
        for part in state if isinstance(state, tuple) and not own_state else (state,):
            if isinstance(part, dict):
                texts = {str(key): item for key, item in part.items()}
                self._each(path, texts if own_state else self._meant(value, texts), ".")
            elif part is not None:
                self.add(f"{path}.state", part)
        if items is not None and (items := list(items)):
            self.add(f"{path}.items", items)
        if pairs is not None and (pairs := dict(pairs)):
            self.add(f"{path}.items", pairs)

    # -- code ---------------------------------------------------------------------------------------------------------

    def _name(self, thing: Any) -> str:
        """The name of a class or function; the code of a class that is the user's is described beside."""
        module = getattr(thing, "__module__", None) or ""
        if isinstance(thing, type):
            for base in thing.__mro__:
                if is_library(base.__module__):
                    self.libraries.add(base.__module__.partition(".")[0])
                elif id(base) not in self._classes:
                    self._classes.add(id(base))
                    self._alive.append(base)
                    self._class(base)
        elif module:
            self.libraries.add(module.partition(".")[0])
        return full_name(thing)

    def _class(self, cls: type) -> None:
        name = f"class {full_name(cls)}"
        self._put(name, "is " + ", ".join(full_name(base) for base in cls.__bases__))
        for key, value in vars(cls).items():
            describing = isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType)
            if key not in _NOT_COMPUTING and not describing:
                self.add(f"{name}.{key}", value)

    def _function(self, path: str, function: types.FunctionType) -> None:
        home = function.__globals__.get("__name__") or ""  # of a wrapper its own, not that of what it wraps
        root = home.partition(".")[0]
        self._put(path, f"function {full_name(function)}")
        if home.startswith(_TRANSPARENT) and hasattr(function, "__wrapped__"):
            self.add(f"{path}.function", function.__wrapped__)
            return
        if is_library(home):
            self.libraries.add(root)
        else:
            self._put(f"{path}.code", f"code {digest(code_bytes(function.__code__, function.__doc__))}")
            self._globals(function, home)
        for number, value in enumerate(function.__defaults__ or ()):
            self.add(f"{path}.defaults[{number}]", value)
        self._each(path, function.__kwdefaults__ or {}, ".default ")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self.add(f"{path}.closure {name}", cell.cell_contents)
            except ValueError:
                self._put(f"{path}.closure {name}", "empty")

    def _globals(self, function: types.FunctionType, home: str) -> None:
        """What the code finds by name outside of itself, and what of the user's modules it may ask for."""
        for code in codes(function.__code__):
            asked, modules = set(code.co_names), []
            for instruction in dis.get_instructions(code):
                name = instruction.argval
                if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and name in function.__globals__:
                    value = function.__globals__[name]
                    if isinstance(value, types.ModuleType):
                        modules.append(value)
                        self.found[f"global {home}.{name}"] = f"module {value.__name__}"
                    else:
                        self._global(f"{home}.{name}", value)
                elif instruction.opname == "IMPORT_NAME" and name in sys.modules:
                    modules.append(sys.modules[name])
            for module in modules:
                if not is_library(module.__name__):
                    for name in sorted(asked & vars(module).keys()):
                        self._global(f"{module.__name__}.{name}", vars(module)[name])

    def _global(self, name: str, value: Any) -> None:
        if f"global {name}" not in self.found:
            self.add(f"global {name}", value)


def describe(value: Any, path: str = "it") -> Description:
    """The description of one object."""
    describer = Describer()
    describer.add(path, value)
    return describer.found


def describe_weights(weights: Mapping[str, Any]) -> Description:
    """A digest of everything in a state dict, by name."""
    describer = Describer()
    for name, value in weights.items():
        describer.add(name, value)
    return describer.found


def fingerprint(value: Any) -> str:
    """One digest of everything that an object is; raises `ValueError` for one that can't be described."""
    found = describe(value)
    for path, text in found.items():
        if text.startswith(UNKNOWN):
            raise ValueError(f"{path} can't be described: {text.removeprefix(UNKNOWN)}")
    return digest("\n".join(f"{path} = {text}" for path, text in sorted(found.items())).encode())


def tensor_text(tensor: Tensor) -> str:
    """Precision, shape and values of a tensor: few ones as they are, a digest of many."""
    tensor = tensor.detach()
    kind = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
    if tensor.is_meta:
        return f"{UNKNOWN}a tensor on the device 'meta' has no values"
    tensor = (tensor.to_dense() if tensor.layout != torch.strided else tensor).cpu()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.numel() <= _SHOWN_NUMBERS:
        return f"{kind} {tensor.tolist()}"
    # A copy of its own: a dimension of one may have any stride, and then there is no other view as bytes.
    flat = tensor.flatten().clone(memory_format=torch.contiguous_format)
    return f"{kind} {digest(flat.view(torch.uint8).numpy())}"


def _array_text(array: np.ndarray) -> str:
    kind = f"array {array.dtype} {array.shape}"
    if array.size <= _SHOWN_NUMBERS:
        return f"{kind} {array.tolist()}"
    return f"{kind} {digest(np.ascontiguousarray(array).tobytes())}"


def _expression_text(expression: Any) -> str:
    # Dummies have a number of their own in every process: here that of their order.
    dummies = [s for s in sp.preorder_traversal(expression) if isinstance(s, sp.Dummy)]
    names = {s: sp.Symbol(f"dummy {i} {s.name}", **s.assumptions0) for i, s in enumerate(dict.fromkeys(dummies))}
    text = sp.srepr(expression.xreplace(names) if names else expression)
    return text if len(text) <= _SHOWN_LETTERS else f"expression {digest(text.encode())}"


def _plain_text(value: Any) -> str | None:
    """Numbers and texts in nested containers as one text, None where there is anything else."""
    if type(value) in _PLAIN:
        return repr(value)
    if type(value) in (list, tuple):
        parts = [_plain_text(item) for item in value]
    elif type(value) is dict:
        parts = [_plain_text(part) for item in value.items() for part in item]
    else:
        return None
    texts = [part for part in parts if part is not None]
    return None if len(texts) < len(parts) else f"{type(value).__name__}({', '.join(texts)})"
