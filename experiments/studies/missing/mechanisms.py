"""Missing functions of mechanics: the shape of a wire, friction in the joints of a linkage and of an arm."""

from typing import Any

import numpy as np
import sympy as sp

import ndae
from ndae import dot
from ndae.experiments.studies.missing.missing import LBFGS, Missing, t


def bead() -> Missing:
    """A bead on a wire z = f(x) (index 3), f unknown; x and z seen."""
    x, z, vx, vz, lam = sp.symbols("x z vx vz lam")
    wire = ndae.unknown("f")
    slope = wire(x).diff(x)
    system = ndae.System(
        [dot(x) - vx, dot(z) - vz, dot(vx) - lam * slope, dot(vz) + sp.Float(9.81) + lam, z - wire(x)],
        [x, z, vx, vz, lam], time=t, name="bead on a wire",
    )  # fmt: skip
    return Missing(
        system, {"f": lambda x: 0.5 * x**2 + 0.1 * np.sin(3 * x)}, "f", (-0.9, 0.9),
        [{"x": a, "vx": 0.0} for a in (0.9, -0.7, 0.5)], np.linspace(0, 2, 81), {"x": 0.002, "z": 0.002}, ("x", "z"),
        network=lambda: ndae.MLP(1, 1, 12, depth=1), options={"step": 0.025},
        fit={"epochs": 6, "windows": ndae.Windows(5), "keep": "last", "optimizer": LBFGS},
    )  # fmt: skip


def four_bar() -> Missing:
    """A four-bar linkage that falls (index 3), its joints' friction F(ω) unknown; crank and rocker seen, 0.5 mrad."""
    a, b, c, u, v, w = sp.symbols("a b c u v w")  # angles of crank, coupler and rocker, and their rates
    friction = ndae.unknown("F")
    crank, coupler, rocker, ground, g = sp.Float(0.2), sp.Float(0.5), sp.Float(0.4), sp.Float(0.5), sp.Float(9.81)
    ends: Any = crank * sp.Matrix([sp.cos(a), sp.sin(a)]), rocker * sp.Matrix([sp.cos(c), sp.sin(c)])
    middle: Any = ends[0] + coupler / 2 * sp.Matrix([sp.cos(b), sp.sin(b)])
    speed = middle.jacobian([a, b]) * sp.Matrix([u, v])
    # Uniform bars of 2 kg/m: those that turn about the ground have m l²/3, the coupler m l²/12 about its middle.
    kinetic = (crank**3 * u**2 + rocker**3 * w**2) / 3 + coupler * (speed.dot(speed) + coupler**2 * v**2 / 12)
    height = 2 * (crank**2 * sp.sin(a) / 2 + coupler * middle[1] + rocker**2 * sp.sin(c) / 2)
    across = ends[0] + coupler * sp.Matrix([sp.cos(b), sp.sin(b)]) - ends[1] - sp.Matrix([ground, 0])
    inner, outer = friction(v - u), friction(w - v)  # torques of the coupler's joints
    system = ndae.System.mechanical(
        [a, b, c], [u, v, w], lagrangian=kinetic - g * height, holonomic=list(across), time=t, name="four-bar linkage",
        force=[-friction(u) + inner, -inner + outer, -outer - friction(w)],
    )  # fmt: skip
    angles = (1.2, 0.6, 1.9), (-0.2, 0.9, 1.7), (2.6, 0.7, 2.1), (0.0, 0.9, 1.6), (1.8, 0.5, 1.9), (0.6, 0.7, 1.7)
    starts = [{"a": x, "b": y, "c": z, "u": 0.0, "v": 0.0} for x, y, z in angles]
    return Missing(
        system, {"F": lambda w: 0.05 * np.tanh(w / 2) + 0.01 * w}, "F", (-10, 10), starts,
        np.linspace(0, 2, 201), {"a": 0.0005, "c": 0.0005}, ("a", "c"),
        options={"step": 0.01}, fit={"epochs": 4, "windows": ndae.Windows(20), "keep": "last"},
    )  # fmt: skip


