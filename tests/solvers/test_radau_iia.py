"""Radau IIA: its coefficients against the conditions that define them, and a step of it by hand."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ndae.solvers.stepping.radau_iia import RadauIIA, coefficients

STAGES = [3, 5, 7]


@pytest.mark.parametrize("s", STAGES)
def test_coefficients_are_those_of_radau_collocation(s):
    m = coefficients(s)
    for k in range(s):  # exact for polynomials of degree s - 1 at every abscissa
        np.testing.assert_allclose(m.a @ m.c**k, m.c ** (k + 1) / (k + 1), rtol=0, atol=1e-15)
    for k in range(2 * s - 1):  # and of degree 2 s - 2 over the step: order 2 s - 1
        assert m.a[-1] @ m.c**k == pytest.approx(1 / (k + 1), abs=1e-15)
    assert abs(m.a[-1] @ m.c ** (2 * s - 1) - 1 / (2 * s)) > 1e-9
    assert m.c[-1] == 1.0 and np.all(np.diff(m.c) > 0)


@pytest.mark.parametrize("s", STAGES)
def test_eigenvectors_take_the_inverse_apart(s):
    m = coefficients(s)
    right = np.column_stack([m.from_real, m.from_pairs, m.from_pairs.conj()])
    left = np.concatenate([m.to_real[None], m.to_pairs, m.to_pairs.conj()])
    values = np.concatenate([[m.real], m.pairs, m.pairs.conj()])
    np.testing.assert_allclose(right @ (values[:, None] * left), m.inverse, rtol=0, atol=1e-11)
    np.testing.assert_allclose(m.a @ m.inverse, np.eye(s), rtol=0, atol=1e-14)


def step(s, rate, h, differentiable=False):
    """y and its error after one step of y' = rate y + t from 1."""
    with jax.enable_x64(True):
        method = RadauIIA(1e-8, jnp.asarray([1e-8]), differentiable, s)
        term = diffrax.ODETerm(lambda t, y, rate: rate * y + t)
        t0, t1, y0, rate = (jnp.asarray(x) for x in (0.0, h, [1.0], rate))
        y1, error, _, work, _ = method.step(term, t0, t1, y0, rate, method.init(term, t0, t1, y0, rate), False)
        return float(y1[0]), float(error[0]), {name: int(count) for name, count in vars(work).items()}


@pytest.mark.parametrize("s", STAGES)
@pytest.mark.parametrize("z", [-0.7, -30.0, -1e9])
def test_a_step_is_its_stability_function(s, z):
    """R(z) = 1 + z bᵀ (I - z A)⁻¹ 1, and of the inhomogeneity bᵀ (I - z A)⁻¹ c; R vanishes at infinity."""
    m, h = coefficients(s), 0.5
    resolvent = np.linalg.inv(np.eye(s) - z * m.a)
    expected = 1 + z * m.a[-1] @ resolvent @ np.ones(s) + h**2 * m.a[-1] @ resolvent @ m.c
    y1, _, work = step(s, z / h, h)
    assert y1 == pytest.approx(expected, abs=1e-10)
    assert work["n_jacobian_evals"] == 1 and work["n_f_evals"] <= 2 + 2 * s  # linear: the second correction is none
    if z == -1e9:
        assert abs(y1 - h**2 / 1e9) < 1e-8


@pytest.mark.parametrize("s", [3, 5])
def test_the_error_estimate_has_order_s(s):
    """It falls as h^(s+1), as the error test supposes; the error itself much faster."""
    h = np.array([0.4, 0.2])
    estimates = [abs(step(s, -1.0, x)[1]) for x in h]
    assert np.log2(estimates[0] / estimates[1]) == pytest.approx(s + 1, abs=0.5)
    exact = 2 * np.exp(-h) - 1 + h
    assert all(abs(step(s, -1.0, x)[0] - y) < e for x, y, e in zip(h, exact, estimates, strict=True))


def test_derivatives_of_a_step_are_those_of_the_exact_increments():
    with jax.enable_x64(True):
        method = RadauIIA(1e-6, jnp.asarray([1e-6]), True, 3)

        def end(rate):
            term = diffrax.ODETerm(lambda t, y, rate: rate * jnp.sin(y))
            t, y = jnp.asarray([0.0, 0.3]), jnp.asarray([1.0])
            return method.step(term, t[0], t[1], y, rate, method.init(term, t[0], t[1], y, rate), False)[0][0]

        def tangent(rate):  # tan(y/2) = tan(y0/2) exp(rate t)
            return 2 * jnp.arctan(jnp.tan(0.5) * jnp.exp(0.3 * rate))

        for derivative in (jax.grad, lambda f: jax.grad(jax.grad(f))):
            found = jax.jit(derivative(end))(-1.0)
            h = 1e-3
            by_difference = {
                1: (end(-1.0 + h) - end(-1.0 - h)) / (2 * h),
                2: (end(-1.0 + h) - 2 * end(-1.0) + end(-1.0 - h)) / h**2,
            }[1 if derivative is jax.grad else 2]
            assert found == pytest.approx(float(by_difference), abs=1e-5)
            assert found == pytest.approx(float(derivative(tangent)(-1.0)), abs=1e-5)
