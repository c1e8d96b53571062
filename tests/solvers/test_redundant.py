"""Constraints that follow from others: states as without them, multipliers of least norm."""

import warnings

import jax
import numpy as np
import pytest
import sympy as sp

import ndae
from ndae import dot
from ndae.symbolic.reduction.graphs import StructureError

TS = np.linspace(0.0, 1.0, 6)
ANGLE, G = -1.2, 9.81
Q = sp.symbols("x0 y0 x1 y1 x2 y2", real=True)
V = sp.symbols("u0 w0 u1 w1 u2 w2", real=True)
x, y, u, v = sp.symbols("x y u v", real=True)


def _cranks():
    """Three parallel cranks of length 1 that carry one straight bar: of six constraints five are independent."""
    cranks = [(Q[2 * i] - i) ** 2 + Q[2 * i + 1] ** 2 - 1 for i in range(3)]
    bar = [(Q[0] - Q[2]) ** 2 + (Q[1] - Q[3]) ** 2 - 1, Q[4] - 2 * Q[2] + Q[0], Q[5] - 2 * Q[3] + Q[1]]
    return cranks + bar


def _linkage(constraints, **more):
    g = sp.Symbol("g", positive=True)
    potential = g * (Q[1] + Q[3] + Q[5])
    return ndae.System.mechanical(
        Q,
        V,
        mass=[1, 1, 2, 2, 1, 1],
        potential=0.5 * potential,
        holonomic=constraints,
        parameters={g: G},
        name="cranks",
        **more,
    )


def _start():
    there = {
        name.name: value
        for i in range(3)
        for name, value in zip(Q[2 * i : 2 * i + 2], (i + np.cos(ANGLE), np.sin(ANGLE)), strict=True)
    }
    return there | {s.name: 0.0 for s in V}


@pytest.fixture(scope="module")
def cranks():
    return _linkage(_cranks(), redundant="least-norm")


@pytest.fixture(scope="module")
def solution(cranks):
    return ndae.solve(cranks, _start(), TS)


def _least_norm(constraints, solution, names):
    """Of J(q)ᵀ λ the least λ by numpy.linalg.pinv, and λ as it was solved for, at every output."""
    jacobian = sp.lambdify([Q], sp.Matrix(constraints).jacobian(sp.Matrix(Q)))
    lam = np.stack([solution[name] for name in names], axis=-1)
    at = np.stack([solution[q] for q in Q], axis=-1)
    least = [
        np.linalg.pinv(jacobian(q).T, rcond=1e-9) @ (jacobian(q).T @ found) for q, found in zip(at, lam, strict=True)
    ]
    return np.array(least), lam


def test_a_linkage_with_one_crank_too_many_moves_as_without_it(solution):
    constraints = _cranks()
    without = ndae.solve(_linkage([c for i, c in enumerate(constraints) if i != 1]), _start(), TS)
    np.testing.assert_allclose(solution.x[:, :12], without.x[:, :12], rtol=0, atol=1e-9)
    assert solution.max_drift()["redundant"] < 1e-13
    # Forces on the points are the same, whatever the multipliers are.
    least, lam = _least_norm(constraints, solution, [f"lam{i}" for i in range(6)])
    np.testing.assert_allclose(lam, least, rtol=0, atol=1e-11)
    assert np.abs(lam[:, 1]).min() > 0.1  # the crank that is left out of the constraints carries its share
    assert "of least norm" in repr(solution) and "lam1" in repr(solution)


def test_it_says_what_is_redundant(cranks):
    reduced = cranks.reduce()
    assert reduced.index == 3 and list(reduced.redundant) == [13]
    assert "redundant equations, which follow from the constraints" in reduced.describe()
    with pytest.raises(StructureError, match="depend on one another"):
        _linkage(_cranks()).reduce()


def test_leading_unknowns_in_torch_have_derivatives(cranks, solution):
    torch = pytest.importorskip("torch")
    functions, at = cranks.reduce().torch(), torch.tensor(solution.x[2, :12])
    wanted = cranks.reduce().numpy()
    w, found = functions.solve_leading(at)
    assert bool(found)
    np.testing.assert_allclose(w, wanted.solve_leading(at.numpy())[0], rtol=0, atol=1e-11)
    assert torch.autograd.gradcheck(lambda y: functions.solve_leading(y)[0], at.requires_grad_())


A = (x**2 + y**2 - 1, x * u + y * v)


def _rod(holonomic, along=(), **more):
    return ndae.System.mechanical(
        [x, y], [u, v], mass=1, force=[0, -G], holonomic=holonomic, velocity_constraints=along, name="rod", **more
    )


H = 1e-3
START = {"x": 0.6, "y": -0.8, "u": 0.0, "v": 0.0}


