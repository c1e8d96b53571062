"""A system of index 1 whose functions are generated when they are first asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy as sp

from ndae.symbolic.backends.given import Given
from ndae.symbolic.expressions.reading import substituted
from ndae.symbolic.expressions.unknowns import applied_in
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.forms.functions import ReducedFunctions
from ndae.symbolic.forms.reduced_equations import ReducedEquations
from ndae.symbolic.ground.kept import kept, remembered
from ndae.symbolic.ground.words import check_known


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
        if self.base is not self:
            shared = lambda: self.base._functions(backend).sharing(self, self.functions)  # noqa: E731
            return remembered(self._compiled, backend, shared)
        return remembered(self._compiled, backend, lambda: ReducedFunctions(self, backend))

    # -- unknown functions -------------------------------------------------------------------------------------------

    #: What unknown functions are, by name, as far as that is given.
    functions: Mapping[str, Given] = {}
    _base: "ReducedSystem | None" = None

    @property
    def base(self) -> "ReducedSystem":
        """The same without its functions, whose generated code it runs: compiled once, whatever they are."""
        return self._base or self

    def given(self, system: Equations, functions: Mapping[str, Given], formulas: Mapping[str, Any]) -> "ReducedSystem":
        """The reduced form of `system`, this one's with some functions known: `formulas` put in, others called."""
        base = self.base
        if formulas:
            put: dict[sp.Basic, sp.Basic] = {}
            places = [*base.equations, *base.constraints, *base.invariants.values(), *base.redundant.values()]
            table = with_formulas(places, formulas)
            base = replace(
                base,
                system=system,
                equations=tuple(substituted(e, table, put) for e in base.equations),
                constraints=tuple(substituted(e, table, put) for e in base.constraints),
                invariants={name: substituted(e, table, put) for name, e in base.invariants.items()},
                redundant={i: substituted(e, table, put) for i, e in base.redundant.items()},
            )
        new = replace(base, system=system)
        object.__setattr__(new, "functions", {**self.functions, **functions})  # frozen, as its base is
        object.__setattr__(new, "_base", base)
        return new

    # -- invariants --------------------------------------------------------------------------------------------------

    def holding(self, names: Sequence[str]) -> "ReducedSystem":
        """The same with invariants among its constraints, I(y, t) = level, each level a parameter (`level_of(name)`).

        Raises ValueError for invariants that it does not have, and for those of what only follows from the state.
        """
        return remembered(self._compiled, ("holding", tuple(names)), lambda: self._holding(names))

    def _holding(self, names: Sequence[str]) -> "ReducedSystem":
        check_known(names, self.invariants, repr(self.system.name), "invariant")
        moving = {*self.y, *self.parameters, self.time}
        for name in names:
            strange = self.invariants[name].free_symbols - moving
            if strange:
                raise ValueError(
                    f"{self.system.name}: the invariant {name!r} depends on {min(map(str, strange))}, which follows "
                    "from the state: write it over differential states"
                )
        levels = {name: sp.Symbol(level_of(name)) for name in names}
        n = len(self.equations)
        new = replace(
            self,
            constraints=(*self.constraints, *(self.invariants[name] - levels[name] for name in names)),
            constraint_of=(*self.constraint_of, *((n + k, 0) for k in range(len(names)))),
            parameters={**self.parameters, **dict.fromkeys(levels.values())},
        )
        object.__setattr__(new, "functions", self.functions)  # frozen, as its base is
        return new

    @kept
    def _compiled(self) -> dict[Any, Any]:
        return {}


def level_of(invariant: str) -> str:
    """The name of the parameter that an invariant is equal to."""
    return f"level of {invariant}"


def with_formulas(expressions: Any, formulas: Mapping[str, Any]) -> dict[sp.Basic, sp.Basic]:
    """What stands for each application of a function that is known as a formula(partial, places)."""
    table: dict[sp.Basic, sp.Basic] = {}
    # The innermost first: one may stand in another's arguments.
    for e in sorted(applied_in(expressions), key=lambda e: (len(list(sp.preorder_traversal(e))), str(e))):
        if e.unknown.name in formulas:
            places = [substituted(x, table, {}) for x in e.places]
            table[e] = formulas[e.unknown.name](e.partial, places)
    return table
