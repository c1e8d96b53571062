"""Adaptive integration by torchdiffeq with a projection onto the constraints at every output time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ndae.solvers._types import State, Times
from ndae.solvers.depth.integrate import integrate
from ndae.solvers.errors import IntegrationError

# (time, state) -> the state on the constraints, or the derivative of the state.
OfState = Callable[[Tensor, Tensor], Tensor]

# What stands for a derivative that is not finite: its square is.
_HUGE = 1e100


class _Steps:
    """y' = field(t, y) in units of `scale`, with its steps and evaluations counted.

    Where the field has a method `accepted(t, y)` it hears of every state that a step starts from.
    """

    def __init__(self, field: OfState, scale: Tensor) -> None:
        self._field, self._scale = field, scale
        self.n_accepted = self.n_rejected = self.n_f_evals = 0

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        self.n_f_evals += 1
        rate = self._field(t, u * self._scale) / self._scale
        # torchdiffeq takes no shorter step after a NaN, as it does after a large error.
        return rate.nan_to_num(_HUGE, _HUGE, -_HUGE)

    def callback_accept_step(self, t: Tensor, u: Tensor, dt: Tensor) -> None:
        self.n_accepted += 1

    def callback_reject_step(self, t: Tensor, u: Tensor, dt: Tensor) -> None:
        self.n_rejected += 1

    def callback_step(self, t: Tensor, u: Tensor, dt: Tensor) -> None:
        accepted = getattr(self._field, "accepted", None)
        if accepted is not None:
            accepted(t, u.detach() * self._scale)

    @property
    def counts(self) -> dict[str, int]:
        """As Solution.stats has them."""
        return {
            "n_steps": self.n_accepted + self.n_rejected,
            "n_accepted": self.n_accepted,
            "n_rejected": self.n_rejected,
            "n_f_evals": self.n_f_evals,
        }


def integrate_on_manifold(
    field: OfState,
    project: OfState,
    y0: State,
    ts: Times,
    *,
    integrator: str = "dopri8",
    rtol: float = 1e-10,
    atol: Any = 1e-12,
    max_steps: int = 1_000_000,
    counts: dict[str, int] | None = None,
    gaps: Sequence[tuple[float, float]] = (),
) -> Iterator[State]:
    """The states of y' = field(t, y) at `ts`, one after the other, each projected before the next is integrated to.

    `project(t, y)` gives the state on the constraints. Error of a step: |error_i| ≤ atol_i + rtol |y_i| for
    every component of every sample, which share their steps; `atol` is a number or a tensor
    (n_states,). At most `max_steps` are tried altogether; `counts` is filled with their number as they are made. No
    step is inside one of `gaps`, pairs of times in order, in which the field jumps.
    Everything is differentiable that `field` and `project` are, with the steps held fixed.

    Raises ValueError on bad arguments and IntegrationError as `integrate` does, and what `project` raises.
    """
    scale = torch.as_tensor(atol, dtype=y0.dtype, device=y0.device)
    steps = _Steps(field, scale)
    y = project(ts[0], y0)
    yield y
    for i in range(len(ts) - 1):
        end = y / scale  # in units of atol, so that one number serves components of any size
        try:
            for span in _between(ts[i : i + 2], gaps):
                left = max_steps - steps.counts["n_steps"]
                end = integrate(
                    steps,
                    end,
                    span,
                    integrator=integrator,
                    rtol=rtol,
                    atol=1.0,
                    max_steps=left,
                    options={"norm": _largest},
                )[..., -1, :]
        except IntegrationError as error:
            reason = f"after t = {float(ts[i]):.9g}: {error} (atol in units of the given one)"
            if steps.counts["n_steps"] >= max_steps:
                reason = f"max_steps = {max_steps} attempts were spent after t = {float(ts[i]):.9g}: raise max_steps, "
                reason += "or loosen rtol and atol"
            raise IntegrationError(reason) from error
        finally:
            if counts is not None:
                counts |= steps.counts
        y = project(ts[i + 1], end * scale)
        yield y


def _between(ends: Times, gaps: Sequence[tuple[float, float]]) -> Iterator[Times]:
    """Pairs of times that are what gaps leave of the time between two ends."""
    start, end = ends
    for before, after in gaps:
        if before >= end or after <= start:
            continue
        if start < before:
            yield torch.stack([start, start.new_tensor(before)])
        start = start.new_tensor(after)
    if start < end:
        yield torch.stack([start, end])


@torch.no_grad()
def _largest(x: Tensor) -> Tensor:
    """Of the worst component of the worst sample: no other can hide an error."""
    return x.abs().amax()
