"""The one way by which numbers from outside come into JAX."""

import numpy as np

from ndae.symbolic.backends._prelude_jax import as_array
from ndae.symbolic.ground.forks import check_process


def from_host(x):
    """x as an array of JAX; raises RuntimeError where JAX would hang, and warns where it would drop digits."""
    check_process()
    return as_array(x)


def places(index) -> np.ndarray:
    """Constant indices that JAX takes in both precisions: of 64 bits, what it cached in one fails in the other."""
    return np.asarray(index, dtype=np.int32)
