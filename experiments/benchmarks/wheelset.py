"""The wheelset of the test set for initial value problems: 17 unknowns, index 2, and long expressions.

Simeon, Führer and Rentrop, Introduction to differential-algebraic equations in vehicle system dynamics, Surveys on
Mathematics for Industry 1 (1991) 1-37: a wheelset of conical wheels on rails of circular profile, on a straight track
at 30 m/s. Unknowns are the position and the angles p = (x, y, z, θ, φ), their velocities, the deviation β of the
rotation, for each contact the angle ψ and the place ξ on the wheel, and the constraint forces (in units of 10⁴ N).

The creep forces are those of the test set but for one branch: there they are scaled down where their resultant is more
than friction allows. So the solution is close to the one published there, and not that one.
"""

from typing import Any, NamedTuple

import sympy as sp

from ndae.symbolic import System, dot

_MASS, _GRAVITY, _SPEED, _RADIUS = 16.08, 9.81, 30.0, 0.1
_AXIAL, _LATERAL = 0.0605, 0.366  # moments of inertia
_FRICTION, _ARM, _SPRING = 0.12, 0.19, 6400.0
_CONE, _HALF, _RAIL = 0.0262, 0.1506, 0.06  # angle of the cone, half of the gauge, radius of the rail
_ELLIPSE, _AXES, _POISSON, _SHEAR = 1.3537956, 0.7115218, 0.28, 7.92e10  # of Hertz' contact
_KALKER = 4.72772197, 4.27526987, 1.97203505
_OMEGA = _SPEED / _RADIUS

P = x, y, z, theta, phi = sp.symbols("x y z theta phi")
V = vx, vy, vz, vtheta, vphi = sp.symbols("vx vy vz vtheta vphi")
beta = sp.Symbol("beta")
psi_r, xi_r, psi_l, xi_l, lam_l, lam_r = sp.symbols("psi_r xi_r psi_l xi_l lam_l lam_r")
ST, CT, SP, CP = sp.sin(theta), sp.cos(theta), sp.sin(phi), sp.cos(phi)

_START = (
    0.14941e-02, 0.40089e-06, 0.11241e-05, -0.28573e-03, 0.26459e-03, 0, 0, 0, 0, 0, 0, -7.4122380357667139e-06,
    -0.1521364296121248, 7.5634406395172940e-06, 0.1490635714733819, -8.3593e-3, -7.4144e-3,
)  # fmt: skip


class Contact(NamedTuple):
    """The left (sign 1) or right (-1) contact: where it is on the wheel, and the slopes there."""

    sign: int
    xi: Any
    sin: Any
    cos: Any
    wheel: Any  # radius there
    slope: Any
    rail_slope: Any
    rail_curvature: Any
    row: list  # of the constraint Jacobian
    tilt: Any  # of the contact plane


def wheelset() -> tuple[System, dict[str, float]]:
    """The system, and its start."""
    left, right = _contact(psi_l, xi_l, 1), _contact(psi_r, xi_r, -1)
    by_constraints = [10**4 * (a * lam_l + b * lam_r) for a, b in zip(left.row, right.row, strict=True)]
    forces = [_creep(contact, n) for contact, n in _normal_forces(left, right, by_constraints)]
    torques = [_torque(contact, force) for contact, force in zip((left, right), forces, strict=True)]
    force, torque = ([sum(parts) for parts in zip(*both, strict=True)] for both in (forces, torques))
    spring = -2 * _ARM**2 * _SPRING * theta
    w, turn, gyro = by_constraints, _OMEGA + beta, (_AXIAL - _LATERAL) * vtheta * SP
    equations = [dot(q) - u for q, u in zip(P, V, strict=True)]
    equations += [
        _MASS * dot(vx) - (force[0] + w[0] - 2 * _SPRING * x),
        _MASS * dot(vy) - (force[1] + w[1] - _MASS * _GRAVITY),
        _MASS * dot(vz) - (force[2] + w[2] - 2 * _SPRING * z),
        _LATERAL * CP * dot(vtheta)
        - (_LATERAL * vtheta * vphi * SP - _AXIAL * turn * vphi - gyro * vphi + torque[0] + CP * spring + w[3]),
        _LATERAL * dot(vphi) - (_AXIAL * turn * vtheta * CP + gyro * vtheta * CP + torque[1] + w[4]),
        _AXIAL * (SP * dot(vtheta) + dot(beta)) - (-_AXIAL * vtheta * vphi * CP + torque[2] + SP * spring),
    ]
    for c in (left, right):
        equations += [
            sum(a * u for a, u in zip(c.row, V, strict=True)),
            c.rail_slope * (c.slope * SP + CP * c.cos) + c.slope * CT * CP - CT * SP * c.cos + ST * c.sin,
            c.slope * ST * CP - ST * SP * c.cos - CT * c.sin,
        ]
    states = [*P, *V, beta, psi_r, xi_r, psi_l, xi_l, lam_l, lam_r]
    start = {s.name: float(value) for s, value in zip(states, _START, strict=True)}
    return System(equations, states, name="wheelset"), start


