"""A constraint whose parameters are each sample's own, in a neural DAE: what an invariant is at the start of each."""

import pytest
import sympy as sp
import torch

import ndae
from ndae import fields, methods


def circles():
    """Points that stay on circles about the origin, each of a radius of its own."""
    x, y, R = sp.symbols("x y R")
    return ndae.Constraint([x**2 + y**2 - R**2], [x, y], parameters={R: None}, name="circle")


def network(method):
    torch.manual_seed(0)
    return ndae.NeuralDAE(
        fields.MLPField(1, 4, 8), circles(), features=2, dim=2, latent=4, n_layers=3, method=method
    ).double()


def samples(n=12):
    angle, radius = torch.linspace(0, 3, n).double(), torch.linspace(0.5, 2.0, n).double()
    at = lambda a: (radius[:, None] * torch.stack([a.cos(), a.sin()], -1))[:, None]  # noqa: E731
    return at(angle), at(angle + 0.3), {"R": radius}


@pytest.mark.parametrize(
    "method", [methods.SmoothProjection(), methods.EndProjection(), methods.Multiplier() + methods.Penalty(1.0)]
)
def test_each_sample_is_held_on_its_own(method):
    x, _, radius = samples()
    off = lambda y, r: ((y**2).sum((1, 2)) - r**2).abs().max()  # noqa: E731
    y = network(method).predict(x, **radius).y
    assert off(y, radius["R"]) < (1e-9 if "Projection" in repr(method) else 0.05)
    moved = network(method).predict(x, R=1.1 * radius["R"]).y
    if "Projection" in repr(method):
        assert off(moved, 1.1 * radius["R"]) < 1e-9


def test_it_is_trained_and_measured_with_them(tmp_path):
    data = samples()
    result = ndae.fit(network(methods.EndProjection()), data, data, out=tmp_path, epochs=2)
    assert result.rows[-1].val_violation_max < 1e-8
    assert result.data_violations["training"]["targets"].typical < 1e-12


def test_what_is_wrong_is_named():
    x, _, radius = samples()
    with pytest.raises(ValueError, match="radius"):
        network(methods.EndProjection()).predict(x, radius=radius["R"])
    with pytest.raises(ValueError, match="one a sample"):
        network(methods.EndProjection()).predict(x, R=radius["R"][:3])
