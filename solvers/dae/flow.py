"""The solution of a DAE as a pure JAX function of its start and its parameters, for jit, vmap and grad."""

from collections.abc import Callable, Mapping
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from jax.core import Tracer
from jaxtyping import Array, Bool, Float64, Int64
from optimistix import max_norm

from ndae.solvers.arguments import (
    check_parameter_names,
    check_settings,
    check_system,
    checked_parameters,
    named_once,
    output_times,
    refuse_functions,
)
from ndae.solvers.dae.algebraic import leading_at_start
from ndae.solvers.dae.describe import DRIFTS, REDUNDANT, absolute_tolerances
from ndae.solvers.dae.formulations import formulation_named
from ndae.solvers.dae.left_out import needed, not_written
from ndae.solvers.dae.left_out_jax import fill_in
from ndae.solvers.dae.reduced_motion import ReducedMotion
from ndae.solvers.dae.start import ConsistentStart, check_given, check_start_of, name_places, resolve_start
from ndae.solvers.dae.start_of_points import groups_of
from ndae.solvers.dae.switching import MAX_CHANGES, TOLERATED, switching_of
from ndae.solvers.solution import SUCCESS, SolveError
from ndae.solvers.stepping.esdirk import Esdirk
from ndae.solvers.stepping.jumps import Jumps
from ndae.solvers.stepping.projected_step import EndOnSaveTimes, ProjectedSolver, StepState
from ndae.solvers.stepping.radau_iia import RadauIIA
from ndae.symbolic.backends.supplied import Supplied
from ndae.symbolic.ground.forks import check_process
from ndae.symbolic.ground.words import check_known
from ndae.symbolic.systems.system import System

# Stages by the default loops of diffrax, which a reverse pass can go through.
_SOLVERS: dict[str, Callable[[Any, Any], diffrax.AbstractSolver]] = {
    "dopri8": lambda rtol, atol: diffrax.Dopri8(),
    "dopri5": lambda rtol, atol: diffrax.Dopri5(),
    "tsit5": lambda rtol, atol: diffrax.Tsit5(),
    "kvaerno5": lambda rtol, atol: Esdirk(rtol, atol, differentiable=True),
    "radau13": lambda rtol, atol: RadauIIA(rtol, atol, differentiable=True),
}
_ADJOINTS = (diffrax.RecursiveCheckpointAdjoint, diffrax.ForwardMode, diffrax.DirectAdjoint)
_SUCCESS = 0
# What `FlowResult.status` counts; of these, what is wrong before the first step.
_NOT_BEGUN = (1, 2, 3, 4, 5, 10, 11, 12)
REASONS = (
    SUCCESS,
    "the start, a parameter or an output time is not a finite number",
    "the output times do not increase",
    "the start is inconsistent: write `start = consistent_initial_condition(system, start)` first",
    "the equations give no values of the algebraic variables and highest derivatives at the start: they are singular "
    "there, or Newton's iteration needs a nearer guess",
    "the start could not be projected onto the constraints",
    "max_steps attempts were spent, or thousands that got nowhere; raise max_steps, or rtol and atol",
    "the step size fell below rounding: the equations are singular or not finite there, or the tolerances are below "
    "what float64 can do",
    "the solver failed within a step; try another solver or looser tolerances",
    "the equations for the highest derivatives could not be solved at an output time",
    f"conditions on time change more than {MAX_CHANGES} times: solve shorter spans, one after the other",
    "a constraint jumps where an input of time does, so its variables would have to; solve_dae says which and when",
    "a table is asked outside of its times; solve_dae says which",
    "an equation that was taken as redundant no longer holds with the others; solve_dae says which",
)


