"""Functions of JAX compiled for the CPU, once for all shapes that are alike, and kept from one process to the next.

Compiled code is kept in the folder `compiled` of the user's cache (`NDAE_COMPILED` names another one, or is `off`), a
file a program, under a digest of all that it depends on: the program before compilation, JAX's version, the processor
and the compiler's options. It is machine code, so a folder to which others may write is not used. Where the user has
set JAX's own compilation cache or switched it off (`jax_compilation_cache_dir`, `jax_enable_compilation_cache`),
nothing is kept here.
"""

import contextlib
import hashlib
import logging
import os
import platform
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
_SUFFIX = ".program"

# Without the emitters that XLA has for fused loops, a kernel compiles in half the time and runs as fast.
_OPTIONS = {"xla_cpu_use_fusion_emitters": False}
# A program this long (characters, as lowered) is not optimised much: that takes as long again, and saves a fifth of a
# solve. Of a batch, where loops over it become faster by more, one that is longer still.
_LONG, _LONG_OF_BATCH = 200_000, 10**6
_HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Program:
    """`function` of trees of arrays, compiled where it is first called with such shapes; `name` is for the log.

    Numbers are arguments like arrays, never constants: only other shapes are compiled again. What comes back is of
    NumPy, so that what is done with it outside is not compiled, one operation after the other. Call it with 64-bit JAX
    switched on.
    """

    def __init__(self, function: Callable, name: str, of_batch: bool = False) -> None:
        self._jit, self._name = jax.jit(function), name
        self._long = _LONG_OF_BATCH if of_batch else _LONG
        self._compiled: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        arguments = jax.tree.map(np.asarray, arguments)  # of a number, without its weak type
        leaves, tree = jax.tree.flatten(arguments)
        key = tree, tuple((x.shape, x.dtype) for x in leaves)
        if key not in self._compiled:
            self._compiled[key] = _compiled(self._jit.lower(*arguments), self._name, self._long)
        return jax.tree.map(np.asarray, self._compiled[key](*arguments))


def _compiled(lowered: Any, name: str, long: int) -> Any:
    text, begin = lowered.as_text(), time.perf_counter()
    options = _OPTIONS | (_HASTY if len(text) > long else {})
    path = _path(text, options)
    program = None if path is None else _load(path, lowered)
    if program is None:
        log.info("XLA compiles %s, %d kB of program", name, len(text) // 1000)
        program = _compile(lowered, options)
        log.info("XLA compiled %s in %.1f s", name, time.perf_counter() - begin)
        if path is not None:
            _keep(path, program)
    return program


def _compile(lowered: Any, options: dict[str, Any]) -> Any:
    try:
        return lowered.compile(compiler_options=options)
    except Exception as error:
        if "compile option" not in str(error):  # of what this version of XLA does not know
            raise
        return lowered.compile()


def _path(text: str, options: dict[str, Any]) -> Path | None:
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
    return folder / f"{hashlib.sha256(recipe.encode()).hexdigest()}{_SUFFIX}"


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


def _load(path: Path, lowered: Any) -> Any:
    """The program kept there; None where there is none that can be used."""
    try:
        data = path.read_bytes()
        start = len(_LAYOUT) + 32
        if data[:start] != _LAYOUT + hashlib.sha256(data[start:]).digest():
            raise ValueError("it is damaged")
        program = serialize_executable.deserialize_and_load(
            zlib.decompress(data[start:]),
            lowered.in_tree,
            lowered.out_tree,
            execution_devices=[jax.devices("cpu")[0]],
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with it, the program can be compiled
        log.info("compiled program %s is of no use (%s)", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return program


def _keep(path: Path, program: Any) -> None:
    """Written as a whole or not at all, whoever else writes it; a folder that can't be written keeps nothing."""
    try:
        data = zlib.compress(serialize_executable.serialize(program)[0], 1)
    except Exception as error:  # of programs that can't be kept
        log.info("compiled program is not kept (%s)", error)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=f"{_SUFFIX}.tmp")
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
    for path in folder.glob(f"*{_SUFFIX}*"):  # and what writers that were killed have left
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size
