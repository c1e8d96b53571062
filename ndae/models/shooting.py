"""Multiple shooting: motion learned from noisy trajectories, with the start of every window learned beside it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ndae._types import Features
from ndae.models.fitted_starts import fitted_starts
from ndae.models.neural_motion import NeuralMotion
from ndae.models.prediction import Prediction
from ndae.solvers.tensors import of_states

# Velocities are the slopes of parabolas through so many neighbouring observations.
FITTED = 5

Windows = tuple[Tensor, Tensor, dict[str, Tensor]]


class Shooting(nn.Module):
    """`min ½ |q(t; s_k) − observed|² + ½ continuity |Φ(s_k) − s_{k+1}|²` over the motion's parameters and all `s_k`.

    Observed trajectories are cut into windows of `window` intervals, and the start `s_k` of every window is learned
    with the motion, so that noise in what starts a prediction is not mistaken for a force. `Φ` is the motion over a
    window; the difference of velocities counts times the window's duration, so that both are lengths. Starts lie on
    the constraints and are tangent to them: the motion projects them. (Bock and Plitt 1984, who ask for continuity as
    a constraint, the limit of a large `continuity`; Betts 2010, section 3.4.) An observation where two windows meet
    counts in both.

    - `motion`: a NeuralMotion with `starts="project"`, `n_times=window` and `duration=window * dt`. It is trained in
      place, and is of use by itself afterwards.
    - `q`: positions `(n_trajectories, n_times, nodes, dim)` every `dt` seconds, of a whole number of windows; `v`:
      velocities alike, where they were measured. Otherwise they begin as slopes of parabolas through five points.
    - `continuity`: at 1, a start may miss the end of the window before by as much as it misses an observation.
    - `t0` (s): the time of the first observation, one number or one a trajectory, for forces that depend on time.
    - `noise` (m): the size of the noise, from third differences of `q` if left out. It is the unit in which starts are
      learned, so that one learning rate does for them and for a network; the minimum does not depend on it.

    `ndae.fit(shooting, shooting.data, shooting.windows(held_out), ...)` trains both. Raises ValueError for shapes that
    do not fit, for a number that is not finite (named by trajectory and time), for fewer than five times, and for a
    motion that does not fit the windows.
    """

    observed: Tensor
    begins: Tensor
    unit: Tensor

    def __init__(
        self,
        motion: NeuralMotion,
        q: Any,
        dt: float,
        *,
        window: int,
        v: Any = None,
        continuity: float = 1.0,
        t0: float | Sequence[float] | Tensor = 0.0,
        noise: float | None = None,
    ):
        super().__init__()
        _check_motion(motion, dt, window)
        if not (math.isfinite(continuity) and continuity >= 0):
            raise ValueError(f"continuity is a weight, finite and not negative, not {continuity!r}")
        if noise is not None and not (math.isfinite(noise) and noise > 0):
            raise ValueError(f"noise is a length in the unit of q, positive and finite, not {noise!r}")
        self.motion, self.dt, self.window, self.continuity = motion, float(dt), window, float(continuity)
        x, self._targets, conditions = self.windows(q, v, t0)
        self.n_trajectories = len(q)
        self.n_windows = len(x) // self.n_trajectories
        noise = _noise(torch.as_tensor(q, dtype=torch.float64)) if noise is None else noise
        unit = torch.tensor([noise, noise / (self.dt * _spread())], dtype=torch.float64)
        self.register_buffer("observed", x)
        self.register_buffer("begins", conditions["t0"])
        self.register_buffer("unit", unit.repeat_interleave(motion.dim).to(x))
        self.moved = nn.Parameter(torch.zeros_like(x))

    @property
    def constraint(self) -> nn.Module | None:
        """The motion's."""
        return self.motion.constraint

    @property
    def data(self) -> Windows:
        """Inputs, targets and `{"window": (n,)}` of all windows, for `fit`: window k of trajectory i is number
        `i n_windows + k`."""
        return self.observed, self._targets, {"window": torch.arange(len(self.observed))}

    def windows(self, q: Any, v: Any = None, t0: float | Sequence[float] | Tensor = 0.0) -> Windows:
        """The same windows of other trajectories, to validate on: from the starts that fit each of them best.

        Inputs `(n, nodes, 2 dim)`, the observed starts; targets `(n, window + 1, nodes, dim)`, and `{"t0": (n,),
        "observed": targets}`, the times of the starts in s and what `predict` fits them to. From a start as it was
        observed every model is wrong by what that is wrong, and the error says little of the model. Raises ValueError
        as the class does.
        """
        q = self._observations("q", q)
        like = next((x for x in (*self.parameters(), *self.buffers()) if x.is_floating_point()), q)
        v = _slopes(q, self.dt) if v is None else self._observations("v", v)
        if v.shape != q.shape:
            raise ValueError(f"v has shape {tuple(v.shape)} and q {tuple(q.shape)}: expected the same")
        t0 = torch.as_tensor(t0, dtype=torch.float64)
        if t0.shape not in ((), (len(q),)) or not t0.isfinite().all():
            raise ValueError(
                f"t0 has shape {tuple(t0.shape)}: give one finite number, or one each of {len(q)} trajectories"
            )
        first = slice(0, q.shape[1] - 1, self.window)
        times = t0.expand(len(q))[:, None] + self.dt * torch.arange(q.shape[1])[first]
        starts = torch.cat([q, v], -1)[:, first].flatten(0, 1)
        targets = q.unfold(1, self.window + 1, self.window).movedim(-1, 2).flatten(0, 1)
        targets = targets.to(like)
        return starts.to(like), targets, {"t0": times.flatten().to(like), "observed": targets}

    def starts(self) -> Float[Tensor, "n_trajectories n_windows nodes features"]:
        """The starts of all windows as learned so far, on the constraints: positions, then velocities."""
        found = self._starts(torch.arange(len(self.observed), device=self.observed.device))
        return found.unflatten(0, (self.n_trajectories, self.n_windows))

    @of_states
    def forward(self, x: Features) -> Tensor:
        """Positions `(batch, window + 1, nodes, dim)` from the states `x` on."""
        return self.predict(x).y

    @of_states
    def predict(
        self,
        x: Features,
        *,
        window: Int[Tensor, " batch"] | None = None,
        t0: Float[Tensor, " batch"] | None = None,
        observed: Float[Tensor, "batch n_times nodes dim"] | None = None,
    ) -> Prediction:
        """Positions `(batch, window + 1, nodes, dim)` at a start and every `dt` after it.

        With `window`, the numbers of windows of `data`, from their learned starts, whatever `x` is; what they miss of
        continuity is in `regularisation`. Without, from the states `x` at `t0` (s, 0 if left out), projected; with
        `observed`, from the starts near `x` whose predictions are nearest to it (see `fitted_starts`).
        """
        if window is None:
            if observed is not None:
                x = self.fitted(x, observed, t0)
            q, v = self.motion._start(x, 0.0 if t0 is None else t0)
            return self._rolled(torch.cat([q, v], -1), t0)[0]
        # The last window of a trajectory has none after it: its own start stands in, and does not count.
        goes_on = (window + 1) % self.n_windows != 0
        start, following = self._starts(torch.cat([window, window + goes_on])).chunk(2)
        prediction, end = self._rolled(start, self.begins[window])
        q, v = (end - following).chunk(2, -1)
        missed = torch.cat([q, self.motion.duration * v], -1).square().flatten(1).sum(1) * goes_on
        term = prediction.regularisation + self.continuity * missed.mean() / 2
        return Prediction(prediction.y, term, prediction.projections, prediction.residual)

    def fitted(
        self, x: Features, observed: Float[Tensor, "batch n_times nodes dim"], t0: Float[Tensor, " batch"] | None = None
    ) -> Features:
        """The starts near `x` from which the motion as it is now comes nearest to `observed`, by least squares, each
        window by itself; without a gradient, which is zero at the minimum as far as the error goes."""

        def path(x: Tensor, times: Tensor) -> Tensor:
            q, v = self.motion._start(x, times)
            return self._rolled(torch.cat([q, v], -1), times)[0].y

        t0 = x.new_zeros(len(x)) if t0 is None else t0
        return fitted_starts(path, x, observed, t0, self.unit.to(x))

    @of_states
    def check(
        self, x: Features, *, window: Tensor | None = None, t0: Tensor | None = None, observed: Tensor | None = None
    ) -> None:
        """Raise ValueError where constraints are redundant at a start, or a window is none of these. `fit` calls it."""
        if window is not None:
            if window.is_floating_point() or not bool(((window >= 0) & (window < len(self.observed))).all()):
                raise ValueError(f"window is whole numbers from 0 to {len(self.observed) - 1}, as in Shooting.data")
            t0 = self.begins[window]
        self.motion.check(x, t0=t0)

    def _starts(self, window: Tensor) -> Tensor:
        x = self.observed[window] + self.unit * self.moved[window]
        return torch.cat(self.motion._start(x, self.begins[window]), -1)

    def _rolled(self, start: Tensor, t0: Tensor | None) -> tuple[Prediction, Tensor]:
        """The prediction from projected starts, start included, and the state at its end."""
        motion = self.motion
        manifold, path = motion._path(start, t0, None)
        path = [(*start.chunk(2, -1), 0.0 if t0 is None else t0), *path]
        term = motion.method.regularisation(manifold)

        def residual() -> Tensor:
            return torch.cat([motion._residual(*state) for state in path], -1)

        y = torch.stack([q for q, *_ in path], -3)
        term = y.new_zeros(()) if term is None else term
        return Prediction(y, term, tuple(manifold.projections), residual), torch.cat(path[-1][:2], -1)

    def _observations(self, name: str, x: Any) -> Tensor:
        """Float64 and finite, (n_trajectories, n_times, nodes, dim), of whole windows."""
        x = torch.as_tensor(x).detach().double()
        nodes, dim, window = self.motion.nodes, self.motion.dim, self.window
        if x.ndim != 4 or x.shape[2:] != (nodes, dim) or not len(x):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected (n_trajectories, n_times, {nodes}, {dim}); of one "
                "trajectory, q[None]"
            )
        n_times = x.shape[1]
        if n_times < max(FITTED, window + 1):
            raise ValueError(
                f"{name} has {n_times} times, expected at least {max(FITTED, window + 1)}: {FITTED} tell noise from "
                f"motion, and a window of {window} intervals has {window + 1}"
            )
        if (n_times - 1) % window:
            whole = (n_times - 1) // window * window + 1
            raise ValueError(
                f"{name} has {n_times} times, {n_times - 1} intervals, no multiple of window={window}: give "
                f"{name}[:, :{whole}], or another window"
            )
        bad = (~x.isfinite().flatten(2).all(-1)).nonzero()
        if len(bad):
            trajectory, time = bad[0].tolist()
            raise ValueError(
                f"{name} holds numbers that are not finite at {len(bad)} of {len(x) * n_times} observations, first in "
                f"trajectory {trajectory} at time number {time} ({time * self.dt:g} s): leave that trajectory out, or "
                "cut it there"
            )
        return x


