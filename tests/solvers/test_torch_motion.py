"""A mechanical system in torch against the same system in JAX, its reference solution, and finite differences."""

import jax
import numpy as np
import pytest
import sympy as sp
import torch

from ndae.solvers import solve
from ndae.solvers.arguments import float64_on_cpu
from ndae.solvers.depth.on_manifold import integrate_on_manifold
from ndae.solvers.errors import ProjectionError
from ndae.solvers.mechanics.motion_jax import ConstrainedMotion
from ndae.solvers.mechanics.motion_torch import TorchMotion
from ndae.symbolic import Constraint, Function, System, library, point
from tests.solvers.pendulum_oracle import motion_in_angles

GRAVITY = 9.82
HORIZONTAL = np.stack([np.arange(1.0, 6.0), np.zeros(5)], -1).ravel()


def shaken():
    """A weight on a rod whose support moves with time, in air: everything that the equations of motion can have."""
    x, y, t, shake, drag = sp.symbols("x y t shake drag")
    rod = Constraint([sp.sqrt((x - shake * sp.sin(4 * t)) ** 2 + y**2) - 1], [x, y], {shake: 0.3}, t, "rod")
    p = point("p", 2)
    q, v = sp.symbols("q0 q1"), sp.symbols("v0 v1")
    air = Function([sp.cos(t) - drag * v[0] - q[0], -drag * v[1] - q[1] / 2], [*q, *v], {drag: 0.2}, t, "air")
    weight = Function.template([2 * GRAVITY * p[1]], [p], [(0,)], name="weight")
    return System.of_points(rod, 2.0, weight, air, "shaken")


SYSTEMS = {
    "chain": lambda: library.chain_pendulum(5, mass=[1.0, 2.0, 0.5, 1.0, 3.0]),
    "molecules": lambda: System.of_points(library.rigid_molecules(2, (1.0, 1.0, 1.0)), name="molecules"),
    "shaken": shaken,
}


@pytest.fixture(scope="module", params=SYSTEMS)
def both(request):
    """A system in torch, and in JAX as functions of (t, q, v) compiled for a batch."""
    system = SYSTEMS[request.param]()
    motion = ConstrainedMotion(system.points)
    methods = {name: jax.jit(jax.vmap(getattr(motion, name), (None, 0, None))) for name in ("derivative", "describe")}
    methods["project"] = jax.jit(jax.vmap(lambda t, y, p: motion.project(t, y, p, 50), (None, 0, None)))

    def call(name, t, y, parameters=None):
        with float64_on_cpu():
            return jax.tree.map(np.asarray, methods[name](t, y, parameters))

    return TorchMotion(system), call, system


def states(system, n=3, seed=0):
    """Any states (n, 2 n_states), off the constraints."""
    return np.random.default_rng(seed).normal(size=(n, 2 * system.points.n_states))


def near(system, call, n=3):
    """States 1 cm and 1 cm/s off the constraints."""
    guess = states(system, n)
    if system.name == "molecules":
        corners = np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0]])
        guess[:, :18] = np.concatenate([corners, corners + 3]).ravel()
    else:
        guess[:, : system.points.n_states] = np.arange(1, system.points.n_states // 2 + 1).repeat(2) / 2**0.5
    exact, converged = call("project", 0.0, guess)
    assert converged.all()
    return exact + 0.01 * states(system, n, seed=1)


# -- against the JAX side ----------------------------------------------------------------------------------------------


def test_field_and_description_are_those_of_the_jax_side(both):
    motion, call, system = both
    y, t = near(system, call), 0.3
    expected, ours = call("derivative", t, y), motion(t, torch.as_tensor(y))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)
    described, theirs = motion.describe(t, torch.as_tensor(y)), call("describe", t, y)
    assert described.keys() == theirs.keys()
    for name, value in described.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-11, atol=1e-11, err_msg=name)
    assert np.abs(theirs["position"]).max() > 1e-3 and described["acceleration"].abs().max() < 1e-11


def test_projects_to_the_point_of_the_jax_side(both):
    motion, call, system = both
    y = near(system, call)
    ours = motion.project(0.0, torch.as_tensor(y))
    expected, converged = call("project", 0.0, y)
    assert converged.all()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)  # √tol of solvers.project
    left = motion.describe(0.0, ours)
    assert left["position"].abs().max() < 1e-13 and left["velocity"].abs().max() < 1e-12


