"""Files written whole or not at all, and their digests."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndae.files import write_atomically

SEAL = "sha256"
# Other entries that are digests: of what a run was made from, and of what it left.
_DIGESTS = {"digest", "problem_digest", "log_digest"}
_DIGEST = re.compile("[0-9a-f]{64}")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, making its folder, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: Mapping) -> dict:
    """JSON content with a digest of the rest of it as its last entry."""
    return {**content, SEAL: _json_digest(content)}


def unsealed(content: Mapping, what: Path | str) -> dict:
    """The content that `sealed` was given. Raises `ValueError`, about `what`, where it has changed since; without a
    digest it passes, as made before there was one, or by hand."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    # A digest under a name that has changed is a digest all the same.
    strays = [n for n, v in rest.items() if n not in _DIGESTS and isinstance(v, str) and _DIGEST.fullmatch(v)]
    if strays or (SEAL in content and content[SEAL] != _json_digest(rest)):
        raise ValueError(f"{what} is damaged: its digest is not that of its content; restore it, or make it again")
    return rest


def write_json(path: Path, content: Mapping, **how: Any) -> None:
    """Write `content` with its digest, for `read_json`; `how` are options of `json.dumps`."""
    # Tuples and numbers as keys are read back as lists and text.
    write_text(path, json.dumps(sealed(json.loads(json.dumps(content))), **how) + "\n")


def read_json(path: Path) -> dict:
    """The content of a JSON object that `write_json` wrote; raises `ValueError` naming the file if it is damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, got {type(content).__name__}")
    return unsealed(content, path)


def _json_digest(content: Mapping) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
