"""Matching, Pantelides' offsets and the order of solution, against published examples and against brute force."""

from itertools import permutations, product

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching

from ndae.symbolic.numeric.modular import is_regular, shuffle_index
from ndae.symbolic.numeric.series import SeriesEvaluator
from ndae.symbolic.reduction.graphs import StructureError, maximum_matching, pantelides, solution_order, unmatched

steady = settings(max_examples=60, deadline=None, derandomize=True)
incidences = st.integers(1, 5).flatmap(
    lambda m: st.tuples(st.lists(st.sets(st.integers(0, m - 1)), min_size=1, max_size=5), st.just(m))
)


def matrix(incidence, m):
    entries = np.zeros((len(incidence), m), dtype=int)
    for i, columns in enumerate(incidence):
        entries[i, list(columns)] = 1
    return entries


def largest(entries):
    return 0 if 0 in entries.shape else int((maximum_bipartite_matching(csr_array(entries)) >= 0).sum())


# -- matching --------------------------------------------------------------------------------------------------------


@steady
@given(incidences)
def test_matchings_are_maximum_and_consistent(case):
    incidence, m = case
    columns, rows = maximum_matching(incidence, m)
    pairs = [(i, j) for i, j in enumerate(columns) if j is not None]
    assert len(pairs) == largest(matrix(incidence, m))
    assert all(j in incidence[i] and rows[j] == i for i, j in pairs)
    assert sum(i is not None for i in rows) == len(pairs)


@steady
@given(incidences)
def test_rows_and_columns_left_over_are_those_that_some_maximum_matching_misses(case):
    incidence, m = case
    entries = matrix(incidence, m)
    size = largest(entries)
    over, under = unmatched(incidence, m)
    assert over == [i for i in range(len(incidence)) if largest(np.delete(entries, i, axis=0)) == size]
    assert under == [j for j in range(m) if largest(np.delete(entries, j, axis=1)) == size]


def test_a_long_path_is_augmented_without_recursion():
    n = 3000  # every row but the last is matched to its first column, and all have to move
    incidence = [[i, i + 1] for i in range(n - 1)] + [[0]]
    columns, _ = maximum_matching(incidence, n)
    assert columns == [*range(1, n), 0]


# -- Pantelides' algorithm -------------------------------------------------------------------------------------------


def test_pendulum():
    """x'' + λ x, y'' + λ y + g, x² + y² - L² over x, y, λ (Pryce 2001, example 1)."""
    c, d, matching = pantelides([{0: 2, 2: 0}, {1: 2, 2: 0}, {0: 0, 1: 0}], 3)
    assert (c, d) == ([0, 0, 2], [2, 2, 0])
    assert sorted(matching.columns) == [0, 1, 2]


def test_two_pendulums_of_which_one_tension_drives_the_other():
    """Pryce 2001: the second length is L + c λ with the multiplier λ of the first; structural index 5."""
    first = [{0: 2, 2: 0}, {1: 2, 2: 0}, {0: 0, 1: 0}]
    second = [{3: 2, 5: 0}, {4: 2, 5: 0}, {3: 0, 4: 0, 2: 0}]
    c, d, _ = pantelides(first + second, 6)
    assert (c, d) == ([2, 2, 4, 0, 0, 2], [4, 4, 2, 2, 2, 0])


def test_reactor_with_a_prescribed_concentration():
    """Pantelides' exothermic reactor: C' = (C0 - C) - R, T' = (T0 - T) + R - (T - Tc), R = exp(-1/T) C, C = u.

    By hand: C from equation 4, R from 1, T from 3, Tc from 2. Tc needs T', so 3 is differentiated once, that contains
    R', so 1 is differentiated once, that contains C'', so 4 is differentiated twice.
    """
    C, T, R, Tc = range(4)
    signature = [{C: 1, R: 0}, {T: 1, R: 0, Tc: 0}, {R: 0, T: 0, C: 0}, {C: 0}]
    c, d, matching = pantelides(signature, 4)
    assert (c, d) == ([1, 0, 1, 2], [2, 1, 1, 0])
    assert matching.columns == [R, Tc, T, C]


def test_a_chain_of_integrators_and_an_ode():
    n = 60
    c, d, _ = pantelides([{0: 0}, *[{k: 1, k + 1: 0} for k in range(n - 1)]], n)
    assert (c, d) == ([n - 1, *range(n - 2, -1, -1)], list(range(n - 1, -1, -1)))
    assert pantelides([{0: 1, 1: 0}, {0: 0, 1: 1}], 2)[:2] == ([0, 0], [1, 1])


@pytest.mark.parametrize("signature", [[{0: 1}, {0: 0}], [{}, {0: 1, 1: 1}]])
def test_singular_patterns_are_refused(signature):
    with pytest.raises(StructureError, match="structurally singular") as error:
        pantelides(signature, 2)
    assert error.value.equations and error.value.unknowns


