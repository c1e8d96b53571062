"""Forces of a known form: damping that takes energy only, given inputs, and what a symbolic system says."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ndae._types import Features, Output
from ndae.fields.mlp import tanh_layers
from ndae.forces.networks import _silent
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.users_code.captured import captured

# Given inputs (n_inputs,) or (batch, n_inputs) at a time () or (batch,).
Inputs = Callable[[Tensor], Any]


@keeps_arguments
class Damping(nn.Module):
    """`F = −D v`, `D = L Lᵀ`: damping over all nodes together, of power `−|Lᵀ v|²`, so that energy never grows.

    `nodes`, `dim`: of the system. L is one learned matrix of `nodes dim` rows and columns; with `hidden`, a network of
    that width (two layers) gives `L(q)`. Either starts as 0.1 times the identity, D as 0.01 kg/s on every coordinate:
    at zero, L would have no gradient and never leave it. Raises a ValueError for sizes below one.
    """

    START = 0.1

    def __init__(self, nodes: int, dim: int, hidden: int | None = None):
        super().__init__()
        _at_least_one(nodes=nodes, dim=dim, hidden=hidden)
        self.nodes, self.dim = nodes, dim
        n = nodes * dim
        if hidden is None:
            self.factor = nn.Parameter(self.START * torch.eye(n))
        else:
            layers, last = tanh_layers(n, hidden, 2), _silent(nn.Linear(hidden, n * n))
            self.network = nn.Sequential(*layers, last)
            with torch.no_grad():
                last.bias.copy_(self.START * torch.eye(n).flatten())
        self.hidden = hidden

    def matrix(self, q: Output | None = None) -> Float[Tensor, "*batch n_states n_states"]:
        """D, in kg/s, over the coordinates of all nodes: at positions q `(batch, n, n)`; without them where one D holds
        everywhere."""
        if self.hidden is None:
            shape = () if q is None else q.shape[:-2]
            return (self.factor @ self.factor.mT).expand(*shape, -1, -1)
        if q is None:
            raise ValueError("this damping depends on positions: write matrix(q), with q (batch, nodes, dim)")
        factor = self._factor(q.flatten(-2))
        return factor @ factor.mT

    def forward(self, t: Any, y: Features) -> Output:
        """Forces `(batch, nodes, dim)` at states `(batch, nodes, 2 dim)`, in newtons."""
        q, v = _split(y, self.nodes, self.dim)
        if self.hidden is None:
            force = functional.linear(v @ self.factor, self.factor)
        else:
            factor = self._factor(q)
            force = (factor @ (factor.mT @ v.unsqueeze(-1))).squeeze(-1)
        return -force.unflatten(-1, (self.nodes, self.dim))

    def _factor(self, q: Tensor) -> Tensor:
        n = self.nodes * self.dim
        return self.network(q).unflatten(-1, (n, n))


@keeps_arguments
class InputForce(nn.Module):
    """`F = B u(t)`: given inputs (motors, wind, a moving hand), and where they act, which is learned.

    `inputs`: a function of time (s), called with a tensor `()`, or `(batch,)` where samples have times of their own,
    that gives `u`, `(n_inputs,)`, or `(batch, n_inputs)` there; `sampled_inputs` makes one of a table. B is one
    learned matrix of `nodes dim` rows; with `hidden`, a network of that width (two layers) gives `B(q)`. Zero at the
    start. `n_inputs`: taken from `inputs.n_inputs`, or else from `inputs` at time zero, if not given.
    Adaptive integrators want `u` differentiable in torch: gradients go through the lengths of their steps.

    Raises a ValueError for sizes below one, for inputs that do not say how many they are, and for `u` of another shape.
    """

    def __init__(self, inputs: Inputs, nodes: int, dim: int, hidden: int | None = None, *, n_inputs: int | None = None):
        super().__init__()
        self.n_inputs = _count(inputs) if n_inputs is None else n_inputs
        _at_least_one(nodes=nodes, dim=dim, hidden=hidden, n_inputs=self.n_inputs)
        self.inputs, self.nodes, self.dim, self.hidden = inputs, nodes, dim, hidden
        self.captured = captured(inputs)
        n = nodes * dim
        if hidden is None:
            self.matrix = nn.Parameter(torch.zeros(n, self.n_inputs))
        else:
            self.network = nn.Sequential(*tanh_layers(n, hidden, 2), _silent(nn.Linear(hidden, n * self.n_inputs)))

    def forward(self, t: Any, y: Features) -> Output:
        """Forces `(batch, nodes, dim)` at times `t` (s) and states `(batch, nodes, 2 dim)`, in newtons."""
        q, _ = _split(y, self.nodes, self.dim)
        u = self._at(t, q)
        if self.hidden is None:
            force = functional.linear(u, self.matrix).expand_as(q)
        else:
            force = (self.network(q).unflatten(-1, (-1, self.n_inputs)) @ u.unsqueeze(-1)).squeeze(-1)
        return force.unflatten(-1, (self.nodes, self.dim))

    def _at(self, t: Any, like: Tensor) -> Tensor:
        if t is None:
            raise ValueError("these forces depend on time: pass t, in seconds")
        # float64 where the time is a number, so that a late time keeps its digits.
        t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
        u = torch.as_tensor(self.inputs(t)).to(like)
        if u.shape != (*t.shape, self.n_inputs) or t.shape not in ((), like.shape[:-1]):
            raise ValueError(
                f"inputs at times {tuple(t.shape)} of states {tuple(like.shape[:-1])} have shape {tuple(u.shape)}, "
                f"expected {(*t.shape, self.n_inputs)}: stack them on the last axis, torch.stack([...], -1)"
            )
        return u


def sampled_inputs(ts: Any, values: Any) -> "SampledInputs":
    """Inputs known at times: `u(t)` between two entries of a table on the straight line from one to the next.

    `ts` (s) `(n_times,)`, increasing; `values` `(n_times, n_inputs)`, or `(n_times,)` for one input. Steps of an
    integrator that go over an entry are of second order there, not fourth, since `u` has a kink. Adaptive integrators,
    and the adjoint equation with these, look a step past the ends of a motion: the table has to be longer. Raises a
    ValueError for tables that are none, and, when called, for times outside the table (by more than rounding).
    """
    return SampledInputs(ts, values)


@keeps_arguments
class SampledInputs:
    """What `sampled_inputs` makes: `u(t)`, `(n_inputs,)` at a number, `(batch, n_inputs)` at times `(batch,)`."""

    def __init__(self, ts: Any, values: Any):
        ts, values = (torch.as_tensor(part, dtype=torch.float64).clone() for part in (ts, values))
        values = values[:, None] if values.ndim == 1 else values
        if ts.ndim != 1 or values.ndim != 2 or len(ts) != len(values) or len(ts) < 2:
            raise ValueError(
                f"ts of shape {tuple(ts.shape)} and values of shape {tuple(values.shape)}: expected (n_times,) and "
                "(n_times, n_inputs), two times or more"
            )
        if not (bool(ts.isfinite().all()) and bool(values.isfinite().all()) and bool((ts.diff() > 0).all())):
            raise ValueError("ts and values are finite, and ts increase")
        self.n_inputs = values.shape[1]
        self._ts, self._values = ts, values
        self._slopes = values.diff(dim=0) / ts.diff()[:, None]
        self._from, self._to = float(ts[0]), float(ts[-1])

    def __call__(self, t: float | Tensor) -> Float[Tensor, "*times n_inputs"]:
        """`u(t)` in float64."""
        t = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else torch.float64)
        rounding = 8 * torch.finfo(t.dtype).eps * max(abs(self._from), abs(self._to))
        # Differentiable: gradients through an adaptive integrator go through the lengths of its steps.
        t = t.double()
        outside = ~((t >= self._from - rounding) & (t <= self._to + rounding))  # so is a time that is no number
        if bool(outside.any()):
            known, asked = f"from {self._from:g} s to {self._to:g} s", float(t.detach()[outside][0])
            raise ValueError(f"inputs are known {known}, asked for at {asked:g} s")
        if self._ts.device != t.device:
            self._ts, self._values, self._slopes = (x.to(t.device) for x in (self._ts, self._values, self._slopes))
        before = (torch.searchsorted(self._ts, t.detach(), right=True) - 1).clamp(0, len(self._slopes) - 1)
        return self._values[before] + self._slopes[before] * (t - self._ts[before]).unsqueeze(-1)


def _split(y: Tensor, nodes: int, dim: int) -> tuple[Tensor, Tensor]:
    """Positions and velocities (batch, nodes dim) of a state."""
    if y.shape[-2:] != (nodes, 2 * dim):
        expected = f"(batch, {nodes}, {2 * dim})"
        raise ValueError(f"{nodes} nodes in {dim} dimensions have states {expected}, not {tuple(y.shape)}")
    return y[..., :dim].flatten(-2), y[..., dim:].flatten(-2)


def _count(inputs: Inputs) -> int:
    known = getattr(inputs, "n_inputs", None)
    if known is not None:
        return known
    try:
        u = torch.as_tensor(inputs(torch.zeros((), dtype=torch.float64)))
    except Exception as error:
        raise ValueError("inputs cannot be asked at time zero how many they are: give n_inputs=") from error
    if u.ndim != 1:
        raise ValueError(f"inputs at one time have shape {tuple(u.shape)}, expected (n_inputs,)")
    return len(u)


def _at_least_one(**sizes: int | None) -> None:
    if any(size is not None and size < 1 for size in sizes.values()):
        raise ValueError(f"{', '.join(f'{name}={size}' for name, size in sizes.items())}: each is at least 1")
