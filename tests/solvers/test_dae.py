"""solve_dae against closed forms, independent formulations and itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

import ndae
from ndae.solvers.dae.formulations import FORMULATIONS, GGL, Baumgarte
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.solution import SolveError
from ndae.solvers.stepping import kernel as reference_kernel
from tests.solvers.dae_cases import (
    blow_up,
    branches,
    fold,
    hessenberg,
    hessenberg_solution,
    pendulum,
    shaken,
    shrinking,
    stiff,
    stiff_solution,
    stuck,
    t,
    valve,
    x,
    z,
)
from tests.systems import GRAVITY, hanging

TS = np.linspace(0, 2, 21)


def swing(ts, angle, rate=0.0, gravity=GRAVITY):
    """x, y, u, v, lam of the pendulum of unit mass and length, by its equation in the angle."""
    solved = solve_ivp(
        lambda _, s: [s[1], -gravity * np.sin(s[0])], (ts[0], ts[-1]), [angle, rate], "DOP853", ts, rtol=1e-13,
        atol=1e-13,
    )  # fmt: skip
    theta, omega = solved.y
    tension = omega**2 + gravity * np.cos(theta)  # 2 λ
    columns = [np.sin(theta), -np.cos(theta), omega * np.cos(theta), omega * np.sin(theta), tension / 2]
    return np.stack(columns, -1)


@pytest.fixture(scope="module")
def swings():
    """The pendulum from 1.5 rad at rest by every formulation."""
    start = hanging(1.5)
    return {name: solve_dae(pendulum(), start, TS, method=name) for name in FORMULATIONS}


@pytest.fixture(scope="module")
def many():
    """Pendulums from several angles at once."""
    start = hanging(np.array([[0.3, 1.5], [2.5, -1.0]]), np.array([0.0, 2.0]))
    return start, solve_dae(pendulum(), start, TS)


# -- accuracy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMULATIONS)
def test_pendulum_agrees_with_its_equation_in_the_angle(swings, name):
    exact = swing(TS, 1.5)
    np.testing.assert_allclose(swings[name].x[:, :4], exact[:, :4], rtol=0, atol=1e-8)
    np.testing.assert_allclose(swings[name]["lam"], exact[:, 4], rtol=0, atol=1e-7)


@pytest.mark.parametrize("one", FORMULATIONS)
@pytest.mark.parametrize("other", FORMULATIONS)
def test_formulations_agree(swings, one, other):
    if FORMULATIONS.index(one) < FORMULATIONS.index(other):
        assert np.abs(swings[one].x - swings[other].x)[:, :4].max() < 1e-8


@pytest.mark.parametrize("solver", ["kvaerno5", "radau13"])
def test_stiff_system_of_index_1(solver):
    ts = np.array([0.0, 1e-7, 1e-6, 1e-5, 0.1, 1.0, 5.0])
    solution = solve_dae(stiff(), {"x": 1.5}, ts, integrator=solver, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(solution.x, stiff_solution(ts, 0.5), rtol=0, atol=1e-8)
    assert solution.stats["n_steps"] < 2000
    assert solution.stats["n_jacobian_evals"] > 0
    explicit = solve_dae(stiff(), {"x": 1.5}, ts, rtol=1e-8, max_steps=20_000, throw=False)
    assert "max_steps = 20000" in explicit.result, "an explicit method is held back by its stability"
    assert "radau13" in explicit.result


@pytest.mark.parametrize(("solver", "formulation"), [("dopri8", "projection"), ("kvaerno5", "plain")])
def test_hessenberg_system_of_index_2(solver, formulation):
    assert hessenberg().index == 2
    solution = solve_dae(hessenberg(), [1.0, 0.0, np.nan], TS, integrator=solver, method=formulation)
    np.testing.assert_allclose(solution.x, hessenberg_solution(TS), rtol=0, atol=2e-9)
    assert solution.residual["level 0"].shape == (21, 1)
    np.testing.assert_array_equal(solution.groups["algebraic"], [2])


def test_nonlinear_algebraic_variable():
    solution = solve_dae(valve(), {"x": 2.0}, TS)
    np.testing.assert_allclose(solution["z"], np.exp(-TS), rtol=1e-9)
    np.testing.assert_allclose(solution["x"], np.exp(-3 * TS) + np.exp(-TS), rtol=1e-9)


def test_a_guess_chooses_the_branch_and_the_solve_stays_on_it():
    both = solve_dae(branches(), {"x": 1.0, "z": [1.0, -1.0]}, TS)
    np.testing.assert_allclose(both["z"], [np.exp(-TS), -np.exp(-TS)], rtol=1e-9)


def test_long_steps_leave_no_branch():
    """sin z = 0.99 sin 20 t, near which other branches are: Newton's steps from the last value would reach them."""
    system = ndae.System([ndae.dot(x) - 20 * sp.cos(20 * t), sp.sin(z) - 0.99 * x], [x, z], {}, t, name="arcsine")
    ts = np.linspace(0, 3, 4)
    solution = solve_dae(system, {"x": 0.0, "z": 2 * np.pi}, ts, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(solution["z"], 2 * np.pi + np.arcsin(0.99 * np.sin(20 * ts)), rtol=0, atol=1e-2)


def test_inputs_that_depend_on_time():
    """The shaken pendulum, not from time zero, against its equation in the angle."""
    shake, speed, ts = 0.3, 4.0, np.linspace(0.5, 2.5, 11)

    def derivative(t, s):
        return [s[1], -GRAVITY * np.sin(s[0]) + shake * speed**2 * np.sin(speed * t) * np.cos(s[0])]

    theta, omega = solve_ivp(derivative, (0.5, 2.5), [0.4, 0.2], "DOP853", ts, rtol=1e-13, atol=1e-13).y
    support, moving = shake * np.sin(speed * ts), shake * speed * np.cos(speed * ts)
    exact = np.stack([support + np.sin(theta), -np.cos(theta), moving + omega * np.cos(theta), omega * np.sin(theta)])
    start = dict(zip("xyuv", exact[:, 0], strict=True))
    solution = solve_dae(shaken(), start, ts, parameters={"speed": speed})
    np.testing.assert_allclose(solution.x[:, :4], exact.T, rtol=0, atol=1e-8)
    assert max(solution.max_drift().values()) < 1e-12


# -- drift-off ---------------------------------------------------------------------------------------------------------


def test_plain_drifts_off_and_the_others_less(swings):
    ts = np.linspace(0, 20, 21)
    drift = {name: solve_dae(pendulum(), hanging(1.5), ts, method=name, rtol=1e-8).max_drift() for name in FORMULATIONS}
    for level in ("level 0", "level 1"):
        assert drift["plain"][level] > 1e-8
        assert drift["projection"][level] < 1e-12
        assert drift["baumgarte"][level] < 0.3 * drift["plain"][level]
    # Its multipliers hold the level of positions; the one of velocities drifts as by "plain".
    assert drift["ggl"]["level 0"] < 0.1 * drift["plain"]["level 0"]
    for name in FORMULATIONS:
        assert drift[name]["level 2"] < 1e-10 or name == "baumgarte", "what multipliers are solved from"
    held = swings["projection"].max_drift()
    assert max(held["level 0"], held["level 1"]) < 1e-12


def test_baumgarte_damps_at_the_rate_it_is_given():
    """c̈ + 2αċ + α²c = 0 from c = 0, ċ = ε gives c = ε t exp(-αt)."""
    start = hanging(0.0) | {"v": 1e-9}  # along the link: ċ = 2 y v
    ts = np.linspace(0, 0.5, 11)
    for alpha in (2.0, 20.0):
        solution = solve_dae(pendulum(), start, ts, method=Baumgarte(alpha), atol=1e-16, rtol=1e-10)
        expected = -2e-9 * ts * np.exp(-alpha * ts)
        np.testing.assert_allclose(solution.residual["level 0"][:, 0], expected, rtol=0, atol=2e-14)


# -- batches and parameters --------------------------------------------------------------------------------------------


def test_each_of_a_batch_is_solved_as_if_alone(many):
    start, batch = many
    assert batch.x.shape == (2, 2, 21, 5)
    assert batch.result.shape == batch.n_reached.shape == batch.stats["n_steps"].shape == (2, 2)
    assert batch.residual["level 1"].shape == (2, 2, 21, 1)
    assert batch.invariants["energy"].shape == (2, 2, 21)
    for index in np.ndindex(2, 2):
        own = {name: np.broadcast_to(value, (2, 2))[index] for name, value in start.items()}
        alone = solve_dae(pendulum(), own, TS)
        np.testing.assert_allclose(batch.x[index], alone.x, rtol=0, atol=1e-12)
        assert batch.stats["n_steps"][index] == alone.stats["n_steps"]


def test_neighbours_change_nothing(many):
    start, batch = many
    others = {name: np.broadcast_to(value, (2, 2)).copy() for name, value in start.items()}
    for name, value in hanging(3.0, 9.0).items():
        others[name][0, 1] = value
    again = solve_dae(pendulum(), others, TS)
    kept = np.array([[True, False], [True, True]])
    np.testing.assert_array_equal(again.x[kept], batch.x[kept])
    assert np.abs(again.x[0, 1] - batch.x[0, 1]).max() > 0.1


def test_a_bad_start_is_the_result_of_its_sample_alone(many):
    start, batch = many
    some = {name: np.broadcast_to(value, (2, 2)).copy() for name, value in start.items()}
    some["x"][0, 1] += 0.5
    some["u"][1, 0] = np.nan
    found = solve_dae(pendulum(), some, TS, throw=False)
    good = np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(found.succeeded, good)
    assert "the start (0, 1) of 'pendulum' is inconsistent at level 0" in found.result[0, 1]
    assert found.result[1, 0].startswith("start (1, 0) gives no value for u")
    np.testing.assert_array_equal(found.n_reached, np.where(good, 21, 0))
    np.testing.assert_array_equal(found.stats["n_steps"], np.where(good, batch.stats["n_steps"], 0))
    np.testing.assert_array_equal(found.x[good], batch.x[good])
    for values in (found.x, found.energy, *found.residual.values()):
        assert np.isnan(values[~good]).all() and np.isfinite(values[good]).all()
    with pytest.raises(ValueError, match=r"the start \(0, 1\) of 'pendulum' is inconsistent at level 0"):
        solve_dae(pendulum(), some, TS)
    del some["u"], some["v"]  # of nobody: a mistake of the call, not of a sample
    with pytest.raises(ValueError, match="start gives no value for u, v"):
        solve_dae(pendulum(), some, TS, throw=False)


def test_where_no_start_is_good_nothing_begins():
    off = {name: np.ones(2) for name in "xyuv"}
    none = solve_dae(pendulum(), off, TS, throw=False, parameters={"g": np.array([9.0, 10.0])})
    assert none.x.shape == (2, 1, 5) and np.isnan(none.x).all() and none.ts.tolist() == [0.0]
    assert none.n_reached.tolist() == [0, 0] and all("inconsistent at level 0" in reason for reason in none.result)
    one = solve_dae(pendulum(), {name: 1.0 for name in "xyuv"}, TS, throw=False)
    assert one.x.shape == (1, 5) and one.n_reached == 0 and one.stats["n_steps"] == 0 and not one.succeeded
    assert one.result.startswith("the start of 'pendulum' is inconsistent at level 0") and np.isnan(one.energy).all()


def test_batches_over_parameters_alone_and_with_starts():
    gravity, lengths = np.array([1.6, 9.81, 20.0]), np.array([[1.0], [2.0]])
    moon = solve_dae(pendulum(), hanging(1.0), TS, parameters={"g": gravity})
    assert moon.x.shape == (3, 21, 5)
    for i, g in enumerate(gravity):
        np.testing.assert_allclose(moon.x[i, :, :4], swing(TS, 1.0, gravity=g)[:, :4], rtol=0, atol=1e-8)
        alone = solve_dae(pendulum(), hanging(1.0), TS, parameters={"g": g})
        np.testing.assert_allclose(moon.x[i], alone.x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(moon.invariants["energy"][i], alone.energy, rtol=0, atol=1e-12)
    # A link of 2 m moves as one of 1 m under half the gravity, twice as large; the multiplier here is tension / 2 L.
    starts = hanging(np.full((2, 3), 1.0), length=lengths)
    both = solve_dae(pendulum(), starts, TS, parameters={"g": gravity, "L": lengths})
    assert both.x.shape == (2, 3, 21, 5)
    np.testing.assert_allclose(both.x[0], moon.x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(both.x[1, 1, :, :4], 2 * swing(TS, 1.0, gravity=9.81 / 2)[:, :4], rtol=0, atol=2e-8)
    assert max(map(np.max, both.max_drift().values())) < 1e-8


# -- the solution ------------------------------------------------------------------------------------------------------


def test_the_solution_carries_everything(swings):
    solution = swings["projection"]
    x, y, u, v, lam = solution.x.T
    assert solution.names == ("x", "y", "u", "v", "lam")
    np.testing.assert_array_equal(solution.q, solution.x[:, :2])
    np.testing.assert_array_equal(solution.v, solution.x[:, 2:4])
    np.testing.assert_array_equal(solution.multiplier[:, 0], lam)
    np.testing.assert_allclose(solution.residual["level 0"][:, 0], x**2 + y**2 - 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(solution.residual["level 1"][:, 0], 2 * (x * u + y * v), rtol=0, atol=1e-14)
    accelerations = 2 * (u**2 + v**2 - 2 * lam * (x**2 + y**2) - GRAVITY * y)
    np.testing.assert_allclose(solution.residual["level 2"][:, 0], accelerations, rtol=0, atol=1e-13)
    np.testing.assert_allclose(solution.energy, (u**2 + v**2) / 2 + GRAVITY * y, rtol=0, atol=1e-14)
    assert solution.stats["n_steps"] == solution.stats["n_accepted"] + solution.stats["n_rejected"]
    assert solution.stats["n_f_evals"] >= 12 * solution.stats["n_steps"]
    assert solution.result == "successful"
    assert solution.succeeded is True
    assert solution.n_reached == 21
    np.testing.assert_array_equal(solution.ts, TS)


def test_64_bits_are_switched_on_inside_alone():
    with jax.enable_x64(False):
        solution = solve_dae(valve(), {"x": 2.0}, TS)
        assert jnp.ones(2).dtype == jnp.float32
    assert solution.x.dtype == np.float64
    np.testing.assert_allclose(solution["z"], np.exp(-TS), rtol=1e-9)


def test_chunks_change_no_result(swings, monkeypatch):
    monkeypatch.setattr(reference_kernel, "_CHUNK_OUTPUTS", 8)
    seen = []
    chunked = solve_dae(pendulum(), hanging(1.5), TS, progress=lambda *news: seen.append(news))
    np.testing.assert_array_equal(chunked.x[:, :4], swings["projection"].x[:, :4])
    assert chunked.stats == swings["projection"].stats
    assert [fraction for fraction, _ in seen] == pytest.approx([0.4, 0.8, 1.0])


def test_absolute_tolerances_by_name():
    """A small variable is followed to its own digits only where its tolerance says so."""
    coarse = solve_dae(valve(), {"x": 2.0}, [0.0, 20.0], atol=1e-3, rtol=1e-6)
    fine = solve_dae(valve(), {"x": 2.0}, [0.0, 20.0], atol={"x": 1e-17}, rtol=1e-6)
    exact = np.exp(-60.0) + np.exp(-20.0)
    assert abs(fine["x"][-1] / exact - 1) < 1e-4 < abs(coarse["x"][-1] / exact - 1)
    by_array = solve_dae(valve(), {"x": 2.0}, [0.0, 20.0], atol=[1e-17], rtol=1e-6)
    np.testing.assert_array_equal(by_array.x, fine.x)


def test_public_names():
    assert ndae.solve is ndae.solvers.solve
    assert ndae.solvers.Baumgarte is Baumgarte
    assert {"flow", "ConsistentStart", "consistent_initial_condition", "solve"} <= set(dir(ndae))
    assert "GGL" in dir(ndae.solvers)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "start", "end", "reason"),
    [
        (fold, {"x": -1.0, "z": -1.3247179572447460}, 1 + 2 / np.sqrt(27), "equations for z become singular"),
        (blow_up, {"x": 1.0}, 1.0, "x = .* seems to grow without bound"),
        (stuck, {"x": 1.0}, 0.125, "equations for z become singular|z = .* seems to grow without bound"),
        (shrinking, {"x": 0.0, "y": -1.0, "u": 0.5, "v": 1.0}, 1.0, "(x|y|u|v|lam) = .* seems to grow without bound"),
    ],
)
def test_a_singularity_ends_the_solve_with_place_and_cause(system, start, end, reason):
    ts = np.linspace(0, 2 * end, 20)  # none at the singularity
    options = {"integrator": "kvaerno5" if system is blow_up else "dopri8", "rtol": 1e-8, "max_steps": 10_000}
    with pytest.raises(SolveError, match=reason) as raised:
        solve_dae(system(), start, ts, **options)
    assert f"the solve of {system().name!r} stopped: " in str(raised.value)
    stopped = float(str(raised.value).split("t = ")[1].split(" ")[0].rstrip(";:"))
    assert stopped == pytest.approx(end, rel=1e-3)
    marked = solve_dae(system(), start, ts, **options, throw=False)
    assert not marked.succeeded
    assert marked.n_reached == marked.ts.size == len(marked.x) == 10
    assert np.isfinite(marked.x).all()
    assert all(np.isfinite(level).all() for level in marked.residual.values())
    np.testing.assert_array_equal(marked.x, raised.value.solution.x)


def test_one_that_stops_does_not_stop_the_others():
    ts = np.linspace(0, 2, 20)
    both = solve_dae(blow_up(), {"x": [1.0, -1.0, 1.0]}, ts, throw=False)
    np.testing.assert_array_equal(both.succeeded, [False, True, False])
    np.testing.assert_allclose(both["x"][1], -1 / (1 + ts), rtol=1e-9)
    n = both.n_reached[0]
    assert n == 10
    np.testing.assert_array_equal(both.x[0, n:], np.broadcast_to(both.x[0, n - 1], (20 - n, 2)))
    assert np.isfinite(both.x).all()
    with pytest.raises(SolveError, match=r"2 of 3 solves of 'blow-up' stopped; start \(0,\): .* t = 1"):
        solve_dae(blow_up(), {"x": [1.0, -1.0, 1.0]}, ts)


def test_too_few_steps(swings):
    needed = swings["projection"].stats["n_steps"]
    assert solve_dae(pendulum(), hanging(1.5), TS, max_steps=needed).succeeded
    with pytest.raises(SolveError, match=f"max_steps = {needed - 1} attempts were spent at t = 1.*raise max"):
        solve_dae(pendulum(), hanging(1.5), TS, max_steps=needed - 1)


# -- arguments ---------------------------------------------------------------------------------------------------------

START = hanging(0.5)
ALGEBRAIC = ndae.System([sp.Symbol("z") ** 3 - 8], [sp.Symbol("z")], name="algebraic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ts": [0.0]}, r"ts has shape \(1,\); give a vector of at least two"),
        ({"ts": [0.0, 1.0, 1.0]}, r"ts must increase strictly, but ts\[1\] = 1 and ts\[2\] = 1"),
        ({"ts": [0.0, np.inf]}, r"ts must be finite, but ts\[1\] = inf"),
        ({"rtol": 0.0}, "rtol must be a positive number, got 0"),
        ({"start_tol": -1.0}, "start_tol must be a positive number"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"integrator": "rk4"}, "integrator 'rk4' is not known; choose one of dopri8"),
        ({"method": "index1"}, "method 'index1' is not known; choose one of projection, plain"),
        ({"method": GGL}, "method .*GGL.* is not known"),
        ({"atol": 0.0}, "atol must be positive, got 0"),
        ({"atol": np.nan}, "atol must be finite"),
        ({"atol": [1e-9, 1e-9]}, r"atol has shape \(2,\); give one number.* \(4,\) over the differential .*x, y, u, v"),
        ({"atol": {"w": 1e-9}}, "atol: 'pendulum' has no state 'w'; it has x, y, u, v, lam"),
        ({"parameters": {"gravity": 1.0}}, "'pendulum' has no parameter 'gravity'; it has m, g, L"),
        ({"parameters": {"g": np.nan}}, "parameter 'g' must be finite"),
        ({"system": shaken(), "start": START}, r"no value of speed; give parameters=\{'speed'"),
        ({"system": 3}, "expected a System, got int"),
        ({"system": ALGEBRAIC, "start": {}}, "no differential variable, so there is nothing to integrate"),
        ({"start": [0.0, -1.0, 0.0, 0.0]}, r"start has shape \(4,\); expected \(\*batch, 5\).*x, y, u, v, lam"),
        ({"start": START | {"w": 1.0}}, "start: 'pendulum' has no state 'w'; it has"),
        (
            {"start": {"x": 0.0, "y": -1.0}},
            "start gives no value for u, v, which the equations of 'pendulum' do not determine",
        ),
        ({"start": START | {"x": np.nan}}, "start gives no value for x"),
        ({"start": START | {"x": np.inf}}, "start must be finite, but x is not"),
        ({"start": START | {"x": "left"}}, r"start\['x'\] must be an array of numbers"),
        ({"start": START | {sp.Symbol("x"): 1.0}}, "start gives x twice"),
        ({"start": np.zeros((0, 5))}, "an empty batch; give at least one start"),
        ({"parameters": {"g": np.zeros(0)}}, "an empty batch; give at least one start"),
        (
            {"start": START | {"x": [0.1, 0.2], "y": [1.0, 2.0, 3.0]}},
            r"batch shapes do not go together: start\['x'\] \(2,\), start\['y'\] \(3,\)",
        ),
        (
            {"start": hanging(np.ones(2)), "parameters": {"g": np.ones(3)}},
            r"batch shapes do not go together: start \(2,\), parameter 'g' \(3,\)",
        ),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"system": pendulum(), "start": START, "ts": [0.0, 1.0]} | change
    with pytest.raises(ValueError, match=message):
        solve_dae(**arguments)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.inf])
def test_baumgarte_refuses_other_rates(alpha):
    with pytest.raises(ValueError, match="alpha must be a positive rate"):
        Baumgarte(alpha)
