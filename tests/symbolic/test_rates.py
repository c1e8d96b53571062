"""Derivatives of expressions, as they are written: d(W x)/dt, by the chain rule over what moves."""

import pickle

import pytest
import sympy as sp

from ndae.symbolic import System, dot, parse_expression

t, x, W, z, p, d = sp.symbols("t x W z p d")
X, Y = sp.Function("X")(t), sp.Function("Y")(t)


def equation(expression, **rest):
    return System([expression, x - W], [x, W], {p: 2.0}, time=t, **rest).equations[0]


WRITTEN_OUT = {
    "product": (dot(W * x), dot(W) * x + W * dot(x)),
    "second": (dot(W * x, 2), dot(W, 2) * x + 2 * dot(W) * dot(x) + W * dot(x, 2)),
    "in one another": (dot(x * dot(W * t)), dot(x) * (dot(W) * t + W) + x * (dot(W, 2) * t + 2 * dot(W))),
    "of a derivative": (dot(x * dot(x)), dot(x) ** 2 + x * dot(x, 2)),
    "time and parameters": (dot(p * sp.sin(p * t)), p**2 * sp.cos(p * t)),
    "a corner": (dot(sp.Abs(x)), sp.Piecewise((1, x >= 0), (-1, True)) * dot(x)),
    "branches that meet": (
        dot(sp.Piecewise((x**2, x < 1), (2 * x - 1, True))),
        sp.Piecewise((2 * x, x < 1), (2, True)) * dot(x),
    ),
    "a jump of parameters alone": (
        dot(x * sp.Piecewise((1, p < 1), (2, True))),
        dot(x) * sp.Piecewise((1, p < 1), (2, True)),
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_derivative_of_an_expression_is_what_the_chain_rule_says(name):
    wanted, written = WRITTEN_OUT[name]
    assert sp.simplify(equation(wanted) - written) == 0


def test_numbers_do_not_move_and_a_constant_of_parameters_neither():
    assert dot(sp.Integer(2) * p - p - p + 3 * x - 3 * x + sp.pi + W - W + sp.sqrt(2)) == 0
    assert equation(dot(2 * p) + x) == x


def test_functions_of_time_and_definitions_have_derivatives_too():
    read = System([dot(X * Y.diff(t)) - 1, X - Y], [X, Y]).equations[0]
    names = {s.name: s for s in read.free_symbols}
    assert read == names["X"] * names["Y_dot_dot"] + names["X_dot"] * names["Y_dot"] - 1
    assert equation(dot(d) - x, definitions={d: W * x}) == dot(W) * x + W * dot(x) - x
    assert equation(d - x, definitions={d: dot(W * x)}) == dot(W) * x + W * dot(x) - x


@pytest.mark.parametrize(
    "expression", [sp.sign(x) * W, sp.Piecewise((1, t < 1), (0, True)), sp.Piecewise((W, x * W < 1), (x, True))]
)
def test_a_derivative_of_a_jump_is_refused(expression):
    with pytest.raises(ValueError, match=r"the derivative of a jump is a pulse|is not known"):
        equation(dot(expression))


def test_where_it_can_not_stand_is_said():
    with pytest.raises(ValueError, match="differentiate before you write dot"):
        dot(W * x).diff(x)
    with pytest.raises(ValueError, match="contains the derivative"):
        System([dot(x)], x, invariants={"e": dot(x**2)})
    with pytest.raises(ValueError, match="the symbol 'q' is not declared"):
        equation(dot(sp.Symbol("q") * x))
    with pytest.raises(ValueError, match="a parameter, which is constant"):
        equation(dot(p) + x)


def test_it_is_text_and_a_copy():
    assert str(dot(W * x)) == "dot(W*x)" and pickle.loads(pickle.dumps(dot(W * x))) == dot(W * x)
    assert parse_expression("dot(W*x) - 1", [W, x], nonsmooth=True) == dot(W * x) - 1
