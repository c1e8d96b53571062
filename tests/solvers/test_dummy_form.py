"""The dummy derivative form of a pendulum, solved by IDA and Radau near the point at which it was chosen."""

import numpy as np
import pytest

from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.outside.ida import solve_ida
from ndae.solvers.outside.radau import solve_radau
from ndae.solvers.solution import SUCCESS
from tests.systems import link

pytest.importorskip("sksundae")
pytest.importorskip("solve_dae")

PENDULUM = link()
# Hanging low, where y is determined by the constraint, and out to the side, where x is.
STARTS = {"low": {"x": 0.6, "y": -0.8, "u": 0.4, "v": 0.3}, "side": {"x": 0.96, "y": -0.28, "u": 0.0, "v": 0.0}}
TS = np.linspace(0.0, 0.2, 5)
CALL = {"parameters": {"length": 1.0}}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(("solve", "close", "drift"), [(solve_ida, 1e-7, 1e-8), (solve_radau, 1e-10, 1e-12)])
def test_near_the_point(solve, close, drift, start):
    """IDA interpolates between its steps, which the drift at its outputs shows."""
    reference = solve_dae(PENDULUM, STARTS[start], TS, rtol=1e-12, **CALL)
    found = solve(PENDULUM, STARTS[start], TS, form="dummy", rtol=1e-10, **CALL)
    np.testing.assert_allclose(found.x, reference.x, rtol=close, atol=close)
    for level in ("level 0", "level 1", "level 2"):
        assert np.abs(found.residual[level]).max() < drift


def test_far_from_the_point_the_solve_ends_with_a_reason():
    """y was chosen as the free variable, and where the pendulum hangs straight down it no longer determines x."""
    found = solve_radau(
        PENDULUM, STARTS["side"], np.linspace(0, 2, 9), form="dummy", rtol=1e-8, throw=False, max_steps=3000, **CALL
    )
    assert found.result != SUCCESS and np.isfinite(found.x[: len(found.ts)]).all()
    assert found.ts[-1] < 1.0
