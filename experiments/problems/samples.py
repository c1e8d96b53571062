"""Samples to learn from, and the parts that they are split into."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class MotionSamples:
    """Input-target pairs of many trajectories: sample i begins at `t0[i]` (s) of the trajectory number `trajectory[i]`.

    `inputs` (n, nodes, 2 dim) = (q, v) of every node, `targets` (n, nodes, dim) = q a horizon later.
    """

    inputs: np.ndarray
    targets: np.ndarray
    t0: np.ndarray
    trajectory: np.ndarray

    def __len__(self) -> int:
        return len(self.t0)


@dataclass(frozen=True)
class MotionData:
    """Three sets of samples, of trajectories that differ."""

    train: MotionSamples
    val: MotionSamples
    test: MotionSamples
    horizon: int


class Samples(Protocol):
    """Input-target pairs: `inputs` (n, nodes, 2 dim) = (q, v), `targets` (n, nodes, dim) = q later."""

    @property
    def inputs(self) -> np.ndarray: ...
    @property
    def targets(self) -> np.ndarray: ...


class Parts(Protocol):
    """Samples for training, validation and test, with targets `horizon` steps later."""

    @property
    def train(self) -> Samples: ...
    @property
    def val(self) -> Samples: ...
    @property
    def test(self) -> Samples: ...
    @property
    def horizon(self) -> int: ...
