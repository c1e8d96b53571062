"""Reference solutions against independent formulations, hand calculations and themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp

from ndae.solvers import consistent_initial_condition, solve
from ndae.solvers.solution import SolveError
from ndae.solvers.stepping import kernel as reference_kernel
from ndae.symbolic import Constraint, Function, System, library, point
from tests.solvers.pendulum_oracle import motion_in_angles

GRAVITY = 9.82
POTENTIAL_RANGE = GRAVITY * 15  # five unit masses between the horizontal and straight down (J)


def from_angles(theta, omega=None):
    """(q, v) of a chain of unit links at angles (..., n) from straight down."""
    theta = np.asarray(theta, dtype=float)
    omega = np.zeros_like(theta) if omega is None else omega
    flat = (*theta.shape[:-1], -1)
    q = np.cumsum(np.stack([np.sin(theta), -np.cos(theta)], axis=-1), axis=-2)
    v = np.cumsum(np.stack([np.cos(theta), np.sin(theta)], axis=-1) * omega[..., None], axis=-2)
    return q.reshape(flat), v.reshape(flat)


def start_at(theta) -> dict:
    return dict(zip("qv", from_angles(theta), strict=True))


HORIZONTAL = start_at(np.full(5, np.pi / 2))
CALM = start_at(np.linspace(0.3, 0.8, 5))


@pytest.fixture(scope="module")
def pendulum():
    return library.chain_pendulum(5)


@pytest.fixture(scope="module")
def single():
    return library.chain_pendulum(1)


@pytest.fixture(scope="module")
def five_seconds(pendulum):
    return solve(pendulum, HORIZONTAL, 0.01 * np.arange(501))


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_agrees_with_an_independent_formulation_in_angles(five_seconds):
    r, v = motion_in_angles(np.full(5, np.pi / 2), five_seconds.ts, GRAVITY)
    assert np.abs(five_seconds.q.reshape(r.shape) - r).max() < 1e-8
    assert np.abs(five_seconds.v.reshape(v.shape) - v).max() < 1e-8


def test_all_three_levels_and_energy_hold_at_every_output(five_seconds):
    links = np.diff(five_seconds.q.reshape(-1, 5, 2), axis=1, prepend=np.zeros((501, 1, 2)))
    rates = np.diff(five_seconds.v.reshape(-1, 5, 2), axis=1, prepend=np.zeros((501, 1, 2)))
    assert np.abs(np.linalg.norm(links, axis=-1) - 1).max() < 1e-14
    assert np.abs((links * rates).sum(-1)).max() < 1e-13
    np.testing.assert_allclose(
        five_seconds.residual["position"], np.linalg.norm(links, axis=-1) - 1, rtol=0, atol=1e-15
    )
    drift = five_seconds.max_drift()
    assert drift["acceleration"] < 1e-11
    assert drift["energy"] < 1e-9
    energy = 0.5 * (five_seconds.v**2).sum(-1) + GRAVITY * five_seconds.q[:, 1::2].sum(-1)
    np.testing.assert_allclose(five_seconds.energy, energy, atol=1e-12)


def test_hundred_thousand_samples_keep_links_and_energy(pendulum):
    """The issue's bounds: every link within 1e-10 m at every sample, energy within 1e-6 of the potential range."""
    solution = solve(pendulum, HORIZONTAL, 0.01 * np.arange(100_000))
    links = np.diff(solution.q.reshape(-1, 5, 2), axis=1, prepend=np.zeros((100_000, 1, 2)))
    assert np.abs(np.linalg.norm(links, axis=-1) - 1).max() < 1e-10
    energy = 0.5 * (solution.v**2).sum(-1) + GRAVITY * solution.q[:, 1::2].sum(-1)
    assert np.abs(energy - energy[0]).max() < 1e-6 * POTENTIAL_RANGE
    assert np.isfinite(solution.multiplier).all()
    assert solution.result == "successful"


