"""Integration through torchdiffeq: orders, adjoint against direct gradients, failures."""

import itertools
import math

import pytest
import torch
import torchdiffeq
from jaxtyping import TypeCheckError

from ndae.solvers import IntegrationError, classical_rk4_step, integrate
from ndae.solvers.depth.integrate import ADAPTIVE, FIXED_STEP


def spiral(t, y):
    """y1' = -y2 cos t, y2' = y1 cos t: a rotation by sin t, with explicit time."""
    return torch.stack([-y[..., 1], y[..., 0]], -1) * torch.cos(torch.as_tensor(t, dtype=y.dtype))


def spiral_solution(y0, t):
    c, s = math.cos(math.sin(t)), math.sin(math.sin(t))
    return torch.stack([c * y0[..., 0] - s * y0[..., 1], s * y0[..., 0] + c * y0[..., 1]], -1)


class Oscillator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64))

    def forward(self, t, y):
        return torch.tanh(y) @ self.matrix.T + 0.1 * t


Y0 = torch.tensor([[1.0, 0.0], [0.3, -0.7], [-0.2, 0.4]], dtype=torch.float64)


@pytest.mark.parametrize("method", FIXED_STEP)
def test_order_of_fixed_steps(method):
    order = FIXED_STEP[method][1]
    errors = []
    for n in (32, 64, 128):
        t = torch.linspace(0.0, 2.0, n + 1, dtype=torch.float64)
        errors.append(
            (integrate(spiral, Y0, t, integrator=method)[:, -1] - spiral_solution(Y0, 2.0)).abs().max().item()
        )
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates[-1] == pytest.approx(order, abs=0.25), rates


@pytest.mark.parametrize("method", ADAPTIVE)
def test_order_of_adaptive_methods_at_equal_steps(method):
    """min_step = max_step makes torchdiffeq accept every step, which shows the order of the method itself."""
    order = ADAPTIVE[method][1]
    errors = []
    for n in (4, 8, 16) if order > 5 else (16, 32, 64):
        h = 2.0 / n
        t = torch.tensor([0.0, 2.0], dtype=torch.float64)
        equal = {"first_step": h, "min_step": h, "max_step": h}
        y = integrate(spiral, Y0, t, integrator=method, options=equal)
        errors.append((y[:, -1] - spiral_solution(Y0, 2.0)).abs().max().item())
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates[-1] > order - 0.35, rates


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods_reach_their_tolerance(method):
    t = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    y = integrate(spiral, Y0, t, integrator=method, rtol=1e-8, atol=1e-8)
    for i, time in enumerate(t.tolist()):
        # fehlberg2 takes the first-order error for the second-order solution, and its steps pile up.
        torch.testing.assert_close(
            y[:, i], spiral_solution(Y0, time), rtol=0, atol=1e-5 if method == "fehlberg2" else 1e-7
        )


def test_classical_rule_by_hand():
    """One step of y' = t y: k1..k4 written out."""
    t, y, h = 0.3, 2.0, 0.5
    k1 = t * y
    k2 = (t + h / 2) * (y + h / 2 * k1)
    k3 = (t + h / 2) * (y + h / 2 * k2)
    k4 = (t + h) * (y + h * k3)
    expected = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    start = torch.tensor([y], dtype=torch.float64)
    assert classical_rk4_step(lambda t, y: t * y, t, start, h).item() == pytest.approx(expected, rel=1e-15)
    learned = classical_rk4_step(lambda t, y: t * y, t, start, torch.tensor(h, dtype=torch.float64))
    assert learned.item() == pytest.approx(expected, rel=1e-15)
    times = torch.tensor([t, t + h], dtype=torch.float64)
    assert integrate(lambda t, y: t * y, start, times, integrator="classical_rk4")[-1].item() == pytest.approx(
        expected, rel=1e-15
    )


def test_the_two_rk4_differ():
    t = torch.tensor([0.0, 0.7], dtype=torch.float64)
    a, b = (integrate(spiral, Y0, t, integrator=m)[:, -1] for m in ("classical_rk4", "three_eighths_rk4"))
    assert 1e-9 < (a - b).abs().max() < 1e-2


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("step_size", [None, 0.125])
def test_the_classical_rule_is_its_step_to_the_last_bit(back, step_size):
    """Values and direct gradients are those of the steps one by one; of times that binary fractions give exactly."""
    t = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)
    t = t.flip(0) if back else t
    field, found = Oscillator(), []
    y0 = Y0.clone().requires_grad_()
    y = integrate(field, y0, t, integrator="classical_rk4", step_size=step_size)
    grid = t if step_size is None else t[0] + (t[-1] - t[0]).sign() * step_size * torch.arange(9, dtype=t.dtype)
    z, steps = y0, [y0]
    for i in range(len(grid) - 1):
        z = classical_rk4_step(field, grid[i], z, grid[i + 1] - grid[i])
        steps.append(z)
    z = torch.stack(steps[:: 1 if step_size is None else 2], -2)
    for path in (y, z):
        found.append((path.detach(), *torch.autograd.grad(path[:, -1].sum(), [y0, field.matrix])))
    for ours, by_hand in zip(*found, strict=True):
        assert torch.equal(ours, by_hand)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("method", ["three_eighths_rk4", "heun3", "dopri5"])
