"""Quantities of unlike size in a neural DAE: measured in sizes of their own, inside, by projections and in the loss."""

import pytest
import sympy as sp
import torch

import ndae
from ndae import fields, methods
from ndae.models.depth_check import depth_check
from tests.ndae import chains
from tests.ndae.test_depth_check import two_links
from tests.ndae.test_saving import differing, moved

SIZES = (0.5, 5.0)


def heat(a, b):
    """A tank whose heat and concentration are tied: T + 10 c = 360 with T about 355 K."""
    return ndae.Constraint([b + 10 * a - 360], [a, b], name="heat")


def network(method, **options):
    torch.manual_seed(0)
    constraint = heat(*sp.symbols("c T"))
    options = {"features": 2, "dim": 2, "latent": 6, "n_layers": 2} | options
    return ndae.NeuralDAE(fields.MLPField(1, 6, 8), constraint, method, **options).double()


def samples(n, seed=0):
    """Half of what is there has reacted; (c, T) before and after."""
    c = torch.rand(n, generator=torch.Generator().manual_seed(seed)).double()
    at = lambda c: torch.stack([c, 360 - 10 * c], -1)[:, None, :]  # noqa: E731
    return at(c), at(c / (1 + c))


def test_projections_move_each_quantity_by_what_is_small_for_it():
    model = network(methods.EndProjection(), sizes=SIZES)
    with torch.no_grad():
        for weight in model.fields.parameters():
            weight.zero_()  # the field does nothing: the state that is projected is the input
    x = samples(5)[0] + torch.tensor([0.3, 0.0])
    y = model.predict(x).y
    assert (y[..., 1] + 10 * y[..., 0] - 360).abs().max() < 1e-9
    # Nearest in the sizes: the step is along diag(s²) ∇c.
    step = (y - x) / torch.tensor([10 * SIZES[0] ** 2, SIZES[1] ** 2])
    torch.testing.assert_close(step[..., 0], step[..., 1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("method", [methods.Multiplier() + methods.Penalty(2.0, "gram"), methods.SmoothProjection()])
def test_the_trained_dynamics_are_those_in_the_sizes(method):
    # Points of the constraint are nodes here, and single numbers above.
    model = two_links(method, integrator="dopri5", rtol=1e-10, atol=1e-12, sizes=(1.0, 3.0, 1.0, 40.0))
    found = depth_check(model, chains.states(3, chains.LENGTHS[:2]))
    assert found.largest["as trained"] < 1e-6


def test_fit_takes_sizes_from_the_data_where_they_are_unlike(tmp_path, capfd):
    model = network(methods.SmoothProjection())
    train, validation = samples(60), samples(20, 1)
    result = ndae.fit(model, train, validation, out=tmp_path / "a", epochs=8, learning_rate=1e-2, device="cpu")
    assert "measured in sizes from the data, 0.4" in capfd.readouterr().err
    size = model.output_sizes
    assert size is not None and 8 < size[1] / size[0] < 12
    found = (model.predict(validation[0]).y - validation[1]) / size
    assert torch.linalg.vector_norm(found, dim=-1).mean().item() == pytest.approx(result.kept.val_mae)
    assert result.kept.val_mae < 0.3 * torch.linalg.vector_norm((validation[0] - validation[1]) / size, dim=-1).mean()
    # It goes on as the same training, and travels with its sizes.
    again = network(methods.SmoothProjection())
    ndae.fit(again, train, validation, out=tmp_path / "a", epochs=9, learning_rate=1e-2, device="cpu")
    read = ndae.load(ndae.save(model, tmp_path / "model"))
    assert not differing(model, read) and read.scaled
    assert torch.equal(read.predict(validation[0]).y, model.predict(validation[0]).y)


def test_like_quantities_are_left_as_they_are(tmp_path):
    from ndae.training.evaluation import as_data
    from ndae.training.scaling import scale_by_data

    model = moved(two_links(methods.SmoothProjection()))
    x = chains.states(6, chains.LENGTHS[:2])
    x[..., 2:] /= 1000  # velocities in another unit are no other quantity that comes out
    scale_by_data(model, as_data((x, x[..., :2]), "training", torch.device("cpu"), torch.float64))
    assert not model.scaled and model.output_sizes is None and model.center() is None


@pytest.mark.parametrize("sizes", [(1.0, 0.0), (1.0, -2.0), (float("nan"), 1.0)])
def test_sizes_that_are_none_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes="):
        network(methods.EndProjection(), sizes=sizes)
