"""Missing functions of process engineering: a reactor, two tanks, stiff kinetics."""

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

import ndae
from ndae import dot
from ndae.experiments.studies.missing.missing import LBFGS, Missing, Scaled, t
from ndae.training.levenberg import Levenberg


def reactor_form() -> tuple[Any, Callable]:
    """The same with r(c) = k c²/(K + c) and both numbers unknown."""
    c, p, k, half = sp.symbols("c p k K")
    rate = k * c**2 / (half + c)
    system = ndae.System([dot(c) + rate, dot(p) - rate], [c, p], parameters={k: 1.5, half: 0.3}, time=t)
    return system, lambda values, c: values["k"] * c**2 / (values["K"] + c)


def batch_reactor() -> Missing:
    """c' = -r(c), p' = r(c), r = 1.5 c²/(0.3 + c): 15 points of both, noise 0.01, one experiment."""
    c, p, r = sp.Symbol("c"), sp.Symbol("p"), ndae.unknown("r")
    system = ndae.System([dot(c) + r(c), dot(p) - r(c)], [c, p], time=t, name="batch reactor")
    return Missing(
        system, {"r": lambda c: 1.5 * c**2 / (0.3 + c)}, "r", (0.11, 1.0), [{"c": 1.0, "p": 0.0}],
        np.linspace(0, 3, 15), 0.01, ("c", "p"), known=True, form=reactor_form,
        fit={"epochs": 8, "keep": "last", "optimizer": Levenberg(evidence=True)},
    )  # fmt: skip


def tanks() -> Missing:
    """Two tanks whose levels a valve keeps at h1 - V(h1) = h2 (index 2), V unknown; levels seen with 1 % noise."""
    h1, h2, q = sp.symbols("h1 h2 q")
    law = ndae.unknown("V")
    system = ndae.System(
        [dot(h1) + q - (1 - h1 / 2), dot(h2) - q + sp.Rational(1, 5) * sp.sqrt(h2), h1 - law(h1) - h2],
        [h1, h2, q], time=t, name="two tanks",
    )  # fmt: skip
    return Missing(
        system, {"V": lambda h: 0.1 + 0.12 * h**2}, "V", (0.5, 1.9), [{"h1": a} for a in (0.5, 1.2, 1.9, 0.8)],
        np.linspace(0, 4, 41), {"h1": 0.01, "h2": 0.01}, ("h1", "h2"),
        network=lambda: ndae.MLP(1, 1, 12, depth=1), options={"step": 0.2},
        fit={"epochs": 8, "windows": ndae.Windows(10), "keep": "last", "optimizer": LBFGS},
    )  # fmt: skip


def robertson() -> Missing:
    """Robertson's kinetics with the rate of the second reaction, 3e7 y2², unknown as r(y2): stiff."""
    a, b, c = sp.symbols("y1 y2 y3")
    rate = ndae.unknown("r")
    k1, k3 = sp.Float(0.04), sp.Float(1e4)
    system = ndae.System(
        [dot(a) + k1 * a - k3 * b * c, dot(c) - rate(b), a + b + c - 1], [a, b, c], time=t, name="Robertson",
        outputs={"y1": a, "y3": c},
    )  # fmt: skip
    return Missing(
        system, {"r": lambda b: 3e7 * b**2}, "r", (1.0e-5, 3.6e-5), [{"y1": 1.0, "y3": 0.0}, {"y1": 0.8, "y3": 0.2}],
        np.concatenate([[0.0], np.geomspace(1e-4, 40.0, 40)]), 1e-4, ("y1", "y3"), known=True, by="radau13",
        options={"integrator": "radau5"}, fit={"epochs": 3, "keep": "last", "optimizer": LBFGS},
        network=lambda: Scaled(ndae.MLP(1, 1, 12, depth=1), 3e-5, 0.03),
    )  # fmt: skip
