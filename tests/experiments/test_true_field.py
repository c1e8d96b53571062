"""The true field in torch, adaptive with projection, against diffrax: on every mechanical problem, to 1e-8."""

import numpy as np
import pytest

from ndae.experiments.problems import load_problem, problem_names
from ndae.experiments.problems.start import start_of
from ndae.solvers.dae.describe import variable_groups
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch

# Minutes between them.
SLOW = (
    "andrews", "car_axis", "chain_pendulum_3", "crank", "double_pendulum", "fekete", "five_body_pendulum", "robot_path",
)  # fmt: skip
MECHANICAL = ("arevalo", "pendulum_g10", "pendulum_mebdf", "pendulum_period2", *SLOW)
# Index 2, with multipliers in its kinematics: it moves, but its velocities are not q'.
STABILISED = "fekete"
# In 10 s the motion of five bodies makes hundreds of times as much of an error.
RTOL = {"five_body_pendulum": 1e-12}
# Its second derivative of a constraint has terms of 6e3 (m/s²), whose rounding is 1e-12 each.
HELD = {"crank": 1e-11}


def parts(problem):
    """Columns of the states that are compared in units of their own."""
    groups = variable_groups(problem.system)
    return {name: groups[name] for name in (("q", "v", "multiplier") if "q" in groups else ("differential",))}


def difference(ours, theirs, columns):
    """Largest over all output times, relative to the largest magnitude of the group."""
    a, b = ours.x[:, columns], theirs.x[:, columns]
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MECHANICAL])
def test_torch_agrees_with_diffrax(name):
    problem = load_problem(name)
    ts = np.linspace(*problem.t_span, 21)
    start = start_of(problem, None)
    ours = solve_torch(problem.system, start, ts, rtol=RTOL.get(name, 1e-11))
    theirs = solve_dae(problem.system, start, ts, rtol=1e-12)
    assert np.array_equal(ours.ts, theirs.ts)
    found = {part: difference(ours, theirs, columns) for part, columns in parts(problem).items()}
    # Something moves: two solutions that stay at the start would agree.
    assert np.ptp(theirs.x, axis=0).max() > 1e-3
    assert max(found.values()) < 1e-8, found
    off = max(np.abs(ours.residual["level 0"]).max(), np.abs(ours.residual["level 1"]).max())
    assert off < HELD.get(name, 1e-12)


def test_all_mechanical_problems_are_here():
    """Those with coordinates, velocities and constraints; in them, all of index 3."""
    systems = {name: load_problem(name).system for name, origin in problem_names().items() if origin == "built in"}
    constrained = {name for name, system in systems.items() if system.reduce().constraints}
    mechanical = {name for name in constrained if "q" in variable_groups(systems[name])}
    assert {*MECHANICAL} == {*mechanical, STABILISED}
    assert {name for name in constrained if systems[name].reduce().index == 3} <= mechanical
