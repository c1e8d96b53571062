"""Inputs that switch at given times: what a solve must not step over, or across."""

from importlib.util import find_spec

import jax
import numpy as np
import pytest
import sympy as sp

import ndae
from ndae.solvers import SolveError
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch
from ndae.solvers.dae.switching import MAX_CHANGES
from ndae.solvers.outside.ida import solve_ida
from ndae.solvers.outside.radau import solve_radau
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.systems.system import System

x, z, t = sp.symbols("x z t", real=True)
begin, height, omega = sp.symbols("begin height omega", real=True)
WIDTH = sp.Rational(1, 1000)

# A pulse of a thousandth of the time that the decay takes: no error test sees it between the stages of a step.
pulse = System(
    [dot(x) + x / 10 - z, z - sp.Piecewise((height, (t > begin) & (t < begin + WIDTH)), (0, True))],
    [x, z],
    {begin: 5.0, height: 1000.0},
    t,
    name="pulse",
)
square = System([dot(x) + x - sp.sign(sp.sin(omega * t))], [x], {omega: 20.0}, t, name="square wave")


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason="needs the extra crosscheck")


def pulse_end(begin=5.0, height=1000.0, end=10.0):
    """x at the end, from x(0) = 1."""
    width = float(WIDTH)
    return np.exp(-end / 10) + 10 * height * (np.exp((begin + width - end) / 10) - np.exp((begin - end) / 10))


def square_end(omega, end):
    """x at the end, from x(0) = 0: sum over half periods."""
    edges = np.append(np.arange(0, end, np.pi / omega), end)
    signs = (-1.0) ** np.arange(edges.size - 1)
    return float(np.sum(signs * (np.exp(edges[1:] - end) - np.exp(edges[:-1] - end))))


@pytest.mark.parametrize(
    "solve",
    [
        lambda *a: solve_dae(pulse, *a),
        lambda *a: solve_dae(pulse, *a, integrator="kvaerno5", atol=1e-12),
        lambda *a: solve_torch(pulse, *a),
        pytest.param(lambda *a: solve_ida(pulse, *a, rtol=1e-11), marks=needs("sksundae")),
        pytest.param(lambda *a: solve_radau(pulse, *a, rtol=1e-10), marks=needs("solve_dae")),
    ],
    ids=["dopri8", "kvaerno5", "torch", "IDA", "Radau"],
)
def test_a_short_pulse_is_not_stepped_over(solve):
    assert solve({"x": 1.0}, [0.0, 10.0]).x[-1, 0] == pytest.approx(pulse_end(), rel=1e-8)


def test_outputs_at_and_around_switching_times():
    ts = [0.0, 5.0, np.nextafter(5.0, 6.0), 5.0005, 5.0 + float(WIDTH), 7.0]
    solution = solve_dae(pulse, {"x": 1.0}, ts)
    expected = [1.0, *[np.exp(-0.5)] * 2, pulse_end(height=0, end=5.0005), pulse_end(end=5.0 + float(WIDTH))]
    expected[3] += 1e4 * (1 - np.exp(-0.0005 / 10))
    assert solution["x"] == pytest.approx([*expected, pulse_end(end=7.0)], rel=1e-9)
    assert solution["z"].tolist() == [0.0, 0.0, 1000.0, 1000.0, 0.0, 0.0]  # as the condition says at that time


def test_each_of_a_batch_switches_at_its_own_time():
    begins = np.array([0.0, 2.0, 9.9995, 11.0])
    solution = solve_dae(pulse, np.tile([1.0, np.nan], (4, 1)), [0.0, 10.0], parameters={"begin": begins})
    expected = [pulse_end(0.0), pulse_end(2.0), np.exp(-1) + 1e4 * (1 - np.exp(-0.0005 / 10)), np.exp(-1)]
    assert solution.x[:, -1, 0] == pytest.approx(expected, rel=1e-8)


def test_conditions_that_are_not_affine_in_time_are_searched():
    solution = solve_dae(square, {"x": 0.0}, [0.0, 3.0])
    assert solution.x[-1, 0] == pytest.approx(square_end(20.0, 3.0), abs=1e-10)
    assert solution.stats["n_rejected"] <= 3  # thousands where steps go across


@pytest.mark.parametrize("solver", ["dopri8", "radau13"])
def test_a_nonlinear_variable_jumps_as_far_as_the_input(solver):
    """It is found behind the jump before a step is taken, which would be rejected for having left its branch."""
    system = System(
        [dot(x) + x - z, sp.sinh(5 * z) - sp.Piecewise((-100, t < 1), (100, True))], [x, z], None, t, name="valve"
    )
    solution = solve_dae(system, {"x": 0.0}, [0.0, 0.5, 1.0, 2.0], integrator=solver)
    size = np.arcsinh(100) / 5
    assert solution["z"] == pytest.approx([-size, -size, size, size], rel=1e-12)
    assert solution.x[-1, 0] == pytest.approx(size * (1 - 2 * np.exp(-1) + np.exp(-2)), rel=1e-9)


def test_more_switching_times_than_can_be_found_are_refused():
    with pytest.raises(ValueError, match=f"change more than {MAX_CHANGES} times between 0 and 600"):
        solve_dae(square, {"x": 0.0}, [0.0, 600.0])


def test_derivatives_by_parameters_that_say_when():
    with jax.enable_x64(True):
        flow = ndae.flow(pulse, integrator="tsit5")

        def end(begin, height):
            return flow({"x": 1.0}, np.array([0.0, 10.0]), {"begin": begin, "height": height}).x[-1, 0]

        by_begin, by_height = jax.grad(end, (0, 1))(5.0, 1000.0)
    assert by_begin == pytest.approx((pulse_end() - np.exp(-1)) / 10, rel=1e-6)
    assert by_height == pytest.approx((pulse_end() - np.exp(-1)) / 1000, rel=1e-6)


def test_a_constraint_that_jumps_is_refused_and_one_that_bends_is_not():
    where = sp.Piecewise((t, t < 1), (1, t < 2), (2, True))
    driven = System([dot(x) - z, x - where], [x, z], None, t, name="driven")
    solution = solve_dae(driven, {"x": 0.0}, [0.0, 0.5, 1.0, 1.5])
    assert solution.x == pytest.approx(np.array([[0, 1], [0.5, 1], [1, 0], [1, 0]]), abs=1e-14)
    with pytest.raises(ValueError, match="a constraint of 'driven' jumps at t = 2, so its variables would have to"):
        solve_dae(driven, {"x": 0.0}, [0.0, 3.0])
    refused = solve_dae(driven, {"x": 0.0}, [0.0, 3.0], throw=False)
    assert refused.n_reached == 0 and "a constraint of 'driven' jumps at t = 2" in refused.result
    with jax.enable_x64(True):
        result = ndae.flow(driven, throw=False)({"x": 0.0}, np.array([0.0, 3.0]))
        assert "a constraint jumps" in result.reason()


def test_a_constraint_that_jumps_on_the_way_ends_the_solve_there():
    """At the start, where y is zero, it does not."""
    y = sp.Symbol("y", real=True)
    ramp = y * sp.Piecewise((1, t < 1), (2, True))
    driven = System([dot(x) - z, dot(y) - 1, x - ramp], [x, y, z], None, t, name="ramp")
    with pytest.raises(SolveError, match=r"at t = 1: .* a constraint of 'ramp' jumps at t = 1, so") as raised:
        solve_dae(driven, {"x": 0.0, "y": 0.0}, [0.0, 0.5, 3.0])
    assert raised.value.solution.x.tolist() == [[0.0, 0.0, 1.0], [0.5, 0.5, 1.0]]
