"""Postures on the way where constraints lose rank: crossed where the motion is smooth, else the end of the solve."""

import warnings

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import ndae

G, LONG = 0.5, 3.0


@pytest.fixture(scope="module")
def four_bar():
    """A parallelogram of rods 1, 3, 1 with points of mass 1: both cranks turn as one pendulum."""
    x1, y1, x2, y2, u1, v1, u2, v2 = sp.symbols("x1 y1 x2 y2 u1 v1 u2 v2", real=True)
    holonomic = [x1**2 + y1**2 - 1, (x2 - LONG) ** 2 + y2**2 - 1, (x1 - x2) ** 2 + (y1 - y2) ** 2 - LONG**2]
    system = ndae.System.mechanical(
        [x1, y1, x2, y2], [u1, v1, u2, v2], mass=1, force=[0, -G, 0, -G], holonomic=holonomic, name="four-bar"
    )
    angle, speed = -1.5, 2.0
    truth = solve_ivp(
        lambda t, z: [z[1], -G * np.cos(z[0])], [0, 4], [angle, speed], rtol=1e-13, atol=1e-13, dense_output=True
    )
    start = {
        "x1": np.cos(angle), "y1": np.sin(angle), "x2": LONG + np.cos(angle), "y2": np.sin(angle),
        "u1": -speed * np.sin(angle), "v1": speed * np.cos(angle),
        "u2": -speed * np.sin(angle), "v2": speed * np.cos(angle),
    }  # fmt: skip
    return system, start, truth.sol


def _check(solution, truth, atol):
    angle, speed = truth(solution.ts)
    sine, cosine, still = np.sin(angle), np.cos(angle), np.zeros(angle.size)
    states = [cosine, sine, cosine + LONG, sine, -speed * sine, speed * cosine, -speed * sine, speed * cosine]
    np.testing.assert_allclose(solution.x[:, :8], np.stack(states, axis=-1), rtol=0, atol=atol)
    tension = (speed**2 - G * sine) / 2  # of each crank, and the coupler carries nothing
    np.testing.assert_allclose(solution.multiplier, np.stack([tension, tension, still], axis=-1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("off", [0.0, 1e-9, -1e-6, 1e-5])
def test_an_output_where_the_four_bar_lies_flat(four_bar, off):
    system, start, truth = four_bar
    flat = brentq(lambda t: truth(t)[0], 0.1, 2.0, xtol=1e-15)
    with pytest.warns(UserWarning, match=r"'four-bar' lose rank near t = 0\.790\d, .* the one that is smooth goes on"):
        solution = ndae.solve(system, start, [0.0, 0.5, flat + off, 1.5, 2.0])
    _check(solution, truth, 1e-9)


def test_by_implicit_steps_and_with_the_posture_last(four_bar):
    system, start, truth = four_bar
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check(ndae.solve(system, start, [0.0, 1.0, 2.0, 3.0, 4.0], by="radau13"), truth, 1e-9)
        flat = brentq(lambda t: truth(t)[0], 0.1, 2.0, xtol=1e-15)
        _check(ndae.solve(system, start, [0.0, 0.5, 0.6, 0.7, flat]), truth, 1e-9)


def test_two_equal_links_that_pass_folded():
    """Both turn evenly, one each way, and their tip stays on a line; lying there, it has no gradient."""
    a, b, p, q = sp.symbols("a b p q", real=True)
    system = ndae.System.mechanical([a, b], [p, q], mass=1, holonomic=[sp.sin(a) + sp.sin(b)], name="links")
    ts = np.array([0.0, 0.5, 0.5 + np.pi / 2, 4.0])
    with pytest.warns(UserWarning, match=r"'links' lose rank near t = 2\.071"):
        solution = ndae.solve(system, {"a": -0.5, "b": 0.5, "p": 1.0, "q": -1.0}, ts)
    np.testing.assert_allclose(solution["a"], ts - 0.5, rtol=0, atol=1e-10)
    np.testing.assert_allclose(solution["lam0"], 0.0, atol=1e-8)


def test_where_no_smooth_motion_goes_on_it_stops():
    """A tip that is pulled farther than its two links reach; and a point that runs into a cusp."""
    a, b, p, q, t = sp.symbols("a b p q t", real=True)
    pulled = [sp.cos(a) + sp.cos(b) - (sp.Rational(3, 2) + t / 2), sp.sin(a) + sp.sin(b)]
    jam = ndae.System.mechanical([a, b], [p, q], mass=1, holonomic=pulled, time=t, name="jam")
    angle = np.arccos(0.75)
    rate = 0.25 / np.sin(angle)
    solution = ndae.solve(
        jam, {"a": angle, "b": -angle, "p": -rate, "q": rate}, [0.0, 0.5, 2.0], throw=False, max_steps=5000
    )
    assert solution.n_reached == 2
    np.testing.assert_allclose(np.cos(solution["a"]), 0.75 + solution.ts / 4, rtol=1e-9)
    cusp = ndae.System.mechanical([a, b], [p, q], mass=1, holonomic=[a**3 - b**2], name="cusp")
    solution = ndae.solve(
        cusp, {"a": 1.0, "b": 1.0, "p": -1.0, "q": -1.5}, [0.0, 0.3, 2.0], throw=False, max_steps=5000
    )
    assert solution.n_reached == 2
