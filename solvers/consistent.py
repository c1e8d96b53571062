"""Consistent initial conditions of any system."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndae.solvers.arguments import named_once, numbers, with_functions
from ndae.solvers.batches import common_shape
from ndae.solvers.dae.search import _Search
from ndae.solvers.dae.start import ConsistentStart, check_unmoved
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


@one_blas_thread()
def guessed_start(
    system: System, start: Any, guess: Any, t0: float, parameters: Mapping[str, Any] | None, start_tol: float
) -> ConsistentStart:
    """The consistent start from what a solve is given and, second, from guesses; of a batch one after the other.

    Raises ValueError for a ConsistentStart, in which nothing is left to guess, and where a given differential value has
    to move by more than `start_tol` (relative above 1); and as `consistent_initial_condition` does.
    """
    if isinstance(start, ConsistentStart) or system.points is not None:
        what = "a ConsistentStart" if isinstance(start, ConsistentStart) else "that of a system of points"
        raise ValueError(f"the start is {what}, in which nothing is left to guess: leave guess= out")
    known = {"start": start, "guess": guess, "parameters": parameters or {}}
    read = {what: _read(what, values) for what, values in known.items()}
    shapes = [_shapes("parameter" if what == "parameters" else what, values) for what, values in read.items()]
    batch = common_shape({name: shape for part in shapes for name, shape in part.items()})
    found = []
    for index in np.ndindex(batch):
        own = [_sample(values, batch, index) for values in read.values()]
        at = consistent_initial_condition(system, own[0], guess=own[1], t0=t0, parameters=own[2])
        check_unmoved(system, at, t0, start_tol, index)
        found.append(at)
    if not batch:
        return found[0]
    parts: dict[str, Any] = {
        key: np.reshape([getattr(at, key) for at in found], (*batch, -1)) for key in ("states", "rates", "y", "w")
    }
    return ConsistentStart(names=found[0].names, **parts)


def _read(what: str, values: Any) -> np.ndarray | dict[str, np.ndarray]:
    if not isinstance(values, Mapping):
        return numbers(what, values, finite=False)
    return {name: numbers(f"{what}[{name!r}]", v, finite=False) for name, v in named_once(what, values).items()}


def _shapes(what: str, values: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    if isinstance(values, np.ndarray):
        return {what: values.shape[:-1]}
    return {f"{what} {name!r}": value.shape for name, value in values.items()}


def _sample(values: Any, batch: tuple[int, ...], index: tuple[int, ...]) -> Any:
    if isinstance(values, np.ndarray):
        return np.broadcast_to(values, (*batch, values.shape[-1]))[index]
    return {name: float(np.broadcast_to(value, batch)[index]) for name, value in values.items()}
