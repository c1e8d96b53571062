"""Files of a training run that are either whole or absent, and that are read without ever running what they hold."""

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import torch
from torch import nn

from ndae.files import differing_weights, write_atomically

Model = TypeVar("Model", bound=nn.Module)

PREFIX = "model."
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# torch writes a zip archive. Its comment, the last bytes of the file, holds the digest of all bytes before: other
# programs read the file as before, and a bit that changes anywhere is noticed, also where an archive has no checksum.
_SEAL = b"ndae sha256 "
_DIGITS = 2 * hashlib.sha256().digest_size
_END_SIZE = 22


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged, refused, or made by another run; the text says which and what to do."""


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values to `path`, atomically, with a SHA-256 digest of them in the file.

    Raises `CheckpointError` where they can't be written: no room, no permission.
    """

    def write(file: BinaryIO) -> None:
        sealing = _Sealing(file)
        try:
            torch.save(content, cast(BinaryIO, sealing))
        except RuntimeError as error:  # torch's for whatever the file raised
            raise sealing.failure or error from error
        sealing.seal()

    with writing(path):
        write_atomically(path, write)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a file or folder that can't be written into a `CheckpointError` with the mend."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}), and is as it was before: make room, or give a "
            "folder that can be written, and train again, which goes on from the last checkpoint that is there"
        ) from error


def load_checkpoint(path: Path | str, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint: tensors, numbers, strings and containers of them, nothing else.

    A file whose bytes are not those that were written is refused unread, by the digest in it; and so is one that holds
    anything else, before any of it runs (`torch.load(weights_only=True)`).

    Raises `CheckpointError` if the file is missing, damaged, cut short, or refused.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: train first, or give the folder of a finished run")
    data = path.read_bytes()
    sealed = _is_sealed(data)
    if sealed is False:
        raise _unusable(path, "damaged, its digest is not that of its content")
    try:
        content = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except Exception as error:
        # torch raises errors of many types for foreign bytes, and its advice is to load them unsafely.
        refused = "weights_only" in str(error) or "Weights only" in str(error)
        reason = "it holds more than tensors and plain values, so it is not read" if refused else "damaged or cut short"
        raise _unusable(path, reason) from error
    if sealed is None:
        raise _unusable(path, "it does not end in a digest: damaged or cut short, or of an earlier version")
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path} is no checkpoint of ndae: it has no weights; remove it to start over")
    return content


def _unusable(path: Path, reason: str) -> CheckpointError:
    sound = _sound_beside(path)
    listing = ", ".join(f"{name} (epoch {epoch})" for name, epoch in sound.items())
    mend = f"; sound beside it: {listing}" if sound else ""
    if path.name == LAST and PREVIOUS in sound:
        mend += f"; put {PREVIOUS} in its place to go on from epoch {sound[PREVIOUS]}, restore it from a copy,"
    else:
        mend += "; restore it from a copy,"
    return CheckpointError(f"{path} is no checkpoint of ndae: {reason}{mend} or remove it to start over")


def _sound_beside(path: Path) -> dict[str, int]:
    """The other checkpoints of a run that can be read, and of which epoch they are."""
    found = {}
    for name in (LAST, PREVIOUS, BEST):
        other = path.with_name(name)
        if name == path.name or not other.is_file() or not _is_sealed(other.read_bytes()):
            continue
        with contextlib.suppress(Exception):  # a foreign file has no epoch, and is not offered
            content = torch.load(other, map_location="cpu", weights_only=True)["ndae"]
            found[name] = content["row"]["epoch"] if name == BEST else content["history"]["rows"][-1]["epoch"]
    return found


class _Sealing:
    """A file that takes a zip archive without a comment, and gets one with the digest of the rest behind it."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest, self.failure = file, hashlib.sha256(), None
        self._end = b""  # held back, since the last bytes say how long the comment is

    def write(self, data: Any) -> int:
        size = len(data)
        if size >= _END_SIZE:
            self._pass_on(self._end)
            self._pass_on(memoryview(data)[: size - _END_SIZE])
            self._end = bytes(data[size - _END_SIZE :])
        else:
            end = self._end + bytes(data)
            self._pass_on(end[:-_END_SIZE])
            self._end = end[-_END_SIZE:]
        return size

    def flush(self) -> None:
        pass

    def seal(self) -> None:
        """Write what was held back, and the comment."""
        self._pass_on(self._end[:-2] + (len(_SEAL) + _DIGITS).to_bytes(2, "little") + _SEAL)
        self.file.write(self.digest.hexdigest().encode())

    def _pass_on(self, data: Any) -> None:
        self.digest.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            self.failure = error
            raise


def _is_sealed(data: bytes) -> bool | None:
    """Whether a file ends in the digest of what is before it; None where it ends in no digest at all."""
    content, digest = memoryview(data)[:-_DIGITS], data[-_DIGITS:]
    if bytes(content[-len(_SEAL) :]) != _SEAL:
        return None
    return hashlib.sha256(content).hexdigest().encode() == digest


def load_weights(model: Model, path: Path | str) -> Model:
    """Put the weights of a checkpoint written by `fit` into `model` and return it.

    Raises `CheckpointError` if the file can't be read, or holds the weights of another architecture (names or shapes).
    """
    weights = without_prefix(load_checkpoint(path)["state_dict"])
    own = model.state_dict()
    differing = differing_weights(own, weights)
    if differing:
        raise CheckpointError(
            f"{path} holds another network's weights: {len(differing)} of {len(own)} entries differ in name or shape, "
            f"first {differing[0]!r}; build the model with the configuration that the run was made with"
        )
    model.load_state_dict(weights)
    return model


def without_prefix(weights: dict[str, Any]) -> dict[str, Any]:
    """Weights by the names that they have in the model, of a checkpoint that Lightning wrote."""
    return {name.removeprefix(PREFIX): value for name, value in weights.items()}


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the hold ends with the process, however it ends.

    Raises `CheckpointError` if another process trains in `folder`, or it can't be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two trainings in one folder are then the user's to avoid
        yield
        return
    with contextlib.ExitStack() as held:
        with writing(folder):
            lock = held.enter_context(open(folder / ".lock", "ab"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"another process is training in {folder}: wait until it ends, or give another folder"
            ) from error
        yield
