"""Consistent initial values of DAE systems."""

import numpy as np
import pytest
import sympy as sp

import ndae
from ndae.solvers.consistent import consistent_initial_condition
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.start import ConsistentStart
from ndae.solvers.solution import SolveError
from ndae.symbolic import library
from tests.solvers.dae_cases import branches, hessenberg, pendulum, shaken, valve
from tests.systems import GRAVITY, hanging

ROUGH = {"x": 0.9, "y": -0.6, "u": 0.3, "v": 0.5}


@pytest.fixture(scope="module")
def found():
    return consistent_initial_condition(pendulum(), ROUGH)


def test_all_levels_hold_and_the_multiplier_follows(found):
    assert isinstance(found, ConsistentStart)
    x, y, u, v, lam = (found[name] for name in ("x", "y", "u", "v", "lam"))
    assert abs(x**2 + y**2 - 1) < 1e-15
    assert abs(x * u + y * v) < 1e-15
    assert lam == pytest.approx((u**2 + v**2 - GRAVITY * y) / 2, rel=1e-14)
    assert set(found.residual) == {"level 0", "level 1", "level 2"}
    assert max(np.abs(value).max() for value in found.residual.values()) < 1e-14
    np.testing.assert_allclose(found.rates[:4], [u, v, -2 * lam * x, -2 * lam * y - GRAVITY], rtol=1e-14)
    assert np.isnan(found.rates[4])
    assert found.as_dict() == dict(zip(found.names, found.states, strict=True))
    assert found.moved == {name: (ROUGH[name], found[name]) for name in "xyuv"}
    assert list(found.found) == ["lam"]
    assert "x from 0.9 to 0.818" in str(found) and "lam = 2.97" in str(found)


def test_changes_are_the_smallest_relative_ones(found):
    """Optimality: D⁻² (s - s₀) is normal to the constraint, with D the sizes given; positions, then velocities."""
    x, y = found["x"], found["y"]
    for pair in ("xy", "uv"):
        given = np.array([ROUGH[name] for name in pair])
        force = (np.array([found[name] for name in pair]) - given) / given**2
        assert np.abs(force).max() > 0.05
        assert abs(force @ [y, -x]) < 1e-8  # the gradient is along (x, y) for both


def test_a_consistent_position_stays_whatever_the_velocity_is():
    """A torus, radii 2 and 1: the nearest of position and velocity together would be another position."""
    x, y, z, a, b, c = sp.symbols("x y z a b c")
    torus = (sp.sqrt(x**2 + y**2) - 2) ** 2 + z**2 - 1
    system = ndae.System.mechanical([x, y, z], [a, b, c], mass=1, potential=9.81 * z, holonomic=[torus])
    start = consistent_initial_condition(system, {"x": 3, "y": 0, "z": 0, "a": 0.3, "b": 1.0, "c": 0.5})
    np.testing.assert_allclose(start.states[:6], [3, 0, 0, 0, 1, 0.5], rtol=0, atol=1e-15)
    assert start.moved == {"a": (0.3, start["a"])}


def test_given_values_come_before_guesses():
    start = consistent_initial_condition(pendulum(), {"x": 0.6, "u": 0.3}, guess={"y": -0.7, "v": 5.0})
    np.testing.assert_allclose(start.states[:4], [0.6, -0.8, 0.3, 0.225], rtol=1e-14)
    assert start.moved == {} and set(start.given) == {"x", "u"}
    free = consistent_initial_condition(pendulum(), {"x": 0.6}, guess={"y": -0.7, "u": 0.3, "v": 0.0})
    assert (free["x"], free["y"]) == (0.6, pytest.approx(-0.8, rel=1e-14))
    assert free["u"] * 0.6 == pytest.approx(free["v"] * 0.8, rel=1e-13)


def test_what_is_zero_changes_absolutely():
    """Of (3, 0) both coordinates may move; the nearest point of the circle is (1, 0)."""
    start = consistent_initial_condition(pendulum(), {"x": 3.0, "y": 0.0, "u": 0.0, "v": 1.0})
    np.testing.assert_allclose(start.states[:4], [1, 0, 0, 1], atol=1e-14)


