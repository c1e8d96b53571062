"""Reduced systems written for solvers of F(t, Y, Y') = 0: same solutions, right counts, right Jacobians."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.forms.implicit_form import direct_unknowns, implicit_form
from ndae.symbolic.systems.system import System
from tests.systems import link

t = sp.Symbol("t")


def particle_on_circle():
    """Arevalo's problem, index 3: x = sin t², y = cos t², with a force along the track; λ = -4 t²."""
    x, y, u, v, lam = sp.symbols("x y u v lam")
    equations = [dot(x) - u, dot(y) - v, dot(u) - 2 * y - x * lam, dot(v) + 2 * x - y * lam, x**2 + y**2 - 1]
    system = System(equations, [x, y, u, v, lam], time=t, name="circle")
    s, c = sp.sin(t**2), sp.cos(t**2)
    return system, {"x": s, "y": c, "u": 2 * t * c, "v": -2 * t * s, "lam": -4 * t**2}


def index_two():
    """x' = z + cos t - t², y' = 3 z - sin t - 3 t², 0 = x + y - sin t - cos t: x = sin t, y = cos t, z = t²."""
    x, y, z = sp.symbols("x y z")
    equations = [dot(x) - z - sp.cos(t) + t**2, dot(y) - 3 * z + sp.sin(t) + 3 * t**2, x + y - sp.sin(t) - sp.cos(t)]
    system = System(equations, [x, y, z], time=t, name="two")
    return system, {"x": sp.sin(t), "y": sp.cos(t), "z": t**2}


def index_one():
    """Algebraic x and a fully implicit pair, one of them differentiated in a constraint."""
    x, y, z = sp.symbols("x y z")
    equations = [dot(x) - t * dot(y) + x - (1 + t) * y, y - sp.sin(t), z - x * y]
    system = System(equations, [x, y, z], time=t, name="one")
    exact = sp.exp(-t) + t * sp.sin(t)
    return system, {"x": exact, "y": sp.sin(t), "z": exact * sp.sin(t)}


CASES = [
    (particle_on_circle, "index1"), (particle_on_circle, "ggl"), (particle_on_circle, "dummy"),
    (index_two, "original"), (index_two, "index1"), (index_two, "ggl"), (index_two, "dummy"),
    (index_one, "original"), (index_one, "index1"), (index_one, "ggl"), (index_one, "dummy"),
]  # fmt: skip


def at(form, exact, time):
    """Y and Y' of the exact solution at one time."""
    reduced = form.reduced
    value = {held: exact[state.name] for state, held in zip(reduced.system.states, reduced.states, strict=True)}
    for symbol, derivative in zip(reduced.y, reduced.rates, strict=True):
        value.setdefault(derivative, value[symbol].diff(t))
    Y = [sp.S.Zero if s is None else value[s] for s in form.stands_for]
    number = lambda e: float(e.subs(t, time))  # noqa: E731
    return np.array([number(e) for e in Y]), np.array([number(e.diff(t)) for e in Y])


def made(make, kind, time=0.7):
    system, exact = make()
    reduced = system.reduce()
    point = at(implicit_form(reduced, "index1"), exact, time)[0]
    return implicit_form(reduced, kind, at=(point[: len(reduced.y)], point[len(reduced.y) :], time)), exact


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_the_exact_solution_satisfies_every_form(make, kind):
    form, exact = made(make, kind)
    assert len(form.equations) == len(form.unknowns) == len(form.rates)
    for time in (0.7, 0.9):
        Y, Yp = at(form, exact, time)
        assert np.abs(form.residual(time, Y, Yp)).max() < 1e-13


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_jacobians_are_the_derivatives(make, kind):
    form, exact = made(make, kind)
    time, step = 0.7, 1e-6
    Y, Yp = at(form, exact, time)
    Y = Y + 0.01 * np.arange(Y.size)  # off the solution, where multipliers are not zero
    by_Y, by_Yp = form.jacobians(time, Y, Yp)
    for i, unit in enumerate(np.eye(Y.size)):
        change = form.residual(time, Y + step * unit, Yp) - form.residual(time, Y - step * unit, Yp)
        np.testing.assert_allclose(by_Y[:, i], change / (2 * step), atol=1e-7)
        change = form.residual(time, Y, Yp + step * unit) - form.residual(time, Y, Yp - step * unit)
        np.testing.assert_allclose(by_Yp[:, i], change / (2 * step), atol=1e-7)


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_forms_have_a_regular_pencil(make, kind):
    """∂F/∂Y + c ∂F/∂Y' is what IDA and Radau solve with; it must not be singular."""
    form, exact = made(make, kind)
    by_Y, by_Yp = form.jacobians(0.7, *at(form, exact, 0.7))
    assert np.linalg.cond(by_Y + 50.0 * by_Yp) < 1e7


