"""What a problem is whose motion is learned.

A network gets positions and velocities and predicts positions `horizon` steps later. Constraints, masses and layout are
what it is told.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ndae.experiments.problems.samples import Parts, Samples
from ndae.experiments.variants import ON_MOLECULES
from ndae.solvers.progress import Progress
from ndae.symbolic.ground.kept import Recomputed

if TYPE_CHECKING:
    from ndae.experiments.problems.problem import Problem
    from ndae.experiments.variants import Variant
    from ndae.symbolic import Constraint

# The paper's, in metres.
PROJECTION_TOL = 5e-5


class LearningProblem(Recomputed, ABC):
    """What a run needs to know of its problem.

    - `nodes`, `dim`, `edges`: the layout of the state, pairs of nodes being edges (None is the origin).
    - `length_unit`, `time_unit`: of the data. `error_unit`: of errors, and how many of it a unit of the data is.
    - `dt`: between the steps of the data. `longest_step`: of a motion whose depth is physical time.
    - `mass`: one number, one a node, or a block a node (nodes, dim, dim).
    - `constraint` over the positions and `velocity_constraint` over all coordinates before all velocities, or None.
    - `projection_tol`: largest violation that end and smooth projection leave, `motion_tol` the same of a motion with
      multipliers, by precision: near what that can tell.
    - `stiffness`: where that of a soft constraint starts, or None of a problem whose constraints are rigid; `softness`:
      a typical violation; `alike`: local residuals that may change places; `soft_step`: longest step of its motion.
    - `molecule`: names of the atoms of a molecule, of which the nodes are many, or None; `lengths`: usual distances in
      it, of atoms (0, 1), (0, 2), ..., (1, 2), ...; `pairs`: options of a PairPotential between molecules.
    - `network`: the one to take where none is named.
    - `error_is`, `violation_is` (of which `violation_of`, in `violation_unit`): what a result's numbers are, in words.
    - `test_name`: of the test samples, where there are further `tests`; `tests_are`: what they are, in words, by name.
    - `paper`: what the paper reached, in `error_unit`, by (horizon, n_train) and variant; `paper_is`, in words.

    A problem whose data may come from a file has a method `of(trajectory, frame_step)`, which gives the problem of that
    file: `trajectory` its path, `frame_step` the time between its frames in `time_unit`, None where the file tells. It
    is called more than once in a run, and reads no more than it needs to know the layout.
    """

    name: str
    title: str
    nodes: int
    dim: int
    edges: Sequence[tuple[int | None, int]]
    length_unit: str = "m"
    time_unit: str = "s"
    error_unit: tuple[str, float] = ("cm", 100.0)
    dt: float
    longest_step: float
    mass: Any
    constraint: "Constraint | None"
    velocity_constraint: "Constraint | None"
    projection_tol: float | None = PROJECTION_TOL
    motion_tol: Mapping[str, float] = MappingProxyType({"float32": 1e-6, "float64": 1e-10})
    stiffness: float | None = None
    softness: float
    alike: Sequence[Sequence[int]] = ()
    soft_step: float
    lengths: Sequence[float] | None = None
    pairs: Mapping[str, Any] = MappingProxyType({})
    molecule: tuple[str, ...] | None = None
    network: str
    error_is: str
    violation_is: str
    violation_of: str
    violation_unit: str
    test_name: str = "test"
    tests_are: Mapping[str, str] = MappingProxyType({})
    paper: "Mapping[tuple[int, int], Mapping[Variant, float]]" = MappingProxyType({})
    paper_is: str = "error in its table (mean of three runs)"

    def to_solve(self) -> "Problem | None":
        """Its true motion from a start that none of the samples is from, to solve and to cross-check; None of data
        alone."""
        return None

    @abstractmethod
    def data(self, n_train: int, horizon: int, seed: int, *, n_val: int, n_test: int, report: Progress | None) -> Parts:
        """Samples, drawn and split by `seed`."""

    @abstractmethod
    def baselines(self, data: Parts) -> dict[str, dict[str, float]]:
        """What anyone predicts of the test samples without learning, by name: its mean error `mae_cm`, or whatever the
        unit, and `violation_mean` and `violation_max` as `violation_is` says."""

    def tests(self, data: Parts) -> dict[str, Samples]:
        """Further test samples, by name."""
        return {}

    def baselines_of(self, data: Parts, name: str) -> dict[str, dict[str, float]]:
        """The same as `baselines`, of the further test samples of that name; empty where it is not known."""
        return {}

    def metrics(self, prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Further measures of predicted positions (n, nodes, dim), by name with the unit."""
        return {}

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
        if method == "soft" and self.stiffness is None:
            raise ValueError(f"{self.name}: its constraints are rigid: give --method multiplier")
        if network in ON_MOLECULES:
            if self.molecule is None:
                raise ValueError(
                    f"{self.name} has no molecules for the network {network!r} to work on: give "
                    f"--network {self.network}"
                )
            if network == "molecular" and method not in ("soft", "multiplier"):
                raise ValueError(
                    f"the network 'molecular' learns forces, and the method {method!r} has none: give --method soft, "
                    "--method multiplier or --network equivariant-small"
                )
        elif network != "mlp" and not self.edges:
            raise ValueError(f"{self.name} has no edges for the network {network!r} to work on: give --network mlp")
