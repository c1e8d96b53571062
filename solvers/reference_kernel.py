"""The compiled part of a reference solve: one system, one solver, one state or a batch of them, in chunks of outputs.

Chunks bound the memory and let progress show. What decides the next step is carried across their boundaries, so they
change no result; the last one is filled up, so that one compilation serves any number of outputs.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
from diffrax import RESULTS

from solvers._jax_types import Flag, PhaseState
from solvers.constrained_motion import ConstrainedMotion
from solvers.projected_step import EndOnSaveTimes, ProjectedSolver, StepState
from solvers.solution import LEVELS, SUCCESS, Solution

Progress = Callable[[float, str], None]
Parameters = Mapping[str, np.ndarray] | None

# "lax" loops over stages: the default keeps what a reverse pass would need, which no reference has.
SOLVERS: dict[str, Callable[[], diffrax.AbstractSolver]] = {
    "dopri8": lambda: diffrax.Dopri8(scan_kind="lax"),
    "dopri5": lambda: diffrax.Dopri5(scan_kind="lax"),
    "tsit5": lambda: diffrax.Tsit5(scan_kind="lax"),
    # For stiff forces. The default chord iteration takes 4 to 10 times more steps on pendulums.
    "kvaerno5": lambda: diffrax.Kvaerno5(root_finder=optimistix.Newton(rtol=1e-12, atol=1e-12), scan_kind="lax"),
}

_CHUNK_OUTPUTS = 1024
_CHUNK_NUMBERS = 2**20


@lru_cache(maxsize=16)  # compiling takes seconds, so the same system is compiled once
def compiled_kernel(system: Any, solver: str, project: bool, batched: bool) -> "ReferenceKernel":
    return ReferenceKernel(system, solver, project, batched)


class ReferenceKernel:
    """Solves for one start, or with `batched` for (batch, n_states) of them; call it with 64-bit JAX switched on."""

    def __init__(self, system: Any, solver: str, project: bool, batched: bool) -> None:
        self._motion = ConstrainedMotion(system)
        self._solver = SOLVERS[solver]()
        self._projects = project
        self._batched = batched

        def compiled(function: Callable, axes: tuple[int | None, ...]) -> Callable:
            return jax.jit(jax.vmap(function, in_axes=axes) if batched else function)

        self._chunk = compiled(self._solve_chunk, (0, 0, 0, None, None, None, None, None, None, None))
        self._describe = compiled(self._motion.describe, (None, 0, None))
        self._consistent = compiled(self._motion.project, (None, 0, None, None))

    def describe(self, t: float, q: np.ndarray, v: np.ndarray, parameters: Parameters) -> dict[str, np.ndarray]:
        """What Solution says of one time, for every start, (*batch, ...)."""
        return self._unflatten(self._describe(t, self._flatten(q, v), parameters), q.shape[:-1])

    def consistent(
        self, t: float, q: np.ndarray, v: np.ndarray, parameters: Parameters, max_iterations: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Projected q and v, and whether that converged, of the batch's shape."""
        out = self._consistent(t, self._flatten(q, v), parameters, max_iterations)
        y, converged = self._unflatten(out, q.shape[:-1])
        return *np.split(y, 2, axis=-1), converged

    def solve(
        self,
        q0: np.ndarray,
        v0: np.ndarray,
        ts: np.ndarray,
        rtol: float,
        atol: float,
        max_steps: int,
        parameters: Parameters,
        progress: Progress | None,
    ) -> Solution:
        """The solution at `ts`, as far as it got."""
        y = self._flatten(q0, v0)
        shape = y.shape[:-1]  # () or (batch,)
        length = int(np.clip(_CHUNK_NUMBERS // y.size, 8, _CHUNK_OUTPUTS))
        resume = jax.tree.map(lambda x: jnp.broadcast_to(x, shape + x.shape), StepState.fresh())
        active = np.ones(shape, dtype=bool)
        reached = np.ones(shape, dtype=int)
        accepted = np.zeros(shape, dtype=int)
        result = np.full(shape, SUCCESS, dtype=object)
        chunks = []
        for first in range(0, ts.size - 1, length):
            last = min(first + length, ts.size - 1)
            times = np.pad(ts[first : last + 1], (0, first + length - last), mode="edge")
            out = self._chunk(y, resume, active, times, ts[-1], first == 0, rtol, atol, max_steps, parameters)
            y, resume = out["y"], out["resume"]
            count = np.where(active, np.minimum(out["count"], last - first), 0)
            reached += count
            accepted += out["accepted"]
            stopped = active & ~np.asarray(out["successful"])
            for where in map(tuple, np.argwhere(stopped)):
                exhausted, collapsed, t = (np.asarray(out[name])[where] for name in ("exhausted", "collapsed", "t"))
                result[where] = _reason(exhausted, collapsed, t, max_steps)
            active = active & ~stopped
            keep = slice(0 if first == 0 else 1, last - first + 1)  # a chunk's first row is the last one's last
            chunks.append(
                {name: np.asarray(value)[*(slice(None),) * len(shape), keep] for name, value in out["rows"].items()}
            )
            if progress is not None:
                share = (ts[last] - ts[0]) / (ts[-1] - ts[0])
                progress(float(share), f"reference solution: {ts[last]:.6g} of {ts[-1]:.6g} s")
            if not active.any():
                break
        rows = _joined(chunks, reached)
        n_steps = np.asarray(resume.n_steps)
        stats = {"n_steps": n_steps, "n_accepted": accepted, "n_rejected": n_steps - accepted}
        if isinstance(self._solver, diffrax.AbstractERK):
            stats["n_f_evals"] = n_steps * self._solver.tableau.num_stages
        return self._solution(q0.shape[:-1], ts, rows, reached, result, stats)

    def _solution(
        self,
        batch: tuple[int, ...],
        ts: np.ndarray,
        rows: dict[str, np.ndarray],
        reached: np.ndarray,
        result: np.ndarray,
        stats: dict[str, np.ndarray],
    ) -> Solution:
        rows, reached, result, stats = self._unflatten((rows, reached, result.astype(str), stats), batch)
        if not batch:
            reached, result = int(reached), str(result)
            stats = {name: int(value) for name, value in stats.items()}
        q, v = np.split(rows["y"], 2, axis=-1)
        return Solution.of_motion(
            ts[: q.shape[-2]],
            q,
            v,
            rows["multiplier"],
            energy=rows["energy"],
            residual={level: rows[level] for level in LEVELS},
            stats=stats,
            result=result,
            n_reached=reached,
        )

    def _flatten(self, q: np.ndarray, v: np.ndarray) -> np.ndarray:
        y = np.concatenate([q, v], axis=-1)
        return y.reshape(-1, y.shape[-1]) if self._batched else y

    def _unflatten(self, tree: Any, batch: tuple[int, ...]) -> Any:
        n_flat = 1 if self._batched else 0
        return jax.tree.map(lambda x: np.asarray(x).reshape(batch + np.shape(x)[n_flat:]), tree)

    def _solve_chunk(self, y0, resume, active, times, t_end, is_first, rtol, atol, max_steps, parameters):
        motion = self._motion
        project = motion.project if self._projects else _keep
        # What the check of the start let through goes before the first step.
        y0 = jnp.where(is_first, project(times[0], y0, parameters)[0], y0)
        times = jnp.where(active, times, times[0])  # a solve that has stopped goes no further
        controller = diffrax.PIDController(rtol=rtol, atol=atol)
        out = diffrax.diffeqsolve(
            diffrax.ODETerm(motion.derivative),
            ProjectedSolver(self._solver, project),
            t0=times[0],
            t1=times[-1],
            dt0=None,
            y0=y0,
            args=parameters,
            saveat=diffrax.SaveAt(
                subs=[diffrax.SubSaveAt(ts=times[1:]), diffrax.SubSaveAt(t1=True)], controller_state=True
            ),
            stepsize_controller=EndOnSaveTimes(controller, times[1:], t_end, max_steps, resume),
            adjoint=diffrax.ForwardMode(),
            max_steps=None,  # the controller counts, over all chunks
            throw=False,
        )
        (saved_ts, end_t), (saved_ys, end_y) = out.ts, out.ys
        states = jnp.concatenate([y0[None], saved_ys])
        rows = jax.vmap(motion.describe, in_axes=(0, 0, None))(times, states, parameters)
        return {
            "rows": rows | {"y": states},
            "count": jnp.sum(jnp.isfinite(saved_ts)),
            "accepted": out.stats["num_accepted_steps"],
            "t": end_t[0],
            "y": end_y[0],
            "successful": out.result == RESULTS.successful,
            "exhausted": out.result == RESULTS.max_steps_reached,
            "collapsed": out.result == RESULTS.dt_min_reached,
            "resume": out.controller_state[1],
        }


def _keep(t: Any, y: PhaseState, parameters: Parameters) -> tuple[PhaseState, Flag]:
    return y, jnp.asarray(True)


def _joined(chunks: list[dict[str, np.ndarray]], reached: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of all chunks, up to the output that the last solve reached; a solve that stopped before holds its last."""
    axis = reached.ndim
    index = np.minimum(np.arange(reached.max()), reached[..., None] - 1)
    rows = {}
    for name in chunks[0]:
        value = np.concatenate([chunk[name] for chunk in chunks], axis=axis)
        rows[name] = np.take_along_axis(value, index.reshape(index.shape + (1,) * (value.ndim - index.ndim)), axis)
    return rows


def _reason(exhausted: np.bool_, collapsed: np.bool_, t: np.floating, max_steps: int) -> str:
    """Why a solve stopped, in words that say what to do."""
    if exhausted:
        return f"max_steps = {max_steps} attempts were spent at t = {t:.9g} s; raise max_steps, or rtol and atol"
    if collapsed:
        return (
            f"the step size fell below rounding at t = {t:.9g} s: the force is not finite there, the constraint "
            "Jacobian loses rank, or the tolerances are below what float64 can do"
        )
    return f"the solver failed within a step at t = {t:.9g} s; try another solver or looser tolerances"
