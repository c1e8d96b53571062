"""The five-body pendulum of the learning study: 10 s from rest at the horizontal.

The end values are of this project, not published: the same motion in absolute angles from the vertical,

    Σ_j (n - max(i, j)) (cos(θ_i - θ_j) θ_j'' + sin(θ_i - θ_j) θ_j'²) + g (n - i) sin θ_i = 0,    i, j = 0, ..., n - 1,

so in another form and with no constraint, by Gragg-Bulirsch-Stoer extrapolation (14 columns) with 40 digits; 1,000 and
1,500 steps agree to 20 digits.
"""

from ndae.experiments.problems import pendulum_data as pendulum
from ndae.experiments.problems.problem import Problem

_END = {
    "q": (
        ("-0.8788459700874007620", "-0.4771056076605424737"),
        ("-1.374097448149960805", "-1.345855268654346608"),
        ("-1.816455717439850463", "-2.242693694231023973"),
        ("-2.693729535585280271", "-1.762703436000151802"),
        ("-1.963566616632651305", "-2.445976523269492877"),
    ),
    "v": (
        ("-3.208446192175263600", "5.910075171955882960"),
        ("-0.7929756972687881419", "4.533078568066023063"),
        ("-2.653582850165881338", "5.450807934372683596"),
        ("-3.242186352641988322", "4.375022680117339012"),
        ("-3.225234434170824482", "4.393137929241556346"),
    ),
}


def _problem() -> Problem:
    system = pendulum.system()
    q0, v0 = pendulum.start()
    names = [symbol.name for symbol in system.states]
    moving = names[: 2 * q0.size]  # the multipliers come behind
    end = [value for part in ("q", "v") for point in _END[part] for value in point]
    return Problem(
        name="five_body_pendulum",
        title="Five point masses on rigid links, released from rest at the horizontal",
        system=system,
        initial=dict(zip(moving, [*map(float, q0), *map(float, v0)], strict=True)),
        t_span=(0.0, 10.0),
        recomputed=dict(zip(moving, end, strict=True)),
        index=3,
        notes=("End values are of this project, not published: in absolute angles, 40 digits, GBS extrapolation.",),
    )


problem = _problem()
