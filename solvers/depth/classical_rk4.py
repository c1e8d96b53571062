"""The classical Runge-Kutta method of fourth order, as one step and as a solver of torchdiffeq."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor
from torchdiffeq._impl.misc import Perturb
from torchdiffeq._impl.odeint import SOLVERS
from torchdiffeq._impl.solvers import FixedGridODESolver

Field = Callable[..., Tensor]


def classical_rk4_step(
    field: Field, t: float | Tensor, y: Float[Tensor, "*shape"], dt: float | Tensor
) -> Float[Tensor, "*shape"]:
    """One step y(t + dt) ≈ y + dt/6 (k₁ + 2k₂ + 2k₃ + k₄) of the classical rule, eq. (11b) of the paper.

    k₁ = f(t, y), k₂ = f(t + dt/2, y + dt/2 k₁), k₃ = f(t + dt/2, y + dt/2 k₂), k₄ = f(t + dt, y + dt k₃)
    (Hairer, Nørsett, Wanner: Solving ODEs I, II.1). `field(t, y)` keeps the shape of y; dt is a number or a scalar
    tensor, which may be learned. Between the layers of a network this is the step to call: `integrate` gives the same
    numbers, and spends about 0.1 ms a call on checks.
    """
    k1 = field(t, y)
    return y + _increment(field, t, y, dt, t + dt, k1)


def _increment(field: Field, t, y: Tensor, dt, t1, k1: Tensor) -> Tensor:
    half = 0.5 * dt
    middle = t + half
    if isinstance(dt, Tensor):
        k2 = field(middle, y + half * k1)
        k3 = field(middle, y + half * k2)
        k4 = field(t1, y + dt * k3)
        return (dt / 6) * ((k1 + k4) + 2 * (k2 + k3))
    # The same with fused multiply-adds: half of the step's own cost.
    k2 = field(middle, y.add(k1, alpha=half))
    k3 = field(middle, y.add(k2, alpha=half))
    k4 = field(t1, y.add(k3, alpha=dt))
    return (k1 + k4).add(k2 + k3, alpha=2).mul(dt / 6)


class ClassicalRK4(FixedGridODESolver):
    """torchdiffeq's fixed-grid solver of the classical rule (its own "rk4" is the 3/8 rule)."""

    order = 4

    def _step_func(self, func, t0, dt, t1, y0):
        f0 = func(t0, y0, perturb=Perturb.NEXT if self.perturb else Perturb.NONE)
        return _increment(func, t0, y0, dt, t1, f0), f0


# torchdiffeq has no hook for solvers of one's own; its adjoint looks names up in the same table.
SOLVERS.setdefault("classical_rk4", ClassicalRK4)