def test_parameters_are_taken_and_others_refused():
    system = library.chain_pendulum(2)
    given = {"gravity": 3.0, "length": 1.2, "mass": 2.0}
    y, ours = states(system), TorchMotion(system, given)
    with float64_on_cpu():
        theirs = jax.jit(jax.vmap(lambda y: ConstrainedMotion(system.points).describe(0.0, y, given)))(y)
    for name, value in ours.describe(None, torch.as_tensor(y)).items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-11, atol=1e-11, err_msg=name)
    with pytest.raises(
        ValueError, match=r"has no parameter 'gravty'; it has gravity, length, mass: did you mean 'gravity'\?"
    ):
        TorchMotion(system, {"gravty": 1.0})


def test_work_is_done_in_the_precision_of_the_states():
    motion = TorchMotion(library.chain_pendulum(3)).float()  # its constants too, and back without a loss
    y = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = TorchMotion(library.chain_pendulum(3))(None, y)
    assert motion(None, y.float()).dtype == torch.float32
    torch.testing.assert_close(motion(None, y.float()).double(), exact, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(motion(None, y), exact, rtol=0, atol=0)


def test_a_state_that_cannot_be_projected_is_an_error():
    motion = TorchMotion(library.chain_pendulum(1), {"length": -1.0})
    with pytest.raises(ProjectionError):
        motion.project(None, torch.ones(1, 4, dtype=torch.float64))


# -- derivatives -------------------------------------------------------------------------------------------------------


def test_gradients_by_parameters_and_state_agree_with_finite_differences():
    system = library.chain_pendulum(3)
    y = torch.as_tensor(states(system, 1)[0]).requires_grad_()
    names = ("gravity", "length", "mass")
    values = torch.tensor([9.0, 1.1, 1.3], dtype=torch.float64, requires_grad=True)

    def everything(y, values):
        motion = TorchMotion(system, dict(zip(names, values, strict=True)))
        return torch.cat([motion(None, y), motion.multiplier(*y.chunk(2)), motion.energy(*y.chunk(2))[None]])

    assert torch.autograd.gradcheck(everything, (y, values), eps=1e-6, atol=1e-6, rtol=1e-6)
    (gradient,) = torch.autograd.grad(everything(y, values).square().sum(), values)
    assert gradient[0].abs() > 1 and gradient[2].abs() > 1
    assert gradient[1] == 0  # |b − a| − length: no derivative of it by the state depends on the length


# -- solutions ---------------------------------------------------------------------------------------------------------


def test_adaptive_steps_and_projection_agree_with_the_reference_on_five_bodies():
    """Over 3 s from rest at the horizontal, at every output time to 1e-8; and with the same motion in angles."""
    system, ts = library.chain_pendulum(5), np.linspace(0, 3, 13)
    motion, start = TorchMotion(system), np.concatenate([HORIZONTAL, np.zeros(10)])
    with torch.no_grad():
        steps = integrate_on_manifold(
            motion, motion.project, torch.as_tensor(start), torch.as_tensor(ts), rtol=1e-11, atol=1e-11
        )
        y = torch.stack(list(steps))
        described = motion.describe(None, y)
    reference = solve(system, {"q": HORIZONTAL, "v": 0.0}, ts, rtol=1e-12, atol=1e-12)
    q, v = np.split(y.numpy(), 2, -1)
    for ours, theirs in ((q, reference.q), (v, reference.v), (described["multiplier"].numpy(), reference.multiplier)):
        assert np.abs(ours - theirs).max() < 1e-8 * np.abs(theirs).max()
    r, speed = motion_in_angles(np.full(5, np.pi / 2), ts, GRAVITY)
    assert np.abs(q - r.reshape(13, 10)).max() < 1e-8 and np.abs(v - speed.reshape(13, 10)).max() < 1e-7
    assert described["position"].abs().max() < 1e-13 and described["velocity"].abs().max() < 1e-12
    assert (described["energy"] - described["energy"][0]).abs().max() < 1e-8
