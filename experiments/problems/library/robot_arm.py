"""A robot arm of three links whose end follows a prescribed path: constraints that move.

After the "controlled robot arm" of A. White, N. Kilbertus, M. Gelbrecht and N. Boers, Stabilized Neural Differential
Equations for Learning Dynamics with Explicit Constraints, NeurIPS 2023: a planar arm of three segments of length one,
whose end goes back and forth along a line, e(t) = e(0) − (sin(2πt)/2π, 0), from starts with angles
(θ, −θ, θ), θ between π/4 and 3π/8. There the angles move as little as they can, an equation of first order without
forces. Here the arm has masses: 1 kg at each joint and at the end, under gravity, with a spring that holds each joint
and friction in it, about which a network knows nothing. The path is the same for all starts, and they differ in how the
elbows bend.
"""

from typing import Any

import numpy as np
import sympy as sp

from ndae.experiments.problems.mechanics import MotionProblem

GRAVITY, STIFFNESS, FRICTION = 9.81, 10.0, 0.5  # m/s², N m / m², N s / m
# Where the end of the arm is on average over time: three links at θ, −θ, θ with θ = 5π/16.
END = (3 * np.cos(5 * np.pi / 16), np.sin(5 * np.pi / 16))

t = sp.Symbol("t", real=True)
q, v = sp.symbols("x1 y1 x2 y2 x3 y3", real=True), sp.symbols("u1 w1 u2 w2 u3 w3", real=True)
r, s = ([sp.zeros(2, 1), *(sp.Matrix(x[i : i + 2]) for i in (0, 2, 4))] for x in (q, v))
links = [sp.sqrt((a - b).dot(a - b)) - 1 for a, b in zip(r[1:], r, strict=False)]
path = [r[3][0] - END[0] + sp.sin(2 * sp.pi * t) / (2 * sp.pi), r[3][1] - END[1]]
# A spring wants each inner joint between its neighbours, where the arm is straight; friction is of the joints' turning.
bend = [r[i + 1] - 2 * r[i] + r[i - 1] for i in (1, 2)]
turning = [s[i + 1] - 2 * s[i] + s[i - 1] for i in (1, 2)]
energy: Any = sum(GRAVITY * p[1] for p in r[1:]) + sum(STIFFNESS * b.dot(b) / 2 for b in bend)
losses: Any = sum(FRICTION * b.dot(b) / 2 for b in turning)
force = [-energy.diff(x) - losses.diff(u) for x, u in zip(q, v, strict=True)]


def start(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Links near the angles (θ, −θ, θ), joints at any speed: the end is then brought to where the path begins."""
    angle = random.uniform(np.pi / 4, 3 * np.pi / 8) * np.array([1, -1, 1]) + random.uniform(-0.2, 0.2, 3)
    joints = np.stack([np.cos(angle), np.sin(angle)], -1).cumsum(0)
    return joints.ravel(), random.normal(0.0, 1.0, 6)


PROBLEM = MotionProblem(
    name="robot_arm", title="Robot arm of three links on a prescribed path",
    q=q, v=v, dim=2, mass=1.0, force=force, holonomic=links + path, time=t, start=start,
    edges=((None, 0), (0, 1), (1, 2)), stride=45, size=3.0, size_of="the arm's length",
    error_is="mean Euclidean error per joint",
    violation_is="error of a link's length or of the end's place",
)  # fmt: skip
