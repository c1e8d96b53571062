"""DAE systems whose solution is known, which the tests of the solvers share."""

from functools import cache

import numpy as np
import sympy as sp

from ndae.symbolic import System, dot
from tests.systems import GRAVITY

x, y, u, v, z, lam = sp.symbols("x y u v z lam", real=True)
t = sp.Symbol("t", real=True)


@cache
def pendulum():
    """A point mass on a rigid link, index 3, as five plain equations."""
    m, g, length = sp.symbols("m g L", positive=True)
    equations = [
        dot(x) - u, dot(y) - v, m * dot(u) + 2 * lam * x, m * dot(v) + 2 * lam * y + m * g, x**2 + y**2 - length**2,
    ]  # fmt: skip
    energy = m * (u**2 + v**2) / 2 + m * g * y
    parameters = {m: 1.0, g: GRAVITY, length: 1.0}
    return System(equations, [x, y, u, v, lam], parameters, invariants={"energy": energy}, name="pendulum")


@cache
def shaken():
    """A pendulum whose support moves as shake sin(speed t); `speed` has no default."""
    shake, speed = sp.symbols("shake speed", positive=True)
    equations = [
        dot(x) - u, dot(y) - v, dot(u) + lam * (x - shake * sp.sin(speed * t)), dot(v) + lam * y + GRAVITY,
        (x - shake * sp.sin(speed * t)) ** 2 + y**2 - 1,
    ]  # fmt: skip
    return System(equations, [x, y, u, v, lam], {shake: 0.3, speed: None}, t, name="shaken pendulum")


@cache
def stiff():
    """Prothero and Robinson's problem with an algebraic variable, index 1: x = cos t + e, z = sin t + e."""
    k = sp.Symbol("k", positive=True)
    equations = [dot(x) + k * (x - sp.cos(t)) + z, z - sp.sin(t) - (x - sp.cos(t))]
    return System(equations, [x, z], {k: 1e6}, t, name="stiff")


def stiff_solution(ts, e0, k=1e6):
    """x and z from x(0) = 1 + e0: e' = -(k + 1) e."""
    e = e0 * np.exp(-(k + 1) * ts)
    return np.stack([np.cos(ts) + e, np.sin(ts) + e], -1)


@cache
def hessenberg():
    """Index 2 in Hessenberg form: x = cos t, y = sin t, z = exp(-t)."""
    push = z - sp.exp(-t)
    return System([dot(x) + y - x * push, dot(y) - x - y * push, x**2 + y**2 - 1], [x, y, z], {}, t, name="circle")


def hessenberg_solution(ts):
    return np.stack([np.cos(ts), np.sin(ts), np.exp(-ts)], -1)


@cache
def valve():
    """A nonlinear algebraic variable, index 1: z = exp(-p t), x = z³ + z."""
    p = sp.Symbol("p", positive=True)
    return System([dot(x) + p * (3 * z**3 + z), z**3 + z - x], [x, z], {p: 1.0}, name="valve")


@cache
def branches():
    """z² = x: one solution on each branch, z = ±exp(-t) with x = exp(-2 t)."""
    return System([dot(x) + 2 * x, z**2 - x], [x, z], name="branches")


@cache
def blow_up():
    """x = x(0) / (1 - k x(0) t), and z = x."""
    k = sp.Symbol("k")
    return System([dot(x) - k * x * z, z - x], [x, z], {k: 1.0}, name="blow-up")


@cache
def stuck():
    """(x - 1/2) x' = -1: from x = 1 it ends at t = 1/8, where the leading matrix is singular."""
    return System([dot(x) + z, (x - sp.Rational(1, 2)) * z - 1], [x, z], name="stuck")


@cache
def shrinking():
    """A pendulum whose link has the length 1 - t."""
    equations = [dot(x) - u, dot(y) - v, dot(u) + lam * x, dot(v) + lam * y + 1, x**2 + y**2 - (1 - t) ** 2]
    return System(equations, [x, y, u, v, lam], {}, t, name="shrinking pendulum")


@cache
def fold():
    """z³ - z = x with x = t - 1: the branch from z(0) = -1.3247 ends at x = 2 / √27, where 3 z² = 1."""
    return System([dot(x) - 1, z**3 - z - x], [x, z], name="fold")