@pytest.mark.parametrize(("make", "kind"), CASES)
def test_start_and_reading_back(make, kind):
    form, exact = made(make, kind)
    Y, Yp = at(form, exact, 0.7)
    y, w = form.differential(Y, Yp), form.leading(Y, Yp)
    assert y.shape == (len(form.reduced.y),) and w.shape == (len(form.reduced.w),)
    start, rates = form.start(y, w)
    np.testing.assert_allclose(start, Y, atol=1e-14)
    assert np.abs(form.residual(0.7, start, rates)).max() < 1e-13
    batch = np.stack([Y, Y]), np.stack([Yp, Yp])
    assert form.differential(*batch).shape == (2, len(y))


def test_what_the_error_test_leaves_out():
    circle, _ = made(particle_on_circle, "ggl")
    assert [u.name for u, free in zip(circle.unknowns, circle.uncontrolled, strict=True) if free] == ["lam", "mu1"]
    two, _ = made(index_two, "original")
    assert [u.name for u, free in zip(two.unknowns, two.uncontrolled, strict=True) if free] == ["z"]
    one, _ = made(index_one, "original")
    assert not any(one.uncontrolled)
    assert {s.name for s in direct_unknowns(one.reduced)} == {"z"}
    assert [one.reduced.w[j].name for j in one.tested] == ["z"]


def test_gear_gupta_leimkuhler_form_of_the_particle():
    """The stabilised index-2 form as Arevalo's problem is published in: x' = u + x μ up to the factor of μ."""
    form, _ = made(particle_on_circle, "ggl")
    x, y, u, v, mu = sp.symbols("x y u v mu1")
    rates = {unknown.name: rate for unknown, rate in zip(form.unknowns, form.rates, strict=True)}
    assert sp.expand(form.equations[0] - (rates["x"] - u - 2 * x * mu)) == 0
    assert sp.expand(form.equations[1] - (rates["y"] - v - 2 * y * mu)) == 0
    assert len(form.equations) == 6


def test_original_equations_of_high_index_are_refused():
    system, _ = particle_on_circle()
    with pytest.raises(ValueError, match=r"index 3.*ggl"):
        implicit_form(system.reduce(), "original")
    with pytest.raises(ValueError, match="not known; choose one of original"):
        implicit_form(system.reduce(), "baumgarte")
    with pytest.raises(ValueError, match="at="):
        implicit_form(system.reduce(), "dummy")


def test_second_derivatives_in_the_original_equations():
    x, z, k = sp.symbols("x z k")
    system = System([dot(x, 2) + k * x - z, z - sp.cos(t)], [x, z], {k: 4.0}, t, name="forced")
    form = implicit_form(system.reduce(), "original")
    assert [u.name for u in form.unknowns] == ["x", "x_dot", "z"]
    value = np.array([0.3, -0.2, np.cos(0.5)]), np.array([-0.2, np.cos(0.5) - 4 * 0.3, -np.sin(0.5)])
    assert np.abs(form.residual(0.5, *value)).max() < 1e-15
    assert np.abs(form.residual(0.5, *value, {"k": 5.0})).max() == pytest.approx(0.3)


def pendulum(at):
    return implicit_form(link().reduce(), "dummy", at=at)


@pytest.mark.parametrize(("x", "y", "free"), [(0.6, -0.8, {"x", "u"}), (0.96, -0.28, {"y", "v"})])
def test_dummy_derivatives_are_those_that_the_point_determines_best(x, y, free):
    """Near the lowest point x and u are free, out to the side y and v; the others have no rate in the equations."""
    form = pendulum(((x, y, 0.0, 0.0), (0.0, -9.81, 0.0), 0.0, {"length": 1.0}))
    held = {u.name for u, algebraic in zip(form.unknowns, form.algebraic, strict=True) if not algebraic}
    assert held == free
    assert len(form.equations) == 6 and not any(form.uncontrolled[: len(form.reduced.y)])


def test_dummy_derivatives_level_by_level():
    """s1 = sin t, s2 = s1', ...: everything is determined, so no equation has a rate."""
    states = sp.symbols("s1:5")
    chain = [dot(p) - q for p, q in pairwise(states)]
    reduced = System([states[0] - sp.sin(t), *chain], states, time=t).reduce()
    form = implicit_form(reduced, "dummy", at=(np.zeros(3), np.zeros(2), 0.0))
    assert all(form.algebraic) and len(form.equations) == 5
    time = 0.4
    Y = np.array([float(sp.sin(t).diff(t, k).subs(t, time)) for k in (0, 1, 2, 3, 3)])
    assert np.abs(form.residual(time, Y, 0 * Y)).max() < 1e-15
    assert np.linalg.matrix_rank(form.jacobians(time, Y, 0 * Y)[0]) == 5


def test_points_that_dummy_derivatives_can_not_be_chosen_at():
    at = ((0.6, -0.8, 0.0, 0.0), (0.0, -9.81, 0.0), 0.0, {"length": 1.0})
    with pytest.raises(ValueError, match=r"determine only 0 variables there .*choose a regular point"):
        pendulum(((0.0, 0.0, 0.0, 0.0), *at[1:]))
    with pytest.raises(ValueError, match="y must be 4 finite numbers, x, y, u, v"):
        pendulum(((0.6, -0.8), *at[1:]))
    with pytest.raises(ValueError, match="w must be 3 finite numbers"):
        pendulum((at[0], (np.nan, 0.0, 0.0), *at[2:]))