def offsets_by_force(signature, n, most):
    """The least feasible (c, d): d_j ≥ c_i + σ_ij with equality on a perfect matching, c ≥ 0 (Pryce 2001)."""
    feasible = []
    for c in product(range(most + 1), repeat=n):
        d = [max(row[j] + c[i] for i, row in enumerate(signature) if j in row) for j in range(n)]
        tight = lambda i, j, c=c, d=d: j in signature[i] and signature[i][j] + c[i] == d[j]  # noqa: E731
        if any(all(tight(i, j) for i, j in enumerate(order)) for order in permutations(range(n))):
            feasible.append((c, d))
    least = [min(c[i] for c, _ in feasible) for i in range(n)]
    found = [(list(c), d) for c, d in feasible if list(c) == least]
    assert len(found) == 1  # the least offset of every equation is attained at once
    return found[0]


@settings(steady, max_examples=200)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.dictionaries(st.integers(0, n - 1), st.integers(0, 2)), min_size=n, max_size=n)
    )
)
def test_offsets_are_the_least_that_exist(signature):
    n = len(signature)
    if largest(matrix(signature, n)) < n:
        with pytest.raises(StructureError):
            pantelides(signature, n)
        return
    c, d, matching = pantelides(signature, n)
    assert (c, d) == offsets_by_force(signature, n, most=2 * (n - 1))
    assert all(signature[i][j] + c[i] == d[j] for i, j in enumerate(matching.columns))


# -- order of solution -----------------------------------------------------------------------------------------------


@steady
@given(
    st.integers(1, 7).flatmap(
        lambda n: st.lists(st.sets(st.integers(0, n - 1), max_size=2), min_size=n, max_size=n).map(
            lambda rows: [row | {i} for i, row in enumerate(rows)]
        )
    )
)
def test_blocks_are_irreducible_and_in_order(incidence):
    n = len(incidence)
    matching = maximum_matching(incidence, n)
    groups = solution_order(incidence, matching)
    assert sorted(i for group in groups for i in group) == list(range(n))
    known = set()
    for group in groups:
        known |= {matching.columns[i] for i in group}
        assert all(set(incidence[i]) <= known for i in group)
    graph = np.zeros((n, n), dtype=int)
    for i, columns in enumerate(incidence):
        graph[i, [matching.rows[j] for j in columns]] = 1
    count, label = connected_components(csr_array(graph), connection="strong")
    assert len(groups) == count and all(len({label[i] for i in group}) == 1 for group in groups)


# -- ranks modulo a prime --------------------------------------------------------------------------------------------


@steady
@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(st.fractions(-3, 3, max_denominator=7), min_size=n,
                                                             max_size=n), min_size=n, max_size=n)))  # fmt: skip
def test_regular_modulo_a_prime_is_regular(rows):
    exact = sp.Matrix([[sp.Rational(e.numerator, e.denominator) for e in row] for row in rows])
    assert is_regular(rows) == (exact.det() != 0)


def test_index_by_shuffling():
    shift = np.eye(4, k=1, dtype=np.int64)
    assert shuffle_index(np.eye(4, dtype=np.int64), shift, 5) == 0
    assert shuffle_index(0 * shift, np.eye(4, dtype=np.int64), 5) == 1
    assert shuffle_index(shift, np.eye(4, dtype=np.int64), 5) == 4
    assert shuffle_index(shift, np.eye(4, dtype=np.int64), 2) == 2  # no more than asked for


# -- Taylor series ---------------------------------------------------------------------------------------------------


def test_series_are_those_by_differences():
    x, y, h = sp.symbols("x y h")
    curve = {x: sp.Rational(7, 10) + h / 3 - h**2 / 5, y: sp.Rational(9, 10) - h / 2 + h**3 / 4}

    def series_of(symbol):
        coefficients = sp.Poly(curve[symbol], h).all_coeffs()[::-1]
        return np.array([[float(c)] for c in [*coefficients, 0, 0][:4]])

    for e in (
        sp.exp(x * y), sp.log(x + 2), sp.sin(x) * sp.cos(y), sp.tan(x), sp.sinh(x) + sp.cosh(y), sp.tanh(x + y),
        sp.asin(x / 3), sp.acos(x), sp.atan(x * y), sp.asinh(x), sp.acosh(x + 2), sp.atanh(x / 3), sp.atan2(x, y),
        x**3 / y**2, sp.sqrt(x + y), x**y, (x - y) ** 7, sp.Piecewise((x**2, x > 2), (sp.sin(y), True)),
    ):  # fmt: skip
        found = SeriesEvaluator(series_of, 3, 1)(e)[:, 0]
        expected = [float(c) for c in mpmath.taylor(sp.lambdify(h, e.subs(curve), "mpmath"), 0, 3)]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=str(e))
