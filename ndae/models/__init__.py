"""What is trained: neural DAEs over depth, neural motions in time, presets."""

from ndae.symbolic.ground.faces import face

# The names are those of `__init__.pyi`, each loaded when it is first used: torch and JAX take seconds.
__getattr__, __dir__, __all__ = face(__name__, __file__)
