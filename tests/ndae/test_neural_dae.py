"""The neural DAE and its methods against the paper's equations, written out by hand on small cases."""

import pytest
import torch
from torch import nn

from ndae import NeuralDAE
from ndae.fields import ORIGIN, MimeticField
from ndae.methods import Auxiliary, Combined, EndProjection, Multiplier, Penalty, SmoothProjection, Unconstrained
from ndae.models import build_network
from ndae.symbolic import library

EDGES = [(ORIGIN, 0), (0, 1), (1, 2)]
METHODS = {
    "none": Unconstrained(),
    "auxiliary": Auxiliary(10.0),
    "penalty": Penalty(10.0),
    "multiplier": Multiplier() + Penalty(10.0) + Auxiliary(10.0),
    "end": EndProjection(tol=1e-14) + Penalty(10.0) + Auxiliary(10.0),
    "smooth": SmoothProjection(tol=1e-14) + Penalty(10.0) + Auxiliary(10.0),
}


@pytest.fixture
def constraint():
    return library.chain(3).torch().double()


def model(constraint, method=None, layers=2, **options):
    torch.manual_seed(0)
    fields = [MimeticField(EDGES, latent=6, hidden=5) for _ in range(layers)]
    return NeuralDAE(fields, constraint, method, features=4, dim=2, latent=6, **options).double()


def states(batch=4):
    """Three-link chains on the manifold, with velocities."""
    generator = torch.Generator().manual_seed(1)
    angle = 6.28 * torch.rand(batch, 3, 1, generator=generator, dtype=torch.float64)
    r = torch.cat([angle.cos(), angle.sin()], -1).cumsum(-2)
    return torch.cat([r, torch.randn(r.shape, generator=generator, dtype=torch.float64)], -1)


def by_hand(net, x, extra=lambda z: 0.0, after=lambda z: z):
    """Eq. 11 with the classical Runge-Kutta method written out."""
    z = x @ net.open.matrix().T
    for field, h in zip(net.fields, net.log_step.exp(), strict=True):
        f = lambda z, field=field: field(0.0, z) + extra(z)  # noqa: E731
        k1 = f(z)
        k2 = f(z + h / 2 * k1)
        k3 = f(z + h / 2 * k2)
        k4 = f(z + h * k3)
        z = after(z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return z @ net.close.matrix()


def links(y):
    """|r_i − r_{i−1}| − 1 of eq. 15."""
    return torch.diff(y, dim=-2, prepend=torch.zeros_like(y[..., :1, :])).norm(dim=-1) - 1


def test_unconstrained_is_equation_11(constraint):
    net, x = model(constraint), states()
    torch.testing.assert_close(net(x), by_hand(net, x), rtol=1e-12, atol=1e-12)


def test_penalty_is_equation_14_in_the_vector_field(constraint):
    """−γ K_cᵀ Jᵀ c, its Jacobian by autograd of the residual written out."""
    net, x = model(constraint, Penalty(7.0), initial_step=0.03), states()
    x[..., :2] += 0.1
    close = net.close.matrix()

    def extra(z):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            half = links(z @ close).square().sum() / 2
            return -7.0 * torch.autograd.grad(half, z)[0]

    with torch.no_grad():
        torch.testing.assert_close(net(x), by_hand(net, x, extra), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("orthonormal", [True, False])
def test_multiplier_is_equation_6_in_its_index_1_form(constraint, orthonormal):
    """σ − Kᵀ Jᵀ (J K Kᵀ Jᵀ)⁻¹ J K σ with the Jacobian by autograd and the dense matrices written out."""
    net, x = model(constraint, Multiplier(), layers=1, orthonormal=orthonormal), states()
    if not orthonormal:
        with torch.no_grad():
            net.close.weight.add_(0.1 * torch.randn_like(net.close.weight))
    close = net.close.matrix().detach()
    field = net.field(0)

    def tangent(z):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda z: links(z @ close)))(z).flatten(2)  # of c(K z) by z
        sigma = field(0.0, z).flatten(1)[..., None]
        lam = torch.linalg.solve(jacobian @ jacobian.mT, jacobian @ sigma)
        return (sigma - jacobian.mT @ lam).reshape(z.shape) - field(0.0, z)

    with torch.no_grad():
        torch.testing.assert_close(net(x), by_hand(net, x, tangent), rtol=1e-10, atol=1e-10)


def test_multiplier_keeps_the_constraint_as_it_was_up_to_the_integrator(constraint):
    options = {"initial_step": 0.2, "integrator": "dopri5", "rtol": 1e-10, "atol": 1e-12}
    net, x = model(constraint, Multiplier(), **options), states()
    y = net(x)
    assert (y - x[..., :2]).abs().max() > 1e-3
    opened = x @ net.open.matrix().mT @ net.close.matrix()
    torch.testing.assert_close(links(y), links(opened), rtol=0, atol=1e-9)


