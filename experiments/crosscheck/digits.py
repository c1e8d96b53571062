"""How many digits of a solution are right, and how many of a published one are worth comparing with.

Digits are -log10 of |error| over a size. The size of a component is its value, so that digits are relative; but where
a component passes through zero its value at one time says nothing of its scale, and the size is then its largest
magnitude on the trajectory.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# As many as float64 tells apart: an error of zero counts as that.
MOST_DIGITS = 16.0
# An end value below this part of the largest magnitude is rounding of a zero.
_ZERO = 1e-12
# A component that touches zero does so for less than this part of the output points.
_NEARBY = 0.1


@dataclass(frozen=True)
class Digits:
    """Significant correct digits by component, `digits` against `sizes`, `relative` strictly against the values."""

    digits: Mapping[str, float]
    relative: Mapping[str, float]
    sizes: Mapping[str, float]

    def least(self, names: Iterable[str] | None = None) -> float | None:
        """Digits of the worst component among `names` (all by default), or None where none of them was scored."""
        found = [self.digits[name] for name in (self.digits if names is None else names) if name in self.digits]
        return min(found) if found else None

    def worst(self, names: Iterable[str] | None = None) -> str | None:
        """Name of the component with the fewest digits among `names`, or None."""
        found = [name for name in (self.digits if names is None else names) if name in self.digits]
        return min(found, key=self.digits.__getitem__) if found else None


def correct_digits(value: float, reference: float, size: float) -> float:
    """-log10(|value - reference| / size), between 0 and 16: 0 also where `value` is not finite, 16 for no error."""
    error = abs(value - reference)
    if not math.isfinite(error):
        return 0.0
    if error == 0.0:
        return MOST_DIGITS
    if size == 0.0 or error >= size:
        return 0.0
    return min(MOST_DIGITS, -math.log10(error / size))


def passes_through_zero(trajectory: Float[np.ndarray, "n_times"]) -> bool:
    """Whether a component changes sign, or ends below 1e-12 of its largest magnitude."""
    finite = trajectory[np.isfinite(trajectory)]
    if not finite.size:
        return False
    largest = np.abs(finite).max()
    # Rounding about a zero that is held exactly, or approached, is no change of sign.
    signs = np.sign(finite[np.abs(finite) > _ZERO * largest])
    return bool(np.any(signs != signs[:1])) or bool(np.abs(finite[-1]) < _ZERO * largest)


def sizes_at_end(
    reference: Mapping[str, float], trajectories: Mapping[str, Float[np.ndarray, "n_times"]]
) -> dict[str, float]:
    """What errors at the end are measured against, by component: |reference|, or the largest magnitude on the way."""
    sizes = {}
    for name, value in reference.items():
        size = abs(value)
        path = trajectories.get(name)
        if path is not None and passes_through_zero(np.append(path, value)):
            size = max(size, float(np.nanmax(np.abs(path))))
        sizes[name] = size
    return sizes


def score(values: Mapping[str, float], reference: Mapping[str, float], sizes: Mapping[str, float]) -> Digits:
    """Digits of the end `values` against `reference`, for the components that the latter has."""
    names = [name for name in reference if name in values]
    return Digits(
        digits={name: correct_digits(values[name], reference[name], sizes[name]) for name in names},
        relative={name: correct_digits(values[name], reference[name], abs(reference[name])) for name in names},
        sizes={name: sizes[name] for name in names},
    )


def error_scales(states: Float[np.ndarray, "n_times n_states"]) -> Float[np.ndarray, "n_states"]:
    """The magnitude that each component's error should be small against, (n_states,), all positive.

    The largest magnitude of a component that passes through zero, else the smallest one that it keeps for a while
    after the start (where many components are zero only because nothing has happened yet): what decays is small from
    some time on, what touches zero and turns is so at one output time alone. Zero all along gets one.
    """
    scales = np.ones(states.shape[1])
    for i, path in enumerate(states.T):
        later = np.abs(path[1:][np.isfinite(path[1:])])
        if later.size and later.max() > 0:
            kept = _largest_nearby(later, int(_NEARBY * later.size / 2)).min()
            scales[i] = later.max() if passes_through_zero(path[1:]) or kept == 0 else kept
    return scales


def _largest_nearby(values: Float[np.ndarray, "n_times"], reach: int) -> Float[np.ndarray, "n_times"]:
    """The largest value at most `reach` entries away from each."""
    padded = np.pad(values, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=-1)
