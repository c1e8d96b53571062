"""A problem to learn from a few lines of SymPy: the true forces make the data, and no network is told of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from ndae.experiments.problems.learning import PROJECTION_TOL, LearningProblem
from ndae.experiments.problems.problem import Problem
from ndae.experiments.problems.samples import MotionData, MotionSamples
from ndae.solvers.progress import Progress

if TYPE_CHECKING:
    from ndae.symbolic import Constraint, System

# A guess of coordinates and velocities, (n_coordinates,) each, drawn by the generator.
Start = Callable[[np.random.Generator], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class MotionProblem(LearningProblem):
    """A constrained mechanical system, M v' = F(q, v, t) − Jᵀ λ − Aᵀ μ, whose force F is to be learned.

    - `q`, `v`: symbols of coordinates and velocities, node by node, `dim` a node; in metres. (An angle is one in
      radians: errors then count a radian as a metre.)
    - `mass`: kg, one number or one for each coordinate (kg m² of an angle).
    - `force` (N), one expression a coordinate: what makes the data, and no network is told.
    - `holonomic`: expressions over q and `time` that vanish; `velocity_constraints`: over q, v and `time`, linear in v.
    - `parameters`: symbol -> number, put in everywhere.
    - `start`: draws a guess; the nearest consistent state at t = 0 is where a trajectory begins.
    - A trajectory gives `per_trajectory` samples, `stride` steps of `dt` (s) apart.
    - `edges`: between nodes, for graph networks; without them no network but "mlp" will do. `network`: the default.
    - `size` (m), called `size_of`: of the system, for scale; the tolerances of projections go by it.

    Raises ValueError for sizes that do not fit, and as Constraint and System do when they are first used.
    """

    name: str
    title: str
    q: Sequence[sp.Symbol]
    v: Sequence[sp.Symbol]
    dim: int
    mass: Any
    force: Sequence[sp.Expr]
    start: Start
    size: float
    size_of: str
    holonomic: Sequence[sp.Expr] = ()
    velocity_constraints: Sequence[sp.Expr] = ()
    time: sp.Symbol | None = None
    parameters: Mapping[sp.Symbol, float] = field(default_factory=dict)
    edges: Sequence[tuple[int | None, int]] = ()
    dt: float = 0.01
    longest_step: float = 0.02
    per_trajectory: int = 5
    stride: int = 20
    network: str = "mlp"
    error_is: str = "mean Euclidean error per node"
    violation_is: str = "size of a constraint's residual"
    violation_of: str = "constraints"
    violation_unit: str = "m"
    _masses: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        n = len(self.q)
        if len(self.v) != n or len(self.force) != n or n % self.dim:
            raise ValueError(
                f"{self.name}: {n} coordinates, {len(self.v)} velocities, {len(self.force)} forces: give as many of "
                f"each, {self.dim} a node"
            )
        masses = np.array(np.broadcast_to(self.mass, (n,)), dtype=np.float64).reshape(-1, self.dim)
        one_a_node = (masses == masses[:, :1]).all()
        object.__setattr__(self, "_masses", masses.ravel())
        of_nodes = masses[:, 0] if one_a_node else masses[..., None] * np.eye(self.dim)
        object.__setattr__(self, "mass", of_nodes.tolist())

    @property
    def nodes(self) -> int:
        return len(self.q) // self.dim

    @property
    def projection_tol(self) -> float:
        return self._unit * PROJECTION_TOL

    @property
    def motion_tol(self) -> dict[str, float]:
        return {dtype: self._unit * tol for dtype, tol in LearningProblem.motion_tol.items()}

    @property
    def _unit(self) -> float:
        """What tolerances in metres are multiplied by: 1 of systems from 0.1 to 10 m, less of smaller ones."""
        return self.size / min(max(self.size, 0.1), 10.0)

    # -- what follows from the equations -----------------------------------------------------------------------------

    @cached_property
    def system(self) -> "System":
        """The equations of motion with the true force."""
        from ndae.symbolic import System

        return System.mechanical(
            self.q, self.v, mass=[sp.Float(m) for m in self._masses], force=self._filled(self.force),
            holonomic=self._filled(self.holonomic), velocity_constraints=self._filled(self.velocity_constraints),
            time=self._time_of(self.force, self.holonomic, self.velocity_constraints), name=self.name,
        )  # fmt: skip

    @cached_property
    def constraint(self) -> "Constraint | None":
        """The holonomic constraints over the positions of all nodes."""
        from ndae.symbolic import Constraint

        if not self.holonomic:
            return None
        points = [sp.Matrix(self.q[i : i + self.dim]) for i in range(0, len(self.q), self.dim)]
        expressions = self._filled(self.holonomic)
        used = set().union(*(e.free_symbols for e in expressions))
        slots = [i for i, p in enumerate(points) if not used.isdisjoint(p.flat())]
        made: Any = Constraint.template(
            expressions, [points[i] for i in slots], [slots], n_points=self.nodes, time=self._time_of(self.holonomic),
            name=self.name,
        )  # fmt: skip
        return made

    @cached_property
    def velocity_constraint(self) -> "Constraint | None":
        """The velocity constraints over all coordinates before all velocities."""
        from ndae.symbolic import Constraint

        if not self.velocity_constraints:
            return None
        expressions, states = self._filled(self.velocity_constraints), [*self.q, *self.v]
        used = set().union(*(e.free_symbols for e in expressions))
        return Constraint(
            expressions, states, time=self._time_of(expressions), name=self.name,
            unconstrained=[s for s in states if s not in used],
        )  # fmt: skip

    @property
    def true_force(self) -> list[sp.Expr]:
        """The true force, an expression over q, v and time for each coordinate, in newtons."""
        return self._filled(self.force)

    def _filled(self, expressions: Sequence[sp.Expr]) -> list[sp.Expr]:
        values: Any = self.parameters
        return [sp.sympify(e).subs(values) for e in expressions]

    def _time_of(self, *lists: Sequence[sp.Expr]) -> sp.Symbol | None:
        used = set().union(*(sp.sympify(e).free_symbols for expressions in lists for e in expressions))
        return self.time if self.time in used else None

    def to_solve(self) -> Problem:
        """The true motion from a start that none of the samples is from, as long as theirs."""
        from ndae.experiments.problems.trajectories import starts

        q, v = starts(self, 1, seed=0, part=3)
        initial = {s.name: float(x) for s, x in zip([*self.q, *self.v], [*q[0], *v[0]], strict=True)}
        return Problem(
            self.name, self.system, initial, (0.0, self.per_trajectory * self.stride * self.dt), title=self.title
        )

    # -- data --------------------------------------------------------------------------------------------------------

    def data(
        self, n_train: int, horizon: int, seed: int, *, n_val: int, n_test: int, report: Progress | None = None
    ) -> MotionData:
        """Samples whose parts come from trajectories of their own: none of a training trajectory is in a test."""
        from ndae.experiments.problems.trajectories import split

        if report:
            report(0.0, "the motion that the samples are from")
        return MotionData(*split(self, (n_train, n_val, n_test), horizon, seed), horizon=horizon)

    def baselines(self, data: MotionData) -> dict[str, dict[str, float]]:
        from ndae.experiments.problems.trajectories import baselines

        return baselines(self, data)

    def conditions(self, samples: MotionSamples) -> dict[str, np.ndarray]:
        return {"t0": samples.t0} if self.needs_time else {}
