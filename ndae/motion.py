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
from ndae.methods import Manifold, Method, SmoothProjection
from ndae.neural_dae import Prediction
from solvers import Projection, integrate
from solvers.classical_rk4 import classical_rk4_step
from solvers.integration import ADAPTIVE
from solvers.linear import apply_metric
from solvers.multipliers import constrained_acceleration, tangent_velocity

# A force (batch, nodes, dim) from the time and the state (batch, nodes, 2 dim), positions before velocities.
Force = Callable[[Any, Features], Output]


@dataclass(frozen=True)
class Motion:
    """A motion at `n_times` times: positions and velocities of the nodes, and the multipliers.

    A multiplier is the force of its constraint in the direction of the constraint's gradient; of a distance, the
    tension. `regularisation` and `projections` are as in Prediction.
    """

    q: Float[Tensor, "batch n_times nodes dim"]
    v: Float[Tensor, "batch n_times nodes dim"]
    multiplier: Float[Tensor, "batch n_times n_residuals"]
    regularisation: Tensor
    projections: tuple[Projection, ...]


class NeuralMotion(nn.Module):
    """`q' = v`, `M v' = F(t, q, v) − J(q)ᵀ λ`, `c(q) = 0`, with `λ` solved for at every stage: only `F` is learned.

    The index-1 form, `(J M⁻¹ Jᵀ) λ = J M⁻¹ F + curvature + 2 α ċ + α² c` (see solvers.multipliers). What keeps `c` from
    drifting off is `method`, which acts on positions as it does on latent states (`SmoothProjection`, the default,
    after every step, with velocities projected onto `J v = 0` behind it; `EndProjection`; `Penalty`, added to `q'`;
    `Multiplier`, the form of Gear, Gupta and Leimkuhler; `Auxiliary`; sums of these; `Unconstrained` for nothing), and
    `baumgarte`, the rate α.

    - `constraint`: a compiled torch constraint over the positions of all nodes; its learned parameters are trained too.
    - `force`: a module or function `F(t, y)`, from the state `y` `(batch, nodes, 2 dim)` to `(batch, nodes, dim)`.
    - `duration` (s): how far ahead `forward` predicts, in `n_steps` equal steps of `integrator`; an adaptive one
      chooses steps of its own between their ends. `adjoint=True` for gradients by the adjoint equation.
    - `mass` (kg): one number, or one for each node. `learn_mass=True` takes it as the start of masses that are trained;
      they stay positive. Forces and masses are known up to a common factor alone.

    Raises ValueError for values that no motion can have.
    """

    def __init__(
        self,
        constraint: nn.Module,
        force: Force,
        *,
        duration: float,
        n_steps: int = 8,
        mass: float | Sequence[float] = 1.0,
        learn_mass: bool = False,
        method: Method | None = None,
        baumgarte: float = 0.0,
        integrator: str = "classical_rk4",
        adjoint: bool = False,
        rtol: float = 1e-7,
        atol: float = 1e-9,
    ):
        super().__init__()
        if not (math.isfinite(duration) and duration > 0):
            raise ValueError(f"duration is a time in seconds, positive and finite, not {duration!r}")
        if isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1:
            raise ValueError(f"n_steps is a whole number of at least 1, not {n_steps!r}")
        if not (math.isfinite(baumgarte) and baumgarte >= 0):
            raise ValueError(f"baumgarte is a rate in 1/s, not negative, not {baumgarte!r}")
        masses = torch.as_tensor(mass, dtype=torch.float64)
        if masses.ndim > 1 or not bool((masses > 0).all() & masses.isfinite().all()):
            raise ValueError(f"mass={mass!r}: masses are positive, one number or one for each node, in kg")
        if masses.ndim and len(masses) != constraint.n_points:
            raise ValueError(f"{len(masses)} masses for {constraint.n_points} nodes: give one number, or one for each")
        self.constraint, self.force = constraint, force
        self.method = SmoothProjection(tol=1e-6) if method is None else method
        self.duration, self.n_steps, self.baumgarte = float(duration), n_steps, float(baumgarte)
        self.dim, self.features = constraint.dim, 2 * constraint.dim
        self.integrator, self.adjoint, self.rtol, self.atol = integrator, adjoint, rtol, atol
        masses = masses.expand(constraint.n_points)
        self._mass = masses.clone()  # float64, cast to what the state has
        self.log_mass = nn.Parameter(masses.log().to(torch.get_default_dtype())) if learn_mass else None

    @property
    def mass(self) -> Float[Tensor, " nodes"]:
        """The mass of every node, in kg, as given or as learned so far."""
        return self._mass if self.log_mass is None else self.log_mass.exp()

    def _inverse_mass(self, like: Tensor) -> Float[Tensor, " nodes"]:
        return (1 / self.mass).to(like)

    def forward(self, x: Features) -> Output:
        """Positions `(batch, nodes, dim)` after `duration`, from positions and velocities `(batch, nodes, 2 dim)`."""
        return self.predict(x).y

    def predict(self, x: Features) -> Prediction:
        """The prediction with the method's loss term and the projections' outcomes."""
        manifold = self._manifold(x)
        q, _ = self._advance(*self._split(x), 0.0, self.duration, self.n_steps, manifold, is_last=True)
        term = self.method.regularisation(manifold)
        return Prediction(q, q.new_zeros(()) if term is None else term, tuple(manifold.projections))

    def trajectory(self, x: Features, ts: Any) -> Motion:
        """The motion at the times `ts` (s), which increase from the start at `ts[0]`; steps are `duration / n_steps`
        long or shorter, and end on them. Raises ValueError for other times."""
        ts = [float(t) for t in ts]
        if len(ts) < 2 or not all(a < b for a, b in itertools.pairwise(ts)):
            raise ValueError("ts are the start and at least one more time, increasing")
        manifold = self._manifold(x)
        states = [self._split(x)]
        longest = self.duration / self.n_steps
        for t0, t1 in itertools.pairwise(ts):
            n_steps = math.ceil((t1 - t0) / longest * (1 - 1e-9))
            states.append(self._advance(*states[-1], t0, t1, n_steps, manifold, is_last=t1 == ts[-1]))
        multiplier = [self.multiplier(torch.cat(state, -1), t) for t, state in zip(ts, states, strict=True)]
        term = self.method.regularisation(manifold)
        q, v = (torch.stack(parts, 1) for parts in zip(*states, strict=True))
        return Motion(
            q,
            v,
            torch.stack(multiplier, 1),
            q.new_zeros(()) if term is None else term,
            tuple(manifold.projections),
        )

    def multiplier(self, x: Features, t: float | Tensor | None = None) -> Float[Tensor, "batch n_residuals"]:
        """λ at states `(batch, nodes, 2 dim)`."""
        q, v = self._split(x)
        return self._dynamics(t, q.flatten(-2), v.flatten(-2))[0]

    def _advance(self, q, v, t0: float, t1: float, n_steps: int, manifold: Manifold, is_last: bool):
        """Positions and velocities (batch, nodes, dim) at t1, in equal steps with the method's work after each."""
        h = (t1 - t0) / n_steps

        def field(t: Any, y: Tensor) -> Tensor:
            q, v = self._nodes(y)
            _, a = self._dynamics(t, *y.chunk(2, -1))
            return torch.cat([self.method.field(v, q, manifold).flatten(-2), a], -1)

        y = torch.cat([q.flatten(-2), v.flatten(-2)], -1)
        for step in range(n_steps):
            y = self._step(field, y, t0 + step * h, h)
            ends = is_last and step == n_steps - 1
            if self.method.projects_layers or ends:
                manifold.unprojected.append(self._nodes(y)[0])
            y = self._held(y, t0 + (step + 1) * h, manifold, self.method.after_layer)
            if ends:
                y = self._held(y, t1, manifold, self.method.after_last)
        return self._nodes(y)

    def _step(self, field: Callable[[Any, Tensor], Tensor], y: Tensor, t: float, h: float) -> Tensor:
        if self.integrator == "classical_rk4" and not self.adjoint:
            return classical_rk4_step(field, t, y, h)
        options: dict[str, Any] = {"method": self.integrator, "rtol": self.rtol, "atol": self.atol}
        if self.adjoint:
            options |= {"adjoint": True, "adjoint_parameters": [p for p in self.parameters() if p.requires_grad]}
        ts = torch.tensor([t, t + h], dtype=y.dtype, device=y.device)
        return integrate(field, y, ts, throw=self.integrator in ADAPTIVE, **options)[..., -1, :]

    def _held(self, y: Tensor, t: float, manifold: Manifold, hook: Callable) -> Tensor:
        """The state after a hook of the method; where that moved the positions, velocities are made tangent there."""
        q, _ = self._nodes(y)
        moved = hook(q, manifold)
        if moved is q:
            return y
        q, v = moved.flatten(-2), y.chunk(2, -1)[1]
        return torch.cat([q, tangent_velocity(self.constraint, q, v, self._inverse_mass(q), t=t)], -1)

    def _dynamics(self, t: Any, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """λ and v' at flat states (batch, n_states)."""
        nodes = [part.unflatten(-1, (-1, self.dim)) for part in (q, v)]
        force = self.force(t, torch.cat(nodes, -1))
        if force.shape != nodes[0].shape:
            raise ValueError(f"the force has shape {tuple(force.shape)}, expected {tuple(nodes[0].shape)}")
        metric = self._inverse_mass(q)
        free = apply_metric(self.constraint, metric, force.flatten(-2))
        return constrained_acceleration(self.constraint, q, v, free, metric, alpha=self.baumgarte, t=t)

    def _manifold(self, x: Tensor) -> Manifold:
        return Manifold(self.constraint, torch.eye(self.dim, dtype=x.dtype, device=x.device), orthonormal=True)

    def _nodes(self, y: Tensor) -> tuple[Tensor, Tensor]:
        q, v = (part.unflatten(-1, (-1, self.dim)) for part in y.chunk(2, -1))
        return q, v

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim < 2 or x.shape[-2:] != (self.constraint.n_points, self.features):
            raise ValueError(
                f"the state is (batch, {self.constraint.n_points}, {self.features}), positions before velocities of "
                f"every node, not {tuple(x.shape)}"
            )
        return x[..., : self.dim], x[..., self.dim :]
