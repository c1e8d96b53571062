"""The compiled part of a reference solve: one system, one solver, one state or a batch of them, in chunks of outputs.

Chunks bound the memory and let progress show. What decides the next step is carried across their boundaries, so they
change no result; the last one is filled up, so that one compilation serves any number of outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from diffrax import RESULTS
from optimistix import rms_norm

from ndae.solvers.programs import Program
from ndae.solvers.progress import Progress
from ndae.solvers.solution import SUCCESS
from ndae.solvers.stepping.esdirk import Esdirk
from ndae.solvers.stepping.implicit_method import Work
from ndae.solvers.stepping.jacobians import WHOLE
from ndae.solvers.stepping.jumps import Jumps
from ndae.solvers.stepping.loop import steps_to
from ndae.solvers.stepping.projected_step import STALL_ATTEMPTS, EndOnSaveTimes, ProjectedSolver, StepState
from ndae.solvers.stepping.radau_iia import RadauIIA

Parameters = Mapping[str, Any] | None  # arrays, and what unknown functions are

# "lax" loops over stages: the default keeps what a reverse pass would need, which no reference has.
SOLVERS: dict[str, Callable[[Any, Any], diffrax.AbstractSolver]] = {
    "dopri8": lambda rtol, atol: diffrax.Dopri8(scan_kind="lax"),
    "dopri5": lambda rtol, atol: diffrax.Dopri5(scan_kind="lax"),
    "tsit5": lambda rtol, atol: diffrax.Tsit5(scan_kind="lax"),
    "kvaerno5": Esdirk,  # these two for stiff forces
    "radau13": RadauIIA,
}

#: How many times its tolerance the end of a step may be moved by a projection; components count down to this share of
#: the largest one.
MOST_MOVED, LEAST_SHARE = 1e4, 1e-3
_CHUNK_OUTPUTS = 1024
_CHUNK_NUMBERS = 2**20


@dataclass(frozen=True)
class Outcome:
    """What a kernel returns: as Solution names it, and of every solve where it ended, `t` and `y`."""

    ts: np.ndarray
    rows: dict[str, Any]
    stats: dict[str, Any]
    result: Any
    n_reached: Any
    t: np.ndarray
    y: np.ndarray


class ReferenceKernel:
    """Solves for one start, or with `batched` for (batch, n) of them; call it with 64-bit JAX switched on.

    `motion` has the methods of ConstrainedMotion: derivative(t, y, parameters), after_step(t, y, parameters, floor) and
    describe(t, y, parameters). `batched_parameters` are the names of those with one value for each of the batch, `norm`
    makes one number of the errors of all components, in units of their tolerances. `name` is what a log calls it.
    `jacobians()` are those of implicit methods (ndae.solvers.stepping.jacobians). `recipe` is all that the motion
    depends on beside this package, None where that can't be said (ndae.solvers.programs).
    """

    def __init__(
        self,
        motion: Any,
        solver: str,
        batched: bool,
        batched_parameters: tuple[str, ...] = (),
        norm: Callable[[Any], Any] = rms_norm,
        name: str = "points",
        jacobians: Callable[[], Any] = lambda: WHOLE,
        recipe: str | None = None,
    ) -> None:
        self.motion, self._norm, self._name = motion, norm, name
        make: Any = SOLVERS[solver]
        self._make_solver = partial(make, jacobians=jacobians()) if isinstance(make, type) else make
        self._batched = batched
        self._batched_parameters = frozenset(batched_parameters)
        self._recipe = None if recipe is None else repr((recipe, solver, batched, sorted(self._batched_parameters)))
        self._compiled: dict[tuple, Program] = {}

    def call(self, method: str, t: float, y: np.ndarray, parameters: Parameters, *more: Any) -> Any:
        """What `method` of the motion says of every state y at time t: a tree of arrays (*batch, ...)."""
        function = getattr(self.motion, method)

        def call(t, y, more, parameters):
            return function(t, y, parameters, *more)

        out = self._call(method, call, (None, 0, None), t, self._flatten(y), more, parameters=parameters)
        return self._unflatten(out, y.shape[:-1])

    def solve(
        self,
        y0: np.ndarray,
        ts: np.ndarray,
        rtol: float,
        atol: float | np.ndarray,
        max_steps: int,
        parameters: Parameters,
        progress: Progress | None,
        jumps: Jumps | None = None,
    ) -> Outcome:
        """The solution at `ts`, as far as it got; `jumps` (*batch, n) are times at which the derivative switches."""
        y = self._flatten(y0)
        shape = y.shape[:-1]  # () or (batch,)
        switches = jumps is not None
        jumps = Jumps.none(shape) if jumps is None else jax.tree.map(lambda at: self._flatten(np.asarray(at)), jumps)
        length = int(np.clip(_CHUNK_NUMBERS // y.size, 8, _CHUNK_OUTPUTS))
        length = min(length, max(8, 1 << (ts.size - 2).bit_length()))  # few outputs need no long chunk
        resume = jax.tree.map(lambda x: np.broadcast_to(x, shape), StepState.fresh())
        active = np.ones(shape, dtype=bool)
        reached = np.ones(shape, dtype=int)
        accepted = np.zeros(shape, dtype=int)
        result = np.full(shape, SUCCESS, dtype=object)
        end = np.full(shape, ts[0])
        chunks, counts = [], {}
        if progress is not None and not self._compiled:
            progress(0.0, "XLA compiles the equations, or loads what it has compiled before")
        for first in range(0, ts.size - 1, length):
            last = min(first + length, ts.size - 1)
            times = np.pad(ts[first : last + 1], (0, first + length - last), mode="edge")
            out = self._call(
                "steps across jumps" if switches else "steps",
                partial(self._solve_chunk, switches),
                (0, 0, 0, 0, None, None, None, None, None, None),
                y, resume, active, jumps, times, ts[-1], first == 0, rtol, atol, max_steps, parameters=parameters,
            )  # fmt: skip
            y, resume = out["y"], out["resume"]
            count = np.where(active, np.minimum(out["count"], last - first), 0)
            reached += count
            accepted += out["accepted"]
            counts = {name: counts.get(name, 0) + value for name, value in out["counts"].items()}
            end = np.where(active, out["t"], end)
            stopped = active & ~out["successful"]
            for where in map(tuple, np.argwhere(stopped)):
                ended: Any = [out[name][where] for name in ("exhausted", "collapsed", "t")]
                exhausted, collapsed, t = ended
                spent = int(np.asarray(resume.n_steps)[where])
                result[where] = _reason(exhausted, collapsed, t, spent, max_steps)
            active = active & ~stopped
            keep = slice(0 if first == 0 else 1, last - first + 1)  # a chunk's first row is the last one's last
            index = (*(slice(None),) * len(shape), keep)
            chunks.append(jax.tree.map(lambda value, index=index: value[index], out["rows"]))
            if progress is not None:
                share = (ts[last] - ts[0]) / (ts[-1] - ts[0])
                progress(float(share), f"reference solution: {ts[last]:.6g} of {ts[-1]:.6g}")
            if not active.any():
                break
        rows = joined(chunks, reached)
        n_steps = resume.n_steps
        stats = {"n_steps": n_steps, "n_accepted": accepted, "n_rejected": n_steps - accepted}
        stats |= counts
        if not counts:  # as many in every step
            stats["n_f_evals"] = n_steps * cast(Any, self._make_solver(rtol, atol)).tableau.num_stages
        return self._outcome(y0.shape[:-1], ts, rows, reached, result, stats, end, y)

    def _outcome(self, batch, ts, rows, reached, result, stats, t, y) -> Outcome:
        rows, reached, result, stats, t, y = self._unflatten((rows, reached, result.astype(str), stats, t, y), batch)
        n_times = int(np.max(reached))
        if not batch:
            reached, result = int(reached), str(result)
            stats = {name: int(value) for name, value in stats.items()}
        return Outcome(ts[:n_times], rows, stats, result, reached, t, y)

    def _call(self, name: str, function: Callable, axes: tuple[int | None, ...], *arguments: Any, parameters):
        """`function(*arguments, parameters)`, compiled, and mapped over the batch where there is one."""
        names = tuple(sorted(parameters or ()))
        if (name, names) not in self._compiled:
            own = {key: 0 if key in self._batched_parameters else None for key in names} or None
            mapped = jax.vmap(function, in_axes=(*axes, own)) if self._batched else function
            recipe = None if self._recipe is None else repr((self._recipe, name, names))
            self._compiled[name, names] = Program(mapped, f"{name} of {self._name!r}", self._batched, recipe)
        return self._compiled[name, names](*arguments, parameters or None)

    def _flatten(self, y: np.ndarray) -> np.ndarray:
        return y.reshape(-1, y.shape[-1]) if self._batched else y

    def _unflatten(self, tree: Any, batch: tuple[int, ...]) -> Any:
        n_flat = 1 if self._batched else 0
        return jax.tree.map(lambda x: np.asarray(x).reshape(batch + np.shape(x)[n_flat:]), tree)

    def _solve_chunk(
        self, switches, y0, resume, active, jumps, times, t_end, is_first, rtol, atol, max_steps, parameters
    ):
        motion = self.motion
        floor = atol / rtol  # the size below which a component is measured absolutely

        def after_step(t, y, parameters):
            stepped, (y, good) = y, motion.after_step(t, y, parameters, floor)
            # Near a posture where constraints lose rank a projection follows rounding, far beyond what a step is off.
            size = floor + jnp.abs(stepped) + LEAST_SHARE * jnp.max(jnp.abs(stepped))
            good = good & (jnp.max(jnp.abs(y - stepped) / size) <= MOST_MOVED * rtol)
            if switches:
                y, continuous = motion.behind(jumps, t, y, parameters)
                good = good & continuous
            return y, good

        times = jnp.where(active, times, times[0])  # a solve that has stopped goes no further
        stops = jumps.under(times)
        controller = diffrax.PIDController(rtol=rtol, atol=atol, norm=self._norm)
        ended = steps_to(
            ProjectedSolver(self._make_solver(rtol, atol), after_step),
            motion.derivative,
            # rtol, atol and norm are properties of it, which Pyright takes for fields.
            EndOnSaveTimes(  # pyright: ignore[reportCallIssue]
                controller, stops[1:], t_end, max_steps, resume, jumps
            ),
            jnp.minimum(jumps.over(times[0]), stops[-1]),
            stops[1:],
            y0,
            parameters,
            is_first,  # what the check of the start let through goes before the first step
        )
        rows = jax.vmap(motion.describe, in_axes=(0, 0, None))(times, ended.rows, parameters)
        return {
            "rows": {"y": ended.rows} | rows,  # a motion whose state holds more than y says what y is
            "count": ended.n_stops,
            "accepted": ended.n_accepted,
            "counts": vars(ended.solver_state) if isinstance(ended.solver_state, Work) else {},
            "t": ended.t,
            "y": ended.y,
            "successful": ended.result == RESULTS.successful,
            "exhausted": ended.result == RESULTS.max_steps_reached,
            "collapsed": ended.result == RESULTS.dt_min_reached,
            "resume": ended.controller_state,
        }


def joined(chunks: list[dict[str, Any]], reached: np.ndarray) -> dict[str, Any]:
    """Rows of all chunks, up to the output that the last solve reached; a solve that stopped before holds its last."""
    axis = reached.ndim
    index = np.minimum(np.arange(reached.max()), reached[..., None] - 1)

    def join(*parts: np.ndarray) -> np.ndarray:
        value = np.concatenate(parts, axis=axis)
        return np.take_along_axis(value, index.reshape(index.shape + (1,) * (value.ndim - index.ndim)), axis)

    return jax.tree.map(join, *chunks)


def _reason(exhausted: np.bool_, collapsed: np.bool_, t: np.floating, spent: int, max_steps: int) -> str:
    """Why a solve stopped, in words that say what to do."""
    if exhausted and spent < max_steps:
        return (
            f"steps collapsed at t = {t:.9g}, where {STALL_ATTEMPTS} attempts in a row got nowhere ({spent} in all): "
            "the solution ends there, or goes on where the equations are not smooth enough for small errors"
        )
    if exhausted:
        return (
            f"max_steps = {max_steps} attempts were spent at t = {t:.9g}; raise max_steps, or rtol and atol, or take "
            "'radau13' if the equations are stiff"
        )
    if collapsed:
        return (
            f"the step size fell below rounding at t = {t:.9g}: the equations are not finite there, a constraint "
            "Jacobian loses rank, or the tolerances are below what float64 can do"
        )
    return f"the solver failed within a step at t = {t:.9g}; try another solver or looser tolerances"
