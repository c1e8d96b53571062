"""A reduced DAE in torch: the second opinion on `reduced_motion`, by another integrator and other generated code.

Adaptive steps of torchdiffeq between the output times, and at every output time the nearest point of the constraints.
"""

import math
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndae.solvers._types import Flag, State, Times, Trajectory
from ndae.solvers.arguments import check_settings, check_system, checked_parameters, output_times, refuse_functions
from ndae.solvers.batches import broadcast_parameters, stand_in
from ndae.solvers.dae.describe import absolute_tolerances, describe_states, never_begun
from ndae.solvers.dae.leading import SETTLED, settled, unsettled
from ndae.solvers.dae.reduced_motion import LAST_CORRECTION, LEAST_SCALE, MAX_ITERATIONS
from ndae.solvers.dae.start import resolve_start
from ndae.solvers.dae.switching import find_gaps
from ndae.solvers.depth.integrate import ADAPTIVE
from ndae.solvers.depth.on_manifold import integrate_on_manifold
from ndae.solvers.errors import IntegrationError, ProjectionError
from ndae.solvers.solution import SUCCESS, Solution, SolveError
from ndae.symbolic.backends.solves import ROUNDING

Time = float | Tensor | None


class TorchReduced:
    """y' = rates(y, w) with T(y, w, t) = 0, and the projection onto C(y, t) = 0, of a symbolic.ReducedSystem.

    What the integrator needs of a DAE: called as `field(t, y)` it gives y' for y (*batch, N). `parameters` are values
    by name, numbers or tensors of the batch's shape; everything is differentiable with respect to them and to y. They
    are constants of the motion, of which hidden constraints are derivatives in time: functions raise a ValueError.
    `floor` (N,) is the size below which a component is measured absolutely when it is projected. Where a projection
    does not converge, not `strict`, the sample becomes NaN.

    Where equations for w are nonlinear, Newton's iteration starts from `guess` (*batch, n), which follows the solution
    from step to step and so stays on the branch that the start is on.
    """

    def __init__(
        self,
        reduced: Any,
        parameters: Mapping[str, Any] | None = None,
        *,
        floor: Any = 1e-2,
        guess: Any = None,
        strict: bool = True,
    ) -> None:
        self.reduced, self.functions = reduced, reduced.torch()
        self._held, self._holds = self.functions, bool(reduced.constraints)
        self._strict = strict
        refuse_functions(self.functions.name, parameters or {})
        self._parameters = dict(parameters or {})
        self.floor = torch.as_tensor(floor, dtype=torch.float64)
        self.guess = None if all(block.linear for block in reduced.blocks) else guess

    @property
    def parameters(self) -> Mapping[str, Any]:
        """By name, to read: another value of one is another motion."""
        return MappingProxyType(self._parameters)

    def __call__(self, t: Time, y: State) -> State:
        """y'; NaN where the leading unknowns are not found."""
        w, found = self.leading(t, y)
        return torch.where(found[..., None], self.functions.rates(y, w), torch.nan)

    def leading(self, t: Time, y: State) -> tuple[Tensor, Flag]:
        """The leading unknowns w (*batch, n) and whether they were found."""
        # A tensor of its own, which constants given beforehand do not come from even if they were computed from y.
        return self.functions.solve_leading(y.view_as(y), t, self.parameters, guess=self.guess)

    def accepted(self, t: Time, y: State) -> None:
        """Take w at a state of the solution for the guess from now on."""
        if self.guess is not None:
            with torch.no_grad():
                w, found = self.leading(t, y)
                self.guess = torch.where(found[..., None], w, self.guess)

    def project(self, t: Time, y: State, iterations: int = MAX_ITERATIONS) -> State:
        """The point of C(·, t) = 0 nearest to y, in the norm |δy_i| / (floor_i + |y_i|), by Gauss-Newton steps.

        Raises ProjectionError where they do not converge, in so many iterations.
        """
        if not self._holds:
            return y
        with torch.no_grad():
            size = y.abs()
            scale = size + self.floor.to(y) + LEAST_SCALE * size.amax(-1, keepdim=True)
            nearest, converged, iteration = y, torch.zeros(()), 0
            while not bool(converged.all()):
                if iteration == iterations:
                    converged = converged | self._settled(t, nearest, scale)
                    if not bool(converged.all()) and self._strict:
                        raise self._off(t, ~converged)
                    break
                residual = self._held.constraints(nearest, t, self.parameters)
                jacobian = self._scaled_jacobian(t, nearest, scale)
                left = residual + (jacobian @ ((y - nearest) / scale)[..., None])[..., 0]
                before, nearest = nearest, y - _smallest(jacobian, left, scale)
                converged = ((nearest - before).abs() / scale).amax(-1) <= LAST_CORRECTION
                if not self._strict:  # what is lost already is not waited for
                    converged = converged | ~y.isfinite().all(-1)
                iteration += 1
            jacobian = self._scaled_jacobian(t, nearest, scale)
        # The value stays, but for rounding; its derivative is that of y, projected on the tangent space.
        nearest = y + (nearest - y.detach())
        nearest = nearest - _smallest(jacobian, self._held.constraints(nearest, t, self.parameters), scale)
        return nearest if bool(converged.all()) else torch.where(converged[..., None], nearest, torch.nan)

    def _settled(self, t: Time, y: State, scale: Tensor) -> Tensor:
        """Whether a further correction is no more than what rounding makes of one, as ReducedMotion has it."""
        jacobian, one = self._scaled_jacobian(t, y, scale), torch.ones_like(scale)
        rounding = ROUNDING * torch.finfo(y.dtype).eps * self._held.constraints_sizes(y, t, self.parameters)
        by_row = sum(_smallest(jacobian, row, one).abs() for row in torch.diag_embed(rounding).unbind(-2))
        correction = _smallest(jacobian, self._held.constraints(y, t, self.parameters), one)
        return (correction.abs() <= LAST_CORRECTION + by_row).all(-1)

    def _off(self, t: Time, samples: Tensor) -> ProjectionError:
        numbers = tuple(samples.reshape(-1).nonzero().reshape(-1).tolist())
        at = f" at t = {float(t):.9g}" if t is not None and np.ndim(t) == 0 else ""
        return ProjectionError(
            f"the projection onto the hidden constraints of {self.functions.name} did not converge{at} in sample(s) "
            f"{list(numbers[:10])}: the constraints may lose rank there",
            numbers,
        )

    def _scaled_jacobian(self, t: Time, y: Tensor, scale: Tensor) -> Tensor:
        return self._held.constraints_jacobian(y, t, self.parameters) * scale[..., None, :]