@pytest.mark.parametrize("keep", [["x"], ["y", "u"], ["x", "v"], "x", sp.Symbol("x", real=True), ["x", "x"]])
def test_differential_components_are_kept_exactly(keep):
    start = consistent_initial_condition(pendulum(), ROUGH, keep=keep)
    for name in [keep] if not isinstance(keep, list) else keep:
        assert start[str(name)] == ROUGH[str(name)]
    assert max(np.abs(value).max() for value in start.residual.values()) < 1e-13


def test_algebraic_components_are_kept():
    start = consistent_initial_condition(pendulum(), ROUGH | {"lam": 4.0}, keep=["lam"])
    assert start["lam"] == pytest.approx(4.0, rel=1e-12)
    assert max(np.abs(value).max() for value in start.residual.values()) < 1e-13
    start = consistent_initial_condition(valve(), {"x": 5.0, "z": 1.0}, keep=["z"])
    np.testing.assert_allclose(start.states, [2.0, 1.0], rtol=1e-13)
    both = consistent_initial_condition(pendulum(), ROUGH | {"lam": 4.0}, keep=["lam", "x"])
    assert both["x"] == ROUGH["x"]
    assert both["lam"] == pytest.approx(4.0, rel=1e-12)


@pytest.mark.parametrize("x", [-1.0, 0.0, 100.0])
def test_an_algebraic_component_is_kept_where_the_guess_gives_it_no_value(x):
    """z² = x has no z at x = -1, and at x = 0 an infinitely steep one."""
    start = consistent_initial_condition(branches(), {"x": x, "z": -2.0}, keep="z")
    np.testing.assert_allclose(start.states, [4.0, -2.0], rtol=1e-14)


@pytest.mark.parametrize(("size", "rate"), [(1e6, 1e3), (1e-3, 3.1)])
def test_a_guess_of_another_size_leads_to_a_start_as_consistent(size, rate):
    start = consistent_initial_condition(pendulum(), {"x": size, "y": -size, "u": 3.0, "v": rate})
    assert abs(start["x"] ** 2 + start["y"] ** 2 - 1) < 1e-15
    assert abs(start["x"] * start["u"] + start["y"] * start["v"]) < 1e-12


def test_time_and_parameters_are_used():
    start = consistent_initial_condition(shaken(), ROUGH, t0=0.2, parameters={"speed": 3.0})
    support, speed = 0.3 * np.sin(0.6), 0.9 * np.cos(0.6)
    x, y, u, v = start.states[:4]
    assert abs((x - support) ** 2 + y**2 - 1) < 1e-14
    assert abs((x - support) * (u - speed) + y * v) < 1e-14
    longer = consistent_initial_condition(pendulum(), ROUGH, parameters={"L": 2.0})
    assert abs(np.hypot(longer["x"], longer["y"]) - 2) < 1e-14


def test_a_guess_of_algebraic_variables_chooses_the_branch():
    assert consistent_initial_condition(branches(), {"x": 4.0, "z": -1.0})["z"] == pytest.approx(-2.0, rel=1e-14)
    assert consistent_initial_condition(branches(), [4.0, 1.0])["z"] == pytest.approx(2.0, rel=1e-14)


def test_index_2(found):
    start = consistent_initial_condition(hessenberg(), [2.0, 0.0, np.nan])
    np.testing.assert_allclose(start.states, [1.0, 0.0, 1.0], atol=1e-14)


def test_a_consistent_start_is_its_own_nearest():
    start = consistent_initial_condition(pendulum(), hanging(0.7, 1.3))
    np.testing.assert_allclose(start.states[:4], list(hanging(0.7, 1.3).values()), rtol=0, atol=1e-15)


def test_a_solve_starts_from_it(found):
    solution = solve_dae(pendulum(), found, np.linspace(0, 1, 21))
    np.testing.assert_allclose(solution.x[0], found.states, rtol=0, atol=1e-14)
    by_name = solve_dae(pendulum(), found.as_dict(), np.linspace(0, 1, 21))
    np.testing.assert_array_equal(by_name.x, solution.x)


