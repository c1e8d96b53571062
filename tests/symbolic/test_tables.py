"""Tables as nodes of expressions: their numbers, their identity, and what is refused."""

import pickle

import jax
import numpy as np
import pytest
import sympy as sp
import torch
from scipy.interpolate import CubicSpline

from ndae.symbolic import System, VectorFunction, dot, parse_expression, table
from ndae.symbolic.expressions.tables import spline_of
from ndae.training.description import fingerprint

t, x, y = sp.symbols("t x y", real=True)
TS, VALUES = np.array([0, 1, 2.5, 4, 7, 10.0]), np.array([0, 2, -1, 3, 3, 0.0])
INSIDE = np.array([0, 0.3, 1, 2, 2.5, 6.1, 9.999, 10])
SPLINE = CubicSpline(TS, VALUES)
TRUE = {
    "linear": lambda at: np.interp(at, TS, VALUES),
    "cubic": lambda at: SPLINE(at) if np.ndim(at) else float(SPLINE(at)),
    "hold": lambda at: VALUES[np.searchsorted(TS, at, side="right") - 1],
}


@pytest.mark.parametrize("kind", TRUE)
def test_values_and_derivatives_in_every_backend(kind):
    u = table(TS, VALUES, kind)
    expressions = [u(t), u(2 * t).diff(t), u(t).diff(t, 2) + x]
    function = VectorFunction(expressions, {"x": [x]}, t, {})
    slope = {"linear": 2.0, "cubic": float(SPLINE(0.6, 1)), "hold": 0.0}[kind]
    bend = float(SPLINE(0.3, 2)) if kind == "cubic" else 0.0
    wanted = [TRUE[kind](0.3), 2 * slope, bend + 1.0]
    assert function.numpy()(np.ones(1), t=0.3) == pytest.approx(wanted)  # of floats
    assert function.numpy()(np.ones((2, 1)), t=np.full(2, 0.3))[1] == pytest.approx(wanted)
    many = np.ones((INSIDE.size, 1))
    assert function.numpy()(many, t=INSIDE)[:, 0] == pytest.approx(TRUE[kind](INSIDE))
    assert function.torch()(torch.tensor(many), t=torch.tensor(INSIDE))[:, 0].numpy() == pytest.approx(
        TRUE[kind](INSIDE)
    )
    with jax.enable_x64(True):
        found, rate = jax.jvp(lambda t: function.jax()(np.ones(1), t=t), (0.3,), (1.0,))
    assert found == pytest.approx(wanted)
    assert rate[0] == pytest.approx(float(SPLINE(0.3, 1)) if kind == "cubic" else slope)


def test_levels_of_large_functions_look_up_too():
    u = table(TS, VALUES)
    states = sp.symbols("z0:150")
    function = VectorFunction([z * u(t) + sp.sin(z + u(z) * i) for i, z in enumerate(states)], {"z": states}, t, {})
    at = np.linspace(0, 10, 150)
    wanted = at * TRUE["linear"](2.2) + np.sin(at + TRUE["linear"](at) * np.arange(150))
    assert function.numpy()(np.tile(at, (2, 1)), t=np.full(2, 2.2))[1] == pytest.approx(wanted)


def test_outside_it_has_no_value_or_keeps_the_last():
    held = table(TS, VALUES, outside="hold")
    both = VectorFunction([table(TS, VALUES)(x), held(x), held(x).diff(x)], {"x": [x]}).numpy()
    for at, value in ((-1.0, 0.0), (11.0, 0.0)):
        assert both(np.array([at])) == pytest.approx([np.nan, value, 0.0], nan_ok=True)
        assert both(np.array([[at], [3.0]]))[0] == pytest.approx([np.nan, value, 0.0], nan_ok=True)
    assert held.knots(0).tolist() == [0, 1, 2.5, 4, 7, 10]  # ends, where its slope jumps to zero
    assert float(held(20)) == 0 and float(table(TS, VALUES)(0.5)) == 1
    with pytest.raises(ValueError, match="is asked at 11, and is known from 0 to 10"):
        table(TS, VALUES)(11)


def test_knots_are_where_it_is_not_smooth():
    assert table(TS, VALUES).knots(0).tolist() == [1, 2.5, 4, 7]
    assert table(TS, VALUES).knots(1).tolist() == [1, 2.5, 4, 7]
    assert table([0, 1, 2, 3], [0, 1, 2, 2]).knots(0).tolist() == [2]  # three in a line
    assert table([0, 1, 2, 3], [5, 5, 2, 2], "hold").knots(0).tolist() == [2]
    cubic = table(TS, VALUES, "cubic")
    assert [cubic.knots(k).size for k in range(4)] == [0, 0, 2, 2]  # not-a-knot: none at 1 and 7


