"""Models as propagators: what carries a state (q, v) on by one period, so that they can be rolled out and compared."""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ndae import NeuralDAE, NeuralMotion
from ndae.experiments.validation.truth import ProblemMotion
from ndae.methods import Method
from ndae.solvers import IntegrationError
from ndae.solvers.manifold.multipliers import unsettled
from ndae.solvers.mechanics.motion_torch import TorchMotion

# Derivatives of predictions are central differences of fourth order over this time (s), made in float64 with
# projections to this tolerance (m).
_DIFFERENCE, _TIGHT = 1e-3, 1e-12
_CHUNK = 500

States = np.ndarray


class Propagator(Protocol):
    """What is compared with the reference: it carries states on by `period` (s).

    A model whose depth is physical time and whose state is (q, v) is one as it stands; `HorizonMap` makes one of a
    network that gives positions alone.
    """

    period: float

    def advance(self, q: States, v: States) -> tuple[States, States]:
        """Coordinates and velocities, (n, n_states) each, one period later.

        One with an attribute `needs_time` that is true is also given the time `t` (s) of all of them. A sample that
        cannot be carried on comes back as NaN, and never touches the others. One with `n_multipliers` above 0 has a
        method `multiplier(q, v, t)` for states at times (n,), which gives as many numbers each, or NaN.
        """
        ...


def roll_out(propagator: Propagator, q: States, v: States, n_periods: int) -> tuple[States, States]:
    """Coordinates and velocities after 0, 1, ..., `n_periods` periods, each (n, n_periods + 1, n_states)."""
    states = [(q, v)]
    for k in range(n_periods):
        states.append(propagator.advance(*states[-1], *_time(propagator, k)))
    return np.stack([q for q, _ in states], 1), np.stack([v for _, v in states], 1)


def one_period_on(propagator: Propagator, q: States, v: States) -> tuple[States, States]:
    """What is predicted for every time from the state one period before it, given states (n, n_times, n_states).

    The results have that shape too; the first time has no state before it and keeps its own.
    """
    if getattr(propagator, "needs_time", False):  # then those at one time go together, not all at once
        by_time = [propagator.advance(q[:, k], v[:, k], *_time(propagator, k)) for k in range(q.shape[1] - 1)]
        ahead = [np.stack(x, 1) for x in zip(*by_time, strict=True)]
    else:
        ahead = propagator.advance(*(x[:, :-1].reshape(-1, x.shape[-1]) for x in (q, v)))
    own = zip((q, v), ahead, strict=True)
    q, v = (np.concatenate([x[:, :1], y.reshape(len(x), -1, x.shape[-1])], 1) for x, y in own)
    return q, v


def _time(propagator: Propagator, k: int) -> tuple[float, ...]:
    return (k * propagator.period,) if getattr(propagator, "needs_time", False) else ()


class HorizonMap:
    """A network that maps (q, v) at t to q at t + period, as the paper's do, made a propagator over (q, v).

    Such a network gives no velocity, so it cannot be applied again to what it gave. But a map P that is right about
    positions, P(q(t), v(t)) = q(t + period) for all t, gives by d/dt also v(t + period) = DP · (v, a), with the true
    acceleration a at the state (q, v) that went in. That is what `advance` takes for the network's velocity: the rate
    at which its prediction changes as the state that it is made from moves on. The true equations enter there, and
    only there, and an exact map is carried on exactly. (Differences between successive predictions would need no
    equations, but each application multiplies their noise by period over spacing: with them even the exact map is
    metres off after five.)

    `projections` and `unconverged` count the network's own projections. Raises ValueError for a model that is not over
    (q, v), and for equations of motion that depend on time, which the network is not told.
    """

    def __init__(self, model: NeuralDAE, motion: TorchMotion | ProblemMotion, period: float) -> None:
        _check(model, motion)
        self.period, self._model, self._motion = period, model, motion
        self._tight = _tightened(model)
        self.projections = self.unconverged = 0

    def advance(self, q: States, v: States) -> tuple[States, States]:
        return _advance(self._step, q, v)

    def _step(self, y: Tensor) -> Tensor:
        prediction = self._model.predict(_nodes(self._model, y))
        for projection in prediction.projections:
            self.projections += projection.converged.numel()
            self.unconverged += int((~projection.converged).sum())
        rate = self._motion(None, y)
        after = {n: self._tight(_nodes(self._tight, y + n * _DIFFERENCE * rate)) for n in (-2, -1, 1, 2)}
        velocity = (8 * (after[1] - after[-1]) - (after[2] - after[-2])) / (12 * _DIFFERENCE)
        return torch.cat([prediction.y.flatten(1).to(y), velocity.flatten(1)], -1)


