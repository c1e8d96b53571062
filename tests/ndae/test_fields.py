"""The vector fields: shapes, structure, refusals."""

import pytest
import torch

from ndae.fields import ORIGIN, MimeticField, MLPField

CHAIN = [(ORIGIN, 0), (0, 1), (1, 2)]


def mimetic_by_hand(field, edges, z):
    """Incidence matrices written out: A averages, G differentiates, the transposes bring back."""
    n = z.shape[-2]
    average, gradient = torch.zeros(len(edges), n, dtype=z.dtype), torch.zeros(len(edges), n, dtype=z.dtype)
    for row, (a, b) in enumerate(edges):
        for end, sign in ((a, -1.0), (b, 1.0)):
            if end is not None:
                average[row, end], gradient[row, end] = 0.5, sign
    m, g = average @ z, gradient @ z
    edge = torch.cat([m, g, m * g, g**2, m**2], -1)
    a, b = (torch.tanh(edge @ field.read.weight.T + field.read.bias) @ field.write.weight.T + field.write.bias).chunk(
        2, -1
    )
    return average.T @ a + gradient.T @ b


def test_mimetic_is_its_formula():
    field = MimeticField(CHAIN, latent=4, hidden=7).double()
    z = torch.randn(6, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(field(0.0, z), mimetic_by_hand(field, CHAIN, z), rtol=1e-12, atol=1e-12)


def test_mimetic_permutes_with_its_nodes():
    field = MimeticField(CHAIN, latent=4, hidden=7).double()
    z = torch.randn(2, 3, 4, dtype=torch.float64)
    order = [2, 0, 1]  # node i of the chain is node order[i] of the relabelled graph
    relabelled = field.on([tuple(None if e is None else order[e] for e in edge) for edge in CHAIN])
    moved = torch.empty_like(z)
    moved[:, order] = z
    torch.testing.assert_close(relabelled(0.0, moved)[:, order], field(0.0, z), rtol=1e-12, atol=1e-12)


def test_mimetic_goes_onto_a_longer_chain_with_the_same_weights():
    field = MimeticField(CHAIN, latent=4, hidden=7)
    longer = field.on([(ORIGIN, 0), *((i, i + 1) for i in range(19))])
    assert longer(0.0, torch.randn(20, 4)).shape == (20, 4)
    assert longer.read is field.read


@pytest.mark.parametrize(
    ("edges", "says"),
    [
        ([], "at least one edge"),
        ([(0, 0)], "two different nodes"),
        ([(-1, 0)], "two different nodes"),
        ([(0, 1, 2)], "joins two"),
    ],
)
def test_mimetic_refuses(edges, says):
    with pytest.raises(ValueError, match=says):
        MimeticField(edges, latent=4, hidden=4)


def test_fields_refuse_another_shape():
    with pytest.raises(ValueError, match=r"3 nodes of 4 numbers.*\(5, 4\)"):
        MimeticField(CHAIN, latent=4, hidden=4)(0.0, torch.zeros(1, 5, 4))
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 5\)"):
        MLPField(3, 4, 8)(0.0, torch.zeros(1, 3, 5))
    with pytest.raises(ValueError, match="depth=0"):
        MLPField(3, 4, 8, depth=0)


@pytest.mark.parametrize("field", [MimeticField(CHAIN, 4, 7), MLPField(3, 4, 8)])
def test_a_sample_has_no_gradient_into_another(field):
    z = torch.randn(3, 3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(field(0.0, z)[1].square().sum(), z)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().max() == 0
