"""A platform on six legs of prescribed length, and its motion and leg forces by Newton on the geometry alone."""

from functools import lru_cache

import numpy as np
import sympy as sp

from ndae.symbolic import System, dot

MASS, G, INERTIA = 20.0, 9.81, np.diag([0.6, 0.7, 1.1])


def _corners(degrees, radius):
    return radius * np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees)), np.zeros(6)], -1)


BASE = _corners(np.array([-10, 10, 110, 130, 230, 250]), 0.6)
PLATE = _corners(np.array([-50, 50, 70, 170, 190, 290]), 0.35)
REST = np.sqrt(((np.array([0, 0, 0.8]) + PLATE - BASE) ** 2).sum(1))


def _length(i, time, lib):
    return REST[i] + 0.04 * (1 - lib.cos(2 * time + i)) - 0.04 * (1 - float(np.cos(i)))


def _rotation(p):
    a, b, c, d = p
    return [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
    ]


def _turning(p, w):
    a, b, c, d = p
    x, y, z = w
    parts = [-b * x - c * y - d * z, a * x + c * z - d * y, a * y + d * x - b * z, a * z + b * y - c * x]
    return [part / 2 for part in parts]


@lru_cache(maxsize=1)
def stewart():
    """The platform's DAE: index 3, 20 states, with the leg forces per length f0 to f5 as multipliers."""
    t, nu = sp.symbols("t nu")
    sizes = {"X": 3, "p": 4, "v": 3, "w": 3, "f": 6}
    X, p, v, w, f = (sp.Matrix(sp.symbols(f"{name}0:{n}")) for name, n in sizes.items())
    R, J = sp.Matrix(_rotation(p)), sp.Matrix(INERTIA)
    legs = [X + R * sp.Matrix(PLATE[i]) - sp.Matrix(BASE[i]) for i in range(6)]
    force, torque = sp.zeros(3, 1), sp.zeros(3, 1)
    for i in range(6):
        force += f[i] * legs[i]
        torque += sp.Matrix(PLATE[i]).cross(R.T * legs[i]) * f[i]
    X_dot, p_dot, v_dot, w_dot = (sp.Matrix([dot(s) for s in group]) for group in (X, p, v, w))
    equations = [
        *(X_dot - v),
        *(a - b - nu * q for a, b, q in zip(p_dot, _turning(p, w), p, strict=True)),
        *(MASS * v_dot - force - sp.Matrix([0, 0, -MASS * G])),
        *(J * w_dot + w.cross(J * w) - torque),
        *((legs[i].T * legs[i])[0] - _length(i, t, sp) ** 2 for i in range(6)),
        (p.T * p)[0] - 1,
    ]
    return System(equations, [*X, *p, *v, *w, *f, nu], time=t, name="stewart")


def motion(ts):
    """States by name, derivatives of p among them, and the multipliers f0 to f5, each (n_times,)."""
    z, rows = np.r_[0, 0, 0.8, 1, 0, 0, 0], []
    for time in ts:
        L = np.array([_length(i, time, np) for i in range(6)])
        rate, bend = 0.08 * np.sin(2 * time + np.arange(6)), 0.16 * np.cos(2 * time + np.arange(6))
        for _ in range(20):
            d = z[:3] + PLATE @ np.array(_rotation(z[3:])).T - BASE
            slope = np.zeros((7, 7))
            slope[:6, :3], slope[6, 3:] = 2 * d, 2 * z[3:]
            for k, e in enumerate(np.eye(4)):
                change = np.array(_rotation(z[3:] + e)) - np.array(_rotation(z[3:] - e))
                slope[:6, 3 + k] = (d * (PLATE @ change.T)).sum(1)
            z = z - np.linalg.solve(slope, np.r_[(d**2).sum(1) - L**2, z[3:] @ z[3:] - 1])
        R = np.array(_rotation(z[3:]))
        turned = PLATE @ R.T
        d = z[:3] + turned - BASE
        jacobian = np.c_[d, np.cross(turned, d)]
        twist = np.linalg.solve(jacobian, L * rate)
        omega = twist[3:]
        speed, swing = twist[:3] + np.cross(omega, turned), np.cross(omega, np.cross(omega, turned))
        a = np.linalg.solve(jacobian, L * bend + rate**2 - (speed**2).sum(1) - (d * swing).sum(1))
        inertia = R @ INERTIA @ R.T
        turn = inertia @ a[3:] + np.cross(omega, inertia @ omega)
        forces = np.linalg.solve(jacobian.T, np.r_[MASS * (a[:3] + np.array([0.0, 0.0, G])), turn])
        w = R.T @ omega
        rows.append(np.r_[z, twist[:3], w, _turning(z[3:], w), forces, 0.0])
    names = [*(f"X{i}" for i in range(3)), *(f"p{i}" for i in range(4)), *(f"v{i}" for i in range(3))]
    names += [*(f"w{i}" for i in range(3)), *(f"p{i}_dot" for i in range(4)), *(f"f{i}" for i in range(6)), "nu"]
    return dict(zip(names, np.array(rows).T, strict=True))
