"""Consistent initial conditions of any system."""

from collections.abc import Mapping
from typing import Any

from ndae.solvers.arguments import with_functions
from ndae.solvers.dae.search import _Search
from ndae.solvers.dae.start import ConsistentStart
from ndae.solvers.threads import one_blas_thread
from ndae.symbolic.systems.system import System


@one_blas_thread()
def consistent_initial_condition(
    system: System,
    start: Any,
    *,
    guess: Any = None,
    keep: Any = (),
    t0: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
    functions: Mapping[Any, Any] | None = None,
    max_iterations: int = 100,
) -> ConsistentStart:
    """Consistent initial values at `t0` from what is known of them; given ones first, then guesses, then the rest.

    - `start`: the values that are given, by name (a mapping), or all states in their order (an array, NaN for what is
      not given). The differential states among them change as little as the equations allow, each relative to its
      value (absolutely where that is 0), and of them those that are differentiated more often first: positions as if
      there were no velocities, then velocities; of values far off near ones are found, if the nearest are not. The
      algebraic ones are guesses. The result's `moved` has what had to change, by name, old and new.
    - `guess`: values, in the same form, of what is not given: where a search begins, and of several roots which. Where
      nothing is known the equations have to determine it: of several roots it is the smallest, and of two as small the
      positive one.
    - `keep`: names, one or several, of given states, differential or algebraic, that stay exactly as they are.

    Algebraic variables are found by Newton's iteration from their guess, or zero, and where that fails block by block
    from many starts.

    `functions` says what unknown functions of the system are, as in ndae.solve.

    Of a system of points, {"q": ..., "v": ...} (*batch, n) gives whole vectors, and where nothing is kept the nearest
    q, and then v, are those in the metric of the masses, (M δ, δ) least.

    Raises ValueError for unknown names, for what is left out and nothing determines (nor a double root, to more than
    half of its digits), and for more kept than can be, with the equations that then do not hold; SolveError where
    no consistent values are found.
    """
    system = with_functions(system, functions)
    if (
        system.points is not None
        and guess is None
        and not isinstance(keep, str)
        and hasattr(keep, "__len__")
        and not len(keep)
    ):
        from ndae.solvers.mechanics.reference import consistent_points

        return consistent_points(system, start, t0=t0, parameters=parameters, max_iterations=max_iterations)
    return _Search(system, start, guess, keep, t0, parameters).run(max_iterations)