def _slopes(q: Tensor, dt: float) -> Tensor:
    # Takes a moment to import, which those who never need it should not pay.
    from scipy.signal import savgol_filter

    return torch.as_tensor(savgol_filter(q.cpu().numpy(), FITTED, 2, deriv=1, delta=dt, axis=1)).to(q.device)


def _noise(q: Tensor) -> float:
    """Root mean square of third differences over √20, what these make of white noise of size 1."""
    return float(q.diff(n=3, dim=1).square().mean().sqrt()) / math.sqrt(20)


def _spread() -> float:
    """√Σk² over the points of a fit: its slope has the noise of a point over dt times this."""
    half = FITTED // 2
    return math.sqrt(sum(k * k for k in range(-half, half + 1)))


def _check_motion(motion: Any, dt: float, window: int) -> None:
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window is a number of intervals, whole and at least 1, not {window!r}")
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"dt is the time between observations in seconds, positive and finite, not {dt!r}")
    if motion.starts != "project":
        raise ValueError(f'the motion has starts={motion.starts!r}: measured ones need starts="project"')
    if motion.n_times != window or not math.isclose(motion.duration, window * dt, rel_tol=1e-6):
        raise ValueError(
            f"the motion predicts {motion.n_times} times over {motion.duration:g} s, a window has {window} over "
            f"{window * dt:g} s: give NeuralMotion(..., duration={window * dt:g}, n_times={window})"
        )
