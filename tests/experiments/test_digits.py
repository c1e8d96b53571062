"""Digits of end values, and what they are measured against."""

import math

import numpy as np
import pytest

from ndae.experiments.crosscheck.digits import (
    MOST_DIGITS,
    correct_digits,
    error_scales,
    passes_through_zero,
    score,
    sizes_at_end,
)


def test_digits_are_the_logarithm_of_the_error_over_the_size():
    assert correct_digits(1.0 + 1e-8, 1.0, 1.0) == pytest.approx(8.0, abs=1e-6)
    assert correct_digits(2e-13 * (1 + 1e-5), 2e-13, 2e-13) == pytest.approx(5.0, abs=1e-6)
    assert correct_digits(1e-9, 0.0, 5.0) == pytest.approx(9 + math.log10(5))


def test_digits_stay_between_none_and_what_float64_has():
    assert correct_digits(0.3, 0.3, 0.3) == MOST_DIGITS
    assert correct_digits(-5.0, 1.0, 1.0) == 0.0
    assert correct_digits(math.nan, 1.0, 1.0) == 0.0
    assert correct_digits(math.inf, 1.0, 1.0) == 0.0
    assert correct_digits(1e-300, 0.0, 0.0) == 0.0


@pytest.mark.parametrize(
    ("path", "through"),
    [
        ([1.0, 0.5, -0.1, 0.2], True),
        ([1.0, 0.5, 0.1], False),
        ([-3.0, -2.0, -1.0], False),
        ([0.0, 2.0, 5.0], False),  # a start at zero is no passage
        ([1.0, 0.5, 1e-13], True),  # ends in rounding
        ([1e-5, 1e-9, 1e-13], False),  # small, but all of it is signal
        ([1.0, -1e-16, 0.5], False),  # rounding about zero is no change of sign
        ([0.0, 0.0], False),
    ],
)
def test_passage_through_zero(path, through):
    assert passes_through_zero(np.array(path)) is through


def test_components_through_zero_are_measured_against_their_largest_magnitude():
    paths = {"swings": np.array([4.0, -2.0, 0.1]), "decays": np.array([1.0, 1e-3, 1e-6])}
    sizes = sizes_at_end({"swings": 1e-6, "decays": 1e-6}, paths)
    assert sizes == {"swings": 4.0, "decays": 1e-6}
    found = score({"swings": 1e-6 + 4e-9, "decays": 1e-6}, {"swings": 1e-6, "decays": 1e-6}, sizes)
    assert found.digits["swings"] == pytest.approx(9.0)
    assert found.relative["swings"] == pytest.approx(-math.log10(4e-3))
    assert found.worst() == "swings"
    assert found.least(["decays"]) == MOST_DIGITS
    assert found.least(["absent"]) is None


def test_scales_of_errors():
    states = np.array([[0.0, 1.0, 3.0, 0.0], [1.0, 1e-3, -5.0, 0.0], [2.0, 1e-8, 4.0, 0.0]])
    assert error_scales(states).tolist() == [1.0, 1e-8, 5.0, 1.0]
