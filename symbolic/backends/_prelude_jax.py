import warnings

import jax
import jax.numpy as jnp
import numpy as np

xp = jnp


def as_array(x):
    """x as an array of JAX; warns where that takes digits: 64-bit numbers from outside of JAX, and JAX in 32 bits."""
    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]  # JAX adds it by name
        leaves = jax.tree.leaves(x)
        host = not any(isinstance(leaf, jax.Array) for leaf in leaves)
        if host and any(np.result_type(leaf).itemsize == 8 for leaf in leaves):
            warnings.warn(
                "64-bit numbers are computed with in 32 bits, since JAX is in 32: 7 digits instead of 16. Call inside "
                '`with jax.enable_x64(True):`, or set jax.config.update("jax_enable_x64", True) first; where 32 bits '
                "are meant, pass arrays of JAX, or jnp.asarray(x, jnp.float32)",
                stacklevel=3,
            )
    return jnp.asarray(x)


def rsqrt(s):
    """1/√s, and 1 where s = 0, so that √s = s·rsqrt(s) and its derivatives are finite there."""
    return jax.lax.rsqrt(s + (s == 0))


def scatter_add(size, index, values):
    """Sum the last axis of `values` into an array (..., size) at `index`."""
    return jnp.zeros((*values.shape[:-1], size), values.dtype).at[..., index].add(values)
