"""Equations of a System with networks in the places of its unknown functions; depth is time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae import methods
from ndae.data.change import sizes
from ndae.data.recording import Recording
from ndae.models.learned_function import LearnedFunction
from ndae.models.pieces import Pieces, check_recordings, fitted, missed, state_units
from ndae.models.tables import TablesOfSamples, tables_of
from ndae.solvers.arguments import check_system, checked_parameters, output_times
from ndae.solvers.dae.describe import describe_states
from ndae.solvers.dae.formulations import GGL, Baumgarte
from ndae.solvers.dae.leading import settled
from ndae.solvers.dae.learned_motion import Held, LearnedMotion
from ndae.solvers.dae.start import resolve_start
from ndae.solvers.depth.classical_rk4 import classical_rk4_step
from ndae.solvers.depth.integrate import ADAPTIVE, integrate
from ndae.solvers.depth.radau import radau_step
from ndae.solvers.solution import SUCCESS, Solution
from ndae.symbolic.backends.supplied_torch import TorchSupplied
from ndae.symbolic.expressions.tables import Table
from ndae.symbolic.forms.reduced import level_of
from ndae.symbolic.functions.vector_function import VectorFunction
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.symbolic.ground.words import check_known
from ndae.symbolic.systems.system import System

IMPLICIT = "radau5"
INTEGRATORS = ("classical_rk4", IMPLICIT, *ADAPTIVE)


@dataclass
class Path:
    """States of a batch at its times: y (batch, n_times, N) and w (batch, n_times, n), the time of each, and the
    method's term of the loss."""

    t: Tensor
    y: Tensor
    w: Tensor
    regularisation: Tensor
    motion: LearnedMotion


@dataclass(frozen=True)
class Estimate:
    """A start that was fitted to measurements: `start` has all states by name, `spread` the standard errors of the
    differential ones, `missed` what was missed, root mean square in standard deviations (or sizes) of the outputs."""

    start: dict[str, float]
    spread: dict[str, float]
    missed: float


