"""A reduced DAE as pure JAX functions of one state: what ConstrainedMotion is for a mechanical system.

The state of the integrator is y, and behind it a first guess of every leading unknown that is found by Newton's
iteration: its value at the end of the last step, so that the iteration stays on the branch that the start is on.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve, lu_factor, lu_solve
from jaxtyping import Array

from ndae.solvers._jax_types import Flag, Leading, PhaseState
from ndae.solvers.dae.descent import SIZES
from ndae.solvers.dae.formulations import Formulation, Plain
from ndae.solvers.dae.leading import GONE_WRONG
from ndae.solvers.dae.switching import switching_of
from ndae.solvers.stepping.jacobians import SparseJacobian, WholeJacobian, jacobian_of
from ndae.solvers.stepping.jumps import Jumps
from ndae.symbolic.backends.jax_arrays import places
from ndae.symbolic.backends.solves import ROUNDING

Parameters = Mapping[str, Any] | None

# A Newton correction this small, relative to the state, squares to less than rounding: the last one.
LAST_CORRECTION = 1e-9
MAX_ITERATIONS = 10
# What a component may be moved by in a projection, at least, as a share of the largest one: with less, and several at
# zero, the Gram matrix of these moves is singular to rounding.
LEAST_SCALE = 1e-6
# Steps of the walk that tells whether Newton's iteration stayed on its branch.
WALK = 8


class ReducedMotion:
    """y' = rates(y, w) + delta, T(y, w, t) + shift = 0, C(y, t) = 0 of a symbolic.ReducedSystem under a formulation.

    With `differentiable`, reverse-mode derivatives go through every method, and second derivatives are those of the
    exact solutions too; of the leading unknowns those of any order are, in any case. Call them with 64-bit JAX switched
    on.
    """

    def __init__(self, reduced: Any, formulation: Formulation, differentiable: bool = False) -> None:
        self.reduced, self.formulation, self.differentiable = reduced, formulation, differentiable
        self.functions = reduced.jax()
        self.n_y, self.n_w = len(reduced.y), len(reduced.w)
        nonlinear = [j for block in reduced.blocks if not block.linear for j in block.unknowns]
        self.guessed = places(sorted(nonlinear))
        self._of_time = any(reduced.time in c.free_symbols for c in reduced.constraints)

    def begin(self, t: Any, y: Array, parameters: Parameters, guess: Leading) -> tuple[PhaseState, Flag]:
        """The state to start from, and whether its leading unknowns were found.

        By Newton's iteration from `guess`, and where that fails from one point after another of many sizes.
        """
        if self.guessed.size:
            guess = self._nearest_guess(*jax.lax.stop_gradient((t, y, parameters, guess)))
        w, converged = self.functions.solve_leading(y, t, parameters, guess=guess)
        return jnp.concatenate([y, w[self.guessed]]), converged

    def _nearest_guess(self, t: Any, y: Array, parameters: Parameters, guess: Leading) -> Leading:
        sizes = jnp.array([sign * size for size in SIZES for sign in (1.0, -1.0)])

        def unfinished(carry):
            *_, converged, k = carry
            return ~converged & (k <= sizes.size)

        def attempt(carry):
            begin, _, _, k = carry
            w, converged = self.functions.solve_leading(y, t, parameters, guess=begin)
            following = guess.at[self.guessed].set(sizes[jnp.minimum(k, sizes.size - 1)])
            return following, jnp.where(converged, w, guess), converged, k + 1

        begin = guess, guess, jnp.asarray(False), jnp.asarray(0)
        return jax.lax.while_loop(unfinished, attempt, begin)[1]

    def leading(self, t: Any, state: PhaseState, parameters: Parameters, shift: Any = None) -> tuple[Leading, Flag]:
        """w at a state, and whether it was found."""
        y, guesses = state[: self.n_y], state[self.n_y :]
        guess = jnp.zeros(self.n_w).at[self.guessed].set(guesses) if self.guessed.size else None
        return self.functions.solve_leading(y, t, parameters, shift=shift, guess=guess)

    def derivative(self, t: Any, state: PhaseState, parameters: Parameters) -> PhaseState:
        """y' and zero for the guesses; NaN where the leading unknowns are not found, which rejects the step."""
        y = state[: self.n_y]
        shift, delta = self.formulation.terms(self.reduced, self.functions, y, t, parameters)
        w, converged = self.leading(t, state, parameters, shift)
        rates = self.functions.rates(y, w)
        rates = jnp.where(converged, rates if delta is None else rates + delta, jnp.nan)
        return jnp.concatenate([rates, jnp.zeros(self.guessed.size)])

    def jacobians(self) -> WholeJacobian | SparseJacobian:
        """How implicit methods find and invert the Jacobian of `derivative`."""

        def sparsity():
            # What dampens constraints, or moves y along them, joins all that is in one.
            plain = not self.reduced.constraints or isinstance(self.formulation, Plain)
            return self.functions.rates_sparsity() if plain else None

        return jacobian_of(self.n_y + self.guessed.size, sparsity)

    def after_step(
        self, t: Any, state: PhaseState, parameters: Parameters, floor: Any, first: bool = False
    ) -> tuple[PhaseState, Flag]:
        """The state that the next step starts from, on the constraints if the formulation projects.

        `first` is the one before the first step, which may be farther from them.
        """
        good = jnp.asarray(True)
        if self.formulation.projects:
            project = self.project_start if first else self.project
            state, good = project(t, state, parameters, floor)
        if self.guessed.size:
            w, converged = self.leading(t, state, parameters)
            good = good & converged & self._on_branch(t, state, w, parameters)
            state = state.at[self.n_y :].set(w[self.guessed])
        return state, good

    def behind(self, jumps: Jumps, t: Any, state: PhaseState, parameters: Parameters) -> tuple[PhaseState, Flag]:
        """The state with which a solve goes on at the end of a step, and whether it can.

        Before a jump, in which w takes part, the guesses are those behind it; where a constraint jumps, y would too.
        """
        good = ~switching_of(self.reduced).breaks(jumps, t, state[: self.n_y], parameters)
        if not self.guessed.size:
            return state, good
        _, after, inside = jumps.inside(t)

        def anew(state):
            w, converged = self.leading(after, state, parameters)
            return state.at[self.n_y :].set(jnp.where(converged, w[self.guessed], state[self.n_y :]))

        return jax.lax.cond(inside, anew, lambda state: state, state), good

    def _on_branch(self, t: Any, state: PhaseState, w: Leading, parameters: Parameters) -> Flag:
        """Whether w is where a slow walk from the guesses ends, on which the residual of T shrinks evenly.

        Such a walk, and so a branch, crosses no singular T_w: the determinant keeps its sign. Full Newton steps may go
        to another branch.
        """
        state, w, parameters = jax.lax.stop_gradient((state, w, parameters))
        y, first, columns = state[: self.n_y], state[self.n_y :], self.guessed
        rows = places(sorted(i for block in self.reduced.blocks if not block.linear for i in block.equations))

        def linearised(guesses):
            here = w.at[columns].set(guesses)
            jacobian = self.functions.leading_jacobian(y, here, t, parameters)[rows][:, columns]
            return self.functions.leading_system(y, here, t, parameters)[rows], jacobian

        def sign(jacobian):
            return jnp.linalg.slogdet(jacobian)[0]

        last = w[columns]

        def walk(k, carry):
            """One evaluation each, compiled once: steps of the walk, and behind them w itself."""
            guesses, begin, before, same, _ = carry
            residual, jacobian = linearised(jnp.where(k == WALK, last, guesses))
            begin, before = jnp.where(k == 0, residual, begin), jnp.where(k == 0, sign(jacobian), before)
            left = residual - (1 - (k + 1) / WALK) * begin
            moved = jnp.where(k == WALK, guesses, guesses - jnp.linalg.solve(jacobian, left))
            return moved, begin, before, same & (sign(jacobian) == before), jacobian

        n = columns.size
        empty = first, jnp.zeros(n), jnp.asarray(0.0), jnp.asarray(True), jnp.zeros((n, n))
        end, _, _, same, at_last = jax.lax.fori_loop(0, WALK + 1, walk, empty)
        size = jnp.abs(first) + jnp.abs(last)
        size = size + LEAST_SCALE * jnp.max(size) + np.finfo(float).tiny
        off, way = jnp.abs(end - last), jnp.abs(last - first)
        # What is zero is found up to the rounding of what adds up to it: that is no way either.
        terms = self.functions.leading_sizes(y, w, t, parameters)[rows]
        rounding = ROUNDING * np.finfo(float).eps * jnp.abs(jnp.linalg.inv(at_last)) @ terms
        rounding = jnp.nan_to_num(rounding, nan=0.0, posinf=0.0)
        # What has hardly moved is where it was, however singular the equations are there.
        still = jnp.all(way <= 1e-6 * size + rounding)
        return still | same & jnp.all(off <= 0.25 * jnp.max(way / size) * size + rounding)

    def project(
        self, t: Any, state: PhaseState, parameters: Parameters, floor: Any, max_iterations: int = MAX_ITERATIONS
    ) -> tuple[PhaseState, Flag]:
        """The state whose y is the point of C(·, t) = 0 nearest to it, and whether Gauss-Newton steps converged.

        Near in the norm |δy_i| / (floor_i + |y_i|) of the error test: in another, what rounding leaves of a
        constraint between components of size 1 would be shared by one of 1e-13.
        """
        if not self.reduced.constraints:
            return state, jnp.asarray(True)
        frozen = jax.tree.map(jax.lax.stop_gradient, parameters)
        start = jax.lax.stop_gradient(state[: self.n_y])
        size = jnp.abs(start)
        floor = jnp.broadcast_to(jnp.asarray(floor), state.shape)[: self.n_y]
        scale = size + floor + LEAST_SCALE * jnp.max(size)

        def correct(carry):
            y, _, iteration = carry
            residual, jacobian = self._linearised(t, y, frozen, scale)
            new = start - self._nearest(jacobian, residual + jacobian @ ((start - y) / scale), scale)
            return new, jnp.max(jnp.abs(new - y) / scale), iteration + 1

        def unfinished(carry):
            _, correction, iteration = carry
            return (iteration < max_iterations) & ~(correction <= LAST_CORRECTION)

        first = (start, jnp.asarray(jnp.inf), jnp.asarray(0))
        y, correction, _ = jax.lax.while_loop(unfinished, correct, first)
        good = correction <= LAST_CORRECTION
        if self._of_time:
            good = jax.lax.cond(good, lambda: good, lambda: self._settled(t, y, frozen, scale))
        if self.differentiable:
            # The value stays, but for rounding; its derivative is that of the point before, projected on the tangent.
            _, jacobian = self._linearised(t, y, frozen, scale)
            y = state[: self.n_y] + (y - start)
            y = y - self._nearest(jacobian, self.functions.constraints(y, t, parameters), scale)
        return state.at[: self.n_y].set(y), good

    def _settled(self, t: Any, y: Array, parameters: Parameters, scale: Array) -> Flag:
        """Whether a further correction of y is no more than what rounding of the terms of C(y, t) makes of one.

        Of an input that comes to rest the derivatives are small, and what cancels in them is not: corrections then do
        not end at LAST_CORRECTION, but there.
        """
        residual, jacobian = self._linearised(t, y, parameters, scale)
        rounding = ROUNDING * np.finfo(float).eps * self.functions.constraints_sizes(y, t, parameters)
        by_row = jax.vmap(lambda row: self._nearest(jacobian, row, jnp.ones_like(scale)))(jnp.diag(rounding))
        correction = self._nearest(jacobian, residual, jnp.ones_like(scale))
        return jnp.all(jnp.abs(correction) <= LAST_CORRECTION + jnp.sum(jnp.abs(by_row), axis=0))

    def project_start(self, t: Any, state: PhaseState, parameters: Parameters, floor: Any) -> tuple[PhaseState, Flag]:
        """As `project`, for a state that may be far from the constraints, with the derivatives of its nearest point.

        Those of `project` are the ones at the constraints. Here the nearest point p of s, with the sizes D, is where
        D⁻² (p - s) + C_yᵀ λ = 0 and C(p) = 0, from two Newton steps that do not move it and each make derivatives of
        one order more right.
        """
        projected, good = self.project(t, state, parameters, floor)
        if not self.reduced.constraints:
            return projected, good
        given, n = state[: self.n_y], self.n_y
        size = jnp.abs(given)
        sizes = size + jnp.broadcast_to(jnp.asarray(floor), state.shape)[:n] + LEAST_SCALE * jnp.max(size)
        point, start, scale, frozen = jax.lax.stop_gradient((projected[:n], given, sizes, parameters))
        _, jacobian = self._linearised(t, point, frozen, scale)
        rows = 1 / jnp.sqrt(jnp.sum(jacobian**2, axis=1))
        jacobian = jacobian * rows[:, None]

        def pull(y, multipliers, parameters):
            weighted = lambda y: (multipliers * rows) @ self.functions.constraints(y, t, parameters)  # noqa: E731
            return scale * jax.grad(weighted)(y)

        multipliers = cho_solve(cho_factor(jacobian @ jacobian.T), jacobian @ ((start - point) / scale))
        curvature = jax.jacfwd(pull)(point, multipliers, frozen) * scale
        corner = jnp.zeros((rows.size, rows.size))
        factors = lu_factor(jnp.block([[jnp.eye(n) + curvature, jacobian.T], [jacobian, corner]]))
        y = point
        for _ in range(2):
            forces = scale * (y - given) / sizes**2 + pull(y, multipliers, parameters)
            left = jnp.concatenate([forces, rows * self.functions.constraints(y, t, parameters)])
            change = lu_solve(factors, left)
            y, multipliers = y - scale * change[:n], multipliers - change[n:]
        return projected.at[:n].set(y), good

    def describe(self, t: Any, state: PhaseState, parameters: Parameters) -> dict[str, Array]:
        """y and w of one state, w NaN where it is not found, or its equations do not hold.

        Of a motion that is not differentiable they are checked outside of compiled code (ndae.solvers.dae.leading).
        """
        y = state[: self.n_y]
        w, converged = self.leading(t, state, parameters)
        if self.differentiable and self.n_w:
            error = self.functions.leading_error(*jax.lax.stop_gradient((y, w, t, parameters)))
            converged = converged & (error <= GONE_WRONG)
        return {"y": y, "w": jnp.where(converged, w, jnp.nan)}

    def _linearised(self, t: Any, y: Array, parameters: Parameters, scale: Array) -> tuple[Array, Array]:
        """C and its Jacobian by y in units of `scale`."""
        residual = self.functions.constraints(y, t, parameters)
        return residual, self.functions.constraints_jacobian(y, t, parameters) * scale

    def _nearest(self, jacobian: Array, rhs: Array, scale: Array) -> Array:
        """The smallest δy, in units of the scale, with jacobian (δy / scale) = rhs."""
        rows = 1 / jnp.sqrt(jnp.sum(jacobian**2, axis=1))  # equations in units of their own
        jacobian, rhs = jacobian * rows[:, None], rhs * rows
        return scale * (jacobian.T @ cho_solve(cho_factor(jacobian @ jacobian.T), rhs))
