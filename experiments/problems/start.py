"""From what a problem says of its start to values that a solver can start from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ndae.experiments.problems.problem import Problem
from ndae.experiments.terminal import UserError, one_line
from ndae.solvers.consistent import consistent_initial_condition
from ndae.solvers.dae.left_out import left_open, may_be_left_out
from ndae.solvers.dae.start import name_places, resolve_start
from ndae.symbolic.ground.words import check_known

# How far a given value may be from the constraints, as in ndae.solve.
_TOLERANCE = 1e-8


@np.errstate(all="ignore")  # what is not finite there is an error with its reason, not a warning before it
def start_of(problem: Problem, consistent: Sequence[str] | None) -> Any:
    """What a solve of `problem` starts from: its values as they are, or a ConsistentStart made from them.

    - `consistent`: names of the components to keep in consistent values; None takes the given values as they are, and
      only solves for what is left out and for derivatives that do not agree with the constraints.

    Raises UserError where the given values are not consistent, or leave out what no constraint determines.
    """
    keep = [name for name in consistent or () if name]
    check_known(keep, problem.states, f"--consistent: problem {problem.name!r}", "state", error=UserError)
    system, t0, places = problem.system, problem.t_span[0], name_places(problem.system)
    rates = {f"{name}_dot": value for name, value in (problem.rates or {}).items()}
    guesses = {name: value for name, value in rates.items() if name in places}
    values = guesses | dict(problem.initial)
    missing = _missing(problem, values)
    values |= dict.fromkeys(missing, 0.0)
    if consistent is not None:
        made = consistent_initial_condition(system, values, keep=keep, t0=t0)
    else:
        guessed = [name for name in guesses if places[name][0] == "y" and name not in problem.initial]
        if not missing:
            try:
                resolve_start(system, values, t0, None, _TOLERANCE)
                return values
            except ValueError as error:
                if not guessed:
                    advice = "(on the command line: --consistent NAMES, those to keep)"
                    raise UserError(f"{one_line(error)} {advice}") from error
        keep = [name for name in problem.initial if places[name][0] == "y"]
        made = consistent_initial_condition(system, values, keep=keep, t0=t0)
    _check_determined(problem, made, missing)
    return made


def _missing(problem: Problem, values: Mapping[str, float]) -> list[str]:
    """Names of the differential variables of the reduced system that `values` leave out, and that do not follow."""
    names = {column: name for name, (array, column) in name_places(problem.system).items() if array == "y"}
    given = {place for name, place in name_places(problem.system).items() if name in values}
    without = [int(column) for column in names if ("y", column) not in given]
    optional = may_be_left_out(problem.system)
    free = left_open(problem.system.reduce(), [column for column in without if optional[column]])
    return [names[column] for column in without if not optional[column] or column in free]


def _check_determined(problem: Problem, start: Any, missing: Sequence[str]) -> None:
    """Raises UserError unless the hidden constraints determine what was not given."""
    if not missing:
        return
    reduced, places = problem.system.reduce(), name_places(problem.system)
    columns = [places[name][1] for name in missing]
    rows = np.zeros((1, len(columns)))
    if reduced.constraints:
        rows = reduced.numpy().constraints_jacobian(start.y, problem.t_span[0], None)[:, columns]
        rows = rows / np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(float).tiny)
    _, sizes, directions = np.linalg.svd(rows)
    sizes = np.append(sizes, np.zeros(len(columns) - sizes.size))
    free = np.abs(directions[sizes <= 1e-10 * max(1.0, sizes[0])]).max(axis=0, initial=0.0)
    undetermined = [name for name, weight in zip(missing, free, strict=True) if weight > 1e-6]
    if undetermined:
        places_in_file = [f"initial.y_dot.{n[:-4]}" if n.endswith("_dot") else f"initial.y.{n}" for n in undetermined]
        raise UserError(
            f"{problem.name}: the start gives no value of {', '.join(undetermined)}, and no constraint determines "
            f"{'it' if len(undetermined) == 1 else 'them'}: add {', '.join(places_in_file)}"
        )
