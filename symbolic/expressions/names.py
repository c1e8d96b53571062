"""Names and texts of the user's on their way into generated source: identifiers, literals and docstrings."""

import keyword
from collections.abc import Iterable

import sympy as sp

MAX_NAME = 200  # characters


def is_identifier(text: str) -> bool:
    """Whether a text can stand for a variable in generated source as it is.

    ASCII alone: of other letters Python makes one name out of several that look alike (NFKC).
    """
    return text.isascii() and text.isidentifier() and not keyword.iskeyword(text) and text != "__debug__"


def fresh(wanted: Iterable[str], taken: set[str]) -> tuple[sp.Symbol, ...]:
    """Plain symbols whose names are identifiers, as close to the wanted texts as can be; they join `taken`."""
    result = []
    for text in wanted:
        name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in text) or "_"
        if name[0].isdigit():
            name = "_" + name
        while name in taken or not is_identifier(name):
            name += "_"
        taken.add(name)
        result.append(sp.Symbol(name))
    return tuple(result)


def identifiers(symbols: Iterable[sp.Symbol], taken: Iterable[str] = ()) -> dict[sp.Symbol, sp.Symbol]:
    """For each symbol a plain one whose name is an identifier, apart from those taken and from each other."""
    used = set(taken)
    return {symbol: fresh([symbol.name], used)[0] for symbol in symbols}


def literal(text: str) -> str:
    """A text as Python source in double quotes: what `repr` escapes is escaped."""
    inner = repr('"' + text)[2:-1]  # repr takes single quotes where the text holds double ones
    return '"' + inner.replace("\\'", "'").replace('"', '\\"') + '"'


def in_docstring(text: str) -> str:
    """A text as it can stand in a docstring: without backslashes, double quotes, and what cannot be printed."""
    text = text.replace("\\", "/").replace('"', "'")
    return "".join(c if c.isprintable() else f"<{ord(c):04X}>" for c in text)


def check_name(name: str, what: str) -> None:
    """Raise ValueError unless a name is a text that can be read and told from others.

    `what` says whose name it is, as in "pendulum: state". Refused are empty names, those of more than 200 characters,
    and characters that are not printed, such as line breaks and those that turn the direction of reading.
    """
    if not name.strip():
        raise ValueError(f"{what} {name!r}: expected a name that can be read: write letters")
    if len(name) > MAX_NAME:
        raise ValueError(f"{what} {name[:20]!r}...: a name of {len(name)} characters: at most {MAX_NAME} are read")
    odd = next((c for c in name if not c.isprintable()), None)
    if odd is not None:
        raise ValueError(f"{what} {name!r} holds the character U+{ord(odd):04X}, which is not printed: leave it out")


def check_torch_names(function) -> None:
    """Raise ValueError if a parameter has a name under which torch keeps nothing."""
    dotted = [name for name in function.parameters if "." in name]
    if dotted:
        raise ValueError(f"{function.name}: parameters {dotted}: torch keeps no names with a dot in them: rename them")
