"""Cross-checks compare every variable at every output time: a multiplier may be wrong at one of them alone."""

from dataclasses import replace

import numpy as np
import pytest

from ndae.experiments.crosscheck import check as module
from ndae.experiments.crosscheck.agreement import agreement
from ndae.experiments.crosscheck.check import crosscheck
from ndae.experiments.crosscheck.report import notes
from ndae.experiments.problems import load_problem
from ndae.solvers import Solution


def pair(at, by, column):
    """Two solutions of x, v, lam, of which one is changed at one output."""
    ts = np.linspace(0.0, 1.0, 11)
    x = np.stack([np.cos(ts), -np.sin(ts), 3 + ts], -1)
    other = x + 1e-13
    other[at, column] += by
    return [Solution(ts, values, names=("x", "v", "lam")) for values in (other, x)]


@pytest.mark.parametrize("at", [0, 4, 10])
def test_one_wrong_multiplier_is_seen(at):
    found = agreement("dopri8", *pair(at, 1.0, 2), {"x", "v"}, ("x", "v", "lam"))
    assert found.suspicious and found.variable == "lam" and found.at == pytest.approx(at / 10)
    assert found.differential > 12 and found.algebraic == pytest.approx(np.log10(4), abs=1e-9) == found.least


def test_solutions_that_are_as_wrong_in_their_states_are_only_inexact():
    found = agreement("dopri8", *pair(4, 1e-3, 0), {"x", "v"}, ("x", "v", "lam"))
    assert not found.suspicious and found.least == found.differential < 4
    assert not agreement("dopri8", *pair(4, 1e-10, 2), {"x", "v"}, ("x", "v", "lam")).suspicious
    assert agreement("dopri8", *pair(4, np.nan, 2), {"x", "v"}, ("x", "v", "lam")).algebraic == 0


def test_a_cross_check_says_which_solve_is_wrong_where(monkeypatch):
    solve = module._Study._solve

    def spoiled(self, formulation, *arguments):
        solution = solve(self, formulation, *arguments)
        if formulation != "ggl":
            return solution
        x = solution.x.copy()
        x[30, solution.names.index("lam")] *= 1.5
        return replace(solution, x=x)

    problem = load_problem("arevalo")
    monkeypatch.setattr(module._Study, "_solve", spoiled)
    check = crosscheck(problem, tolerances=(1e-8,), formulations=("projection", "ggl"), outside=())
    wrong = {run.formulation: run.agreement.suspicious for run in check.runs}
    assert wrong["ggl"] and min(check.digits(run, differential=False) for run in check.runs) > 5
    assert any(line.startswith("WRONG: dopri8, ggl") and "lam" in line for line in notes(check))
