"""Systems whose rows are mixed: their reduced state holds derivatives that are nobody's states, and never asks for."""

import json
from functools import cache

import jax
import numpy as np
import pytest

import ndae
from ndae.experiments.problems import problem_from_text
from ndae.experiments.problems.start import start_of
from ndae.solvers.consistent import consistent_initial_condition
from ndae.solvers.dae.left_out import not_written
from ndae.solvers.dae.left_out_jax import fill_in
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch
from ndae.solvers.dae.start import resolve_start
from ndae.solvers.outside.ida import solve_ida
from ndae.solvers.outside.radau import solve_radau
from ndae.symbolic import System, dot
from tests.solvers.dae_cases import pendulum, u, x, z
from tests.systems import hanging

TS = np.linspace(0, 1, 11)
START = hanging(0.5, 0.7)
#: (i, j, factor): row i has that many times row j added, one after the other.
MIXED = {
    "a row": [(0, 1, 1)],
    "a force": [(0, 2, 1)],
    "the constraint": [(0, 4, 1)],
    "both": [(0, 4, 1), (1, 3, 2)],
    "each other": [(3, 0, 1), (0, 3, 0.5)],
    "all": [(0, 1, 1), (1, 2, 2), (2, 3, -1), (3, 4, 2)],
    "into the constraint": [(4, 0, 1), (4, 2, 1)],
}


@cache
def mixed(name):
    equations = list(pendulum().equations)
    for i, j, factor in MIXED[name]:
        equations[i] += factor * equations[j]
    return System(equations, pendulum().states, pendulum().parameters, name=f"pendulum with {name} mixed in")


@cache
def expected():
    return solve_dae(pendulum(), START, TS).x


@pytest.mark.parametrize("name", MIXED)
def test_a_start_needs_no_derivative_that_is_no_state(name):
    system = mixed(name)
    reduced = system.reduce()
    for start in (START, [*START.values(), np.nan]):
        y, w = resolve_start(system, start, 0.0, None, 1e-8)
        np.testing.assert_allclose(reduced.numpy().states(y, w)[:4], list(START.values()), rtol=1e-15)
        values = dict(zip([s.name for s in (*reduced.y, *reduced.w)], [*y, *w], strict=True))
        assert values.get("x_dot", START["u"]) == pytest.approx(START["u"], rel=1e-14)
    whole = consistent_initial_condition(pendulum(), {key: 1.1 * value for key, value in START.items()})
    found = consistent_initial_condition(system, {key: 1.1 * value for key, value in START.items()})
    np.testing.assert_allclose(found.states, whole.states, rtol=1e-9)  # as near: what follows moves at no cost
    assert set(found.moved) == set("xyuv")
    kept = consistent_initial_condition(system, START | {"x": 0.4}, keep="x")
    assert kept["x"] == 0.4
    assert max(np.abs(value).max() for value in kept.residual.values()) < 1e-13


@pytest.mark.parametrize("form", ["ggl", "dummy"])
@pytest.mark.parametrize("name", MIXED)
def test_solvers_of_other_makers_take_it(name, form):
    for solve in (solve_ida, solve_radau):
        solution = solve(mixed(name), START, TS, form=form, rtol=1e-9)
        np.testing.assert_allclose(solution.x, expected(), rtol=0, atol=3e-6)


def test_entries_left_out_in_jax_and_their_derivatives():
    """x_dot = u and y_dot = v, as long as the start is consistent: derivatives of first and second order as well."""
    reduced = mixed("all").reduce()
    names = [s.name for s in reduced.y]
    optional = np.flatnonzero(not_written(mixed("all")))
    assert [names[i] for i in optional] == ["x_dot", "y_dot"]
    with jax.enable_x64(True):
        functions = reduced.jax()

        def of_rate(rate):
            cos, sin = np.cos(0.5), np.sin(0.5)
            given = {"x": sin, "y": -cos, "u": rate**2 * cos, "v": rate**2 * sin}
            start = jax.numpy.stack([jax.numpy.asarray(given.get(name, jax.numpy.nan)) for name in names])
            y, determined = fill_in(functions, start, optional, 0.0, None)
            return y[names.index("x_dot")], determined

        def derivatives(rate):
            slope = jax.grad(lambda rate: of_rate(rate)[0])
            return *of_rate(rate), slope(rate), jax.jacfwd(slope)(rate)

        value, determined, first, second = jax.jit(derivatives)(0.7)
        assert determined
        np.testing.assert_allclose([value, first, second], np.cos(0.5) * np.array([0.49, 1.4, 2]))


