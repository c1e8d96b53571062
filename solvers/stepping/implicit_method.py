"""What implicit methods have in common: the work of a step and Newton's iteration of its stages."""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from ndae.solvers._jax_types import Count
from ndae.solvers.stepping.end_of_step import EndOfStep
from ndae.solvers.stepping.jacobians import WHOLE, SparseJacobian, WholeJacobian

# A stage may be wrong by this share of what the error test allows: its error then neither shows in the error estimate
# nor adds up over the steps.
_SHARE = 1e-3


_MAX_ITERATIONS = 12


# Stages are never solved for a looser `rtol`: with the error test switched off (a huge one), steps keep their order.
_LOOSEST = 1e-8


class Work(eqx.Module):
    """What the steps of a solve cost."""

    n_f_evals: Count
    n_jacobian_evals: Count


class Implicit(diffrax.AbstractAdaptiveSolver):
    """What implicit methods here have in common: tolerances of their own, and counts of what their steps cost.

    With `differentiable`, derivatives of a solve are those of exactly solved stages (implicit function theorem).
    `jacobians` finds the Jacobian of a step and inverts what is made of it.
    """

    rtol: Any
    atol: Any
    differentiable: bool = eqx.field(static=True, default=False)
    jacobians: WholeJacobian | SparseJacobian = eqx.field(static=True, default=WHOLE, kw_only=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = EndOfStep

    def scale(self, y):
        """What increments of a state are measured by, (n,).

        Jacobians are taken in units of it too: the inverse of a matrix whose columns differ by twenty orders would be
        noise.
        """
        return (self.atol + self.rtol * jnp.abs(y)) * jnp.minimum(1.0, _LOOSEST / self.rtol)

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        zero = jnp.zeros((), dtype=jnp.int64)
        return Work(zero, zero)


def newton(correction, guess, scale):
    """z by simplified Newton iterations, whether they converged, and how many there were.

    `correction(z)` is what Newton's method adds to z, in units of `scale`.
    """

    def correct(carry):
        z, before, _, iteration = carry
        step = correction(z)
        size = jnp.max(jnp.abs(step))
        return z + scale * step, size, size / before, iteration + 1

    def is_last(carry):
        _, size, rate, iteration = carry
        # All that further corrections would add, where each is `rate` times the one before.
        rest = jnp.where(rate < 1, size * rate / (1 - rate), jnp.inf)
        return (size <= 1e-2 * _SHARE) | ((iteration > 1) & (rest <= _SHARE))

    def unfinished(carry):
        _, size, rate, iteration = carry
        hopeless = ((iteration > 1) & (rate >= 2)) | ~jnp.isfinite(size) & (iteration > 0)
        return (iteration < _MAX_ITERATIONS) & ~is_last(carry) & ~hopeless

    first = (guess, jnp.asarray(jnp.inf, guess.dtype), jnp.asarray(jnp.inf, guess.dtype), 0)
    last = jax.lax.while_loop(unfinished, correct, first)
    return last[0], is_last(last), last[3]
