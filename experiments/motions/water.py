"""Water molecules as a problem to learn, simulated or from a file: data, splits and predictors to beat are those of
experiments.water."""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.learning_problem import LearningProblem, Parts, Report

if TYPE_CHECKING:
    from experiments.water.data import WaterData, WaterSamples

_NETWORKS = ("equivariant-small", "equivariant", "molecular")


class WaterProblem(LearningProblem):
    """The paper's water, 32 molecules of section 3.2 or `n_molecules`, simulated; or the trajectory in a file.

    `trajectory_file`, `frame_step` (fs): see experiments.water.trajectory; `of` finds how many molecules are in it.
    """

    name, title, network = "water", "Water molecules at 300 K", "equivariant-small"
    dim, edges = 3, ()
    # Velocity Verlet with the true forces is then as wrong as the data's own steps allow; no network for longer ones.
    longest_step = 0.25
    error_is = "mean Euclidean error per atom"
    error_unit = ("pm", 100.0)
    length_unit, time_unit = "Å", "fs"
    violation_is, violation_of, violation_unit = "error of a distance in a molecule", "distances", "Å"
    projection_tol = 5e-4  # the paper's, section 4.2
    motion_tol = {"float32": 2e-5, "float64": 1e-9}  # noqa: RUF012
    molecule = ("O", "H", "H")
    velocity_constraint = None

    def __init__(
        self, n_molecules: int = 32, trajectory_file: str | Path | None = None, frame_step: float | None = None
    ):
        self.n_molecules, self.nodes = n_molecules, 3 * n_molecules
        self.trajectory_file, self.frame_step = trajectory_file, frame_step

    def of(self, trajectory_file: str | Path, frame_step: float | None = None) -> "WaterProblem":
        """The problem of a trajectory in a file; raises what `read_trajectory` does."""
        return WaterProblem(_read(trajectory_file, frame_step).n_molecules, trajectory_file, frame_step)

    @cached_property
    def dt(self) -> float:
        if self.trajectory_file is not None:
            return _read(self.trajectory_file, self.frame_step).dt
        from experiments.water.simulate import DT

        return DT

    @cached_property
    def mass(self) -> Any:
        from experiments.water.force_field import masses

        return tuple(masses(self.n_molecules).tolist())

    @cached_property
    def constraint(self):
        from experiments.water.baselines import constraint

        return constraint(self.n_molecules)

    def data(
        self, n_train: int, horizon: int, seed: int, *, n_val: int, n_test: int, report: Report | None
    ) -> "WaterData":
        from experiments.water.data import water_data
        from experiments.water.simulate import simulate

        def simulating(fraction: float, what: str) -> None:
            if report:
                report(100 * fraction, 100.0, what)

        if self.trajectory_file is not None:
            pair = {"trajectory": _read(self.trajectory_file, self.frame_step)}
            if pair["trajectory"].n_molecules != self.n_molecules:
                raise ValueError(
                    f"{self.trajectory_file} has {pair['trajectory'].n_molecules} molecules, not {self.n_molecules}"
                )
        else:
            both = [simulate(n, n_molecules=self.n_molecules, progress=simulating) for n in (0, 1)]
            pair = dict(zip(("trajectory", "other"), both, strict=True))
        return water_data(n_train, horizon, seed, n_val=n_val, n_test=n_test, **pair)

    def tests(self, data: "WaterData") -> "dict[str, WaterSamples]":
        return data.tests

    def baselines(self, data: Parts, test: str = "time-blocked") -> dict[str, dict[str, float]]:
        """Of the test set of that name; see experiments.water.baselines."""
        from experiments.water.baselines import baselines

        return baselines(data, test)

    def metrics(self, prediction: Any, target: Any) -> dict[str, float]:
        from experiments.water.baselines import molecule_error_pm

        return {"molecule_pm": molecule_error_pm(prediction, target)}

    def check_method(self, method: str, network: str) -> None:
        if network not in _NETWORKS:
            raise ValueError(
                f"{self.name} has no edges, and molecules that turn and change places, for the network {network!r}: "
                f"give --network {' or '.join(_NETWORKS)}"
            )


def _read(path: str | Path, frame_step: float | None):
    """The trajectory of a file, read once as long as the file stays as it is."""
    status = Path(path).stat()
    return _read_once(str(path), frame_step, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _read_once(path: str, frame_step: float | None, *state: int):
    from experiments.water.trajectory import read_trajectory

    return read_trajectory(path, frame_step)


PROBLEM = WaterProblem()
