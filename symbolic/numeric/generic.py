"""A smooth function drawn at random in the place of one that is unknown, for what is judged in numbers."""

import zlib
from functools import lru_cache

import numpy as np

from ndae.symbolic.expressions.unknowns import Unknown

_WAVES = 3


class Generic:
    """f(x) = a₀ + Σ_k a_k sin(w_k · x + φ_k), positive and of order one, the same for every unknown of one name.

    What holds for it at points drawn at random holds for all functions but exceptional ones: ranks are those that the
    equations have whatever the function.
    """

    def __init__(self, unknown: Unknown, n: int):
        random = np.random.default_rng(zlib.crc32(f"{unknown.name} {unknown.outputs} {n}".encode()))
        shape = (unknown.outputs, _WAVES)
        self.offset = random.uniform(1.3, 1.9, unknown.outputs)
        self.size = random.uniform(0.15, 0.35, shape)
        self.frequency = random.uniform(0.4, 1.3, (*shape, n)) * random.choice([-1.0, 1.0], (*shape, n))
        self.phase = random.uniform(0, 2 * np.pi, shape)

    def value(self, output: int, orders: tuple[int, ...], x: list[np.ndarray]) -> np.ndarray:
        """A partial derivative at points x_j (n_points,)."""
        total = np.asarray(0.0 if any(orders) else self.offset[output])
        for k in range(_WAVES):
            inside = self.phase[output, k] + sum(w * a for w, a in zip(self.frequency[output, k], x, strict=True))
            total = total + self.factor(output, k, orders) * np.sin(inside + sum(orders) * np.pi / 2)
        return total

    def factor(self, output: int, k: int, orders: tuple[int, ...]) -> float:
        """a_k Π w_kj^orders_j."""
        return float(self.size[output, k] * np.prod(self.frequency[output, k] ** np.array(orders)))

    @property
    def waves(self) -> range:
        """Numbers of the terms."""
        return range(_WAVES)


@lru_cache(maxsize=256)
def generic(unknown: Unknown, n: int) -> Generic:
    """The function in the place of an unknown one of n arguments."""
    return Generic(unknown, n)
