"""The classical Runge-Kutta method of fourth order: one step, a path of them, and the adjoint equation by it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Field = Callable[..., Tensor]
# (field, y0, t) -> the times from step to step, from t[0] to t[-1].
Grid = Callable[[Field, Tensor, Tensor], Tensor]


def classical_rk4_step(
    field: Field, t: float | Tensor, y: Float[Tensor, "*shape"], dt: float | Tensor
) -> Float[Tensor, "*shape"]:
    """One step y(t + dt) ≈ y + dt/6 (k₁ + 2k₂ + 2k₃ + k₄) of the classical rule, eq. (11b) of the paper.

    k₁ = f(t, y), k₂ = f(t + dt/2, y + dt/2 k₁), k₃ = f(t + dt/2, y + dt/2 k₂), k₄ = f(t + dt, y + dt k₃)
    (Hairer, Nørsett, Wanner: Solving ODEs I, II.1). `field(t, y)` keeps the shape of y; dt is a number or a scalar
    tensor, which may be learned. Between the layers of a network this is the step to call: `integrate` gives the same
    numbers, and spends about 0.1 ms a call on checks.
    """
    return _step(field, t, y, dt, t + dt)


def _step(field: Field, t, y: Tensor, dt, t1) -> Tensor:
    k1, half = field(t, y), 0.5 * dt
    middle = t + half
    if isinstance(dt, Tensor):
        k2 = field(middle, y + half * k1)
        k3 = field(middle, y + half * k2)
        k4 = field(t1, y + dt * k3)
        return y + (dt / 6) * ((k1 + k4) + 2 * (k2 + k3))
    # The same with fused multiply-adds: half of the step's own cost.
    k2 = field(middle, y.add(k1, alpha=half))
    k3 = field(middle, y.add(k2, alpha=half))
    k4 = field(t1, y.add(k3, alpha=dt))
    return y + (k1 + k4).add(k2 + k3, alpha=2).mul(dt / 6)


def grid_of(step_size: float) -> Grid:
    """Steps of `step_size` from the first time on, the last one as short as it has to be."""

    def grid(field: Field, y0: Tensor, t: Tensor) -> Tensor:
        step = step_size if t[-1] > t[0] else -step_size
        n = int(torch.ceil((t[-1] - t[0]) / step + 1))
        times = torch.arange(n, dtype=t.dtype, device=t.device) * step + t[0]
        times[-1] = t[-1]
        return times

    return grid


def classical_rk4_path(field: Field, y0: Tensor, t: Tensor, grid: Grid | None = None) -> Tensor:
    """y at all times t, (n_times, ...), by a step from each to the next, or linear between the times of a grid."""

    def rate(t: Tensor, y: Tensor) -> Tensor:
        return field(t.to(y.dtype), y)

    times = t if grid is None else grid(field, y0, t)
    # Filled in place, over slices: the order in which gradients are added up is torchdiffeq's, to the last bit.
    path = torch.empty(len(t), *y0.shape, dtype=y0.dtype, device=y0.device)
    path[0], y, j = y0, y0, 1
    for t0, t1 in zip(times[:-1], times[1:], strict=True):  # noqa: RUF007
        dt = t1 - t0
        y, before = _step(rate, t0, y, dt, t1), y
        if grid is None:
            path[j], j = y, j + 1
            continue
        while j < len(t) and (t1 >= t[j] if dt > 0 else t1 <= t[j]):
            path[j] = y if t[j] == t1 else before + (t[j] - t0) / (t1 - t0) * (y - before)
            j += 1
    return path


def classical_rk4_adjoint(
    field: Field, y0: Tensor, t: Tensor, parameters: Sequence[Tensor], grid: Grid | None = None
) -> Tensor:
    """`classical_rk4_path` whose gradient, of y0, t and `parameters`, is of the adjoint equation by the same method."""
    return _Adjoint.apply(field, grid, t, y0, *(p for p in parameters if p.requires_grad))


class _Adjoint(torch.autograd.Function):
    """a' = −aᵀ ∂f/∂y backwards from the last time, a jumping by ∂L/∂y at every time, with y beside it and what is
    integrated for t and the parameters (Chen et al., Neural ODEs, 2018, appendix B)."""

    @staticmethod
    def forward(ctx, field, grid, t, y0, *parameters):
        path = classical_rk4_path(field, y0, t, grid)
        ctx.field, ctx.grid = field, grid
        ctx.save_for_backward(t, path, *parameters)
        return path

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        t, path, *parameters = ctx.saved_tensors
        field = ctx.field
        state = [path.new_zeros(()), path[-1], gradient[-1], *(torch.zeros_like(p) for p in parameters)]
        sizes, shapes = [x.numel() for x in state], [x.shape for x in state]

        def parts(flat: Tensor) -> list[Tensor]:
            return [x.view(shape) for x, shape in zip(flat.split(sizes), shapes, strict=True)]

        def augmented(s: Tensor, flat: Tensor) -> Tensor:
            _, y, a, *_ = parts(flat)
            with torch.enable_grad():
                inputs = (s.detach().requires_grad_(), y.detach().requires_grad_(), *parameters)
                rate = field(*inputs[:2])
                # What parameters were computed from in the forward pass is asked again at the next evaluation.
                slopes = torch.autograd.grad(rate, inputs, -a, allow_unused=True, retain_graph=True)
            by_time, *others = (torch.zeros_like(x) if s is None else s for x, s in zip(inputs, slopes, strict=True))
            return torch.cat([x.reshape(-1) for x in (by_time, rate, *others)])

        of_times = torch.zeros_like(t)
        for i in range(len(t) - 1, 0, -1):
            if ctx.needs_input_grad[2]:
                of_times[i] = jump = field(t[i].to(path.dtype), path[i]).flatten() @ gradient[i].flatten()
                state[0] = state[0] - jump
            flat = torch.cat([x.reshape(-1) for x in state])
            state = parts(classical_rk4_path(augmented, flat, t[i - 1 : i + 1].flip(0), ctx.grid)[-1])
            state[1], state[2] = path[i - 1], state[2] + gradient[i - 1]
        of_times[0] = state[0]
        return None, None, of_times if ctx.needs_input_grad[2] else None, *state[2:]
