"""Projection through a closing map, and the penalty flow of eq. (14)."""

import pytest
import torch

from ndae.solvers import ProjectionError, integrate, project, project_latent, stabilisation, stabilisation_latent
from ndae.solvers.manifold import closing
from tests.solvers import cases
from tests.systems import seeded


def latent(batch, seed=0, n=3, width=5):
    generator = seeded(seed)
    close = torch.randn(width, 2, dtype=torch.float64, generator=generator)
    y = cases.chain_states(batch, n, 0.1, seed=seed).unflatten(-1, (n, 2))
    z = y @ torch.linalg.pinv(close) + 0.3 * torch.randn(batch, n, width, dtype=torch.float64, generator=generator) @ (
        torch.eye(width, dtype=torch.float64) - close @ torch.linalg.pinv(close)
    )
    return z, close


# -- project_latent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orthonormal", [True, False])
def test_nearest_latent_state(orthonormal):
    """c(K z) = 0 and z* - z in the row space of J K, as for the constraint z -> c(K z) written out densely."""
    f = cases.chain(3)
    z, close = latent(6)
    if orthonormal:
        close = torch.linalg.qr(close)[0]
    new, p = project_latent(f, z, close, orthonormal=orthonormal, tol=1e-12)
    assert f.residual((new @ close).flatten(-2)).abs().max() < 1e-11
    torch.testing.assert_close((new @ close).flatten(-2), p.y, rtol=0, atol=1e-12)
    for before, after in zip(z, new, strict=True):
        J = torch.func.jacrev(lambda x: f.residual((x.unflatten(0, (3, 5)) @ close).flatten()))(after.flatten())
        move = (before - after).flatten()
        tangential = move - J.T @ torch.linalg.lstsq(J.T, move[:, None]).solution[:, 0]
        assert tangential.abs().max() < 1e-6


def test_first_step_is_equation_9_through_the_map():
    f = cases.chain(3)
    z, close = latent(1)
    new, _ = project_latent(f, z, close, max_iterations=1, throw=False)
    K = torch.kron(torch.eye(3, dtype=torch.float64), close.T.contiguous())  # y = K z of the flattened states
    y = K @ z[0].flatten()
    J, c = f.jacobian(y[None])[0], f.residual(y)
    expected = z[0].flatten() - K.T @ J.T @ torch.linalg.solve(J @ K @ K.T @ J.T, c)
    torch.testing.assert_close(new[0].flatten(), expected, rtol=1e-12, atol=1e-12)


def test_orthonormal_is_the_general_case_with_unit_metric():
    f = cases.chain(3)
    z, close = latent(4)
    close = torch.linalg.qr(close)[0]
    a, b = (project_latent(f, z, close, orthonormal=flag, tol=1e-13)[0] for flag in (True, False))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backward", ["implicit", "unrolled"])
@pytest.mark.parametrize("orthonormal", [True, False])
def test_gradients_to_state_and_map(orthonormal, backward):
    f = cases.chain(2)
    z, close = latent(2, n=2, width=3)

    def run(z, close):
        close = torch.linalg.qr(close)[0] if orthonormal else close
        return project_latent(f, z, close, orthonormal=orthonormal, tol=1e-13, backward=backward)[0]

    assert torch.autograd.gradcheck(run, (z.requires_grad_(), close.requires_grad_()))


def test_bad_maps():
    f = cases.chain(3)
    z, close = latent(2)
    with pytest.raises(ValueError, match="linearly independent"):
        project_latent(f, z, close[:, :1].expand(-1, 2))
    with pytest.raises(ValueError, match="linearly independent"):
        project_latent(f, z[..., :1], close[:1])
    with pytest.raises(ValueError, match="3 points of 2"):
        project_latent(f, z[:, :2], close)
    with pytest.raises(ProjectionError, match="sample"):
        project_latent(f, z * float("nan"), close)
    new, p = project_latent(f, z * float("nan"), close, throw=False)
    assert new.shape == z.shape and not p.converged.any()


def test_plain_list_through_an_orthonormal_map():
    f = cases.two_surfaces()
    close = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64, generator=seeded(1)))[0]
    z = (torch.tensor([[[1.1, 0.9, 0.8]]], dtype=torch.float64)) @ close.T
    new, _ = project_latent(f, z, close, orthonormal=True, tol=9e-11)
    assert f.residual((new @ close).flatten(-2)).abs().max() < 1e-10


# -- stabilisation ----------------------------------------------------------------------------------------------------


def metrics():
    mass = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    return [None, mass, torch.diag_embed(mass[:, None].expand(3, 2)) + 0.1]


