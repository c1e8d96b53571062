"""IDA and Radau on DAE systems: they agree with solve_dae, and their failures are marked."""

import sys

import numpy as np
import pytest

from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.outside.ida import solve_ida
from ndae.solvers.outside.implicit_solve import UNTESTED, ImplicitSolve
from ndae.solvers.outside.radau import solve_radau
from ndae.solvers.solution import SolveError
from ndae.symbolic.ground.extras import MissingExtraError
from tests.solvers.dae_cases import blow_up, hessenberg, hessenberg_solution, pendulum, stiff, stiff_solution, valve
from tests.systems import hanging

TS = np.linspace(0, 2, 21)
SOLVERS = {"IDA": solve_ida, "Radau": solve_radau}
PACKAGES = {"IDA": "sksundae.ida", "Radau": "solve_dae.integrate"}


@pytest.fixture(params=SOLVERS)
def solver(request):
    pytest.importorskip(PACKAGES[request.param])
    return SOLVERS[request.param]


@pytest.fixture(scope="module")
def swing():
    return solve_dae(pendulum(), hanging(1.0, 0.5), TS)


@pytest.mark.parametrize("form", ["ggl", "index1"])
def test_pendulum_agrees(solver, swing, form):
    solution = solver(pendulum(), hanging(1.0, 0.5), TS, form=form, rtol=1e-10)
    assert solution.succeeded is True
    np.testing.assert_allclose(solution.x[:, :4], swing.x[:, :4], rtol=0, atol=1e-7)
    np.testing.assert_allclose(solution["lam"], swing["lam"], rtol=1e-7)  # up to 9.5, from squares of velocities
    assert solution.names == swing.names
    assert set(solution.residual) == set(swing.residual)
    drift = solution.max_drift()
    if form == "ggl":  # between its steps IDA interpolates, to about its tolerance; "index1" drifts off
        assert max(drift["level 0"], drift["level 1"]) < 1e-8
    assert drift["level 2"] < 1e-12, "multipliers are solved for from the others"
    assert drift["energy"] < 1e-6
    assert solution.stats["n_steps"] > 20
    assert solution.stats["n_f_evals"] > solution.stats["n_steps"]
    assert solution.stats["n_jacobian_evals"] > 0


def test_outputs_close_together_change_no_step_after_them(solver):
    far = solver(pendulum(), hanging(1.0), [0.0, 2.0])
    close = solver(pendulum(), hanging(1.0), [0.0, 1e-15, 2e-15, 1.0, np.nextafter(1.0, 2.0), 2.0])
    np.testing.assert_allclose(close.x[-1, :4], far.x[-1, :4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["original", "ggl", "index1"])
def test_index_2_agrees(solver, form):
    solution = solver(hessenberg(), [1.0, 0.0, np.nan], TS, form=form, rtol=1e-10)
    np.testing.assert_allclose(solution.x, hessenberg_solution(TS), rtol=0, atol=1e-7)


@pytest.mark.parametrize("form", ["original", "ggl", "index1"])
def test_index_1_agrees(solver, form):
    ts = np.array([0.0, 1e-7, 1e-6, 1e-3, 1.0])
    solution = solver(stiff(), {"x": 1.5}, ts, form=form, rtol=1e-9, parameters={"k": 1e6})
    np.testing.assert_allclose(solution.x, stiff_solution(ts, 0.5), rtol=0, atol=1e-6)
    nonlinear = solver(valve(), {"x": 2.0}, TS, form=form, rtol=1e-9, parameters={"p": 0.5})
    np.testing.assert_allclose(nonlinear["z"], np.exp(-TS / 2), rtol=1e-6)


def test_solvers_of_index_2_refuse_index_3(solver):
    with pytest.raises(ValueError, match="have index 3, and solvers of implicit equations take up to 2; use the form"):
        solver(pendulum(), hanging(1.0), TS, form="original")


def test_multipliers_are_kept_out_of_the_error_test():
    def tolerances(system, start, form, atol=None):
        solve = ImplicitSolve(system, start, TS, form, 1e-8, atol, None, None, None, 1e-8)
        return dict(zip(map(str, solve.form.unknowns), solve.atol, strict=True))

    made = tolerances(pendulum(), hanging(1.0), "ggl")
    assert made.pop("lam") >= UNTESTED
    mu = [name for name in made if name.startswith("mu")]
    assert len(mu) == 1
    assert made.pop(mu[0]) >= UNTESTED
    assert made == dict.fromkeys("xyuv", 1e-8)
    # An algebraic variable of index 1 is watched, one of index 2 is not.
    assert tolerances(valve(), {"x": 2.0}, "original") == {"x": 1e-8, "z": 1e-8}
    assert tolerances(hessenberg(), [1.0, 0.0, np.nan], "original")["z"] >= UNTESTED
    named = tolerances(pendulum(), hanging(1.0), "ggl", {"x": 1e-3, "lam": 1e-3})
    assert (named["x"], named["y"]) == (1e-3, 1e-8)
    assert named["lam"] >= UNTESTED, "not by name either"
    assert tolerances(pendulum(), hanging(1.0), "ggl", [1e-1, 1e-2, 1e-3, 1e-4])["v"] == 1e-4


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [("IDA", "sksundae.ida", "scikit-sundae"), ("Radau", "solve_dae.integrate", "solve-dae")],
)
def test_a_missing_extra_is_named_with_what_to_install(monkeypatch, name, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingExtraError, match=rf"{name} needs the package {install}: pip install 'ndae\[crosscheck\]'"
    ):
        SOLVERS[name](valve(), {"x": 2.0}, TS)
    assert issubclass(MissingExtraError, ImportError)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_blow_up_is_marked(solver):
    ts = np.linspace(0, 2, 20)
    with pytest.raises(SolveError, match="stopped: ") as raised:
        solver(blow_up(), {"x": 1.0}, ts, max_steps=20_000)
    reached = raised.value.solution
    assert not reached.succeeded
    assert reached.n_reached == reached.ts.size == len(reached.x) == 10
    assert np.isfinite(reached.x).all()
    np.testing.assert_allclose(reached["x"], 1 / (1 - reached.ts), rtol=1e-4)
    marked = solver(blow_up(), {"x": 1.0}, ts, max_steps=20_000, throw=False)
    assert marked.result != "successful"
    np.testing.assert_array_equal(marked.x, reached.x)