def _contact(psi: Any, xi: Any, sign: int) -> Contact:
    sin, cos = sp.sin(psi), sp.cos(psi)
    cone = sp.tan(sp.Float(_CONE))
    slope, wheel = -sign * cone, _RADIUS + cone * (_HALF - sign * xi)
    at = x + xi * CT * CP + wheel * (CT * SP * cos - ST * sin)
    off = sign * at - _HALF - sp.sin(sp.Float(_CONE)) * _RAIL
    root = sp.sqrt(_RAIL**2 - off**2)
    d = -sign * off / root
    row = [
        d, -1, 0, -d * (wheel * (CT * sin + cos * SP * ST) + CP * ST * xi),
        -cos * wheel * SP - CP * xi + d * (CP * cos * CT * wheel - CT * SP * xi),
    ]  # fmt: skip
    tilt = sp.atan(((slope * CP - SP * cos) * CT + sin * ST) / (-sign * (slope * SP + CP * cos)))
    return Contact(sign, xi, sin, cos, wheel, slope, d, -(_RAIL**2) / root**3, row, tilt)


def _normal_forces(left: Contact, right: Contact, w: list) -> list[tuple[Contact, Any]]:
    sin_l, cos_l, sin_r, cos_r = sp.sin(left.tilt), sp.cos(left.tilt), sp.sin(right.tilt), sp.cos(right.tilt)
    determinant = -sin_l * cos_r - sin_r * cos_l
    of_left = (cos_r * w[0] - sin_r * w[1]) / determinant
    of_right = (-cos_l * w[0] - sin_l * w[1]) / determinant
    return [(left, of_left), (right, of_right)]


def _creep(c: Contact, normal: Any) -> list:
    """The forces of creep, by an approximation of Kalker's theory that is smooth."""
    sin, cos, r, xi = c.sin, c.cos, c.wheel, c.xi
    sin_d, cos_d = sp.sin(c.tilt), sp.cos(c.tilt)
    st, ct = sp.sin(theta / cos_d), sp.cos(theta / cos_d)
    a = 0.5 / (r * sp.sqrt(1 + c.slope**2))
    b = -0.5 * c.rail_curvature / (1 + c.rail_slope**2) ** sp.Rational(3, 2)
    area = 2 * sp.pi.evalf() * (a + b) * _SHEAR * sp.sqrt(sp.Float(_AXES))
    size = (3 * normal * (1 - _POISSON) * _ELLIPSE / area) ** sp.Rational(1, 3)
    turn = _OMEGA + beta
    w1 = (
        -turn * r * (st * cos + ct * SP * sin) + vx - vphi * ct * (xi * SP - r * CP * cos)
        - vtheta * (r * (st * SP * cos + ct * sin) + xi * st * CP)
    )  # fmt: skip
    w2 = turn * r * CP * sin + vy + vphi * (xi * CP + r * SP * cos)
    w3 = (
        -turn * r * (ct * cos - st * SP * sin) + _SPEED + vz + vphi * st * (xi * SP - r * CP * cos)
        - vtheta * (xi * ct * CP + r * (ct * SP * cos - st * sin))
    )  # fmt: skip
    rolling = sp.sqrt((w1 - 2 * vx) ** 2 + (w2 - 2 * vy) ** 2 + (w3 - 2 * vz - 2 * _SPEED) ** 2) / 2
    along = (st * w1 + ct * w3) / rolling
    across = (ct * cos_d * w1 + c.sign * sin_d * w2 - st * cos_d * w3) / rolling
    spin = (-c.sign * sin_d * turn + cos_d * vtheta) / rolling
    most, (c11, c22, c23) = _FRICTION * normal, _KALKER
    t_x = -most * sp.tanh(_SHEAR * size**2 * c11 * along / most)
    t_y = -most * sp.tanh(_SHEAR * (size**2 * c22 * across + size**3 * c23 * spin) / most)
    return [st * t_x + ct * cos_d * t_y, c.sign * sin_d * t_y, ct * t_x - st * cos_d * t_y]


def _torque(c: Contact, f: list) -> list:
    sin, cos, r, xi = c.sin, c.cos, c.wheel, c.xi
    return [
        -(xi * ST + r * sin * CT * CP) * f[0] - r * sin * SP * f[1] + (-xi * CT + r * sin * ST * CP) * f[2],
        -(xi * CT * SP - r * cos * CT * CP) * f[0] + (xi * CP + r * cos * SP) * f[1]
        + (xi * ST * SP - r * cos * ST * CP) * f[2],
        -r * (cos * ST + sin * CT * SP) * f[0] + r * sin * CP * f[1] - r * (cos * CT - sin * ST * SP) * f[2],
    ]  # fmt: skip
