"""Neural differential-algebraic equations: constraints in SymPy, continuous-depth networks that obey them.

The nouns and verbs are here, each loaded when it is first used; the rest stands one level down, in `ndae.data`,
`ndae.methods`, `ndae.forces`, `ndae.fields`, `ndae.models`, `ndae.training`, `ndae.symmetry`, `ndae.solvers` and
`ndae.symbolic`.
"""

from importlib.metadata import PackageNotFoundError, version

from ndae.symbolic.ground.faces import face

# The names are those of `__init__.pyi`, each loaded when it is first used: torch and JAX take seconds.
_load, __dir__, __all__ = face(__name__, __file__)


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"ndae has no {name!r}; it has {', '.join(sorted(__all__))}")
    return _load(name)


try:
    __version__ = version("ndae")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"
