"""DAE systems solved in torch, against closed forms, the JAX side and finite differences."""

import jax
import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae.solvers.arguments import float64_on_cpu
from ndae.solvers.dae.formulations import formulation_named
from ndae.solvers.dae.reduced_motion import ReducedMotion
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import TorchReduced, solve_torch, torch_flow
from ndae.solvers.depth.on_manifold import integrate_on_manifold
from ndae.solvers.errors import IntegrationError, ProjectionError
from ndae.solvers.solution import SolveError
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.systems.system import System
from tests.systems import hanging, link

t = sp.Symbol("t")
STEPS = {"n_steps", "n_accepted", "n_rejected", "n_f_evals"}


@pytest.fixture(scope="module")
def pendulum():
    return link(length=1.5, mass=2.0)


def start(angle, speed, length=1.5):
    return hanging(angle, speed, length)


def swing(angle, speed):
    return np.stack([*start(angle, speed).values()], -1)


# -- solutions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["dopri8", "dopri5"])
def test_agrees_with_diffrax_on_a_pendulum(pendulum, solver):
    ts = np.linspace(0, 3, 13)
    ours = solve_torch(pendulum, start(1.0, 0.5), ts, integrator=solver, rtol=1e-11)
    theirs = solve_dae(pendulum, start(1.0, 0.5), ts, rtol=1e-12)
    assert ours.names == theirs.names and ours.succeeded
    for group in ("q", "v", "multiplier"):
        a, b = getattr(ours, group), getattr(theirs, group)
        assert np.abs(a - b).max() < 1e-9 * np.abs(b).max()
    drift = ours.max_drift()
    assert drift["level 0"] < 1e-14 and drift["level 1"] < 1e-13 and drift["level 2"] < 1e-11 and drift["energy"] < 1e-8
    assert set(ours.stats) == STEPS
    assert ours.stats["n_steps"] == ours.stats["n_accepted"] + ours.stats["n_rejected"] >= 12


def test_index_two_with_an_input_in_closed_form():
    """x' = z - x, x = sin t: z = sin t + cos t; the constraint itself moves."""
    x, z = sp.symbols("x z")
    system = System([dot(x) - z + x, x - sp.sin(t)], [x, z], time=t, name="tracking")
    ts = np.linspace(0.3, 4.0, 9)
    solution = solve_torch(system, {"x": np.sin(0.3)}, ts)
    np.testing.assert_allclose(solution["x"], np.sin(ts), atol=1e-13)
    np.testing.assert_allclose(solution["z"], np.sin(ts) + np.cos(ts), atol=1e-12)


@pytest.mark.parametrize("branch", [1.0, -1.0])
def test_nonlinear_algebraic_variables_stay_on_their_branch(branch):
    """x' = z, z² = x: x = (1 ± t/2)², z = ±(1 ± t/2), from the guess that the start has for z."""
    x, z = sp.symbols("x z")
    system = System([dot(x) - z, z**2 - x], [x, z], name="branches")
    ts = np.linspace(0, 1.9, 3)  # few outputs, so the guess has to be carried on between them
    solution = solve_torch(system, {"x": 1.0, "z": 0.9 * branch}, ts, start_tol=1.0)
    np.testing.assert_allclose(solution["z"], branch * (1 + branch * ts / 2), atol=1e-9)
    np.testing.assert_allclose(solution["x"], (1 + branch * ts / 2) ** 2, atol=1e-9)


def test_a_batch_over_starts_and_parameters_is_its_samples(pendulum):
    angles, lengths, ts = np.array([0.3, 1.0, 2.5]), np.array([1.0, 1.5, 0.4]), np.linspace(0, 1, 5)
    batch = solve_torch(pendulum, start(angles, 0.2, lengths), ts, rtol=1e-11, parameters={"length": lengths, "g": 5.0})
    assert batch.x.shape == (3, 5, 5) and batch.succeeded.all()
    for i in range(3):
        own = {"length": lengths[i], "g": 5.0}
        alone = solve_torch(pendulum, start(angles[i], 0.2, lengths[i]), ts, rtol=1e-11, parameters=own)
        np.testing.assert_allclose(batch.x[i], alone.x, atol=1e-8)
        np.testing.assert_allclose(batch.energy[i], alone.energy, atol=1e-8)
    assert np.all(batch.stats["n_steps"] == batch.stats["n_steps"][0])


