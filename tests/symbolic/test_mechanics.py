"""Equations of motion by multipliers against Lagrange's equations in an angle, and against the KKT system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

from ndae.symbolic import Function, System, library

pytestmark = pytest.mark.usefixtures("double_precision")


def test_one_pendulum_is_its_equation_in_the_angle():
    """θ'' = −(g / L) sin θ from the lowest point, and the tension m (L θ'² + g cos θ)."""
    length, mass, g, angle, rate = 1.3, 0.7, 9.82, 0.6, 1.9
    s = library.chain_pendulum(1, length, mass, g).points.jax()
    q = length * jnp.array([np.sin(angle), -np.cos(angle)])
    along = length * jnp.array([np.cos(angle), np.sin(angle)])
    a = s.acceleration(q, rate * along)
    np.testing.assert_allclose(a, -(g / length) * np.sin(angle) * along - rate**2 * q, rtol=1e-12)
    np.testing.assert_allclose(
        s.multiplier(q, rate * along), [mass * (length * rate**2 + g * np.cos(angle))], rtol=1e-12
    )
    np.testing.assert_allclose(
        s.energy(q, rate * along), 0.5 * mass * (length * rate) ** 2 - mass * g * length * np.cos(angle), rtol=1e-12
    )


@pytest.mark.parametrize("system", ["pendulum", "ring", "water"])
def test_multipliers_solve_the_whole_kkt_system(system):
    """[[M, Jᵀ], [J, 0]] (a, λ) = (F, −curvature), solved densely without elimination."""
    x, t = sp.symbols("x0:6"), sp.Symbol("t")
    wind = Function([sp.sin(t) * s for s in x], x, time=t, name="wind")
    ring = library.fixed_distances([(0, 1), (1, 2), (2, 0)], [1.0, 1.2, 0.9], dim=2)
    systems = {
        "pendulum": library.chain_pendulum(4, 1.0, [1.0, 2.0, 3.0, 0.5]),
        "ring": System.of_points(ring, [1.0, 2.0, 3.0], force=wind),
        "water": System.of_points(library.rigid_molecules(2), [16.0, 1.0, 1.0] * 2),
    }
    s = systems[system].points.jax()
    q, v = np.random.default_rng(0).normal(size=(2, s.n_states))
    f = s.constraint
    jacobian, mass = np.asarray(f.jacobian(q)), np.diag(np.repeat(s.mass, s.dim))
    m = len(jacobian)
    force = np.asarray(s.force(jnp.asarray(q), jnp.asarray(v), 0.8))
    kkt = np.block([[mass, jacobian.T], [jacobian, np.zeros((m, m))]])
    both = np.linalg.solve(kkt, np.concatenate([force, -np.asarray(f.curvature(q, v))]))
    q, v = jnp.asarray(q), jnp.asarray(v)
    np.testing.assert_allclose(s.acceleration(q, v, 0.8), both[: s.n_states], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(s.multiplier(q, v, 0.8), both[s.n_states :], rtol=1e-9, atol=1e-9)
    if system == "ring":
        np.testing.assert_allclose(force, np.sin(0.8) * np.asarray(q), rtol=1e-12)


def test_force_is_minus_the_gradient_of_the_potential_and_may_damp():
    x, y, vx, vy, k, d = sp.symbols("x y vx vy k d")
    circle = library.unit_norm(1, 2)
    spring = Function([k * x**4 + sp.cos(y)], [x, y], {k: 2.0}, name="spring")
    drag = Function([-d * vx * x**0, -d * vy], [x, y, vx, vy], {d: 0.3}, unconstrained=[x, y], name="drag")
    s = System.of_points(circle, 1.5, spring, drag).points.jax()
    q, v = jnp.array([0.6, 0.8]), jnp.array([0.8, -0.6])
    np.testing.assert_allclose(s.force(q, v), [-8 * 0.6**3 - 0.3 * 0.8, np.sin(0.8) + 0.3 * 0.6], rtol=1e-12)
    np.testing.assert_allclose(s.force(q, v, None, {"k": 0.0, "d": 1.0}), [-0.8, np.sin(0.8) + 0.6], rtol=1e-12)
    potential = jax.jit(jax.grad(lambda q: s.energy(q, 0 * v)))(q)
    np.testing.assert_allclose(s.force(q, 0 * v), -potential, rtol=1e-12)
    with pytest.raises(ValueError, match="has no parameter 'K'"):
        s.force(q, v, None, {"K": 1.0})


def test_batches_transforms_and_changed_masses():
    s = library.chain_pendulum(3).points.jax()
    q, v = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)))
    batched = jax.jit(s.acceleration)(q, v)
    np.testing.assert_allclose(batched, jax.jit(jax.vmap(s.acceleration))(q, v), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(s.acceleration(q[2], v[2]), batched[2], rtol=1e-10, atol=1e-10)
    heavy = library.chain_pendulum(3, mass=[1.0, 2.0, 3.0]).points.jax()
    changed = {"mass": jnp.array([1.0, 2.0, 3.0])}
    np.testing.assert_allclose(s.acceleration(q, v, None, changed), heavy.acceleration(q, v), rtol=1e-12)
    np.testing.assert_allclose(s.energy(q, v, None, changed), heavy.energy(q, v), rtol=1e-12)
    gradient = jax.jit(jax.grad(lambda g: s.acceleration(q, v, None, {"gravity": g}).sum()))(9.82)
    ahead, behind = (s.acceleration(q, v, None, {"gravity": 9.82 + h}).sum() for h in (1e-5, -1e-5))
    np.testing.assert_allclose(gradient, (ahead - behind) / 2e-5, rtol=1e-6)


def test_equations_are_those_of_the_same_motion():
    """The DAE written out has the accelerations and multipliers of the system, and keeps single parameters."""
    t = sp.Symbol("tau")
    force = Function([-0.3 * s + sp.cos(t) for s in sp.symbols("v0:4")], sp.symbols("v0:4"), time=t, name="drag")
    points = library.chain_pendulum(2, [1.0, 0.7], [2.0, 0.5]).points
    system = System.of_points(points.constraint, points.mass, points.potential, force, name="two")
    assert system.index == 3
    assert [p.name for p in system.parameters] == ["gravity"]
    q = np.array([0.6, -0.8, 0.6, -1.5])
    v = np.array([0.8, 0.6, -0.4, 0.6])  # along both links' circles
    reduced = system.reduce()
    w, found = reduced.numpy().solve_leading(np.concatenate([q, v]), 0.4, {"gravity": 3.0})
    assert found
    w = dict(zip((s.name for s in reduced.w), w, strict=True))
    s = system.points.jax()
    expected = s.acceleration(jnp.asarray(q), jnp.asarray(v), 0.4, {"gravity": 3.0})
    np.testing.assert_allclose([w[f"v{i}_dot"] for i in range(4)], expected, rtol=1e-12)
    multiplier = s.multiplier(jnp.asarray(q), jnp.asarray(v), 0.4, {"gravity": 3.0})
    np.testing.assert_allclose([w["lam0"], w["lam1"]], multiplier, rtol=1e-12)
