"""The differentiable flow of a DAE: values, derivatives, jit, vmap, and what becomes of failures."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ndae
from ndae.solvers.dae.flow import REASONS
from ndae.solvers.dae.formulations import FORMULATIONS
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.solution import SolveError
from tests.solvers.dae_cases import blow_up, branches, hessenberg, pendulum, valve
from tests.systems import hanging

TS = np.linspace(0, 1, 5)
# Kvaerno's method takes more steps for the same error: a looser tolerance, and the same check.
RTOL = {"dopri8": 1e-11, "kvaerno5": 1e-9, "radau13": 1e-11}


pytestmark = pytest.mark.usefixtures("double_precision")


def slope(f, h):
    """f'(0) by central differences of fourth order."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def pendulum_loss(flow):
    """A number made of all states, multipliers included, at two times, from four numbers (angle, rate, g, L)."""

    def loss(p):
        angle, rate, g, length = p
        x = flow(hanging(angle, rate, length, jnp), TS, {"g": g, "L": length}).x
        return jnp.sum(x[-1] * jnp.array([1.0, 2.0, 0.5, 0.3, 0.1])) + x[2, 0]

    return loss


def valve_loss(flow):
    """z and x at two times, from z(0) and p, the start being x = z³ + z."""

    def loss(p):
        z0, rate = p
        x = flow({"x": z0**3 + z0, "z": z0}, TS, {"p": rate}).x
        return x[-1, 1] + 0.5 * x[2, 0] * x[2, 1]

    return loss


POINT = jnp.array([1.2, 0.7, 9.81, 1.1])


def check_gradient(loss, point):
    both = jax.jit(jax.value_and_grad(loss))
    gradient = both(point)[1]
    expected = [slope(lambda h, e=e: float(both(point + h * e)[0]), 1e-3) for e in jnp.eye(point.size)]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    return gradient


# -- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formulation", "solver"), [*((name, "dopri8") for name in FORMULATIONS), ("projection", "kvaerno5")]
)
def test_gradients_are_those_of_finite_differences(formulation, solver):
    check_gradient(
        pendulum_loss(ndae.flow(pendulum(), method=formulation, integrator=solver, rtol=RTOL[solver])), POINT
    )


@pytest.mark.parametrize("solver", ["dopri8", "kvaerno5"])
def test_gradients_through_nonlinear_algebraic_variables(solver):
    gradient = check_gradient(
        valve_loss(ndae.flow(valve(), integrator=solver, rtol=RTOL[solver])), jnp.array([1.3, 0.8])
    )
    # By hand: z = z₀ exp(-p t), at t = 1 and t = 1/2.
    z0, p = 1.3, 0.8
    half = z0 * np.exp(-p / 2)
    by_half = 0.5 * (4 * half**3 + 2 * half)  # of x z / 2 = (z⁴ + z²) / 2
    exact = [np.exp(-p) + by_half * np.exp(-p / 2), -z0 * np.exp(-p) - by_half * half / 2]
    np.testing.assert_allclose(gradient, exact, rtol=1e-7)


def test_forward_mode_has_first_and_second_derivatives():
    """By hand, as above: of z at t = 1 alone, through implicit stages and a nonlinear algebraic variable."""
    flow = ndae.flow(valve(), adjoint=diffrax.ForwardMode(), integrator="kvaerno5", rtol=1e-9)

    def gradient(p):
        first = jax.jacfwd(lambda p: flow({"x": p[0] ** 3 + p[0], "z": p[0]}, TS[::4], {"p": p[1]}).x[-1, 1])(p)
        return first, first

    hessian, first = jax.jit(jax.jacfwd(gradient, has_aux=True))(jnp.array([1.3, 0.8]))
    np.testing.assert_allclose(first, [np.exp(-0.8), -1.3 * np.exp(-0.8)], rtol=1e-7)
    np.testing.assert_allclose(hessian, np.exp(-0.8) * np.array([[0, -1], [-1, 1.3]]), rtol=0, atol=1e-6)


