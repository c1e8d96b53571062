"""What a package shows, loaded when it is first used: torch and JAX take seconds, and torch may not be installed."""

from collections.abc import Callable
from typing import Any

import lazy_loader

from ndae.symbolic.ground.extras import needing


def face(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package: the names of its `__init__.pyi`.

    A name that needs an extra which is not installed raises MissingExtraError.
    """
    load, names, public = lazy_loader.attach_stub(package, file)

    def shown(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError:
            with needing(f"{package}.{name}"):
                raise

    return shown, names, public
