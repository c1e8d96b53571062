"""Times at which inputs switch, which steps end at."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64

from ndae.solvers._jax_types import Flag, Time

# Half the width of the gap around a switching time, relative to it: what rounding may do to `t - a < b`.
_GAP = 8 * np.finfo(np.float64).eps


class Jumps(eqx.Module):
    """Times in order, each with the gap (before, after) around it; places that are not used are infinite."""

    at: Float64[Array | np.ndarray, "*batch n"]
    before: Float64[Array | np.ndarray, "*batch n"]
    after: Float64[Array | np.ndarray, "*batch n"]

    @classmethod
    def around(cls, at: Array, offset: Any = 0.0) -> "Jumps":
        """The gaps around times (*batch, n) in order; `offset` is as large as what is added to times in conditions."""
        fixed = jax.lax.stop_gradient(at)
        margin = _GAP * (jnp.abs(fixed) + offset) + np.finfo(np.float64).tiny
        return cls(at, jnp.where(jnp.isinf(fixed), fixed, fixed - margin), fixed + margin)

    @classmethod
    def none(cls, batch: tuple[int, ...] = ()) -> "Jumps":
        """No times at all."""
        never = np.full((*batch, 1), np.inf)
        return cls(never, never, never)

    def next_before(self, t: Time) -> Time:
        """The beginning of the first gap behind t."""
        i = jnp.searchsorted(self.before, t, side="right")
        return jnp.where(i < self.before.size, _entry(self.before, jnp.minimum(i, self.before.size - 1)), jnp.inf)

    def over(self, t: Time) -> Time:
        """t, or the end of the gap that t is in."""
        i = jnp.searchsorted(self.before, t, side="right") - 1  # the last gap that has begun
        return jnp.where(i >= 0, jnp.maximum(t, _entry(self.after, jnp.maximum(i, 0))), t)

    def under(self, ts: Array) -> Array:
        """Times (n_times,), those in a gap put to its beginning."""
        i = jnp.searchsorted(self.after, ts, side="right")  # the first gap that has not ended
        begins = _entry(self.before, jnp.minimum(i, self.after.size - 1))
        return jnp.where(i < self.after.size, jnp.minimum(ts, begins), ts)

    def inside(self, t: Time) -> tuple[Time, Time, Flag]:
        """The last time whose gap begins at t or earlier, the end of that gap, and whether t is in it."""
        i = jnp.maximum(jnp.searchsorted(self.before, t, side="right") - 1, 0)
        at, before, after = (_entry(times, i) for times in (self.at, self.before, self.after))
        return at, after, (before <= t) & (t < after)


def _entry(times: Array | np.ndarray, i: Any) -> Array:
    """times[i] where i is traced and the times may be of NumPy."""
    return jnp.asarray(times)[i]