class FlowResult(eqx.Module):
    """A solution as JAX arrays: `x` (n_times, n_states) in the order of the system's states, at the times `ts`.

    `y` (n_times, N) and `w` (n_times, n) are the reduced system's. `status` is 0 where the last time was reached, else
    the number of a reason in ndae.solvers.dae.flow.REASONS; outputs that were not reached are NaN, and derivatives
    through them are not finite. `t_end` is where the solve ended, `n_steps` counts attempts.
    """

    ts: Float64[Array, " n_times"]
    x: Float64[Array, "n_times n_states"]
    y: Float64[Array, "n_times n_y"]
    w: Float64[Array, "n_times n_w"]
    status: Int64[Array, ""]
    t_end: Float64[Array, ""]
    n_steps: Int64[Array, ""]

    @property
    def succeeded(self) -> Any:
        """Whether the last output time was reached."""
        return self.status == _SUCCESS

    def reason(self) -> Any:
        """Outside of jit: "successful" or where and why it stopped; an array of texts of a batch."""
        status, t_end = np.asarray(self.status), np.asarray(self.t_end)
        texts = np.empty(status.shape, dtype=object)
        for index in np.ndindex(status.shape):
            text = REASONS[status[index]]
            texts[index] = text if status[index] == _SUCCESS else f"{text} (t = {t_end[index]:.9g})"
        return texts if texts.ndim else str(texts[()])


