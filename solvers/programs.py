"""Functions of JAX compiled for the CPU, once for all shapes that are alike, and kept from one process to the next.

Compiled code is kept in the folder `compiled` of the user's cache (`NDAE_COMPILED` names another one, or is `off`), a
file a program, under a digest of all that it depends on: the program before compilation, JAX's version, the processor
and the compiler's options. Where a caller says what a program is made from, its `recipe`, the name of that file is kept
under a digest of the recipe too, with the sources of this package and the versions of what it calls: then the program
is found without being traced. It is machine code, so a folder to which others may write is not used. Where the user has
set JAX's own compilation cache or switched it off (`jax_compilation_cache_dir`, `jax_enable_compilation_cache`),
nothing is kept here.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.resources
import logging
import os
import pickle
import platform
import re
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

from ndae.solvers.cache_folder import cache_folder

log = logging.getLogger(__name__)

#: Bytes that kept programs may take together; those that were not used for the longest time go first.
MOST_BYTES = 2**29
_LAYOUT = b"ndae 1\n"  # of a file: this line, the SHA-256 of the rest, the rest
_SUFFIX, _NOTE = ".program", ".recipe"
_LAPACK = "lapack_"
#: What takes part in tracing.
_CALLED = ("jax", "jaxlib", "numpy", "sympy", "diffrax", "equinox", "optimistix", "lineax")

# Without the emitters that XLA has for fused loops, a kernel compiles in half the time and runs as fast.
_OPTIONS = {"xla_cpu_use_fusion_emitters": False}
# A program this long (characters, as lowered) is not optimised much: that takes as long again, and saves a fifth of a
# solve. Of a batch, where loops over it become faster by more, one that is longer still.
_LONG, _LONG_OF_BATCH = 200_000, 10**6
_HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Program:
    """`function` of trees of arrays, compiled where it is first called with such shapes; `name` is for the log.

    Numbers are arguments like arrays, never constants: only other shapes are compiled again. What comes back is of
    NumPy, so that what is done with it outside is not compiled, one operation after the other. `recipe` is all that the
    function depends on beside this package and its arguments, None where that can't be said. Call it with 64-bit JAX
    switched on.
    """

    def __init__(self, function: Callable, name: str, of_batch: bool = False, recipe: str | None = None) -> None:
        self._jit, self._name, self._recipe = jax.jit(function), name, recipe
        self._long = _LONG_OF_BATCH if of_batch else _LONG
        self._compiled: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        arguments = jax.tree.map(np.asarray, arguments)  # of a number, without its weak type
        leaves, tree = jax.tree.flatten(arguments)
        key = tree, tuple((x.shape, x.dtype) for x in leaves)
        if key not in self._compiled:
            self._compiled[key] = self._made(arguments, key)
        return jax.tree.map(np.asarray, self._compiled[key](*arguments))

    def _made(self, arguments: tuple, key: tuple) -> Any:
        where = None if self._recipe is None else _path(repr((self._recipe, *key, _surroundings())), {}, _NOTE)
        known = None if where is None else _noted(where, arguments)
        if known is not None:
            return known
        lowered = self._jit.lower(*arguments)
        text = lowered.as_text()
        program, path = _compiled(lowered, text, self._name, self._long)
        called = set(re.findall(r"custom_call\s+@(\w+)", text))
        # Of other libraries nothing is known of what tracing makes ready.
        if where is not None and path is not None and all(name.startswith(_LAPACK) for name in called):
            tree = lowered.out_tree
            _write(where, pickle.dumps((path.name, jax.tree.unflatten(tree, range(tree.num_leaves)))))
        return program


def _compiled(lowered: Any, text: str, name: str, long: int) -> tuple[Any, Path | None]:
    """The program, and where it is kept."""
    begin = time.perf_counter()
    options = _OPTIONS | (_HASTY if len(text) > long else {})
    path = _path(text, options)
    program = None if path is None else _load(path, lowered.in_tree, lowered.out_tree)
    if program is None:
        log.info("XLA compiles %s, %d kB of program", name, len(text) // 1000)
        program = _compile(lowered, options)
        log.info("XLA compiled %s in %.1f s", name, time.perf_counter() - begin)
        if path is not None:
            _keep(path, program)
    return program, path


def _noted(where: Path, arguments: tuple) -> Any:
    """The program that was made by the same recipe before; None where there is none."""
    data = _read(where)
    if data is None:
        return None
    try:
        name, example = pickle.loads(data)
        _with_lapack()
        return _load(where.parent / name, jax.tree.structure((arguments, {})), jax.tree.structure(example))
    except Exception as error:  # whatever is wrong with it, the program can be traced
        log.info("note of a compiled program %s is of no use (%s)", where, error)
        return None


@lru_cache(maxsize=1)
def _with_lapack() -> None:
    """JAX makes LAPACK ready where a program that calls it is lowered, so: raises where it would do it otherwise."""
    from jaxlib import lapack

    lapack._lapack.initialize()  # pyright: ignore[reportPrivateImportUsage]


@lru_cache(maxsize=1)
def _sources() -> str:
    """What this package consists of, and the versions of what it calls while it traces."""
    digest = hashlib.sha256()
    for room in ("symbolic", "solvers"):
        for path in sorted(Path(str(importlib.resources.files(f"ndae.{room}"))).rglob("*.py")):
            digest.update(repr((room, path.name)).encode() + path.read_bytes())
    versions = [importlib.metadata.version(name) for name in _CALLED]
    return repr((digest.hexdigest(), versions))


def _surroundings() -> tuple[str, str]:
    """What decides, beside its recipe, what a traced program is."""
    config: Any = jax.config
    return _sources(), repr([(name, getattr(config, name, None)) for name in sorted(config.values)])


def _compile(lowered: Any, options: dict[str, Any]) -> Any:
    try:
        return lowered.compile(compiler_options=options)
    except Exception as error:
        if "compile option" not in str(error):  # of what this version of XLA does not know
            raise
        return lowered.compile()


def _path(text: str, options: dict[str, Any], suffix: str = _SUFFIX) -> Path | None:
    """Where a program is kept, None where none is: it holds addresses of this process, or the user does not want it."""
    config: Any = jax.config
    named = os.environ.get("NDAE_COMPILED", "")
    if "callback" in text or named.lower() in ("off", "0", "false", "no"):
        return None
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return None
    folder = Path(named).expanduser() if named else cache_folder() / "compiled"
    if not _is_own(folder):
        log.info("compiled programs are not kept in %s: others may write there, and it would be run", folder)
        return None
    client = jax.devices("cpu")[0].client
    versions = jax.__version__, client.platform_version, os.environ.get("XLA_FLAGS", ""), platform.python_version()
    recipe = repr((versions, _processor(), sorted(options.items()), text))
    return folder / f"{hashlib.sha256(recipe.encode()).hexdigest()}{suffix}"


def _is_own(folder: Path) -> bool:
    """Whether nobody else may write to a folder, or there is none yet."""
    if not hasattr(os, "getuid"):
        return True
    try:
        status = folder.stat()
    except OSError:
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


@lru_cache(maxsize=1)
def _processor() -> str:
    """What says which instructions there are: code for others may not run here, also where a home folder is shared."""
    with contextlib.suppress(OSError):
        fields = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "isa")
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = sorted({line for line in lines if line.split(":")[0].strip() in fields})
        if found:
            return "\n".join((platform.machine(), *found))
    return "\n".join((platform.machine(), platform.processor(), platform.node()))


def _load(path: Path, in_tree: Any, out_tree: Any) -> Any:
    """The program kept there; None where there is none that can be used."""
    data = _read(path)
    if data is None:
        return None
    try:
        devices = [jax.devices("cpu")[0]]
        return serialize_executable.deserialize_and_load(data, in_tree, out_tree, execution_devices=devices)
    except Exception as error:  # whatever is wrong with it, the program can be compiled
        log.info("compiled program %s is of no use (%s)", path, error)
        return None


def _read(path: Path) -> bytes | None:
    """What is kept there; None where there is nothing, or it is damaged."""
    try:
        data = path.read_bytes()
        start = len(_LAYOUT) + 32
        if data[:start] != _LAYOUT + hashlib.sha256(data[start:]).digest():
            raise ValueError("it is damaged")
        data = zlib.decompress(data[start:])
    except FileNotFoundError:
        return None
    except Exception as error:
        log.info("%s is of no use (%s)", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return data


def _keep(path: Path, program: Any) -> None:
    try:
        data = serialize_executable.serialize(program)[0]
    except Exception as error:  # of programs that can't be kept
        log.info("compiled program is not kept (%s)", error)
        return
    _write(path, data)


def _write(path: Path, data: bytes) -> None:
    """Written as a whole or not at all, whoever else writes it; a folder that can't be written keeps nothing."""
    data = zlib.compress(data, 1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=f"{path.suffix}.tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_LAYOUT + hashlib.sha256(data).digest() + data)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _make_room(path.parent)
    except OSError as error:
        log.info("compiled program is not kept in %s (%s)", path.parent, error)


def _make_room(folder: Path) -> None:
    """Removes what was not used for the longest time, until the rest is within `MOST_BYTES`."""
    files = []
    for path in (
        *folder.glob(f"*{_SUFFIX}*"),
        *folder.glob(f"*{_NOTE}*"),
    ):  # and what writers that were killed have left
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size
