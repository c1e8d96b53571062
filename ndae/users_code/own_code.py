"""Whose code a function or class is, and a digest of what it does."""

import functools
import hashlib
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Problems are made there as a user makes them.
_AS_A_USERS = "ndae.experiments"


@functools.cache
def _installed() -> tuple[Path, ...]:
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")} | {site.getusersitepackages()}
    return tuple(Path(folder).resolve() for folder in folders if folder)


@functools.cache
def is_library(module: str) -> bool:
    """Whether a module is of the standard library, an installed package or this project, not the user's."""
    root = module.partition(".")[0]
    if root == "ndae" and not f"{module}.".startswith(f"{_AS_A_USERS}."):
        return True
    if root in sys.stdlib_module_names - {"__main__"} or root in sys.builtin_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        file = getattr(sys.modules.get(root), "__file__", None)
    if file is None:
        return False
    parents = Path(file).resolve().parents
    return any(folder in parents for folder in _installed())


def full_name(thing: Any) -> str:
    module = getattr(thing, "__module__", None)
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None) or type(thing).__name__
    return name if module in (None, "builtins") else f"{module}.{name}"


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def code_bytes(code: types.CodeType, doc: str | None = None) -> bytes:
    """What a code object does, without where it stands and what it is called."""

    def text(constant: Any) -> str:
        if isinstance(constant, types.CodeType):
            return code_bytes(constant).hex()
        if isinstance(constant, tuple | frozenset):
            parts = [text(part) for part in constant]
            return f"{type(constant).__name__}({sorted(parts) if isinstance(constant, frozenset) else parts})"
        return f"{type(constant).__name__} {constant!r}"

    constants = code.co_consts[1:] if doc is not None and code.co_consts[:1] == (doc,) else code.co_consts
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    parts = (code.co_code, [text(c) for c in constants], names, counts, getattr(code, "co_exceptiontable", b""))
    return repr(parts).encode()


def source_digest(module: types.ModuleType) -> str:
    """The digest of a user's module; one of a library is known by its name."""
    file = getattr(module, "__file__", None)
    if is_library(module.__name__) or file is None:
        return ""
    return f", source {digest(Path(file).read_bytes())}"


def digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