def flow(
    system: Any,
    *,
    method: Any = "projection",
    integrator: str = "dopri8",
    rtol: float = 1e-10,
    atol: Any = None,
    max_steps: int = 4096,
    start_tol: float | None = 1e-8,
    adjoint: diffrax.AbstractAdjoint | None = None,
    throw: bool = True,
) -> Callable[..., FlowResult]:
    """The flow of a System: `flow(start, ts, parameters=None, functions=None, guess=None) -> FlowResult`, pure JAX.

    `start` is an array (n_states,) in the order of the states or a mapping by name (algebraic variables may be left
    out, NaN in an array, and of a mapping what the constraints determine from the rest), `guess` in the same form says
    where the search for what is left out begins, `ts` (n_times,) increases strictly, `parameters` are values by name.
    Under jit, vmap and grad (with respect to start and parameters, not `ts`), with 64-bit JAX switched on by the
    caller: `jax.enable_x64(True)`. `method`, `integrator` (`by` there), `rtol`, `atol` and `start_tol` are those of
    ndae.solve; with `start_tol=None` the start is not checked: a formulation that projects moves it to the constraints,
    the others integrate from it as it is. Algebraic variables follow, and values that the start gives of them are
    guesses, which nothing here warns of: solve_dae does. Where they can be several things and nothing chooses, a call
    outside of jit warns which is taken.

    Steps end where an input of time switches, and first derivatives by parameters that say when are right as well, no
    higher ones. Other derivatives are those of the discrete solution with its steps held fixed, by `adjoint`: for
    reverse mode diffrax.RecursiveCheckpointAdjoint() (the default), for forward mode, second derivatives included,
    diffrax.ForwardMode(), for both diffrax.DirectAdjoint() (with a small `max_steps`, which it always makes and
    stores). Projections, implicit stages and algebraic variables are differentiated as the exact ones (implicit
    function theorem): algebraic variables to any order, implicit stages and the start (its projection, and what it
    leaves out) to the second.

    A solve that stops early never stops the others of a batch: under jit and vmap `status` says of each whether and
    why, its outputs that were not reached are NaN, and derivatives through them are not finite. To go on with the rest,
    mask before use: `x = jnp.where(result.succeeded[:, None, None], result.x, 0.0)`. Where the status is known in the
    call, that is outside of jit and vmap, it is an error unless `throw=False`: ValueError for a start, parameters or
    times that are none, SolveError (its `solution` is the FlowResult) for a solve that stopped on its way.
    `functions` says what unknown functions of the system are, as in ndae.solve; derivatives go to the arrays in them
    where they are pytrees, such as Equinox's modules. Raises ValueError for bad settings and wrong shapes or names, and
    RuntimeError when called in 32 bits.
    """
    check_settings(integrator, max_steps, rtol=rtol, **({} if start_tol is None else {"start_tol": start_tol}))
    formulation = formulation_named(method)
    check_system(system)
    if getattr(formulation, "invariants", ()):
        raise ValueError("flow projects on constraints alone: solve with Projected(invariants=...) by ndae.solve")
    motion = ReducedMotion(system.reduce().base, formulation, differentiable=True)
    atol = absolute_tolerances(system, atol, rtol)
    tolerances = np.concatenate([atol, np.ones(motion.guessed.size)])
    adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
    if not isinstance(adjoint, _ADJOINTS):
        raise ValueError(
            f"adjoint {adjoint!r} cannot go through projections and output times; choose one of "
            f"{', '.join(f'diffrax.{kind.__name__}()' for kind in _ADJOINTS)}"
        )
    switching = switching_of(motion.reduced)
    unwritten = set(np.flatnonzero(not_written(system)).tolist())

    def flow(
        start: Any,
        ts: Any,
        parameters: Mapping[str, Any] | None = None,
        functions: Mapping[Any, Any] | None = None,
        guess: Any = None,
    ) -> FlowResult:
        check_process()
        if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]  # JAX adds it by name
            raise RuntimeError(
                "flow computes in 64 bits, and JAX is in 32; call it inside `with jax.enable_x64(True):` or set "
                'jax.config.update("jax_enable_x64", True) first'
            )
        if not isinstance(ts, Tracer):
            ts = output_times(ts)
        ts = jnp.asarray(ts, dtype=jnp.float64)
        if ts.ndim != 1 or ts.size < 2:
            raise ValueError(f"ts has shape {ts.shape}; give a vector of at least two output times, the start first")
        parameters = named_once("parameters", parameters or {})
        refuse_functions(system.name, parameters)
        parameters = {name: jnp.asarray(p, jnp.float64) for name, p in parameters.items()} or None
        known = system if functions is None else called_functions(system, functions)
        check_parameter_names(known, parameters)
        for name, value in (parameters or {}).items():
            if value.ndim:
                raise ValueError(f"parameter {name!r} has shape {value.shape}; give one number (batches: jax.vmap)")
        y0, w0, near, left_out, guessed = _split(system, start, guess)
        optional = sorted(unwritten | left_out)
        parameters = known.reduce().jax().with_functions(parameters)
        by_w = needed(motion.reduced, optional, np.where(guessed, 1.0, np.nan))
        result = solve(y0, w0, near, ts, parameters, tuple(optional), tuple(by_w))
        if motion.guessed.size:
            _warn_of_roots(known, result, w0, parameters)
        if throw and not isinstance(result.status, Tracer) and result.status != _SUCCESS:
            numbers = {name: p for name, p in (parameters or {}).items() if not isinstance(p, Supplied)}
            raise _failure(known, result, start, numbers, start_tol)
        return result

    def begin(y0, guess, near, times, parameters, optional, by_w):
        """The state to start from, the jumps on the way, and 0 or the number of the reason for which there is none."""
        t0, filled = times[0], jnp.asarray(True)
        if optional:
            y0, filled = fill_in(motion.functions, y0, np.array(optional), t0, parameters, guess, by_w, near)
        finite = jnp.all(jnp.isfinite(y0))
        state, found = motion.begin(t0, y0, parameters, jax.lax.stop_gradient(jnp.nan_to_num(guess)))
        consistent = jnp.asarray(True)
        if start_tol is not None:
            consistent = _is_consistent(motion, t0, y0, parameters, start_tol)
        jumps, complete = switching.find(t0, times[-1], parameters) if switching else (Jumps.none(), jnp.asarray(True))
        continuous = ~jnp.any(switching.broken(jumps, y0, parameters, start_tol or TOLERATED))
        state, projected = motion.after_step(t0, state, parameters, tolerances / rtol, first=True)
        good = {1: finite, 3: consistent, 4: found & filled, 5: projected, 10: complete, 11: continuous}
        good[12] = switching.knows(t0, times[-1], parameters)
        return state, jumps, _first_that_fails(good)

    @eqx.filter_jit
    def solve(y0, guess, near, ts, parameters, optional, by_w):
        inputs = jnp.concatenate([y0, *[jnp.ravel(x) for x in jax.tree.leaves(parameters) if eqx.is_inexact_array(x)]])
        finite = jnp.all(jnp.isfinite(inputs[y0.size :])) & jnp.all(jnp.isfinite(ts)) & ~jnp.any(jnp.isinf(guess))
        increasing = jnp.all(ts[1:] > ts[:-1])
        times = jnp.where(finite & increasing, ts, jnp.arange(ts.size, dtype=ts.dtype))
        t0, frozen = times[0], jax.lax.stop_gradient((y0, parameters))
        failed = begin(frozen[0], guess, near, times, frozen[1], optional, by_w)[-1]
        bad_start = jnp.where(finite, jnp.where(increasing, failed, 2), 1)
        # What does not begin has no derivatives here: a zero that a program masks it with, times NaN, would be NaN in
        # the derivatives of all others by what they share. Values are the same, and compiled once.
        y0, parameters = jax.tree.map(
            lambda x, fixed: jnp.where(bad_start == _SUCCESS, x, fixed), (y0, parameters), frozen
        )
        state, jumps, _ = begin(y0, guess, near, times, parameters, optional, by_w)

        def after_step(t, state, args):
            parameters, jumps = args
            if switching and parameters:
                state = _across(motion, jumps, t, state, parameters)
            state, good = motion.after_step(t, state, parameters, tolerances / rtol)
            if switching:
                state, goes_on = motion.behind(jumps, t, state, parameters)
                good = good & goes_on
            return state, good

        # No step from a start that is none: one attempt is what the loop can't do without.
        limit = jnp.where(bad_start == _SUCCESS, jnp.asarray(max_steps, dtype=jnp.int64), 1)
        stops, controller = jumps.under(times), diffrax.PIDController(rtol=rtol, atol=tolerances, norm=max_norm)
        out = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, state, args: motion.derivative(t, state, args[0])),
            ProjectedSolver(_SOLVERS[integrator](rtol, tolerances), after_step),
            t0=jumps.over(t0),
            t1=stops[-1],
            dt0=None,
            y0=state,
            args=(parameters, jumps),
            saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=stops[1:]), diffrax.SubSaveAt(t1=True)]),
            # rtol, atol and norm are properties of it, which Pyright takes for fields.
            stepsize_controller=EndOnSaveTimes(  # pyright: ignore[reportCallIssue]
                controller, stops[1:], times[-1], limit, StepState.fresh(), jax.lax.stop_gradient(jumps)
            ),
            adjoint=adjoint,
            max_steps=max_steps,
            throw=False,
        )
        made: Any = out.ts, out.ys
        (saved_ts, (t_end,)), (states, _) = made
        saved = jnp.concatenate([jnp.ones(1, bool), jnp.isfinite(saved_ts)]) & (bad_start == _SUCCESS)
        # Where nothing was saved, something whose derivative is finite; it is marked behind.
        states = jnp.where(saved[:, None], jnp.concatenate([state[None], states]), state)
        rows = jax.vmap(motion.describe, in_axes=(0, 0, None))(times, states, parameters)
        solved = jnp.all(jnp.isfinite(rows["w"]), axis=-1)
        held = jnp.ones(ts.size, bool)
        if motion.reduced.redundant and start_tol is not None:
            held = jax.vmap(lambda t, y: _follows(motion, t, y, parameters))(times, rows["y"])
        x = jax.vmap(motion.functions.states, in_axes=(0, 0, 0, None))(rows["y"], rows["w"], times, parameters)
        reached = jnp.logical_and.accumulate(saved & solved & held)
        x, y, w = (_marked(reached[:, None], value, inputs) for value in (x, rows["y"], rows["w"]))
        status = jnp.select(
            [
                bad_start != _SUCCESS,
                ~jnp.all(solved | ~saved),
                ~jnp.all(held | ~saved),
                out.result == RESULTS.successful,
                out.result == RESULTS.max_steps_reached,
                out.result == RESULTS.dt_min_reached,
            ],
            [bad_start, 9, 13, _SUCCESS, 6, 7],
            8,
        )
        status = jnp.asarray(status, jnp.int64)
        return FlowResult(ts, x, y, w, status, t_end, jnp.asarray(out.stats["num_steps"], jnp.int64))

    return flow