@pytest.mark.parametrize(("solver", "order"), [("kvaerno5", 5), ("dopri8", 8)])
def test_projection_keeps_the_order_of_every_solver(pendulum, solver, order):
    """With no error control each interval between outputs is one step, so the outputs set the step size."""
    exact, _ = motion_in_angles(np.linspace(0.3, 0.8, 5), np.array([0.0, 1.0]), GRAVITY)
    intervals = np.array([5, 10, 20] if order == 8 else [10, 20, 40])
    errors = []
    for n in intervals:
        solution = solve(pendulum, CALM, np.linspace(0, 1, n + 1), by=solver, rtol=1e6, atol=1e6)
        assert solution.stats["n_steps"] <= n + 2
        errors.append(np.abs(solution.q[-1] - exact[-1].ravel()).max())
    slope = -np.polyfit(np.log(intervals), np.log(errors), 1)[0]
    assert slope > order - 0.5, errors


def test_error_follows_the_tolerance(pendulum):
    exact, _ = motion_in_angles(np.linspace(0.3, 0.8, 5), np.array([0.0, 1.0]), GRAVITY)
    tolerances = 10.0 ** -np.arange(3, 12)
    errors = np.array(
        [
            np.abs(solve(pendulum, CALM, [0.0, 1.0], by="dopri5", rtol=tol, atol=tol).q[-1] - exact[-1].ravel()).max()
            for tol in tolerances
        ]
    )
    assert (errors < 20 * tolerances).all(), errors
    assert np.polyfit(np.log(tolerances), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.15)


def test_without_projection_it_drifts_off_and_with_projection_it_does_not(pendulum):
    ts = np.linspace(0, 20, 41)
    settings = {"by": "dopri5", "rtol": 1e-6, "atol": 1e-6}
    held = solve(pendulum, CALM, ts, **settings).max_drift()
    free = solve(pendulum, CALM, ts, method="plain", **settings)
    assert held["position"] < 1e-14
    assert held["velocity"] < 1e-13
    assert free.max_drift()["position"] > 1e-6
    assert free.max_drift()["velocity"] > 1e-6
    size = np.abs(free.residual["position"]).max(-1)
    assert size[20:].max() > 2 * size[:6].max(), "drift-off grows with time"


def test_multipliers_of_a_hanging_chain_are_the_weights_below(single):
    mass = np.array([1.0, 2.0, 0.5])
    q0, v0 = from_angles(np.zeros(3))
    solution = solve(library.chain_pendulum(3, mass=list(mass)), {"q": q0, "v": v0}, [0.0, 0.5, 1.0])
    tension = GRAVITY * np.cumsum(mass[::-1])[::-1]
    np.testing.assert_allclose(solution.multiplier, np.broadcast_to(tension, (3, 3)), rtol=1e-13)
    np.testing.assert_allclose(solution.q, np.broadcast_to(q0, (3, 6)), atol=1e-14)


def test_constraint_that_moves_with_time():
    """A pendulum whose support is shaken, against its equation in the angle."""
    x, y, t, shake, rate = sp.symbols("x y t shake rate")
    rod = Constraint(
        [sp.sqrt((x - shake * sp.sin(rate * t)) ** 2 + y**2) - 1], [x, y], {shake: 0.3, rate: 4.0}, t, "rod"
    )
    p = point("p", 2)
    weight = Function.template([GRAVITY * p[1]], [p], [(0,)], name="weight")
    system = System.of_points(rod, 1.0, weight, name="shaken pendulum")

    def derivative(t, y):
        return [y[1], -GRAVITY * np.sin(y[0]) + 0.3 * 16 * np.sin(4 * t) * np.cos(y[0])]

    ts = np.linspace(0.5, 3.5, 31)
    theta, omega = solve_ivp(derivative, (0.5, 3.5), [0.4, 0.2], "DOP853", ts, rtol=1e-13, atol=1e-13).y
    support, speed = 0.3 * np.sin(4 * ts), 1.2 * np.cos(4 * ts)
    q = np.stack([support + np.sin(theta), -np.cos(theta)], -1)
    v = np.stack([speed + omega * np.cos(theta), omega * np.sin(theta)], -1)
    solution = solve(system, {"q": q[0], "v": v[0]}, ts)
    np.testing.assert_allclose(solution.q, q, atol=1e-9)
    np.testing.assert_allclose(solution.v, v, atol=1e-8)
    assert max(solution.max_drift()[level] for level in ("position", "velocity", "acceleration")) < 1e-12
    with pytest.raises(ValueError, match=r"velocity level.*1\.2"):
        solve(system, {"q": [1.0, 0.0], "v": [0.0, 0.0]}, [0.0, 1.0])