def test_a_small_variable_counts_with_a_tolerance_of_its_own():
    """x of size 1 and s of size 1e-9 that oscillates: with an absolute tolerance in its scale s has digits too."""
    x, s, r = sp.symbols("x s r")
    system = System([dot(x) + x, dot(s) - r, dot(r) + 100 * s], [x, s, r], name="two scales")
    given, ts = {"x": 1.0, "s": 1e-9, "r": 0.0}, np.linspace(0, 2, 3)
    exact = 1e-9 * np.cos(10 * ts)
    fine = solve_torch(system, given, ts, rtol=1e-9, atol={"s": 1e-18, "r": 1e-17})
    np.testing.assert_allclose(fine["s"], exact, atol=1e-16)
    coarse = solve_torch(system, given, ts, rtol=1e-9, atol=1e-6)
    assert np.abs(coarse["s"] - exact).max() > 1e-13


# -- projection --------------------------------------------------------------------------------------------------------


def test_projects_to_the_same_point_as_the_jax_side(pendulum):
    y = swing(0.7, 1.2) * np.array([1.02, 0.97, 1.05, 0.9])
    with float64_on_cpu():
        motion = ReducedMotion(pendulum.reduce(), formulation_named("projection"))
        expected, converged = jax.jit(motion.project)(0.0, y, None, 1e-2)
    assert bool(converged)
    ours = TorchReduced(pendulum.reduce()).project(0.0, torch.as_tensor(y))
    np.testing.assert_allclose(ours, expected, atol=1e-14)
    assert np.abs(ours.numpy() - y).max() > 1e-3


def test_a_projection_that_fails_names_the_samples(pendulum):
    y = torch.as_tensor(np.stack([swing(0.7, 1.2), np.zeros(4), swing(0.1, 0.0)]))
    with pytest.raises(ProjectionError, match=r"pendulum.*sample\(s\) \[1\].*rank") as caught:
        TorchReduced(pendulum.reduce()).project(0.0, y)
    assert caught.value.samples == (1,)


# -- derivatives -------------------------------------------------------------------------------------------------------


def final(pendulum, y, values, weights):
    """A number at the end of half a second: weights times the state."""
    ts = torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)
    return (torch_flow(TorchReduced(pendulum.reduce(), values), y, ts, rtol=1e-11)[..., -1, :] * weights).sum(-1)


def test_gradients_agree_with_finite_differences(pendulum):
    """By the start, of which the part that leaves the constraints is projected away, and by every parameter."""
    y = torch.tensor(swing(1.0, 0.5), requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 0.5, 0.3], dtype=torch.float64)
    values = {n: torch.tensor(x, dtype=torch.float64, requires_grad=True) for n, x in pendulum_values(pendulum).items()}
    final(pendulum, y, values, weights).backward()
    h = 1e-5
    with torch.no_grad():
        for i, unit in enumerate(h * torch.eye(4, dtype=torch.float64)):
            difference = final(pendulum, y + unit, values, weights) - final(pendulum, y - unit, values, weights)
            assert abs(float(difference / (2 * h) - y.grad[i])) < 1e-7
        for name, value in values.items():
            up, down = (final(pendulum, y, values | {name: value + sign * h}, weights) for sign in (1, -1))
            assert abs(float((up - down) / (2 * h) - value.grad)) < 1e-7, name
    assert abs(float(values["m"].grad)) < 1e-12  # a single mass falls as any other
    assert abs(float(values["length"].grad)) > 0.1 and abs(float(values["g"].grad)) > 0.01


def pendulum_values(pendulum):
    return {symbol.name: float(value) for symbol, value in pendulum.parameters.items()}


def test_samples_of_a_batch_have_no_gradient_into_each_other(pendulum):
    y = torch.tensor(swing(np.array([0.4, 2.0]), 0.5), requires_grad=True)
    final(pendulum, y, {}, torch.ones(4, dtype=torch.float64))[0].backward()
    assert bool((y.grad[1] == 0).all()) and bool((y.grad[0] != 0).any())


