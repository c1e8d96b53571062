"""What a model predicts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ndae.solvers import Projection


@dataclass(frozen=True)
class Prediction:
    """What a forward pass gives: `y` `(batch, nodes, dim)`, the term that the method adds to the loss (mean over the
    batch), and the outcome of every projection made, in order.

    `residual`, where it is not None, gives the violations of `y` `(batch, n)`: of a constraint that depends on more
    than `y`.
    """

    y: Tensor
    regularisation: Tensor
    projections: tuple[Projection, ...]
    residual: Callable[[], Tensor] | None = None
