"""SymPy constraints, what is derived from them, and the functions generated."""

from ndae.symbolic.ground import forks  # noqa: F401  watches for forks from here on
from ndae.symbolic.ground.faces import face

# The names are those of `__init__.pyi`, each loaded when it is first used: SymPy takes half a second.
__getattr__, __dir__, __all__ = face(__name__, __file__)
