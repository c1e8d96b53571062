"""The solution of a DAE as a pure JAX function of its start and its parameters, for jit, vmap and grad."""

from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jaxtyping import Array, Bool, Float64, Int64

from solvers.arguments import check_settings
from solvers.dae import absolute_tolerances
from solvers.esdirk import Esdirk
from solvers.formulations import formulation_named
from solvers.projected_step import EndOnSaveTimes, ProjectedSolver, StepState
from solvers.reduced_motion import ReducedMotion
from solvers.start import name_places

# Stages by the default loops of diffrax, which a reverse pass can go through.
_SOLVERS: dict[str, Callable[[Any, Any], diffrax.AbstractSolver]] = {
    "dopri8": lambda rtol, atol: diffrax.Dopri8(),
    "dopri5": lambda rtol, atol: diffrax.Dopri5(),
    "tsit5": lambda rtol, atol: diffrax.Tsit5(),
    "kvaerno5": lambda rtol, atol: Esdirk(rtol, atol, differentiable=True),
}


class FlowResult(eqx.Module):
    """A solution as JAX arrays: `x` (n_times, n_states) in the order of the system's states, at the times `ts`.

    `y` (n_times, N) and `w` (n_times, n) are the reduced system's. `succeeded` says whether the last time was reached;
    where it was not, outputs beyond the end are NaN. `n_steps` counts attempts.
    """

    ts: Float64[Array, " n_times"]
    x: Float64[Array, "n_times n_states"]
    y: Float64[Array, "n_times n_y"]
    w: Float64[Array, "n_times n_w"]
    succeeded: Bool[Array, ""]
    n_steps: Int64[Array, ""]


