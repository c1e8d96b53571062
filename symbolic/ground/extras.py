"""Packages of the extras: a base installation solves DAEs, and says which line installs what else is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

LEARN = ("torch", "torchdiffeq", "lightning")


class MissingExtraError(ImportError):
    """What was asked for needs a package of an extra that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs the package {package}: pip install 'ndae[{extra}]'")
        self._given = what, package, extra

    def __reduce__(self):
        return type(self), self._given


@contextmanager
def learning(what: str) -> Iterator[None]:
    """Raises MissingExtraError where an import inside fails for want of a package of the extra `learn`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in LEARN:
            raise
        raise MissingExtraError(what, package, "learn") from error
