"""Radau IIA methods (solve-dae) on a DAE system: implicit Runge-Kutta collocation of order 5, 9 or 13.

Hairer and Wanner, Solving Ordinary Differential Equations II, IV.8; as implemented for fully implicit equations in
solve-dae, the successor of scipy_dae.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from ndae.solvers.arguments import check_settings
from ndae.solvers.outside.implicit_solve import ImplicitSolve
from ndae.solvers.progress import Progress
from ndae.solvers.solution import SUCCESS, Solution
from ndae.solvers.threads import one_blas_thread
from ndae.symbolic.ground.extras import needing

# The polynomial of a step is no guess for stages that are more than this many of its lengths away.
_FAR = 10.0


def solve_radau(
    system: Any,
    start: Any,
    ts: Any,
    *,
    form: Any = "ggl",
    rtol: float = 1e-8,
    atol: Any = None,
    stages: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    max_steps: int = 1_000_000,
    max_seconds: float | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """The solution of a DAE system at the times `ts` by Radau IIA, independent of this project's integrators.

    As solvers.solve_ida in everything but: steps end on the output times; `stages` is 3, 5 or 7 (order 5, 9, 13), by
    default 3 for an `rtol` above 1e-6 and else 5: solve-dae's coefficients are right to 3e-14 with 5 stages, and to
    3e-12 with 7, which ends a solution's digits there. `stats` has n_steps, n_accepted, n_rejected, n_f_evals and
    n_jacobian_evals.

    Raises ValueError for a bad argument or start, MissingExtraError without solve-dae, and SolveError when it
    stops early (with `throw=False` the reason is in `result`).
    """
    RadauDAE = _radau()
    check_settings(None, max_steps, rtol=rtol)
    if stages is None:
        stages = 3 if rtol > 1e-6 else 5
    if stages not in (3, 5, 7):
        raise ValueError(f"stages must be 3, 5 or 7, got {stages!r}")
    solve = ImplicitSolve(system, start, ts, form, rtol, atol, parameters, max_seconds, progress, start_tol, max_steps)

    def solve_span(begin: float, end: float, max_steps: int, stats: dict[str, int]) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a singular matrix or an overflow is a step that it tries again
            solver = RadauDAE(
                solve.residual, begin, solve.Y0, solve.Yp0, end,
                stages=stages, rtol=solve.rtol, atol=solve.atol, jac=solve.jacobians,
            )  # fmt: skip
            return _run(solver, solve, end, max_steps, stats)

    counted = "n_steps", "n_accepted", "n_rejected", "n_f_evals", "n_jacobian_evals"
    with one_blas_thread():
        reason, stats = solve.over_spans(solve_span, counted)
    return solve.solution(reason, stats, throw, "Radau")


def _run(solver: Any, solve: ImplicitSolve, end: float, max_steps: int, stats: dict[str, int]) -> str:
    stops = solve.stops
    while solver.t < end:
        # A step of its own up to every output time: its interpolant is of a lower order than its steps.
        goal = min(end, float(stops[solve.n_reached])) if solve.n_reached < stops.size else end
        solver.t_bound = goal
        wanted, t = solver.h_abs, solver.t
        message = solver.step()
        stats["n_accepted"], stats["n_rejected"] = int(solver.naccpt), int(solver.nrejct)
        stats["n_steps"] = stats["n_accepted"] + stats["n_rejected"]
        stats["n_f_evals"], stats["n_jacobian_evals"] = int(solver.nfev), int(solver.njev)
        if solver.status == "failed":
            return f"{(message or 'the step failed').rstrip('.')} at t = {float(solver.t):.6g}"
        if solver.t >= goal:
            while solve.n_reached < stops.size and stops[solve.n_reached] <= goal:
                solve.keep(solver.y, solver.yp)
            if goal < end:
                solver.status = "running"
                # What the error test allowed, not what was left up to the output time.
                solver.h_abs = max(solver.h_abs, wanted)
                solver.LU_real = solver.LU_complex = None
                if solver.h_abs > _FAR * (solver.t - t):
                    solver.sol = solver.h_abs_old = solver.error_norm_old = None
        if stats["n_steps"] >= max_steps and solver.t < end:
            return f"gave up after {solve.max_steps} steps at t = {float(solver.t):.6g}"
        solve.report(float(solver.t))
    solve.arrive(solver.y, solver.yp)
    return SUCCESS


def _radau() -> Any:
    with needing("Radau"):
        from solve_dae.integrate import RadauDAE
    return RadauDAE
