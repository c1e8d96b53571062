"""Files that are either whole or absent, whenever the process that writes them is killed."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a hidden file beside `path`, then put it in `path`'s place in one step.

    A process killed at any moment leaves the old file or the new one, never a half of either; what it leaves of the
    hidden file is removed by `remove_partial`. Lightning's own writer goes through the system's temporary folder, and
    moving a file from there to another file system is a copy, which can be cut short.
    """
    partial = partial_name(path)
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def differing_weights(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of what a model's weights and those of a file do not share, or have in other shapes."""
    found = sorted(own.keys() ^ theirs.keys())
    return found + [name for name in own if name in theirs and own[name].shape != theirs[name].shape]


def partial_name(path: Path) -> Path:
    """The hidden file beside `path` that is to take its place, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def remove_partial(folder: Path) -> None:
    """Remove the hidden files that killed processes left in `folder`."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
