"""Small systems solved entry by entry, over any batch, with the array functions of any backend."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: What counts as rounding of an equation, in units of the machine epsilon times the size of its terms.
ROUNDING = 32
_MAX_EVALUATIONS = 100
_LEAST_DAMPING = 2.0**-30


def _absent(a: Any) -> bool:
    """Whether an entry is zero by its place: the number, no array."""
    return type(a) is float and a == 0.0  # and no scalar of NumPy


def eliminate_floats(matrix: Sequence[float], right: Sequence[float], size: int) -> list[float]:
    """x of A x = b for Python floats and equal blocks, by elimination with scaled partial pivoting.

    Raises ZeroDivisionError for a singular matrix.
    """
    result = []
    for start in range(0, len(right), size):
        rows = []
        for i in range(start, start + size):
            row = matrix[i * size : (i + 1) * size]
            scale = math.ldexp(1.0, -math.frexp(max(map(abs, row)))[1])  # exact
            rows.append([*[a * scale for a in row], right[i] * scale])
        for j in range(size):
            best = max(range(j, size), key=lambda i: abs(rows[i][j]))
            rows[j], rows[best] = rows[best], rows[j]
            top = rows[j]
            for row in rows[j + 1 :]:
                if row[j]:
                    factor = row[j] / top[j]
                    for k in range(j + 1, size + 1):
                        row[k] -= factor * top[k]
        x = [0.0] * size
        for i in reversed(range(size)):
            row = rows[i]
            x[i] = (row[size] - sum(row[k] * x[k] for k in range(i + 1, size))) / row[i]
        result += x
    return result


@dataclass(frozen=True)
class Arrays:
    """What solves need of a backend: elementwise functions `xp`, and

    `stack(entries)` numbers and arrays on a new last axis, `library(A, b)` for arrays (..., k, k) and (..., k),
    `freeze` to cut gradients, `loop(condition, body, state)`, and, where there is one that is quicker, `small(A, b)`
    for up to `most_small` unknowns, with entries as arrays. `implicit(equations, z, outer)` is z with the derivatives
    by `outer`, of any order, of the solution of r = 0, where equations(z, outer) gives r and the rows of ∂r/∂z.
    """

    xp: Any
    stack: Callable
    library: Callable
    freeze: Callable
    loop: Callable
    small: Callable | None = None
    most_small: int = 0
    implicit: Callable = lambda equations, z, outer: z

    def grouped(self, entries: Sequence, n: int) -> list:
        """Entries listed block by block as n arrays (..., n_blocks); what is zero by its place in all stays so."""
        lists = [[entries[b + i] for b in range(0, len(entries), n)] for i in range(n)]
        return [0.0 if all(map(_absent, entries)) else self.stack(entries) for entries in lists]

    def ungrouped(self, arrays: Sequence) -> list:
        """What `grouped` was given."""
        n_blocks = max(a.shape[-1] for a in arrays if not _absent(a))
        return [a if _absent(a) else a[..., b] for b in range(n_blocks) for a in arrays]

    def solve(self, matrix: Sequence[Sequence], right: Sequence) -> list:
        """x of A x = b with arrays as entries."""
        if len(right) == 1:
            return [right[0] / matrix[0][0]]
        if len(right) <= self.most_small:
            return self._quicker(matrix, right)
        rows = [self.stack(row) for row in matrix]
        shape = np.broadcast_shapes(*[tuple(r.shape) for r in rows])
        full = self.xp.stack([self.xp.broadcast_to(r, shape) for r in rows], -2)
        # In units of their own, or partial pivoting would choose by the units of the equations.
        scale = 1.0 / self.freeze(abs(full).sum(-1))
        x = self.library(scale[..., None] * full, scale * self.stack(right))
        return [x[..., i] for i in range(len(right))]

    def _quicker(self, matrix: Sequence[Sequence], right: Sequence) -> list:
        assert self.small is not None  # as `most_small` is more than zero
        return self.small(matrix, right)

    def solve_linear(self, matrix: Sequence, right: Sequence, size: int) -> list:
        """Unknowns of equal independent blocks, matrices and right-hand sides listed block by block."""
        if len(right) == size:
            rows = [matrix[i * size : (i + 1) * size] for i in range(size)]
            if size <= self.most_small:
                return self._quicker(rows, right)
        flat = self.grouped(matrix, size * size)
        rows = [flat[i * size : (i + 1) * size] for i in range(size)]
        return self.ungrouped(self._spread(self.solve(rows, self.grouped(right, size))))

    def _spread(self, arrays: Sequence, shape=None) -> list:
        shape = shape or np.broadcast_shapes(*[tuple(a.shape) for a in arrays])
        return [self.xp.broadcast_to(a, shape) for a in arrays]

    def converged(self, *flags) -> Any:
        """1 where all flags are set, otherwise 0."""
        total = flags[0]
        for flag in flags[1:]:
            total = total & flag
        return self.xp.where(total, 1.0, 0.0)

    def newton(self, function: Callable, guess: Sequence, outer: Sequence, size: int) -> list:
        """Unknowns of equal independent blocks at which the residuals of a function vanish.

        `function(unknowns, outer)` gives residuals, Jacobians, and a function () of the sizes of what is added up in
        each residual. Damped Newton steps of each block from its guess, until a step is relatively smaller than √eps or
        the residual is rounding of that size, and then one step more, which squares the error. Derivatives are those of
        the implicit function. Gives the unknowns and, as the last entry, whether all blocks converged.
        """

        def evaluate(z, given):
            residuals, jacobians, sizes = function(self.ungrouped(z), given)
            return (
                self.grouped(residuals, size),
                self.grouped(jacobians, size * size),
                lambda: self.grouped(sizes(), size),
            )

        z, converged = self.newton_by_groups(evaluate, self.grouped(guess, size), outer)
        return [*self.ungrouped(z), converged]

    def newton_by_groups(self, evaluate: Callable, guess: Sequence, outer: Sequence) -> tuple[list, Any]:
        """As `newton`, of arrays (..., n_blocks) for the first unknown of all blocks, the second and so on."""
        xp, size = self.xp, len(guess)
        frozen = [self.freeze(x) for x in outer]

        def rows(flat):
            return [flat[i * size : (i + 1) * size] for i in range(size)]

        def measures(z, residual, jacobian, sizes):
            """The next step, the size of each equation's terms, and whether this was the last but one."""
            step = [-d for d in self.solve(rows(jacobian), residual)]
            scales, small = [], True
            for row, r, terms in zip(rows(jacobian), residual, sizes(), strict=True):
                scales.append(terms + sum(abs(a) * abs(d) for a, d in zip(row, step, strict=True)))
                small = small & (abs(r) <= ROUNDING * eps * terms)
            close = abs(step[0]) <= eps**0.5 * abs(z[0])
            for x, d in zip(z[1:], step[1:], strict=True):
                close = close & (abs(d) <= eps**0.5 * abs(x))
            # Where a slope is infinite the step is zero, and says nothing.
            return step, scales, (close | small) & xp.isfinite(sum(scales))

        def level(residual, scales):
            parts = [abs(r) / s for r, s in zip(residual, scales, strict=True)]
            total = parts[0]
            for part in parts[1:]:
                total = xp.maximum(total, part)
            return total

        # Whether a trial is accepted is decided in one turn of the loop and acted on in the next: within one, compiled
        # code may make the comparison twice, with two outcomes, and take half of the trial.
        def after(accept, old_done, done, damping):
            longer = xp.where(damping > 0.5, damping, 2 * damping)
            damping = xp.where(accept, longer, xp.where(old_done, damping, damping / 4))
            return xp.where(accept, done, old_done), damping

        def taken(old, new, accept):
            pairs = zip(old, new, strict=True)
            return [[xp.where(accept, b, a) for a, b in zip(*pair, strict=True)] for pair in pairs]

        def unfinished(state):
            (*_, old_done), (*_, done), accept, damping, n = state
            done, damping = after(accept, old_done, done, damping)
            return (~(done | (damping < _LEAST_DAMPING))).any() & (n < _MAX_EVALUATIONS)

        def body(state):
            (*old, old_done), (*new, done), accept, damping, n = state
            done, damping = after(accept, old_done, done, damping)
            z, residual, step, scales = taken(old, new, accept)
            trial = [x + damping * d for x, d in zip(z, step, strict=True)]
            new_residual, jacobian, sizes = evaluate(trial, frozen)
            new_residual = self._spread(new_residual, trial[0].shape)
            new_step, new_scales, new_done = measures(trial, new_residual, jacobian, sizes)
            finite = xp.isfinite(sum(abs(d) for d in new_step))
            # An equation of which nothing was there before is measured by what is there now; if nothing, it is zero.
            units = [xp.where(a > 0.0, a, b + tiny) for a, b in zip(scales, new_scales, strict=True)]
            better = level(new_residual, units) <= (1 - 0.25 * damping) * level(residual, units)
            accept = finite & (better | new_done) & ~done
            new = trial, new_residual, new_step, new_scales, new_done
            return (z, residual, step, scales, done), new, accept, damping, n + 1

        z = [self.freeze(g) for g in guess]
        eps, tiny = float(xp.finfo(z[0].dtype).eps), float(xp.finfo(z[0].dtype).tiny)
        residual, jacobian, sizes = evaluate(z, frozen)
        shape = np.broadcast_shapes(*[tuple(np.shape(a)) for a in (*z, *residual, *jacobian)])
        z, residual = self._spread(z, shape), self._spread(residual, shape)
        step, scales, done = measures(z, residual, jacobian, sizes)
        first, one = (z, residual, step, scales, done), xp.ones_like(z[0])
        (z, *_, old_done), (trial, *_, done), accept, *_ = self.loop(unfinished, body, (first, first, one > 0, one, 1))
        (z,), done = taken([z], [trial], accept), xp.where(accept, done, old_done)
        residual, jacobian, _ = evaluate(z, frozen)
        z = self._spread([x - d for x, d in zip(z, self.solve(rows(jacobian), residual), strict=True)])

        def equations(z, given):
            residuals, jacobians, _ = evaluate(z, given)
            return residuals, rows(jacobians)

        z = self.implicit(equations, z, outer)
        return z, done.all(-1)

    def functions(self) -> dict[str, Callable]:
        """What generated code calls, by name."""
        return {"solve_linear": self.solve_linear, "newton": self.newton, "converged": self.converged}


def python_loop(condition: Callable, body: Callable, state: tuple) -> tuple:
    """`while condition(state): state = body(state)`."""
    while bool(condition(state)):
        state = body(state)
    return state
