"""Consistent initial conditions of any system."""

from collections.abc import Mapping
from typing import Any

from ndae.solvers.arguments import check_system
from ndae.solvers.dae.search import _Search
from ndae.solvers.dae.start import ConsistentStart
from ndae.symbolic.systems.system import System


def consistent_initial_condition(
    system: System,
    guess: Any,
    *,
    keep: Any = (),
    t0: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    max_iterations: int = 100,
) -> ConsistentStart:
    """Consistent initial values near a guess, some of them kept.

    `guess` gives differential states by name (a mapping), all but those that the hidden constraints determine from the
    others, or all states in their order (an array, NaN for algebraic variables that have none). What is left out is
    found with the others held; of several roots it is the smallest, and of two as small the positive one. States named
    in `keep`, one or several, differential or algebraic, stay as they are; of the others the differential ones change
    as little as possible, each relative to its guess (absolutely where that is 0), and the algebraic ones follow.

    Of a system of points, {"q": ..., "v": ...} (*batch, n) gives whole vectors, and where nothing is kept the nearest
    q, and then v, are those in the metric of the masses, (M δ, δ) least.

    Raises ValueError for unknown names, for what is left out and nothing determines (nor a double root, to more than
    half of its digits), and for more kept than can be, with the equations that then do not hold; SolveError where
    Newton's iteration finds no consistent values.
    """
    check_system(system)
    if system.points is not None and not isinstance(keep, str) and hasattr(keep, "__len__") and not len(keep):
        from ndae.solvers.mechanics.reference import consistent_points

        return consistent_points(system, guess, t0=t0, parameters=parameters, max_iterations=max_iterations)
    return _Search(system, guess, keep, t0, parameters).run(max_iterations)
