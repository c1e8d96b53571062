"""Every problem of the package: 8 digits at rtol 1e-10, hidden constraints held at every output time."""

import numpy as np
import pytest

from ndae.experiments.crosscheck.check import crosscheck
from ndae.experiments.problems import load_problem, problem_names
from ndae.experiments.problems.start import start_of
from ndae.solvers.dae.solve import solve_dae

RTOL = 1e-10
# Over its 10 s the motion of five links magnifies every error a millionfold: at 1e-10 eight digits are luck.
TIGHTER = {"five_body_pendulum": 1e-12}
DIGITS = 8.0
# By formulation, at every output time.
HELD = {"projection": 1e-12, "ggl": 1e-9, "baumgarte": 1e-9}
# Terms of 2e4 (accelerations of 6e5 rad/s² at bars of 0.03 m), whose rounding is 4e-12 each; of 6e3 in the crank.
ROUNDING = {("andrews", "level 2"): 1e-10, ("crank", "level 1"): 1e-11, ("beam", "level 0"): 1e-11}

# Compiling the first two takes half a minute and more; of stiff equations, Robertson's and Van der Pol's are enough.
SLOW = ("fekete", "water_tube", "hires", "orego", "pollution", "ring", "beam", "crank", "nand")
NAMES = [name for name, origin in problem_names().items() if origin == "built in"]


def check_of(name, formulations):
    return crosscheck(load_problem(name), tolerances=(TIGHTER.get(name, RTOL),), formulations=formulations, outside=())


def assert_solved(check, run):
    """At least 8 digits in the differential variables, and all constraints and hidden constraints held."""
    assert run.failure is None
    worst = run.digits.worst(check.differential)
    assert check.digits(run) >= DIGITS, f"{run.formulation}: {worst} has {run.digits.digits[worst]:.1f} digits"
    for level, residual in run.drift.items():
        held = ROUNDING.get((check.problem.name, level), HELD.get(run.formulation, HELD["projection"]))
        assert residual <= held, f"{run.formulation}: {level}"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
)
def test_eight_digits_and_hidden_constraints_to_rounding(name):
    check = check_of(name, ("projection",))
    (run,) = check.runs
    # The one solve of a problem that hides nothing is called plain.
    assert run.formulation == ("projection" if check.hidden else "plain")
    assert_solved(check, run)
    assert check.index == check.problem.index


def test_other_formulations_hold_hidden_constraints_to_their_tolerance():
    check = check_of("arevalo", ("ggl", "baumgarte"))
    assert [run.formulation for run in check.runs] == ["ggl", "baumgarte"]
    for run in check.runs:
        assert_solved(check, run)


def test_a_projection_where_most_variables_are_zero_is_not_singular():
    """The robot's motion starts with five of its states at zero, far below what tolerances such as these allow."""
    problem = load_problem("robot_path")
    ts = np.linspace(*problem.t_span, 11)
    solution = solve_dae(problem.system, start_of(problem, None), ts, rtol=1e-5, atol=1e-14)
    assert max(np.abs(level).max() for level in solution.residual.values()) < 1e-12
