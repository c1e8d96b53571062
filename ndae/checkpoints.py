"""Files of a training run that are either whole or absent, and that are read without ever running what they hold."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ndae.files import write_atomically

PREFIX = "model."


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, refused, or made by another run; the text says which and what to do."""


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to `path`, atomically."""
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint: tensors, numbers, strings and containers of them, nothing else.

    A file that holds anything else is refused before any of it runs (`torch.load(weights_only=True)`).

    Raises `CheckpointError` if the file is missing, cut short, or refused.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: train first, or give the folder of a finished run")
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        # torch raises errors of many types for foreign bytes, and its advice is to load them unsafely.
        refused = "weights_only" in str(error) or "Weights only" in str(error)
        reason = "it holds more than tensors and plain values, so it is not read" if refused else "damaged or cut short"
        raise CheckpointError(
            f"{path} is no checkpoint of ndae: {reason}; restore it from a copy, or remove it to start over"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is no checkpoint of ndae: it has no weights; remove it to start over")
    return content


def load_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Put the weights of a checkpoint written by `fit` into `model` and return it.

    Raises `CheckpointError` if the file can't be read, or holds the weights of another architecture (names or shapes).
    """
    weights = load_checkpoint(path)["state_dict"]
    weights = {name.removeprefix(PREFIX): value for name, value in weights.items()}
    own = model.state_dict()
    differing = sorted(own.keys() ^ weights.keys())
    differing += [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if differing:
        raise CheckpointError(
            f"{path} holds another network's weights: {len(differing)} of {len(own)} entries differ in name or shape, "
            f"first {differing[0]!r}; build the model with the configuration that the run was made with"
        )
    model.load_state_dict(weights)
    return model


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the hold ends with the process, however it ends.

    Raises `CheckpointError` if another process trains in `folder`.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two trainings in one folder are then the user's to avoid
        yield
        return
    with open(folder / ".lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"another process is training in {folder}: wait until it ends, or give another folder"
            ) from error
        yield
