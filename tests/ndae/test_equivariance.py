"""The check of equivariance finds what is broken, names it, and lets pass what is not."""

import math

import pytest
import torch

from ndae.symmetry import GROUPS, assert_equivariant, check_equivariance

WATER = ("O", "H", "H")


@pytest.fixture
def x():
    return torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def centred(x):
    return x[..., :3] - x[..., :3].mean(-2, keepdim=True)


def test_what_is_equivariant_passes_for_every_kind_of_output(x):
    def moved(x):
        return x[..., :3] + centred(x).square().sum(-1, keepdim=True) * x[..., 3:]

    def force(x):
        return centred(x) * x[..., 3:].square().sum((-2, -1), keepdim=True)

    for function, output in (
        (moved, "positions"),
        (force, "vectors"),
        (lambda x: force(x).norm(dim=(-2, -1)), "scalars"),
    ):
        found = check_equivariance(function, x, molecule=WATER, output=output)
        assert tuple(found) == GROUPS
        assert all(violation.holds for violation in found.values())
        assert_equivariant(function, x, molecule=WATER, output=output)


BROKEN = {
    "rotation": lambda x: x[..., :3] + centred(x) * torch.tensor([1.0, 2.0, 1.0]),
    "inversion": lambda x: x[..., :3] + torch.linalg.cross(centred(x), x[..., 3:]),
    "translation": lambda x: 1.5 * x[..., :3],
    "molecules": lambda x: x[..., :3] + x[..., :3, 3:].sum(-2, keepdim=True),
    "atoms": lambda x: x[..., :3] + x[..., 3:] * torch.arange(3).repeat(4)[:, None],
}


@pytest.mark.parametrize("group", GROUPS)
def test_what_breaks_one_group_is_caught_there_and_named(x, group):
    found = check_equivariance(BROKEN[group], x, molecule=WATER)
    assert not found[group].holds
    assert found[group].largest > 1e-3
    assert [g for g in GROUPS if not found[g].holds] == [group]
    with pytest.raises(AssertionError, match=rf"{group}: \d.*allowed"):
        assert_equivariant(BROKEN[group], x, molecule=WATER)


def test_a_difference_that_is_no_number_is_a_violation(x):
    found = check_equivariance(lambda x: x[..., :3] * math.nan, x, which=["rotation"])
    assert not found["rotation"].holds


def test_scalars_that_turn_are_caught(x):
    found = check_equivariance(lambda x: x[..., 0, 0], x, output="scalars", molecule=WATER)
    assert not found["rotation"].holds and not found["translation"].holds and found["atoms"].holds


def test_only_groups_that_exist_are_tried(x):
    assert "atoms" not in check_equivariance(lambda x: x[..., :3], x)
    one = check_equivariance(lambda x: x[..., :3], x[:, :3], molecule=WATER)
    assert "molecules" not in one and "atoms" in one


def test_errors_say_what_to_write(x):
    def same(x):
        return x[..., :3]

    with pytest.raises(ValueError, match="no group 'spin': give some of rotation"):
        check_equivariance(same, x, which=["spin"])
    with pytest.raises(ValueError, match="nothing to permute in group 'atoms'"):
        check_equivariance(same, x, which=["atoms"])
    with pytest.raises(ValueError, match="output='force' is unknown"):
        check_equivariance(same, x, output="force")
    with pytest.raises(ValueError, match=r"12 nodes are no whole number of molecules"):
        check_equivariance(same, x, molecule=("A", "B", "C", "D", "E"))
    with pytest.raises(ValueError, match=r"expected .*: vectors of every node"):
        check_equivariance(lambda x: x[..., :2], x)
    with pytest.raises(ValueError, match="a number a sample"):
        check_equivariance(same, x, output="scalars")
