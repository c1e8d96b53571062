"""What unknown functions of a system are, read: modules and functions, tables, and formulas."""

from collections.abc import Mapping
from typing import Any

import sympy as sp

from ndae.symbolic.backends.given import Given
from ndae.symbolic.expressions.tables import Lookup, Table
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.forms.equations import Equations
from ndae.symbolic.ground.words import check_known


def read_functions(system: Equations, functions: Mapping[Any, Any]) -> tuple[dict[str, Given], dict[str, Any]]:
    """Functions that code calls, and those that are put into equations as formula(partial, places), by name.

    Raises ValueError for functions that the system does not have, for two of one name, and for what is none.
    """
    if not isinstance(functions, Mapping):
        raise ValueError(f"functions={functions!r}: expected a mapping from unknown functions to what they are")
    arity = {u.name: (u, n) for u, n in system.unknowns.items()}
    named = {getattr(key, "name", str(key)): value for key, value in functions.items()}
    if len(named) < len(functions):
        raise ValueError(f"{system.name}: functions has a function twice, as itself and by its name: give each once")
    check_known(named, arity, repr(system.name), "unknown function")
    given, formulas = {}, {}
    for name, value in named.items():
        unknown, n = arity[name]
        if isinstance(value, Table | sp.Lambda):
            formulas[name] = _formula(system.name, unknown, n, value)
        else:
            given[name] = value if isinstance(value, Given) else Given(unknown, n, value)
    return given, formulas


def _formula(owner: str, unknown: Unknown, n: int, value: Table | sp.Lambda) -> Any:
    if isinstance(value, Table):
        if n != 1 or unknown.outputs != 1:
            raise ValueError(
                f"{owner}: the unknown function {unknown} has {n} arguments and {unknown.outputs} outputs, and a table "
                "one of each: give a function"
            )
        return lambda partial, places: Lookup(value, sp.Integer(partial.order), places[0])
    variables: list[Any] = list(value.signature.args)
    bodies = list(value.expr) if isinstance(value.expr, sp.Tuple | sp.MatrixBase) else [value.expr]
    if len(variables) != n or len(bodies) != unknown.outputs or not all(isinstance(v, sp.Symbol) for v in variables):
        raise ValueError(
            f"{owner}: the unknown function {unknown} has {n} arguments and {unknown.outputs} outputs, and {value} "
            f"{len(variables)} and {len(bodies)}: give as many"
        )

    def formula(partial: Any, places: Any) -> sp.Expr:
        body = sp.sympify(bodies[partial.output])
        for variable, order in zip(variables, partial.orders, strict=True):
            body = body.diff(variable, order) if order else body
        return body.xreplace(dict(zip(variables, places, strict=True)))

    return formula
