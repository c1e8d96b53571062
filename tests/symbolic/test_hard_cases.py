"""Equations that mislead: steep, far from where points are tried, or nested so that an unknown hides in another."""

import sys

import numpy as np
import pytest
import sympy as sp

from ndae.symbolic.code.tape import Tape
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.partials import partials
from ndae.symbolic.expressions.reading import substituted
from ndae.symbolic.parse import parse_expression
from ndae.symbolic.reduction.graphs import StructureError
from ndae.symbolic.systems.system import System

x, y, v, w, l, u, z, a, b, N = states = sp.symbols("x y v w l u z a b N")  # noqa: E741


def reduced(equations, states, **parameters):
    """The reduced system of equations as text, x_dot being the derivative of x."""
    known = [*states, *map(dot, states), *(sp.Symbol(p) for p in parameters)]
    read = [parse_expression(e, known, nonsmooth=True) for e in equations]
    return System(read, states, {sp.Symbol(p): value for p, value in parameters.items()}).reduce()


@pytest.mark.parametrize(
    "curve",
    [
        "tanh(1000000*z)",  # of slope zero in doubles where |z| is no millionth
        "z*(1 + tanh(1000*(z - 300)))",  # zero, from terms of size one, below 300
        "z*exp(-1000000000*z**2)",  # zero by underflow
        "Max(z - 100, 0)",
    ],
)
def test_what_is_flat_where_points_are_tried_stays_in_the_equation(curve):
    r = reduced(["x_dot - u", "z - 500*cos(x)", f"u - {curve}"], [x, z, u])
    assert z in r.equations[2].free_symbols


def test_creep_force_of_a_multiplier_stays_though_its_derivative_is_small_beside_its_terms():
    equations = ["x_dot - v", "v_dot - l - u", "y_dot - w", "w_dot + 9 - l", "w - v*y", "u + m*l*tanh(g*v/(m*l))"]
    r = reduced(equations, [x, v, y, w, l, u], m=0.12, g=7e10)
    assert l in r.equations[-1].free_symbols


def test_variables_that_cancel_go_also_out_of_sines_and_branches():
    equations = ["x_dot - w", "w + sin(3*u + x) - sin(3*u)*cos(x) - cos(3*u)*sin(x) + Abs(u)*Abs(u) - u**2 - 1"]
    r = reduced([*equations, "u - x*w - 9"], [x, u, w])
    assert r.equations[1].free_symbols == {w}


def test_equations_that_depend_on_one_another_in_one_branch_alone_are_refused():
    with pytest.raises(StructureError, match="in some branches of a Piecewise"):
        reduced(["x_dot - a", "a + b - x", "a + b + Max(a - 100, 0) - y", "y_dot - b"], [x, a, b, y])


def test_a_rank_is_judged_at_the_sizes_that_unknowns_have():
    """x near 1e-12, y near 1e12: at values of size one the cube is all that is left of the first equation."""
    x, y = sp.symbols("x y", real=True)
    system = System(
        [
            x**3 * 10**36 + x * 10**12 - 2,
            dot(y) + y * (1 + x * 10**12),
        ],
        [x, y],
    )
    assert system.reduce().index == 1


def test_a_refusal_at_unlike_sizes_says_so():
    x, y, z = sp.symbols("x y z", real=True)
    held = 1e18 * x**2 + 1e-18 * y**2 - 1
    equations = [dot(x) + x * z, dot(y) - y, held, z * held]
    with pytest.raises(StructureError, match=r"unlike sizes, from .*e-10 .x. to .*e\+.* .y.: if it isn't so, write"):
        System(equations[1:], [x, y, z]).reduce()


def test_nested_definitions_are_differentiated_once_each(monkeypatch):
    e = x * z + y / z
    for _ in range(2):
        e = sp.sqrt(1 + e**2) * sp.sin(e / (2 + e**2)) + y * e
    e = sp.tanh(e / z) * z
    walked = sys.modules[partials.__module__]
    one, calls = walked._slopes, []
    monkeypatch.setattr(walked, "_slopes", lambda e, *rest: calls.append(e) or one(e, *rest))
    slopes = partials(e, [x, z, w])
    # Arguments are asked about once for each distinct expression that they stand in; the tree has many more.
    distinct = set(sp.preorder_traversal(e))
    assert len(calls) <= 1 + sum(len(d.args) for d in distinct)
    assert sum(1 for _ in sp.preorder_traversal(e)) > 2 * len(calls)
    for s, slope in slopes.items():
        at = {x: 0.3, y: 0.7, z: 1.1, w: 2.0}
        f = sp.lambdify([*at], e)
        step = f(*(value + 1e-20j * (symbol == s) for symbol, value in at.items()))  # the complex step
        assert float(slope.xreplace(at)) == pytest.approx(step.imag / 1e-20, rel=1e-13)