@pytest.mark.slow
def test_a_flow_and_its_derivatives():
    """As a function of the start: the derivatives are those of the system as it was."""
    with jax.enable_x64(True):
        flows = [ndae.flow(system, integrator="dopri5", rtol=1e-8) for system in (pendulum(), mixed("all"))]

        def end(flow):
            def of_rate(rate):
                cos, sin = np.cos(0.5), np.sin(0.5)
                states = jax.numpy.array([sin, -cos, rate * cos, rate * sin, np.nan])
                return flow(states, np.array([0.0, 0.3])).x[-1, 2]

            return jax.value_and_grad(of_rate)

        plain, of_mixed = (end(flow)(0.7) for flow in flows)
        np.testing.assert_allclose(of_mixed, plain, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXED)
def test_own_solvers(name):
    for solution in (
        solve_dae(mixed(name), START, TS),
        solve_dae(mixed(name), START, TS, integrator="radau13", method="ggl"),
        solve_torch(mixed(name), START, TS),
    ):
        np.testing.assert_allclose(solution.x, expected(), rtol=0, atol=1e-8)


def test_an_algebraic_variable_whose_equation_is_differentiated_may_be_left_out():
    """x' = p with p = u beside it: the constraint needs p', so that p is one of y; its derivative nobody wrote."""
    equations = [dot(x) - z, *pendulum().equations[1:], z - u]
    system = System(equations, [*pendulum().states, z], pendulum().parameters, name="pendulum by p")
    assert z in system.reduce().y
    y0, w0 = resolve_start(system, START, 0.0, None, 1e-8)
    states = system.reduce().numpy().states(y0, w0)
    assert states[-1] == pytest.approx(START["u"], rel=1e-14)
    with pytest.raises(ValueError, match=r"inconsistent at level 0: .*equation"):
        resolve_start(system, START | {"z": 0.1}, 0.0, None, 1e-8)
    found = consistent_initial_condition(system, START | {"z": 0.1})  # a guess, as of any algebraic variable
    np.testing.assert_allclose(found.states, states, rtol=1e-13)
    assert found.moved == {"z": (0.1, found["z"])}
    kept = consistent_initial_condition(system, START | {"z": 0.1}, keep="z")
    assert kept["z"] == 0.1
    assert kept["u"] == pytest.approx(0.1, rel=1e-12)


def test_what_the_equations_leave_free_is_asked_for_by_its_name():
    """A user's own second derivative: x' is data."""
    system = System([dot(x, 2) + x], [x], name="spring")
    with pytest.raises(
        ValueError,
        match="no value for x_dot, which the equations of 'spring' do not determine from the others; give one",
    ):
        resolve_start(system, {"x": 1.0}, 0.0, None, 1e-8)
    y0, _ = resolve_start(system, {"x": 1.0, "x_dot": 2.0}, 0.0, None, 1e-8)
    np.testing.assert_array_equal(y0, [1, 2])


def test_where_the_equations_do_not_determine_it_at_a_start():
    """The first row gives x' by x x' = ..., which says nothing at x = 0."""
    equations = list(pendulum().equations)
    equations[0] = x * equations[0] + equations[1]
    system = System(equations, pendulum().states, pendulum().parameters, name="lost")
    assert "x_dot" in {s.name for s in system.reduce().y}
    y0, _ = resolve_start(system, START, 0.0, None, 1e-8)
    assert np.isfinite(y0).all()
    with pytest.raises(ValueError, match=r"gives no value for x_dot.*do not determine it there"):
        resolve_start(system, hanging(0.0, 0.7), 0.0, None, 1e-8)


def test_problem_files():
    """A pendulum's first row with the constraint in it: the file needs no `initial.y_dot`."""
    system = mixed("the constraint")
    file = {
        "name": "mixed",
        "states": ["x", "y", "u", "v", "lam"],
        "parameters": {"m": 1, "g": "9.81", "L": 1},
        "equations": [str(e) for e in system.equations],
        "initial": {"y": START},
        "t_span": ["0", "1"],
    }
    problem = problem_from_text(json.dumps(file))
    for start in (start_of(problem, None), start_of(problem, ["x"])):
        y0, w0 = resolve_start(problem.system, start, 0.0, None, 1e-8)
        np.testing.assert_allclose(problem.system.reduce().numpy().states(y0, w0)[:4], list(START.values()), rtol=1e-14)
