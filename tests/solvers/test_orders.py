"""Orders of convergence of every solver on an index-3 problem, with projection and without.

With tolerances that switch error control off, each interval between outputs is one step: the outputs set the step.
"""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ndae.solvers.arguments import INTEGRATORS
from ndae.solvers.dae.solve import solve_dae
from tests.solvers.dae_cases import pendulum
from tests.systems import GRAVITY, hanging

ORDERS = {"dopri8": 8, "dopri5": 5, "tsit5": 5, "kvaerno5": 5}
# Within a factor of two, so that the chunks of outputs are alike and all of a solver's runs are one compilation.
INTERVALS = {8: [18, 22, 26, 32], 5: [34, 42, 52, 64]}
OFF = 1e6
ANGLE, RATE = 2.0, 1.0  # wide: of a small swing, errors change their sign within these intervals


@pytest.fixture(scope="module")
def exact():
    """States at t = 1, from the equation in the angle."""
    end = solve_ivp(
        lambda _, s: [s[1], -GRAVITY * np.sin(s[0])], (0, 1), [ANGLE, RATE], "DOP853", rtol=1e-13, atol=1e-13
    ).y[:, -1]
    return np.array(list(hanging(*end).values()))


def test_every_solver_is_measured():
    """Of order 13, errors are those of the stages' Newton iterations at any step that these converge in."""
    assert {*ORDERS, "radau13"} == set(INTEGRATORS)  # see test_radau_iia


@pytest.mark.parametrize("formulation", ["projection", "plain"])
@pytest.mark.parametrize("solver", ORDERS)
def test_solvers_keep_their_order(solver, formulation, exact):
    order = ORDERS[solver]
    intervals, errors = np.array(INTERVALS[order]), []
    for n in intervals:
        ts = np.linspace(0, 1, n + 1)
        start = hanging(ANGLE, RATE)
        solution = solve_dae(pendulum(), start, ts, integrator=solver, method=formulation, rtol=OFF, atol=OFF)
        assert solution.stats["n_steps"] <= n + 2, "only the first step may be shorter"
        errors.append(np.abs(solution.x[-1, :4] - exact).max())
    assert errors[0] < 1e-2
    assert errors[-1] > 1e-12, "errors of the method, not of rounding"
    slope = -np.polyfit(np.log(intervals), np.log(errors), 1)[0]
    assert slope > order - 0.3, (slope, errors)