class MotionMap:
    """A NeuralMotion over one `period` (s), its own duration: it has velocities, so it is a propagator as it stands.

    `projections` and `unconverged` count its own projections. `needs_time`: whether its constraints move. A multiplier
    that does not solve its equations is NaN.
    """

    def __init__(self, model: NeuralMotion) -> None:
        self.period, self._model = model.duration, copy.copy(model)
        # What drifted off is to be seen, not refused.
        self._model.start_tol = float("inf")
        constraints = [c for c in (model.constraint, model.velocity_constraints) if c is not None]
        self.needs_time = any(c.needs_time for c in constraints)
        self.n_multipliers = sum(c.n_residuals for c in constraints) if model.multipliers else 0
        self.projections = self.unconverged = 0

    def advance(self, q: States, v: States, t: float = 0.0) -> tuple[States, States]:
        return _advance(lambda y: self._step(y, t), q, v)

    def multiplier(self, q: States, v: States, t: np.ndarray) -> np.ndarray:
        y = torch.as_tensor(np.concatenate([q, v], -1))
        at = torch.as_tensor(t)
        found = y.new_full((len(y), self.n_multipliers), torch.nan)
        with torch.no_grad():
            for rows in y.isfinite().all(-1).nonzero().squeeze(-1).split(_CHUNK):
                x = self._nodes(y[rows])
                lam, error = self._model.solved_multiplier(x, at[rows].to(x))
                wrong = unsettled(error, *x.flatten(1).chunk(2, -1))
                found[rows] = lam.masked_fill(wrong.unsqueeze(-1), torch.nan).to(y)
        return found.numpy()

    def _nodes(self, y: Tensor) -> Tensor:
        like = next(self._model.parameters(), y)
        return torch.cat([part.unflatten(-1, (-1, self._model.dim)) for part in y.to(like).chunk(2, -1)], -1)

    def _step(self, y: Tensor, t: float) -> Tensor:
        found = self._model.trajectory(self._nodes(y), [t, t + self.period], throw=False)
        for projection in found.projections:
            self.projections += projection.converged.numel()
            self.unconverged += int((~projection.converged).sum())
        return torch.cat([found.q[:, -1].flatten(1), found.v[:, -1].flatten(1)], -1).to(y)


def with_true_force(model: NeuralMotion, motion: TorchMotion | ProblemMotion) -> NeuralMotion:
    """The same motion with the true force in place of the learned one: steps and method stay."""

    def force(t: Any, x: Tensor) -> Tensor:
        q, v = (part.flatten(-2) for part in x.chunk(2, -1))
        return motion.force(q, v, t).unflatten(-1, (-1, model.dim))

    true = copy.copy(model)
    true._modules = {**model._modules}
    del true._modules["force"]
    true.force = force
    return true


