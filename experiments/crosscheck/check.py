"""One problem by several solvers, formulations and tolerances, and how far their ends agree with the best known one.

Every solve gets the same absolute tolerances, by component: the relative tolerance times the component's own scale on
a coarse solution. So components of 1e-13 (Robertson's) and of 1e5 (pressures) are controlled alike, by every solver.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np

from ndae.experiments.crosscheck.agreement import Agreement, agreement
from ndae.experiments.crosscheck.digits import Digits, correct_digits, error_scales, score, sizes_at_end
from ndae.experiments.problems import Problem
from ndae.experiments.problems.start import start_of
from ndae.experiments.terminal import UserError, is_users, one_line
from ndae.solvers.arguments import INTEGRATORS
from ndae.solvers.progress import Progress
from ndae.symbolic.ground.extras import EXTRAS

FORMULATIONS = ("projection", "ggl", "baumgarte", "plain")
OUTSIDE = ("torch", "IDA", "Radau")
IMPLICIT = ("kvaerno5", "radau13")
# What each imports.
_PACKAGES = {"torch": "torchdiffeq", "IDA": "sksundae", "Radau": "solve_dae"}
RTOL = 1e-10
TOLERANCES = (1e-6, 1e-8, RTOL)
MAX_STEPS = 500_000
MAX_SECONDS = 120.0

_N_OUTPUTS = 101
# Tolerances of the coarse solution: before any scale is known the smallest variables count too, if rounding lets them.
_COARSE, _COARSE_ATOLS = 1e-5, (1e-14, 1e-11)
# What an explicit solver may take for a coarse solution; where it needs more, an implicit one is cheaper.
_EXPLICIT_STEPS = 5_000
_OWN_REFERENCE = 1e-12
# A call that takes less (s) is timed again: other processes disturb it.
_SHORT, _REPEATS = 0.1, 2
# An algebraic variable that is nowhere larger is zero, and has no digits.
_NOTHING = 1e-12


@dataclass(frozen=True)
class Run:
    """One solve: by which solver, in which form, at which tolerance; what came out, or `failure`, why nothing did.

    `drift` is the largest residual over the output points, by level, `invariants` the largest change of each,
    `seconds` the wall time of the call when everything is compiled, the least of three where it is short, `agreement`
    how it agrees with the best of the others at all output times.
    """

    solver: str
    formulation: str
    rtol: float
    digits: Digits | None = None
    drift: Mapping[str, float] = field(default_factory=dict)
    invariants: Mapping[str, float] = field(default_factory=dict)
    n_steps: int | None = None
    n_f_evals: int | None = None
    seconds: float | None = None
    failure: str | None = None
    agreement: Agreement | None = None

    @property
    def name(self) -> str:
        return f"{self.solver}, {self.formulation}" if self.formulation else self.solver


@dataclass(frozen=True)
class CrossCheck:
    """All runs of one problem, and what they are measured against.

    - `reference`: end values by state; `reference_kind`: "exact", "recomputed", "published", or which solve made them.
    - `differential`: names of the states that have a derivative in the reduced system.
    - `published_digits`: by state, digits of the published values against the better ones; empty where there are none.
    - `stiff`: whether the explicit solver was given up.
    - `hidden`: how many hidden constraints there are; with none, every formulation is the same solve, made once.
    - `left_out`: algebraic variables that are zero up to rounding all along, and so are not scored.
    - `not_given`: variables that the reference has no end value of, so that they have no digits: what is known of them
      is how runs agree.
    - `n_outputs`: how many times each solve gives the solution at; all but IDA end a step on each.
    """

    problem: Problem
    index: int
    solver: str
    stiff: bool
    differential: tuple[str, ...]
    reference: Mapping[str, float]
    reference_kind: str
    published_digits: Mapping[str, float]
    runs: tuple[Run, ...]
    hidden: int = 0
    left_out: tuple[str, ...] = ()
    not_given: tuple[str, ...] = ()
    n_outputs: int = 0

    def digits(self, run: Run, differential: bool = True) -> float | None:
        """Significant correct digits of the worst component of a run: of the differential ones, or of all given."""
        return None if run.digits is None else run.digits.least(self.differential if differential else None)

    @property
    def judges_algebraic(self) -> bool:
        """Whether the reference has any variable that is not differential, if the problem has such."""
        return any(name not in self.differential for name in self.reference) or not any(
            name not in self.differential for name in self.not_given
        )

    def levels(self) -> list[str]:
        """The levels of residuals that any run has, in order."""
        return sorted({level for run in self.runs for level in run.drift}, key=lambda name: (name == "equations", name))

    def published_limit(self) -> float | None:
        """Digits of the worst published differential value against the better ones, or None."""
        found = [self.published_digits[name] for name in self.differential if name in self.published_digits]
        return min(found) if found else None


def crosscheck(
    problem: Problem,
    *,
    tolerances: Sequence[float] = TOLERANCES,
    formulations: Sequence[str] = FORMULATIONS,
    solver: str | None = None,
    outside: Sequence[str] = OUTSIDE,
    consistent: Sequence[str] | None = None,
    max_seconds: float = MAX_SECONDS,
    progress: Progress | None = None,
) -> CrossCheck:
    """Solve `problem` in every way and compare the ends.

    - `tolerances`: relative tolerances of a step's error; each run is made at all of them.
    - `formulations` of this project's solves; `solver`: "dopri8", "kvaerno5", ... or None, which takes the explicit
      dopri8 unless the problem is too stiff for it.
    - `outside`: which other solvers to ask: IDA and Radau, each in the forms that suit the index, and "torch", this
      project's own second opinion (other generated code, torchdiffeq), where the problem is not stiff.
    - `consistent`: names of the components to keep in a consistent start computed first; None takes the start as it is.
    - `max_seconds`: limit for each solve of these.

    A solve that fails is a run with its reason. Raises StructureError for a system that cannot be reduced, ValueError
    for a start that is not consistent, UserError where not even a coarse solution is found.
    """
    tell = progress or (lambda share, text: None)
    tolerances = _asked(tolerances, formulations, outside, solver)
    tell(0.0, "index reduction and start")
    study = _Study(problem, consistent, max_seconds)
    tell(0.0, "coarse solution")
    study.settle(solver)
    plan = [(study.ours, study.solver, name) for name in study.different(formulations)]
    installed = [name for name in outside if find_spec(_PACKAGES[name])]
    plan += [(study.by_others, name, form) for name in installed for form in study.forms_for(name)]
    runs: list[tuple[Run, Any]] = []
    for done, (make, name, form) in enumerate(plan):
        compiled = False
        for k, rtol in enumerate(tolerances):
            tell((done + k / len(tolerances)) / len(plan), f"{name}, {form}, rtol {rtol:.0e}")
            run, solution = make(name, form, rtol)
            if not compiled and run.failure is None:
                compiled = True
                run, solution = make(name, form, rtol)  # again: the first one compiled
            for _ in range(_REPEATS):
                if run.failure is None and run.seconds is not None and run.seconds < _SHORT:
                    run = replace(run, seconds=min(run.seconds, make(name, form, rtol)[0].seconds or math.inf))
            runs.append((run, solution))
    for name in sorted(name for name in set(outside) - set(installed) if study.forms_for(name)):
        reason = f"not installed: pip install 'ndae[{EXTRAS[_PACKAGES[name]]}]'"
        runs.append((Run(name, "", tolerances[-1], failure=reason), None))
    tell(1.0, "comparison")
    return study.compared(runs)


def _asked(
    tolerances: Sequence[float], formulations: Sequence[str], outside: Sequence[str], solver: str | None
) -> list[float]:
    """The tolerances, loosest first; raises UserError for what is none and for unknown names."""
    tolerances = sorted({float(rtol) for rtol in tolerances}, reverse=True)
    if not tolerances or not all(0 < rtol < 1 for rtol in tolerances):
        raise UserError(f"tolerances must be numbers between 0 and 1, such as 1e-8; got {list(tolerances)}")
    for given, known, what in (
        (formulations, FORMULATIONS, "formulation"),
        (outside, OUTSIDE, "other solver"),
        ([solver] if solver else [], INTEGRATORS, "solver"),
    ):
        wrong = [name for name in given if name not in known]
        if wrong:
            raise UserError(f"{what} {wrong[0]!r} is not known; choose from {', '.join(known)}")
    return tolerances


class _Study:
    """What all runs of one problem share: start, output times, tolerances by component, the chosen solver."""

    def __init__(self, problem: Problem, consistent: Sequence[str] | None, max_seconds: float) -> None:
        self.problem, self.max_seconds = problem, max_seconds
        self.reduced = problem.system.reduce()
        if not self.reduced.y:
            raise UserError(
                f"{problem.name}: the equations determine every variable at every time by itself: there is nothing to "
                "integrate, so no solver to check"
            )
        self.start = start_of(problem, consistent)
        inner = set(self.reduced.y)
        pairs = zip(problem.states, self.reduced.states, strict=True)
        self.differential = tuple(name for name, symbol in pairs if symbol in inner)
        self._forms: dict[str, Any] = {}

    def settle(self, solver: str | None) -> None:
        """Choose the solver, and take the scales of the components from a coarse solution by it."""
        reasons: dict[str, str] = {}
        final = solver or "radau13"
        attempts = [] if solver else [("dopri8", _COARSE_ATOLS[0], _EXPLICIT_STEPS)]
        for name, atol, max_steps in attempts + [(final, atol, MAX_STEPS) for atol in _COARSE_ATOLS]:
            if name in reasons and self.coarse.stats["n_steps"] < max_steps:
                break  # it met something that no tolerance takes away
            self.solver, self.stiff = name, name in IMPLICIT
            self.ts = output_times(self.problem.t_span, self.stiff)
            self.coarse = self._solve(self.main, _COARSE, atol, max_steps)
            if self.coarse.succeeded:
                return
            reasons[name] = f"{name}: {self.coarse.result}"
        raise UserError(f"{self.problem.name}: no coarse solution was found; {'; '.join(reasons.values())}")

    @property
    def main(self) -> str:
        """The formulation of solves that others are measured by."""
        return "projection" if self.reduced.constraints else "plain"

    def different(self, formulations: Sequence[str]) -> list[str]:
        """Those of `formulations` that differ: with no hidden constraints there is nothing to keep."""
        return list(formulations) if self.reduced.constraints or not formulations else ["plain"]

    def forms_for(self, solver: str) -> tuple[str, ...]:
        """What to give another solver: implicit forms that suit the index, the user's own equations where it may."""
        if solver == "torch":
            return () if self.stiff else (self.main,)  # all its methods are explicit
        return ("original", "index1") if self.reduced.index <= 1 else ("ggl", "index1")

    @cached_property
    def scales(self) -> dict[str, float]:
        """Magnitude that errors should be small against, by state, and by entry of y that is no state."""
        by_state = dict(zip(self.problem.states, map(float, error_scales(self.coarse.x)), strict=True))
        symbols = dict(zip(self.reduced.states, self.problem.states, strict=True))
        source = {d: s for s, d in zip(self.reduced.y, self.reduced.rates, strict=True)}
        for symbol in self.reduced.y:
            if symbol not in symbols:
                # Nobody's state, but the derivative of one: its size from differences.
                order, base = 0, symbol
                while base not in symbols:
                    order, base = order + 1, source[base]
                path = self.coarse[symbols[base]]
                for _ in range(order):
                    path = np.gradient(path, self.coarse.ts)
                by_state[symbol.name] = float(error_scales(path[:, None])[0])
        return by_state

    def atol(self, rtol: float) -> dict[str, float]:
        """Absolute tolerances by name."""
        return {name: rtol * scale for name, scale in self.scales.items()}

    def ours(self, solver: str, formulation: str, rtol: float, ts: Any = None) -> tuple[Run, Any]:
        """A solve by this project, at other output times if they are given."""
        return _timed(solver, formulation, rtol, lambda: self._solve(formulation, rtol, self.atol(rtol), MAX_STEPS, ts))

    def by_others(self, solver: str, form: str, rtol: float) -> tuple[Run, Any]:
        """A solve by torch, IDA or Radau."""
        options = {"rtol": rtol, "atol": self.atol(rtol), "max_seconds": self.max_seconds, "throw": False}
        arguments = (self.problem.system, self.start, self.ts)
        if solver == "torch":
            from ndae.solvers.dae.solve_torch import solve_torch

            return _timed(solver, form, rtol, lambda: solve_torch(*arguments, max_steps=MAX_STEPS, **options))
        from ndae.solvers.outside.ida import solve_ida
        from ndae.solvers.outside.radau import solve_radau

        solve = {"IDA": solve_ida, "Radau": solve_radau}[solver]
        if form not in self._forms:
            from ndae.symbolic.forms.implicit_form import implicit_form

            self._forms[form] = implicit_form(self.reduced, form)
        return _timed(solver, form, rtol, lambda: solve(*arguments, form=self._forms[form], **options))

    def _solve(self, formulation: str, rtol: float, atol: Any, max_steps: int, ts: Any = None) -> Any:
        from ndae.solvers.dae.formulations import Baumgarte
        from ndae.solvers.dae.solve import solve_dae

        start, end = self.problem.t_span
        named = Baumgarte(20.0 / (end - start)) if formulation == "baumgarte" else formulation
        options = {"method": named, "integrator": self.solver, "rtol": rtol, "atol": atol, "max_steps": max_steps}
        return solve_dae(self.problem.system, self.start, self.ts if ts is None else ts, **options, throw=False)

    def compared(self, runs: Sequence[tuple[Run, Any]]) -> CrossCheck:
        """The runs with their digits."""
        reference, kind, published = self._reference()
        states = self.problem.states
        left_out = tuple(name for name in states if self._is_nothing(name, reference.get(name, 0.0)))
        not_given = tuple(name for name in states if name not in reference and name not in left_out)
        reference = {name: value for name, value in reference.items() if name not in left_out}
        published = {name: value for name, value in published.items() if name not in left_out}
        sizes = sizes_at_end(reference, {name: self.coarse[name] for name in reference})
        scored = []
        for run, solution in runs:
            if solution is not None and run.failure is None:
                ends = {name: float(solution[name][-1]) for name in reference}
                run = replace(run, digits=score(ends, reference, sizes))
            scored.append(run)
        scored = self._agreeing(scored, [solution for _, solution in runs], (*reference, *not_given))
        return CrossCheck(
            problem=self.problem,
            index=self.reduced.index,
            solver=self.solver,
            stiff=self.stiff,
            differential=self.differential,
            reference=reference,
            reference_kind=kind,
            published_digits={n: correct_digits(v, reference[n], sizes[n]) for n, v in published.items()},
            runs=tuple(scored),
            hidden=len(self.reduced.constraints),
            left_out=left_out,
            not_given=not_given,
            n_outputs=len(self.ts),
        )

    def _agreeing(self, runs: Sequence[Run], solutions: Sequence[Any], names: tuple[str, ...]) -> list[Run]:
        """The runs, each compared at all output times with the best of those of other solvers or formulations."""
        least = {
            i: run.digits.least() or 0.0
            for i, run in enumerate(runs)
            if run.digits is not None and len(solutions[i].ts) == len(self.ts)
        }
        good = sorted(least, key=lambda i: -least[i])
        made = list(runs)
        for i in good:
            j = next((j for j in good if runs[j].name != runs[i].name), None)
            if j is not None:
                other = f"{runs[j].name} at rtol {runs[j].rtol:.0e}"
                found = agreement(other, solutions[i], solutions[j], self.differential, names)
                made[i] = replace(runs[i], agreement=found)
        return made

    def _is_nothing(self, name: str, value: float) -> bool:
        """Whether a variable is zero up to rounding: an algebraic one, for differential ones may be small and real."""
        return (
            name not in self.differential
            and abs(value) < _NOTHING
            and float(np.nanmax(np.abs(self.coarse[name]))) < _NOTHING
        )

    def _reference(self) -> tuple[dict[str, float], str, dict[str, float]]:
        """End values to measure against, which they are, and the published ones where there are better."""
        best = self.problem.best_reference()
        if best is None:
            rtol = _OWN_REFERENCE
            # Half the steps at most, else it would be the very solve that it judges where these end on output times.
            ts = np.sort(np.append(self.ts, (self.ts[1:] + self.ts[:-1]) / 2))
            run, solution = self.ours(self.solver, self.main, rtol, ts)
            if run.failure:
                raise UserError(
                    f"{self.problem.name} has no reference values, and a solve at rtol {rtol:g} to take their place "
                    f"stopped: {run.failure}"
                )
            ends = {name: float(solution[name][-1]) for name in self.problem.states}
            return ends, f"{run.name} at rtol {rtol:g}", {}
        values, kind = best
        published = self.problem.reference or {}
        better = kind != "published"
        return values, kind, {n: float(v) for n, v in published.items() if better and n in values}


