"""The equivariant network on molecules: symmetries under every method, locality, smoothness, gradients."""

import math

import pytest
import torch
from e3nn import o3

from ndae import NeuralDAE, NeuralMotion, library
from ndae.fields.equivariant import Channels, Convolution, SelfProduct
from ndae.fields.molecules import Geometry, Molecule
from ndae.forces import EquivariantForce, EquivariantPotential, PotentialForce
from ndae.methods import Auxiliary, EndProjection, Multiplier, Penalty, SmoothProjection, Unconstrained
from ndae.models import build_molecular_network
from ndae.models.maps import FixedMap
from ndae.symmetry import assert_equivariant, check_equivariance

WATER = ("O", "H", "H")
LENGTHS = (0.957, 0.957, 1.513)
SMALL = {"even": (6, 2, 6, 4), "odd": (4, 2, 4, 2), "n_functions": 4, "sent": 2, "hidden": 8, "width": 2}
METHODS = [
    Unconstrained(),
    Auxiliary(1.0),
    Penalty(1.0),
    Penalty(1.0, H="gram"),
    EndProjection(tol=None),
    SmoothProjection(tol=None),
    Multiplier(),
    Multiplier() + Penalty(1.0),
    Auxiliary(1.0) + Penalty(1.0) + SmoothProjection(tol=None),
]


