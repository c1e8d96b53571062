"""Reduced systems to try generated functions on, with states, leading unknowns and what SymPy gives there."""

import jax.numpy as jnp
import numpy as np
import sympy as sp
import torch

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.forms.reduced import ReducedSystem
from ndae.symbolic.forms.reduced_equations import Block
from ndae.symbolic.systems.system import System

BACKENDS = ("numpy", "jax", "torch")
CONVERT = {"numpy": np.asarray, "jax": jnp.asarray, "torch": lambda a: torch.as_tensor(np.asarray(a))}
x, y, u, v, lam, t = sp.symbols("x y u v lam t")
ax, ay = sp.symbols("u_dot v_dot")
g, length, m, speed = sp.symbols("g length m speed")


def pendulum():
    """A pendulum whose pivot moves as sin(speed t), reduced by hand."""
    c = (x - sp.sin(speed * t)) ** 2 + y**2 - length**2
    along = {x: u, y: v, u: ax, v: ay}

    def rate(e):
        return e.diff(t) + sum(e.diff(s) * d for s, d in along.items())

    top = (m * ax + lam * c.diff(x), m * ay + lam * c.diff(y) + m * g, rate(rate(c)))
    return ReducedSystem(
        system=None, index=3, y=(x, y, u, v), w=(ax, ay, lam), rates=(u, v, ax, ay), equations=top,
        differentiations=(0, 0, 2), constraints=(c, rate(c)), constraint_of=((2, 0), (2, 1)), algebraic_equations=(2,),
        blocks=(Block((0, 1, 2), (0, 1, 2), linear=True),), states=(x, y, u, v, lam), state_rates=(u, v, ax, ay, None),
        invariants={"energy": m * (u**2 + v**2) / 2 + m * g * y, "force": lam * length}, time=t,
        parameters={m: 2.0, g: 9.81, length: 1.5, speed: None},
    )  # fmt: skip


def car_axis():
    """The car axis of the test set for IVP solvers: ten equations of index 3, all given to the index reduction."""
    q = xl, yl, xr, yr = sp.symbols("xl yl xr yr")
    p = sp.symbols("xld yld xrd yrd")
    lam1, lam2 = sp.symbols("lam1 lam2")
    eps, mass, L, L0, r, w, grav = sp.symbols("eps M L L0 r w gravity")
    k, yb = mass * eps**2 / 2, r * sp.sin(w * t)
    xb = sp.sqrt(L**2 - yb**2)
    Ll, Lr = sp.sqrt(xl**2 + yl**2), sp.sqrt((xr - xb) ** 2 + (yr - yb) ** 2)
    force = [
        (L0 - Ll) * xl / Ll + lam1 * xb + 2 * lam2 * (xl - xr),
        (L0 - Ll) * yl / Ll + lam1 * yb + 2 * lam2 * (yl - yr) - k * grav,
        (L0 - Lr) * (xr - xb) / Lr - 2 * lam2 * (xl - xr),
        (L0 - Lr) * (yr - yb) / Lr - 2 * lam2 * (yl - yr) - k * grav,
    ]
    equations = [dot(a) - b for a, b in zip(q, p, strict=True)]
    equations += [k * dot(b) - f for b, f in zip(p, force, strict=True)]
    equations += [xb * xl + yb * yl, (xl - xr) ** 2 + (yl - yr) ** 2 - L**2]
    parameters = {eps: 0.01, mass: 10, L: 1, L0: 0.5, r: 0.1, w: 10, grav: 1}
    return System(equations, [*q, *p, lam1, lam2], parameters, t, name="car axis").reduce()


def valves():
    """Index 1, with nonlinear algebraic variables: two alike, one that waits for them, and two at once."""
    a, b, c, d, e = sp.symbols("a b c d e")
    k = sp.Symbol("k")
    equations = [
        dot(x) + x * a - c, dot(y) + y - d * b,
        a**3 + a - x - k * y, b**3 + b - x * y + sp.sin(t),
        sp.exp(c) + c - a * b,
        d + e**3 - x, e - d**3 - y + sp.Max(e, 0),
    ]  # fmt: skip
    return System(equations, [x, y, a, b, c, d, e], {k: 0.5}, t, name="valves").reduce()


def chain(n):
    """The paper's pendulum of n links as plain equations."""
    q, w = sp.symbols(f"q0:{2 * n}", real=True), sp.symbols(f"v0:{2 * n}", real=True)
    L, mass, gravity = sp.symbols("length mass gravity", positive=True)
    points = [(0, 0), *zip(q[::2], q[1::2], strict=True)]
    links = [sp.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) - L for a, b in zip(points[1:], points[:-1], strict=True)]
    weight = sum(mass * gravity * s for s in q[1::2])
    parameters = {L: 1.0, mass: 1.0, gravity: 9.82}
    return System.mechanical(
        q, w, mass=[mass] * 2 * n, potential=weight, holonomic=links, parameters=parameters, name=f"{n} links"
    ).reduce()


CASES = {"pendulum": pendulum, "car axis": car_axis, "valves": valves, "chain": lambda: chain(3)}
KNOWN = {}


def case(name):
    """A reduced system, a batch of states, and the arguments that every call takes."""
    if name not in KNOWN:
        reduced = CASES[name]()
        rng = np.random.default_rng(len(name))
        KNOWN[name] = reduced, rng.normal(size=(5, len(reduced.y))), rng.normal(size=(5, len(reduced.w)))
    call = {} if CASES[name]().time is None else {"t": 0.3}
    return (*KNOWN[name], call | ({"parameters": {"speed": 3.0}} if name == "pendulum" else {}))


def substitution(reduced, state, leading, call):
    given = {s.name: value for s, value in reduced.parameters.items()} | call.get("parameters", {})
    values = {s: given[s.name] for s in reduced.parameters} | ({reduced.time: 0.3} if reduced.time is not None else {})
    return values | dict(zip(reduced.y, state, strict=True)) | dict(zip(reduced.w, leading, strict=True))


def by_sympy(expressions, reduced, states, leading, call):
    points = [substitution(reduced, *row, call) for row in zip(states, leading, strict=True)]
    return np.array([[float(sp.sympify(e).subs(p)) for e in expressions] for p in points])
