"""Files written whole or not at all, and their digests."""

import hashlib
from pathlib import Path

from ndae.training.files import write_atomically


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, making its folder, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
