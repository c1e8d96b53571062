"""The multiplier neural DAE of second order (eq. 6): constrained motion whose forces are learned; depth is time."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae._types import Features, Output
from ndae.forces.masses import Mass, Masses
from ndae.forces.networks import SumForce, check_masses, force_at
from ndae.manifold import Manifold
from ndae.methods import Method, SmoothProjection, Unconstrained
from ndae.models.motion_arguments import VERLET, check_choices, check_force, check_numbers, motion_sizes
from ndae.models.prediction import Prediction
from ndae.models.starts import check_starts
from ndae.solvers import Projection, integrate, project
from ndae.solvers.depth.classical_rk4 import classical_rk4_step
from ndae.solvers.depth.integrate import ADAPTIVE
from ndae.solvers.depth.velocity_verlet import velocity_verlet_step
from ndae.solvers.manifold.multipliers import check_settled
from ndae.solvers.manifold.velocity_constraints import (
    joint_acceleration,
    joint_acceleration_error,
    joint_tangent_velocity,
)
from ndae.solvers.tensors import check_finite, compiled, of_states
from ndae.symbolic.backends._runtime_torch import TorchFunction
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.users_code.captured import captured

# A force (batch, nodes, dim) from the time and the state (batch, nodes, 2 dim), positions before velocities.
Force = Callable[[Any, Features], Output]
# A number a sample, (batch,); the shape is checked with a message of our own.
PerSample = Tensor | Sequence[float]


@dataclass(frozen=True)
class Motion:
    """A motion at `n_times` times: positions and velocities of the nodes, and the multipliers.

    A multiplier is the force of its constraint in the direction of the constraint's gradient; of a distance, the
    tension. Those of velocity constraints come last. `multiplier_error` is how well they solve their equations, as a
    share of what is added up there. `regularisation` and `projections` are as in Prediction.
    """

    q: Float[Tensor, "batch n_times nodes dim"]
    v: Float[Tensor, "batch n_times nodes dim"]
    multiplier: Float[Tensor, "batch n_times n_multipliers"]
    multiplier_error: Float[Tensor, "batch n_times"]
    regularisation: Tensor
    projections: tuple[Projection, ...]


@keeps_arguments
class NeuralMotion(nn.Module):
    """`q' = v`, `M v' = F(t, q, v) − J(q)ᵀ λ`, `c(q) = 0`, with `λ` solved for at every stage: only `F` is learned.

    The index-1 form, `(J M⁻¹ Jᵀ) λ = J M⁻¹ F + curvature + 2 α ċ + α² c` (see ndae.solvers.manifold.multipliers). What
    keeps `c` from drifting off is `method`, which acts on positions as it does on latent states (`SmoothProjection`,
    the default, after every step, with velocities projected onto `J v = 0` behind it; `EndProjection`; `Penalty`, added
    to `q'`; `Multiplier`, the form of Gear, Gupta and Leimkuhler; `Auxiliary`; sums of these; `Unconstrained` for
    nothing), and `baumgarte`, the rate α.

    - `constraint`: over the positions of all nodes, symbolic or compiled; the parameters that it learns,
      `constraint.torch(learn=[...])`, are trained too. None where there are velocity constraints alone, with one node
      of all coordinates.
    - `force`: a module or function `F(t, y)`, from the state `y` `(batch, nodes, 2 dim)` to `(batch, nodes, dim)`, or
      several, whose sum acts: those that are known, and those to be learned. `t` (s) is a number or one a sample.
    - `duration` (s): how far ahead `forward` predicts, in `n_steps` equal steps of `integrator`; an adaptive one
      chooses steps of its own between their ends; "velocity_verlet", for motions without multipliers under forces of
      positions, has one evaluation a step and keeps energy. `n_times` > 1 predicts at as many times, evenly up to
      `duration`.
      `adjoint=True` for gradients by the adjoint equation.
    - `mass` (kg): one number, one for each node, or a block (dim, dim) for each. `learn_mass=True` takes it as the
      start of masses that are trained; they stay positive (definite). With a mask (nodes,), or numbers of nodes, these
      alone are trained. Forces and masses are known up to a common factor alone, and nothing else tells masses under
      weight alone. The weight of a SystemForce is of the learned masses.
    - `velocity_constraints`: one over `[*q, *v]`, the residual `A(q, t) v + b(q, t)`, linear in v: rolling, say.
    - `multipliers=False`: no λ, forces alone act (`M v' = F`), such as those of a SoftConstraint; of constraints only
      the residuals are reported, starts may be anywhere, and `method` is Unconstrained unless it is given.
    - `starts`: "check" refuses starts off the manifold by more than `start_tol` (in the constraint's unit, and that
      per second for velocities), in `check` and `trajectory`; "project" moves them to the nearest point, as is right
      for measured ones; "given" takes them as they are.

    States may be arrays or lists, which become tensors in the precision and on the device of the parameters. In
    predictions a sample that is not finite gives one that is not, and touches no other; `check` and `trajectory` refuse
    it. Raises ValueError for values that no motion can have.
    """

    constraint: TorchFunction | None
    velocity_constraints: TorchFunction | None
    method: Method

    def __init__(
        self,
        constraint: Any,
        force: Any,
        *,
        duration: float,
        n_steps: int = 8,
        n_times: int = 1,
        mass: Any = 1.0,
        learn_mass: Any = False,
        velocity_constraints: Any = None,
        multipliers: bool = True,
        method: Method | None = None,
        baumgarte: float = 0.0,
        starts: str = "check",
        start_tol: float = 1e-4,
        integrator: str = "classical_rk4",
        adjoint: bool = False,
        rtol: float = 1e-7,
        atol: float = 1e-9,
    ):
        super().__init__()
        check_numbers(duration, n_steps, n_times, baumgarte, starts, start_tol)
        if method is None:
            method = SmoothProjection(tol=None) if multipliers else Unconstrained()
        check_choices(multipliers, method, float(baumgarte), integrator, adjoint)
        constraint = None if constraint is None else compiled(constraint)
        if velocity_constraints is not None:
            velocity_constraints = compiled(velocity_constraints, "velocity_constraints")
        check_force(force)
        self.nodes, self.dim = motion_sizes(constraint, velocity_constraints, method)
        self.features = 2 * self.dim
        self.constraint, self.velocity_constraints, self.method = constraint, velocity_constraints, method
        self.multipliers = multipliers
        self.force = SumForce(force) if isinstance(force, Sequence) else force
        self.captured = captured(self.force, method)
        self.masses = Masses(mass, self.nodes, self.dim, learn_mass)
        check_masses(self.force, self.captured, self.masses)
        self.duration, self.n_steps, self.n_times = float(duration), n_steps, n_times
        self.baumgarte, self.starts, self.start_tol = float(baumgarte), starts, float(start_tol)
        self.integrator, self.adjoint, self.rtol, self.atol = integrator, adjoint, rtol, atol

    @property
    def mass(self) -> Mass:
        """The mass of every node, in kg, as given or as learned so far."""
        return self.masses.value

    @property
    def _told_mass(self) -> Mass | None:
        """What a force that depends on masses is told: the learned ones."""
        return self.mass if self.masses.raw is not None and getattr(self.force, "takes_mass", False) else None

    @of_states
    def forward(self, x: Features) -> Float[Tensor, "*batch_and_times nodes dim"]:
        """Positions `(batch, nodes, dim)` after `duration`, or `(batch, n_times, nodes, dim)`, from positions and
        velocities `(batch, nodes, 2 dim)`."""
        return self.predict(x).y

    @of_states
    def predict(self, x: Features, *, t0: PerSample | None = None, duration: PerSample | None = None) -> Prediction:
        """The prediction with the method's loss term and the projections' outcomes.

        `t0` (s, 0 if left out) and `duration` (s) may differ from sample to sample, `(batch,)`; every sample takes
        `n_steps` steps of its own length, so that none depends on its neighbours. With `n_times` > 1, `y` is
        `(batch, n_times, nodes, dim)`.
        """
        manifold, path = self._path(x, t0, duration)
        q = path[-1][0]
        positions = q if self.n_times == 1 else torch.stack([q for q, *_ in path], -3)
        term = self.method.regularisation(manifold)

        def residual() -> Tensor:
            return torch.cat([self._residual(*state) for state in path], -1)

        return Prediction(positions, q.new_zeros(()) if term is None else term, tuple(manifold.projections), residual)

    @of_states
    def states(
        self, x: Features, *, t0: PerSample | None = None, duration: PerSample | None = None
    ) -> Float[Tensor, "batch n_times nodes features"]:
        """Positions and velocities at the `n_times` times of `predict`."""
        return torch.stack([torch.cat([q, v], -1) for q, v, _ in self._path(x, t0, duration)[1]], -3)

    @of_states
    def trajectory(self, x: Features, ts: Any, *, throw: bool = True) -> Motion:
        """The motion at the times `ts` (s), which increase from the start at `ts[0]`; steps are `duration / n_steps`
        long or shorter, and end on them. Raises ValueError for other times, and as `check` for starts; and SolveError
        where multipliers do not solve their equations, unless `throw=False`: `multiplier_error` then says where."""
        self._split(x)
        check_finite(x, "x")
        ts = [float(t) for t in ts]
        if len(ts) < 2 or not all(a < b for a, b in itertools.pairwise(ts)):
            raise ValueError("ts are the start and at least one more time, increasing")
        if self.multipliers and self.starts == "check":
            self.check(x, t0=torch.full(x.shape[:-2], ts[0], dtype=x.dtype, device=x.device))
        manifold = self._manifold(x)
        states = [self._start(x, ts[0])]
        longest = self.duration / self.n_steps
        for t0, t1 in itertools.pairwise(ts):
            n_steps = math.ceil((t1 - t0) / longest * (1 - 1e-9))
            q, v = states[-1]
            states.append(self._advance(q, v, t0, t1 - t0, n_steps, manifold, is_last=t1 == ts[-1]))
        solved = [self.solved_multiplier(torch.cat(state, -1), t) for t, state in zip(ts, states, strict=True)]
        multiplier, error = (torch.stack(parts, 1) for parts in zip(*solved, strict=True))
        term = self.method.regularisation(manifold)
        q, v = (torch.stack(parts, 1) for parts in zip(*states, strict=True))
        if throw:
            check_settled(error, q.flatten(-2), v.flatten(-2), "the motion (sample, time)")
        return Motion(
            q,
            v,
            multiplier,
            error,
            q.new_zeros(()) if term is None else term,
            tuple(manifold.projections),
        )

    @of_states
    def multiplier(self, x: Features, t: float | Tensor | None = None) -> Float[Tensor, "batch n_multipliers"]:
        """λ at states `(batch, nodes, 2 dim)`; none, `(batch, 0)`, where the motion has no multipliers.

        Raises SolveError where it does not solve its equations."""
        lam, error = self.solved_multiplier(x, t)
        q, v = (part.flatten(-2) for part in self._split(x))
        check_settled(error, q, v, "the motion")
        return lam

    @of_states
    def solved_multiplier(
        self, x: Features, t: float | Tensor | None = None
    ) -> tuple[Float[Tensor, "batch n_multipliers"], Float[Tensor, " batch"]]:
        """λ of `multiplier`, and how well it solves its equations, as a share of what is added up there."""
        q, v = (part.flatten(-2) for part in self._split(x))
        inverse_mass = self.masses.inverse(q)
        free = self._free(t, q, v, inverse_mass)
        lam, a = self._constrained(t, q, v, free, inverse_mass)
        if not self.multipliers:
            return lam, lam.new_zeros(lam.shape[:-1])
        with torch.no_grad():
            error = joint_acceleration_error(
                self.constraint, self.velocity_constraints, q, v, free, lam, a, inverse_mass, alpha=self.baumgarte, t=t
            )
        return lam, error

    @of_states
    def energy(self, x: Features) -> Float[Tensor, " batch"]:
        """`½ vᵀ M v + V(q)` (J) at states `(batch, nodes, 2 dim)`, V of the forces that have a potential.

        Raises ValueError if none has.
        """
        q, v = self._split(x)
        forces = self.force.parts if isinstance(self.force, SumForce) else [self.force]
        told = {} if self._told_mass is None else {"mass": self._told_mass}
        potentials = [
            force.energy(q, **(told if getattr(force, "takes_mass", False) else {}))
            for force in forces
            if hasattr(force, "energy")
        ]
        if not potentials:
            raise ValueError("none of the forces has a potential, so that there is no energy: give a PotentialForce")
        mass = self.mass.to(v)
        return (_by_node(mass, v) * v).sum((-2, -1)) / 2 + sum(potentials)

    @of_states
    def check(self, x: Features, *, t0: PerSample | None = None, **unused: Any) -> None:
        """Raise ValueError where a start is not finite or the constraints are redundant there, and, with
        `starts="check"`, where a start is off the manifold or its velocity not tangent to it; the sample and the
        residual are named. `fit` calls it."""
        q, v = (part.flatten(-2) for part in self._split(x))
        check_finite(x, "x")
        if not self.multipliers:
            return
        t0 = None if t0 is None else self._per_sample("t0", t0, x)
        tolerance = self.start_tol if self.starts == "check" else None
        with torch.no_grad():
            check_starts(self.constraint, self.velocity_constraints, q, v, t0, tolerance)

    def _path(self, x: Tensor, t0: Any, duration: Any) -> tuple[Manifold, list[tuple]]:
        """The manifold with what was recorded on the way, and (q, v, t) at each of the `n_times` times."""
        start = 0.0 if t0 is None else self._per_sample("t0", t0, x)
        span = self.duration if duration is None else self._per_sample("duration", duration, x)
        manifold, part, path = self._manifold(x), 1 / self.n_times, []
        q, v = self._start(x, start)
        for k in range(self.n_times):
            t = start + k * part * span
            q, v = self._advance(q, v, t, part * span, self.n_steps // self.n_times, manifold, is_last=True)
            path.append((q, v, start + (k + 1) * part * span))
        return manifold, path

    def _start(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        q, v = self._split(x)
        if self.starts != "project":
            return q, v
        # Nearest as measured, not in the metric of the masses: noise knows nothing of these.
        if self.constraint is not None:
            tol = self.method.tol if isinstance(self.method, SmoothProjection) else None
            q = project(self.constraint, q.flatten(-2), t=t, tol=tol).y.unflatten(-1, (-1, self.dim))
        return q, self._tangent(q.flatten(-2), v.flatten(-2), None, t).unflatten(-1, (-1, self.dim))

    def _advance(self, q, v, t0, span, n_steps: int, manifold: Manifold, is_last: bool):
        """Positions and velocities (batch, nodes, dim) `span` later, in equal steps with the method's work after each.

        `t0` and `span` are numbers, or tensors of one number a sample, of which depth is then the share s in [0, 1].
        """
        shared = not isinstance(t0, Tensor) and not isinstance(span, Tensor)
        scale = span.unsqueeze(-1) if isinstance(span, Tensor) else span
        begin: Any = t0 if shared else 0.0
        h: Any = (span if shared else 1.0) / n_steps
        # The adjoint equation knows the parameters that the field itself uses, and no others.
        inside = self.adjoint and self.masses.raw is not None
        inverse_mass = None if inside else self.masses.inverse(q)

        def clock(s: Any) -> Any:
            return s if shared else t0 + s * span

        def field(s: Any, y: Tensor) -> Tensor:
            t = manifold.time = clock(s)
            nodes, moved = self._nodes(y)
            metric = self.masses.inverse(y) if inside else inverse_mass
            q, v = y.chunk(2, -1)
            _, a = self._dynamics(t, q, v, metric)
            moved = moved if self.constraint is None else self.method.field(moved, nodes, manifold)
            rate = torch.cat([moved.flatten(-2), a], -1)
            return rate if shared else scale * rate

        def acceleration(s: Any, y: Tensor) -> Tensor:
            return field(s, y).chunk(2, -1)[1]

        y, a = torch.cat([q.flatten(-2), v.flatten(-2)], -1), None
        for step in range(n_steps):
            if self.integrator == VERLET:
                y, a = velocity_verlet_step(acceleration, begin + step * h, y, h, a)
            else:
                y = self._step(field, y, begin + step * h, h)
            ends = is_last and step == n_steps - 1
            manifold.time = clock(begin + (step + 1) * h)
            y = self._held(y, manifold, ends, inverse_mass)
        return self._nodes(y)

    def _step(self, field: Callable[[Any, Tensor], Tensor], y: Tensor, t: float, h: float) -> Tensor:
        if self.integrator == "classical_rk4" and not self.adjoint:
            return classical_rk4_step(field, t, y, h)
        options: dict[str, Any] = {"integrator": self.integrator, "rtol": self.rtol, "atol": self.atol}
        if self.adjoint:
            options |= {"adjoint": True, "adjoint_parameters": [p for p in self.parameters() if p.requires_grad]}
        ts = torch.tensor([t, t + h], dtype=y.dtype, device=y.device)
        return integrate(field, y, ts, throw=self.integrator in ADAPTIVE, **options)[..., -1, :]

    def _held(self, y: Tensor, manifold: Manifold, ends: bool, inverse_mass: Mass | None) -> Tensor:
        """The state after the method's work at the end of a step; where that moves positions, velocities are made
        tangent there."""
        q, v = y.chunk(2, -1)
        moves = self.method.projects_layers
        if self.constraint is not None:
            nodes = before = self._nodes(y)[0]
            if self.method.projects_layers or ends:
                manifold.record(nodes)
            nodes = self.method.after_layer(nodes, manifold)
            if ends:
                nodes = self.method.after_last(nodes, manifold)
            q, moves = nodes.flatten(-2), nodes is not before
        if not moves:
            return y
        if self.masses.raw is not None:
            inverse_mass = self.masses.inverse(q)
        return torch.cat([q, self._tangent(q, v, inverse_mass, manifold.time)], -1)

    def _tangent(self, q: Tensor, v: Tensor, inverse_mass: Mass | None, t: Any) -> Tensor:
        return joint_tangent_velocity(self.constraint, self.velocity_constraints, q, v, inverse_mass, t=t)

    def _dynamics(self, t: Any, q: Tensor, v: Tensor, inverse_mass: Mass | None) -> tuple[Tensor, Tensor]:
        """λ and v' at flat states (batch, n_states)."""
        return self._constrained(t, q, v, self._free(t, q, v, inverse_mass), inverse_mass)

    def _free(self, t: Any, q: Tensor, v: Tensor, inverse_mass: Mass | None) -> Tensor:
        """M⁻¹ F at flat states."""
        nodes = [part.unflatten(-1, (-1, self.dim)) for part in (q, v)]
        force = force_at(self.force, t, torch.cat(nodes, -1), self._told_mass)
        if force.shape != nodes[0].shape:
            raise ValueError(f"the force has shape {tuple(force.shape)}, expected {tuple(nodes[0].shape)}")
        if inverse_mass is not None:
            force = _by_node(inverse_mass, force)
        return force.flatten(-2)

    def _constrained(self, t: Any, q: Tensor, v: Tensor, free: Tensor, inverse_mass: Mass | None) -> tuple:
        """λ and v' where M⁻¹ F is known."""
        if not self.multipliers:
            return free.new_zeros((*free.shape[:-1], 0)), free
        options = {"alpha": self.baumgarte, "t": t}
        return joint_acceleration(self.constraint, self.velocity_constraints, q, v, free, inverse_mass, **options)

    def _residual(self, q: Tensor, v: Tensor, t: Any) -> Tensor:
        """All residuals of a state: of positions, then of velocity constraints."""
        q, v = q.flatten(-2), v.flatten(-2)
        at_position = [] if self.constraint is None else [self.constraint.residual(q, t)]
        along = self.velocity_constraints
        return torch.cat(at_position + ([] if along is None else [along.residual(torch.cat([q, v], -1), t)]), -1)

    def _manifold(self, x: Tensor) -> Manifold:
        return Manifold(self.constraint, torch.eye(self.dim, dtype=x.dtype, device=x.device), orthonormal=True)

    def _nodes(self, y: Tensor) -> tuple[Tensor, Tensor]:
        q, v = (part.unflatten(-1, (-1, self.dim)) for part in y.chunk(2, -1))
        return q, v

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[-2:] != (self.nodes, self.features):
            raise ValueError(
                f"the state is (batch, {self.nodes}, {self.features}), positions before velocities of every node, "
                f"not {tuple(x.shape)}"
            )
        return x[..., : self.dim], x[..., self.dim :]

    def _per_sample(self, name: str, value: Any, x: Tensor) -> Tensor:
        value = torch.as_tensor(value, dtype=x.dtype, device=x.device)
        if value.shape != x.shape[:-2]:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(x.shape[:-2])}: one a sample")
        if name == "duration" and not bool((value > 0).all()):
            raise ValueError(f"duration of sample {int((~(value > 0)).nonzero()[0, 0])} is not positive: give seconds")
        return value


def _by_node(mass: Mass, nodes: Tensor) -> Tensor:
    """Masses, or their inverses, times what the nodes have, (batch, nodes, dim)."""
    return mass[:, None] * nodes if mass.ndim == 1 else (mass * nodes.unsqueeze(-2)).sum(-1)