def output_times(t_span: tuple[float, float], stiff: bool) -> np.ndarray:
    """101 equal steps; for a stiff problem, whose first moments are short, also 2 times a decade after the start."""
    start, end = t_span
    even = np.linspace(start, end, _N_OUTPUTS)
    if not stiff:
        return even
    early = start + np.geomspace(1e-12, 1e-2, 21) * (end - start)
    return np.unique(np.concatenate([even, early[early > start]]))


def _timed(solver: str, formulation: str, rtol: float, solve: Callable[[], Any]) -> tuple[Run, Any]:
    """One solve as a run, with its solution unless there is none."""
    run = Run(solver, formulation, rtol)
    begin = time.perf_counter()
    try:
        solution = solve()
    except Exception as error:
        # Whatever one solver stumbles over is a line of the table; only a mistake of the program goes on.
        if not (is_users(error) or isinstance(error, ImportError | ArithmeticError | np.linalg.LinAlgError)):
            raise
        return replace(run, failure=one_line(error)), None
    seconds = time.perf_counter() - begin
    levels = {level: _largest(value) for level, value in solution.residual.items()}
    invariants = {name: _largest(value - value[:1]) for name, value in solution.invariants.items()}
    run = replace(
        run,
        drift=levels,
        invariants=invariants,
        n_steps=int(solution.stats["n_steps"]),
        n_f_evals=int(solution.stats["n_f_evals"]),
        seconds=seconds,
        failure=None if solution.succeeded else str(solution.result),
    )
    return run, solution


def _largest(values: np.ndarray) -> float:
    size = np.abs(values)
    return float(np.max(size, initial=0.0)) if np.all(np.isfinite(size)) else math.nan
