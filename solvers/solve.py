"""One solve for every system, by this project's integrators or by others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ndae.solvers.arguments import INTEGRATORS, check_settings, output_times, with_functions
from ndae.solvers.progress import Progress
from ndae.solvers.solution import Solution
from ndae.symbolic.ground.extras import needing
from ndae.symbolic.systems.system import System

# Methods that solves of points have by the structure of their constraint; others go by the equations written out.
_OF_POINTS = {"projection": True, "plain": False}


@dataclass(frozen=True)
class IDA:
    """SUNDIALS IDA, by backward differentiation formulas (ndae.solvers.outside.ida), by `method` "ggl" (the default),
    "index1", "dummy" or "original".

    `newton` is "modified" or "full", None for what the method needs; after `max_seconds` it gives up.
    """

    newton: str | None = None
    max_seconds: float | None = None


@dataclass(frozen=True)
class Radau:
    """Radau IIA by solve-dae (ndae.solvers.outside.radau), with methods as IDA.

    `stages` is 3, 5 or 7 (order 5, 9, 13), None for what `rtol` asks; after `max_seconds` it gives up.
    """

    stages: int | None = None
    max_seconds: float | None = None


@dataclass(frozen=True)
class Torch:
    """Adaptive steps of torchdiffeq with a projection at every output time (ndae.solvers.dae.solve_torch).

    `integrator`: "dopri8", "dopri5" or another adaptive one; after `max_seconds` no further output time is begun.
    """

    integrator: str = "dopri8"
    max_seconds: float | None = None


_OTHERS: Mapping[str, IDA | Radau | Torch] = {"ida": IDA(), "radau": Radau(), "torch": Torch()}


def solve(
    system: System,
    start: Any,
    ts: Any,
    *,
    guess: Any = None,
    by: str | IDA | Radau | Torch = "dopri8",
    method: Any = None,
    rtol: float | None = None,
    atol: Any = None,
    parameters: Mapping[str, Any] | None = None,
    functions: Mapping[Any, Any] | None = None,
    max_steps: int | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """The solution of a system from a consistent start, at the times `ts`, in float64.

    - `start`: initial values at `ts[0]`: a mapping by name, an array (*batch, n_states) in the order of the states, or
      a ConsistentStart. Algebraic variables may be left out (NaN in an array), and of a mapping what the constraints
      determine from the rest (see consistent_initial_condition); where equations of algebraic variables are nonlinear,
      values of these are the guess from which they are solved. Of a system of points, {"q": ..., "v": ...} gives whole
      vectors (*batch, n). It must satisfy the equations and the constraints hidden in them within `start_tol`.
    - `guess`: values, in the same form, of what `start` leaves out, differential or algebraic: where the search for it
      begins, and of several roots which (see consistent_initial_condition); given values do not move.
    - `ts` (n_times,): output times, strictly increasing, at least two. Steps end there.
    - `by`: "dopri8" (the default), "dopri5", "tsit5" for equations that are not stiff, "radau13" or "kvaerno5"
      (implicit) for stiff ones, all in JAX by diffrax; and for a second opinion "torch" (torchdiffeq), "ida"
      (SUNDIALS), "radau" (Radau IIA of solve-dae), or `Torch`, `IDA`, `Radau` with settings of their own.
    - `method`: how constraints are kept. "projection" (the default), "plain", "baumgarte", "ggl", or an object of
      ndae.solvers.dae.formulations; of IDA and Radau the form of the equations, "ggl" (the default), "index1", "dummy"
      or "original". torch projects.
    - `rtol`, `atol`: tolerances of a step's local error, |error_i| ≤ atol_i + rtol |y_i| for every differential
      variable: 1e-10 and 1e-4 rtol by default, so that a variable counts relatively down to 1e-4; 1e-8 and rtol of IDA
      and Radau. `atol` is one number, a mapping from names of states, or an array over the differential variables.
    - `parameters`: values by name instead of the system's own: one number, or an array of the batch's shape. Of a
      system of points, what its constraint and forces take, and "mass".
    - `functions`: what unknown functions of the system are (see System.given): torch modules, functions, tables.
    - `max_steps`: attempts after which a solve gives up; default a million, or twenty an output time if that is more.
    - `progress(fraction, text)`: called now and then while it runs; not by torch.

    Each of a batch is solved with its own steps (in torch they share them, IDA and Radau take one start). A system of
    points is solved by the structure of its constraint, where `by` and `method` can; else by its equations.

    A single solve by `by` of JAX that stops where constraints lose rank at one instant, such as a four-bar that lies
    flat, goes on behind it where the motion is smooth, with a warning.

    Returns a Solution of all states, with residuals of all levels and invariants at every output time. Raises
    ValueError for a bad argument or an inconsistent start, MissingExtraError where another maker's solver is not
    installed, and SolveError when a solve stops early; with `throw=False` the reason is in `solution.result`, and the
    outputs end where the last solve stopped.
    """
    system = with_functions(system, functions)
    if guess is not None:
        from ndae.solvers.consistent import guessed_start

        check_settings(None, None, start_tol=start_tol)
        start = guessed_start(system, start, guess, float(output_times(ts)[0]), parameters, start_tol)
    kind = _OTHERS.get(by) if isinstance(by, str) else by
    given: dict[str, Any] = {
        "atol": atol, "parameters": parameters, "start_tol": start_tol, "throw": throw,
        **({} if rtol is None else {"rtol": rtol}), **({} if max_steps is None else {"max_steps": max_steps}),
    }  # fmt: skip
    if isinstance(kind, (Torch, IDA, Radau)):
        return _by_another(kind, method, progress, (system, start, ts), given)
    if not isinstance(by, str) or by not in INTEGRATORS:
        raise ValueError(f"by={by!r} is not known; choose one of {', '.join((*INTEGRATORS, *_OTHERS))}")
    given |= {"integrator": by, "progress": progress}
    method = "projection" if method is None else method
    if system.points is not None and isinstance(method, str) and method in _OF_POINTS:
        from ndae.solvers.mechanics.reference import solve_points

        return solve_points(system, start, ts, project=_OF_POINTS[method], **given)
    from ndae.solvers.dae.solve import solve_dae

    return solve_dae(system, start, ts, method=method, **given)


def _by_another(
    kind: Torch | IDA | Radau, method: Any, progress: Progress | None, problem: tuple, given: dict
) -> Solution:
    """The solution by another maker's solver."""
    given["max_seconds"] = kind.max_seconds
    if isinstance(kind, Torch):
        with needing('by="torch"'):
            from ndae.solvers.dae.solve_torch import solve_torch
        if method not in (None, "projection"):
            raise ValueError(f"method {method!r}: torch keeps constraints by projection alone; take another `by`")
        return solve_torch(*problem, integrator=kind.integrator, **given)
    from ndae.symbolic.forms.implicit_form import FORMS

    if isinstance(method, str) and method not in FORMS:
        raise ValueError(f"method {method!r} is not one of {type(kind).__name__}: choose one of {', '.join(FORMS)}")
    given |= {"form": "ggl" if method is None else method, "progress": progress}
    if isinstance(kind, IDA):
        from ndae.solvers.outside.ida import solve_ida

        return solve_ida(*problem, newton=kind.newton, **given)
    from ndae.solvers.outside.radau import solve_radau

    return solve_radau(*problem, stages=kind.stages, **given)
