"""Names that people and programs may give to things: those that tempt a generator of code to write something else.

Those in corpus/names.jsonl, a JSON text a line, hold source that calls `PWNED` of `builtins` (which the tests set),
quotes, escapes, braces, control characters, pairs that Python reads as one name (NFKC), what is taken for numbers, and
names that generated source has for something else.
"""

import builtins
import json
import keyword
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"

_OF_PYTHON = [*keyword.kwlist, *keyword.softkwlist, *(n for n in dir(object) if n.startswith("__"))]
_OF_PYTHON += sorted(n for n in dir(builtins) if not n.startswith("_") and n not in ("exit", "quit", "PWNED"))
_LONG = [*("x" * n for n in (100, 200, 201, 5000, 100_000)), "\u202e" * 300]


def lines(name: str) -> list:
    """What a file of the corpus holds, a JSON value a line."""
    return [json.loads(line) for line in (CORPUS / name).read_text(encoding="utf-8").splitlines()]


ODD_NAMES: list[str] = list(dict.fromkeys([*lines("names.jsonl"), *_OF_PYTHON, *_LONG]))
