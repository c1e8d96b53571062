"""What digits cost: the five-body pendulum over 10 s, solved here and by SUNDIALS IDA, alone and 256 at once.

    python -m ndae.experiments.benchmarks.solver_cost [--n 256] [--rounds 7] [--out FILE]

One trajectory: every solver is run at all tolerances, and for each number of digits the fastest run that has them is
shown, medians and quartiles of rounds in which the solvers take turns. Digits are of the worst coordinate or velocity
at the end, against values of 40-digit arithmetic (ndae.experiments.problems.library.five_body_pendulum). Everything is
compiled before; IDA gets compiled residuals and analytic Jacobians, multipliers are out of its error test.

Many trajectories: from rest at random angles up to a right angle from the vertical; this project's solver takes them in
one call (vmap), IDA one after the other. Digits there are against the same solver at a tolerance ten times tighter.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from statistics import median, quantiles
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

import numpy as np

from ndae.experiments.crosscheck.digits import correct_digits

SECONDS, N_OUTPUTS = 10.0, 101
TOLERANCES = {
    "dopri8, projection": (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13),
    "IDA, ggl": (1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14),
    "IDA, index1": (1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 3e-15, 1e-15),
}
DIGITS = (4, 6, 8)
# What the many are solved at: the loosest that gives 8 digits of the one, and the best that IDA does.
MANY = {"dopri8, projection": 1e-12, "IDA, index1": 1e-14}


def main() -> None:
    from ndae.experiments.crosscheck.report import machine

    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--n", type=int, default=256, help="trajectories of the batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON too")
    options = parser.parse_args()
    result = {"machine": machine(), "seconds": SECONDS, "outputs": N_OUTPUTS, "one": _one(options.rounds)}
    print(_one_table(result["one"]))
    result["many"] = _many(options.n)
    print(_many_table(result["many"]))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _solver(name: str, rtol: float) -> Callable[[Any], Any]:
    """A function that solves from a start."""
    from ndae.experiments.problems import load_problem
    from ndae.solvers.dae.solve import solve_dae
    from ndae.solvers.outside.ida import solve_ida

    system, ts = load_problem("five_body_pendulum").system, np.linspace(0, SECONDS, N_OUTPUTS)
    solver, form = name.split(", ")
    if solver == "IDA":
        form = _form(system.reduce(), form)
        return lambda start: solve_ida(system, start, ts, form=form, rtol=rtol, atol=rtol, throw=False)
    return lambda start: solve_dae(system, start, ts, integrator=solver, method=form, rtol=rtol, atol=rtol)


@lru_cache  # its functions are compiled once
def _form(reduced: Any, kind: str) -> Any:
    from ndae.symbolic.forms.implicit_form import implicit_form

    return implicit_form(reduced, kind)


def _one(rounds: int) -> list[dict]:
    """Digits, counts and seconds of every solver at every tolerance."""
    from ndae.experiments.problems import load_problem

    problem = load_problem("five_body_pendulum")
    best: Any = problem.best_reference()
    end, _ = best
    runs = [
        {"solver": name, "rtol": rtol, "solve": _solver(name, rtol), "times": []}
        for name, tolerances in TOLERANCES.items()
        for rtol in tolerances
    ]
    for run in runs:
        solution = run["solve"](problem.initial)
        run["steps"] = int(solution.stats["n_steps"])
        run["failure"] = None if solution.succeeded else str(solution.result)
        found = np.array([[solution[name][-1], value] for name, value in end.items()])
        run["digits"] = float(_digits(found[:, 0], found[:, 1])) if solution.succeeded else None
    for _ in range(rounds):
        for run in runs:
            begin = time.perf_counter()
            run["solve"](problem.initial)
            run["times"].append(time.perf_counter() - begin)
    for run in runs:
        low, middle, high = quantiles(run.pop("times"), n=4)
        run |= {"seconds": middle, "low": low, "high": high}
        del run["solve"]
    return runs


def _many(n: int) -> list[dict]:
    """Digits and seconds of `n` trajectories, with the ratio of times."""
    angle = np.random.default_rng(0).uniform(-np.pi / 2, np.pi / 2, (n, 5))
    q = np.cumsum(np.stack([np.sin(angle), -np.cos(angle)], axis=-1), axis=1).reshape(n, 10)
    start = np.concatenate([q, np.zeros_like(q), np.full((n, 5), np.nan)], axis=-1)
    ours, theirs = MANY
    reference = _solver(ours, MANY[ours] / 10)(start).x[:, -1, :20]
    solve = _solver(ours, MANY[ours])
    solve(start)  # compiled
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        solution = solve(start)
        times.append(time.perf_counter() - begin)
    found = [_many_row(ours, median(times), _digits(solution.x[:, -1, :20], reference))]
    solve = _solver(theirs, MANY[theirs])
    begin = time.perf_counter()
    each = [solve(row) for row in start]
    seconds = time.perf_counter() - begin
    digits = [_digits(s.x[-1, :20], own) if s.succeeded else 0.0 for s, own in zip(each, reference, strict=True)]
    found.append(_many_row(theirs, seconds, digits) | {"failed": sum(not s.succeeded for s in each)})
    return [{"n": n, **row, "ratio": row["seconds"] / found[0]["seconds"]} for row in found]


def _many_row(name: str, seconds: float, digits: Any) -> dict:
    low, middle, high = np.quantile(digits, [0.25, 0.5, 0.75])
    return {
        "solver": name, "rtol": MANY[name], "seconds": seconds, "digits": middle, "digits_low": low, "digits_high": high
    }  # fmt: skip


def _digits(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Correct significant digits of the worst component, the last axis."""
    return np.vectorize(correct_digits)(values, reference, np.abs(reference)).min(axis=-1)


def _one_table(runs: list[dict]) -> str:
    lines = ["| digits | solver | rtol | has | steps | ms (quartiles) |", "| ---: | --- | ---: | ---: | ---: | ---: |"]
    for wanted in DIGITS:
        for name in TOLERANCES:
            mine = [run for run in runs if run["solver"] == name and run["digits"] is not None]
            enough = [run for run in mine if run["digits"] >= wanted]
            best = min(enough, key=lambda run: run["seconds"]) if enough else max(mine, key=lambda run: run["digits"])
            ms = "{seconds:.0f} ({low:.0f} to {high:.0f})".format(
                **{k: 1e3 * best[k] for k in ("seconds", "low", "high")}
            )
            never = "" if enough else " at most"
            lines.append(
                f"| {wanted} | {name} | {best['rtol']:.0e} |{never} {best['digits']:.1f} | {best['steps']:,} | {ms} |"
            )
    return "\n".join(lines)


def _many_table(rows: list[dict]) -> str:
    lines = [
        "| solver | trajectories | rtol | digits (quartiles) | s | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        digits = f"{row['digits']:.1f} ({row['digits_low']:.1f} to {row['digits_high']:.1f})"
        ratio = f"{row['ratio']:.1f}"
        lines.append(
            f"| {row['solver']} | {row['n']} | {row['rtol']:.0e} | {digits} | {row['seconds']:.1f} | {ratio} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
