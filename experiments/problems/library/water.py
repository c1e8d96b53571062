"""Water molecules as a problem to learn, simulated or from a file: data, splits and predictors to beat are those of
ndae.experiments.water."""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndae.experiments.paper import PAPER_TABLE_2
from ndae.experiments.problems.learning import LearningProblem
from ndae.experiments.water.data import BLOCKED, OTHER, RANDOM
from ndae.solvers.progress import Progress

if TYPE_CHECKING:
    from ndae.experiments.water.data import WaterData, WaterSamples

_NETWORKS = ("equivariant-small", "equivariant", "molecular")


class WaterProblem(LearningProblem):
    """The paper's water, 32 molecules of section 3.2 or `n_molecules`, simulated; or the trajectory in a file.

    `trajectory_file`, `frame_step` (fs): see ndae.experiments.water.trajectory; `of` finds how many molecules are in
    it.
    """

    name, title, network = "water", "Water molecules at 300 K", "equivariant-small"
    dim, edges = 3, ()
    # RK4 with the true forces is then wrong by 0.014 pm in 5 fs, velocity Verlet by 0.004 pm.
    longest_step, soft_step = 1.25, 0.25
    error_is = "mean Euclidean error per atom"
    error_unit = ("pm", 100.0)
    length_unit, time_unit = "Å", "fs"
    violation_is, violation_of, violation_unit = "error of a distance in a molecule", "distances", "Å"
    projection_tol: float = 5e-4  # the paper's, section 4.2
    motion_tol = {"float32": 2e-5, "float64": 1e-9}  # noqa: RUF012
    # Of a bond that swings with a period of 10 fs, in amu/fs².
    stiffness, softness, alike = 0.4, 0.1, ((0, 1),)
    molecule, lengths = ("O", "H", "H"), (0.957, 0.957, 1.513)
    pairs = {"energy": 0.03, "shortest": 1.2, "cutoff": 10.0}  # noqa: RUF012
    test_name = BLOCKED
    tests_are = {  # noqa: RUF012
        BLOCKED: "the last 15 % of the trajectory, of which the first 80 % are for training",
        RANDOM: "the paper's split: steps between the training steps",
        OTHER: "another trajectory, from another seed",
    }
    paper, paper_is = PAPER_TABLE_2, "error in its Table 2, for its random split (mean of three runs)"
    velocity_constraint = None

    def __init__(
        self, n_molecules: int = 32, trajectory_file: str | Path | None = None, frame_step: float | None = None
    ):
        self.n_molecules, self.nodes = n_molecules, 3 * n_molecules
        self.trajectory_file, self.frame_step = trajectory_file, frame_step

    def of(self, trajectory_file: str | Path, frame_step: float | None = None) -> "WaterProblem":
        """The problem of a trajectory in a file, by its first frame; raises what `read_trajectory` does."""
        from ndae.experiments.water.trajectory import count_molecules

        return WaterProblem(count_molecules(trajectory_file), trajectory_file, frame_step)

    @cached_property
    def dt(self) -> float:
        if self.frame_step is not None:
            return float(self.frame_step)
        if self.trajectory_file is not None:
            return _read(self.trajectory_file, None).dt
        from ndae.experiments.water.simulate import DT

        return DT

    @cached_property
    def mass(self) -> Any:
        from ndae.experiments.water.force_field import masses

        return tuple(masses(self.n_molecules).tolist())

    @cached_property
    def constraint(self):
        from ndae.experiments.water.baselines import constraint

        return constraint(self.n_molecules)

    def data(
        self, n_train: int, horizon: int, seed: int, *, n_val: int, n_test: int, report: Progress | None
    ) -> "WaterData":
        from ndae.experiments.water.data import water_data
        from ndae.experiments.water.simulate import simulate

        if self.trajectory_file is not None:
            pair: dict[str, Any] = {"trajectory": _read(self.trajectory_file, self.frame_step)}
            if pair["trajectory"].n_molecules != self.n_molecules:
                raise ValueError(
                    f"{self.trajectory_file} has {pair['trajectory'].n_molecules} molecules, not {self.n_molecules}"
                )
        else:
            both = [simulate(n, n_molecules=self.n_molecules, progress=report) for n in (0, 1)]
            pair = dict(zip(("trajectory", "other"), both, strict=True))
        return water_data(n_train, horizon, seed, n_val=n_val, n_test=n_test, **pair)

    def tests(self, data: "WaterData") -> "dict[str, WaterSamples]":
        return data.tests

    def baselines(self, data: "WaterData") -> dict[str, dict[str, float]]:
        return self.baselines_of(data, BLOCKED)

    def baselines_of(self, data: "WaterData", name: str) -> dict[str, dict[str, float]]:
        from ndae.experiments.water.baselines import baselines

        return baselines(data, name)

    def metrics(self, prediction: Any, target: Any) -> dict[str, float]:
        from ndae.experiments.water.baselines import molecule_error_pm

        return {"molecule_pm": molecule_error_pm(prediction, target)}

    def check_method(self, method: str, network: str) -> None:
        if network not in _NETWORKS:
            raise ValueError(
                f"{self.name} has no edges, and molecules that turn and change places, for the network {network!r}: "
                f"give --network {' or '.join(_NETWORKS)}"
            )
        super().check_method(method, network)


def _read(path: str | Path, frame_step: float | None):
    """The trajectory of a file, read once as long as the file stays as it is."""
    status = Path(path).stat()
    return _read_once(str(path), frame_step, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _read_once(path: str, frame_step: float | None, *state: int):
    from ndae.experiments.water.trajectory import read_trajectory

    return read_trajectory(path, frame_step)


PROBLEM = WaterProblem()
