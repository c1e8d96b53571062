"""Starts that say no more than is free: what follows from the given values by the constraints is found."""

import hypothesis
import jax
import numpy as np
import pytest
import sympy as sp
from hypothesis import Phase, settings, strategies as st
from scipy.linalg import null_space, orth

import ndae
from ndae import System, dot
from ndae.experiments.problems import load_problem
from ndae.experiments.problems.start import start_of
from ndae.solvers.dae.start import UndeterminedError, name_places
from tests.solvers.dae_cases import pendulum
from tests.solvers.test_linear_daes import linear, t

TS = np.linspace(0, 1, 6)


def two_capacitors() -> System:
    """A source and two capacitors in a loop, whose voltages add up to nothing."""
    t, v1, v2, v3, i = sp.symbols("t v1 v2 v3 i")
    return System([v1 - sp.sin(t), dot(v2) - i, dot(v3) - i, v1 + v2 + v3], [v1, v2, v3, i], time=t, name="loop")


def test_what_the_constraints_determine_need_not_be_given():
    start = ndae.consistent_initial_condition(two_capacitors(), {"v2": 0.3})
    assert start.as_dict() == {"v1": 0.0, "v2": 0.3, "v3": -0.3, "i": -0.5}
    assert ndae.solve(two_capacitors(), {"v2": 0.3}, TS)["v3"] == pytest.approx(-0.3 - np.sin(TS) / 2, abs=1e-9)
    later = ndae.consistent_initial_condition(two_capacitors(), {"v2": 0.3}, t0=1.0)
    assert later["v3"] == pytest.approx(-0.3 - np.sin(1.0), rel=1e-14)


def test_of_several_roots_the_positive_one_is_taken_and_a_value_chooses_another():
    for given, y in (({"x": 0.6, "u": 0.3}, 0.8), ({"x": 0.6, "y": -0.8, "u": 0.3}, -0.8)):
        found = ndae.consistent_initial_condition(pendulum(), given, keep=list(given))
        assert found["y"] == pytest.approx(y, rel=1e-14)
        assert found["v"] == pytest.approx(-0.6 * 0.3 / y, rel=1e-14)
        assert (found["x"], found["u"]) == (0.6, 0.3)


def test_a_batch_leaves_out_velocities_that_follow():
    angle = np.array([0.2, 0.5, -0.7])
    given = {"x": np.sin(angle), "y": -np.cos(angle), "u": 0.3 * np.cos(angle)}
    found = ndae.solve(pendulum(), given, TS)
    whole = ndae.solve(pendulum(), given | {"v": 0.3 * np.sin(angle)}, TS)
    np.testing.assert_allclose(found.x, whole.x, rtol=0, atol=1e-8)


