"""What an object is, as text: the same for the same, whatever was computed with it, and another for any change."""

import functools
import subprocess
import sys
import threading

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

import ndae
from ndae.symbolic import System, dot, library
from ndae.training.description import describe, fingerprint


def oscillator(stiffness: float = 1.0) -> System:
    x, v = sp.symbols("x v", real=True)
    k = sp.Symbol("k", real=True)
    return System([dot(x) - v, dot(v) + k * x + sp.Float("0.1", 17) * v], [x, v], {k: stiffness}, name="oscillator")


def test_what_was_computed_with_an_object_is_no_part_of_it():
    pendulum, system = library.chain_pendulum(2), oscillator()
    before = fingerprint(pendulum), fingerprint(system)
    q = np.array([1.0, 0, 2, 0])
    pendulum.points.constraint.torch().residual(torch.as_tensor(q))
    pendulum.points.potential.numpy().residual(q)
    system.reduce()
    assert (fingerprint(pendulum), fingerprint(system)) == before
    assert (fingerprint(library.chain_pendulum(2)), fingerprint(oscillator())) == before


def test_a_last_digit_of_a_constant_counts():
    """Also where SymPy's own text rounds it away."""
    x = sp.Symbol("x", real=True)
    a, b = 0.1, float(np.nextafter(0.1, 1))
    assert str(a * x) != "" and str(sp.Float(a) * x) == str(sp.Float(b) * x)
    assert fingerprint(sp.Float(a) * x) != fingerprint(sp.Float(b) * x)
    assert fingerprint(oscillator(a)) != fingerprint(oscillator(b))
    assert fingerprint(library.chain_pendulum(2, gravity=a)) != fingerprint(library.chain_pendulum(2, gravity=b))


DISTINCT = [
    None, True, 1, 1.0, 1j, "1", b"1", 0.0, -0.0, [1], (1,), {1}, frozenset({1}), {1: 1}, {"1": 1}, [[1], 2], [1, [2]],
    list(range(50)), list(range(51)), np.arange(50), np.arange(50.0), slice(3), np.float32(1), np.float64(1),
    np.array([1, "a", None], dtype=object), np.array([1, "b", None], dtype=object), np.array(1.0), torch.arange(50),
    torch.ones(()), torch.ones(1), torch.ones(1, dtype=torch.float64), torch.float32,
    int, float, len, np.sin, torch.sin, sp.Symbol("x"), sp.Symbol("x", real=True), sp.Matrix([[1, 2]]), range(3),
    functools.partial(max, 1), functools.partial(max, 2), "a" * 100, "a" * 101, lambda x: x, lambda x: x + 1,
    lambda x, y=1: x, lambda x, y=2: x, lambda x: lambda y: x, lambda x: lambda y: y, nn.ReLU(), nn.ELU(), nn.ELU(2.0),
    nn.BatchNorm1d(2), nn.BatchNorm1d(2, momentum=0.2), np.random.default_rng(0), np.random.default_rng(1),
]  # fmt: skip


def test_different_things_have_different_descriptions():
    descriptions = [tuple(sorted(describe(value).items())) for value in DISTINCT]
    for i, one in enumerate(descriptions):
        assert one == tuple(sorted(describe(DISTINCT[i]).items()))
        assert [j for j, other in enumerate(descriptions) if other == one] == [i], DISTINCT[i]


def test_weights_and_saved_buffers_count_outside_of_a_model():
    torch.manual_seed(0)
    one, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    assert fingerprint(one) == fingerprint(other)
    other.running_mean += 1e-7
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(nn.Linear(2, 2)) != fingerprint(nn.Linear(2, 2))


def test_what_holds_itself_has_an_end():
    loop: list = [1]
    loop.append(loop)
    assert "the same as it" in describe(loop).values()
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    assert any("too deeply nested" in text for text in describe(deep).values())


@pytest.mark.parametrize(
    "value", [threading.Lock(), (i for i in range(3)), open, sys.stdout], ids=["lock", "generator", "function", "file"]
)
def test_what_cannot_be_described_says_so(value):
    if value is open:  # a function of Python's own is known by its name
        assert fingerprint(value)
        return
    with pytest.raises(ValueError, match=r"it can't be described: a .* does not tell what it holds"):
        fingerprint(value)


SCRIPT = """
import torch, ndae
from ndae.description import fingerprint
from ndae.symbolic import library
torch.manual_seed(0)
chain = library.chain(2, 2).torch()
sizes = {"edges": [(None, 0), (0, 1)], "features": 4, "dim": 2}
print(fingerprint(ndae.models.build_network("mlp", chain, ndae.methods.Penalty(3.0), **sizes)))
print(fingerprint(library.chain_pendulum(2)), fingerprint({"b", "a", "c"}), fingerprint(ndae.forces.SystemForce))
"""


@pytest.mark.slow
def test_another_process_says_the_same():
    """Whatever order its hashes give to sets."""
    path, said = ":".join(filter(None, sys.path)), set()
    for seed in ("1", "2"):
        options = {"env": {"PYTHONHASHSEED": seed, "PYTHONPATH": path}, "capture_output": True, "text": True}
        said.add(subprocess.run([sys.executable, "-c", SCRIPT], check=True, **options).stdout)
    assert len(said) == 1 and len(said.pop().split()) == 4


def test_e3nn_modules_are_described_in_short():
    water = library.rigid_molecules(2).torch()
    model = ndae.models.build_molecular_network(
        "equivariant-small", water, molecule=("O", "H", "H"), velocity_scale=1.0, n_layers=1
    )
    assert len(describe(model)) < 2000
