"""Implicit methods with sparse Jacobians: linear systems solved part by part, columns found together, what pays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from diffrax import ODETerm

from ndae.solvers.dae.formulations import Baumgarte, Projected
from ndae.solvers.dae.reduced_motion import ReducedMotion
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.stepping.elimination import Bordered, eliminated
from ndae.solvers.stepping.esdirk import Esdirk
from ndae.solvers.stepping.jacobians import WHOLE, SparseJacobian, jacobian_of
from ndae.solvers.stepping.radau_iia import RadauIIA
from ndae.symbolic import System, dot


def _pattern(kind, n):
    """A matrix of which entries there are, boolean (n, n)."""
    i = np.arange(n)
    near = np.abs(i[:, None] - i)
    if kind == "band":
        return near <= 2
    if kind == "tree":
        return (near == 0) | ((i[:, None] - 1) // 2 == i) | ((i - 1) // 2 == i[:, None])
    hubs = (i < 2) | (i == n // 2)  # "hubs": three unknowns that are joined to all
    return (near <= 1) | hubs | hubs[:, None]


@pytest.mark.parametrize("kind", ["band", "tree", "hubs", "apart"])
def test_parts_and_their_border_solve_a_sparse_system(kind):
    n, rng = 144, np.random.default_rng(0)
    there = np.eye(n, dtype=bool) if kind == "apart" else _pattern(kind, n)
    shuffled, shift = rng.permutation(n), 2.0 + 3.0j
    matrix = np.where(there, rng.normal(size=(n, n)), 0.0)[shuffled][:, shuffled] + 9 * np.eye(n)
    rows, columns = np.nonzero(matrix)
    elimination = eliminated(n, rows, columns, 8)
    assert isinstance(elimination, Bordered)
    b = rng.normal(size=(2, n))
    with jax.enable_x64(True):
        solve = jax.jit(lambda entries, right: elimination.solve(elimination.factors(entries), right))
        found = solve(jnp.asarray(matrix[rows, columns] + shift * (rows == columns)), jnp.asarray(b))
    x = np.linalg.solve(matrix + shift * np.eye(n), b[0] + 1j * b[1])
    np.testing.assert_allclose(found, [x.real, x.imag], rtol=0, atol=1e-13)


def _reaction(t, u, rate):
    """Diffusion with a reaction."""
    inner = jnp.concatenate([jnp.sin(t)[None], u, u[-1:]])
    return rate * (inner[:-2] - 2 * u + inner[2:]) - u**3 + jnp.cos(t)


def test_a_step_with_a_sparse_jacobian_is_that_with_a_whole_one():
    n = 100
    rows, columns = np.nonzero(_pattern("band", n))  # two entries more a row than there are
    sparse = SparseJacobian(n, rows, columns)
    assert sparse.pays and len(sparse._seeds) == 5
    with jax.enable_x64(True):
        y, args = jnp.linspace(0.0, 1.0, n) ** 2, jnp.asarray(400.0)
        scale = 1e-9 * (1 + jnp.arange(n))
        entries = np.zeros((n, n))
        entries[sparse._rows, sparse._columns] = sparse.jacobian(lambda y: _reaction(0.3, y, args), y, 0.1, scale)
        whole = WHOLE.jacobian(lambda y: _reaction(0.3, y, args), y, 0.1, scale)
        np.testing.assert_allclose(entries, whole, rtol=1e-14, atol=0)

        t0, t1, term = jnp.asarray(0.3), jnp.asarray(0.31), ODETerm(_reaction)
        for method in (Esdirk, partial(RadauIIA, stages=3)):

            def step(jacobians, method=method):
                solver = method(1e-9, 1e-11 * jnp.ones(n), jacobians=jacobians)
                begin = solver.init(term, t0, t1, y, args)
                return jax.jit(lambda y: solver.step(term, t0, t1, y, args, begin, False)[:2])(y)

            (y1, error), (right, its_error) = step(sparse), step(WHOLE)
            assert np.abs(right - y).max() > 1e-2 and np.isfinite(its_error).all()
            np.testing.assert_allclose(y1, right, rtol=0, atol=1e-12)
            np.testing.assert_allclose(error, its_error, rtol=0, atol=1e-12)


def test_whole_matrices_where_little_is_saved():
    full = lambda: tuple(np.nonzero(np.ones((80, 80))))  # noqa: E731
    assert jacobian_of(80, full) is WHOLE and jacobian_of(80, lambda: None) is WHOLE
    assert jacobian_of(30, lambda: pytest.fail("small systems are not looked at")) is WHOLE
    assert isinstance(jacobian_of(80, lambda: tuple(np.nonzero(_pattern("band", 80)))), SparseJacobian)


def test_the_sparsity_of_the_rates_holds_all_that_is_not_zero():
    """By formulas, by an elimination in numbers and by Newton's iteration, each after the other."""
    x, z, a = (sp.symbols(f"{name}0:3") for name in "xza")
    t, k = sp.Symbol("t"), sp.Symbol("k")
    equations = [dot(x[i]) - z[i] - (a[i] if i else 0) for i in range(3)]
    equations += [z[i] - sp.sin(x[(i + 1) % 3]) for i in range(3)]
    # Two linear equations with entries that vary, in x1 and z2, and a nonlinear one in a0.
    equations += [k * x[1] * a[0] + a[1] - z[2], a[0] - (1 + x[1] ** 2) * a[1] - t, a[2] ** 3 + a[2] - a[0]]
    reduced = System(equations, [*x, *z, *a], {k: 2.0}, t).reduce()
    rows, columns = reduced.numpy().rates_sparsity()
    found = np.zeros((3, 3), dtype=bool)
    found[rows, columns] = True
    with jax.enable_x64(True):
        functions = reduced.jax()
        y = jnp.asarray([0.3, 0.5, 0.7])
        slopes = jax.jacfwd(lambda y: functions.rates(y, functions.solve_leading(y, 0.2, guess=jnp.ones(9))[0]))(y)
    order = [reduced.y.index(s) for s in x]
    np.testing.assert_array_equal(found[np.ix_(order, order)], [[0, 1, 0], [1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(found | (np.asarray(slopes) == 0), True)


def test_heat_by_lines_is_its_closed_form():
    """u' = A u + b sin t from 0, by the eigenvectors of A; constraints that are damped join all unknowns."""
    n, t, u = 70, sp.Symbol("t"), sp.symbols("u0:72")
    inner = [dot(u[i]) - (u[i - 1] - 2 * u[i] + u[i + 1]) * (n + 1) ** 2 for i in range(1, n + 1)]
    system = System([u[0] - sp.sin(t), *inner, u[n + 1] - u[n]], u, time=t)
    motion = ReducedMotion(system.reduce(), Projected())
    assert isinstance(motion.jacobians(), SparseJacobian) and len(motion.jacobians()._seeds) == 3
    solution = solve_dae(system, {s.name: 0.0 for s in u}, [0.0, 0.5, 1.0], integrator="radau13", rtol=1e-9)
    a = (np.diag(-2.0 * np.ones(n)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)) * (n + 1) ** 2
    a[-1, -1] = -((n + 1.0) ** 2)
    rates, vectors = np.linalg.eigh(a)
    for at, row in zip((0.5, 1.0), np.stack([solution[x.name] for x in u], -1)[1:], strict=True):
        # ∫ exp(r (t - s)) sin s ds = (exp(r t) - r sin t - cos t) / (1 + r²)
        response = (np.exp(rates * at) - rates * np.sin(at) - np.cos(at)) / (1 + rates**2)
        expected = vectors @ (response * vectors[0] * (n + 1) ** 2)
        np.testing.assert_allclose(row[1:-1], expected, rtol=0, atol=1e-9)
        assert row[0] == pytest.approx(np.sin(at), abs=1e-14) and row[-1] == row[-2]


def test_damped_constraints_are_solved_with_whole_matrices():
    """Each would be joined to all that its constraint is made of."""
    n = 40
    q, v, lam = sp.symbols(f"q0:{n}"), sp.symbols(f"v0:{n}"), sp.Symbol("lam")
    constraint = sum(x**2 for x in q) - 1
    equations = [dot(x) - w for x, w in zip(q, v, strict=True)]
    equations += [dot(w) + lam * x for x, w in zip(q, v, strict=True)]
    reduced = System([*equations, constraint], [*q, *v, lam]).reduce()
    assert ReducedMotion(reduced, Baumgarte()).jacobians() is WHOLE
    assert ReducedMotion(reduced, Projected()).jacobians() is WHOLE  # the multiplier depends on all unknowns
