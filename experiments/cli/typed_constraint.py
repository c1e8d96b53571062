"""A constraint typed as text on the command line."""

import math

from ndae.experiments.terminal import UserError


def read_constraint(expressions: list[str], states: str, parameters: str | None, time: str | None):
    """Build the constraint `expressions = 0` over the comma-separated `states`.

    `parameters` is `name` or `name=number`, comma-separated; `time` the name of time. Text is parsed by
    `symbolic.parse_expression`, never evaluated. Raises `ValueError` or `UserError` naming what is wrong.
    """
    values = dict(_assignment(text) for text in _split(parameters or ""))
    names = [*_split(states), *values, *([time.strip()] if time else [])]
    if not _split(states):
        raise UserError("--states is empty: name the state's components, such as --states x,y")
    for name in names:
        if not name.isidentifier():
            raise UserError(f"{name!r} is no name: use letters, digits and _, such as --states x,y --parameters L=1.0")
        if names.count(name) > 1:
            raise UserError(f"{name!r} is given twice among --states, --parameters and --time")

    import sympy as sp  # not before everything that needs no SymPy is in order

    from ndae.symbolic import Constraint, parse_expression

    symbols = {name: sp.Symbol(name, real=True) for name in names}
    return Constraint(
        [parse_expression(text, symbols) for text in expressions],
        states=[symbols[name] for name in _split(states)],
        parameters={symbols[name]: value for name, value in values.items()},
        time=symbols[time.strip()] if time else None,
        name="constraint",
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _assignment(text: str) -> tuple[str, float | None]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        return name, None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--parameters {text}: expected a finite number, such as {name}=1.0")
    return name, number
