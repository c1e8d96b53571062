"""Systems of the benchmark `latency`, as people type them, and ODEs reduced by hand where that is easy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from ndae.experiments.benchmarks.wheelset import wheelset
from ndae.symbolic import System, dot


@dataclass(frozen=True)
class Case:
    """`system()` gives a system and a start; `by_hand()` f(t, y, args) in JAX, y(0), and which y is `shown`.

    `banded()` gives a residual F(t, y, y', out) in NumPy, of bandwidth 1 on both sides, y(0) with y'(0) = 0, which y
    are algebraic, and which is shown.
    """

    system: Callable[[], tuple[System, dict[str, float]]]
    shown: str
    until: float
    by_hand: Callable[[], tuple[Callable, np.ndarray, Any]] | None = None
    banded: Callable[[], tuple[Callable, np.ndarray, list[int], int]] | None = None
    stiff: bool = False
    rtol: float = 1e-8

    def ts(self) -> np.ndarray:
        return np.linspace(0.0, self.until, 11)


def _pendulum():
    x, y, u, v, lam, g = sp.symbols("x y u v lam g")
    equations = [dot(x) - u, dot(y) - v, dot(u) + lam * x, dot(v) + lam * y + g, x**2 + y**2 - 1]
    return System(equations, [x, y, u, v, lam], {g: 9.81}), {"x": 1.0, "y": 0.0, "u": 0.0, "v": 0.0}


def _pendulum_by_hand():
    import jax.numpy as jnp

    def f(t, s, args):
        x, y, u, v = s
        lam = (u * u + v * v - 9.81 * y) / (x * x + y * y)
        return jnp.stack([u, v, -lam * x, -lam * y - 9.81])

    return f, np.array([1.0, 0.0, 0.0, 0.0]), 0


def _heat(n: int) -> Callable:
    """u_t = u_xx on [0, 1], u(0) = sin t, u_x(1) = 0, by central differences of n inner points."""

    def system():
        t, u = sp.Symbol("t"), sp.symbols(f"u0:{n + 2}")
        inner = [dot(u[i]) - (u[i - 1] - 2 * u[i] + u[i + 1]) * (n + 1) ** 2 for i in range(1, n + 1)]
        return System([u[0] - sp.sin(t), *inner, u[n + 1] - u[n]], u, time=t), {s.name: 0.0 for s in u}

    return system


def _heat_by_hand(n: int) -> Callable:
    def make():
        import jax.numpy as jnp

        def f(t, u, args):
            all_of_them = jnp.concatenate([jnp.sin(t)[None], u, u[-1:]])
            return (all_of_them[:-2] - 2 * u + all_of_them[2:]) * (n + 1) ** 2

        return f, np.zeros(n), n - 1

    return make


def _heat_banded(n: int) -> Callable:
    def make():
        def residual(t, u, rate, out):
            out[0], out[-1] = u[0] - np.sin(t), u[-1] - u[-2]
            out[1:-1] = rate[1:-1] - (u[:-2] - 2 * u[1:-1] + u[2:]) * (n + 1) ** 2

        return residual, np.zeros(n + 2), [0, n + 1], n

    return make


def _ladder(n: int) -> Callable:
    """n / 2 sections of a resistor and a capacitor, driven by sin t: voltages and currents."""
    m = n // 2

    def system():
        t, v, i = sp.Symbol("t"), sp.symbols(f"v1:{m + 1}"), sp.symbols(f"i1:{m + 1}")
        before, behind = [sp.sin(t), *v[:-1]], [*i[1:], 0]
        equations = [dot(v[k]) - (i[k] - behind[k]) for k in range(m)]
        equations += [i[k] - (before[k] - v[k]) for k in range(m)]
        return System(equations, [*v, *i], time=t), {s.name: 0.0 for s in (*v, *i)}

    return system


def _ladder_by_hand(n: int) -> Callable:
    m = n // 2

    def make():
        import jax.numpy as jnp

        def f(t, v, args):
            currents = jnp.concatenate([jnp.sin(t)[None], v[:-1]]) - v
            return currents - jnp.concatenate([currents[1:], jnp.zeros(1)])

        return f, np.zeros(m), m // 20

    return make


_SHELLS, _LOAD, _DIFFUSION, _EXCHANGE = 10, 0.2, 0.5, 1.0


def _battery():
    """A single-particle model without units: diffusion in 10 shells of each electrode, Butler-Volmer at its surface."""
    n = _SHELLS
    a, b = sp.symbols(f"a1:{n + 1}"), sp.symbols(f"b1:{n + 1}")
    surfaces, etas = sp.symbols("surface_a surface_b"), sp.symbols("eta_a eta_b")
    current, voltage = sp.symbols("current voltage")
    equations = [current - _LOAD, voltage - (_open(surfaces[1]) - _open(surfaces[0]) + etas[1] - etas[0] + 3)]
    for c, surface, eta, sign in ((a, surfaces[0], etas[0], 1), (b, surfaces[1], etas[1], -1)):
        flux = sign * current
        for k in range(n):  # of volume (k + 1)³ - k³, in units of a third of a shell's width
            inside = 3 * n**2 * k**2 * _DIFFUSION * (c[k] - c[k - 1]) if k else 0
            outside = 3 * n**2 * (k + 1) ** 2 * _DIFFUSION * (c[k + 1] - c[k]) if k < n - 1 else -3 * n**3 * flux
            equations.append(dot(c[k]) - (outside - inside) / ((k + 1) ** 3 - k**3))
        equations.append(surface - c[n - 1] + flux / (2 * n * _DIFFUSION))
        equations.append(flux - 2 * _EXCHANGE * sp.sqrt(surface * (1 - surface)) * sp.sinh(eta / 2))
    start = {s.name: 0.8 for s in a} | {s.name: 0.3 for s in b} | {"eta_a": 0.2, "eta_b": -0.2, "voltage": 3.0}
    return System(equations, [*a, *b, *surfaces, *etas, current, voltage]), start


def _open(c):
    return -sp.log(c / (1 - c))


def _battery_by_hand():
    import jax.numpy as jnp

    n = _SHELLS
    k = np.arange(n)
    volumes, area = (k + 1) ** 3 - k**3, 3 * n**2 * _DIFFUSION * k[1:] ** 2

    def diffuse(c, flux):
        between = area * (c[1:] - c[:-1])
        outside = jnp.concatenate([between, jnp.array([-3.0 * n**3 * flux])])
        return (outside - jnp.concatenate([jnp.zeros(1), between])) / volumes

    def f(t, c, args):
        return jnp.concatenate([diffuse(c[:n], _LOAD), diffuse(c[n:], -_LOAD)])

    return f, np.repeat([0.8, 0.3], n), n - 1


def _cars(n: int = 8):
    """Cars in a row, coupled by springs; the first is driven so that the last follows a path: index 2 n + 1."""
    t, force = sp.Symbol("t"), sp.Symbol("force")
    x, v = sp.symbols(f"x1:{n + 1}"), sp.symbols(f"v1:{n + 1}")
    equations = [dot(x[k]) - v[k] for k in range(n)]
    for k in range(n):
        pull = (x[k + 1] - x[k] if k < n - 1 else 0) - (x[k] - x[k - 1] if k else 0)
        equations.append(dot(v[k]) - pull - (force if k == 0 else 0))
    path = sp.sin(t / 4)
    equations.append(x[-1] - path)
    # Each car's path follows from those of the two behind it.
    paths = [path]
    for k in range(1, n):
        behind = paths[-2] if k > 1 else paths[-1]
        paths.append(sp.diff(paths[-1], t, 2) + 2 * paths[-1] - behind)
    paths.reverse()
    start = {x[k].name: float(paths[k].subs(t, 0)) for k in range(n)}
    start |= {v[k].name: float(sp.diff(paths[k], t).subs(t, 0)) for k in range(n)}
    return System(equations, [*x, *v, force], time=t), start


_STAGES, _FEED = 15, 7


def _column():
    """A distillation of benzene and toluene: on each stage the fractions x and y and the temperature of boiling.

    Stage 1 is the condenser, the last one the reboiler; holdups are constant, pressures in mmHg (Antoine's law). The
    heat of the reboiler makes the vapour V, and the reflux L is a part of it.
    """
    n = _STAGES
    x, y, theta = sp.symbols(f"x1:{n + 1}"), sp.symbols(f"y1:{n + 1}"), sp.symbols(f"theta1:{n + 1}")
    vapour, reflux, heat, part, feed, fraction = sp.symbols("V L Q r F z")
    equations = []
    for k in range(n):
        celsius = 100 * theta[k]
        benzene = 10 ** (6.90565 - 1211.033 / (celsius + 220.79))
        toluene = 10 ** (6.95464 - 1344.8 / (celsius + 219.482))
        equations += [x[k] * benzene + (1 - x[k]) * toluene - 760, y[k] - x[k] * benzene / 760]
        down = reflux + (feed if k >= _FEED else 0)
        if k == 0:
            change = vapour * (y[1] - x[0])
        elif k == n - 1:
            change = down * (x[k - 1] - x[k]) - vapour * (y[k] - x[k])
        else:
            change = vapour * (y[k + 1] - y[k]) + down * (x[k - 1] - x[k])
            change += feed * (fraction - x[k - 1]) if k == _FEED else 0
        equations.append((5 if k in (0, n - 1) else 1) * dot(x[k]) - change)
    equations += [vapour * (33.2 - 2.5 * x[-1]) - heat, reflux - part * vapour]
    parameters = {heat: 100.0, part: 0.7, feed: 1.0, fraction: 0.5}
    start = {s.name: 0.5 for s in x} | {s.name: 0.9 for s in theta}
    return System(equations, [*x, *y, *theta, vapour, reflux], parameters), start


_BASE, _PLATE, _REST, _STROKE = (-10, 10, 110, 130, 230, 250), (-50, 50, 70, 170, 190, 290), 0.8, 0.04


def _platform():
    """A platform on six legs whose lengths are prescribed, turned by a quaternion: index 3, 20 states.

    Each leg's length moves as 1 - cos 2t, so that all begins at rest. p' is half of p w, with a multiplier nu for
    |p| = 1; f are the forces of the legs by their lengths.
    """
    t, nu = sp.symbols("t nu")
    position, v, w = (sp.Matrix(sp.symbols(f"{name}0:3")) for name in "Xvw")
    p: Any = sp.symbols("p0:4")
    (a, b, c, d), f = p, sp.symbols("f0:6")
    rotation = sp.Matrix(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a - b * b + c * c - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a - b * b - c * c + d * d],
        ]
    )
    turning = sp.Matrix([[-b, -c, -d], [a, -d, c], [d, a, -b], [-c, b, a]]) * w / 2
    force, torque, lengths = sp.Matrix([0, 0, -20 * 9.81]), sp.zeros(3, 1), []
    for i, (below, above) in enumerate(zip(_BASE, _PLATE, strict=True)):
        corner = sp.Matrix([0.35 * np.cos(np.deg2rad(above)), 0.35 * np.sin(np.deg2rad(above)), 0])
        foot = sp.Matrix([0.6 * np.cos(np.deg2rad(below)), 0.6 * np.sin(np.deg2rad(below)), 0])
        leg = position + rotation * corner - foot
        force, torque = force + f[i] * leg, torque + f[i] * corner.cross(rotation.T * leg)
        at_rest = float(sp.sqrt((corner - foot).dot(corner - foot) + _REST**2))
        lengths.append(leg.dot(leg) - (at_rest + _STROKE * float(np.cos(i)) * (1 - sp.cos(2 * t))) ** 2)
    inertia = sp.diag(0.6, 0.7, 1.1)
    rate = lambda group: sp.Matrix([dot(s) for s in group])  # noqa: E731
    equations = [
        *(rate(position) - v),
        *(rate(p) - turning - nu * sp.Matrix(p)),
        *(20 * rate(v) - force),
        *(inertia * rate(w) + w.cross(inertia * w) - torque),
        *lengths,
        a * a + b * b + c * c + d * d - 1,
    ]
    moving: list[Any] = [*position, *p, *v, *w]
    start = {s.name: 0.0 for s in moving} | {"X2": _REST, "p0": 1.0}
    return System(equations, [*position, *p, *v, *w, *f, nu], time=t), start


CASES = {
    "pendulum": Case(_pendulum, "x", 1.0, _pendulum_by_hand),
    "battery 26": Case(_battery, "a10", 0.2, _battery_by_hand, stiff=True),
    "wheelset 17": Case(wheelset, "x", 0.01, rtol=1e-6),
    "cars 17": Case(_cars, "x1", 1.0),
    "column 47": Case(_column, "x1", 1.0, stiff=True),
    "platform 20": Case(_platform, "X2", 1.0),
    **{
        f"heat {n}": Case(_heat(n), f"u{n}", 1.0, _heat_by_hand(n), _heat_banded(n), stiff=True)
        for n in (50, 400, 1000)
    },
    **{f"ladder {n}": Case(_ladder(n), f"v{n // 40 + 1}", 5.0, _ladder_by_hand(n)) for n in (600, 5000)},
}
