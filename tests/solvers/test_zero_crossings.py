"""Unknowns that are exactly zero where equations are solved for them: at the start, at outputs, or all the time."""

from functools import cache

import numpy as np
import pytest
import sympy as sp

from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch
from ndae.solvers.outside.ida import solve_ida
from ndae.solvers.outside.radau import solve_radau
from ndae.symbolic import System, dot
from tests.solvers.dae_cases import t, x, z

TS = np.linspace(0, 2, 301)


@cache
def current(kind, scale=1.0):
    """x = t, and z + sin(z)/4 + sin(x)²/2 = known(t), with z in units of `scale`, and the exact z."""
    exact = {"stays": sp.S.Zero, "crosses": t - 1, "starts": sp.sin(3 * t)}[kind]
    known = exact + sp.sin(exact) / 4 + (1 - sp.cos(2 * t)) / 4  # another form, whose rounding is another
    equation = z / scale + sp.sin(z / scale) / 4 + sp.sin(x) ** 2 / 2 - known
    system = System([dot(x) - 1, equation / scale], [x, z], {}, t, name=f"current {kind}")
    return system, scale * np.broadcast_to(sp.lambdify(t, exact)(TS), TS.shape)


OUTSIDE = {
    "ida": lambda system, atol: solve_ida(system, {"x": 0.0}, TS, atol=atol),
    "ida, original": lambda system, atol: solve_ida(system, {"x": 0.0}, TS, form="original", atol=atol),
    "radau": lambda system, atol: solve_radau(system, {"x": 0.0}, TS, atol=atol),
}
OWN = {
    f"{formulation}, {solver}": lambda system, f=formulation, s=solver: solve_dae(
        system, {"x": 0.0}, TS, method=f, integrator=s
    )
    for formulation, solver in [("projection", "dopri8"), ("plain", "kvaerno5"), ("projection", "radau13")]
} | {"torch": lambda system: solve_torch(system, {"x": 0.0}, TS)}


@pytest.mark.parametrize("solver", OUTSIDE)
@pytest.mark.parametrize(("kind", "scale"), [("stays", 1.0), ("crosses", 1.0), ("starts", 1.0), ("crosses", 1e-9)])
def test_solvers_of_other_makers(kind, scale, solver):
    system, exact = current(kind, scale)
    solution = OUTSIDE[solver](system, {"x": 1e-8, "z": 1e-8 * scale})
    np.testing.assert_allclose(solution.x[:, 1], exact, rtol=0, atol=1e-6 * scale)


def test_a_variable_that_is_zero_stays_on_its_branch():
    """What its rounding does from step to step is no change of branch, which would reject every step."""
    system, _ = current("stays")
    solution = solve_dae(system, {"x": 0.0}, TS)
    np.testing.assert_allclose(solution.x[:, 1], 0, atol=1e-15)
    assert solution.stats["n_rejected"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("solver", OWN)
@pytest.mark.parametrize(("kind", "scale"), [("stays", 1.0), ("crosses", 1.0), ("starts", 1.0), ("crosses", 1e-9)])
def test_all_solvers(kind, scale, solver):
    system, exact = current(kind, scale)
    np.testing.assert_allclose(OWN[solver](system).x[:, 1], exact, rtol=0, atol=1e-12 * scale)