def torch_flow(motion: TorchReduced, y0: State, ts: Times, **options: Any) -> Trajectory:
    """y (*batch, n_times, N) of a reduced system at `ts`, differentiable by y0 and the parameters of `motion`.

    `options` are those of `integrate_on_manifold`; the start is projected and not checked. Derivatives are those of
    the discrete solution with its steps held fixed. Raises IntegrationError or ProjectionError.
    """
    return torch.stack(list(integrate_on_manifold(motion, motion.project, y0, ts, **options)), -2)


def solve_torch(
    system: Any,
    start: Any,
    ts: Any,
    *,
    integrator: str = "dopri8",
    rtol: float = 1e-10,
    atol: Any = None,
    parameters: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    start_tol: float = 1e-8,
    throw: bool = True,
) -> Solution:
    """The solution of a DAE by torch and torchdiffeq, with a projection at every output time.

    Arguments are those of ndae.solve, but `integrator` is an adaptive one of solvers.integrate, such as "dopri8"
    and "dopri5"; all of them are explicit, so stiff equations take very many steps. The samples of a batch share their
    steps, so that a solve that stops stops for all of them. After `max_seconds` no further output time is begun.

    Returns a Solution. Raises ValueError for a bad argument or an inconsistent start, and SolveError when the
    solve stops early; with `throw=False` the reason is in `solution.result` and the outputs end where it stopped.
    Inconsistent starts are then results too, as of solve_dae.
    """
    check_system(system)
    ts = output_times(ts)
    if integrator not in ADAPTIVE:
        raise ValueError(f"integrator {integrator!r} has no adaptive steps here; choose one of {', '.join(ADAPTIVE)}")
    check_settings(None, max_steps, rtol=rtol, start_tol=start_tol)
    parameters = checked_parameters(system, parameters)
    refused = None if throw else {}
    y0, w0 = resolve_start(system, start, float(ts[0]), parameters, start_tol, refused)
    batch = y0.shape[:-1]
    parameters = broadcast_parameters(parameters, batch) or {}
    gaps = find_gaps(system, y0, ts, parameters, start_tol, refused)
    if refused and len(refused) == math.prod(batch):
        return never_begun(system, ts, y0, w0, parameters, refused)
    parameters = {name: stand_in(value, batch, refused) for name, value in parameters.items()}
    y0, w0 = (stand_in(part, batch, refused) for part in (y0, w0))
    atol = torch.as_tensor(absolute_tolerances(system, atol, rtol))
    motion = TorchReduced(
        system.reduce(),
        {name: torch.tensor(value) for name, value in parameters.items()},  # broadcast arrays can't be shared
        floor=atol / rtol,
        guess=torch.as_tensor(w0),
    )
    rows, reason = [], SUCCESS
    counts: dict[str, int] = dict.fromkeys(("n_steps", "n_accepted", "n_rejected", "n_f_evals"), 0)
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    options = {
        "integrator": integrator,
        "rtol": rtol,
        "atol": atol,
        "max_steps": max_steps or max(1_000_000, 20 * ts.size),
    }
    with torch.no_grad():
        states = integrate_on_manifold(
            motion, motion.project, torch.as_tensor(y0), torch.as_tensor(ts), counts=counts, gaps=gaps, **options
        )
        try:
            for t, y in zip(ts, states, strict=True):
                w, found = motion.leading(float(t), y)
                if not bool(found.all()):
                    reason = f"the equations for the highest derivatives could not be solved at t = {t:.9g}"
                    break
                motion.accepted(float(t), y)
                rows.append((y.numpy(), w.numpy()))
                if time.monotonic() > deadline and len(rows) < ts.size:
                    reason = f"gave up after {max_seconds:g} s at t = {t:.9g}"
                    break
        except (IntegrationError, ProjectionError) as error:
            reason = str(error)
    y, w = (np.stack(values, axis=-2) for values in zip(*rows, strict=True))
    w, error = settled(system, y, w, ts[: len(rows)], parameters)
    bad = np.flatnonzero((error > SETTLED).reshape(-1, len(rows)).any(axis=0))
    if bad.size:
        worst = float(error.reshape(-1, len(rows))[:, bad[0]].max())
        reason, rows = unsettled(ts[bad[0]], worst), rows[: max(1, int(bad[0]))]
    n = len(rows)
    y, w = y[..., :n, :], w[..., :n, :]
    stats, result, reached = counts, reason, n
    if batch:
        stats = {name: np.full(batch, value) for name, value in counts.items()}
        result, reached = np.full(batch, reason), np.full(batch, n)
    solution = describe_states(system, ts[:n], y, w, parameters, stats=stats, result=result, n_reached=reached)
    solution = solution.without(refused or {})
    if throw and reason != SUCCESS:
        raise SolveError(f"the solve of {system.name!r} in torch stopped: {reason}", solution)
    return solution


def _smallest(jacobian: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """The smallest δy, in units of the scale, with jacobian (δy / scale) = right; NaN where the rank is lost."""
    rows = 1 / jacobian.square().sum(-1).sqrt()  # equations in units of their own
    jacobian, right = jacobian * rows[..., None], right * rows
    factor, _ = torch.linalg.cholesky_ex(jacobian @ jacobian.mT)
    lam = torch.cholesky_solve(right[..., None], factor)
    return scale * (jacobian.mT @ lam)[..., 0]
