"""Functions generated for JAX."""

import jax.numpy as jnp

from ndae.symbolic.backends._prelude_jax import rsqrt, scatter_add
from ndae.symbolic.backends._runtime_array import ArrayFunction, Joins
from ndae.symbolic.backends.jax_arrays import from_host
from ndae.symbolic.backends.loading import Generated, generated_functions, helpers, specification


def _names() -> dict:
    return {"jnp": jnp, "rsqrt": rsqrt} | helpers(Joins(jnp))


def compile_jax(function) -> ArrayFunction:
    """Compile a `Function` to pure JAX functions, fit for jit, vmap and grad."""
    functions = Generated(generated_functions(function, "jax"), _names)
    return ArrayFunction(specification(function), functions, jnp, scatter_add, from_host)
