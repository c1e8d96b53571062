"""Functions generated for JAX."""

import jax.numpy as jnp

from symbolic._prelude_jax import rsqrt, scatter_add
from symbolic._runtime_array import ArrayFunction, Joins
from symbolic.compile import generated_functions, helpers, load, specification


def compile_jax(function) -> ArrayFunction:
    """Compile a `Function` to pure JAX functions, fit for jit, vmap and grad."""
    functions = load(generated_functions(function, "jax"), {"jnp": jnp, "rsqrt": rsqrt} | helpers(Joins(jnp)))
    return ArrayFunction(specification(function), functions, jnp, scatter_add)
