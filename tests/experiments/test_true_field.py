"""The true field in torch, adaptive with projection, against diffrax: on every mechanical problem, to 1e-8."""

import numpy as np
import pytest

from experiments.problems import load_problem, problem_names
from solvers.dae import solve_dae, variable_groups
from solvers.torch_reduced import solve_torch

# Minutes between them.
SLOW = ("car_axis", "chain_pendulum_3", "fekete", "five_body_pendulum")
MECHANICAL = ("arevalo", "double_pendulum", "pendulum_g10", "pendulum_mebdf", "pendulum_period2", *SLOW)
# Index 2, with multipliers in its kinematics: it moves, but its velocities are not q'.
STABILISED = "fekete"
# In 10 s the motion of five bodies makes hundreds of times as much of an error.
RTOL = {"five_body_pendulum": 1e-12}


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
    ours = solve_torch(problem.system, dict(problem.initial), ts, rtol=RTOL.get(name, 1e-11))
    theirs = solve_dae(problem.system, dict(problem.initial), ts, rtol=1e-12)
    assert np.array_equal(ours.ts, theirs.ts)
    found = {part: difference(ours, theirs, columns) for part, columns in parts(problem).items()}
    # Something moves: two solutions that stay at the start would agree.
    assert np.ptp(theirs.x, axis=0).max() > 1e-3
    assert max(found.values()) < 1e-8, found
    assert max(np.abs(ours.residual["level 0"]).max(), np.abs(ours.residual["level 1"]).max()) < 1e-12


def test_all_mechanical_problems_are_here():
    systems = {name: load_problem(name).system for name, origin in problem_names().items() if origin == "built in"}
    mechanical = {name for name, system in systems.items() if "q" in variable_groups(system)}
    assert {*MECHANICAL} == {*mechanical, STABILISED}
    assert {name for name, system in systems.items() if system.reduce().index == 3} == mechanical
