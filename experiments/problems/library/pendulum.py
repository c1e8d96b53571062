"""The paper's pendulum as a problem to learn: data, split and predictors to beat are those of `pendulum_data`."""

from functools import cached_property

from ndae.experiments.paper import PAPER_TABLE_1
from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.problems.learning import LearningProblem
from ndae.experiments.problems.samples import Parts
from ndae.solvers.progress import Progress


class _Pendulum(LearningProblem):
    name, title, network = "pendulum", "The paper's five-body pendulum", "mimetic"
    nodes, dim, dt, mass = pendulum.N_BODIES, 2, pendulum.DT, pendulum.MASS
    # RK4 with the true forces is then wrong by less than 0.01 cm in 0.2 s.
    longest_step = 0.02
    edges = (None, 0), *((body, body + 1) for body in range(pendulum.N_BODIES - 1))
    error_is = "mean Euclidean error per body"
    violation_is, violation_of, violation_unit = "error of a link's length", "links", "m"
    paper = PAPER_TABLE_1
    paper_is = "error in its Table 1 (mimetic network of 5.8 M parameters, mean of three runs)"

    velocity_constraint = None

    @cached_property
    def constraint(self):
        return pendulum.constraint()

    def to_solve(self):
        from ndae.experiments.problems.library import five_body_pendulum

        return five_body_pendulum.problem

    def data(self, n_train: int, horizon: int, seed: int, *, n_val: int, n_test: int, report: Progress | None) -> Parts:
        return pendulum.pendulum_data(n_train, horizon, seed, n_val=n_val, n_test=n_test, progress=report)

    def baselines(self, data: pendulum.PendulumData) -> dict[str, dict[str, float]]:
        return pendulum.trivial_baselines(data.test, data.horizon, train=data.train)


PROBLEM = _Pendulum()
