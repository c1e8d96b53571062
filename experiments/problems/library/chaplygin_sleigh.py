"""The Chaplygin sleigh on a slope: a body on a runner that cannot slip sideways, a constraint on velocities alone.

S. A. Chaplygin, 1911; J. I. Neimark and N. A. Fufaev, Dynamics of Nonholonomic Systems, 1972; A. M. Bloch, Nonholonomic
Mechanics and Control, 2003. The centre of mass is at (x, y), the runner a distance a behind it along the direction θ,
where the velocity has no part across: −ẋ sin θ + ẏ cos θ − a θ̇ = 0. Books let it glide freely; here the plane slopes
along y and the air holds it back, and about both a network knows nothing.
"""

import numpy as np
import sympy as sp

from ndae.experiments.problems.mechanics import MotionProblem

MASS, INERTIA, OFFSET = 1.0, 0.2, 0.3  # kg, kg m², m
SLOPE, DRAG, TURNING_DRAG = 9.81 * np.sin(np.pi / 9), 0.4, 0.1  # m/s² on a slope of 20°, N s / m, N m s

q, v = sp.symbols("x y theta", real=True), sp.symbols("u w omega", real=True)
(x, y, theta), (u, w, omega) = q, v


def start(random: np.random.Generator) -> tuple[list, list]:
    """Anywhere near the origin, in any direction, forwards at up to 2 m/s and turning at up to 2 rad/s."""
    angle, speed, turning = random.uniform(-np.pi, np.pi), random.uniform(0, 2), random.uniform(-2, 2)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return [*random.uniform(-1, 1, 2), angle], [*(speed * along + OFFSET * turning * across), turning]


PROBLEM = MotionProblem(
    name="chaplygin_sleigh", title="Chaplygin sleigh on a slope",
    q=q, v=v, dim=3, mass=(MASS, MASS, INERTIA), start=start,
    force=[-DRAG * u, -MASS * SLOPE - DRAG * w, -TURNING_DRAG * omega],
    velocity_constraints=[-u * sp.sin(theta) + w * sp.cos(theta) - OFFSET * omega],
    size=1.0, size_of="a metre",
    error_is="mean distance in (x, y, θ), a radian counted as a metre",
    violation_is="velocity of the runner across", violation_of="sleighs", violation_unit="m/s",
)  # fmt: skip