def test_partial_derivatives_of_every_kind_of_expression():
    e = 3 * x**2 * y**z + sp.atan2(x, y * z) / sp.exp(x) + sp.log(1 + z) ** sp.Rational(2, 3) - 7
    e *= sp.Piecewise((sp.sin(x), x > y), (y, x > z), (2, True)) + x
    for s, slope in partials(e, [x, y, z, w]).items():
        for point in ((0.9, 0.5, 1.3), (0.9, 1.2, 0.7), (1.1, 1.2, 1.3)):
            at = dict(zip((x, y, z), point, strict=True))
            assert float(slope.subs(at)) == pytest.approx(float(e.diff(s).subs(at)), rel=1e-13, abs=1e-14)


def test_names_of_derivatives_reach_into_shared_subexpressions():
    e = sp.sin(x * v) + sp.Piecewise((sp.exp(v), v > x), (v, True))
    table = {v: dot(x), x: y}
    assert substituted(e + e**2, table, {}) == (e + e**2).xreplace(table)


@pytest.mark.parametrize("exponent", [sp.Rational(1, 2), sp.Rational(1, 3), sp.Rational(-3, 2)])
def test_derivative_of_a_root_of_a_negated_symbol(exponent):
    tape, e = Tape(), (-z) ** exponent + (-z / 4) ** exponent
    (slope,) = tape.adjoints([tape.value(e)], [sp.S.One], [z])
    for symbol in reversed(tape.needed([slope])):
        slope = slope.xreplace({symbol: tape.definitions[symbol]})
    assert float(slope.subs(z, -2.3)) == pytest.approx(float(e.diff(z).subs(z, -2.3)), rel=1e-14)


@pytest.mark.parametrize(
    ("equations", "guess"),
    [
        (["b**3 + b - x - sqrt(-N)", "N + 2 + x**2 + b/100"], {b: 1, N: -3}),
        (["b - (-N)**(1/3)", "N + 2 + x**2 + b/100"], {b: 0, N: 0}),  # the root of what N is, not of the guess
        (["u + N*tanh(x/N)", "N - 2 - x - l", "2*l + u - N - x"], {u: -1, N: 7, l: 4}),
        (
            [
                "w - Piecewise((sqrt(N**2/(u**2 + v**2)), u**2 + v**2 > N**2), (1, True))",
                *("u - 3*x + w/9", "v - x - w/9", "N - 1 - x - w/10"),
            ],
            {w: 0.7, u: 3, v: 1, N: 2},
        ),
    ],
)
def test_unknowns_put_in_for_one_another(equations, guess):
    r = reduced([f"x_dot + x*{next(iter(guess))}", *equations], [x, *guess])
    at = [0.0 if s not in guess else float(guess[s]) for s in r.w]
    values, found = r.numpy().solve_leading(np.array([0.8]), 0.0, guess=np.array(at))
    assert found
    left = [float(e.xreplace({x: 0.8, **dict(zip(r.w, map(float, values), strict=True))})) for e in r.equations]
    np.testing.assert_allclose(left, 0, atol=1e-14)


def test_rate_constants_are_read_as_they_are_written():
    assert parse_expression("1.34e16*x", [x]) == sp.Float(1.34e16) * x
    for text in ("1e301*x", "1e999", "x + 10**200**2"):
        with pytest.raises(ValueError, match="beyond"):
            parse_expression(text, [x])


def test_an_infinite_slope_is_no_solution():
    """Newton's step there is zero, at any residual."""
    r = reduced(["x_dot + x", "z + 2 + x**2 - z**(1/3)/100"], [x, z])
    _, found = r.numpy().solve_leading(np.array([1.0]), 0.0, guess=np.zeros(2))
    assert not found