@pytest.mark.parametrize(
    ("holonomic", "along"),
    [
        ([A[0], 2 * A[0]], []),
        ([A[0], A[0] * (3 + x)], []),
        ([A[0], sp.sqrt(x**2 + y**2) - 1], []),
        ([A[0]], [A[1]]),
    ],
    ids=["twice", "times a factor", "as a root", "its velocity"],
)
def test_the_same_constraint_in_another_form(holonomic, along):
    solution = ndae.solve(_rod(holonomic, along, redundant="least-norm"), START, TS, by="tsit5", rtol=1e-9)
    alone = ndae.solve(_rod([A[0]]), START, TS, by="tsit5", rtol=1e-9)
    np.testing.assert_allclose(solution.x[:, :4], alone.x[:, :4], rtol=0, atol=1e-9)
    # Gradients are a multiple a of that of the first: λ = (λ₁, a λ₁) / (1 + a²), times what was there.
    gradients = (
        sp.Matrix(holonomic).jacobian([x, y]).col_join(sp.Matrix(along).jacobian([u, v]) if along else sp.zeros(0, 2))
    )
    jacobian = sp.lambdify([x, y], gradients)
    for row, lam in zip(solution.x, alone["lam0"], strict=True):
        forces = np.array([2 * row[0], 2 * row[1]]) * lam
        np.testing.assert_allclose(row[4:], np.linalg.pinv(jacobian(*row[:2]).T, rcond=1e-9) @ forces, atol=1e-7)


def test_in_jax_and_torch_with_derivatives():
    g = sp.Symbol("g", positive=True)
    system = ndae.System.mechanical(
        [x, y],
        [u, v],
        mass=1,
        force=[0, -g],
        holonomic=[A[0], A[0] * (3 + x)],
        parameters={g: G},
        redundant="least-norm",
    )
    wanted, ts = ndae.solve(system, START, TS[:3]), TS[:3]
    by_torch = ndae.solve(system, START, ts, by="torch", rtol=1e-9)
    np.testing.assert_allclose(by_torch.x, wanted.x, rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        flow = ndae.flow(system, integrator="tsit5", rtol=1e-8)
        found, slope = jax.value_and_grad(lambda g: flow(START, ts, {"g": g}).x[-1] @ jax.numpy.arange(1.0, 7.0))(G)
    higher, lower = (ndae.solve(system, START, ts, parameters={"g": G + h}).x[-1] @ np.arange(1, 7) for h in (H, -H))
    assert found == pytest.approx(wanted.x[-1] @ np.arange(1, 7), rel=1e-6)
    assert slope == pytest.approx((higher - lower) / (2 * H), rel=1e-6)


def test_what_contradicts_is_refused():
    def rod(*holonomic, parameters=None):
        return _rod(holonomic, parameters=parameters, redundant="least-norm")

    with pytest.raises(StructureError, match="no values were found for which all constraints hold"):
        rod(A[0], 2 * A[0] - 1).reduce()
    with pytest.raises(StructureError, match="depend on one another"):
        rod(A[0], x - 1).reduce()  # touches the circle, and does not follow from it
    length = sp.Symbol("L", positive=True)
    system = rod(A[0], x**2 + y**2 - length**2, parameters={length: 1.0})
    with pytest.raises(ValueError, match=r"violates equation \d \(0 = .*taken as redundant"):
        ndae.solve(system, START, TS, parameters={"L": 1.1})
    with pytest.raises(ndae.SolveError, match="which was taken as redundant, is off by"):
        ndae.consistent_initial_condition(system, START, parameters={"L": 1.1})
    with pytest.raises(ValueError, match='expected "least-norm"'):
        ndae.System([dot(x) - u, u - 1], [x, u], redundant="all")


def test_what_stops_to_follow_on_the_way_stops_the_solve():
    """The second constraint parts from the first at t = 0.5."""
    t, p = sp.symbols("t p")
    later = p * sp.Max(t - sp.Rational(1, 2), 0) ** 4
    holonomic = [A[0], A[0] * (3 + x) - later]
    system = _rod(holonomic, parameters={p: 0.0}, time=t, redundant="least-norm")
    solution = ndae.solve(system, START, TS, parameters={"p": 1.0}, by="tsit5", rtol=1e-8, throw=False)
    assert solution.n_reached == 3 and "taken as redundant" in solution.result


def test_rows_that_are_singular_one_after_the_other():
    """Two wheels coupled by two rods a quarter turn apart, of which each is of no use twice a turn."""
    a, b, p, q = sp.symbols("a b p q", real=True)
    rods = [
        (3 + sp.cos(b + turn) - sp.cos(a + turn)) ** 2 + (sp.sin(b + turn) - sp.sin(a + turn)) ** 2 - 9
        for turn in (0, sp.pi / 2)
    ]
    wheels = ndae.System.mechanical(
        [a, b], [p, q], mass=1, force=[1.0, -0.2], holonomic=rods, name="wheels", redundant="least-norm"
    )
    ts = np.linspace(0.0, 5.0, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of postures where what is taken of both is singular
        solution = ndae.solve(wheels, {"a": 0.0, "b": 0.0, "p": 1.0, "q": 1.0}, ts)
    np.testing.assert_allclose(solution["a"], ts + 0.2 * ts**2, rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution["b"], solution["a"], rtol=0, atol=1e-9)
    angle = solution["a"]
    pull = 6 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)  # the gradients by a; those by b are opposite
    least = pull * ((1.0 - 0.4) / (pull**2).sum(axis=-1))[:, None]
    np.testing.assert_allclose(solution.x[:, 4:], least, rtol=0, atol=1e-6)
