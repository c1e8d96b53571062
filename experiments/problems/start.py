"""From what a problem says of its start to values that a solver can start from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ndae.experiments.problems.problem import Problem
from ndae.experiments.terminal import UserError, one_line
from ndae.solvers.consistent import consistent_initial_condition
from ndae.solvers.dae.start import UndeterminedError, name_places, resolve_start
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
    given = [name for name in problem.initial if places[name][0] == "y"]
    try:
        if consistent is not None:
            return consistent_initial_condition(system, values, keep=keep, t0=t0)
        try:
            resolve_start(system, values, t0, None, _TOLERANCE)
        except UndeterminedError:
            raise
        except ValueError:
            if not any(places[name][0] == "y" and name not in given for name in guesses):
                raise
        else:
            if all(name in values for name in problem.states if places[name][0] == "y"):
                return values
        return consistent_initial_condition(system, values, keep=given, t0=t0)
    except UndeterminedError as error:
        keys = [f"initial.y_dot.{n[:-4]}" if n.endswith("_dot") else f"initial.y.{n}" for n in error.names]
        raise UserError(f"{one_line(error)} ({' or '.join(keys)})") from error
    except ValueError as error:
        advice = "" if consistent is not None else " (on the command line: --consistent NAMES, those to keep)"
        raise UserError(f"{one_line(error)}{advice}") from error
