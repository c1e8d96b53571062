"""Inputs of time in every solver: tables, periodic and stepping functions, derivatives of expressions."""

from importlib.util import find_spec

import jax
import numpy as np
import pytest
import sympy as sp
from scipy.interpolate import CubicSpline

import ndae
from ndae import SolveError, System, consistent_initial_condition, dot, flow, solve, table
from ndae.solvers.dae.switching import Switching

t, p, W, x, y, v, force = sp.symbols("t p W x y v force")
TS, VALUES, END = np.array([0, 1, 2.5, 4, 7, 10.0]), np.array([0, 2, -1, 3, 3, 0.0]), 10.0
SPLINE = CubicSpline(TS, VALUES)
linear, cubic, hold = (table(TS, VALUES, kind) for kind in ("linear", "cubic", "hold"))
day = table([0, 0.5, 2], [0, 1, 0], name="day")

# Rates of quadratures, with their integrals over [0, 10].
RATES = {
    linear(t): np.trapezoid(VALUES, TS),
    hold(t): np.sum(VALUES[:-1] * np.diff(TS)),
    hold(t / 2 + p): 2 * float(np.sum(np.diff([1, 2.5, 4, 6]) * VALUES[1:4])),
    linear(10 - t): np.trapezoid(VALUES, TS),
    cubic(t): float(SPLINE.integrate(0, END)),
    day(sp.Mod(t, 2)): 5.0,
    sp.Piecewise((1, sp.Mod(t, 1) < sp.Float(0.3)), (0, True)): 3.0,
    sp.Piecewise((1, sp.Abs(sp.Mod(t, 2) - 1) < sp.Float(0.01)), (0, True)): 0.1,
    sp.floor(2 * t): 95.0,
    sp.ceiling(t - p): 45.0,
    sp.frac(t / 2): 5.0,
    sp.Heaviside(t - sp.pi) + sp.sign(t - 2): 16 - np.pi,
    sp.floor(2 * sp.sin(t)): None,  # below, from where 2 sin t is a whole number
}


def floor_of_sine():
    """∫ floor(2 sin t): between its jumps, at multiples of π/2 and of π/6."""
    edges = np.union1d(np.arange(0, END, np.pi / 6), END)
    return float(np.sum(np.floor(2 * np.sin((edges[1:] + edges[:-1]) / 2)) * np.diff(edges)))


quadratures = sp.symbols(f"x0:{len(RATES)}")
# ... beside a body whose position is a table, of index 3, and a mass W that flows out with what it carries.
everything = System(
    [
        *(dot(x) - rate for x, rate in zip(quadratures, RATES, strict=True)),
        dot(y) - v,
        dot(v) - force,
        y - cubic(t),
        dot(W) + 1 / (1 + t),
        dot(W * x) - 2,
    ],
    [*quadratures, y, v, force, W, x],
    {p: 1.0},
    t,
    name="inputs",
)
START = dict.fromkeys(map(str, quadratures), 0.0) | {"y": 0.0, "v": float(SPLINE(0, 1)), "W": 5.0, "x": 2.0}


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason="needs the extra crosscheck")


@pytest.mark.parametrize(
    ("by", "options"),
    [
        ("dopri8", {}),
        ("torch", {"rtol": 1e-9}),
        pytest.param("ida", {"rtol": 1e-10}, marks=needs("sksundae")),
        pytest.param("radau", {"rtol": 1e-8}, marks=needs("solve_dae")),
    ],
)
def test_every_input_has_its_integral_with_every_solver(by, options):
    found = solve(everything, START, [0.0, 5.0, END], by=by, **options)
    wanted = [floor_of_sine() if end is None else end for end in RATES.values()]
    got = [found[str(name)][-1] for name in quadratures]
    assert got == pytest.approx(wanted, rel=2e-7 if options else 1e-10, abs=2e-7 if options else 1e-10)
    assert found["y"] == pytest.approx(SPLINE([0, 5, END]), abs=1e-9)
    assert found["v"] == pytest.approx(SPLINE([0, 5, END], 1), abs=1e-8)
    assert found["force"] == pytest.approx(SPLINE([0, 5, END], 2), abs=1e-7)
    outflow = 5 - np.log(11)
    assert found["x"][-1] == pytest.approx((10 + 2 * END) / outflow, rel=1e-7 if options else 1e-10)


def test_derivatives_by_parameters_that_say_when():
    """∫₀⁴ p u(p t) dt = U(4 p), and of floor(p t) the jumps move."""
    u = table(TS, VALUES, outside="hold")
    system = System([dot(x) - p * u(p * t), dot(y) - sp.floor(p * t)], [x, y], {p: 1.0}, t)
    run = flow(system, integrator="tsit5", rtol=1e-9)

    def end(p):
        return run({"x": 0.0, "y": 0.0}, np.array([0.0, 4.0]), {"p": p}).x[-1]

    with jax.enable_x64(True):
        value, slope = jax.jit(lambda p: (end(p), jax.jacrev(end)(p)))(0.9)
    grid = np.linspace(0, 3.6, 36_001)
    jumps = np.arange(1, 4) / 0.9
    assert value == pytest.approx([np.trapezoid(np.interp(grid, TS, VALUES), grid), np.sum(4 - jumps)], rel=1e-8)
    assert slope == pytest.approx([4 * np.interp(3.6, TS, VALUES), np.sum(jumps / 0.9)], rel=1e-6)


def test_where_inputs_of_many_periods_and_rows_switch():
    pulses = sp.Piecewise((1, sp.Mod(t, 1) < sp.Float(0.25)), (0, True))
    many = table(np.arange(100_000) / 1000, np.arange(100_000) % 7)
    switching = Switching(System([dot(x) - pulses - many(t)], [x], time=t).reduce())
    with jax.enable_x64(True):
        jumps, complete = switching.find(0.0, 99.9, None, switching.n_periods(0.0, 99.9, None))
    at = np.asarray(jumps.at)
    at = np.unique(at[np.isfinite(at)].round(6))
    # Where the slope of the sawtooth changes, before and behind each of its falls; and where pulses begin and end.
    rows = np.arange(1, 99_900)
    corners = rows[np.isin(rows % 7, [0, 6])] / 1000
    edges = np.concatenate([np.arange(100), np.arange(100) + 0.25])
    assert complete and at == pytest.approx(np.union1d(corners, edges[edges <= 99.9]).round(6), abs=1e-9)


def test_a_table_is_not_read_beyond_its_ends():
    for place, asked in ((t, "from 0 to 11"), (t - 1, "at -1"), (2 * t, "from 0 to 22")):
        with pytest.raises(ValueError, match=f"{asked}, and is known from 0 to 10: .*outside='hold'"):
            solve(System([dot(x) - linear(place)], [x], time=t), {"x": 0.0}, [0.0, 11.0], by="radau")
    falling = System([dot(x) + table([0, 1, 2], [1, 1.5, 1], name="grip")(x)], [x])
    with pytest.raises(SolveError, match=r"the table grip is asked at .* and is known from 0 to 2"):
        solve(falling, {"x": 2.0}, [0.0, 6.0])


def test_a_start_and_a_jump_of_a_constraint():
    start = consistent_initial_condition(everything, START)
    assert start.as_dict()["force"] == pytest.approx(SPLINE(0, 2))
    jumping = System([dot(x) - y, x - hold(t)], [x, y], time=t)
    with pytest.raises(ValueError, match=r"a constraint of .* jumps at t = 1"):
        solve(jumping, {"x": 0.0}, [0.0, 3.0], by="radau")
    assert ndae.table is table
