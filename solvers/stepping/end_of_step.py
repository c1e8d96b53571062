"""What a step ends with: the state where it stops and what is known there."""

from typing import Any

import diffrax
from jaxtyping import Array, PyTree


class EndOfStep(diffrax.AbstractLocalInterpolation):
    """The state at the end of a step, for output that is only ever asked for there."""

    t0: Any
    t1: Any
    y1: PyTree[Array]

    def evaluate(self, t0: Any, t1: Any | None = None, left: bool = True) -> PyTree[Array]:
        del left
        if t1 is not None:
            raise NotImplementedError("EndOfStep knows one state only; output must be saved at ends of steps")
        return self.y1