@pytest.mark.parametrize("H", ["identity", "gram"])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_against_dense_matrices(H, kind):
    f, metric = cases.chain(3), metrics()[kind]
    y = cases.chain_states(4, 3, 0.2)
    J, c = f.jacobian(y), f.residual(y)[..., None]
    A = torch.eye(6, dtype=torch.float64)
    if metric is not None:
        A = torch.diag(metric.repeat_interleave(2)) if metric.dim() == 1 else torch.block_diag(*metric)
    weight = torch.eye(3, dtype=torch.float64) if H == "identity" else torch.linalg.inv(J @ A @ J.mT)
    expected = -3.0 * (A @ J.mT @ weight @ c)[..., 0]
    torch.testing.assert_close(stabilisation(f, y, 3.0, H, metric), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stabilisation(f, y[0], 3.0, H, metric), expected[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("H", ["identity", "gram"])
@pytest.mark.parametrize("learns", [False, True])
def test_through_a_closing_map_against_dense_matrices(H, learns):
    """-γ Kᵀ Jᵀ H c(K z) with the whole K written out, by the fused function and through autograd's own graph."""
    f = cases.chain(3)
    close = torch.randn(4, 2, dtype=torch.float64, generator=seeded(3))
    z = cases.chain_states(5, 3, 0.2).unflatten(-1, (3, 2)) @ torch.linalg.pinv(close)
    K = torch.block_diag(*[close.T] * 3)
    y = (z @ close).flatten(-2)
    J, c = f.jacobian(y), f.residual(y)[..., None]
    weight = torch.eye(3, dtype=torch.float64) if H == "identity" else torch.linalg.inv(J @ K @ K.T @ J.mT)
    expected = -3.0 * (K.T @ J.mT @ weight @ c).squeeze(-1).unflatten(-1, (3, 4))
    gamma = torch.tensor(3.0, dtype=torch.float64, requires_grad=learns)
    torch.testing.assert_close(stabilisation_latent(f, z, close, gamma, H).detach(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("H", ["identity", "gram"])
def test_gradients_twice_through_a_closing_map(H):
    f = cases.chain(3)
    close = torch.randn(4, 2, dtype=torch.float64, generator=seeded(3)).requires_grad_()
    z = torch.randn(2, 3, 4, dtype=torch.float64, generator=seeded(4)).requires_grad_()

    def run(z, close):
        return stabilisation_latent(f, z, close, 2.0, H)

    assert torch.autograd.gradcheck(run, (z, close))
    assert torch.autograd.gradgradcheck(run, (z, close), fast_mode=True)


def test_large_batches_close_and_lift_as_small_ones():
    weight, z = torch.randn(40, 2, dtype=torch.float64), torch.randn(600, 5, 40, dtype=torch.float64)
    y = closing.close(z, weight)
    torch.testing.assert_close(y[:10], closing.close(z[:10], weight), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(closing.lift(y, weight)[:10], closing.lift(y[:10], weight), rtol=1e-12, atol=1e-12)


def test_circle_by_hand():
    """-γ (|y| - r) n, and the same with H = (J Jᵀ)⁻¹ = 1."""
    y = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    for H in ("identity", "gram"):
        torch.testing.assert_close(stabilisation(cases.circle(2.0), y, 10.0, H), -10 * (5 - 2) * y / 5)


@pytest.mark.parametrize("H", ["identity", "gram"])
def test_gradients_twice(H):
    f = cases.chain(3)
    y = cases.chain_states(2, 3, 0.2).requires_grad_()
    length = torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    mass = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)

    def run(y, length, gamma, mass):
        return stabilisation(f, y, gamma, H, mass, parameters={"length": length})

    assert torch.autograd.gradcheck(run, (y, length, gamma, mass))
    assert torch.autograd.gradgradcheck(run, (y[:1].detach().requires_grad_(), length, gamma, mass), fast_mode=True)


def test_gram_decays_at_one_rate():
    """Along y' = -γ A Jᵀ (J A Jᵀ)⁻¹ c the residual obeys c' = -γ c exactly; with H = I it only decays."""
    f = cases.chain(3)
    y0 = cases.chain_states(5, 3, 0.2)
    t = torch.tensor([0.0, 0.7], dtype=torch.float64)
    c0 = f.residual(y0)
    y1 = integrate(lambda t, y: stabilisation(f, y, 2.0, "gram"), y0, t, rtol=1e-10, atol=1e-12)[:, -1]
    torch.testing.assert_close(
        f.residual(y1), c0 * torch.exp(torch.tensor(-1.4, dtype=torch.float64)), rtol=1e-7, atol=1e-9
    )
    y1 = integrate(lambda t, y: stabilisation(f, y, 2.0), y0, t)[:, -1]
    assert (f.residual(y1).norm(dim=-1) < c0.norm(dim=-1)).all()


def test_vanishes_on_the_manifold_and_pulls_elsewhere():
    f = cases.chain(5)
    y = project(f, cases.chain_states(10, 5, 0.1), tol=1e-14).y
    assert stabilisation(f, y, 10.0).abs().max() < 1e-12
    off = cases.chain_states(10, 5, 0.1)
    slope = (stabilisation(f, off, 1.0) * torch.func.grad(lambda y: 0.5 * f.residual(y).square().sum())(off)).sum(-1)
    assert (slope < 0).all()


def test_nothing_is_clamped():
    """A coordinate at zero moves as any other (the paper's public code holds it there)."""
    y = torch.tensor([[0.0, 1.0, 0.3, 1.0, 1.0, 1.5]], dtype=torch.float64)
    assert stabilisation(cases.chain(3), y, 1.0)[0, 0].abs() > 0.1


def test_unknown_weight():
    with pytest.raises(ValueError, match="'identity' or 'gram'"):
        stabilisation(cases.chain(3), cases.chain_states(1, 3, 0.1), 1.0, "I")
