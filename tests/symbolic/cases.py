"""Functions of both forms that the tests share, each with states that keep clear of its singularities."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy as sp

from ndae.symbolic import ANCHOR, Constraint, Function, library, norm, point


@dataclass
class Case:
    function: Function
    t: float | None = None

    @cached_property
    def torch(self):
        """Compiled once, in float64, and not to be changed."""
        return self.function.torch().double()

    def arrays(self, batch=(3,), seed=0):
        """y, v, u of the state's shape and w of the residual's, in float64."""
        random = np.random.default_rng(seed)
        y, v, u = random.normal(size=(3, *batch, self.function.n_states))
        return y, v, u, random.normal(size=(*batch, self.function.n_residuals))


def _plain():
    x, y, z, p = sp.symbols("x y z p")
    return Constraint([x**2 + y**2 - p, sp.sin(x * z) + y * z - 1], [x, y, z], {p: 2.0}, name="two surfaces")


def _timed():
    x, y, t, rate = sp.symbols("x y t rate")
    return Function([sp.sqrt(x**2 + y**2 + 1) - sp.cos(rate * t) * x, x * y * t**2], [x, y], {rate: 0.7}, t, "moving")


def _functions():
    x, y = sp.symbols("x y")
    expressions = [
        sp.exp(sp.sin(x)) * sp.atan2(y, 3 + x**2),
        sp.log(2 + sp.cos(y)) / (1 + x**2),
        sp.tanh(x) * sp.cosh(y / 3),
    ]
    expressions += [
        sp.asin(sp.tanh(x) / 2) + sp.acos(sp.sin(y) / 2),
        sp.atan(x * y) + sp.sinh(x / 2),
        sp.tan(sp.sin(x) / 2) + y,
    ]
    expressions += [
        sp.asinh(x) * sp.acosh(2 + y**2),
        sp.atanh(sp.sin(x) / 2) - sp.sqrt(3) * y,
        (1 + x**2) ** sp.Rational(1, 3) * y,
    ]
    return Function(expressions, [x, y], name="every function")


def _stencil():
    p, q, r = (point(name, 1) for name in "pqr")
    k, t = sp.symbols("k t")
    over = [(i, i + 1, i + 2) for i in range(4)] + [("left", 0, 1)]
    return Function.template(
        [(p[0] - 2 * q[0] + r[0]) * k - sp.sin(t) * q[0] ** 3],
        [p, q, r],
        over,
        7,
        {k: np.arange(1.0, 6.0)},
        {"left": [0.3]},
        t,
        name="stencil with a free point",
    )


def _two_residuals():
    a, b = point("a", 2), point("b", 2)
    over = [(ANCHOR, 1), (1, 0), (2, 1), (0, 2), (2, "wall")]
    return Function.template(
        [norm(b - a) - 1, a[0] * b[1] - a[1] * b[0] ** 2],
        [a, b],
        over,
        anchors={"wall": (2.0, -1.0)},
        name="ring with walls",
    )


CASES = {
    "plain": Case(_plain()),
    "timed": Case(_timed(), 0.4),
    "functions": Case(_functions()),
    "stencil": Case(_stencil(), 1.3),
    "two residuals": Case(_two_residuals()),
    "chain": Case(library.chain(5)),
    "chain 3d": Case(library.chain(4, 3, [1.0, 2.0, 0.5, 1.5])),
    "water": Case(library.rigid_molecules(3)),
    "divergence": Case(library.divergence_free(3, 4, (0.1, 0.2))),
    "velocity level": Case(library.chain(3).velocity_level()),
    "acceleration level": Case(_timed().acceleration_level(), 0.4),
}