def test_third_derivatives_through_explicit_steps():
    """z = z₀ exp(-p t), where x = z³ + z is solved for z by Newton's iteration at each stage."""
    flow = ndae.flow(valve(), adjoint=diffrax.ForwardMode(), integrator="dopri5", rtol=1e-8)

    def end(p):
        return flow({"x": 1.3**3 + 1.3, "z": 1.3}, TS, {"p": p}).x[-1, 1]

    found = jax.jit(jax.jacfwd(jax.jacfwd(jax.jacfwd(end))))(0.8)
    np.testing.assert_allclose(found, -1.3 * np.exp(-0.8), rtol=1e-6)


def test_a_start_off_the_constraints_has_the_derivatives_of_its_nearest_point():
    """Of all states of the pendulum a tenth of a second later; the length moves the constraint."""
    flow = ndae.flow(pendulum(), start_tol=None, adjoint=diffrax.ForwardMode())

    def end(p):
        x = flow(jnp.append(p[:4], jnp.nan), TS[:2], {"L": p[4]}).x[-1, :4]
        return x, x

    both = jax.jit(jax.jacfwd(end, has_aux=True))
    point, h = jnp.array([0.9, -0.6, 0.3, 0.5, 1.0]), 1e-3
    expected = [slope(lambda h, e=e: both(point + h * e)[1], h) for e in jnp.eye(5)]
    np.testing.assert_allclose(both(point)[0], np.stack(expected, -1), rtol=0, atol=1e-7)


def test_vmap_over_starts():
    """x = cos(t + a), y = sin(t + a), z = exp(-t), on each of a batch, and derivatives without crosstalk."""
    flow = ndae.flow(hessenberg())

    def many(angles):
        x = jax.vmap(lambda angle: flow({"x": jnp.cos(angle), "y": jnp.sin(angle)}, TS).x)(angles)
        return x[:, -1, 0], x

    both = jax.jit(jax.jacrev(many, has_aux=True))
    angles = jnp.array([0.0, 0.5, -2.0])
    jacobian, x = both(angles)
    phase = TS + angles[:, None]
    expected = np.stack([np.cos(phase), np.sin(phase), np.broadcast_to(np.exp(-TS), phase.shape)], -1)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(np.diag(jacobian), -np.sin(1 + angles), rtol=1e-8)
    np.testing.assert_array_equal(jacobian - np.diag(np.diag(jacobian)), 0.0)
    other_jacobian, other_x = both(angles.at[1].set(1.0))
    np.testing.assert_array_equal(other_x[::2], x[::2])
    np.testing.assert_array_equal(np.diag(other_jacobian)[::2], np.diag(jacobian)[::2])


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marking():
    """A flow of two pendulums that returns failures."""
    with jax.enable_x64(True):
        flow = ndae.flow(pendulum(), throw=False, max_steps=200)
        return jax.jit(jax.vmap(flow, in_axes=({"x": 0, "y": 0, "u": 0, "v": 0}, None, {"g": 0})))


PAIR = hanging(np.array([0.4, 1.5]), np.array([0.0, 1.0]))