def called_functions(system: System, functions: Mapping[Any, Any]) -> System:
    """The system with unknown functions given that are called, so that it is solved by what is compiled already."""
    known = system.given(functions)
    if known.reduce().base is not system.reduce().base:
        raise ValueError(
            f"{system.name!r}: tables and Lambdas are put into the equations, and of this flow these are compiled: "
            "make it of system.given({...}) with them"
        )
    return known


def _warn_of_roots(system: System, result: FlowResult, guess: Array, parameters: Any) -> None:
    """Name the roots that were taken at the start, where the equations have several; inside of jit nothing is said."""
    known = (result, guess, parameters)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(known)) or not np.all(np.isfinite(result.w[0])):
        return
    y, w, near, t0 = (np.asarray(value, dtype=np.float64) for value in (result.y[0], result.w[0], guess, result.ts[0]))
    numbers = {name: float(p) for name, p in (parameters or {}).items() if not isinstance(p, Supplied)}
    leading_at_start(system.reduce(), y, near, float(t0), numbers, taken=w)


def _failure(system: Any, result: FlowResult, start: Any, parameters: Any, start_tol: float | None) -> Exception:
    """The error for a solve that failed, as solve_dae has it where it would not have begun."""
    if int(result.status) not in _NOT_BEGUN:
        return SolveError(f"the solve of {system.name!r} stopped early: {result.reason()}", result)
    given = list(start.values()) if isinstance(start, Mapping) else start  # keys may be symbols
    values = jax.tree.leaves((given, parameters, result.ts))
    if start_tol is not None and not any(isinstance(value, Tracer) for value in values):
        try:
            resolve_start(system, start, float(result.ts[0]), checked_parameters(system, parameters), start_tol)
        except ValueError as error:
            return error
    return ValueError(f"the solve of {system.name!r} can't begin: {REASONS[int(result.status)]}")


