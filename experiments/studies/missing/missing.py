"""What a problem with a missing function is: equations, the truth, how it is measured and learned."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp
import torch

import ndae
from ndae.training.optimizers import lbfgs

t = sp.Symbol("t", real=True)
LBFGS = lbfgs(scale=1.0, max_iter=10, history_size=50)


@dataclass(frozen=True)
class Missing:
    """A system with one function that is not known, what it truly is, and how it is measured and learned.

    - `truth`: what unknown functions are, `learned` the one that is learned, over `between` (low, high) its argument.
    - `starts`: of the recordings, the last one to validate on; `ts`: times of the measurements; `sigma`: noise; `gaps`:
      share of the values that is not seen; `inputs`: of each recording, if the system has any.
    - `seen`: names of the outputs that are measured; `known`: whether the start of the recordings is known.
    - `network`, `options`: of the NeuralSystem; parameters that are learned are truly what the system has for them.
    - `form`: the system with the function written out over parameters, and that function of their values and of x, or
      None: what least squares is given to tell what the noise permits.
    - `fit`: of ndae.fit. `ahead`: how many times are predicted from a start estimated on as many as `before` them.
    """

    system: Any
    truth: Mapping[str, Callable]
    learned: str
    between: tuple[float, float]
    starts: Sequence[Mapping[str, float]]
    ts: np.ndarray
    sigma: Any
    seen: Sequence[str]
    known: bool = False
    by: str = "dopri8"
    network: Callable[[], Any] = lambda: ndae.MLP(1, 1, 8, depth=1)
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[Mapping[str, Any]] = ()
    form: Callable[[], tuple[Any, Callable | None]] | None = None
    gaps: float = 0.0
    before: int = 0
    ahead: int = 0


class Scaled(torch.nn.Module):
    """A network of one argument in units of its own."""

    def __init__(self, network: torch.nn.Module, argument: float, value: float):
        super().__init__()
        self.network, self.argument, self.value = network, argument, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The value, zero at zero."""
        return self.value * (x / self.argument) * (1 + self.network(x / self.argument))


class About(torch.nn.Module):
    """A network that begins at a value known to be about right."""

    def __init__(self, network: ndae.MLP, value: float):
        super().__init__()
        self.network: Any = network
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The value times one and what the network says."""
        return self.value * (1 + self.network(x))

    def scale_to(self, x: torch.Tensor) -> None:
        """Arguments are counted as the network counts them."""
        self.network.scale_to(x)