# -- chunks, batches, settings -----------------------------------------------------------------------------------------


def test_chunks_change_no_result(pendulum, five_seconds, monkeypatch):
    monkeypatch.setattr(reference_kernel, "_CHUNK_OUTPUTS", 37)
    chunked = solve(pendulum, HORIZONTAL, five_seconds.ts)
    np.testing.assert_array_equal(chunked.q, five_seconds.q)
    np.testing.assert_array_equal(chunked.v, five_seconds.v)
    # Evaluated at the same states, by code that is vectorised over other lengths.
    np.testing.assert_allclose(chunked.multiplier, five_seconds.multiplier, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(chunked.energy, five_seconds.energy, rtol=0, atol=1e-12)
    assert chunked.stats == five_seconds.stats


def test_a_longer_solve_begins_with_the_shorter_one(pendulum, five_seconds):
    longer = solve(pendulum, HORIZONTAL, 0.01 * np.arange(1501))
    np.testing.assert_array_equal(longer.q[:501], five_seconds.q)
    np.testing.assert_array_equal(longer.v[:501], five_seconds.v)


def test_each_of_a_batch_is_solved_as_if_alone(single):
    theta = np.array([[0.1, 1.0, 2.0], [3.0, -1.0, 0.5]])[..., None]
    omega = np.array([[0.0, 1.0, -2.0], [8.0, 0.0, 20.0]])[..., None]
    q0, v0 = from_angles(theta, omega)
    ts = np.linspace(0, 1, 11)
    batch = solve(single, {"q": q0, "v": v0}, ts)
    assert batch.q.shape == (2, 3, 11, 2)
    assert batch.multiplier.shape == (2, 3, 11, 1)
    assert batch.energy.shape == (2, 3, 11)
    assert batch.result.shape == batch.stats["n_steps"].shape == batch.n_reached.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = solve(single, {"q": q0[index], "v": v0[index]}, ts)
        np.testing.assert_allclose(batch.q[index], alone.q, rtol=0, atol=1e-11)
        np.testing.assert_allclose(batch.multiplier[index], alone.multiplier, rtol=1e-10)
        assert batch.stats["n_steps"][index] == alone.stats["n_steps"]


def test_parameters_can_be_given_per_call(single):
    """A link of 2 m under 1.6 m/s² moves as one of 1 m under half of that, twice as large."""
    ts = np.linspace(0, 2, 5)
    r, _ = motion_in_angles(np.array([0.5]), ts, 1.6 / 2)
    q0, v0 = 2 * r[0, 0], np.zeros(2)
    given = solve(single, {"q": q0, "v": v0}, ts, parameters={"length": 2.0, "gravity": 1.6})
    np.testing.assert_allclose(given.q, 2 * r[:, 0], atol=1e-9)
    with pytest.raises(ValueError, match="'lenght'"):
        solve(single, {"q": q0, "v": v0}, ts, parameters={"lenght": 2.0})


def test_mass_given_per_call_is_the_metric_of_the_projection_too():
    """A heavy second body stays where it is put, when the masses say so only in the call."""
    q0, _ = from_angles(np.array([0.3, 0.5]))
    found = consistent_initial_condition(
        library.chain_pendulum(2), {"q": q0 + 0.1, "v": 0.0}, parameters={"mass": np.array([1.0, 1e9])}
    )
    assert np.abs(found.q[2:] - q0[2:] - 0.1).max() < 1e-6
    assert np.abs(found.q[:2] - q0[:2] - 0.1).max() > 1e-3


def test_jax_elsewhere_stays_in_float32(single):
    """Also with a system that was used in float32 before, whose constants are not rounded for that."""
    system = library.chain_pendulum(1, length=1.1)
    q0, v0 = np.array([1.1 * np.sin(0.5), -1.1 * np.cos(0.5)]), np.zeros(2)
    with jax.enable_x64(False):
        compiled = system.points.jax()
        assert compiled.acceleration(jnp.asarray(q0), jnp.asarray(v0)).dtype == jnp.float32
        solution = solve(system, {"q": q0, "v": v0}, [0.0, 1.0])
        assert jnp.ones(2).dtype == jnp.float32
    assert solution.q.dtype == np.float64
    assert np.abs(np.linalg.norm(solution.q, axis=-1) - 1.1).max() < 1e-15


def test_progress_runs_up_to_one(single, monkeypatch):
    monkeypatch.setattr(reference_kernel, "_CHUNK_OUTPUTS", 8)
    seen = []
    start = start_at(np.array([0.2]))
    solve(single, start, np.linspace(0, 1, 21), progress=lambda *news: seen.append(news))
    assert [fraction for fraction, _ in seen] == pytest.approx([0.4, 0.8, 1.0])
    assert seen[-1][1].endswith(": 1 of 1")


# -- the start ---------------------------------------------------------------------------------------------------------


def test_inconsistent_start_names_level_size_and_mend(single):
    with pytest.raises(ValueError, match=r"position level.* = 0\.5 at residual 0 .*consistent_initial_condition"):
        solve(single, {"q": [1.5, 0.0], "v": [0.0, 0.0]}, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"velocity level.* = 2/s at residual 0 .*consistent_initial_condition"):
        solve(single, {"q": [1.0, 0.0], "v": [2.0, 3.0]}, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"velocity level.*of start \(1,\)"):
        solve(single, {"q": [[1.0, 0.0], [1.0, 0.0]], "v": [[0.0, 1.0], [0.1, 0.0]]}, [0.0, 1.0])


def test_a_bad_start_is_the_result_of_its_sample_alone(single):
    q0, v0 = from_angles(np.array([0.1, 1.0, 2.0, 0.5])[:, None])
    ts = np.linspace(0, 1, 3)
    right = solve(single, {"q": q0, "v": v0}, ts)
    q0[0] *= 1.5
    v0[1] = q0[1]
    q0[2, 0] = np.nan
    found = solve(single, {"q": q0, "v": v0}, ts, throw=False)
    assert found.succeeded.tolist() == [False, False, False, True] and found.n_reached.tolist() == [0, 0, 0, 3]
    for i, said in enumerate(("position level", "velocity level", "must be finite, but q0 is not")):
        assert said in found.result[i] and f"start ({i},)" in found.result[i]
    np.testing.assert_array_equal(found.x[3], right.x[3])
    assert np.isnan(found.x[:3]).all() and np.isnan(found.energy[:3]).all() and found.stats["n_steps"][0] == 0
    with pytest.raises(ValueError, match=r"position level.*of start \(0,\)"):
        solve(single, {"q": q0[:2], "v": v0[:2]}, ts)
    none = solve(single, {"q": [1.5, 0.0], "v": [0.0, 0.0]}, ts, throw=False)
    assert none.n_reached == 0 and np.isnan(none.multiplier).all() and none.names == right.names
    assert "inconsistent at the position level" in none.result and none.q.shape == (1, 2)


def test_consistent_start_of_one_pendulum_is_the_nearest_point_and_the_tangent(single):
    q0, v0 = np.array([[3.0, -4.0], [0.3, 0.4]]), np.array([[1.0, 2.0], [-1.0, 0.5]])
    found = consistent_initial_condition(single, {"q": q0, "v": v0})
    q, v = found.q, found.v
    unit = q0 / np.linalg.norm(q0, axis=-1, keepdims=True)
    np.testing.assert_allclose(q, unit, atol=1e-14)
    np.testing.assert_allclose(v, v0 - (v0 * unit).sum(-1, keepdims=True) * unit, atol=1e-14)
    assert solve(single, found, [0.0, 0.1]).succeeded.all()


def test_consistent_start_is_nearest_in_the_metric_of_the_masses():
    """Optimality: M (q - q0) is a combination of the constraint gradients; and so is M (v - v0)."""
    mass = np.array([1.0, 5.0, 0.2])
    system = library.chain_pendulum(3, mass=list(mass))
    rng = np.random.default_rng(0)
    q0, v0 = from_angles(np.array([0.3, 0.9, 1.5]))[0] + rng.normal(0, 0.15, 6), rng.normal(size=6)
    found = consistent_initial_condition(system, {"q": q0, "v": v0})
    q, v = found.q, found.v
    links = np.diff(q.reshape(3, 2), axis=0, prepend=np.zeros((1, 2)))
    jacobian = np.zeros((3, 3, 2))
    for i, link in enumerate(links):
        jacobian[i, i] = link
        if i:
            jacobian[i, i - 1] = -link
    jacobian = jacobian.reshape(3, 6)
    np.testing.assert_allclose(np.linalg.norm(links, axis=-1), 1.0, atol=1e-14)
    np.testing.assert_allclose(jacobian @ v, 0.0, atol=1e-14)
    for moved in (q - q0, v - v0):
        force = np.repeat(mass, 2) * moved
        multiplier = np.linalg.lstsq(jacobian.T, force, rcond=None)[0]
        assert np.abs(jacobian.T @ multiplier - force).max() < 1e-8 * np.abs(force).max()


def test_start_without_a_nearest_point_is_refused(single):
    """The centre of the circle: every point of it is as near."""
    with pytest.raises(SolveError, match="no consistent start was found within 100 Newton steps"):
        consistent_initial_condition(single, {"q": [0.0, 0.0], "v": 0.0})
    with pytest.raises(SolveError, match="for 1 of 2 starts"):
        consistent_initial_condition(single, {"q": [[0.0, 0.0], [0.0, 2.0]], "v": 0.0})


def test_small_inconsistency_of_the_start_is_projected_away(single):
    q0 = np.array([1.0 + 1e-9, 0.0])
    solution = solve(single, {"q": q0, "v": [0.0, 1.0]}, [0.0, 0.1])
    assert abs(np.linalg.norm(solution.q[0]) - 1) < 1e-15
    np.testing.assert_allclose(solution.q[0], q0, atol=2e-9)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cliff():
    """A pendulum whose drive √(y + ½) is no number below y = -½."""
    p = point("p", 2)
    force = Function.template([-p[0], sp.sqrt(p[1] + sp.Rational(1, 2)) - GRAVITY], [p], [(0,)], name="drive")
    return System.of_points(library.chain(1), 1.0, force=force, name="cliff")


def test_force_that_stops_being_a_number_ends_the_solve_with_a_reason(cliff):
    ts = np.linspace(0, 2, 201)
    with pytest.raises(
        SolveError, match=r"step size fell below rounding at t = 0\.\d+: the equations are not finite"
    ) as raised:
        solve(cliff, {"q": [1.0, 0.0], "v": [0.0, 0.0]}, ts)
    reached = raised.value.solution
    assert reached.result.startswith("the step size fell")
    assert 10 < reached.n_reached == reached.ts.size == len(reached.q) < 201
    assert -0.5 <= reached.q[:, 1].min() < -0.45, "it stops at the edge, not before"
    assert np.isfinite(reached.q).all()
    assert np.isfinite(reached.multiplier).all()


def test_one_that_stops_does_not_stop_the_others(cliff):
    """The second start swings above the edge for ever; the first falls over it and holds its last state."""
    ts = np.linspace(0, 0.6, 61)
    q0, v0 = np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros((2, 2))
    both = solve(cliff, {"q": q0, "v": v0}, ts, throw=False)
    np.testing.assert_array_equal(both.succeeded, [False, True])
    assert both.result[1] == "successful"
    n = both.n_reached[0]
    assert n < both.n_reached[1] == 61 == both.q.shape[1]
    np.testing.assert_array_equal(both.q[0, n:], np.broadcast_to(both.q[0, n - 1], (61 - n, 2)))
    assert np.isfinite(both.q).all()
    np.testing.assert_allclose(both.q[1], np.broadcast_to([0.0, 1.0], (61, 2)), atol=1e-12)
    with pytest.raises(SolveError, match=r"1 of 2 reference solves stopped; start \(0,\): the step size"):
        solve(cliff, {"q": q0, "v": v0}, ts)


def test_step_limit_counts_over_chunks(single, monkeypatch):
    start = start_at(np.array([1.0]))
    with pytest.raises(SolveError, match="max_steps = 40 attempts were spent at t = ") as raised:
        solve(single, start, np.linspace(0, 1, 101), max_steps=40)
    assert 30 < raised.value.solution.n_reached < 42
    monkeypatch.setattr(reference_kernel, "_CHUNK_OUTPUTS", 8)
    chunked = solve(single, start, np.linspace(0, 1, 101), max_steps=40, throw=False)
    np.testing.assert_array_equal(chunked.q, raised.value.solution.q)
    assert chunked.stats["n_steps"] == 40


def test_exactly_enough_steps_are_enough(single):
    start, ts = start_at(np.array([1.0])), np.linspace(0, 1, 11)
    needed = solve(single, start, ts).stats["n_steps"]
    assert solve(single, start, ts, max_steps=needed).succeeded
    assert not solve(single, start, ts, max_steps=needed - 1, throw=False).succeeded


START = {"q": [1.0, 0.0], "v": [0.0, 0.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": START | {"q": [1.0, 0.0, 0.0]}}, r"start\['q'\] has shape \(3,\); expected \(\*batch, 2\)"),
        (
            {"start": {"q": np.zeros((2, 2)), "v": np.zeros((3, 2))}},
            r"do not go together: .*q0 to q1.* \(2,\), .*v0 to v1",
        ),
        ({"start": {"q": np.zeros((0, 2)), "v": np.zeros((0, 2))}}, "empty batch"),
        ({"start": {"q": [1.0, 0.0]}}, "start gives no value for v0, v1; .*from rest with 'v': 0"),
        ({"start": START | {"q": [np.nan, 0.0]}}, "start gives no value for q0"),
        ({"start": START | {"v": [0.0, np.inf]}}, "start must be finite, but v1 is not"),
        ({"start": START | {"q": ["a", "b"]}}, r"start\['q'\] must be an array of numbers"),
        ({"start": START | {"v1": 0.0}}, "start gives v1 twice, by itself and in 'v'"),
        (
            {"start": START | {"w": 0.0}},
            "start names w; .* has q and v, whole vectors, and the states q0, q1, v0, v1, lam0",
        ),
        ({"start": [1.0, 0.0, 0.0]}, r"start has shape \(3,\); expected \(\*batch, 4\)"),
        ({"ts": [0.0, 2.0, 1.0]}, r"ts must increase strictly, but ts\[1\] = 2 and ts\[2\] = 1; sort"),
        ({"ts": [0.0, 1.0, 1.0]}, "ts must increase strictly"),
        ({"ts": [0.0]}, r"ts has shape \(1,\); give a vector of at least two"),
        ({"ts": [[0.0, 1.0]]}, r"ts has shape \(1, 2\)"),
        ({"ts": [0.0, np.nan]}, r"ts must be finite, but ts\[1\] = nan"),
        ({"rtol": 0.0}, "rtol must be a positive number, got 0"),
        ({"atol": -1e-9}, "atol must be positive, got -1e-09"),
        ({"start_tol": np.nan}, "start_tol must be a positive number"),
        ({"by": "rk4"}, "by='rk4' is not known; choose one of dopri8, dopri5, .*, ida, radau, torch"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"parameters": {"length": np.inf}}, "parameter 'length' must be finite"),
    ],
)
def test_bad_arguments_are_named(single, change, message):
    arguments = {"start": START, "ts": [0.0, 1.0]} | change
    with pytest.raises(ValueError, match=message):
        solve(single, **arguments)
