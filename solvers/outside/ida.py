"""SUNDIALS IDA (scikit-sundae) on a DAE system: backward differentiation formulas of variable order, 1 to 5.

Hindmarsh et al., SUNDIALS: Suite of Nonlinear and Differential/Algebraic Equation Solvers, ACM TOMS 31 (2005).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndae.solvers.outside.implicit_solve import ImplicitSolve
from ndae.solvers.progress import Progress
from ndae.solvers.solution import SUCCESS, Solution
from ndae.solvers.threads import one_blas_thread
from ndae.symbolic.ground.extras import needing

# Where the first step fails however often it is cut, it was too long by far: IDA takes it from Y', which holds no
# derivatives of algebraic variables. As a share of the whole time:
_SHORT_STEP = 1e-12


def solve_ida(
    system: Any,
    start: Any,
    ts: Any,
    *,
    form: Any = "ggl",
    rtol: float = 1e-8,
    atol: Any = None,
    newton: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    max_steps: int = 1_000_000,
    max_seconds: float | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """The solution of a DAE system at the times `ts` by IDA, an opinion independent of this project's integrators.

    The equations are F(t, Y, Y') = 0 in the `form` "ggl", "index1", "original" or "dummy"
    (ndae.symbolic.forms.implicit_form), with their analytic Jacobian ∂F/∂Y + c_j ∂F/∂Y'. Multipliers and variables of
    index 2 are kept out of the error test, and solved for from the others at the output times. Between its steps IDA
    interpolates: constraints hold there to the accuracy of the interpolant.

    - `system`: a System; `start`, `parameters`, `start_tol` as in ndae.solve.
    - `rtol`, `atol`: relative and absolute tolerance; `atol` one number, one for each entry of the reduced system's y,
      or by state name; by default `rtol`.
    - `newton`: "modified" keeps one Jacobian over many steps, as IDA does by default, scaled where c_j has changed;
      "full" takes a new one for each iteration (preconditioned GMRES with the exact inverse). The scaling is wrong for
      algebraic equations: where the error test watches what they determine, the rest of the iteration is noise in it
      that no shorter step makes smaller. So by default "full" there, "modified" elsewhere.
    - `max_steps`, `max_seconds`: when to give up.

    `stats` has n_steps, n_f_evals (residuals) and n_jacobian_evals. Raises ValueError for a bad argument or start,
    MissingExtraError without scikit-sundae, and SolveError when IDA stops early; with `throw=False` the
    reason is in `result`, and the outputs end where it stopped.
    """
    IDA = _ida()
    if newton not in (None, "modified", "full"):
        raise ValueError(f'newton must be "modified", "full" or None (what the form needs), got {newton!r}')
    solve = ImplicitSolve(system, start, ts, form, rtol, atol, parameters, max_seconds, progress, start_tol, max_steps)
    full = _watches_algebraic(solve) if newton is None else newton == "full"

    def residual(t, Y, Yp, out):
        out[:] = solve.residual(t, Y, Yp)

    def solve_span(begin: float, end: float, max_steps: int, stats: dict[str, int]) -> str:
        first_step = 0.0  # IDA's own choice
        while True:
            linear = _FullNewton(solve) if full else None
            solver = IDA(
                residual,
                rtol=solve.rtol,
                atol=solve.atol,
                algebraic_idx=[i for i, algebraic in enumerate(solve.form.algebraic) if algebraic],
                max_num_steps=max_steps,
                first_step=first_step,
                **({"jacfn": _jacobian(solve)} if linear is None else linear.options()),
            )
            try:
                reason = _run(solver, solve, begin, end, max_steps, stats)
            finally:
                if linear is not None:
                    stats["n_jacobian_evals"] = linear.n_jacobian_evals
            if reason == SUCCESS or stats["n_steps"] or first_step:
                return reason
            first_step = _SHORT_STEP * (end - begin)

    with one_blas_thread():
        reason, stats = solve.over_spans(solve_span, ("n_steps", "n_f_evals", "n_jacobian_evals"))
    return solve.solution(reason, stats, throw, "IDA")


def _watches_algebraic(solve: ImplicitSolve) -> bool:
    """Whether the error test watches a variable, or a combination of variables, that only algebraic equations hold."""
    form = solve.form
    if any(a and not free for a, free in zip(form.algebraic, form.uncontrolled, strict=True)):
        return True
    by_rates = solve.jacobians(float(solve.ts[0]), solve.Y0, solve.Yp0)[1][:, ~np.array(form.algebraic)]
    # In units of its own each: a derivative of 1e-6 farad is one as well.
    by_rates = by_rates / np.maximum(np.abs(by_rates).max(axis=1, keepdims=True, initial=0.0), np.finfo(float).tiny)
    return bool(np.linalg.matrix_rank(by_rates) < by_rates.shape[1])


def _jacobian(solve: ImplicitSolve) -> Any:
    def jacobian(t, Y, Yp, _residual, cj, out):
        by_Y, by_Yp = solve.jacobians(t, Y, Yp)
        out[:] = by_Y + cj * by_Yp

    return jacobian


class _FullNewton:
    """IDA's linear systems with the Jacobian J = ∂F/∂Y + c_j ∂F/∂Y' of the very point: GMRES, preconditioned by J⁻¹."""

    def __init__(self, solve: ImplicitSolve) -> None:
        self.solve, self.n_jacobian_evals = solve, 0
        self._key: Any = None
        self._matrix = np.zeros((0, 0))

    def options(self) -> dict[str, Any]:
        from sksundae.ida import IDAJacTimes, IDAPrecond

        def product(t, Y, Yp, _residual, v, out, cj):
            out[:] = self.matrix(t, Y, Yp, cj) @ v

        def inverse(t, Y, Yp, _residual, right, out, cj, _delta):
            matrix = self.matrix(t, Y, Yp, cj)
            try:
                out[:] = np.linalg.solve(matrix, right)
            except np.linalg.LinAlgError:
                out[:] = right  # GMRES then fails, and IDA takes a shorter step

        return {"linsolver": "gmres", "precond": IDAPrecond(None, inverse), "jactimes": IDAJacTimes(None, product)}

    def matrix(self, t: float, Y: np.ndarray, Yp: np.ndarray, cj: float) -> np.ndarray:
        key = (t, cj, Y.tobytes(), Yp.tobytes())
        if key != self._key:
            by_Y, by_Yp = self.solve.jacobians(t, Y, Yp)
            self._key, self._matrix = key, by_Y + cj * by_Yp
            self.n_jacobian_evals += 1
        return self._matrix


def _run(solver: Any, solve: ImplicitSolve, begin: float, end: float, max_steps: int, stats: dict[str, int]) -> str:
    stops, t = solve.stops, begin
    solver.init_step(t, solve.Y0, solve.Yp0)
    while t < end:
        # One step at a time, so that steps are counted; asked for a time behind it, IDA interpolates.
        found = solver.step(end, "onestep", tstop=end)
        stats["n_f_evals"], stats["n_jacobian_evals"] = int(found.nfev), int(found.njev)
        if not found.success:
            return f"{found.message.rstrip('.')} at t = {float(found.t):.6g}"
        stats["n_steps"] += float(found.t) > t
        t = float(found.t)
        while solve.n_reached < stops.size and stops[solve.n_reached] <= t:
            at = float(stops[solve.n_reached])
            out = found if at == t else solver.step(at, "normal", tstop=end)
            if not out.success:
                return f"{out.message.rstrip('.')} at t = {at:.6g}"
            solve.keep(out.y, out.yp)
        if stats["n_steps"] >= max_steps and t < end:
            return f"gave up after {solve.max_steps} steps at t = {t:.6g}"
        solve.report(t)
    solve.arrive(found.y, found.yp)
    return SUCCESS


def _ida() -> Any:
    with needing("IDA"):
        from sksundae.ida import IDA
    return IDA