class TrueFieldMap:
    """The network of `model` with the true vector field in place of the learned one, over (q, v).

    Layers, integrator, method and its strengths, tolerances and precision stay; the latent state of a node is its
    position and velocity, and each of the layers stands for an equal part of `period` (s). A penalty pulls as much in
    each layer as it does in the trained network (strength times learned length); projections move positions alone, as
    they do there. What this network, `network`, gets wrong the integrator and the method cause, whatever is learned.

    Raises ValueError as `HorizonMap` does.
    """

    def __init__(self, model: NeuralDAE, motion: TorchMotion | ProblemMotion, period: float) -> None:
        _check(model, motion)
        self.period, self._last = period, _LastState()
        lengths = model.log_step.detach().double().exp().tolist()
        network: Any = NeuralDAE(
            [_TrueField(motion, period / model.n_layers / length) for length in lengths],
            model.constraint, model.method + self._last, features=model.features, dim=model.dim, latent=model.features,
            integrator=model.integrator, rtol=model.rtol, atol=model.atol,
        ).to(model.log_step).eval()  # fmt: skip
        # Opening is the identity, closing picks the position: a node's state is its own latent state.
        eye = torch.eye(model.features).to(model.log_step)
        network.open.start_as(eye)
        network.close.start_as(eye[:, : model.dim])
        with torch.no_grad():
            network.log_step.copy_(model.log_step)
        self.network: NeuralDAE = network

    def advance(self, q: States, v: States) -> tuple[States, States]:
        return _advance(self._step, q, v)

    def _step(self, y: Tensor) -> Tensor:
        self.network(_nodes(self.network, y))
        z: Any = self._last.z
        return torch.cat([part.flatten(1) for part in z.chunk(2, -1)], -1).to(y)


class _TrueField(torch.nn.Module):
    """`scale` times (v, a), over latent states (batch, nodes, 2 dim) that hold (q, v) of each node."""

    def __init__(self, motion: TorchMotion | ProblemMotion, scale: float) -> None:
        super().__init__()
        self._motion, self._scale = motion, scale

    def forward(self, tau: Any, z: Tensor) -> Tensor:
        q, v = z.chunk(2, -1)
        a = self._motion.acceleration(q.flatten(-2), v.flatten(-2)).unflatten(-1, q.shape[-2:])
        return self._scale * torch.cat([v, a], -1)


class _LastState(Method):
    """Changes nothing and keeps the latent state that a forward pass ended in."""

    z: Tensor | None = None

    def after_last(self, z: Tensor, manifold: Any) -> Tensor:
        self.z = z
        return z


def _advance(step: Callable[[Tensor], Tensor], q: States, v: States) -> tuple[States, States]:
    """`step` of the samples (q, v) side by side that are finite, some at a time."""
    y = torch.as_tensor(np.concatenate([q, v], -1))
    out = torch.full_like(y, torch.nan)
    # What blew up before stays out: an adaptive integrator would fail on its neighbours too.
    finite = y.isfinite().all(-1).nonzero().squeeze(-1)
    with torch.no_grad():
        for rows in finite.split(_CHUNK):
            out[rows] = _stepped(step, y[rows])
    q, v = np.split(out.numpy(), 2, -1)
    return q, v


def _stepped(step: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """`step(y)`; where an integrator fails, each sample by itself, and NaN for those on which it fails alone."""
    try:
        return step(y)
    except IntegrationError:
        if len(y) == 1:
            return torch.full_like(y, torch.nan)
        return torch.cat([_stepped(step, row) for row in y.split(1)])


def _nodes(model: NeuralDAE, y: Tensor) -> Tensor:
    """States (n, 2 n_states) as the model's input (n, nodes, 2 dim), in its precision."""
    return torch.cat([part.unflatten(-1, (-1, model.dim)) for part in y.to(model.log_step).chunk(2, -1)], -1)


def _check(model: NeuralDAE, motion: TorchMotion | ProblemMotion) -> None:
    if model.features != 2 * model.dim:
        raise ValueError(
            f"the model takes {model.features} numbers a node and gives {model.dim}: to be compared with the equations "
            f"of motion it has to take positions and velocities, {2 * model.dim} numbers"
        )
    if motion.needs_time:
        raise ValueError(f"{motion.name}: its equations depend on time, which the model is not told")


def _tightened(model: NeuralDAE) -> NeuralDAE:
    """A copy in float64 whose projections go on to rounding."""
    tight = copy.deepcopy(model).double()
    part: Any
    for part in tight.method.parts:
        if hasattr(part, "tol"):
            part.tol = _TIGHT
    return tight
