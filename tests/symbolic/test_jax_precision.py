"""64-bit numbers that JAX would compute with in 32 bits: never without a word; and none for those who mean 32 bits."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp

from ndae.symbolic import System, VectorFunction, dot, library

a, b = sp.symbols("a b")
CHAIN = library.chain(1)
IN_JAX = CHAIN.jax()
VECTOR = VectorFunction([a * b], {"y": [a, b]})
SYSTEM = library.chain_pendulum(1).points.jax()
REDUCED = System([dot(a) + a * b, b**3 + b - a], [a, b], name="valve").reduce()

# Every public method that takes states, from float64 y.
CALLS = {
    "residual": lambda y: IN_JAX.residual(y),
    "call": lambda y: IN_JAX(y),
    "hvp": lambda y: IN_JAX.hvp(y, y[:1], y),
    "jacobian": lambda y: IN_JAX.jacobian(y),
    "curvature": lambda y: IN_JAX.curvature(y, y),
    "gram_blocks": lambda y: IN_JAX.gram_blocks(y),
    "vector": lambda y: VECTOR.jax()(y),
    "vector jacobian": lambda y: VECTOR.jax().jacobian("y", y),
    "force": lambda y: SYSTEM.force(y, y),
    "multiplier": lambda y: SYSTEM.multiplier(y, y),
    "acceleration": lambda y: SYSTEM.acceleration(y, y),
    "energy": lambda y: SYSTEM.energy(y, y),
    "leading_system": lambda y: REDUCED.jax().leading_system(y[:1], y),
    "solve_leading": lambda y: REDUCED.jax().solve_leading(y[:1]),
    "rates": lambda y: REDUCED.jax().rates(y[:1], y),
    "states": lambda y: REDUCED.jax().states(y[:1], y),
    "levels": lambda y: REDUCED.jax().levels(y[:1], y),
}
Y = np.array([0.6, -0.8])
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
def test_float64_in_32_bits_is_warned_of(call):
    assert not jax.config.jax_enable_x64
    with pytest.warns(UserWarning, match=r"in 32 bits.*jax.enable_x64\(True\)"):
        call(Y)


@calls
def test_float32_is_meant(call):
    """Arrays of JAX, NumPy's of 32 bits, and what is traced, with times and parameters as plain numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = jax.tree.leaves(call(jnp.asarray(Y)))
        call(Y.astype(np.float32))
        jax.eval_shape(call, Y.astype(np.float32))
    assert all(x.dtype in (jnp.float32, bool) for x in found)


def test_lists_and_whole_numbers_are_seen_too():
    for y in ([0.6, -0.8], np.array([1, 2])):
        with pytest.warns(UserWarning, match="in 32 bits"):
            VECTOR.jax()(y)
    k, t = sp.symbols("k t")
    driven = VectorFunction([k * a * sp.sin(t)], {"y": [a]}, t, {k: 2.0}).jax()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = driven(jnp.ones(1), t=0.3, parameters={"k": np.float64(0.1)})
        jax.grad(lambda y: VECTOR.jax()([y, 2.0])[0])(0.5)  # of the precision of what is traced
    assert found.dtype == jnp.float32


def test_64_bits_are_computed_in_64():
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in CALLS.values():
            assert all(x.dtype in (jnp.float64, bool) for x in jax.tree.leaves(call(Y)))


def test_a_saved_file_says_so_too(tmp_path):
    names = {}
    exec(CHAIN.save(tmp_path / "chain.py", "jax").read_text(), names)
    with pytest.warns(UserWarning, match="in 32 bits"):
        names["function"].residual(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names["function"].residual(jnp.asarray(Y))
