"""Words of messages: long lists and long texts cut short, and names that nothing has."""

from collections.abc import Collection, Iterable


def listed(entries: Iterable[object], most: int = 8) -> str:
    """The first entries as text, with the number of those beyond; "none" of none."""
    texts = [str(entry) for entry in entries]
    return (", ".join(texts[:most]) or "none") + (f" and {len(texts) - most} more" if len(texts) > most else "")


def shortened(text: object, most: int = 60) -> str:
    """Text of at most so many characters, the last three dots where it is longer."""
    text = str(text)
    return text if len(text) <= most else text[: most - 3] + "..."


def check_known(
    given: Iterable[object],
    known: Collection[object],
    owner: str,
    what: str = "parameter",
    shown: Iterable[object] | None = None,
    error: type[Exception] = ValueError,
) -> None:
    """Raises where names given are not known to `owner`, with those it has and the closest of them.

    - `owner`: what has the names, as a sentence begins with it; `what`: what they are names of.
    - `shown`: the names to list, where `known` holds more than a user cares about.
    """
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        import difflib

        close = difflib.get_close_matches(unknown[0], map(str, known), 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        there = listed(known if shown is None else shown)
        raise error(f"{owner} has no {what} {listed(map(repr, unknown))}; it has {there}{hint}")