def _first_that_fails(good: Mapping[int, Any]) -> Any:
    """The first number of a reason whose condition does not hold; 0 where all do."""
    failed = jnp.asarray(_SUCCESS)
    for number, holds in reversed(list(good.items())):
        failed = jnp.where(holds, failed, number)
    return failed


def _across(motion: ReducedMotion, jumps: Jumps, t: Any, state: Array, parameters: Any) -> Array:
    """A state at the end of a step, with the derivative by parameters that it has where the step ends before a jump.

    With the jump at τ(p), y(t) behind it has the further derivative (f before - f behind) dτ/dp; its value is as it is.
    """
    at, after, inside = jumps.inside(t)
    moved = jnp.where(inside, at, 0.0)
    moved = moved - jax.lax.stop_gradient(moved)

    def across(state):
        change = motion.derivative(t, state, parameters) - motion.derivative(after, state, parameters)
        return state + moved * change

    return jax.lax.cond(inside, across, lambda state: state, state)


def _is_consistent(motion: ReducedMotion, t: Any, y: Array, parameters: Any, tol: float) -> Bool[Array, ""]:
    """Whether C(y, t) = 0 and redundant equations hold within `tol`, as check_constraints of the start means it."""
    return (_off("constraints", motion, t, y, parameters) <= tol) & (_off("redundant", motion, t, y, parameters) <= tol)


def _follows(motion: ReducedMotion, t: Any, y: Array, parameters: Any) -> Bool[Array, ""]:
    """Whether redundant equations hold as well as the others do."""
    t, y, parameters = jax.lax.stop_gradient((t, y, parameters))
    drift = _off("constraints", motion, t, y, parameters)
    return _off("redundant", motion, t, y, parameters) <= REDUNDANT + DRIFTS * drift


def _off(kind: str, motion: ReducedMotion, t: Any, y: Array, parameters: Any) -> Array:
    """By how much one state, relative above 1, would have to change to make up for residuals of a kind, at least."""
    if not getattr(motion.reduced, kind):
        return jnp.asarray(0.0)
    residual, jacobian = getattr(motion.functions, kind), getattr(motion.functions, f"{kind}_jacobian")
    by_state = jnp.max(jnp.abs(jacobian(y, t, parameters)) * jnp.maximum(1.0, jnp.abs(y)), axis=-1)
    return jnp.max(jnp.abs(residual(y, t, parameters)) / jnp.maximum(by_state, np.finfo(float).tiny))


@jax.custom_jvp
def _marked(good: Array, x: Array, inputs: Array) -> Array:
    """x, NaN where it is not good; and there, derivatives with respect to all inputs are infinite.

    An error or a NaN in the values is not enough: a gradient may be all that a program computes, and what was never
    integrated has a derivative of zero.
    """
    return jnp.where(good, x, jnp.nan)


