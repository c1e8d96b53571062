"""Measured data: recordings, and files that hold them."""

from ndae.symbolic.ground.faces import face

# The names are those of `__init__.pyi`, each loaded when it is first used: torch and JAX take seconds.
__getattr__, __dir__, __all__ = face(__name__, __file__)
