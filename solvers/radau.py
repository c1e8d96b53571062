"""Radau IIA methods (solve-dae) on a DAE system: implicit Runge-Kutta collocation of order 5, 9 or 13.

Hairer and Wanner, Solving Ordinary Differential Equations II, IV.8; as implemented for fully implicit equations in
solve-dae, the successor of scipy_dae.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from solvers.arguments import check_settings
from solvers.implicit_solve import ImplicitSolve, MissingExtraError, Progress, Stopped
from solvers.solution import SUCCESS, Solution

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
    default more of them for a smaller `rtol`. `stats` has n_steps, n_accepted, n_rejected, n_f_evals and
    n_jacobian_evals.

    Raises ValueError for a bad argument or start, MissingExtraError without solve-dae, and ReferenceSolveError when it
    stops early (with `throw=False` the reason is in `result`).
    """
    RadauDAE = _radau()
    check_settings(None, max_steps, rtol=rtol)
    if stages is None:
        stages = 3 if rtol > 1e-6 else 5 if rtol > 1e-9 else 7
    if stages not in (3, 5, 7):
        raise ValueError(f"stages must be 3, 5 or 7, got {stages!r}")
    solve = ImplicitSolve(system, start, ts, form, rtol, atol, parameters, max_seconds, progress, start_tol, max_steps)
    stats = dict.fromkeys(("n_steps", "n_accepted", "n_rejected", "n_f_evals", "n_jacobian_evals"), 0)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a singular matrix or an overflow is a step that it tries again
            solver = RadauDAE(
                solve.residual,
                float(solve.ts[0]),
                solve.Y0,
                solve.Yp0,
                float(solve.ts[-1]),
                stages=stages,
                rtol=solve.rtol,
                atol=solve.atol,
                jac=solve.jacobians,
            )
            reason = _run(solver, solve, max_steps, stats)
    except Stopped:
        reason = f"gave up after {max_seconds:g} s"
    except (ArithmeticError, ValueError, RuntimeError, np.linalg.LinAlgError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return solve.solution(reason, stats, throw, "Radau")


def _run(solver: Any, solve: ImplicitSolve, max_steps: int, stats: dict[str, int]) -> str:
    end = float(solve.ts[-1])
    while solve.n_reached < solve.ts.size:
        # A step of its own up to every output time: its interpolant is of a lower order than its steps.
        goal = float(solve.ts[solve.n_reached])
        solver.t_bound = goal
        wanted, t = solver.h_abs, solver.t
        message = solver.step()
        stats["n_accepted"], stats["n_rejected"] = int(solver.naccpt), int(solver.nrejct)
        stats["n_steps"] = stats["n_accepted"] + stats["n_rejected"]
        stats["n_f_evals"], stats["n_jacobian_evals"] = int(solver.nfev), int(solver.njev)
        if solver.status == "failed":
            return f"{(message or 'the step failed').rstrip('.')} at t = {float(solver.t):.6g}"
        if solver.t >= goal:
            solve.keep(solver.y, solver.yp)
            if goal < end:
                solver.status = "running"
                # What the error test allowed, not what was left up to the output time.
                solver.h_abs = max(solver.h_abs, wanted)
                solver.LU_real = solver.LU_complex = None
                if solver.h_abs > _FAR * (solver.t - t):
                    solver.sol = solver.h_abs_old = solver.error_norm_old = None
        if stats["n_steps"] >= max_steps and solve.n_reached < solve.ts.size:
            return f"gave up after {max_steps} steps at t = {float(solver.t):.6g}"
        solve.report(float(solver.t))
    return SUCCESS


def _radau() -> Any:
    try:
        from solve_dae.integrate import RadauDAE
    except ImportError as error:
        raise MissingExtraError("Radau", "solve-dae") from error
    return RadauDAE
