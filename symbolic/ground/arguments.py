"""What an object was made with: the arguments of its class, kept so that it can be made again."""

import functools
import inspect
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)

KEPT = "_made_with"


def keeps_arguments(cls: Class) -> Class:
    """A class whose objects keep what they are made with; objects of classes that derive from it keep nothing."""
    init: Any = cls.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            given = signature.bind(self, *args, **kwargs).arguments
            # Past nn.Module's attributes: what is here is no part of the module.
            self.__dict__[KEPT] = dict(list(given.items())[1:])
        init(self, *args, **kwargs)

    cls.__init__ = made
    return cls


def arguments_of(thing: Any) -> dict[str, Any] | None:
    """By name, what an object was made with; None where that is not known."""
    return getattr(thing, "__dict__", {}).get(KEPT)


def made_again(cls: type, arguments: dict[str, Any]) -> Any:
    """An object of a class, of arguments by name."""
    bound = inspect.signature(cls).bind_partial()
    bound.arguments.update(arguments)
    return cls(*bound.args, **bound.kwargs)
