"""Missing functions of electrical engineering: a diode, the load of a power grid."""

import numpy as np
import sympy as sp

import ndae
from ndae import dot
from ndae.experiments.studies.missing.missing import LBFGS, About, Missing, t


def rectifier() -> Missing:
    """A capacitor charged through a diode, i = D(u) of the algebraic voltage u; the capacitor's voltage seen."""
    v, u, i = sp.symbols("v u i")
    law = ndae.unknown("D")
    source = 2 * sp.sin(3 * t)
    system = ndae.System(
        [dot(v) - i + v / 2, i - law(u), source - i / 5 - u - v], [v, i, u], time=t, name="rectifier"
    )  # fmt: skip
    return Missing(
        system, {"D": lambda u: 0.05 * (np.exp(2.0 * u) - 1)}, "D", (-1.5, 1.5), [{"v": a} for a in (0.0, 0.5, 1.0)],
        np.linspace(0, 4, 81), {"v": 0.002}, ("v",),
        network=lambda: ndae.MLP(1, 1, 12, depth=1), options={"step": 0.05},
        fit={"epochs": 8, "windows": ndae.Windows(4), "keep": "last", "optimizer": LBFGS},
    )  # fmt: skip


def grid() -> Missing:
    """A power grid of three buses, its load L(V) unknown; voltage and angle of the load's bus seen, noise 0.001."""
    # Generators 1 and 2 and a load, as in Moya and Lin (2021), DAE-PINN, whose numbers these are: ω̇ of both by their
    # balances of power f1 and f2, angles counted from generator 1's, the load's depending on frequency; stiff. The load
    # takes the reactive power L/30, in their ratio of 3 to 0.1.
    w1, w2, d2, d3, v = sp.symbols("w1 w2 d2 d3 V")
    m1, m2, damping, slope, b = (sp.Float(x) for x in (0.052, 0.0531, 0.05, 0.005, 10.0))
    v1, v2, generated = sp.Float(1.02), sp.Float(1.05), sp.Float(2.0)
    load = ndae.unknown("L")
    f1 = b * v1 * v2 * sp.sin(d2) + b * v2 * v * sp.sin(d2 - d3) - generated
    f2 = b * v1 * v * sp.sin(d3) + b * v2 * v * sp.sin(d3 - d2) + load(v)
    reactive = 2 * b * v**2 - b * v * v1 * sp.cos(d3) - b * v * v2 * sp.cos(d3 - d2) + load(v) / 30
    system = ndae.System(
        [m1 * dot(w1) + damping * w1 - f1 - f2, m2 * dot(w2) + damping * w2 + f1, dot(d2) - w2 + w1,
         dot(d3) + w1 + f2 / slope, reactive], [w1, w2, d2, d3, v], time=t, name="three buses",
    )  # fmt: skip
    starts = [(0.3, -0.2, 1.0, 0.3), (-0.4, 0.5, -0.9, -0.6), (0.5, 0.1, 0.6, 0.1), (-0.1, -0.5, -0.7, -0.5)]
    return Missing(
        system, {"L": lambda v: 3.0 * (0.2 + 0.3 * v + 0.5 * v**2)}, "L", (0.9, 1.018),
        [{"w1": a, "w2": b, "d2": c, "d3": d, "V": 1.0} for a, b, c, d in starts],
        np.linspace(0, 1.2, 61), {"V": 0.001, "d3": 0.001}, ("V", "d3"), by="radau13",
        network=lambda: About(ndae.MLP(1, 1, 8, depth=1), 3.0),  # its rated power is known
        options={"integrator": "radau5"}, fit={"epochs": 3, "windows": ndae.Windows(10), "keep": "last"},
    )  # fmt: skip