def test_limits_of_steps_and_time_are_kept(solver):
    few = solver(pendulum(), hanging(1.0), TS, max_steps=30, throw=False)
    assert few.result.startswith("gave up after 30 steps at t = ")
    assert 30 <= few.stats["n_steps"] < 40, "Radau looks after steps that it accepts"
    assert few.n_reached < 21
    short = solver(pendulum(), hanging(1.0), np.linspace(0, 1e5, 3), max_seconds=0.2, throw=False)
    assert short.result == "gave up after 0.2 s"
    assert short.n_reached == 1
    assert np.isfinite(short.x).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": hanging(0.5) | {"x": 0.0}}, "inconsistent at level 0"),
        ({"start": hanging(np.ones(2))}, r"batch shape \(2,\); outside solvers take one at a time"),
        ({"ts": [1.0, 0.0]}, "ts must increase strictly"),
        ({"form": "index0"}, "form 'index0' is not known; choose one of original"),
        ({"rtol": -1.0}, "rtol must be a positive number"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_seconds": 0.0}, "max_seconds must be a positive number"),
        ({"atol": {"w": 1.0}}, "atol: 'pendulum' has no state 'w'; it has x, y, u, v, lam"),
        ({"atol": 0.0}, "atol must be positive"),
        ({"atol": [1e-8, 1e-8]}, r"atol has shape \(2,\); give one number"),
        ({"parameters": {"gravity": 1.0}}, "'pendulum' has no parameter 'gravity'"),
        ({"parameters": {"g": np.nan}}, "parameter 'g' must be finite"),
        ({"system": 3}, "expected a System, got int"),
    ],
)
def test_bad_arguments_are_named(solver, change, message):
    with pytest.raises(ValueError, match=message):
        solver(**{"system": pendulum(), "start": hanging(0.5), "ts": TS} | change)


def test_radau_has_three_numbers_of_stages():
    pytest.importorskip(PACKAGES["Radau"])
    with pytest.raises(ValueError, match="stages must be 3, 5 or 7, got 4"):
        solve_radau(valve(), {"x": 2.0}, TS, stages=4)
    for stages in (3, 5, 7):
        solution = solve_radau(valve(), {"x": 2.0}, TS, stages=stages, rtol=1e-8)
        np.testing.assert_allclose(solution["z"], np.exp(-TS), rtol=1e-5)


def test_digits_of_radau_do_not_end_at_its_coefficients():
    """Those for 7 stages are right to 3e-12 only."""
    pytest.importorskip(PACKAGES["Radau"])
    for rtol in (1e-9, 1e-11):
        solution = solve_radau(valve(), {"x": 2.0}, TS, rtol=rtol)
        np.testing.assert_allclose(solution["z"], np.exp(-TS), rtol=2e-13)
