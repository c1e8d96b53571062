"""Problems: standard ones by name, a user's own from a file."""

import lazy_loader

# The names are those of `__init__.pyi`, each loaded when it is first used: torch and JAX take seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
