"""What objects compute once and keep: made by one thread, never half, and never part of a copy or a pickle."""

import os
from collections.abc import Callable, MutableMapping
from functools import cached_property
from threading import RLock
from typing import Any

# One lock for all: what is made is symbolic work in Python, which no two threads do at once anyway, and objects share
# tapes that grow while they are read.
_making = RLock()


def _anew() -> None:
    """In a child made by fork, the thread that held the lock may not be there."""
    global _making
    _making = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_anew)


def remembered(known: MutableMapping, key: Any, make: Callable[[], Any]) -> Any:
    """`known[key]`, made by the first that asks for it. What is interrupted or fails leaves nothing behind."""
    if key not in known:
        with _making:
            if key not in known:
                known[key] = make()
    return known[key]


class kept(cached_property):
    """A cached property that is computed once, whatever the threads; see `Recomputed`."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return remembered(instance.__dict__, self.attrname, lambda: self.func(instance))


class Recomputed:
    """An object whose cached properties are neither copied nor pickled: a copy computes its own, when it needs them."""

    def __getstate__(self) -> dict[str, Any]:
        of_class = type(self)
        return {k: v for k, v in self.__dict__.items() if not isinstance(getattr(of_class, k, None), cached_property)}