def test_it_is_what_its_numbers_are():
    u, same, other = table(TS, VALUES, name="u"), table(list(TS), VALUES, name="u"), table(TS, VALUES + 1e-15, name="u")
    assert u == same and hash(u) == hash(same) and u(t) - same(t) == 0
    assert u != other and u(t) != other(t) and u != table(TS, VALUES, "cubic", name="u")
    assert pickle.loads(pickle.dumps(u(t))) == u(t)
    systems = [System([dot(x) - w(t)], [x], time=t, name="s") for w in (u, same, other)]
    assert fingerprint(systems[0]) == fingerprint(systems[1]) != fingerprint(systems[2])
    copied = pickle.loads(pickle.dumps(systems[0]))
    assert copied.equations == systems[0].equations
    assert str(u(t - 1)) == "u(t - 1)" and str(u(t).diff(t)) == "u'(t)" and "u" in sp.latex(u(t) ** 2)
    assert "u(t)" in systems[0].describe() and str(table(TS, VALUES)).startswith("table_")


def test_index_reduction_differentiates_it():
    u = table(TS, VALUES, "cubic")
    reduced = System([dot(x) - y, x - u(t)], [x, y], time=t).reduce()
    assert reduced.index == 2 and reduced.constraints == (x - u(t),)
    assert sp.expand(reduced.equations[0] - reduced.equations[1]).has(u(t).diff(t)) or any(
        e.has(u(t).diff(t)) for e in reduced.equations
    )


REFUSED = {
    "not finite": (([0, 1], [1, np.nan]), {}, r"values\[1\] is nan: .* leave out rows"),
    "twice": (([0, 1, 1], [1, 2, 3]), {}, r"ts\[1\] = 1 and ts\[2\] = 1 are twice the same"),
    "not in order": (([1, 0], [1, 2]), {}, "are not in order: times increase strictly; sort"),
    "unlike lengths": (([0, 1], [1, 2, 3]), {}, r"shape \(2,\) and values of shape \(3,\)"),
    "too few": (([0, 1, 2], [1, 2, 3]), {"kind": "cubic"}, "at least 4"),
    "kind": (([0, 1], [1, 2]), {"kind": "spline"}, "'spline': expected one of 'linear', 'cubic', 'hold'"),
    "outside": (([0, 1], [1, 2]), {"outside": "nan"}, "'nan': expected one of 'refuse', 'hold'"),
    "text": (([0, 1], [1, "a"]), {}, "values: expected numbers, got list"),
    "a graph": (([0, 1], torch.ones(2, requires_grad=True)), {}, "no derivative goes through the numbers of a table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_tables_are_refused_by_name(name):
    arguments, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"table wind: .*{message}"):
        table(*arguments, **options, name="wind")


def test_derivatives_by_its_numbers_are_refused():
    with pytest.raises(ValueError, match="no derivative goes through the numbers of a table"):
        jax.grad(lambda a: float(table([0, 1], a * np.ones(2))(0.5)))(1.0)


def test_a_table_that_is_not_asked_anything_is_refused():
    with pytest.raises(ValueError, match=r"contains the table u itself: write u\(t\)"):
        System([dot(x) - table(TS, VALUES, name="u")], [x], time=t)
    with pytest.raises(ValueError, match="the derivative of a jump is a pulse"):
        System([dot(x * table(TS, VALUES, "hold")(t))], [x], time=t)


def test_splines_of_sympy_are_tables():
    for degree in (1, 2, 3, 5):
        given = sp.interpolating_spline(degree, t, [0, 1, 3, 4, 7, 10], VALUES.tolist())
        read = spline_of(given)
        text = f"interpolating_spline({degree}, t, [0, 1, 3, 4, 7, 10], [0, 2, -1, 3, 3, 0])"
        parsed = parse_expression(text, [t], nonsmooth=True)
        for at in (0.5, 3.5, 9):
            assert float(read.at(sp.Float(at))) == pytest.approx(float(given.subs(t, at)), abs=1e-10)
            assert float(parsed.subs(t, at)) == pytest.approx(float(given.subs(t, at)), abs=1e-10)
    shifted = sp.interpolating_spline(3, t, [0, 1, 2, 3, 4], [0, 1, 4, 2, 1]).subs(t, 2 * t - 1)
    (read,) = System([dot(x) - shifted], [x], time=t).equations
    assert float(read.subs({t: 1.2, dot(x): 0})) == pytest.approx(-float(shifted.subs(t, 1.2)))
    with pytest.raises(ValueError, match="has no branch for all other cases"):
        System([dot(x) - sp.Piecewise((t, t < 1))], [x], time=t)


@pytest.mark.parametrize("function", [sp.floor(x), sp.ceiling(x + t), sp.frac(x), sp.Mod(x, 2), sp.Mod(t, x)])
def test_what_states_make_jump_is_refused(function):
    with pytest.raises(ValueError, match="jumps when the states say so"):
        System([dot(x) - function], [x], time=t)


@pytest.mark.parametrize("step", [sp.Heaviside(x), sp.Heaviside(x, 0), sp.Heaviside(x, 1)])
def test_a_step_has_at_zero_what_sympy_says(step):
    function = VectorFunction([step], {"x": [x]}).numpy()
    for at in (-1.0, 0.0, 2.0):
        assert function(np.array([at]))[0] == float(step.subs(x, at))
