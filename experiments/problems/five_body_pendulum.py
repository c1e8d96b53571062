"""The five-body pendulum of the learning study: 10 s from rest at the horizontal.

End values are of this project: the motion in absolute angles from the vertical, computed with 30 digits (see `notes`).
"""

from experiments import pendulum
from experiments.problems.problem import Problem


def _problem() -> Problem:
    system = pendulum.system().equations()
    q0, v0 = pendulum.start()
    names = [symbol.name for symbol in system.states]
    initial = dict(zip(names, [*map(float, q0), *map(float, v0)], strict=False))
    return Problem(
        name="five_body_pendulum",
        title="Five point masses on rigid links, released from rest at the horizontal",
        system=system,
        initial=initial,
        t_span=(0.0, 10.0),
        index=3,
    )


problem = _problem()
