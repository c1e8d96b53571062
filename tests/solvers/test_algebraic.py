"""Algebraic variables at a start, and derivatives that nobody wrote: found, or the block named that has no root."""

import jax
import numpy as np
import pytest
import sympy as sp

import ndae
from ndae import System, dot
from ndae.solvers.dae.start import UndeterminedError

t, x, z, w, v = sp.symbols("t x z w v")
BUS_VOLTAGE = 1.05
LINES = [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (1, 4)]
LOADS = [(0.8, 0.3), (0.6, 0.2), (0.9, 0.3), (0.5, 0.1)]


def grid() -> System:
    """Load flow over lines of reactance 0.1: at each bus P and Q sum to zero. A flat start is at one, not at zero."""
    voltages, angles = sp.symbols("V1:5"), sp.symbols("th1:5")
    size, angle = [BUS_VOLTAGE, *voltages], [0, *angles]
    equations = [dot(x) - 1 + x]
    for bus, (p, q) in enumerate(LOADS, 1):
        p, q = sp.Float(p) * x, sp.Float(q) * x
        for other in [b if bus == a else a for a, b in LINES if bus in (a, b)]:
            between = angle[bus] - angle[other]
            p += 10 * size[bus] * size[other] * sp.sin(between)
            q += 10 * (size[bus] ** 2 - size[bus] * size[other] * sp.cos(between))
        equations += [p, q]
    return System(equations, [x, *voltages, *angles], name="grid")


def pipes() -> System:
    """Flows through two orifices around a joint whose pressure has to lie between 1 and 5."""
    first, second, pressure = sp.symbols("first second pressure")
    rows = [first - 2 * sp.sqrt(5 - pressure), second - 3 * sp.sqrt(pressure - x)]
    balance = first - second - sp.sqrt(pressure - x) / 10
    return System([dot(x) - first + second, *rows, balance], [x, first, second, pressure], name="pipes")


def vapour() -> System:
    """Temperature from vapour pressure, in kelvin and pascal; heat is what keeps it there."""
    temperature, heat, pressure = sp.symbols("T heat p")
    antoine = sp.exp(23.48 - 3626.6 / (temperature - 34.29))
    rows = [dot(x) + heat * x / 100, antoine - pressure, dot(temperature) - heat, pressure - 1e5 - 1e3 * sp.sin(t)]
    return System(rows, [x, temperature, heat, pressure], time=t, name="vapour")


def test_a_load_flow_needs_no_flat_start():
    start = ndae.consistent_initial_condition(grid(), {"x": 1.0})
    assert all(0.9 < start[f"V{k}"] < BUS_VOLTAGE and -0.3 < start[f"th{k}"] < 0 for k in range(1, 5))
    flat = {f"V{k}": 1.0 for k in range(1, 5)} | {f"th{k}": 0.0 for k in range(1, 5)}
    again = ndae.consistent_initial_condition(grid(), {"x": 1.0}, guess=flat)
    np.testing.assert_allclose(start.states, again.states, rtol=0, atol=1e-12)


def test_a_root_inside_of_a_narrow_domain():
    """2 √(5 − p) = 3.1 √(p − 1): p = (20 + 9.61) / 13.61."""
    start = ndae.consistent_initial_condition(pipes(), {"x": 1.0})
    assert start["pressure"] == pytest.approx((20 + 9.61) / 13.61, rel=1e-12)


def test_differential_variables_of_other_sizes():
    start = ndae.consistent_initial_condition(vapour(), {"x": 1.0})
    assert start["T"] == pytest.approx(34.29 + 3626.6 / (23.48 - np.log(1e5)), rel=1e-12)
    assert set(start.found) == {"T", "heat", "p"}


def test_of_several_roots_a_guess_picks_one():
    system = System([dot(x) + x, w**2 - x**2 - 4], [x, w], name="roots")
    assert ndae.consistent_initial_condition(system, {"x": 1.0})["w"] == pytest.approx(5**0.5, rel=1e-15)
    for guess in (-0.1, -100.0):
        found = ndae.consistent_initial_condition(system, {"x": 1.0}, guess={"w": guess})
        assert found["w"] == pytest.approx(-(5**0.5), rel=1e-15)
    with pytest.warns(UserWarning, match=r"w = -1, and the equations give -2\.236"):
        solution = ndae.solve(system, {"x": 1.0, "w": -1.0}, [0.0, 1.0])
    np.testing.assert_allclose(solution["w"], -np.sqrt(4 + solution["x"] ** 2), rtol=1e-14)
    with jax.enable_x64(True):
        flow = ndae.flow(system, integrator="tsit5")
        with pytest.warns(UserWarning, match=r"w can be several things .* taken is w = 2\.236, and not w = -2\.236"):
            ends = [flow({"x": 1.0}, [0.0, 1.0]).x[-1]]
        ends.append(flow({"x": 1.0, "w": -1.0}, [0.0, 1.0]).x[-1])
        ends.append(flow({"x": 1.0}, [0.0, 1.0], guess={"w": -1.0}).x[-1])
        for end, sign in zip(ends, (1, -1, -1), strict=True):
            np.testing.assert_allclose(end[1], sign * np.sqrt(4 + end[0] ** 2), rtol=1e-14)


def test_the_block_without_a_root_is_named():
    """Only the second of three has none."""
    system = System([dot(x) + z, z + z**3 - x, w**2 + x**2 + 4, v + sp.sin(v) - w], [x, z, w, v], name="three")
    with pytest.raises(
        ndae.SolveError, match=r"'three': no values of w were found at t = 0: .* 0 = .*there 5"
    ) as error:
        ndae.consistent_initial_condition(system, {"x": 1.0})
    assert "z**3" not in str(error.value)
    with pytest.raises(ValueError, match="no values of w were found"):
        ndae.solve(system, {"x": 1.0}, [0.0, 1.0])


def spring() -> System:
    """Second order as written, and an output by which the speed is known: x' is no state."""
    return System([dot(x, 2) + x, v - sp.sinh(dot(x)) - x], [x, v], name="spring")


def test_a_derivative_that_is_no_state_follows_from_an_algebraic_value():
    speed, ts = np.arcsinh(0.5), np.array([0.0, 1.0])
    right = np.cos(ts) + speed * np.sin(ts)
    start = ndae.consistent_initial_condition(spring(), {"x": 1.0, "v": 1.5})
    assert start.rates[0] == pytest.approx(speed, rel=1e-14) and start.moved == {}
    with jax.enable_x64(True):
        flow = ndae.flow(spring())
        for given in ({"x": 1.0, "v": 1.5}, start, start.as_dict(), np.array([1.0, 1.5])):
            np.testing.assert_allclose(ndae.solve(spring(), given, ts)["x"], right, rtol=1e-9)
            np.testing.assert_allclose(flow(given, ts).x[:, 0], right, rtol=1e-9)
        slope = jax.grad(lambda value: flow({"x": 1.0, "v": value}, ts).x[-1, 0])(1.5)
    assert slope == pytest.approx(np.sin(1.0) / np.cosh(speed), rel=1e-8)
    with pytest.raises(UndeterminedError, match=r"no value for x_dot.*; or give v, from which x_dot can follow"):
        ndae.solve(spring(), {"x": 1.0}, ts)