def waters(n, samples=2, dtype=torch.float64, spacing=2.8, seed=0):
    """Positions and velocities (samples, 3 n, 6) of n bent, shaken, turned molecules on a line of zigzags."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    flat = torch.tensor([[0.0, 0.0, 0.0], [0.757, 0.586, 0.0], [-0.757, 0.586, 0.0]], dtype=torch.float64)
    turn = torch.linalg.qr(normal(samples, n, 3, 3))[0]
    i = torch.arange(n, dtype=torch.float64)
    centre = spacing * torch.stack([i, i % 2, torch.zeros(n, dtype=torch.float64)], -1)
    q = flat @ turn + centre[:, None] + 0.02 * normal(samples, n, 3, 3)
    return torch.cat([q, 0.01 * normal(samples, n, 3, 3)], -1).flatten(1, 2).to(dtype)


def network(n, method=None, *, molecule=WATER, dtype=torch.float64, step=0.2, **options):
    torch.manual_seed(1)
    constraint = library.rigid_molecules(n).torch()
    options = {"n_layers": 2, "sizes": SMALL, "initial_step": step, "cutoff": 5.0, "lengths": LENGTHS} | options
    model = build_molecular_network(
        "equivariant-small", constraint, method, molecule=molecule, velocity_scale=5.0, **options
    )
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_whole_model_is_equivariant_under_every_method(method, dtype):
    model, x = network(3, method, dtype=dtype), waters(3, dtype=dtype)
    assert 0.05 < (model(x) - x[..., :3]).abs().max() < 5  # a model that does nothing would pass too
    atol = {torch.float64: 1e-9, torch.float32: 5e-4}[dtype]
    assert_equivariant(model, x, molecule=WATER, atol=atol, rtol=0.0, n_elements=1)


def test_a_projected_output_is_on_the_constraint():
    model, x = network(4, SmoothProjection(tol=None)), waters(4)
    prediction = model.predict(x)
    assert model.constraint.residual(prediction.y.flatten(-2)).abs().max() < 1e-9
    assert all(bool(projection.converged.all()) for projection in prediction.projections)
    assert len(prediction.projections) == 2


@pytest.mark.parametrize("group", ["rotation", "translation", "atoms", "inversion"])
def test_a_broken_model_is_caught(group):
    model, x = network(4), waters(4)
    field = model.dae.fields[1]

    class Broken(torch.nn.Module):
        def forward(self, tau, z):
            even, odd = (field.channels.start("1o", grade) for grade in (0, 1))
            extra = torch.zeros_like(z)
            if group == "rotation":
                extra[..., even] = 1e-3
            elif group == "translation":
                extra[..., even : even + 3] = 1e-3 * z[..., even : even + 3]
            elif group == "atoms":
                extra[..., odd : odd + 3] = 1e-3 * z[..., even + 6 : even + 9]
            else:  # a pseudo-vector taken for a vector
                turned = torch.linalg.cross(z[..., even + 6 : even + 9], z[..., even + 9 : even + 12])
                extra[..., even : even + 3] = turned
            return field(tau, z) + extra

    model.dae.fields[1] = Broken()
    assert not check_equivariance(model, x, molecule=WATER)[group].holds


@pytest.mark.parametrize(
    ("molecule", "odd"), [(("O", "H", "Q"), 0), (("A", "A"), 1), (("A", "B"), 0), (("H", "O", "H", "M"), 1)]
)
def test_other_molecules(molecule, odd):
    assert Molecule(molecule).n_odd == odd
    n, atoms = 3, len(molecule)
    torch.manual_seed(0)
    constraint = library.rigid_molecules(n, [1.0] * math.comb(atoms, 2), atoms).torch()
    model = build_molecular_network(
        "equivariant-small",
        constraint,
        molecule=molecule,
        velocity_scale=1.0,
        n_layers=2,
        sizes=SMALL,
        initial_step=0.2,
    ).double()
    x = torch.randn(2, n * atoms, 6, dtype=torch.float64)
    assert (model(x) - x[..., :3] - x[..., 3:]).abs().max() > 0.02
    assert_equivariant(model, x, molecule=molecule)
    if not odd:  # letters of their own tell atoms apart
        mixed = check_equivariance(model, x, molecule=("A",) * atoms, which=["atoms"])
        assert not mixed["atoms"].holds


def test_untrained_model_gives_its_guess():
    x = waters(4)
    r, v = x[..., :3], x[..., 3:]
    for guess, expected in (("constant velocity", r + 5.0 * v), ("no motion", r)):
        close = network(4, guess=guess, step=1e-6)(x)
        assert (close - expected).abs().max() < 1e-4


def test_samples_have_exactly_no_influence_on_each_other():
    model, x = network(4, SmoothProjection()), waters(4, samples=3).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[1].square().sum(), x)
    assert gradient[1].abs().min() > 0
    assert (gradient[[0, 2]] == 0).all()


def test_leading_batch_dimensions():
    model, x = network(3), waters(3, samples=6)
    assert torch.allclose(model(x.reshape(2, 3, 9, 6)).reshape(6, 9, 3), model(x), atol=1e-12)
    assert torch.allclose(model(x[0]), model(x)[0], atol=1e-12)


def test_molecules_beyond_the_cutoff_do_not_interact():
    model = network(2)
    x = waters(2, samples=1)
    x[:, 3:, :3] += torch.tensor([20.0, 0.0, 0.0])
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, :3].square().sum(), x)
    assert gradient[:, :3].abs().max() > 0
    assert (gradient[:, 3:] == 0).all()


def test_output_is_smooth_where_a_molecule_leaves_the_cutoff():
    model = network(2, n_layers=1, step=0.01)
    x = waters(2, samples=1)
    x[..., 3:] = 0  # they would move the centres
    away = torch.zeros_like(x)
    away[:, 3:, 0] = 1.0
    x = x - away * (x[:, 3:, 0] - x[:, :3, 0]).mean()  # the centres' first coordinates agree
    middle = math.sqrt(5.0**2 - float((x[:, 3:, 1:3].mean(1) - x[:, :3, 1:3].mean(1)).square().sum()))

    @torch.no_grad()
    def y(s):
        return model(x + (middle + s) * away)[:, :3, :3]

    def seen(s):
        return float((y(s) - y(0.5)).abs().max())

    assert seen(-1.0) > 1e-6  # inside they do see each other
    assert seen(0.1) == 0
    # What is seen, and its first and second derivative, vanish there: as h³, h² and h.
    h = 0.02
    assert seen(-2 * h) / seen(-h) == pytest.approx(8, rel=0.15)
    assert seen(-4 * h) / seen(-h) == pytest.approx(64, rel=0.3)


def test_every_parameter_learns():
    model, x = network(4), waters(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - x[..., :3]).square().sum().backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        optimizer.step()
    assert silent == []


def test_gradients_by_the_adjoint_equation_are_the_direct_ones():
    x, gradients = waters(2), []
    for adjoint in (False, True):
        model = network(
            2, Penalty(1.0), step=0.05, n_layers=1, integrator="dopri5", rtol=1e-7, atol=1e-9, adjoint=adjoint
        )
        model(x).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.linalg.vector_norm(gradients[1] - gradients[0]) < 1e-5 * torch.linalg.vector_norm(gradients[0])


def test_full_size_is_the_papers():
    constraint = library.rigid_molecules(32).torch()
    model = build_molecular_network("equivariant", constraint, molecule=WATER, velocity_scale=5.0)
    assert model.dae.n_layers == 8
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2.8e6, rel=0.03)


def test_made_in_float32_symmetries_hold_in_float64():
    model, x = network(4, dtype=torch.float32).double(), waters(4)
    assert_equivariant(model, x, molecule=WATER, atol=1e-9, rtol=0.0)


def test_products_are_those_of_e3nn():
    torch.manual_seed(0)
    channels = Channels.of((3, 2, 3, 2), (1, 2, 1, 1))
    product = SelfProduct(channels, 2)
    x = torch.randn(5, channels.dim)
    left = product.left(x)[:, product.to_left]
    right = product.right(x)[:, product.to_right]
    t, v = left.split(product.left_sizes, -1)[1:]
    u, w = right.split(product.right_sizes, -1)[1:]
    ours = product(x)[:, torch.argsort(product.from_out)]
    inner, outer = product.left_sizes[0] + v.shape[1] // 3, t.shape[1] * 3
    n, m = v.shape[1] // 3, t.shape[1]
    dot = o3.TensorProduct(f"{n}x1o", f"{n}x1o", f"{n}x0e", [(0, 0, 0, "uuu", False)])(v, w)
    cross = o3.TensorProduct(f"{n}x1o", f"{n}x1o", f"{n}x1e", [(0, 0, 0, "uuu", False)])(v, w)
    mixed = o3.TensorProduct(f"{m}x0e", f"{m}x1o", f"{m}x1o", [(0, 0, 0, "uuu", False)])(t, u)
    assert torch.allclose(ours[:, inner - n : inner], dot, atol=1e-6)
    assert torch.allclose(ours[:, inner : inner + outer], mixed, atol=1e-6)
    assert torch.allclose(ours[:, inner + outer :], cross, atol=1e-6)


def test_convolution_is_that_of_e3nn():
    torch.manual_seed(0)
    geometry = Geometry(Molecule(WATER), cutoff=5.0, n_functions=4, lengths=LENGTHS).double()
    convolution = Convolution(geometry, sent=2, hidden=8).double()
    around = geometry(waters(4)[..., :3].reshape(2, 4, 3, 3))
    x = torch.randn(8, convolution.inside.dim, dtype=torch.float64)
    outs = ["0e", "0o", "1o", "1e", "0e", "0o", "1e", "1o", "1o", "1e"]
    ways = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (3, 1), (2, 1), (3, 1), (2, 0), (3, 0)]
    product = o3.TensorProduct(
        convolution.inside.irreps, "0e + 1o", [(2, out) for out in outs],
        [(i, j, k, "uvu", True) for k, (i, j) in enumerate(ways)], shared_weights=False, internal_weights=False,
        path_normalization="none",
    ).double()  # fmt: skip
    weights = (convolution.weights(around.radial) * around.envelope).mT / math.sqrt(geometry.neighbours)
    expected = product(x[around.sender], around.harmonics.mT, weights).sum(1)[:, convolution.places]
    assert torch.allclose(convolution(x, around), expected, atol=1e-10)


def wake(module):
    torch.manual_seed(3)
    for parameter in module.parameters():
        if not parameter.detach().abs().max() > 0:
            torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("velocity_scale", [None, 5.0])
def test_forces_are_equivariant_and_start_at_zero(velocity_scale):
    x = waters(4)
    force = EquivariantForce(WATER, 4, lengths=LENGTHS, sizes={"width": 2}, velocity_scale=velocity_scale).double()
    assert (force(0.0, x) == 0).all()
    wake(force)
    assert force(0.0, x).abs().max() > 1e-2
    assert_equivariant(lambda x: force(0.0, x), x, molecule=WATER, output="vectors", atol=1e-9)
    faster = torch.cat([x[..., :3], 2 * x[..., 3:]], -1)
    assert torch.equal(force(0.0, faster), force(0.0, x)) == (velocity_scale is None)


def test_potential_is_invariant_extensive_and_differentiable_twice():
    x = waters(4)
    potential = EquivariantPotential(WATER, 4, lengths=LENGTHS, sizes=SMALL_BLOCK).double()
    force = PotentialForce(potential)
    assert (force(0.0, x) == 0).all()
    wake(potential)
    assert_equivariant(lambda x: potential(x[..., :3]), x, molecule=WATER, output="scalars", atol=1e-9)
    assert_equivariant(lambda x: force(0.0, x), x, molecule=WATER, output="vectors", atol=1e-9)
    total = force(0.0, x).sum(-2)
    assert total.abs().max() < 1e-10  # no translation changes the energy
    q = x[:1, :6, :3]
    pair = EquivariantPotential(WATER, 2, lengths=LENGTHS, sizes=SMALL_BLOCK).double()
    pair.load_state_dict(potential.state_dict())
    far = torch.cat([q, q + 50.0], -2)
    assert torch.allclose(potential(far), 2 * pair(q), atol=1e-10)
    assert torch.autograd.gradcheck(
        lambda q: force(0.0, q), (x[:1].clone().requires_grad_(),), atol=1e-4, fast_mode=True
    )


SMALL_BLOCK = {key: value for key, value in SMALL.items() if key != "n_functions"}


def test_forces_drive_a_motion():
    force = wake(EquivariantForce(WATER, 3, lengths=LENGTHS, scale=1e-3, sizes=SMALL_BLOCK)).double()
    constraint = library.rigid_molecules(3).torch()
    motion = NeuralMotion(constraint, force, duration=5.0, n_steps=2, mass=[16.0, 1.0, 1.0] * 3, starts="project")
    x = waters(3)
    assert_equivariant(motion.double(), x, molecule=WATER, atol=1e-8)
    motion(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in force.parameters())


def test_errors_say_what_to_write():
    constraint = library.rigid_molecules(3).torch()
    with pytest.raises(ValueError, match="no molecular network is called 'mlp'; there are equivariant"):
        build_molecular_network("mlp", constraint, molecule=WATER, velocity_scale=1.0)
    with pytest.raises(ValueError, match="at most one pair of atoms may be alike"):
        Molecule(("C", "H", "H", "H"))
    with pytest.raises(ValueError, match="27 states, which is no whole number of molecules"):
        build_molecular_network("equivariant", constraint, molecule=("A", "B"), velocity_scale=1.0)
    with pytest.raises(ValueError, match=r"lengths=\(1.0,\): expected 3 positive ones"):
        Geometry(Molecule(WATER), cutoff=5.0, n_functions=4, lengths=(1.0,))
    with pytest.raises(ValueError, match="guess='r' is unknown"):
        network(3, guess="r")
    with pytest.raises(ValueError, match="at least 4 even vectors and 2 odd ones"):
        network(3, sizes=SMALL | {"odd": (1, 0, 1, 0)})
    with pytest.raises(ValueError, match="molecules of 3 atoms, not"):
        network(3)(torch.zeros(1, 8, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"2 molecules .* are .6, 3. numbers"):
        EquivariantPotential(WATER, 2)(torch.zeros(1, 9, 3))
    with pytest.raises(ValueError, match="scale is positive"):
        EquivariantForce(WATER, 2, scale=0.0)
    with pytest.raises(ValueError, match="orthonormal columns"):
        FixedMap(torch.ones(3, 2))
    with pytest.raises(ValueError, match="both maps"):
        NeuralDAE(
            torch.nn.Identity(),
            constraint,
            features=18,
            dim=9,
            latent=20,
            n_layers=1,
            open=FixedMap(torch.eye(20)[:, :18]),
        )