def test_the_flow_is_the_solve(marking):
    g = np.array([9.81, 3.0])
    solution = solve_dae(pendulum(), PAIR, TS, parameters={"g": g})
    flowed = marking(PAIR, TS, {"g": jnp.asarray(g)})
    np.testing.assert_allclose(flowed.x, solution.x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(flowed.n_steps, solution.stats["n_steps"])
    np.testing.assert_array_equal(flowed.t_end, [1.0, 1.0])
    assert flowed.reason().tolist() == ["successful", "successful"]


def test_given_algebraic_variables_are_guesses():
    flow = ndae.flow(branches(), throw=False)
    for sign in (1.0, -1.0):
        result = flow([1.0, sign], TS)
        assert result.succeeded
        assert result.reason() == "successful"
        np.testing.assert_allclose(result.x[:, 1], sign * np.exp(-TS), rtol=1e-9)
    np.testing.assert_allclose(flow([1.0, -1.1], TS).x[:, 1], -np.exp(-TS), rtol=1e-9)


# -- failures ----------------------------------------------------------------------------------------------------------


FAST = {"rtol": 1e-6, "integrator": "dopri5", "method": "plain"}


@pytest.mark.parametrize(
    ("bad", "reason"), [(1.6, "fell below rounding"), (np.nan, "is not a finite number"), (np.inf, "finite number")]
)
def test_one_that_fails_spares_the_others_of_a_batch(spared, bad, reason):
    """Their values, and their derivatives by what all share: of a masked sum, as if the bad one were not there."""
    gradient, result = spared(1.0, jnp.array([-1.0, bad, -2.0]))
    alone, expected = spared(1.0, jnp.array([-1.0, -1.0, -2.0]))
    np.testing.assert_array_equal(result.succeeded, [True, False, True])
    assert result.reason()[0] == "successful"
    assert reason in result.reason()[1]
    np.testing.assert_array_equal(result.x[::2], expected.x[::2])
    assert np.isnan(result.x[1, -1]).all()
    own = (-1 / 2) ** 2  # d/dk of x = x0 / (1 - k x0 t) at t = 1 is x²; of x0 = -1
    assert float(gradient) == pytest.approx(float(alone) - own, rel=1e-6)
    assert float(gradient) == pytest.approx((2 / 3) ** 2 + own, rel=1e-4)


@pytest.fixture(scope="module")
def spared():
    with jax.enable_x64(True):
        flow = ndae.flow(blow_up(), **FAST)

        def total(k, x0):
            result = jax.vmap(lambda x: flow({"x": x}, TS, {"k": k}))(x0)
            x = jnp.where(result.succeeded[:, None, None], result.x, 0.0)
            return jnp.sum(x[:, -1, 0]), result

        return jax.jit(jax.grad(total, has_aux=True))


def test_a_single_failure_is_an_error_of_one_sentence():
    """Where nothing is traced, and in a gradient outside of jit; what does not begin is refused as by solve_dae."""
    flow, k = ndae.flow(blow_up(), **FAST), {"k": 1.0}
    pole = r"'blow-up' stopped early: the step size fell .*t = 0\.625"
    with pytest.raises(SolveError, match=pole) as caught:
        flow({"x": 1.6}, TS, k)
    assert np.isfinite(caught.value.solution.x[:3]).all()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="start gives no value for x"):
        flow({"x": np.nan}, TS, k)
    with pytest.raises(ValueError, match="parameter 'k' must be finite"):
        flow({"x": 1.0}, TS, {"k": np.nan})
    with pytest.raises(ValueError, match="gives no value for x; give one"):
        flow([np.nan, 1.0], TS, k)
    gradient = jax.grad(lambda x, z: flow({"x": x, "z": z}, TS, k).x[-1, 0])
    with pytest.raises(SolveError, match=pole):
        gradient(1.6, 1.6)
    with pytest.raises(ValueError, match="can't begin: the start, a parameter or an output time is not a finite"):
        gradient(1.0, np.inf)


def test_a_failure_is_marked_and_says_where_and_why():
    many = jax.jit(jax.vmap(ndae.flow(blow_up(), rtol=1e-6, throw=False), in_axes=({"x": 0}, None)))
    result = many({"x": jnp.array([-1.0, 1.6])}, TS)  # 1 / (1 / 1.6 - t) has its pole at 5 / 8
    np.testing.assert_array_equal(result.succeeded, [True, False])
    np.testing.assert_allclose(result.x[0, :, 0], -1 / (1 + TS), rtol=1e-5)
    np.testing.assert_allclose(result.x[1, :3, 0], 1 / (0.625 - TS[:3]), rtol=1e-4)
    assert np.isnan(result.x[1, 3:]).all()
    assert result.t_end[1] == pytest.approx(0.625, rel=1e-5)
    assert result.reason()[0] == "successful"
    assert "fell below rounding" in result.reason()[1]
    assert "t = 0.62" in result.reason()[1]


