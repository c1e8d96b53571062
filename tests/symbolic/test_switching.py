"""Times at which inputs switch: which conditions say them, and which of them are formulas."""

import numpy as np
import pytest
import sympy as sp

from ndae.symbolic.forms.switching_times import SwitchingTimes

x, t, a, b = sp.symbols("x t a b", real=True)


def found(*expressions):
    return SwitchingTimes(expressions, t, {a: 1.0, b: 2.0})


@pytest.mark.parametrize(
    ("condition", "roots", "n_others"),
    [
        (t < a, {a}, 0),
        ((t > a) & (2 * t <= b), {a, b / 2}, 0),
        (a * t > b, {b / a}, 0),
        (sp.sin(t) > 0, set(), 1),
        (sp.Abs(t - a) < b, set(), 1),
        (x > t, set(), 0),  # says the solution
        (x > 0, set(), 0),
        (a > b, set(), 0),
        (sp.Or(t < 1, x > 0), {sp.Integer(1)}, 0),
    ],
)
def test_conditions_on_time_alone(condition, roots, n_others):
    times = found(sp.Piecewise((1, condition), (0, True)) * x)
    assert set(times.roots) == roots and len(times.others) == n_others
    assert bool(times) == bool(roots or n_others)


def test_smooth_expressions_and_systems_without_time_have_none():
    assert not found(x * t, sp.sin(t))
    assert not SwitchingTimes([sp.Piecewise((1, x > 0), (0, True))], None, {})


def test_functions():
    times = found(sp.Piecewise((1, t < a), (2, t < a + b), (3, sp.cos(b * t) > 0), (4, True)))
    numeric = times.roots_function().numpy()(np.zeros(0), parameters={"b": 5.0})
    assert sorted(numeric) == [1.0, 6.0]
    values = times.others_function().numpy()(np.array([[0.0], [1.0]]), parameters={})
    assert values[:, 0] == pytest.approx(np.cos([0.0, 2.0]))
