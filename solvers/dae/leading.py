"""Whether the leading unknowns of a solution solve their equations, and a second solve where they do not.

Accelerations, algebraic variables and multipliers are solved for anew at every output, by compiled code; nothing that
comes after would show that one of these solves went wrong.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.solvers.errors import ROUNDINGS

#: Up to here an equation is solved, in units of what is added up in it.
SETTLED = ROUNDINGS * np.finfo(np.float64).eps
#: From here on it is taken for wrong where nothing can be solved again, and nothing is known of the rounding of y.
GONE_WRONG = 1e-6
#: Newton steps of a second solve.
_STEPS = 3
#: By how much, relatively, unknowns of nonlinear equations may change in it: farther away is another branch.
_NEAR = 1e-6


def settled(
    system: Any,
    y: Float[np.ndarray, "*batch n_times n_y"],
    w: Float[np.ndarray, "*batch n_times n_w"],
    ts: Float[np.ndarray, "n_times"],
    parameters: Mapping[str, Any] | None = None,
) -> tuple[Float[np.ndarray, "*batch n_times n_w"], Float[np.ndarray, "*batch n_times"]]:
    """w, solved again where |T(y, w, t)| is more than `SETTLED` of what is added up there, and what is left of that.

    `parameters` are one number each, or arrays of the batch's shape. The second solve is by Newton steps with LAPACK,
    from w. Where w is not finite nothing is done, and nothing said: it was not found.
    """
    reduced = system.reduce()
    functions, parameters = reduced.numpy(), parameters or {}
    if not reduced.w:
        return w, np.zeros(w.shape[:-1])
    spread = {name: np.asarray(p)[..., None] if np.ndim(p) else float(p) for name, p in parameters.items()}
    with np.errstate(all="ignore"):
        error = np.broadcast_to(functions.leading_error(y, w, ts, spread), w.shape[:-1])
    error = np.where(np.isfinite(w).all(-1) & np.isfinite(y).all(-1), error, 0.0)
    failed = np.argwhere(~(error <= SETTLED))
    if failed.size:
        w, error = w.copy(), error.copy()
    for index in map(tuple, failed):
        own = {name: float(p[index[:-1]]) if np.ndim(p) else float(p) for name, p in parameters.items()}
        w[index], error[index] = _again(reduced, y[index], w[index], float(ts[index[-1]]), own)
    return w, error


def unsettled(t: float, error: float) -> str:
    """Why a solve ends at the time t, whose leading unknowns are wrong by `error`."""
    return (
        f"the equations for the highest derivatives and the algebraic variables are solved only to {error:.1e} of "
        f"their terms at t = {t:.9g}, also when solved again: they are singular to rounding there"
    )


def _again(
    reduced: Any, y: np.ndarray, w: np.ndarray, t: float, parameters: Mapping[str, float]
) -> tuple[np.ndarray, float]:
    """w by Newton steps from w, and its error, or what was given where they do not help."""
    functions = reduced.numpy()
    nonlinear = sorted(j for block in reduced.blocks if not block.linear for j in block.unknowns)
    with np.errstate(all="ignore"):
        best, least = w, _error(functions, y, w, t, parameters)
        new = w
        for _ in range(_STEPS):
            matrix = functions.leading_jacobian(y, new, t, parameters)
            scale = 1.0 / np.abs(matrix).max(axis=-1)
            try:
                left = scale * functions.leading_system(y, new, t, parameters)
                new = new - np.linalg.solve(scale[:, None] * matrix, left)
            except np.linalg.LinAlgError:
                break
            moved = np.abs(new - w)[nonlinear] > _NEAR * np.abs(w).max()
            error = _error(functions, y, new, t, parameters)
            if moved.any() or not error < least:
                break
            best, least = new, error
    return best, least


def _error(functions: Any, y: np.ndarray, w: np.ndarray, t: float, parameters: Mapping[str, float]) -> float:
    """That of `leading_error`, with the rounding of y among what is added up."""
    by_state = np.abs(functions.leading_jacobian(y, w, t, parameters, by="y")) @ np.abs(y)
    sizes = by_state + functions.leading_sizes(y, w, t, parameters) + np.finfo(np.float32).tiny
    return float(np.max(np.abs(functions.leading_system(y, w, t, parameters)) / sizes))