# -- failures ----------------------------------------------------------------------------------------------------------


def test_too_few_steps_stop_with_what_was_reached(pendulum):
    ts = np.linspace(0, 3, 7)
    whole = solve_torch(pendulum, start(1.0, 0.5), ts)
    limit = whole.stats["n_steps"] // 2
    with pytest.raises(SolveError, match=r"'pendulum' in torch stopped: max_steps = .* after t = \d"):
        solve_torch(pendulum, start(1.0, 0.5), ts, max_steps=limit)
    part = solve_torch(pendulum, start(1.0, 0.5), ts, max_steps=limit, throw=False)
    assert not part.succeeded and 1 < part.n_reached < 7
    assert part.stats["n_steps"] <= limit
    np.testing.assert_array_equal(part.x, whole.x[: part.n_reached])


def test_a_singularity_stops_all_of_a_batch():
    """x' = 1 / (1 - t) blows up at t = 1."""
    x = sp.Symbol("x")
    system = System([dot(x) * (1 - t) - 1], [x], time=t, name="blow-up")
    part = solve_torch(system, {"x": np.zeros(2)}, np.linspace(0, 2, 5), max_steps=500, throw=False)
    assert list(part.n_reached) == [2, 2] and not part.succeeded.any()
    np.testing.assert_allclose(part["x"][0], -np.log(1 - part.ts), atol=1e-9)
    assert all("after t = 0.5: " in reason for reason in part.result)


def test_a_bad_start_is_the_result_of_its_sample_alone(pendulum):
    ts, length = np.linspace(0, 1, 3), np.array([1.5, 0.7, 1.5])
    found = solve_torch(pendulum, start(np.array([0.3, 1.0, 2.5]), 0.2), ts, parameters={"length": length}, throw=False)
    assert found.succeeded.tolist() == [True, False, True] and found.n_reached.tolist() == [3, 0, 3]
    assert "the start (1,) of 'pendulum' is inconsistent at level 0" in found.result[1] and np.isnan(found.x[1]).all()
    for i, angle in ((0, 0.3), (2, 2.5)):
        alone = solve_torch(pendulum, start(angle, 0.2), ts)
        np.testing.assert_allclose(found.x[i], alone.x, atol=1e-8)
    none = solve_torch(pendulum, {name: np.ones(2) for name in "xyuv"}, ts, throw=False)
    assert none.n_reached.tolist() == [0, 0] and np.isnan(none.x).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"integrator": "kvaerno5"}, "integrator 'kvaerno5' has no adaptive steps here; choose one of .*dopri8"),
        ({"integrator": "classical_rk4"}, "integrator 'classical_rk4' has no adaptive steps"),
        ({"rtol": 0.0}, "rtol must be a positive number"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"ts": [0.0, 0.0]}, "ts must increase strictly"),
        ({"start": {"x": 1.0, "y": 1.0, "u": 0.0, "v": 0.0}}, "inconsistent at level 0"),
        ({"parameters": {"lenght": 1.0}}, "lenght"),
    ],
)
def test_bad_arguments(pendulum, changes, message):
    arguments = {"start": start(1.0, 0.5), "ts": [0.0, 1.0]} | changes
    with pytest.raises(ValueError, match=message):
        solve_torch(pendulum, arguments.pop("start"), arguments.pop("ts"), **arguments)


def test_steps_are_counted_over_all_outputs():
    y0, ts = torch.ones(1, dtype=torch.float64), torch.linspace(0, 1, 11, dtype=torch.float64)
    counts: dict[str, int] = {}
    states = list(integrate_on_manifold(lambda t, y: -y, lambda t, y: y, y0, ts, counts=counts))
    torch.testing.assert_close(torch.cat(states), torch.exp(-ts), rtol=1e-11, atol=0)
    assert counts.keys() == STEPS and counts["n_steps"] >= 10
    with pytest.raises(IntegrationError, match="max_steps = 3 attempts were spent"):
        list(integrate_on_manifold(lambda t, y: -y, lambda t, y: y, y0, ts, max_steps=3))


