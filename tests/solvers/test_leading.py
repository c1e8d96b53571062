"""Accelerations, algebraic variables and multipliers that do not solve their equations: solved again, or the end."""

import jax.numpy as jnp
import numpy as np
import pytest

from ndae.solvers import SolveError, consistent_initial_condition, solve
from ndae.solvers.dae import leading, solve as dae
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch
from ndae.symbolic import library
from ndae.symbolic.forms.functions import ReducedFunctions
from ndae.symbolic.systems.of_points_jax import JaxPoints
from tests.solvers.dae_cases import pendulum
from tests.symbolic.stewart import motion, stewart
from tests.systems import hanging


@pytest.fixture(scope="module")
def solved():
    system, start = pendulum(), hanging(1.0)
    return system, start, solve_dae(system, start, np.linspace(0.0, 1.0, 6), rtol=1e-8)


def spoil(monkeypatch, factor):
    """Multiply what compiled code solves for by a factor at one output."""
    solution = dae._solution

    def spoiled(system, outcome, parameters):
        outcome.rows["w"] = np.array(outcome.rows["w"])
        outcome.rows["w"][..., 3, :] *= factor
        return solution(system, outcome, parameters)

    monkeypatch.setattr(dae, "_solution", spoiled)


@pytest.mark.parametrize("factor", [1 + 1e-9, 1.3, -40.0])
def test_what_is_wrong_at_one_output_is_solved_again(monkeypatch, solved, factor):
    system, start, right = solved
    spoil(monkeypatch, factor)
    again = solve_dae(system, start, right.ts, rtol=1e-8)
    np.testing.assert_allclose(again.x, right.x, rtol=1e-12, atol=1e-12)


def test_what_stays_wrong_ends_a_solve(monkeypatch, solved):
    system, start, right = solved
    spoil(monkeypatch, 1.3)
    monkeypatch.setattr(leading, "_STEPS", 0)
    with pytest.raises(SolveError, match=r"solved only to .* of their terms at t = 0.6"):
        solve_dae(system, start, right.ts, rtol=1e-8)
    short = solve_dae(system, start, right.ts, rtol=1e-8, throw=False)
    assert short.n_reached == 3 and len(short.ts) == 3


def test_torch_is_checked_as_well(monkeypatch, solved):
    system, start, right = solved
    solve = ReducedFunctions.solve_leading

    def spoiled(self, y, t=None, *args, **kwargs):
        w, found = solve(self, y, t, *args, **kwargs)
        return (1.3 * w if self.backend == "torch" and t == right.ts[2] else w), found

    monkeypatch.setattr(ReducedFunctions, "solve_leading", spoiled)
    again = solve_torch(system, start, right.ts[:4], rtol=1e-8)
    np.testing.assert_allclose(again.x, right.x[:4], rtol=1e-6, atol=1e-6)
    monkeypatch.setattr(leading, "_STEPS", 0)
    short = solve_torch(system, start, right.ts[:4], rtol=1e-8, throw=False)
    assert "of their terms" in short.result and len(short.ts) == 2


def test_solves_of_points_end_where_multipliers_are_wrong(monkeypatch):
    right = JaxPoints._solve

    def spoiled(self, q, v, t, parameters):
        lam, a = right(self, q, v, t, parameters)
        return lam, jnp.where(t == 0.2, 1.3, 1.0) * a

    monkeypatch.setattr(JaxPoints, "_solve", spoiled)
    start, ts = {"q": [0.6, -0.8], "v": [0.4, 0.3]}, [0.0, 0.1, 0.2, 0.3]
    short = solve(library.chain_pendulum(1), start, ts, by="dopri5", rtol=1e-6, throw=False)
    assert "solve their equations only to" in short.result and "t = 0.2" in short.result
    assert short.n_reached == 2 and len(short.ts) == 2


@pytest.mark.slow
def test_leg_forces_of_a_platform_at_all_outputs():
    """Five of them were wrong by up to 155 N."""
    ts = np.linspace(0.0, 3.0, 301)
    right, system = motion(ts), stewart()
    names = [s.name for s in system.reduce().y]
    start = consistent_initial_condition(system, {name: right[name][0] for name in names if name in right})
    solution = solve_dae(system, start, ts)
    forces, found = (np.stack([of[f"f{i}"] for i in range(6)], -1) for of in (right, solution))
    assert np.abs(found - forces).max() <= 1e-9 * np.abs(forces).max()
