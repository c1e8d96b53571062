"""The true motion of a problem, as `ndae validate` needs it: equations in torch, a reference solution, violations."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ndae.experiments.problems.mechanics import MotionProblem
from ndae.solvers.manifold.gram import apply_metric
from ndae.solvers.manifold.multipliers import check_settled
from ndae.solvers.manifold.velocity_constraints import joint_acceleration, joint_acceleration_error
from ndae.solvers.mechanics.motion_torch import TorchMotion
from ndae.symbolic import Function

if TYPE_CHECKING:
    from ndae.symbolic import System


class ProblemMotion(torch.nn.Module):
    """M v' = F(q, v, t) − Jᵀ λ − Aᵀ μ of a MotionProblem in torch, solved for v' with its true force.

    What TorchMotion is for a System of points: states are (..., n_states), times a number or one a sample.
    """

    def __init__(self, problem: MotionProblem) -> None:
        super().__init__()
        self.name, self.n_states = problem.name, len(problem.q)
        constraints = problem.constraint, problem.velocity_constraint
        self.constraint, self.along = (c if c is None else c.torch() for c in constraints)
        self._force = _Force(problem)
        mass = torch.as_tensor(problem.mass, dtype=torch.float64)
        self._inverse_mass = 1 / mass if mass.ndim == 1 else torch.linalg.inv(mass)

    @property
    def needs_time(self) -> bool:
        """Whether any of the equations depends on time."""
        return any(part is not None and part.needs_time for part in (self.constraint, self.along, self._force))

    def forward(self, t: Any, y: Tensor) -> Tensor:
        """The derivative (v, a) of y = (q, v), side by side on the last axis."""
        q, v = y.chunk(2, -1)
        return torch.cat([v, self.acceleration(q, v, t)], -1)

    def force(self, q: Tensor, v: Tensor, t: Any = None) -> Tensor:
        """The true force, in newtons."""
        return self._force(q, v, t)

    def acceleration(self, q: Tensor, v: Tensor, t: Any = None) -> Tensor:
        """v' = M⁻¹ (F − Jᵀ λ − Aᵀ μ), in m/s²."""
        return self._solve(q, v, t)[2]

    def multiplier(self, q: Tensor, v: Tensor, t: Any = None) -> Tensor:
        """λ, then μ; raises SolveError where they do not solve their equations."""
        solved, metric = self._solve(q, v, t), self._inverse_mass.to(q)
        error = joint_acceleration_error(self.constraint, self.along, q, v, *solved, metric, t=t)
        check_settled(error, q, v, self.name)
        return solved[1]

    def _solve(self, q: Tensor, v: Tensor, t: Any) -> tuple[Tensor, Tensor, Tensor]:
        """M⁻¹ F, all multipliers, and v'."""
        metric = self._inverse_mass.to(q)
        if self.along is None:
            free = apply_metric(self.constraint, metric, self.force(q, v, t))
        else:
            blocks = metric if metric.ndim == 3 else metric.repeat_interleave(q.shape[-1] // len(metric))
            free = self.force(q, v, t) @ torch.block_diag(*blocks)
        return free, *joint_acceleration(self.constraint, self.along, q, v, free, metric, t=t)


class _Force(torch.nn.Module):
    """The true force of a MotionProblem: entries that are mere numbers, and a generated function of the others."""

    def __init__(self, problem: MotionProblem) -> None:
        super().__init__()
        entries = problem.true_force
        states: list[Any] = [*problem.q, *problem.v]
        self._varying = [i for i, e in enumerate(entries) if e.free_symbols]
        used = set().union(*(e.free_symbols for e in entries))
        self.needs_time = problem.time is not None and problem.time in used
        self._constant = torch.tensor([0.0 if e.free_symbols else float(e) for e in entries], dtype=torch.float64)
        if self._varying:
            # Time is a state like others here: an entry may depend on it alone.
            states += [problem.time] * self.needs_time
            free = [s for s in states if s not in used]
            self._function = Function([entries[i] for i in self._varying], states, unconstrained=free).torch()

    def forward(self, q: Tensor, v: Tensor, t: Any) -> Tensor:
        force = self._constant.to(q).expand_as(q)
        if not self._varying:
            return force
        time = [torch.as_tensor(t).to(q).expand(q.shape[:-1]).unsqueeze(-1)] if self.needs_time else []
        own = self._function.residual(torch.cat([q, v, *time], -1))
        return force.index_copy(-1, torch.tensor(self._varying, device=q.device), own)


class Truth(ABC):
    """A system and what is true of it; `motion` are its equations in torch, `dim` the coordinates of a point."""

    motion: Any
    dim: int

    @abstractmethod
    def solve(self, q: np.ndarray, v: np.ndarray, ts: np.ndarray, tolerance: float) -> tuple:
        """The reference at the times `ts` (s) from starts (n, n_states): coordinates and velocities
        (n, n_times, n_states), and the energy (n, n_times) in J, None where there is no such thing."""

    @abstractmethod
    def violations(self, q: Tensor, v: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Residuals of states (..., n_states) at times (...): "position" and "velocity", those that there are."""


class _Mechanical(Truth):
    def __init__(self, system: "System") -> None:
        self._system, self.motion = system, TorchMotion(system)
        self.dim = self.motion.constraint.dim

    def solve(self, q, v, ts, tolerance):
        from ndae.solvers import solve

        found = solve(self._system, {"q": q, "v": v}, ts, rtol=tolerance, atol=tolerance)
        return found.q, found.v, found.energy

    def violations(self, q, v, t):
        constraint = self.motion.constraint
        return {"position": constraint.residual(q, t), "velocity": constraint.velocity(q, v, t)}


class _Problem(Truth):
    def __init__(self, problem: MotionProblem) -> None:
        self._problem, self.motion, self.dim = problem, ProblemMotion(problem), problem.dim

    def solve(self, q, v, ts, tolerance):
        from ndae.experiments.problems.trajectories import trajectories

        return *trajectories(self._problem, q, v, ts, rtol=tolerance), None

    def violations(self, q, v, t):
        constraint, along = self.motion.constraint, self.motion.along
        found: dict[str, Any] = {}
        if constraint is not None:
            found = {"position": constraint.residual(q, t), "velocity": constraint.velocity(q, v, t)}
        if along is not None:
            across = along.residual(torch.cat([q, v], -1), t)
            found["velocity"] = torch.cat([found["velocity"], across], -1) if found else across
        return found


def truth_of(system: Any) -> Truth:
    """Of a System of points or of a MotionProblem."""
    return _Problem(system) if isinstance(system, MotionProblem) else _Mechanical(system)