def test_mechanical_systems_have_the_same_call():
    found = ndae.consistent_initial_condition(library.chain_pendulum(1), {"q": [3.0, -4.0], "v": [1.0, 0.0]})
    np.testing.assert_allclose(found.q, [0.6, -0.8], atol=1e-14)
    np.testing.assert_allclose(found.v, np.array([0.8, 0.6]) * 0.8, atol=1e-14)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 0.5}, r"inconsistent at level 0: .*x\*\*2.* \(equation 4\) is 0\.\d+ at t = 0.*consistent_initial_cond"),
        ({"v": 1.0, "u": 1.0}, r"inconsistent at level 1: .*equation 4, differentiated once.*consistent_initial_cond"),
    ],
)
def test_an_inconsistent_start_names_the_level_and_the_mend(change, message):
    with pytest.raises(ValueError, match=message):
        solve_dae(pendulum(), hanging(0.5) | change, [0.0, 1.0])


def test_algebraic_values_are_guesses_and_a_wrong_one_is_named():
    with pytest.warns(UserWarning, match=r"lam = 7, and the equations give 4\.3.*: taken as a guess. Leave it out"):
        solution = solve_dae(pendulum(), hanging(0.5) | {"lam": 7.0}, [0.0, 1.0])
    assert solution["lam"][0] == pytest.approx(4.3, abs=0.1)


def test_of_a_batch_the_inconsistent_one_is_named():
    start = hanging(np.array([0.5, 1.0]))
    start["u"] = start["u"] + np.array([0.0, 0.1])
    with pytest.raises(ValueError, match=r"the start \(1,\) of 'pendulum' is inconsistent at level 1"):
        solve_dae(pendulum(), start, [0.0, 1.0])


def test_a_start_where_the_equations_are_singular_is_refused():
    with pytest.raises(ValueError, match="give no values of u_dot, v_dot, lam: they are singular where they hold"):
        solve_dae(pendulum(), hanging(0.0, length=0.0), [0.0, 1.0], parameters={"L": 0.0})
    with pytest.raises(
        ValueError, match=r"no values of z were found at t = 0: the nearest to 0 = .* is z = .*give a guess"
    ):
        solve_dae(branches(), {"x": -1.0, "z": 1.0}, [0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"start": ROUGH | {"w": 1.0}}, "start: 'pendulum' has no state 'w'; it has x, y, u, v, lam"),
        ({"start": {"x": 1.0}}, "gives no value for u, v, which the equations of 'pendulum' do not determine"),
        ({"start": None}, r"start has shape \(\); expected \(\*batch, 5\)"),
        ({"start": [1.0, 2.0]}, r"shape \(2,\); expected \(\*batch, 5\)"),
        ({"start": hanging(np.ones(3))}, r"batch shape \(3,\); give one at a time"),
        ({"keep": ["w"]}, "keep: 'pendulum' has no state 'w'; it has x, y, u, v, lam"),
        ({"keep": ["lam"]}, "keep names 'lam', but the start gives no value of it"),
        ({"keep": ["x", "y"]}, r"too much is kept.*with x, y as given.*equation 4\) = 0\.17.*keep fewer"),
        ({"keep": ["x", "y", "u", "v"]}, "too much is kept"),
        (
            {"start": ROUGH | {"x": 2.0}, "keep": "x"},
            r"too much is kept .* with x as given.*equation 4\) = 3; keep fewer",
        ),
        ({"keep": ["x", "u", "v"]}, "too much is kept|no consistent values"),
        ({"parameters": {"gravity": 1.0}}, "no parameter 'gravity'; it has m, g, L"),
        ({"parameters": {"g": [1.0, 2.0]}}, "parameter 'g' has a batch of values"),
        ({"t0": np.nan}, "t0 must be finite"),
        ({"system": shaken()}, "no value of speed"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, SolveError), match=message):
        consistent_initial_condition(**{"system": pendulum(), "start": ROUGH} | call)


@pytest.mark.parametrize(
    ("system", "guess", "keep", "message"),
    [
        (
            pendulum,
            {"x": 0.0, "y": 0.0, "u": 1.0, "v": 0.0},
            [],
            "constraints lose rank at the given values.*other values",
        ),
        (branches, {"x": -1.0, "z": 1.0}, ["x"], "consistent start of 'branches': no values of z were found at t = 0"),
    ],
)
def test_no_solution_near_is_an_error(system, guess, keep, message):
    with pytest.raises(SolveError, match=message):
        consistent_initial_condition(system(), guess, keep=keep)
