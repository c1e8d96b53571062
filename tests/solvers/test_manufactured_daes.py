"""Random DAEs with known solutions through all formulations and solvers: right, or refused in a sentence; none wrong.

Each has 301 outputs, at some of which unknowns are exactly zero, and all states count: multipliers and algebraic
variables as well. Two of five have the scale 1; the others have states and equations of scales from 1e-9 to 1e9.
"""

from functools import cache

import numpy as np
import pytest

from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch
from ndae.solvers.dae.start import resolve_start
from ndae.solvers.outside.ida import solve_ida
from ndae.solvers.outside.radau import solve_radau
from ndae.solvers.solution import SolveError
from tests.solvers.manufactured import SPAN, manufactured

TS = np.linspace(*SPAN, 301)
SAMPLE = [1, 2, 3, 4, 13, 18]
MANY = range(64)
#: Ranks at unknowns of size one say nothing in these: combinations with coefficients of 1e-16, terms that cancel but
#: for rounding, a cube of 1e35, a regular block with a small cycle.
UNLIKE = [17, 22, 34, 49, 53, 134, 147, 148, 158, 179, 238]
OWN = [
    ("projection", "dopri8"),
    ("ggl", "dopri8"),
    ("baumgarte", "dopri5"),
    ("plain", "dopri8"),
    ("projection", "radau13"),
    ("ggl", "kvaerno5"),
    ("torch", "dopri8"),
]
made = cache(manufactured)


def is_wide(seed):
    return any(scale != 1 for scale in made(seed).scales.values())


def check(seed, solve, tolerance):
    """All states at all outputs, each in units of its own; a refusal is none at scale 1, and elsewhere says so."""
    case = made(seed)
    try:
        solution = solve(case)
    except SolveError as error:
        if not is_wide(seed):
            raise
        pytest.skip(f"refused: {error}")
    error = np.abs(solution.x - case.states(TS)) / case.units()
    worst = dict(zip(solution.names, error.max(axis=0), strict=True))
    assert error.max() < tolerance, f"{case.system.name}: {worst}"


def tolerances(case, rtol):
    return {"rtol": rtol, "atol": {s.name: rtol * scale for s, scale in case.scales.items()}}


def outside(name, form):
    solve = {"ida": solve_ida, "radau": solve_radau}[name]
    return lambda case: solve(case.system, case.start, TS, form=form, **tolerances(case, 1e-8))


def own(formulation, solver):
    rtol = 1e-8 if solver == "kvaerno5" else 1e-10
    if formulation == "torch":
        return lambda case: solve_torch(case.system, case.start, TS, integrator=solver, **tolerances(case, rtol))
    return lambda case: solve_dae(
        case.system, case.start, TS, method=formulation, integrator=solver, max_steps=20_000, **tolerances(case, rtol)
    )


def check_leading(seed):
    """Everything that the equations determine from the exact differential variables, at all outputs at once."""
    case = made(seed)
    functions, y = case.system.reduce().numpy(), case.y(TS)
    w, good = functions.solve_leading(y, TS)
    assert good.all(), f"{case.system.name}: not found at t = {TS[~good]}"
    error = np.abs(functions.states(y, w, TS) - case.states(TS)) / case.units()
    assert error.max() < 1e-11, f"{case.system.name}: {error.max(axis=0)} of {case.system.states}"
    y0, _ = resolve_start(case.system, case.start, SPAN[0], None, 1e-8)
    np.testing.assert_allclose(y0, y[0], rtol=1e-12, atol=1e-14 * np.abs(y[0]).max())


@pytest.mark.parametrize("seed", SAMPLE)
def test_leading_unknowns(seed):
    check_leading(seed)


@pytest.mark.parametrize("seed", UNLIKE)
def test_unlike_scales_are_no_reason_to_refuse(seed):
    """Index and degrees of freedom are those of the system at scale 1."""
    reduced = made(seed).system.reduce()
    assert reduced.index == [1, 2, 3, 3][seed % 4]
    assert len(reduced.y) - len(reduced.constraints) == [2, 1, 2, 2][seed % 4]
    check_leading(seed)


@pytest.mark.parametrize("seed", SAMPLE)
def test_solvers_of_other_makers(seed):
    check(seed, outside("ida", "index1"), 1e-4)
    check(seed, outside("radau", "dummy"), 1e-6)


def test_a_solver_that_fails_at_unlike_scales_names_them():
    case = made(7)
    with pytest.raises(SolveError, match=r"IDA stopped: .*; its unknowns are of unlike sizes, from .* to .*: write"):
        solve_ida(case.system, case.start, TS, form="ggl", **tolerances(case, 1e-8))


def test_one_of_index_3_with_mixed_rows():
    check(2, own("projection", "dopri8"), 1e-8)


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_leading_unknowns_of_many(seed):
    check_leading(seed)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ggl", "index1", "dummy"])
@pytest.mark.parametrize("seed", MANY)
def test_solvers_of_other_makers_on_many(seed, form, request):
    if (seed, form) == (57, "dummy"):
        # 3269 steps where 132 do at rtol 1e-10, their local errors add up to 2e-4; with either Newton iteration.
        request.applymarker(pytest.mark.xfail(reason="IDA stays at order 1", raises=AssertionError, strict=True))
    check(seed, outside("ida", form), 1e-4)
    check(seed, outside("radau", form), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_own_solvers_on_many(seed):
    """Two of them each: compiling is what takes the time."""
    for shift in (0, 3):
        formulation, solver = OWN[(seed // 2 + shift) % len(OWN)]
        check(seed, own(formulation, solver), 1e-5 if solver == "kvaerno5" else 1e-6)


def test_what_is_made_is_what_it_says():
    """All indices, unlike scales and scale 1, unknowns that are zero at outputs: none left out by chance."""
    cases = [made(seed) for seed in range(20)]
    assert {made(seed).system.reduce().index for seed in SAMPLE[:4]} == {1, 2, 3}
    scales = [scale for case in cases for scale in case.scales.values()]
    assert min(scales) == 1e-9 and max(scales) >= 1e8 and scales.count(1.0) > 20
    zero = [(np.abs(x) < 1e-12 * case.scales[s]).any() for case in cases for s, x in _columns(case)]
    assert sum(zero) > 8


def _columns(case):
    return zip(case.system.states, case.states(TS).T, strict=True)