@keeps_arguments
class NeuralSystem(nn.Module):
    """A `System` of any index whose unknown functions are networks: F(x', x, t; p, u) = 0 in physical time.

    Equations are reduced once; the leading unknowns are solved for in every evaluation (multipliers are eliminated),
    and the hidden constraints are kept by `method`. States, times and parameters are in the system's units, in float64,
    to which modules are converted.

    - `functions`: what unknown functions are, by the Unknown or its name: modules (..., n) -> (..., outputs), which are
      trained; functions of n tensors and `ndae.table`s, which are known. Those left out are inputs: each recording has
      its own table (`self.inputs`).
    - `learn`: parameters of the system that are trained, from their default values, or from those of a mapping.
    - `method`: `SmoothProjection()` (the default: the nearest state after every step), `EndProjection()` (at the last
      time), `Unconstrained()`, `Penalty(gamma, H)`, `Auxiliary(eta)`, sums of these, and
      `solvers.Baumgarte(alpha)` or `solvers.GGL()`. Projections are in the metric of the states' sizes, `sizes`.
    - `invariants`: names of the system's invariants whose value at its own start each sample keeps, by projection.
    - `integrator`: "classical_rk4"; an adaptive one of torchdiffeq, "dopri5", with `rtol` and `atol`; "radau5"
      (implicit, Radau IIA of order 5) for stiff equations. `step` is the longest step of a fixed-step one; None for one
      step from each time to the next. `adjoint=True` has gradients by the adjoint equation.

    - `sizes`: by name, of differential states, below which a projection measures them absolutely; 1 if left out.

    It computes on the CPU. Raises ValueError for what the system does not have, and for methods and integrators that
    are not known.
    """

    def __init__(
        self,
        system: System,
        functions: Mapping[Any, Any] | None = None,
        *,
        learn: Sequence[Any] | Mapping[Any, float] = (),
        method: Any = None,
        invariants: Sequence[str] = (),
        integrator: str = "classical_rk4",
        step: float | None = None,
        rtol: float = 1e-7,
        atol: float = 1e-9,
        adjoint: bool = False,
        sizes: Mapping[str, float] | None = None,
    ):
        super().__init__()
        check_system(system)
        self.system = system.given(functions or {})
        self.reduced = self.system.reduce()
        self.inputs = tuple(self.system.missing)
        given = self.system.functions
        modules = {_key(name): f.module for name, f in given.items() if f.module is not None}
        self.networks = nn.ModuleDict(modules).double()
        starts = _start_values(system, learn)
        # Counted in units of their own, so that one learning rate serves all.
        self.units = {name: abs(value) or 1.0 for name, value in starts.items()}
        self.learned = nn.ParameterDict(
            {name: torch.tensor(value / self.units[name], dtype=torch.float64) for name, value in starts.items()}
        )
        self._set_method(method, tuple(invariants))
        if integrator not in INTEGRATORS:
            raise ValueError(f"integrator {integrator!r} is not known: choose one of {', '.join(INTEGRATORS)}")
        if adjoint and integrator == IMPLICIT:
            raise ValueError(f"integrator {IMPLICIT!r} has direct gradients alone: leave adjoint out")
        if step is not None and not (math.isfinite(step) and step > 0):
            raise ValueError(f"step={step!r}: expected the longest step, positive, in the unit of time")
        self._output_function = self._compiled_outputs() if self.system.outputs else None
        self.integrator, self.step, self.adjoint = integrator, step, adjoint
        self.rtol, self.atol = float(rtol), float(atol)
        names = [s.name for s in self.reduced.y]
        check_known(sizes or {}, names, repr(system.name), "differential state")
        self.sizes = tuple(float((sizes or {}).get(name, 1.0)) for name in names)

    def _set_method(self, method: Any, invariants: tuple[str, ...]) -> None:
        method = methods.SmoothProjection() if method is None else method
        self.method, formulation = method, None
        if isinstance(method, Baumgarte | GGL):
            method, formulation = methods.Unconstrained(), method
        if not isinstance(method, methods.Method):
            raise ValueError(f"method={method!r}: give one of ndae.methods, or Baumgarte or GGL of ndae.solvers")
        parts = {type(part): part for part in method.parts}
        known = (methods.SmoothProjection, methods.EndProjection, methods.Penalty, methods.Auxiliary)
        known += (methods.Multiplier, methods.Unconstrained)  # multipliers are eliminated whatever the method
        strange = [kind.__name__ for kind in parts if kind not in known]
        if strange:
            raise ValueError(f"the method {strange[0]} is none that a NeuralSystem has")
        penalty = parts.get(methods.Penalty)
        self.formulation = formulation
        self._penalty = (penalty.gamma, penalty.H) if isinstance(penalty, methods.Penalty) else None
        self._eta = getattr(parts.get(methods.Auxiliary), "eta", 0.0)
        self._projects = methods.SmoothProjection in parts, methods.EndProjection in parts
        if invariants and not any(self._projects):
            raise ValueError(f"invariants={list(invariants)} are kept by projection: give a method that projects")
        self.invariants = invariants
        self._held = self.reduced.holding(invariants) if invariants else None

    @property
    def functions(self) -> dict[str, Any]:
        """What the system's unknown functions are, by name, to be given to ndae.solve and others."""
        return {name: f.value for name, f in self.system.functions.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what is seen: the system's outputs, or where it has none its states."""
        return tuple(self.system.outputs) or tuple(s.name for s in self.system.states)

    def function(self, name: Any) -> LearnedFunction:
        """One of the system's functions by itself, by the Unknown or its name: to call, to tabulate, to draw."""
        name = getattr(name, "name", str(name))
        check_known([name], list(self.system.functions), repr(self.system.name), "function that is learned or called")
        unknown = next(u for u in self.system.unknowns if u.name == name)
        return LearnedFunction(self, unknown, self.system.functions[name])

    def parameters_now(self) -> dict[str, float]:
        """The parameters that are learned, as they are now."""
        return {name: float(value.detach()) for name, value in self._learned_values().items()}

    def _learned_values(self) -> dict[str, Tensor]:
        return {name: raw * self.units[name] for name, raw in self.learned.items()}

    # -- rolling out -------------------------------------------------------------------------------------------------

    def motion(
        self,
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Sequence[Table] | TablesOfSamples] | None = None,
        guess: Tensor | None = None,
    ) -> LearnedMotion:
        """The motion of a batch: parameters are numbers or (batch,), inputs one table a sample."""
        values: dict[str, Any] = {**self._learned_values(), **(parameters or {})}
        for unknown, n in self.system.unknowns.items():
            if unknown.name in self.inputs:
                tables = (inputs or {}).get(unknown.name)
                if tables is None:
                    raise ValueError(
                        f"{self.system.name}: the unknown function {unknown} is neither given to the model nor an "
                        f"input of the recording: give inputs={{{unknown.name!r}: ndae.table(times, values)}}"
                    )
                values[unknown.name] = TorchSupplied(unknown, n, tables_of(tables, unknown.name))
        floor = torch.tensor(self.sizes, dtype=torch.float64)
        return LearnedMotion(
            self.reduced, values, self.formulation, self._penalty,
            floor=floor, guess=guess, strict=False,
        )  # fmt: skip

    def path(
        self,
        y: Float[Tensor, "batch N"],
        t: Float[Tensor, "batch n_times"],
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Sequence[Table] | TablesOfSamples] | None = None,
        guess: Float[Tensor, "batch n"] | None = None,
    ) -> Path:
        """The states at times of each sample's own, from states y of the reduced system at the first of them.

        `y` is moved to the constraints first. Everything is differentiable by the weights, y and the parameters. Times
        of a sample do not decrease; where one comes twice nothing happens, so that short samples can be filled up.
        Samples that fail become NaN, and touch no other.
        """
        guess = torch.zeros(len(y), len(self.reduced.w), dtype=torch.float64) if guess is None else guess
        motion = self.motion(parameters, inputs, guess)
        if any(self._projects):
            y = self._first(motion, t[:, 0], y)
        motion.accepted(t[:, 0], y)
        states, violations = [y], []
        n_times = t.shape[1]
        for k in range(n_times - 1):
            y, violation = self._advance(motion, t[:, k], t[:, k + 1], y, k == n_times - 2)
            states.append(y)
            violations += violation
        states = torch.stack(states, 1)
        w, found = self._leading(motion, t, states)
        term = states.new_zeros(())
        if violations and self._eta:
            term = self._eta / 2 * torch.stack([c.square().sum(-1).mean() for c in violations]).sum()
        return Path(t, states, torch.where(found[..., None], w, torch.nan), term, motion)

    def _first(self, motion: LearnedMotion, t: Tensor, y: Tensor) -> Tensor:
        """On the constraints; the levels of its invariants are those that the start has there."""
        if self._held is None:
            return motion.project_start(t, y)
        y = motion.project_start(t, y)
        zeros = y.new_zeros(len(y), len(self.reduced.w))  # invariants are of y
        found = self.reduced.torch().invariants(y, zeros, t, motion.parameters)
        motion.hold(Held(self._held, {level_of(name): found[name] for name in self.invariants}))
        return y

    def _advance(
        self, motion: LearnedMotion, t0: Tensor, t1: Tensor, y: Tensor, last: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """States at t1 and the constraints' residuals before each projection."""
        span, violations = t1 - t0, []
        n_steps = 1
        if self.step is not None and self.integrator not in ADAPTIVE:
            n_steps = max(1, math.ceil(float(span.max()) / self.step * (1 - 1e-9)))
        for k in range(n_steps):
            begin, h = t0 + span * (k / n_steps), span / n_steps
            y = self._step(motion, begin, y, h)
            end = t1 if k == n_steps - 1 else t0 + span * ((k + 1) / n_steps)
            if self._eta and self.reduced.constraints:
                violations.append(motion.functions.constraints(y, end, motion.parameters))
            if self._projects[0] or (self._projects[1] and last and k == n_steps - 1):
                y = motion.project(end, y)
            motion.accepted(end, y)
        return y, violations

    def _step(self, motion: LearnedMotion, t: Tensor, y: Tensor, h: Tensor) -> Tensor:
        if self.integrator == IMPLICIT:
            return radau_step(motion, motion.jacobian, t, y, h)

        def scaled(s: Any, y: Tensor) -> Tensor:
            return h[:, None] * motion(t + s * h, y)

        if self.integrator == "classical_rk4" and not self.adjoint:
            return classical_rk4_step(scaled, 0.0, y, 1.0)
        options: dict[str, Any] = {"integrator": self.integrator, "rtol": self.rtol, "atol": self.atol}
        if self.adjoint:
            options |= {"adjoint": True, "adjoint_parameters": [p for p in self.parameters() if p.requires_grad]}
        ends = torch.tensor([0.0, 1.0], dtype=y.dtype)
        return integrate(scaled, y, ends, throw=self.integrator in ADAPTIVE, **options)[..., -1, :]

    def _leading(self, motion: LearnedMotion, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """w at all states at once, from what the last one had, and whether it was found."""
        # Times first, so that what each sample has of its own, (batch,), is broadcast over them.
        w, found = motion.functions.solve_leading(y.transpose(0, 1), t.mT, motion.parameters, guess=motion.guess)
        return w.transpose(0, 1), found.mT

    def seen(self, path: Path) -> Float[Tensor, "batch n_times n_outputs"]:
        """What instruments show along a path: the outputs, in the order of `outputs`."""
        if not self.system.outputs:
            both = torch.cat([path.y, path.w], -1)
            place = {s: i for i, s in enumerate((*self.reduced.y, *self.reduced.w))}
            return both[..., [place[s] for s in self.reduced.states]]
        given = self.reduced.torch().with_functions(path.motion.parameters)
        assert self._output_function is not None
        found = self._output_function(path.y.transpose(0, 1), path.w.transpose(0, 1), t=path.t.mT, parameters=given)
        return found.transpose(0, 1)

    def _compiled_outputs(self) -> Any:
        r = self.reduced
        known = {*r.y, *r.w, *r.parameters, r.time}
        for name, e in self.system.outputs.items():
            strange = {s for s in e.free_symbols if s not in known}
            if strange:
                raise ValueError(
                    f"{self.system.name}: the output {name!r} depends on {min(map(str, strange))}, which the reduced "
                    "system does not have: write it over states and their first derivatives"
                )
        inputs, name = {"y": r.y, "w": r.w}, f"outputs of {self.system.name}"
        return VectorFunction(list(self.system.outputs.values()), inputs, r.time, r.parameters, name).torch()

    # -- for users ---------------------------------------------------------------------------------------------------

    def known(self, inputs: Mapping[Any, Table] | None = None) -> System:
        """The system with all that was learned, and one recording's inputs, for solvers of any make."""
        named = {getattr(key, "name", str(key)): value for key, value in (inputs or {}).items()}
        used = {name: value for name, value in named.items() if name in self.inputs}
        return self.system.given(used) if used else self.system

    def predict(
        self,
        start: Any,
        ts: Any,
        *,
        parameters: Mapping[str, Any] | None = None,
        inputs: Mapping[Any, Table] | None = None,
        start_tol: float = 1e-6,
    ) -> Solution:
        """The learned motion from a consistent start, at times `ts`, as ndae.solve gives it, by the model's own steps.

        `start` is as in ndae.solve, one or a batch (array (batch, n_states), or arrays by name); `inputs` and
        `parameters` are shared by the batch. Raises ValueError as ndae.solve does for what is wrong with them.
        """
        ts, system = output_times(ts), self.known(inputs)
        values = self.parameters_now() | {str(k): v for k, v in (parameters or {}).items()}
        values = {name: float(v) for name, v in (checked_parameters(system, values) or {}).items()}
        y0, w0 = resolve_start(system, start, float(ts[0]), values, start_tol)
        batch = y0.shape[:-1]
        flat, guess = (torch.as_tensor(x.reshape(-1, x.shape[-1])).clone() for x in (y0, np.nan_to_num(w0)))
        times = torch.as_tensor(ts).expand(len(flat), -1)
        named = {getattr(key, "name", str(key)): value for key, value in (inputs or {}).items()}
        tables = {name: [named[name]] * len(flat) for name in self.inputs if name in named}
        with torch.no_grad():
            path = self.path(flat, times, values, tables, guess)
        y, w = (x.numpy().reshape(*batch, *x.shape[1:]) for x in (path.y, path.w))
        good = np.isfinite(y).all(-1) & np.isfinite(w).all(-1)
        reached = np.where(good.all(-1), ts.size, np.argmin(good, axis=-1))
        result = np.where(reached == ts.size, SUCCESS, "the learned motion is not finite from there on")
        w, _ = settled(system, y, w, ts, values)
        return describe_states(
            system, ts, y, w, values,
            result=result if batch else str(result), n_reached=reached if batch else int(reached),
        )  # fmt: skip

    def shown(self, solution: Solution, recording: Recording) -> dict[str, np.ndarray]:
        """What instruments would show along a solution of the known system, by output, each (n_times,)."""
        if not self.system.outputs:
            return {s.name: solution[s.name] for s in self.system.states}
        return self.along(solution, recording, self.system.outputs)

    def along(
        self, solution: Solution, recording: Recording, expressions: Mapping[str, sp.Expr]
    ) -> dict[str, np.ndarray]:
        """Expressions of the system's states, time and parameters along a solution of the known system, (n_times,)
        each, with the inputs and parameters of a recording."""
        system, values = self.known(recording.inputs), self.parameters_now()
        reduced, states = system.reduce(), set(system.states)
        values |= {str(k): float(v) for k, v in recording.parameters.items()}
        asked = system.written(expressions.values())
        moving = {s for e in asked for s in e.free_symbols} - {*reduced.parameters, reduced.time}
        y, w = (
            (solution.x, np.zeros((len(solution.ts), 0))) if moving <= states else _of_states(reduced, solution, values)
        )
        inputs = {"y": reduced.states if moving <= states else reduced.y, "w": () if moving <= states else reduced.w}
        name = f"outputs of {self.system.name}"
        function = VectorFunction(asked, inputs, reduced.time, reduced.parameters, name).numpy()
        found = function(y, w, t=solution.ts, parameters=reduced.numpy().with_functions(values))
        return {name: found[:, i] for i, name in enumerate(expressions)}

    def estimate(self, recording: Recording) -> "Estimate":
        """The start that fits a recording best under the model as it is, with its spread, to predict from.

        By least squares in what was seen, in standard deviations where `sigma` says them; values in the recording's
        `start` stay. The spread is the standard error of that fit, by the size of what it misses where sigma is not
        known. Raises ValueError for a recording of another system.
        """
        check_recordings(self, [recording], "the")
        pieces = Pieces(self, [recording], None, sizes([recording]))
        unit, one = state_units(pieces), torch.arange(1)
        with torch.no_grad():
            start = fitted(self, pieces, one, unit)
            misses, path = missed(self, pieces, one, start)
            spread = _spread(self, pieces, start[0], unit, misses, set(recording.sigma) >= set(recording.values))
        states = torch.cat([path.y[0, 0], path.w[0, 0]]).numpy()
        place = {s: i for i, s in enumerate((*self.reduced.y, *self.reduced.w))}
        found = {s.name: float(states[place[s]]) for s in self.reduced.states}
        return Estimate(
            found,
            {s.name: float(spread[j]) for j, s in enumerate(self.reduced.y)},
            float(misses.square().mean().sqrt()),
        )

    def forward(self, start: Any, ts: Any, **options: Any) -> Solution:
        """As `predict`."""
        return self.predict(start, ts, **options)


def _key(name: str) -> str:
    return name.replace(".", "_")


def _start_values(system: System, learn: Any) -> dict[str, float]:
    """Parameters that are learned, and from which values."""
    defaults = {symbol.name: value for symbol, value in system.parameters.items()}
    named = (
        {str(key): None for key in learn} if not isinstance(learn, Mapping) else {str(k): v for k, v in learn.items()}
    )
    check_known(named, defaults, repr(system.name))
    found = {}
    for name, value in named.items():
        value = defaults[name] if value is None else value
        if value is None:
            raise ValueError(f"{system.name}: the parameter {name!r} has no default: give learn={{{name!r}: a start}}")
        if not math.isfinite(float(value)):
            raise ValueError(f"{system.name}: learn has {name!r} from {value!r}: give a finite number")
        found[name] = float(value)
    return found


def _spread(
    model: NeuralSystem, pieces: Pieces, start: Tensor, unit: Tensor, misses: Tensor, known: bool
) -> np.ndarray:
    """Standard errors of a start (N,), from the slopes of what is missed."""
    step = 1e-4 * unit
    moved = torch.cat([start + torch.diag(step), start - torch.diag(step)])
    ends = missed(model, pieces, torch.zeros(len(moved), dtype=torch.long), moved)[0].flatten(1)
    slopes = ((ends[: len(start)] - ends[len(start) :]) / (2 * step[:, None])).T.numpy()
    free = pieces.free[0].numpy()
    n_seen = int((pieces.weight > 0).sum())
    left = 1.0 if known else float(misses.square().sum()) / max(1, n_seen - int(free.sum()))
    found = np.zeros(len(start))
    u, s, vt = np.linalg.svd(slopes[:, free] * unit.numpy()[free], full_matrices=False)
    del u
    spread = np.sqrt(((vt.T / np.maximum(s, 1e-300)) ** 2).sum(1)) * unit.numpy()[free]
    found[free] = np.sqrt(left) * spread
    return found


def _of_states(reduced: Any, solution: Solution, parameters: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """y and w of a reduced system along a solution that has the states of the system."""
    column = {s.name: j for j, s in enumerate(reduced.states)}
    lost = [s.name for s in reduced.y if s.name not in column]
    if lost:
        raise ValueError(
            f"{reduced.system.name}: outputs show derivatives, and {lost[0]}, which they follow from, is no state: "
            f"make it one, by an equation for {lost[0]}"
        )
    y = np.stack([solution.x[:, column[s.name]] for s in reduced.y], -1)
    guess = np.stack([solution.x[:, column[s.name]] if s.name in column else 0 * solution.ts for s in reduced.w], -1)
    w, _ = reduced.numpy().solve_leading(y, solution.ts, parameters, guess=guess)
    return y, w
