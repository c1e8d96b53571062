"""Invariants that a solve is projected on, each trajectory at the value it started with."""

import numpy as np
import pytest
import sympy as sp

import ndae
from ndae import dot
from ndae.solvers import Projected


def test_each_of_a_batch_keeps_its_own():
    a, b = sp.symbols("a b", positive=True)
    system = ndae.System(
        [dot(a) - a * (1 - b), dot(b) - b * (a - 1)], [a, b], invariants={"orbit": a + b - sp.log(a) - sp.log(b)}
    )
    starts, ts = np.array([[1.5, 1.0], [0.4, 0.9]]), np.linspace(0, 20, 4)
    change = {}
    for method in (Projected(), Projected(invariants="orbit")):
        orbit = ndae.solve(system, starts, ts, method=method, rtol=1e-4).invariants["orbit"]
        change[method.invariants] = np.abs(orbit - orbit[:, :1]).max()
    assert change["orbit",] < 1e-14 < 1e-7 < change[()]
    with pytest.raises(ValueError, match="energy"):
        ndae.solve(system, starts, ts, method=Projected(invariants=["energy"]))


def test_what_follows_from_the_state_is_refused():
    x, z = sp.symbols("x z")
    system = ndae.System([dot(x) - z, z + x], [x, z], invariants={"sum": x * z})
    with pytest.raises(ValueError, match="z, which follows"):
        ndae.solve(system, {"x": 1.0}, [0.0, 1.0], method=Projected(invariants=["sum"]))
    with pytest.raises(ValueError, match="constraints alone"):
        ndae.flow(system, method=Projected(invariants=["sum"]))