def test_multiplier_and_penalty_add_up_in_either_order(constraint):
    x = states()
    x[..., :2] *= 1.05
    one, other = (model(constraint, method)(x) for method in (Multiplier() + Penalty(5.0), Penalty(5.0) + Multiplier()))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (links(one).abs() < links(x[..., :2]).abs()).all()


def test_penalty_with_the_gram_matrix_decays_at_the_rate_gamma(constraint):
    """With no field and H = (J K Kᵀ Jᵀ)⁻¹ the residual follows dc/dτ = −γ c exactly."""
    net, x = (
        model(
            constraint, Penalty(5.0, H="gram"), layers=1, initial_step=0.2, integrator="dopri5", rtol=1e-10, atol=1e-12
        ),
        states(),
    )
    for parameter in net.fields.parameters():
        nn.init.zeros_(parameter)
    x[..., :2] *= 1.05
    decay = torch.exp(-5.0 * net.log_step.exp())
    opened = x @ net.open.matrix().mT @ net.close.matrix()
    torch.testing.assert_close(links(net(x)), links(opened) * decay, rtol=1e-7, atol=1e-9)


def test_penalty_with_the_gram_matrix_decays_at_the_same_rate_through_a_general_map(constraint):
    options = {"layers": 1, "initial_step": 0.2, "integrator": "dopri5", "rtol": 1e-10, "atol": 1e-12}
    net, x = model(constraint, Penalty(5.0, H="gram"), orthonormal=False, **options), states()
    with torch.no_grad():
        net.close.weight.add_(0.1 * torch.randn_like(net.close.weight))
    for parameter in net.fields.parameters():
        nn.init.zeros_(parameter)
    opened = x @ net.open.matrix().mT @ net.close.matrix()
    torch.testing.assert_close(
        links(net(x)), links(opened) * torch.exp(-5.0 * net.log_step.exp()), rtol=1e-7, atol=1e-9
    )


def test_auxiliary_is_equation_4(constraint):
    net, x = model(constraint, Auxiliary(3.0)), states()
    prediction = net.predict(x)
    expected = 3.0 / 2 * links(prediction.y).square().sum(-1).mean()
    torch.testing.assert_close(prediction.regularisation, expected, rtol=1e-12, atol=0)


def test_auxiliary_beside_a_projection_sees_the_state_before_it(constraint):
    x = states()
    plain = model(constraint)(x)
    expected = 3.0 / 2 * links(plain).square().sum(-1).mean()
    end = model(constraint, EndProjection(tol=1e-10) + Auxiliary(3.0)).predict(x)
    torch.testing.assert_close(end.regularisation, expected, rtol=1e-12, atol=0)
    assert links(end.y).abs().max() < 1e-10 < links(plain).abs().max()


def test_auxiliary_beside_smooth_projection_adds_up_the_layers(constraint):
    x = states()
    net = model(constraint, SmoothProjection(tol=1e-12) + Auxiliary(3.0))
    first = model(constraint, SmoothProjection(tol=1e-12), layers=1)
    first.load_state_dict(
        {name: value[:1] if name == "log_step" else value for name, value in net.state_dict().items()}, strict=False
    )
    one = first.method = Auxiliary(3.0)
    term = first.predict(x).regularisation  # the first layer's violation
    assert one is not None and term > 0
    assert net.predict(x).regularisation > term


@pytest.mark.parametrize("name", ["end", "smooth"])
def test_projections_hold_the_constraint(constraint, name):
    prediction = model(constraint, METHODS[name]).predict(states())
    assert links(prediction.y).abs().max() < 1e-10
    assert len(prediction.projections) == {"end": 1, "smooth": 2}[name]
    assert all(projection.converged.all() for projection in prediction.projections)


def test_end_projection_moves_to_the_nearest_point(constraint):
    """The step is in the span of the constraint gradients at the point reached: Jᵀ λ (eq. 12)."""
    x = states()
    before, after = model(constraint)(x), model(constraint, EndProjection(tol=1e-12))(x)
    step = (after - before).flatten(-2)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda y: links(y)))(after.detach()).flatten(-2)
    lam = torch.linalg.lstsq(jacobian.mT, step.unsqueeze(-1)).solution
    torch.testing.assert_close((jacobian.mT @ lam).squeeze(-1), step, rtol=0, atol=1e-6)


