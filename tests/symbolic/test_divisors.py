"""Divisions by numbers that are zero but for rounding are refused by name, wherever they come from."""

import numpy as np
import pytest
import sympy as sp

from ndae.symbolic import Constraint, Function, System, dot, norm, parse_expression, point
from ndae.symbolic.numeric.divisors import check_divisors

x, y, a, b = sp.symbols("x y a b")
p = point("p", 2)
ZERO = sp.sin(1) ** 2 + sp.cos(1) ** 2 - 1

ZEROS = [
    "sin(1)**2 + cos(1)**2 - 1", "cosh(1)**2 - sinh(1)**2 - 1", "sqrt(2)*sqrt(3)*sin(1) - sqrt(6)*sin(1) + 0*x + 0.0",
    "0.1 + 0.2 - 0.3", "0.3 - 0.1*3", "sin(3.141592653589793)", "exp(1) - 2.718281828459045", "pi - 3.141592653589793",
    "1e-20 + sin(2) - 1.0*sin(2)", "log(2)+log(3)-log(6.0)", "(1.1 - 1) - 0.1", "1 - 0.9999999999999999",
    "tan(1)*cos(1) - sin(1)", "exp(2) - exp(1)**2.0", "atan(1)*4 - 3.1415926535897931", "asin(0.6) + acos(0.6) - pi/2",
    "(sin(1)**2 + cos(1)**2 - 1)**2", "3*(0.1 + 0.2 - 0.3)", "sqrt(0.1 + 0.2 - 0.3)", "2*sin(0.5)*cos(0.5) - sin(1)",
]  # fmt: skip
NUMBERS = [
    "1 - 0.9999999", "exp(1) - 2.7", "1e-200", "sin(3.1415926)", "1e-20", "sin(1)**2 - 0.7", "1/3 - 0.3333",
    "pi - 3.14",
    "1e-15 + 1e-16", "exp(-30)", "sqrt(2) - 1.4142135", "1000001 - 1000000",
]  # fmt: skip


@pytest.mark.parametrize("form", ["x/({})", "x*({})**-2", "1/(x*({}))", "x*({})**-0.5"])
@pytest.mark.parametrize("zero", ZEROS)
def test_text_that_divides_by_zero(zero, form):
    with pytest.raises(ValueError, match=r"zero|finite real"):
        parse_expression(form.format(zero), ["x"], nonsmooth=True)


@pytest.mark.parametrize("number", NUMBERS)
def test_text_that_divides_by_what_is_small(number):
    divided = parse_expression(f"x/({number})", ["x"], nonsmooth=True)
    value = float(parse_expression(number, [], nonsmooth=True))
    assert float(divided.subs(x, 1)) == pytest.approx(1 / value, rel=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint([x / ZERO - 1], [x]),
        lambda: Function([sp.log(ZERO**2) * x], [x]),
        lambda: Function([x * sp.atan2(ZERO, 0.1 + a)], [x], {a: -0.1}),
        lambda: Function([x * sp.tan(sp.pi * a)], [x], {a: 0.5}),
        lambda: Function([x * sp.atanh(a - b)], [x], {a: 1.3, b: 0.3}),
        lambda: Constraint([x / (a - b) - y], [x, y], {a: 0.3, b: 0.3}),
        lambda: Constraint([x / (a - 3 * b) - y], [x, y], {a: 0.3, b: 0.1}),
        lambda: Constraint.template([norm(p) / a - 1], [p], [(0,), (1,)], parameters={a: [1.0, 0.0]}),
        lambda: System([dot(x) - x / ZERO], [x]),
        lambda: System([dot(x) - x / y], [x], definitions={y: ZERO}),
        lambda: System([dot(x) - x / y], [x], {a: 0.1}, definitions={b: 3 * a, y: b - 0.3}),
        lambda: System([dot(x) - sp.Max(x, 1 / ZERO)], [x]),
        lambda: System([dot(x) - sp.Piecewise((x, x > 1 / ZERO), (y, True)), dot(y) - x], [x, y]),
        lambda: System([dot(x) - sp.Piecewise((x / a, x > 0), (0, True))], [x], {a: 0.0}),
        lambda: System([dot(x) - x], [x], invariants={"energy": x / ZERO}),
    ],
)
def test_constraints_and_systems(make):
    with pytest.raises(ValueError, match="which is zero"):
        make()


def test_what_is_read_as_before():
    """A zero that nothing is divided by, a divisor that is given per call, and one that only looks like zero."""
    y0 = np.array([2.0, 1.0])
    assert abs(Function([x * ZERO - y], [x, y]).numpy().residual(y0)[0] + 1) < 1e-15
    assert Constraint([x / (a - b) - y], [x, y], [a, b]).numpy().residual(y0, parameters={"a": 2.0, "b": 1.0}) == [1.0]
    assert Constraint([x / (a - b) - y], [x, y], {a: 1.0 + 1e-12, b: 1.0}).numpy().residual(y0)[0] > 1e12
    check_divisors(x / (sp.Rational(1, 3) - sp.Rational(333333333, 10**9)), "here")
    System([dot(x) - sp.Piecewise((1 / x, x > 0), (0, True))], [x])


def test_a_number_that_doubles_do_not_have():
    for text in ("x/1e-200/1e-200", "x*1e-200*1e-200", "x*1e200*1e200"):
        with pytest.raises(ValueError, match="1e300"):
            parse_expression(text, ["x"])
    with pytest.raises(ValueError, match="double precision"):
        Constraint([x * sp.Float("1e-400") - y], [x, y])
