"""The n-link pendulum in angles: an independent formulation, by Kane's method, integrated by SciPy."""

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp
from sympy.physics.mechanics import KanesMethod, Particle, Point, ReferenceFrame, dynamicsymbols


def motion_in_angles(theta0: np.ndarray, ts: np.ndarray, gravity: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities (n_times, n, 2) of unit masses on unit links, from rest at angles from straight down."""
    n = len(theta0)
    derivative = _derivative(n, gravity)
    start = np.concatenate([theta0, np.zeros(n)])
    solved = solve_ivp(derivative, (ts[0], ts[-1]), start, method="DOP853", rtol=1e-13, atol=1e-13, t_eval=ts)
    assert solved.success, solved.message
    theta, omega = solved.y[:n].T, solved.y[n:].T
    r = np.cumsum(np.stack([np.sin(theta), -np.cos(theta)], axis=-1), axis=1)
    v = np.cumsum(omega[..., None] * np.stack([np.cos(theta), np.sin(theta)], axis=-1), axis=1)
    return r, v


def _derivative(n: int, gravity: float):
    theta, omega = dynamicsymbols(f"theta:{n}"), dynamicsymbols(f"omega:{n}")
    frame, anchor = ReferenceFrame("N"), Point("O")
    anchor.set_vel(frame, 0)
    last, velocity, bodies, weights = anchor, 0 * frame.x, [], []
    for i in range(n):
        body = last.locatenew(f"P{i}", sp.sin(theta[i]) * frame.x - sp.cos(theta[i]) * frame.y)
        velocity = velocity + omega[i] * (sp.cos(theta[i]) * frame.x + sp.sin(theta[i]) * frame.y)
        body.set_vel(frame, velocity)
        bodies.append(Particle(f"B{i}", body, 1))
        weights.append((body, -gravity * frame.y))
        last = body
    kinematics = [angle.diff(dynamicsymbols._t) - rate for angle, rate in zip(theta, omega, strict=True)]
    kane = KanesMethod(frame, q_ind=theta, u_ind=omega, kd_eqs=kinematics)
    kane.kanes_equations(bodies, weights)
    evaluate = sp.lambdify([theta, omega], [kane.mass_matrix, kane.forcing], cse=True)

    def derivative(t, y):
        mass, forcing = evaluate(y[:n], y[n:])
        return np.concatenate([y[n:], np.linalg.solve(mass, np.ravel(forcing))])

    return derivative
