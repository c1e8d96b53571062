"""Functions of reduced systems against SymPy, on every backend, and their errors."""

import numpy as np
import pytest
import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.forms.functions import ReducedFunctions
from ndae.symbolic.systems.system import System
from tests.symbolic.reduced_cases import BACKENDS, CONVERT, by_sympy, case, pendulum, t

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("name", ["pendulum", "car axis", "valves"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_are_the_expressions(name, backend):
    reduced, states, leading, call = case(name)
    f, (a, b) = ReducedFunctions(reduced, backend), map(CONVERT[backend], (states, leading))

    def check(found, expressions, shape=None):
        expected = by_sympy(expressions, reduced, states, leading, call).reshape(shape or (5, len(expressions)))
        assert tuple(found.shape) == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)

    n, big, rows = len(reduced.w), len(reduced.y), len(reduced.constraints)
    assert (f.n_w, f.n_y, f.n_constraints, f.n_states) == (n, big, rows, len(reduced.states))
    check(f.leading_system(a, b, **call), reduced.equations)
    by_w = [sp.diff(e, s) for e in reduced.equations for s in reduced.w]
    by_y = [sp.diff(e, s) for e in reduced.equations for s in reduced.y]
    check(f.leading_jacobian(a, b, **call), by_w, (5, n, n))
    check(f.leading_jacobian(a, b, **call, by="y"), by_y, (5, n, big))
    check(f.constraints(a, **call), reduced.constraints)
    check(
        f.constraints_jacobian(a, **call), [c.diff(s) for c in reduced.constraints for s in reduced.y], (5, rows, big)
    )
    check(f.constraints_time_derivative(a, **call), [c.diff(t) for c in reduced.constraints])
    check(f.rates(a, b), reduced.rates)
    check(f.states(a, b, **call), reduced.states)
    rates = f.state_rates(a, b)
    unknown = [s is None for s in reduced.state_rates]
    assert np.isnan(np.asarray(rates)[:, unknown]).all()
    check(
        rates[:, [i for i, none in enumerate(unknown) if not none]], [s for s in reduced.state_rates if s is not None]
    )
    assert set(f.invariants(a, b, **call)) == set(reduced.invariants)
    for key, value in f.invariants(a, b, **call).items():
        check(value[:, None], [reduced.invariants[key]])
    for key, value in f.levels(a, b, **call).items():
        expected = [
            (reduced.constraints if kind == "constraint" else reduced.equations)[place]
            for _, kind, place in reduced.levels[key]
        ]
        check(value, expected)
    one = f.levels(a[0], b[0], **call)
    assert {key: tuple(value.shape) for key, value in one.items()} == {
        key: (len(entries),) for key, entries in reduced.levels.items()
    }


def test_levels_of_a_pendulum():
    f = pendulum().numpy()
    levels = f.levels(np.ones(4), np.ones(3), 0.0, {"speed": 0.0})
    # c = x² + y² − L², ċ = 2 (x u + y v), c̈ = 2 (u² + v² + x u' + y v') at ones
    np.testing.assert_allclose([levels[f"level {k}"][0] for k in range(3)], [2 - 1.5**2, 4, 8])


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_say_what_to_mend(backend):
    reduced, states, leading, _ = case("pendulum")
    f, (a, b) = ReducedFunctions(reduced, backend), map(CONVERT[backend], (states, leading))
    speed_given = {"speed": 1.0}
    for call, reason in [
        (lambda: f.leading_system(a, b, 0.0), "'speed' has no default"),
        (lambda: f.leading_system(a, b, 0.0, {"spede": 1.0}), "has no parameter 'spede'"),
        (lambda: f.leading_system(a, b, None, speed_given), "pass t="),
        (lambda: f.constraints_time_derivative(a, None, speed_given), "pass t="),
        (lambda: f.solve_leading(a, None, speed_given), "pass t="),
        (lambda: f.solve_leading(b, 0.0, speed_given), r"y has shape \(5, 3\), expected \(..., 4\)"),
        (lambda: f.solve_leading(a, 0.0, speed_given, shift=a), "shift has shape"),
        (lambda: f.constraints(b, 0.0, speed_given), r"expected \(..., 4\)"),
    ]:
        with pytest.raises(ValueError, match=reason):
            call()
    with pytest.raises(ValueError, match="expected numpy, jax or torch"):
        ReducedFunctions(reduced, "cupy")


def test_compiled_once():
    reduced = case("pendulum")[0]
    assert reduced.numpy() is reduced.numpy() and reduced.jax() is reduced.jax()


def test_what_was_found_can_be_read():
    x, y, u, v, T, g = sp.symbols("x y u v T g")
    equations = [dot(x) - u, dot(y) - v, dot(u) + T * x, dot(v) + T * y + g, x**2 + y**2 - 1]
    text = System(equations, [x, y, u, v, T], {g: 9.81}, name="swing").reduce().describe()
    assert text.startswith("swing: differentiation index 3\n")
    assert "hidden constraints, differentiated 1 x\n  0 = 2*u*x + 2*v*y\n" in text
    assert "  2 x  0 = 2*u**2 + 2*u_dot*x + 2*v**2 + 2*v_dot*y" in text
