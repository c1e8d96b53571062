"""Consistent initial conditions of any kind of system."""

from collections.abc import Mapping
from typing import Any

from ndae.solvers.dae.search import _Search


def consistent_initial_condition(
    system: Any,
    guess: Any = None,
    v0: Any = None,
    *,
    keep: Any = (),
    t0: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    max_iterations: int = 100,
    **mechanical: Any,
) -> Any:
    """Consistent initial values near a guess, some of them kept.

    Of a symbolic.System: `guess` gives every differential state by name (a mapping), or all states in their order
    (an array, NaN for algebraic variables that have none). States named in `keep`, one or several, differential or
    algebraic, stay as they are; of the others the differential ones change as little as possible, each relative to its
    guess (absolutely where that is 0), and the algebraic ones follow. Returns a ConsistentStart.

    Of a symbolic.MechanicalSystem: `(system, q0, v0)`, nearest in the metric of the masses, with the batches and
    results of ndae.solvers.mechanics.reference.consistent_initial_condition.

    Raises ValueError for unknown names and for more kept than can be, with the equations that then do not hold, and
    SolveError where Newton's iteration finds no consistent values.
    """
    if hasattr(system, "constraint"):
        from ndae.solvers.mechanics.reference import consistent_initial_condition as of_motion

        q0 = mechanical.pop("q0", guess)
        return of_motion(system, q0, v0, t0=t0, parameters=parameters, max_iterations=max_iterations, **mechanical)
    if v0 is not None or mechanical:
        raise ValueError("a DAE system takes one guess of all its states, (system, guess, keep=[...])")
    return _Search(system, guess, keep, t0, parameters).run(max_iterations)
