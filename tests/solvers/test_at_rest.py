"""Servo-constraints whose path comes to rest: its derivatives vanish there, and what cancels in them does not."""

import numpy as np
import pytest
import sympy as sp

from ndae import System, dot, solve

t, x, y, u, v, force = sp.symbols("t x y u v force")
DISTANCE, DURATION = 5, 3


@pytest.mark.parametrize("by", ["dopri8", "torch"])
def test_a_load_on_a_spring_is_brought_to_rest(by):
    """A trolley of 10 kg pulls a load of 2 kg, whose path is given, by a spring: index 5, the force from path''''."""
    s = t / DURATION
    path = sp.expand(DISTANCE * (126 * s**5 - 420 * s**6 + 540 * s**7 - 315 * s**8 + 70 * s**9))
    spring = 100 * sp.sin(y - x)
    system = System(
        [dot(x) - u, dot(y) - v, 10 * dot(u) - force - spring, 2 * dot(v) + spring, y - path],
        [x, y, u, v, force],
        time=t,
        name="servo",
    )
    assert system.index == 5
    found = solve(system, dict.fromkeys("xyuv", 0.0), [0.0, 1.1, DURATION], by=by)
    trolley = path + sp.asin(path.diff(t, 2) / 50)
    true = {x: trolley, y: path, u: trolley.diff(t), v: path.diff(t)}
    for state, expression in true.items():
        wanted = [float(expression.subs(t, sp.Rational(11, 10))), DISTANCE if state in (x, y) else 0.0]
        assert found[str(state)][1:] == pytest.approx(wanted, rel=1e-8, abs=1e-10)
    assert np.abs(found["force"][-1]) < 1e-6
