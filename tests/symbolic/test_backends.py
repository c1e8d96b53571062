"""torch, JAX and NumPy against one another for every generated function, and JAX's transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.symbolic.cases import CASES

CALLS = {
    "residual": "y",
    "time_derivative": "y",
    "jvp": "yv",
    "vjp": "yw",
    "hvp": "ywu",
    "velocity": "yv",
    "curvature": "yv",
    "penalty": "y",
    "penalty_jvp": "yv",
    "local_jacobian": "y",
    "linearise": "y",
    "jacobian": "y",
    "gram_blocks": "y",
}


pytestmark = pytest.mark.usefixtures("double_precision")


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", CASES)
def test_all_backends_agree_on_every_function(name):
    case = CASES[name]
    forms = {"torch": case.torch, "jax": case.function.jax(), "numpy": case.function.numpy()}
    convert = {"torch": torch.as_tensor, "numpy": np.asarray}
    arrays = dict(zip("yvuw", case.arrays((2, 3)), strict=True))

    def everything(f, arrays):
        return {
            name: as_tuple(getattr(f, name)(*[arrays[a] for a in letters], t=case.t)) for name, letters in CALLS.items()
        }

    results = {b: everything(forms[b], {a: convert[b](x) for a, x in arrays.items()}) for b in ("torch", "numpy")}
    results["jax"] = jax.jit(lambda arrays: everything(forms["jax"], arrays))(arrays)
    for name_of_call in CALLS:
        for a, b, c in zip(*[results[backend][name_of_call] for backend in forms], strict=True):
            assert a.shape == b.shape == c.shape
            np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-11, err_msg=name_of_call)
            np.testing.assert_allclose(c, a, rtol=1e-11, atol=1e-11, err_msg=name_of_call)


@pytest.mark.parametrize("name", ["chain", "stencil", "timed"])
def test_products_with_a_local_jacobian_agree(name):
    case = CASES[name]
    y, v, _, w = case.arrays((2,))
    f, g = case.function.jax(), case.function.numpy()
    local = g.local_jacobian(y, case.t)
    np.testing.assert_allclose(g.apply_jacobian(local, v), g.jvp(y, v, case.t), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(g.apply_transpose(local, w), g.vjp(y, w, case.t), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        f.apply_jacobian(jnp.asarray(local), jnp.asarray(v)), g.jvp(y, v, case.t), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        f.apply_transpose(jnp.asarray(local), jnp.asarray(w)), g.vjp(y, w, case.t), rtol=1e-12, atol=1e-12
    )
    metric = np.random.default_rng(0).uniform(1, 2, (g.n_points, g.dim, g.dim))
    for a, b, c in zip(
        f.gram_from(jnp.asarray(local), jnp.asarray(metric)),
        g.gram_from(local, metric),
        case.torch.gram_from(torch.as_tensor(local), torch.as_tensor(metric)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(c, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "stencil", "two residuals"])
def test_jax_transforms(name):
    case = CASES[name]
    f = case.function.jax()
    y, v, u, w = map(jnp.asarray, case.arrays())

    def residual(y):
        return f.residual(y, case.t)

    dense = jax.jit(jax.vmap(jax.jacrev(residual)))(y)
    np.testing.assert_allclose(f.jacobian(y, case.t), dense, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.jacfwd(residual)))(y), dense, rtol=1e-12, atol=1e-12)
    hessian = jax.jit(jax.vmap(jax.hessian(lambda y, w: residual(y) @ w)))(y, w)
    np.testing.assert_allclose(f.hvp(y, w, u, case.t), jnp.einsum("bij,bj->bi", hessian, u), rtol=1e-11, atol=1e-11)
    mapped = jax.jit(jax.vmap(lambda y, v: f.curvature(y, v, case.t)))(y, v)
    np.testing.assert_allclose(mapped, f.curvature(y, v, case.t), rtol=1e-12, atol=1e-12)
    if case.function.parameters:
        name, value = next(iter(case.function.parameters.items()))
        value = jnp.asarray(value, jnp.float64)
        gradient = jax.jit(jax.grad(lambda p: f.residual(y, case.t, {name: p}).sum()))(value)
        step = 1e-6
        ahead, behind = (f.residual(y, case.t, {name: value + s}).sum() for s in (step, -step))
        np.testing.assert_allclose(gradient.sum(), (ahead - behind) / (2 * step), rtol=1e-7)


def test_jax_gradients_are_finite_where_two_points_meet():
    f = CASES["chain"].function.jax()
    y = jnp.zeros(10)
    assert not jax.jit(jax.grad(lambda y: f.residual(y).sum()))(y).any()
    assert jnp.isfinite(jax.jit(jax.hessian(lambda y: f.residual(y).sum()))(y)).all()


def test_numpy_takes_and_gives_float32():
    f = CASES["chain"].function.numpy()
    y = np.zeros((2, 10), np.float32)
    assert f.residual(y).dtype == f.vjp(y, f.residual(y)).dtype == f.local_jacobian(y).dtype == np.float32
