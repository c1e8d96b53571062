"""What the wrappers of outside DAE solvers share: the start, tolerances by variable, output, failures as reasons.

These solvers are independent opinions: equations and Jacobians are the symbolic layer's, the integration is not ours.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ndae.solvers.progress import Progress
from ndae.solvers.solution import SUCCESS, Solution, SolveError
from ndae.symbolic.ground.words import check_known

# Times the variable's size (at least one): as an absolute tolerance, no error test notices the variable.
UNTESTED = 1e6

_UNLIKE = 1e10  # ratio of the sizes of unknowns that a failure is put down to


class Stopped(Exception):
    """The time allowed for a solve is over; raised inside a solver's callbacks."""


class ImplicitSolve:
    """One solve of a system by an outside solver of F(t, Y, Y') = 0: gives it functions, takes its output points.

    `form` is the name of an implicit form, or a ndae.symbolic.forms.implicit_form.ImplicitForm.
    """

    def __init__(
        self,
        system: Any,
        start: Any,
        ts: Any,
        form: Any,
        rtol: float,
        atol: Any,
        parameters: Mapping[str, Any] | None,
        max_seconds: float | None,
        progress: Progress | None,
        start_tol: float,
        max_steps: int = 1,
    ) -> None:
        from ndae.solvers.arguments import check_settings, check_system, checked_parameters, output_times
        from ndae.solvers.batches import at_index
        from ndae.solvers.dae.start import resolve_start
        from ndae.solvers.dae.switching import find_gaps
        from ndae.symbolic.forms.implicit_form import ImplicitForm, implicit_form

        check_system(system)
        self.ts = output_times(ts)
        limits = {"rtol": rtol, "start_tol": start_tol} | ({} if max_seconds is None else {"max_seconds": max_seconds})
        check_settings(None, max_steps, **limits)
        parameters = checked_parameters(system, parameters)
        self.system, self.reduced = system, system.reduce()
        self.numeric = self.reduced.numpy()
        y, w = resolve_start(system, start, float(self.ts[0]), parameters, start_tol)
        if y.ndim > 1:
            raise ValueError(
                f"start and parameters have batch shape {y.shape[:-1]}; outside solvers take one at a time"
            )
        self.parameters = at_index(parameters, ())
        self.gaps = find_gaps(system, y, self.ts, parameters, start_tol)
        #: Where a step has to end for each output: an output inside a gap has the state before it.
        self.stops = np.array([next((a for a, b in self.gaps if a <= t < b), t) for t in self.ts])
        self.max_steps, self.max_seconds = int(max_steps), max_seconds
        if isinstance(form, ImplicitForm):
            self.form = form
        else:
            self.form = implicit_form(self.reduced, form, at=(y, w, float(self.ts[0]), self.parameters))
        self.Y0, self.Yp0 = self.form.start(y, w)
        self.rtol = float(rtol)
        self.atol = self.tolerances(atol)
        self.Y = np.full((self.ts.size, self.Y0.size), np.nan)
        self.Yp = np.full_like(self.Y, np.nan)
        self.Y[0], self.Yp[0] = self.Y0, self.Yp0
        self.n_reached = 1
        self.progress, self._next_report = progress, 0.0
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def tolerances(self, atol: Any) -> np.ndarray:
        """Absolute tolerances by unknown (m,): as given where the error test watches it, out of its reach elsewhere."""
        from ndae.solvers.arguments import named_once, numbers

        size = np.maximum(1.0, np.abs(self.Y0))
        made = np.where(self.form.uncontrolled, UNTESTED * size, self.rtol)
        watched = np.flatnonzero(~np.array(self.form.uncontrolled))
        if atol is None:
            return made
        if isinstance(atol, Mapping):
            # Of y, also what is nobody's state but the derivative of one.
            names = {s: s.name for s in self.reduced.y}
            names |= {s: str(n) for s, n in zip(self.reduced.states, self.system.states, strict=True)}
            given = {key: float(numbers(f"atol[{key!r}]", value)) for key, value in named_once("atol", atol).items()}
            check_known(given, names.values(), f"atol: {self.system.name!r}", "state", self.system.states)
            for i in watched:
                made[i] = given.get(names.get(self.form.stands_for[i], ""), made[i])
        elif np.ndim(atol) == 0:
            made[watched] = float(numbers("atol", atol))
        else:
            atol = numbers("atol", atol)
            if atol.shape != (len(self.reduced.y),):
                raise ValueError(
                    f"atol has shape {atol.shape}; give one number, a mapping from names of states, or an array "
                    f"({len(self.reduced.y)},) over {', '.join(s.name for s in self.reduced.y)}"
                )
            y_atol = dict(zip(self.reduced.y, atol, strict=True))
            for i in watched:
                made[i] = y_atol.get(self.form.stands_for[i], made[i])
        if not np.all(made > 0):
            raise ValueError("atol must be positive for every variable")
        return made

    def residual(self, t: float, Y: np.ndarray, Yp: np.ndarray) -> np.ndarray:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Stopped
        return self.form.residual(t, Y, Yp, self.parameters)

    def jacobians(self, t: float, Y: np.ndarray, Yp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.form.jacobians(t, Y, Yp, self.parameters)

    def over_spans(
        self, solve_span: Callable[[float, float, int, dict[str, int]], str], counted: tuple[str, ...]
    ) -> tuple[str, dict[str, int]]:
        """Solve each span of time between two gaps; returns the reason of the end, and what was `counted` altogether.

        `solve_span(begin, end, max_steps, stats)` starts from Y0 and Yp0, keeps outputs, calls `arrive` at the end,
        fills `stats` and returns SUCCESS or why it stopped.
        """
        total = dict.fromkeys(counted, 0)
        behind = [float(self.ts[0]), *(after for _, after in self.gaps)]
        before = [*(before for before, _ in self.gaps), float(self.stops[-1])]
        for number, (begin, end) in enumerate(zip(behind, before, strict=True)):
            if begin >= end:  # the first output is in a gap, or the last
                continue
            if number and not self._restart(begin):
                return f"the equations for the algebraic variables could not be solved at t = {begin:.9g}", total
            stats = dict.fromkeys(counted, 0)
            try:
                with np.errstate(all="ignore"):  # an overflow is a step that it tries again
                    reason = solve_span(begin, end, self.max_steps - total["n_steps"], stats)
            except Stopped:
                reason = f"gave up after {self.max_seconds:g} s"
            except (ArithmeticError, ValueError, RuntimeError) as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            total = {name: value + stats[name] for name, value in total.items()}
            if reason != SUCCESS:
                return reason, total
        return SUCCESS, total

    def arrive(self, Y: np.ndarray, Yp: np.ndarray) -> None:
        """The solution at the end of a span."""
        self.Y0, self.Yp0 = np.array(Y), np.array(Yp)

    def _restart(self, t: float) -> bool:
        """Y0 and Yp0 behind a gap: differential variables stay, the others are solved for; whether they were found."""
        y, guess = self.form.differential(self.Y0, self.Yp0), self.form.leading(self.Y0, self.Yp0)
        with np.errstate(all="ignore"):
            w, converged = self.numeric.solve_leading(y, t, self.parameters, guess=guess)
        self.Y0, self.Yp0 = self.form.start(y, w)
        return bool(np.all(converged))

    def keep(self, Y: np.ndarray, Yp: np.ndarray) -> None:
        """The solution at the next output time."""
        self.Y[self.n_reached], self.Yp[self.n_reached] = Y, Yp
        self.n_reached += 1

    def report(self, t: float) -> None:
        if self.progress is not None and time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + 0.25
            self.progress((t - self.ts[0]) / (self.ts[-1] - self.ts[0]), f"t = {t:.4g}")

    def solution(self, reason: str, stats: Mapping[str, int], throw: bool, solver: str) -> Solution:
        """The Solution of the points that were kept; raises SolveError on failure if `throw`."""
        n = self.n_reached
        reason += "" if reason == SUCCESS else self._unlike_sizes()
        made = self._described(self.ts[:n], self.Y[:n], self.Yp[:n], reason, dict(stats))
        if throw and made.result != SUCCESS:
            raise SolveError(f"{solver} stopped: {made.result}", made)
        return made

    def _unlike_sizes(self) -> str:
        """What a reason adds where unknowns differ so much that matrices in double precision do not hold them all."""
        largest = np.abs(self.Y[: self.n_reached]).max(axis=0)
        sizes = {s.name: v for s, v in zip(self.form.stands_for, largest, strict=True) if s is not None and v > 0}
        if not sizes or max(sizes.values()) < _UNLIKE * min(sizes.values()):
            return ""
        small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        return (
            f"; its unknowns are of unlike sizes, from {sizes[small]:.0e} ({small}) to {sizes[large]:.0e} ({large}), "
            "which this solver's matrices are not scaled for: write the system in units in which all are near one"
        )

    def _described(self, ts, Y, Yp, reason, stats) -> Solution:
        from ndae.solvers.dae.describe import describe_states
        from ndae.solvers.dae.leading import SETTLED, settled

        y, found = self.form.differential(Y, Yp), self.form.leading(Y, Yp)
        with np.errstate(all="ignore"):
            w, converged = self.numeric.solve_leading(y, ts, self.parameters, guess=found)
        w, error = settled(self.system, y, w, ts, self.parameters)
        converged = converged & (error <= SETTLED)
        held = np.ix_(ts == self.stops[: ts.size], self.form.tested)  # in a gap, algebraic variables jump
        w[held] = found[held]
        good = np.broadcast_to(converged, ts.shape) & np.isfinite(y).all(axis=-1) & np.isfinite(w).all(axis=-1)
        bad = np.flatnonzero(~good)
        if bad.size:  # an output where they were not found is none
            n = max(1, int(bad[0]))
            if reason == SUCCESS:
                reason = f"the variables that no error test watches could not be solved for at t = {ts[bad[0]]:.6g}"
            ts, y, w = ts[:n], y[:n], w[:n]
        return describe_states(self.system, ts, y, w, self.parameters, stats=stats, result=reason, n_reached=len(ts))
