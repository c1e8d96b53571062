"""Solves that can't get on stop early, with the reason, and those that can do not."""

import pytest
import sympy as sp

from ndae import SolveError, System, dot, solve
from ndae.solvers.stepping.projected_step import STALL_ATTEMPTS

h, x, t = sp.symbols("h x t", real=True)


def stopped(system, start, end, **options):
    with pytest.raises(SolveError) as caught:
        solve(system, start, [0.0, end], **options)
    return str(caught.value), caught.value.solution.stats["n_steps"]


def test_a_tank_that_is_empty_stops_at_that_time_in_few_steps():
    text, n_steps = stopped(System([dot(h) + sp.sqrt(h)], [h], name="tank"), {"h": 1.0}, 3.0)
    assert "at t = 2:" in text and "the equations for h_dot become singular there" in text and n_steps < 400


def test_a_solve_past_a_singularity_notices_that_it_gets_nowhere():
    """h' = -√|h| sign h rests at 0 from t = 2 on, where the slope is infinite: explicit steps cross 0 for ever."""
    level = System([dot(h) + sp.sign(h) * sp.sqrt(sp.Abs(h))], [h])
    text, n_steps = stopped(level, {"h": 1.0}, 3.0)
    assert "steps collapsed at t = 2.00" in text and "got nowhere" in text
    assert "the equations for h_dot become singular there" in text and n_steps <= 3 * STALL_ATTEMPTS
    assert solve(level, {"h": 1.0}, [0.0, 3.0], by="radau13")["h"][-1] == pytest.approx(0.0, abs=1e-12)


def test_slow_explicit_steps_of_a_stiff_problem_are_none():
    """x' = -1e5 (x - sin t) + cos t, where stability allows a step of 6e-5 all the way."""
    found = solve(System([dot(x) + 10**5 * (x - sp.sin(t)) - sp.cos(t)], [x], time=t), {"x": 0.0}, [0.0, 5.0])
    assert found.stats["n_steps"] > STALL_ATTEMPTS and found["x"][-1] == pytest.approx(float(sp.sin(5)), rel=1e-9)
