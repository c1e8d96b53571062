"""Which instances share movable points, and the order that makes the Gram matrix tridiagonal."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ndae.symbolic import ANCHOR, Function, library, norm, point

a, b = point("a", 2), point("b", 2)


def distances(over, n_points=None):
    return Function.template([norm(b - a) - 1], [a, b], over, n_points)


@pytest.mark.parametrize(
    "over, kind, pairs",
    [
        ([(0, 1), (2, 3)], "block_diagonal", []),
        ([(ANCHOR, 0), (ANCHOR, 1)], "block_diagonal", []),  # an anchor couples nothing
        ([(ANCHOR, 0), (0, 1), (1, 2)], "block_tridiagonal", [(0, 1), (1, 2)]),
        ([(1, 2), (ANCHOR, 0), (2, 3), (0, 1)], "block_tridiagonal", [(0, 2), (0, 3), (1, 3)]),
        ([(0, 1), (2, 3), (1, 4), (3, 5)], "block_tridiagonal", [(0, 2), (1, 3)]),
        ([(0, 1), (1, 2), (2, 0)], "sparse", [(0, 1), (0, 2), (1, 2)]),
        ([(0, 1), (0, 2), (0, 3)], "sparse", [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_kind_and_pairs(over, kind, pairs):
    structure = distances(over).structure
    assert structure.kind == kind
    assert structure.pairs.tolist() == [list(p) for p in pairs]


def test_library():
    assert library.chain(1).structure.kind == "block_diagonal"
    assert library.chain(7).structure.order.tolist() == list(range(7))
    assert library.rigid_molecules(5).structure.kind == "block_diagonal"
    assert library.unit_norm(5, 4).structure.kind == "block_diagonal"
    assert library.divergence_free(3, 4).structure.kind == "sparse"


def test_a_shuffled_chain_is_put_in_order():
    links = [(i, i + 1) for i in range(300)]
    structure = distances([links[i] for i in np.random.default_rng(0).permutation(300)]).structure
    position = np.argsort(structure.order)
    assert structure.kind == "block_tridiagonal"
    assert sorted(structure.order) == list(range(300))
    assert np.all(np.abs(np.diff(position[structure.pairs], axis=1)) == 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), min_size=2, max_size=2, unique=True).map(tuple), min_size=1, max_size=10))
def test_pairs_are_those_found_by_looking_at_all(over):
    structure = distances(over, 8).structure
    expected = [[i, j] for i in range(len(over)) for j in range(i + 1, len(over)) if set(over[i]) & set(over[j])]
    assert structure.pairs.tolist() == expected
    if structure.kind == "block_diagonal":
        assert not expected
    if structure.kind == "block_tridiagonal":
        position = np.argsort(structure.order)
        assert all(abs(position[i] - position[j]) == 1 for i, j in expected)