def dae_flow(
    system: Any,
    *,
    formulation: Any = "projection",
    solver: str = "dopri8",
    rtol: float = 1e-10,
    atol: Any = None,
    max_steps: int = 4096,
    adjoint: diffrax.AbstractAdjoint | None = None,
    throw: bool = True,
) -> Callable[..., FlowResult]:
    """The flow of a symbolic.DAESystem: `flow(start, ts, parameters=None) -> FlowResult`, pure JAX.

    `start` is an array (n_states,) in the order of the states or a mapping by name (algebraic variables may be left
    out, or are guesses), `ts` (n_times,) increases strictly, `parameters` are values by name. Under jit, vmap and grad
    (with respect to start and parameters, not `ts`), with 64-bit JAX switched on by the caller: `jax.enable_x64(True)`.
    `formulation`, `solver`, `rtol` and `atol` are those of solvers.solve_dae. The start is not checked: a formulation
    that projects moves it to the constraints, the others integrate from it as it is.

    Derivatives are those of the discrete solution with its steps held fixed, by `adjoint`, by default
    diffrax.RecursiveCheckpointAdjoint (reverse mode; diffrax.ForwardMode() for jvp); projections and implicit stages
    are differentiated as the exact ones (implicit function theorem).

    The returned function raises at run time where a solve stops early, after `max_steps` attempts or at a singularity;
    with `throw=False` the result says so in `succeeded`. Raises ValueError for bad settings, and RuntimeError when
    called in 32 bits.
    """
    check_settings(solver, max_steps, rtol=rtol)
    motion_of = ReducedMotion(system.reduce(), formulation_named(formulation), differentiable=True)
    atol = absolute_tolerances(system, atol, rtol)
    tolerances = np.concatenate([atol, np.ones(motion_of.guessed.size)])
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint

    def flow(start: Any, ts: Any, parameters: Mapping[str, Any] | None = None) -> FlowResult:
        if not jax.config.jax_enable_x64:
            raise RuntimeError(
                "dae_flow computes in 64 bits, and JAX is in 32; call it inside `with jax.enable_x64(True):` or set "
                'jax.config.update("jax_enable_x64", True) first'
            )
        ts = jnp.asarray(ts, dtype=jnp.float64)
        parameters = {str(name): jnp.asarray(p, jnp.float64) for name, p in (parameters or {}).items()} or None
        y0, guess = _split(system, start)
        return _solve(motion_of, y0, guess, ts, parameters)

    def _solve(motion, y0, guess, ts, parameters):
        state, _, converged = motion.begin(ts[0], y0, parameters, jax.lax.stop_gradient(guess))
        floor = tolerances / rtol

        def after_step(t, state, parameters):
            return motion.after_step(t, state, parameters, floor)

        state, good = after_step(ts[0], state, parameters)
        controller = diffrax.PIDController(rtol=rtol, atol=tolerances)
        limit = jnp.asarray(max_steps, dtype=jnp.int64)
        out = diffrax.diffeqsolve(
            diffrax.ODETerm(motion.derivative),
            ProjectedSolver(_SOLVERS[solver](rtol, tolerances), after_step),
            t0=ts[0],
            t1=ts[-1],
            dt0=None,
            y0=state,
            args=parameters,
            saveat=diffrax.SaveAt(ts=ts[1:]),
            stepsize_controller=EndOnSaveTimes(controller, ts[1:], ts[-1], limit, StepState.fresh()),
            adjoint=adjoint,
            max_steps=max_steps,
            throw=False,
        )
        succeeded = (out.result == RESULTS.successful) & converged & good
        states = jnp.concatenate([state[None], out.ys])
        # Where nothing was saved, something whose derivative is finite; the NaN is put back behind it.
        saved = jnp.concatenate([jnp.ones(1, bool), jnp.isfinite(out.ts)])
        rows = jax.vmap(motion.describe, in_axes=(0, 0, None))(ts, jnp.where(saved[:, None], states, state), parameters)
        functions = motion.functions
        x = jax.vmap(functions.states, in_axes=(0, 0, 0, None))(rows["y"], rows["w"], ts, parameters)
        x, y, w = (jnp.where(saved[:, None], value, jnp.nan) for value in (x, rows["y"], rows["w"]))
        succeeded = succeeded & jnp.all(jnp.isfinite(x))
        if throw:
            x, y, w = eqx.error_if(
                (x, y, w),
                ~succeeded,
                f"a solve of {system.name!r} stopped before the last of its output times: it met a singularity, its "
                f"step size fell below rounding, or max_steps = {max_steps} attempts were spent; solve_dae with the "
                "same start says which and where",
            )
        return FlowResult(ts, x, y, w, succeeded, jnp.asarray(out.stats["num_steps"], jnp.int64))

    return flow


def _split(system: Any, start: Any) -> tuple[Array, Array]:
    """y and a first guess of w from an array of all states or a mapping by name."""
    reduced, names = system.reduce(), [s.name for s in system.states]
    if isinstance(start, Mapping):
        given = {str(name): jnp.asarray(value, jnp.float64) for name, value in start.items()}
    else:
        array = jnp.asarray(start, jnp.float64)
        if array.shape != (len(names),):
            raise ValueError(
                f"start has shape {array.shape}; expected ({len(names)},), the states {', '.join(names)} (batches go "
                "through jax.vmap)"
            )
        given = {name: array[i] for i, name in enumerate(names)}
    places = name_places(system)
    unknown = [name for name in given if name not in places]
    if unknown:
        raise ValueError(f"start names {', '.join(unknown)}; the states of {system.name!r} are {', '.join(names)}")
    y, w = [None] * len(reduced.y), [jnp.zeros(())] * len(reduced.w)
    for name, value in given.items():
        array, column = places[name]
        (y if array == "y" else w)[column] = jnp.asarray(value)
    missing = [symbol.name for symbol, value in zip(reduced.y, y, strict=True) if value is None]
    if missing:
        raise ValueError(f"start gives no value for {', '.join(missing)}")
    return jnp.stack(y), jnp.nan_to_num(jnp.stack(w)) if w else jnp.zeros(0)