def arm() -> Missing:
    """A simulated arm of three links, friction of its joints and a mass unknown; joints seen at 200 Hz, 2 mm, gaps."""
    # Angles from the vertical below; uniform links; of the torques each acts on a link and back on the one before it.
    a, w = sp.symbols("a1:4"), sp.symbols("w1:4")
    mass, friction = sp.Symbol("m3"), ndae.unknown("F")
    torques = [ndae.unknown(f"u{k}") for k in (1, 2, 3)]
    lengths, masses, g = [sp.Float(x) for x in (0.4, 0.35, 0.25)], [sp.Float(2.0), sp.Float(1.5), mass], sp.Float(9.81)
    joint, kinetic, potential, outputs = sp.zeros(2, 1), sp.Integer(0), sp.Integer(0), {}
    for k in range(3):
        along = lengths[k] * sp.Matrix([sp.sin(a[k]), -sp.cos(a[k])])
        middle, joint = joint + along / 2, joint + along
        speed = middle.jacobian(a) * sp.Matrix(w)
        kinetic += masses[k] * (speed.dot(speed) + lengths[k] ** 2 * w[k] ** 2 / 12) / 2
        potential += masses[k] * g * middle[1]
        outputs |= {f"x{k + 1}": joint[0], f"z{k + 1}": joint[1]}
    drive = [torques[k](t) - friction(w[k] - (w[k - 1] if k else 0)) for k in range(3)]
    system = ndae.System.mechanical(
        a, w, lagrangian=sp.trigsimp(sp.expand(kinetic)) - potential, parameters={mass: 1.0}, time=t,
        force=[drive[0] - drive[1], drive[1] - drive[2], drive[2]], outputs=outputs, name="three-link arm",
    )  # fmt: skip
    ts, random = np.arange(801) / 200, np.random.default_rng(7)
    inputs = []
    for _ in range(4):
        rates, phases = random.uniform(2, 9, (3, 3)), random.uniform(0, 2 * np.pi, (3, 3))
        waves = np.sin(rates[..., None] * ts + phases[..., None]).sum(1) * np.array([1.5, 0.7, 0.2])[:, None]
        inputs.append({f"u{k + 1}": ndae.table(ts, waves[k]) for k in range(3)})
    starts = [{f"a{k + 1}": x for k, x in enumerate(pose)} | dict.fromkeys(("w1", "w2", "w3"), 0.0)
              for pose in ((0.5, 0.2, -0.3), (-0.4, 0.3, 0.6), (0.2, -0.6, 0.1), (0.3, 0.4, 0.0))]  # fmt: skip
    return Missing(
        system, {"F": lambda w: 0.3 * np.tanh(w / 0.5) + 0.1 * w}, "F", (-5, 5), starts, ts,
        dict.fromkeys(outputs, 0.002), tuple(outputs), inputs=inputs, gaps=0.1, before=100, ahead=400,
        options={"learn": {"m3": 0.6}},
        fit={"epochs": 3, "windows": ndae.Windows(40, continuity=(1.0, 1e3)), "keep": "last"},
    )  # fmt: skip


def pendulum() -> Missing:
    """A double pendulum (index 3), its drag and its second mass unknown; positions seen with noise of 5 mm."""
    q, v = sp.symbols("x1 z1 x2 z2"), sp.symbols("vx1 vz1 vx2 vz2")
    mass, drag, g = sp.Symbol("m2"), sp.Symbol("d"), sp.Float(9.81)
    system = ndae.System.mechanical(
        q, v, mass=[sp.Integer(1), sp.Integer(1), mass, mass], potential=g * (q[1] + mass * q[3]),
        force=[-drag * x for x in v], parameters={mass: 1.5, drag: 0.3}, time=t, name="double pendulum",
        holonomic=[q[0] ** 2 + q[1] ** 2 - 1, (q[2] - q[0]) ** 2 + (q[3] - q[1]) ** 2 - 1],
    )  # fmt: skip
    starts = [
        {"x1": np.sin(a), "z1": -np.cos(a), "x2": np.sin(a) + np.sin(b), "z2": -np.cos(a) - np.cos(b)}
        | dict.fromkeys(map(str, v), 0.0)
        for a, b in ((0.8, 0.4), (-0.6, 0.9), (1.0, -0.2), (0.5, 1.1))
    ]
    return Missing(
        system, {}, "", (0, 0), starts, np.linspace(0, 4, 81), dict.fromkeys(map(str, q), 0.005), tuple(map(str, q)),
        options={"learn": {"m2": 0.8, "d": 0.1}, "step": 0.05}, form=lambda: (system, None),
        fit={"epochs": 5, "windows": ndae.Windows(10, continuity=(1.0, 1e4)), "keep": "last"},
    )  # fmt: skip