def test_derivatives_of_a_failure_are_marked_where_values_are_not_looked_at():
    """jit drops the check of values that nobody uses: derivatives through what was not reached are infinite."""
    raising = ndae.flow(blow_up(), rtol=1e-6)

    def masked(x0, k, weights):  # a program's own mask: what is not reached has no part in the sum
        x = raising({"x": x0}, TS, {"k": k}).x[:, 0]
        return jnp.sum(weights * x)

    gradient = jax.jit(jax.grad(masked, argnums=(0, 1)))
    by_start, by_rate = gradient(1.6, 1.0, jnp.array([0.0, 0.0, 1.0, 0.0, 0.0]))
    assert by_start == pytest.approx(1 / (1 - 1.6 * 0.5) ** 2, rel=1e-4)
    assert by_rate == pytest.approx(1.6**2 * 0.5 / (1 - 1.6 * 0.5) ** 2, rel=1e-4)
    assert not np.isfinite(gradient(1.6, 1.0, jnp.ones(5))).any()


def test_a_start_that_is_none_is_marked(marking):
    p = {"g": jnp.array([9.81, 9.81])}
    for change, ts, parameters, reason in [
        ({"x": np.array([0.9, PAIR["x"][1]])}, TS, p, REASONS[3]),
        ({"u": np.array([0.1, PAIR["u"][1]])}, TS, p, REASONS[3]),
        ({"x": np.array([np.nan, PAIR["x"][1]])}, TS, p, REASONS[1]),
        ({}, TS, {"g": jnp.array([jnp.nan, 9.81])}, REASONS[1]),
    ]:
        result = marking(PAIR | change, jnp.asarray(ts), parameters)
        assert result.reason()[0].startswith(reason)
        np.testing.assert_array_equal(result.succeeded, [False, True])
        for value in (result.x, result.y, result.w):
            assert np.isnan(value[0]).all()
            assert np.isfinite(value[1]).all()
    backwards = marking(PAIR, jnp.asarray(TS[::-1]), p)
    assert all(reason.startswith(REASONS[2]) for reason in backwards.reason())
    assert np.isnan(backwards.x).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"integrator": "rk4"}, "integrator 'rk4' is not known"),
        ({"rtol": 0.0}, "rtol must be a positive number"),
        ({"atol": -1.0}, "atol must be positive"),
        ({"method": "index1"}, "method 'index1' is not known"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"start_tol": 0.0}, "start_tol must be a positive number"),
        ({"system": 3}, "expected a System, got int"),
        ({"adjoint": diffrax.BacksolveAdjoint()}, r"adjoint .* choose one of diffrax.RecursiveCheckpointAdjoint\(\)"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ndae.flow(**{"system": pendulum()} | settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"start": [0.0, -1.0]}, r"start has shape \(2,\); expected \(5,\), the states x, y, u, v, lam"),
        ({"start": np.zeros((2, 5))}, r"start has shape \(2, 5\).*jax.vmap"),
        ({"start": {"x": 0.0, "q": 1.0}}, "start: 'pendulum' has no state 'q'; it has"),
        ({"start": {"x": 0.0}}, "start gives no value for u, v, which the equations of 'pendulum' do not"),
        ({"start": hanging(np.ones(2))}, r"start\['x'\] has shape \(2,\); give one number"),
        ({"ts": [0.0]}, r"ts has shape \(1,\)"),
        ({"ts": [1.0, 0.0]}, "ts must increase strictly"),
        ({"parameters": {"gravity": 1.0}}, "no parameter 'gravity'"),
        ({"parameters": {"g": np.ones(2)}}, r"parameter 'g' has shape \(2,\); give one number"),
    ],
)
def test_bad_calls_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        ndae.flow(pendulum())(**{"start": hanging(1.0), "ts": TS} | call)


def test_32_bits_are_refused():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match=r"jax\.enable_x64"):
        ndae.flow(pendulum())(hanging(1.0), TS)


def test_other_solvers_inside_of_a_transformation_name_the_flow():
    with pytest.raises(ValueError, match=r"start\['x'\] is traced by JAX.*write ndae.flow"):
        jax.jit(lambda x: solve_dae(pendulum(), hanging(0.4) | {"x": x}, TS).x)(0.4)
    with pytest.raises(ValueError, match=r"parameter 'g' is traced by JAX"):
        jax.grad(lambda g: solve_dae(pendulum(), hanging(0.4), TS, parameters={"g": g}).x[-1, 0])(9.81)
