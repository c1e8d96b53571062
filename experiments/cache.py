"""Arrays that take long to make, kept in the user's cache folder and checked whenever they are read.

One `.npz` file a result, under the folder that `NDAE_CACHE` names or else the platform's cache folder. A file carries
its own recipe and a SHA-256 checksum of everything in it; one that is damaged, truncated or made by another recipe is
reported on stderr and made again. Files appear by an atomic rename, so a reader sees a whole file or none, and of
several processes that make the same file at once the last one wins.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndae.progress import say
from ndae.solvers.cache_folder import cache_folder

Arrays = dict[str, np.ndarray]
_RECIPE, _CHECKSUM = "__recipe__", "__checksum__"


class _UnusableFile(Exception):
    """Why a cache file can not be used."""


def cache_path(name: str, config: Mapping[str, object]) -> Path:
    """The file that holds the result `name` for `config`: the name, and a digest of the configuration."""
    return cache_folder() / f"{name}-{_digest(_json(name, config))[:16]}.npz"


def cached_arrays(
    name: str,
    config: Mapping[str, object],
    make: Callable[[], Mapping[str, np.ndarray]],
    *,
    recipe: Mapping[str, object] | None = None,
) -> Arrays:
    """Named arrays from the cache, or from `make()` and then kept.

    `config` says what is asked for (it chooses the file), `recipe` how it is made (a version, a tolerance): a file
    made by another recipe is stale and is made again. Both are mappings of JSON values. No object is ever unpickled.

    A cache folder that can not be written costs a line on stderr, not the result. Raises ValueError where `config`
    or `recipe` is not JSON, or `make()` gives object arrays.
    """
    path = cache_path(name, config)
    recipe_text = _json(name, {"config": dict(config), "recipe": dict(recipe or {})})
    try:
        return _read(path, recipe_text)
    except FileNotFoundError:
        pass
    except _UnusableFile as reason:
        say(f"cache file {path} {reason}; making it again")
    arrays = {key: np.asarray(value) for key, value in make().items()}
    for key, value in arrays.items():
        if value.dtype.hasobject:
            raise ValueError(f"array {key!r} of {name!r} holds Python objects; give numbers, booleans or strings")
    try:
        _write(path, recipe_text, arrays)
    except OSError as error:
        say(f"cache file {path} could not be written ({error}); going on without it")
    return arrays


def _read(path: Path, recipe_text: str) -> Arrays:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _UnusableFile(f"can not be read ({error})") from error
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        stored_recipe = str(arrays.pop(_RECIPE))
        checksum = str(arrays.pop(_CHECKSUM))
    except Exception as error:  # a damaged zip or header can fail in any way: BadZipFile, zlib, struct, MemoryError
        raise _UnusableFile(f"is damaged ({type(error).__name__}: {error})") from error
    if checksum != _checksum(stored_recipe, arrays):
        raise _UnusableFile("is damaged (its checksum does not match)")
    if stored_recipe != recipe_text:
        raise _UnusableFile("is stale (made by another version or with other settings)")
    return arrays


def _write(path: Path, recipe_text: str, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            about: dict[str, Any] = {_RECIPE: recipe_text, _CHECKSUM: _checksum(recipe_text, arrays)}
            np.savez(file, **arrays, **about)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _checksum(recipe_text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(recipe_text.encode())
    for key in sorted(arrays):
        value = arrays[key]
        digest.update(f"\n{key} {value.dtype.str} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _json(name: str, value: Mapping[str, object]) -> str:
    try:
        return json.dumps(dict(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the configuration of {name!r} is not JSON ({error}); give plain numbers, strings, lists and dicts"
        ) from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
