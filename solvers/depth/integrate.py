"""Integration of y' = f(t, y) through torchdiffeq, by the methods' own names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torchdiffeq import odeint, odeint_adjoint

from ndae.solvers._types import AnyState, AnyTimes, Times, Trajectory
from ndae.solvers.depth.classical_rk4 import classical_rk4_adjoint, classical_rk4_path, grid_of
from ndae.solvers.errors import IntegrationError
from ndae.solvers.tensors import as_states

#: Name here -> name in torchdiffeq 0.2.5 (None: a rule of our own), and the order of convergence.
FIXED_STEP = {
    "euler": ("euler", 1),
    "midpoint": ("midpoint", 2),
    "heun2": ("heun2", 2),
    "heun3": ("heun3", 3),
    "classical_rk4": (None, 4),
    "three_eighths_rk4": ("rk4", 4),
}
ADAPTIVE = {
    "adaptive_heun": ("adaptive_heun", 2),
    "fehlberg2": ("fehlberg2", 2),
    "bosh3": ("bosh3", 3),
    "dopri5": ("dopri5", 5),
    "dopri8": ("dopri8", 8),
}
#: Options of the classical rule, and torchdiffeq's for its other fixed-step methods and for adaptive ones.
OPTIONS = {
    "classical_rk4": {"grid_constructor"},
    False: {"grid_constructor", "interp", "perturb"},
    True: {"first_step", "min_step", "max_step", "step_t", "jump_t", "safety", "ifactor", "dfactor", "norm", "dtype"},
}


def integrate(
    field: Callable[..., Tensor],
    y0: AnyState,
    t: AnyTimes,
    *,
    integrator: str = "dopri5",
    rtol: float = 1e-7,
    atol: float = 1e-9,
    step_size: float | None = None,
    max_steps: int = 100_000,
    options: Mapping | None = None,
    adjoint: bool = False,
    adjoint_parameters: Iterable[Tensor] | None = None,
    throw: bool = True,
) -> Trajectory:
    """Integrate y' = f(t, y) from y(t[0]) = y0 and return y at all times of t.

    `field(t, y)` maps a scalar time and states (..., n_states) to derivatives of the same shape. Times increase or
    decrease strictly; of an array or lists, states become a tensor in float64 (of float32, in that), and times one of
    their precision. The result has shape (..., n_times, n_states), its first entry y0.

    Fixed-step methods ("euler", "midpoint", "heun2", "heun3", "classical_rk4", "three_eighths_rk4") step from each
    time to the next, or by `step_size` (same unit as t) with linear interpolation onto t; adaptive ones
    ("adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8") hold the error of a step under atol + rtol |y|, with
    one step size for the whole batch, and end steps on all of t. `options` go to torchdiffeq as they are; of
    "classical_rk4", which is none of its methods, `grid_constructor(field, y0, t)` gives the times to step to.

    With `adjoint=True` gradients come from the adjoint equation, integrated backwards by the same method (Chen et al.,
    Neural ODEs, 2018): memory does not grow with the steps, and the gradient is exact up to the method's error. It
    reaches y0, t and the parameters of `field` when that is an `nn.Module`, else `adjoint_parameters`.

    Raises ValueError on bad arguments, and IntegrationError when a step size underflows, `max_steps` is exceeded or a
    state is not finite. `throw=False` lets fixed-step methods return the samples that are not finite as they are; the
    others of the batch are not touched by them.
    """
    name, adaptive = _integrator(integrator)
    y0 = as_states(y0, "y0")
    t = as_states(t, "t") if isinstance(t, Tensor) else as_states(t, "t").to(y0)
    _check(y0, t, integrator, adaptive, step_size, rtol, atol, throw)
    given = _options(options, integrator, adaptive, step_size)
    if not y0.numel():  # no sample to choose a step by
        return y0.unsqueeze(-2).expand(*y0.shape[:-1], len(t), y0.shape[-1])
    parameters = _adjoint_parameters(field, adjoint_parameters) if adjoint else ()
    if name is None:
        grid = given.get("grid_constructor") or (None if step_size is None else grid_of(step_size))
        times = t.to(y0.device)
        if adjoint:
            solution = classical_rk4_adjoint(field, y0, times, parameters, grid)
        else:
            solution = classical_rk4_path(field, y0, times, grid)
    else:
        if adaptive:
            given |= {"max_num_steps": max_steps, "step_t": _ends(t, given.get("step_t"))}
        watched = _Watched(field)
        arguments = {"rtol": rtol, "atol": atol, "method": name, "options": given}
        try:
            if adjoint:
                solution = cast(Tensor, odeint_adjoint(watched, y0, t, **arguments, adjoint_params=parameters))
            else:
                solution = cast(Tensor, odeint(watched, y0, t, **arguments))
        except AssertionError as error:  # the way in which torchdiffeq reports a failed adaptive step
            if watched.is_asked:  # the field's own
                raise
            raise IntegrationError(watched.failure(integrator, t, rtol, atol, max_steps)) from error
    if throw and not adaptive:
        _check_finite(solution, t, integrator)
    return solution.movedim(0, -2)


def _integrator(integrator: str) -> tuple[str | None, bool]:
    if integrator in FIXED_STEP:
        return FIXED_STEP[integrator][0], False
    if integrator in ADAPTIVE:
        return ADAPTIVE[integrator][0], True
    if integrator == "rk4":
        raise ValueError(
            "integrator 'rk4' is ambiguous: write 'classical_rk4' for the classical rule, which the paper uses, or "
            "'three_eighths_rk4' for the 3/8 rule, which torchdiffeq calls 'rk4'"
        )
    raise ValueError(f"unknown integrator {integrator!r}: choose from {', '.join([*FIXED_STEP, *ADAPTIVE])}")


def _check(y0, t, integrator, adaptive, step_size, rtol, atol, throw) -> None:
    if t.dim() != 1 or len(t) < 2:
        raise ValueError(f"t has shape {tuple(t.shape)}, expected (n_times,) with at least the start and one more time")
    steps = t.detach().diff()
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise ValueError(
            "t must increase strictly or decrease strictly, and be finite: sort it and drop repeated times"
        )
    if step_size is not None and adaptive:
        raise ValueError(
            f"{integrator!r} chooses its steps by rtol and atol: leave step_size out or take 'classical_rk4'"
        )
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size is {step_size}, expected a positive number, also when t decreases")
    if adaptive and not (rtol >= 0 and atol >= 0 and rtol + atol > 0):
        raise ValueError(f"rtol={rtol} and atol={atol}: expected both non-negative and one of them positive")
    if adaptive and not throw:
        raise ValueError(f"throw=False is for fixed-step ones: {integrator!r} has no state to return when a step fails")


def _options(options: Mapping | None, integrator: str, adaptive: bool, step_size: float | None) -> dict[str, Any]:
    """What torchdiffeq is told, checked."""
    options = dict(options or {})
    known = OPTIONS.get(integrator, OPTIONS[adaptive])
    if options.keys() - known:
        raise ValueError(
            f"options {sorted(options.keys() - known)} are unknown to {integrator!r}: it has {sorted(known)}"
        )
    if "grid_constructor" in options:
        if step_size is not None:
            raise ValueError(
                "step_size and options['grid_constructor'] are both given: each says where steps end, give one"
            )
        options["grid_constructor"] = _checked_grid(options["grid_constructor"])
    return options if step_size is None else options | {"step_size": step_size}


def _ends(t: Tensor, further: Tensor | None) -> Tensor:
    """Where steps end: on the times, since torchdiffeq's interpolants of bosh3 and dopri8 lose two to three digits
    (measured)."""
    inner = t.detach()[1:]
    return inner if further is None else torch.unique(torch.cat([inner, further.to(inner)]))


def _adjoint_parameters(field, parameters) -> tuple[Tensor, ...]:
    if parameters is not None:
        return tuple(parameters)
    if isinstance(field, torch.nn.Module):
        return tuple(field.parameters())
    raise ValueError(
        "adjoint=True needs to know what field depends on: make it an nn.Module, or give adjoint_parameters=[...] "
        "(an empty list when it has none)"
    )


def _checked_grid(constructor: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def grid(field, y0: Tensor, t: Tensor) -> Tensor:
        times = constructor(field, y0, t)
        if not (times[0] == t[0] and times[-1] == t[-1]):
            raise ValueError(
                f"options['grid_constructor'] gave times from {times[0]:g} to {times[-1]:g}, expected from {t[0]:g} to "
                f"{t[-1]:g}: a grid begins and ends where t does"
            )
        return times

    return grid


class _Watched:
    """A field with what torchdiffeq says of its steps, by its callbacks: from this follows why one failed."""

    def __init__(self, field: Callable[..., Tensor]) -> None:
        self._field, self.is_asked = field, False
        # (t, dt) of the last attempt, and whether a stage was evaluated since.
        self._attempt: tuple[Tensor, Tensor] | None = None
        self._begun = True

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self._begun = self.is_asked = True
        rate = self._field(t, y)
        self.is_asked = False
        return rate

    def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self._attempt, self._begun = (t.detach(), dt.detach()), False
        if hasattr(self._field, "callback_step"):
            self._field.callback_step(t, y, dt)

    def __getattr__(self, name: str):
        # The other callbacks, where the field has them.
        if name.startswith("callback_"):
            return getattr(self._field, name)
        raise AttributeError(name)

    def failure(self, integrator: str, ts: Times, rtol, atol, max_steps: int) -> str:
        """Why no further step was taken. An attempt is announced before its time and state are looked at, and stages
        are evaluated after: one that got none was refused for these, and otherwise the number of steps was."""
        t, dt = self._attempt or (ts[0], None)
        if self._begun:
            what = f"{max_steps} steps were not enough: raise max_steps, or loosen rtol={rtol} and atol={atol}"
        else:
            assert dt is not None  # announced
            forth = dt if ts[-1] > ts[0] else -dt
            if t + forth != t and bool(dt.isfinite()):
                what = "the state became non-finite (NaN or infinite)"
            elif dt > 0:
                what = (
                    f"the step size fell to {dt.item():.3g}, below what the time can resolve: the solution may blow "
                    f"up, be discontinuous or stiff, or rtol={rtol} and atol={atol} be out of reach"
                )
            else:
                what = "the field returned values that are not finite (NaN or infinite), so no step size is accepted"
        return f"integration by {integrator!r} failed at t = {t.item():.6g}: {what}"


def _check_finite(solution: Tensor, t: Tensor, integrator: str) -> None:
    finite = solution.detach().isfinite()
    if bool(finite.all()):
        return
    times = ~finite.flatten(1).all(1)
    samples = (~finite.all(-1)).any(0).reshape(-1).nonzero().reshape(-1).tolist()
    raise IntegrationError(
        f"integration by {integrator!r}: the state is not finite from t = {t[times][0].item():.6g} on, in sample(s) "
        f"{samples[:10]}{' ...' if len(samples) > 10 else ''} of {solution[0, ..., 0].numel()}: "
        "take smaller steps, or an adaptive method; throw=False returns the states as they are"
    )
