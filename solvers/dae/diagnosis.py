"""Why a solve stopped, in terms of the equations."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.solvers.dae.switching import asked_outside, jump_near
from ndae.solvers.solution import SUCCESS, Solution

# Reciprocal condition below which a solve that stopped is said to have met a singularity.
_SINGULAR = 1e-8


# A variable that is this many times as large as it was at any output is said to grow without bound.
_UNBOUNDED = 1e3


def _cause(
    reduced: Any,
    state: np.ndarray,
    t: float,
    parameters: Mapping[str, float],
    seen: Float[np.ndarray, "_"],
    first: tuple[np.ndarray, np.ndarray, float],
) -> str:
    """What is singular where a solve stopped, as the end of a sentence; empty where nothing is.

    `seen` are the largest sizes of y and w, at least one, at the outputs, `first` is (y, w, t) at the start.
    """
    functions, y = reduced.numpy(), state[: len(reduced.y)]
    jump = jump_near(reduced, y, t, parameters)
    if jump:
        return f"; {jump}"
    ended = asked_outside(reduced, y, t, parameters)
    if ended:
        return f"; {ended}"
    guess = np.zeros(len(reduced.w))
    nonlinear = sorted(j for block in reduced.blocks if not block.linear for j in block.unknowns)
    guess[nonlinear] = state[len(reduced.y) :]
    with np.errstate(all="ignore"):
        w, converged = functions.solve_leading(y, t, parameters, guess=guess)
        top = functions.leading_jacobian(y, np.nan_to_num(w), t, parameters)
        low = functions.constraints_jacobian(y, t, parameters) if reduced.constraints else None
    names = [s.name for s in reduced.w]
    if not np.all(np.isfinite(top)):
        return "; the equations are not finite numbers there"
    rank, weak = reciprocal_condition(top)
    if rank < _SINGULAR:
        lost = [names[j] for j in np.flatnonzero(weak > 0.1 * weak.max())][:5]
        return f"; the equations for {', '.join(lost)} become singular there (reciprocal condition {rank:.1e})"
    if not np.all(converged):
        return "; Newton's iteration for the algebraic variables does not converge there"
    if low is not None and np.all(np.isfinite(low)):
        rank, _ = reciprocal_condition(in_units_of(low, y))
        if rank < _SINGULAR:
            return f"; the hidden constraints lose rank there (reciprocal condition {rank:.1e})"
    values, symbols, own = np.concatenate([y, w]), (*reduced.y, *reduced.w), set(reduced.states)
    grown = np.flatnonzero(np.abs(values) / seen > _UNBOUNDED)
    if grown.size:
        j = max(grown, key=lambda j: (symbols[j] in own, np.abs(values[j]) / seen[j]))
        return f"; {symbols[j].name} = {values[j]:.3g} there and seems to grow without bound"
    steep, before = (_steepness(functions, *point, parameters) for point in ((y, w, t), first))
    grown = np.flatnonzero(steep > _UNBOUNDED * np.maximum(before, 1.0))
    if grown.size:
        name = names[max(grown, key=lambda j: (reduced.w[j] in own, steep[j]))]
        return f"; the equations for {name} become singular there: it changes infinitely fast with the others"
    return ""


def _steepness(functions: Any, y: np.ndarray, w: np.ndarray, t: float, parameters: Mapping[str, float]) -> np.ndarray:
    """Of every leading unknown the largest derivative by an entry of y."""
    top = functions.leading_jacobian(y, w, t, parameters)
    with np.errstate(all="ignore"):
        try:
            response = np.linalg.solve(top, functions.leading_jacobian(y, w, t, parameters, by="y"))
        except np.linalg.LinAlgError:
            return np.full(w.shape, np.inf)
    return np.max(np.abs(np.nan_to_num(response)), axis=-1, initial=0.0)


def in_units_of(jacobian: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A Jacobian by y in units of the entries of y."""
    return jacobian * (np.abs(y) + 1e-8 * np.abs(y).max())


def reciprocal_condition(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """Smallest over largest singular value, in units of rows and columns, and the direction of the smallest."""
    scaled = matrix / np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.finfo(float).tiny)
    if matrix.shape[0] == matrix.shape[1]:
        scaled = scaled / np.maximum(np.abs(scaled).max(axis=0, keepdims=True), np.finfo(float).tiny)
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    return float(values[-1] / max(values[0], np.finfo(float).tiny)), np.abs(directions[-1])


def _failure(system: Any, solution: Solution) -> str:
    if isinstance(solution.result, str):
        return f"the solve of {system.name!r} stopped: {solution.result}"
    failed = np.argwhere(solution.result != SUCCESS)
    first = tuple(int(i) for i in failed[0])
    return (
        f"{len(failed)} of {solution.result.size} solves of {system.name!r} stopped; start {first}: "
        f"{solution.result[first]}"
    )