def test_smooth_of_one_layer_is_end(constraint):
    x = states()
    a = model(constraint, SmoothProjection(tol=1e-11), layers=1)(x)
    torch.testing.assert_close(a, model(constraint, EndProjection(tol=1e-11), layers=1)(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_finite_differences(constraint, name):
    net, x = model(constraint, METHODS[name]), states(2)

    def loss(*parameters):
        named = dict(zip(dict(net.named_parameters()), parameters, strict=True))
        prediction = torch.func.functional_call(_Predict(net), {f"net.{k}": v for k, v in named.items()}, (x,))
        return prediction.y.square().sum() + prediction.regularisation

    assert torch.autograd.gradcheck(loss, tuple(net.parameters()), eps=1e-6, atol=2e-5, rtol=1e-4, fast_mode=True)


class _Predict(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net.predict(x)


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_depends_on_no_neighbour(constraint, name):
    net, x = model(constraint, METHODS[name]), states(3)
    x[2, :, :2] *= 3.0  # far off the manifold: needs more iterations than the others
    alone = torch.cat([net(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x), alone, rtol=1e-12, atol=1e-12)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0].square().sum(), x)
    assert gradient[1:].abs().max() == 0 and gradient[0].abs().max() > 0


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("integrator", ["classical_rk4", "dopri5"])
def test_adjoint_gradients_agree_with_direct_ones(constraint, name, integrator):
    """Continuous adjoint: exact up to the method's error, so the fixed step is made small."""
    options = {"integrator": integrator, "rtol": 1e-10, "atol": 1e-12, "initial_step": 0.003}
    x, gradients = states(2), []
    for adjoint in (False, True):
        net = model(constraint, METHODS[name], adjoint=adjoint, **options)
        prediction = net.predict(x)
        (prediction.y.square().sum() + prediction.regularisation).backward()
        gradients.append({key: p.grad for key, p in net.named_parameters()})
    for key, direct in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][key], direct, rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_the_untrained_network_predicts_almost_no_change(constraint):
    x = states()
    y = model(constraint, initial_step=1e-6)(x)
    torch.testing.assert_close(y, x[..., :2], rtol=0, atol=1e-4)


def test_no_layer_is_dead(constraint):
    net = model(constraint, layers=4)
    net(states()).square().sum().backward()
    assert (net.log_step.grad.abs() > 0).all()


def test_maps_stay_orthonormal_while_they_learn(constraint):
    net, x = model(constraint, METHODS["smooth"]), states()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(5):
        optimiser.zero_grad()
        net(x).square().sum().backward()
        optimiser.step()
    for linear in (net.open, net.close):
        w = linear.matrix()
        torch.testing.assert_close(w.T @ w, torch.eye(w.shape[1], dtype=w.dtype), rtol=0, atol=1e-12)
    assert not torch.allclose(net.open.matrix()[:, :2], net.close.matrix())


def test_general_maps_are_projected_in_the_latent_space(constraint):
    net, x = model(constraint, SmoothProjection(tol=1e-10), orthonormal=False), states()
    with torch.no_grad():
        net.close.weight.mul_(1.3).add_(0.05 * torch.randn_like(net.close.weight))
    assert links(net(x)).abs().max() < 1e-10


def test_weights_shared_over_depth(constraint):
    field = MimeticField(EDGES, latent=6, hidden=5)
    net = NeuralDAE(field, constraint, features=4, dim=2, latent=6, n_layers=5).double()
    assert sum(p.numel() for p in net.fields.parameters()) == sum(p.numel() for p in field.parameters())
    assert len(net.log_step) == 5 and net(states()).shape == (4, 3, 2)


def test_sizes_of_the_ready_made_networks():
    constraint = library.chain(5).torch()
    edges = [(ORIGIN, 0), *((i, i + 1) for i in range(4))]

    def count(name):
        return sum(p.numel() for p in build_network(name, constraint, edges=edges, features=4, dim=2).parameters())

    assert count("mimetic") == pytest.approx(5.8e6, rel=0.01)  # appendix A.2
    assert count("mimetic-small") < 4e5
    assert count("mlp") > 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: build_network("resnet", c, edges=EDGES, features=4, dim=2), "mimetic, mimetic-small, mlp"),
        (lambda c: model(c)(torch.zeros(2, 3, 5).double()), r"\(batch, nodes, 4\), not \(2, 3, 5\)"),
        (lambda c: model(c)(torch.zeros(2, 4, 4).double()), "the constraint has 6"),
        (lambda c: NeuralDAE(nn.Identity(), c, features=4, dim=2, latent=6), "n_layers"),
        (lambda c: NeuralDAE([nn.Identity()], c, features=2, dim=4, latent=6), "at most features"),
        (lambda c: NeuralDAE([nn.Identity()], c, features=4, dim=2, latent=3), "latent >= features"),
        (lambda c: model(c, initial_step=0.0), "positive"),
        (lambda c: Penalty(-1.0), "gamma"),
        (lambda c: Penalty(1.0, H="newton"), "identity"),
        (lambda c: Auxiliary(float("nan")), "eta"),
        (lambda c: EndProjection(tol=0.0), "tol"),
        (lambda c: Penalty(1.0) + Penalty(2.0), "twice: Penalty"),
    ],
)
def test_refusals_name_the_mend(constraint, call, says):
    with pytest.raises(ValueError, match=says):
        call(constraint)


def test_methods_combine_flat():
    method = Penalty(1.0) + Auxiliary(2.0) + SmoothProjection()
    assert isinstance(method, Combined) and len(method.methods) == 3 and method.projects_layers
