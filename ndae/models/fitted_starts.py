"""Starts of windows fitted to what was observed in them, under a motion that stays as it is."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

# Iterations end when no start moves by more than this share of the unit, or after so many.
MOVED, ITERATIONS = 1e-2, 10
# Half the distance of the two states of a difference quotient, in units: far above rounding, far below curvature.
STEP = 0.1
# Directions that predictions hardly depend on (off the constraint, say) are left alone: share of the largest.
LEAST = 1e-8


def fitted_starts(
    path: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "batch nodes features"],
    observed: Float[Tensor, "batch n_times nodes dim"],
    t0: Float[Tensor, " batch"],
    unit: Float[Tensor, " features"],
) -> Float[Tensor, "batch nodes features"]:
    """`argmin |path(x, t0) − observed|²` over x, for each sample by itself, from the x given.

    By Levenberg's iteration with derivatives by central differences, all directions in one batch: a step is taken where
    it makes the sum of squares smaller, and damped more where not (Nocedal, Wright: Numerical Optimization, 10.3).
    `unit`: what each of the features is counted in, of the size of the noise; steps are measured by it.
    """
    unit = unit.expand(x.shape[1:]).flatten()
    n, k = len(x), unit.numel()
    damping = x.new_full((n,), 1e-3)
    with torch.no_grad():
        best = _misses(path, x, observed, t0)
        for _ in range(ITERATIONS):
            jacobian = _differences(path, x, t0, unit)
            right = (jacobian.mT @ best[..., None])[..., 0]
            normal = jacobian.mT @ jacobian
            scale = normal.diagonal(dim1=-2, dim2=-1).amax(-1).clamp_min(torch.finfo(x.dtype).tiny)
            shift = (damping + LEAST) * scale
            step = torch.linalg.solve(normal + shift[:, None, None] * torch.eye(k).to(normal), right)
            tried = x - (unit * step).view_as(x)
            missed = _misses(path, tried, observed, t0)
            better = missed.square().sum(-1) < best.square().sum(-1)
            x = torch.where(better[:, None, None], tried, x)
            best = torch.where(better[:, None], missed, best)
            damping = torch.where(better, damping / 10, damping * 10).clamp(0, 1e6)
            if not bool((better & (step.abs().amax(-1) > MOVED)).any()):
                break
    return x


def _misses(path: Callable, x: Tensor, observed: Tensor, t0: Tensor) -> Tensor:
    """What predictions are off by, (batch, n); where they are not finite, without end."""
    return (path(x, t0) - observed).flatten(1).nan_to_num(torch.inf, torch.inf, torch.inf)


def _differences(path: Callable, x: Tensor, t0: Tensor, unit: Tensor) -> Tensor:
    """Derivatives of predictions by x, in units of x, (batch, n, k)."""
    n, k = len(x), unit.numel()
    moved = STEP * torch.diag(unit)
    both = torch.cat([moved, -moved])[:, None] + x.flatten(1)  # (2 k, batch, k)
    y = path(both.view(2 * k * n, *x.shape[1:]), t0.repeat(2 * k)).flatten(1).view(2, k, n, -1)
    return ((y[0] - y[1]) / (2 * STEP)).movedim(0, -1).nan_to_num(0.0, 0.0, 0.0)
