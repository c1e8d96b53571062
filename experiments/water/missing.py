"""The packages of the extra `water`, or the line that installs them."""

from importlib import import_module
from types import ModuleType

from ndae.experiments.terminal import UserError


class MissingPackage(UserError, ModuleNotFoundError):
    """A package that the water problem needs is not installed; the text says which line installs it."""


def load(name: str, purpose: str) -> ModuleType:
    """Import a package of the extra `water`; raises MissingPackage where that is not possible."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise MissingPackage(
            f"{purpose} needs the package {package}, which can not be imported ({error}): pip install 'ndae[water]'"
        ) from error
