"""A cross-check to read: as a table in the terminal, and as JSON that holds all of it."""

import functools
import math
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ndae.experiments.crosscheck.check import CrossCheck, Run
from ndae.symbolic.ground.words import listed

# Published values with fewer digits limit what a comparison with them can show.
_MANY_DIGITS = 12
_PACKAGES = ("ndae", "numpy", "jax", "diffrax", "scikit-sundae", "solve-dae")


def to_json(check: CrossCheck) -> dict[str, Any]:
    """All of a cross-check as plain data; numbers that are not finite are null."""
    problem = check.problem
    start, end = problem.t_span
    return {
        "problem": problem.name,
        "title": problem.title,
        "index": check.index,
        "stated_index": problem.index,
        "t_span": [start, end],
        "states": list(problem.states),
        "differential": list(check.differential),
        "solver": check.solver,
        "stiff": check.stiff,
        "hidden_constraints": check.hidden,
        "zero": list(check.left_out),
        "not_given": list(check.not_given),
        "reference": {
            "kind": check.reference_kind,
            "origin": problem.texts.get("reference_origin"),
            "end": dict(check.reference),
            "published_digits": dict(check.published_digits),
        },
        "runs": [_run(check, run) for run in check.runs],
        "source": list(problem.source),
        "machine": machine(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _run(check: CrossCheck, run: Run) -> dict[str, Any]:
    made = {
        "solver": run.solver,
        "formulation": run.formulation,
        "rtol": run.rtol,
        "failure": run.failure,
        "digits_differential": _finite(check.digits(run)),
        "digits_all": _finite(check.digits(run, differential=False)),
        "drift": {level: _finite(value) for level, value in run.drift.items()},
        "invariants": {name: _finite(value) for name, value in run.invariants.items()},
        "n_steps": run.n_steps,
        "n_f_evals": run.n_f_evals,
        "seconds": run.seconds,
    }
    if run.agreement is not None:
        made["agreement"] = vars(run.agreement)
    if run.digits is not None:
        made |= {"digits": dict(run.digits.digits), "relative_digits": dict(run.digits.relative)}
    return made


def machine() -> str:
    """The processor and how many of its cores are ours, in words."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def tables(check: CrossCheck, width: int) -> list[Any]:
    """Rich tables, a line for each run, grouped by solver and formulation: one, or two where `width` is too narrow.

    The second then has how runs agree at the outputs, and the residuals. Nothing is left out and no number cut,
    however narrow it is.
    """
    cost = {"steps": _steps, "rhs": _evaluations, "seconds": _run_seconds}
    digits = {"digits": lambda run: _digits(check, run, True), "all": lambda run: _digits(check, run, False)}
    agreement = {"outputs": lambda run: digits_text(run.agreement and run.agreement.least)}
    levels = {level: functools.partial(_drift, level) for level in check.levels()}
    whole = _table(check, digits | agreement | levels | cost)
    if not levels or width_of(whole) <= width:
        return [whole]
    return [_table(check, digits | cost), _table(check, agreement | levels)]


def _table(check: CrossCheck, columns: Mapping[str, Callable[[Run], str]]) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for name in ("solver", "formulation"):
        made.add_column(name, no_wrap=True)
    for name in ("rtol", *columns):
        made.add_column(name, justify="right", no_wrap=True)
    several = len({run.rtol for run in check.runs}) > 1
    last = None
    for run in check.runs:
        names = run.solver, run.formulation
        if last is not None and names != last and several:
            made.add_section()
        shown = ("", "") if names == last else names
        made.add_row(*shown, f"{run.rtol:.0e}", *(cell(run) for cell in columns.values()))
        last = names
    return made


def width_of(made: Any) -> int:
    """The characters that a table needs in a line so that nothing of it is cut."""
    from rich.console import Console

    wide = Console(width=10_000)
    return wide.measure(made).maximum


def _digits(check: CrossCheck, run: Run, differential: bool) -> str:
    if run.failure:
        return "failed" if differential else ""
    if not differential and not check.judges_algebraic:
        return "not given"
    return digits_text(check.digits(run, differential))


def _drift(level: str, run: Run) -> str:
    return "" if run.failure else size_text(run.drift.get(level))


def _steps(run: Run) -> str:
    return "" if run.n_steps is None else f"{run.n_steps:,}"


def _evaluations(run: Run) -> str:
    return "" if run.n_f_evals is None else f"{run.n_f_evals:,}"


def _run_seconds(run: Run) -> str:
    return "" if run.failure else _seconds(run.seconds)  # of a failed run, compilation may be among them


def headline(check: CrossCheck) -> str:
    """What was solved, in one line."""
    start, end = check.problem.t_span
    title = f": {check.problem.title}" if check.problem.title else ""
    n = len(check.problem.states)
    return (
        f"{check.problem.name}{title}\nindex {check.index}, {n} variables ({len(check.differential)} differential), "
        f"t = {start:g} to {end:g}, {'stiff' if check.stiff else 'not stiff'}: {check.solver}"
    )


def notes(check: CrossCheck) -> list[str]:
    """What a reader must know to read the numbers, and what they say."""
    problem = check.problem
    origin = problem.texts.get("reference_origin")
    better = "recomputed with more digits than the published ones" if problem.reference else "computed, not published"
    unknown = f"{check.reference_kind}, as no end values are known"
    said = {
        "exact": "the exact solution",
        "recomputed": f"values {better}",
        "published": "the end values that it gives" + (f" ({origin})" if origin else ""),
    }
    lines = [
        f"digits: correct ones of the worst differential variable at the end (all: of the worst of all given), against "
        f"{said.get(check.reference_kind, unknown)}; of a variable that passes through zero, against its "
        "largest magnitude",
        "outputs: digits in which all variables agree, at the worst output time, with the best run of another kind; "
        "against the largest magnitude of each",
        "level k: largest residual at the output points of the algebraic equations differentiated k times; equations: "
        "of those that the highest derivatives and algebraic variables are solved from",
        f"seconds: wall time of a call after compilation, the least of three where it is short, with {check.n_outputs} "
        "output times; all steps but IDA's end on these, so that there may be more steps than a tolerance needs",
    ]
    limit = check.published_limit()
    if limit is not None and limit < _MANY_DIGITS:
        worst = min(
            (n for n in check.differential if n in check.published_digits), key=check.published_digits.__getitem__
        )
        lines.append(f"the published values themselves have {limit:.1f} digits (the worst, {worst})")
    if check.left_out:
        lines.append(f"zero up to rounding all along, so without digits and not counted: {listed(check.left_out)}")
    if check.not_given:
        lines.append(
            f"not given by the reference, so without digits, and judged by how runs agree at the outputs alone: "
            f"{listed(check.not_given)}"
        )
    if not check.hidden and any(run.formulation == "plain" for run in check.runs):
        lines.append("there are no hidden constraints to keep: every formulation is the same solve as plain")
    if problem.index is not None and problem.index != check.index:
        lines.append(f"its source states index {problem.index}, found is {check.index}")
    return lines + suspicions(check) + failures(check)


def suspicions(check: CrossCheck) -> list[str]:
    """A line for every run of which an algebraic variable is wrong at some output while the states are right."""
    return [
        f"WRONG: {run.name}, rtol {run.rtol:.0e}: {run.agreement.variable} agrees with {run.agreement.other} to "
        f"{run.agreement.algebraic:.1f} digits at t = {run.agreement.at:.9g}, the states to "
        f"{run.agreement.differential:.1f} at every output"
        for run in check.runs
        if run.agreement is not None and run.agreement.suspicious
    ]


def failures(check: CrossCheck) -> list[str]:
    """A line for every run that did not get to the end: which, and why."""
    return [f"{run.name}, rtol {run.rtol:.0e}: {run.failure}" for run in check.runs if run.failure]


def digits_text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def size_text(value: float | None) -> str:
    return "" if value is None else "nan" if math.isnan(value) else "0" if value == 0 else f"{value:.0e}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
