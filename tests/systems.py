"""Systems and motions that tests of several rooms share."""

import os
from functools import cache

import numpy as np
import sympy as sp
import torch

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.systems.system import System

GRAVITY = 9.81


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def hanging(angle, rate=0.0, length=1.0, xp=np):
    """x, y, u, v of a weight on a link, by its angle from straight down and the angle's rate."""
    sin, cos = xp.sin(angle), xp.cos(angle)
    return {"x": length * sin, "y": -length * cos, "u": length * rate * cos, "v": length * rate * sin}


def chain_states(angle, rate, lengths=1.0):
    """Positions and velocities (..., n, 2) of a chain of links that hangs from the origin, by angles (..., n) of the
    links from straight down and their rates."""
    lengths = np.asarray(lengths, dtype=float)
    along = np.stack([np.sin(angle), -np.cos(angle)], -1) * lengths[..., None]
    across = np.stack([np.cos(angle), np.sin(angle)], -1) * (lengths * rate)[..., None]
    return along.cumsum(-2), across.cumsum(-2)


@cache
def link(length=None, mass=1.0):
    """A weight on a link as five plain equations of index 3, with its energy."""
    x, y, u, v, lam, g, m, long = sp.symbols("x y u v lam g m length")
    equations = [dot(x) - u, dot(y) - v, m * dot(u) + lam * x, m * dot(v) + lam * y + m * g, x**2 + y**2 - long**2]
    energy = {"energy": m * (u**2 + v**2) / 2 + m * g * y}
    parameters = {g: GRAVITY, m: mass, long: length}
    return System(equations, [x, y, u, v, lam], parameters, invariants=energy, name="pendulum")


class Attack:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)