def test_methods_of_torchdiffeq_are_its_own_to_the_last_bit(method, adjoint, back):
    t = torch.linspace(0.1, 0.8, 4, dtype=torch.float64)
    t = t.flip(0) if back else t
    field, found = Oscillator(), []
    solve = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
    name = {"three_eighths_rk4": "rk4"}.get(method, method)
    options = {"step_t": t[1:]} if method == "dopri5" else {}
    for path in (
        lambda y, t: integrate(field, y, t, integrator=method, adjoint=adjoint).movedim(-2, 0),
        lambda y, t: solve(field, y, t, method=name, options=options),
    ):
        y0, times = Y0.clone().requires_grad_(), t.clone().requires_grad_()
        y = path(y0, times)
        found.append((y.detach(), *torch.autograd.grad(y.sin().sum(), [y0, times, field.matrix])))
    for ours, its_own in zip(*found, strict=True):
        assert torch.equal(ours, its_own)


def test_gradient_of_times_by_the_classical_adjoint():
    field, found = Oscillator(), []
    for adjoint in (False, True):
        t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64).requires_grad_()
        y = integrate(field, Y0, t, integrator="classical_rk4", adjoint=adjoint)
        found.append(torch.autograd.grad(y.sin().sum(), t)[0])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_a_grid_of_ones_own():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for method in ("classical_rk4", "three_eighths_rk4"):
        fine = {"grid_constructor": lambda field, y0, t: torch.linspace(0.0, 1.0, 65, dtype=t.dtype)}
        y = integrate(spiral, Y0, t, integrator=method, options=fine)
        torch.testing.assert_close(y[:, -1], spiral_solution(Y0, 1.0), rtol=0, atol=1e-8)
        short = {"grid_constructor": lambda field, y0, t: t[:-1]}
        with pytest.raises(ValueError, match=r"from 0 to 0.5, expected from 0 to 1"):
            integrate(spiral, Y0, t, integrator=method, options=short)


def test_gradient_of_a_learned_step_size():
    dt = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    field = Oscillator()
    assert torch.autograd.gradcheck(
        lambda y, h: classical_rk4_step(field, 0.1, y, h), (Y0.clone().requires_grad_(), dt)
    )


@pytest.mark.parametrize("method", ["classical_rk4", "midpoint", "dopri5", "bosh3"])
def test_direct_gradient(method):
    field = Oscillator()
    t = torch.tensor([0.0, 0.3, 0.5], dtype=torch.float64)
    # Equal steps: the choice of an adaptive step is not differentiated.
    options = {"first_step": 0.1, "min_step": 0.1, "max_step": 0.1} if method in ADAPTIVE else None

    def run(y0, matrix):
        return torch.func.functional_call(Wrapped(field, t, method, options), {"field.matrix": matrix}, (y0,))

    assert torch.autograd.gradcheck(
        run, (Y0[:2].clone().requires_grad_(), field.matrix.detach().clone().requires_grad_())
    )


class Wrapped(torch.nn.Module):
    def __init__(self, field, t, method, options):
        super().__init__()
        self.field, self.t, self.method, self.options = field, t, method, options

    def forward(self, y0):
        return integrate(self.field, y0, self.t, integrator=self.method, options=self.options)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "classical_rk4", "three_eighths_rk4"])
def test_adjoint_against_direct(method):
    field = Oscillator()
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    weights = torch.randn(3, 101, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for adjoint in (False, True):
        y0 = Y0.clone().requires_grad_()
        y = integrate(field, y0, t, integrator=method, adjoint=adjoint, rtol=1e-10, atol=1e-12)
        gradients.append(torch.autograd.grad((weights * y).sum(), [y0, field.matrix]))
    for direct, by_adjoint in zip(*gradients, strict=True):
        torch.testing.assert_close(direct, by_adjoint, rtol=1e-6, atol=1e-6)


def test_adjoint_of_a_plain_function_needs_its_parameters():
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="adjoint_parameters"):
        integrate(lambda t, y: rate * y, Y0, t, adjoint=True)
    y = integrate(lambda t, y: rate * y, Y0, t, adjoint=True, adjoint_parameters=[rate])
    (gradient,) = torch.autograd.grad(y[:, -1].sum(), rate)
    assert gradient.item() == pytest.approx(Y0.sum().item() * math.exp(0.5), rel=1e-6)


