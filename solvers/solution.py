"""The outcome of a solve, learned or reference, so that any two can be compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

SUCCESS = "successful"
LEVELS = ("position", "velocity", "acceleration")


@dataclass(frozen=True)
class Solution:
    """Times, states, multipliers, residuals and statistics of one solve, or of a batch of solves on the same times.

    Batch axes come first, then time. A solve that failed keeps `n_reached` output points; later ones (present only
    where another solve of its batch got further) hold its last state, and `result` says why it stopped.

    - `ts` (n_times,): output times (s), strictly increasing.
    - `q`, `v` (*batch, n_times, n_states): coordinates and velocities; `v` is None where the model has none.
    - `multiplier` (*batch, n_times, n_residuals): Lagrange multipliers at the acceleration level, or None.
    - `residual`: by level, "position" c(q, t), "velocity" J v + ∂c/∂t, "acceleration" J a + curvature, each
      (*batch, n_times, n_residuals), in the units of the constraint (over s, over s²).
    - `energy` (*batch, n_times): total energy (J), or None.
    - `stats`: counts a solve, each an int or an array of the batch's shape: `n_steps`, `n_accepted`, `n_rejected`,
      `n_f_evals`.
    - `result`: "successful" or the reason of the failure; an array of strings of the batch's shape for a batch.
    - `n_reached`: number of output points reached, an int or an array of the batch's shape.
    """

    ts: Float[np.ndarray, "n_times"]
    q: Float[np.ndarray, "*batch n_times n_states"]
    v: Float[np.ndarray, "*batch n_times n_states"] | None = None
    multiplier: Float[np.ndarray, "*batch n_times n_residuals"] | None = None
    residual: Mapping[str, Float[np.ndarray, "*batch n_times n_residuals"]] = field(default_factory=dict)
    energy: Float[np.ndarray, "*batch n_times"] | None = None
    stats: Mapping[str, int | Int[np.ndarray, "*batch"]] = field(default_factory=dict)
    result: str | np.ndarray = SUCCESS
    n_reached: int | Int[np.ndarray, "*batch"] | None = None

    @property
    def succeeded(self) -> bool | np.ndarray:
        """Whether each solve reached the last output time: a bool, or an array of the batch's shape."""
        good = np.asarray(self.result) == SUCCESS
        return good if good.ndim else bool(good)

    def max_drift(self) -> dict[str, float | np.ndarray]:
        """Largest absolute residual over time, by level, and largest change of energy since the start under "energy".

        Each value is a float, or an array of the batch's shape.
        """
        drift = {level: _float_or_array(np.abs(value).max(axis=(-2, -1))) for level, value in self.residual.items()}
        if self.energy is not None:
            drift["energy"] = _float_or_array(np.abs(self.energy - self.energy[..., :1]).max(axis=-1))
        return drift

    def error(self, other: "Solution") -> Float[np.ndarray, "*batch n_times"]:
        """Largest coordinate difference |q - q_other| at every output time, (*batch, n_times).

        Raises ValueError unless both solutions have the same output times and the same number of coordinates.
        """
        if self.ts.shape != other.ts.shape or not np.array_equal(self.ts, other.ts):
            raise ValueError(
                f"the solutions have different output times ({_span(self.ts)} and {_span(other.ts)}); "
                "solve both with the same `ts` to compare them"
            )
        if self.q.shape[-1] != other.q.shape[-1]:
            raise ValueError(
                f"the solutions have {self.q.shape[-1]} and {other.q.shape[-1]} coordinates; "
                "write one in the coordinates of the other to compare them"
            )
        return np.abs(self.q - other.q).max(axis=-1)

    def agrees_until(self, other: "Solution", tol: float = 1e-6) -> float | np.ndarray:
        """Last output time up to which `error` stays at or below `tol`; -inf where the starts already differ.

        Two solutions of a chaotic system part exponentially, whatever their accuracy: beyond this time neither says
        where the system is, only how it may move. A float, or an array of the batch's shape.
        """
        agrees = np.logical_and.accumulate(self.error(other) <= tol, axis=-1)
        count = agrees.sum(axis=-1)
        return _float_or_array(np.where(count > 0, self.ts[np.maximum(count, 1) - 1], -np.inf))


class ReferenceSolveError(RuntimeError):
    """A reference solve stopped early: `solution` is what it reached, or None where it never started."""

    def __init__(self, message: str, solution: Solution | None = None) -> None:
        super().__init__(message)
        self.solution = solution


def _float_or_array(value: np.ndarray | np.floating) -> float | np.ndarray:
    return float(value) if np.ndim(value) == 0 else np.asarray(value)


def _span(ts: np.ndarray) -> str:
    return f"{ts.size} from {ts[0]:g} to {ts[-1]:g}" if ts.size else "none"
