"""A system of index 1 whose functions are generated when they are first asked for."""

from typing import Any

from ndae.symbolic.forms.functions import ReducedFunctions
from ndae.symbolic.forms.reduced_equations import ReducedEquations
from ndae.symbolic.ground.kept import kept, remembered


class ReducedSystem(ReducedEquations):
    """`ReducedEquations` that compile for each array library."""

    def jax(self):
        """Generate the functions of the reduced system for JAX (`ReducedFunctions`); generated once."""
        return self._functions("jax")

    def numpy(self):
        """Generate the functions of the reduced system for NumPy (`ReducedFunctions`); generated once."""
        return self._functions("numpy")

    def torch(self):
        """Generate the functions of the reduced system for torch (`ReducedFunctions`); generated once."""
        return self._functions("torch")

    def _functions(self, backend: str):
        return remembered(self._compiled, backend, lambda: ReducedFunctions(self, backend))

    @kept
    def _compiled(self) -> dict[str, Any]:
        return {}