def test_in_jax_with_derivatives_through_what_is_found():
    with jax.enable_x64(True):
        flow = ndae.flow(pendulum())
        end = jax.jit(lambda x: flow({"x": x, "u": 0.3}, TS).x[-1])
        whole = ndae.solve(pendulum(), {"x": 0.6, "y": 0.8, "u": 0.3, "v": -0.225}, TS)
        np.testing.assert_allclose(end(0.6), whole.x[-1], rtol=1e-8)
        slope, h = jax.jacobian(end)(0.6), 1e-5
        np.testing.assert_allclose(slope, (end(0.6 + h) - end(0.6 - h)) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize("by", ["dopri8", "ida", "radau", "torch"])
def test_every_solver_starts_from_what_is_free(by):
    whole = {"x": 0.6, "y": 0.8, "u": 0.3, "v": -0.225}
    found = ndae.solve(pendulum(), {"x": 0.6, "u": 0.3}, TS, by=by)
    np.testing.assert_allclose(found.x, ndae.solve(pendulum(), whole, TS, by=by).x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["car_axis", "pendulum_g10", "double_pendulum", "brenan", "robot_path", "crank"])
def test_of_published_problems_any_values_may_be_left_out_that_the_others_determine(name):
    """All single ones, and random subsets: either the given ones stay and everything holds, or it is refused."""
    problem = load_problem(name)
    system, t0 = problem.system, problem.t_span[0]
    start = ndae.consistent_initial_condition(system, start_of(problem, ()), t0=t0)
    places = name_places(system)
    names = [n for n in problem.states if places[n][0] == "y"]
    random = np.random.default_rng(0)
    subsets = [[n] for n in names] + [[n for n in names if random.random() < 0.4] for _ in range(10)]
    jacobian = system.reduce().numpy().constraints_jacobian(start.y, t0)
    found = 0
    for left_out in subsets:
        given = {n: start[n] for n in names if n not in left_out}
        columns = [places[n][1] for n in left_out]
        try:
            made = ndae.consistent_initial_condition(system, given, keep=list(given), t0=t0)
        except UndeterminedError as error:
            assert set(error.names) <= set(left_out)
            continue
        except ndae.SolveError:  # another root of the constraints, where they are singular
            continue
        assert all(made[n] == start[n] for n in given)
        worst = max(np.abs(values).max(initial=0.0) for values in made.residual.values())
        assert worst <= 1e-9 * max(1.0, np.abs(start.states).max())
        assert np.linalg.matrix_rank(jacobian[:, columns]) == len(columns) or not np.allclose(made.states, start.states)
        found += 1
    assert found or not len(jacobian)


def test_nothing_is_sought_that_nothing_determines():
    with pytest.raises(UndeterminedError, match="gives no value for u, v, which the equations of 'pendulum' do not"):
        ndae.solve(pendulum(), {"x": 0.6, "y": -0.8}, TS)
    with pytest.raises(ValueError, match="gives no value for x; give one"):  # NaN is no way to leave it out
        ndae.solve(pendulum(), {"x": np.nan, "y": -0.8, "u": 0.0, "v": 0.0}, TS)
    with pytest.raises(ValueError, match=r"inconsistent at level 0: .* is 1\.25"):
        ndae.solve(pendulum(), {"x": 1.5, "u": 0.1}, TS)


def _free_directions(system: System) -> np.ndarray:
    """Directions (n_states, n_free) in which the states of E x' = A x + f may start: the limit of Wong's sequence."""
    rates = [dot(s) for s in system.states]
    E, A = (np.array(sp.Matrix(system.equations).jacobian(by), dtype=float) for by in (rates, list(system.states)))
    directions = np.eye(len(rates))
    for _ in rates:  # {x: A x in E V}, by the null vectors (x, u) of A x = E V u
        null = null_space(np.concatenate([A, -E @ directions], axis=1))
        directions = orth(null[: len(rates)], rcond=1e-9)
    return directions


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])
@hypothesis.given(st.integers(1, 5), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_of_random_systems_what_determines_the_rest_is_enough(index, seed, random):
    """Of index 1 to 5, states in random order until they determine the rest, or all but the last of these."""
    system, solution, _ = linear(index, seed)
    right = np.array(solution.subs(t, sp.Rational(7, 10)).evalf(), dtype=float).ravel()
    directions, order = _free_directions(system), random.sample(range(len(right)), len(right))
    ranks = [np.linalg.matrix_rank(directions[order[: n + 1]], tol=1e-7) for n in range(len(order))]
    enough = ranks.index(directions.shape[1]) + 1
    values = {system.states[i].name: right[i] for i in order[:enough]}
    start = ndae.consistent_initial_condition(system, values, t0=0.7)
    np.testing.assert_allclose(start.states, right, rtol=0, atol=1e-8 * np.abs(right).max())
    assert start.moved == {} and len(start.found) == len(right) - enough
    values.popitem()
    with pytest.raises(UndeterminedError):
        ndae.consistent_initial_condition(system, values, t0=0.7)


def test_a_solve_takes_guesses_of_what_the_start_leaves_out():
    """Of the two roots y = ±0.8 the guess picks one; u and v, which nothing determines, are near their guesses."""
    below = ndae.solve(pendulum(), {"x": 0.6, "u": 0.3}, TS, guess={"y": -1.0})
    whole = ndae.solve(pendulum(), {"x": 0.6, "y": -0.8, "u": 0.3, "v": 0.225}, TS)
    np.testing.assert_allclose(below.x, whole.x, rtol=0, atol=1e-9)
    still = ndae.solve(pendulum(), {"x": np.array([0.6, -0.6])}, TS, guess={"y": [-1.0, 1.0], "u": 0.0, "v": 0.0})
    np.testing.assert_allclose(still.x[:, 0, :4], [[0.6, -0.8, 0, 0], [-0.6, 0.8, 0, 0]], atol=1e-14)
    as_array = ndae.solve(pendulum(), [0.6, np.nan, 0.3, 0.225, np.nan], TS, guess={"y": -1.0})
    np.testing.assert_allclose(as_array.x, whole.x, rtol=0, atol=1e-9)


def test_guesses_that_are_none():
    with pytest.raises(ValueError, match=r"guess: 'pendulum' has no state 'z'"):
        ndae.solve(pendulum(), {"x": 0.6}, TS, guess={"z": 1.0})
    with pytest.raises(ValueError, match=r"start of 'pendulum' is inconsistent at t = 0: it has to move x from 0\.6"):
        ndae.solve(pendulum(), {"x": 0.6, "y": -0.5}, TS, guess={"u": 0.0, "v": 0.0})
    start = ndae.consistent_initial_condition(pendulum(), {"x": 0.6, "u": 0.3})
    with pytest.raises(ValueError, match="a ConsistentStart, in which nothing is left to guess"):
        ndae.solve(pendulum(), start, TS, guess={"y": -1.0})
    with pytest.warns(UserWarning, match=r"lam = 1, and the equations give"):
        ndae.solve(pendulum(), {"x": 0.6, "u": 0.3, "lam": 1.0}, TS, guess={"y": -1.0})


def test_in_jax_a_guess_chooses_the_root():
    with jax.enable_x64(True):
        flow = ndae.flow(pendulum())
        end = jax.jit(lambda x, guess: flow({"x": x, "u": 0.3}, TS, guess={"y": guess}).x[-1])
        whole = ndae.solve(pendulum(), {"x": 0.6, "y": -0.8, "u": 0.3, "v": 0.225}, TS)
        np.testing.assert_allclose(end(0.6, -1.0), whole.x[-1], rtol=1e-8)
        with pytest.raises(ValueError, match="guess: 'pendulum' has no state 'z'"):
            flow({"x": 0.6, "u": 0.3}, TS, guess={"z": 1.0})