# -- parameters are constants of a solution ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tanks():
    """Two tanks whose levels differ by q, with a valve c at the outlet: q is in an equation that is differentiated."""
    h1, h2, flow, q, c = sp.symbols("h1 h2 flow q c")
    equations = [dot(h1) - 1 + flow, dot(h2) - flow + c * h2, h1 - q - h2]
    return System(equations, [h1, h2, flow], {q: 0.1, c: 0.5}, name="tanks")


def test_a_parameter_made_of_the_state_is_refused_where_it_is_differentiated(tanks):
    functions = tanks.reduce().torch()
    assert functions.constant == {"q"}
    leaf = torch.tensor([1.0, 0.9], dtype=torch.float64, requires_grad=True)
    for y in (leaf, leaf * 1.0):
        for of_state in (0.1 * y[0], torch.tanh(y).sum() ** 2):
            for call in (
                functions.solve_leading, functions.constraints, functions.constraints_jacobian,
                lambda y, t, p: functions.leading_system(y, torch.zeros(3).double(), t, p),
            ):  # fmt: skip
                with pytest.raises(ValueError, match="parameter 'q' is computed from the state"):
                    call(y, 0.0, {"q": of_state})
        # In an equation that is not differentiated it is a value like any other: c = h1 gives c h2 = h1 h2.
        w = functions.solve_leading(y, 0.0, {"c": y[0]})[0]
        expected = (1 - y[0] * y[1]) / 2
        torch.testing.assert_close(w[0], expected)
        torch.testing.assert_close(*(torch.autograd.grad(v, y, retain_graph=True)[0] for v in (w[0], expected)))
    time = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    moving = System(tanks.equations, tanks.states, tanks.parameters, t, name="in time").reduce().torch()
    with pytest.raises(ValueError, match="parameter 'q' is computed from the state or the time"):
        moving.solve_leading(leaf, time, {"q": time.sin()})


def test_parameters_that_are_learned_go_on(tanks):
    """A leaf, what is computed from one, with a state that depends on it too, and from the start by an encoder."""
    raw = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    start, ts = torch.tensor([1.0, 0.9], dtype=torch.float64, requires_grad=True), torch.tensor([0.0, 0.5, 1.0])

    def end(raw, encoded=0.0):
        q = torch.nn.functional.softplus(raw) + encoded
        y0 = torch.stack([start[1] + q, start[1]])
        w = tanks.reduce().torch().solve_leading(y0, 0.0, {"q": q})[0]
        y = torch_flow(TorchReduced(tanks.reduce(), {"q": q}), y0, ts.double(), rtol=1e-8, atol=1e-8)
        return y[-1, 0] + w.sum()

    (gradient,) = torch.autograd.grad(end(raw), raw, create_graph=True)
    h = 1e-5
    difference = (end(raw + h) - end(raw - h)) / (2 * h)
    torch.testing.assert_close(gradient, difference, rtol=1e-6, atol=1e-8)
    assert torch.isfinite(torch.autograd.grad(gradient, raw)[0])
    encoded = 0.01 * start.sum()
    assert torch.isfinite(torch.autograd.grad(end(raw, encoded), start)[0]).all()
    motion = TorchReduced(tanks.reduce(), {"q": start[0] - start[1]})  # a number, from the state that it starts at
    assert torch.isfinite(torch.autograd.grad(motion(0.0, start).sum(), start)[0]).all()


def test_a_motion_has_its_parameters_for_good(tanks):
    motion = TorchReduced(tanks.reduce(), {"q": torch.tensor(0.2)})
    with pytest.raises(TypeError):
        motion.parameters["q"] = torch.tensor(0.3)
    with pytest.raises(AttributeError):
        motion.parameters = {}
    for of_state in (lambda y: y[0], torch.nn.Linear(2, 1)):
        with pytest.raises(ValueError, match="parameter 'q' is a function"):
            TorchReduced(tanks.reduce(), {"q": of_state})
        with float64_on_cpu(), pytest.raises(ValueError, match="parameter 'q' is a function"):
            ndae.flow(tanks)({"h1": 1.0, "h2": 0.9}, [0.0, 1.0], {"q": of_state})
