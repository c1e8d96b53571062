"""Functions generated for JAX."""

import jax.numpy as jnp

from symbolic._prelude_jax import rsqrt, scatter_add
from symbolic._runtime_array import ArrayFunction, Joins
from symbolic.compile import Generated, generated_functions, helpers, specification
from symbolic.jax_arrays import from_host


def _names() -> dict:
    return {"jnp": jnp, "rsqrt": rsqrt} | helpers(Joins(jnp))


def compile_jax(function) -> ArrayFunction:
    """Compile a `Function` to pure JAX functions, fit for jit, vmap and grad."""
    functions = Generated(generated_functions(function, "jax"), _names)
    return ArrayFunction(specification(function), functions, jnp, scatter_add, from_host)
