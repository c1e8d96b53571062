"""Packages of the extras: a base installation solves DAEs, and says which line installs what else is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

_OF_EXTRAS = {
    "learn": ("torch", "torchdiffeq", "lightning"),
    "e3nn": ("e3nn",),
    "water": ("openmm", "ase"),
    "crosscheck": ("sksundae", "solve_dae"),
    "data": ("pandas", "pyarrow", "xarray", "h5netcdf", "h5py"),
}
# The extra that installs what is imported by a name.
EXTRAS = {package: extra for extra, packages in _OF_EXTRAS.items() for package in packages}
# What a package is installed by where that is another name than it is imported by.
_INSTALLED_AS = {"sksundae": "scikit-sundae", "solve_dae": "solve-dae"}


class MissingExtraError(ImportError):
    """What was asked for needs a package of an extra that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs the package {package}: pip install 'ndae[{extra}]'")
        self._given = what, package, extra

    def __reduce__(self):
        return type(self), self._given


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Raises MissingExtraError where an import inside fails for want of a package of an extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        raise MissingExtraError(what, _INSTALLED_AS.get(package, package), EXTRAS[package]) from error