@_marked.defjvp
def _marked_jvp(primals, tangents):
    (good, x, inputs), (_, dx, d_inputs) = primals, tangents
    weights = 1.0 + 0.5 * jnp.sin(jnp.arange(inputs.size))  # in forward mode, a direction should not cancel
    # It overflows by products: 0 · ∞ would be NaN, and an output that a program masks has zero cotangents.
    huge = jnp.where(good, 0.0, 1e300)
    return _marked(good, x, inputs), jnp.where(good, dx, 0.0) + huge * (huge * (weights @ d_inputs))


def _one_by_one(system: System, given: Mapping[str, Array]) -> dict[str, Array]:
    """A start of points with its vectors "q" and "v" as single states."""
    found, names, groups = dict(given), [s.name for s in system.states], groups_of(system)
    for key in given.keys() & {"q", "v"}:
        own = names[groups[key]]
        twice = [name for name in own if name in given]
        if twice:
            raise ValueError(f"start gives {twice[0]} twice, by itself and in {key!r}; give it once")
        if given[key].shape not in ((), (len(own),)):
            raise ValueError(f"start[{key!r}] has shape {given[key].shape}; expected ({len(own)},) (batches: jax.vmap)")
        found |= dict(zip(own, jnp.broadcast_to(found.pop(key), (len(own),)), strict=True))
    return found


def _split(system: Any, start: Any, guess: Any) -> tuple[Array, Array, Array | None, set[int], np.ndarray]:
    """y and w, NaN where they are not given, from an array of all states or a mapping by name, and guesses of y.

    And which entries of y are left out, and which of w are not.
    """
    reduced = system.reduce()
    if isinstance(start, ConsistentStart):
        check_start_of(system, start)
        if guess is not None:
            raise ValueError("the start is a ConsistentStart, in which nothing is left to guess: leave guess= out")
        if start.y is not None and start.w is not None and start.states.ndim == 1:
            return jnp.asarray(start.y), jnp.asarray(start.w), None, set(), np.ones(start.w.size, dtype=bool)
        start = start.as_dict()
    given, guesses = _named(system, "start", start), {} if guess is None else _named(system, "guess", guess)
    places = name_places(system)
    y: list[Array | None] = [None] * len(reduced.y)
    w: list[Array | None] = [None] * len(reduced.w)
    near = [*y]
    for name, value in {**guesses, **given}.items():
        array, column = places[name]
        if array == "w":
            # Of an array NaN is what it does not give.
            w[column] = jnp.where(jnp.isnan(value), guesses[name], value) if name in guesses else value
        else:
            (y if name in given else near)[column] = value
    left_out = {i for i, value in enumerate(y) if value is None}
    guessed = np.array([value is not None for value in w], dtype=bool)
    check_given(system, sorted(left_out), by_w=np.flatnonzero(guessed).tolist())
    return _stacked(y), _stacked(w), _stacked(near) if guesses else None, left_out, guessed


def _named(system: Any, what: str, start: Any) -> dict[str, Array]:
    """A start, or guesses, by the names of what they give."""
    names = [s.name for s in system.states]
    if isinstance(start, Mapping):
        given = {name: jnp.asarray(value, jnp.float64) for name, value in named_once(what, start).items()}
        given = given if system.points is None else _one_by_one(system, given)
        wrong = next((name for name, value in given.items() if value.ndim), None)
        if wrong is not None:
            raise ValueError(f"{what}[{wrong!r}] has shape {given[wrong].shape}; give one number (batches: jax.vmap)")
    else:
        array = jnp.asarray(start, jnp.float64)
        if array.shape != (len(names),):
            raise ValueError(
                f"{what} has shape {array.shape}; expected ({len(names)},), the states {', '.join(names)} (batches go "
                "through jax.vmap)"
            )
        given = {name: array[i] for i, name in enumerate(names)}
    check_known(given, name_places(system), f"{what}: {system.name!r}", "state", names)
    return given


def _stacked(values: list[Array | None]) -> Array:
    return jnp.stack([jnp.asarray(jnp.nan) if value is None else value for value in values]) if values else jnp.zeros(0)
