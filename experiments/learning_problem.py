"""What a problem is whose motion is learned.

A network gets positions and velocities and predicts positions `horizon` steps later. Constraints, masses and layout are
what it is told.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from symbolic import Constraint

Report = Callable[[float, float, str], object]


class Samples(Protocol):
    """Input-target pairs: `inputs` (n, nodes, 2 dim) = (q, v), `targets` (n, nodes, dim) = q later."""

    inputs: np.ndarray
    targets: np.ndarray


class Parts(Protocol):
    """Samples for training, validation and test, with targets `horizon` steps later."""

    train: Samples
    val: Samples
    test: Samples
    horizon: int


class LearningProblem(ABC):
    """What a run needs to know of its problem.

    - `nodes`, `dim`, `edges`: the layout of the state, pairs of nodes being edges (None is the origin).
    - `dt` (s): between the steps of the data. `longest_step` (s): of a motion with multipliers.
    - `mass`: one number, one a node, or a block a node (nodes, dim, dim).
    - `constraint` over the positions and `velocity_constraint` over all coordinates before all velocities, or None.
    - `network`: the one to take where none is named.
    - `error_is`, `violation_is` (of which `violation_of`, in `violation_unit`): what a result's numbers are, in words.
    """

    name: str
    title: str
    nodes: int
    dim: int
    edges: Sequence[tuple[int | None, int]]
    dt: float
    longest_step: float
    mass: Any
    constraint: "Constraint | None"
    velocity_constraint: "Constraint | None"
    network: str
    error_is: str
    violation_is: str
    violation_of: str
    violation_unit: str

    @abstractmethod
    def data(self, n_train: int, horizon: int, seed: int, *, n_val: int, n_test: int, report: Report | None) -> Parts:
        """Samples, drawn and split by `seed`."""

    @abstractmethod
    def baselines(self, data: Parts) -> dict[str, dict[str, float]]:
        """What anyone predicts of the test samples without learning, by name: `mae_cm`, and `violation_mean` and
        `violation_max` as `violation_is` says."""

    def conditions(self, samples: Samples) -> dict[str, np.ndarray]:
        """What a model has to be told of each sample beside its inputs, by name."""
        return {}

    @property
    def needs_time(self) -> bool:
        """Whether a constraint depends on time."""
        return any(c is not None and c.time is not None for c in (self.constraint, self.velocity_constraint))

    def check_method(self, method: str, network: str) -> None:
        """Raise ValueError where a method or a network cannot do this problem, with those that can."""
        if method != "multiplier" and (self.needs_time or self.velocity_constraint is not None):
            reason = "constrains velocities" if self.velocity_constraint is not None else "has constraints that move"
            raise ValueError(
                f"{self.name} {reason}, and the method {method!r} knows constraints on positions at rest alone: give "
                "--method multiplier (in compare: --methods multiplier)"
            )
        if network != "mlp" and not self.edges:
            raise ValueError(f"{self.name} has no edges for the network {network!r} to work on: give --network mlp")