def test_shapes_and_direction_of_time():
    t = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    y0 = spiral_solution(Y0, 2.0).reshape(3, 1, 2)
    y = integrate(spiral, y0, t, integrator="dopri8")
    assert y.shape == (3, 1, 3, 2)
    torch.testing.assert_close(y[..., 0, :], y0)
    torch.testing.assert_close(y[:, 0, -1], Y0, rtol=0, atol=1e-6)
    assert integrate(spiral, Y0[0], t, integrator="euler").shape == (3, 2)
    substeps = integrate(spiral, Y0, t[1:], integrator="classical_rk4", step_size=0.01)
    torch.testing.assert_close(substeps[:, -1], spiral_solution(spiral_solution(Y0, -math.asin(math.sin(1.0))), 0.0))


@pytest.mark.parametrize("method", FIXED_STEP)
def test_batched_against_one_at_a_time(method):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    together = integrate(Oscillator(), Y0, t, integrator=method)
    for i in range(3):
        torch.testing.assert_close(
            together[i], integrate(Oscillator(), Y0[i], t, integrator=method), rtol=1e-14, atol=1e-14
        )


def test_names():
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"classical_rk4.*three_eighths_rk4"):
        integrate(spiral, Y0, t, integrator="rk4")
    with pytest.raises(ValueError, match=r"'rk5'.*euler.*dopri8"):
        integrate(spiral, Y0, t, integrator="rk5")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"t": torch.tensor([0.0, 1.0, 1.0])}, "strictly"),
        ({"t": torch.tensor([0.0, float("nan")])}, "strictly"),
        ({"t": torch.tensor([0.0])}, "one more time"),
        ({"step_size": 0.1}, "leave step_size out"),
        ({"step_size": -0.1, "integrator": "euler"}, "positive"),
        ({"rtol": 0.0, "atol": 0.0}, "positive"),
        ({"y0": Y0.long()}, "expected float32 or float64"),
        ({"options": {"stepsize": 1.0}}, "stepsize.*unknown.*first_step"),
        ({"throw": False}, "fixed-step"),
    ],
)
def test_bad_arguments(changes, match):
    arguments = {"y0": Y0, "t": torch.tensor([0.0, 1.0]), "integrator": "dopri5", **changes}
    with pytest.raises((ValueError, TypeCheckError), match=match):
        integrate(spiral, **arguments)


def test_blow_up_is_told():
    """y' = y² leaves every bound at t = 1, and so backwards does y' = −y²."""
    t, one = torch.tensor([0.0, 2.0], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    with pytest.raises(IntegrationError, match=r"dopri5.* at t = 1: the step size fell"):
        integrate(lambda t, y: y**2, one, t)
    with pytest.raises(IntegrationError, match=r"dopri5.* at t = 1: the step size fell"):
        integrate(lambda t, y: -(y**2), one, t.flip(0))
    with pytest.raises(IntegrationError, match=r"at t = 0: .*values that are not finite"):
        integrate(lambda t, y: y * float("nan"), one, t)
    with pytest.raises(IntegrationError, match=r"at t = 0.97.*values that are not finite"):
        integrate(lambda t, y: torch.where(t > 1, float("nan"), -y), one, t)
    with pytest.raises(IntegrationError, match=r"at t = 1.0.*the state became non-finite"):
        integrate(lambda t, y: y**2, one, t, options={"min_step": 0.01})
    with pytest.raises(IntegrationError, match=r"at t = 0\.\d+: 7 steps.*max_steps"):
        integrate(spiral, Y0, t, max_steps=7, rtol=1e-10)
    with pytest.raises(IntegrationError, match=r"at t = 0: 0 steps.*max_steps"):
        integrate(spiral, Y0, t, max_steps=0)


def test_an_assertion_of_the_field_is_its_own():
    def field(t, y):
        assert t < 0.5, "half past"
        return -y

    with pytest.raises(AssertionError, match="half past"):
        integrate(field, Y0, torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_a_bad_sample_is_named_and_harms_no_other():
    t = torch.linspace(0.0, 3.0, 31, dtype=torch.float64)
    y0 = torch.tensor([[0.1], [1e3], [-0.2]], dtype=torch.float64)

    def field(t, y):
        return y**2

    with pytest.raises(IntegrationError, match=r"sample\(s\) \[1\] of 3.*throw=False"):
        integrate(field, y0, t, integrator="classical_rk4")
    y = integrate(field, y0, t, integrator="classical_rk4", throw=False)
    torch.testing.assert_close(y[[0, 2]], integrate(field, y0[[0, 2]], t, integrator="classical_rk4"), rtol=0, atol=0)
