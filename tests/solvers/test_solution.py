import copy

import numpy as np
import pytest
import sympy as sp

from ndae.solvers.solution import Solution


def solution(q, **more):
    q = np.asarray(q, dtype=float)
    return Solution.of_motion(np.arange(float(q.shape[-2])), q, **more)


def test_drift_is_the_largest_residual_of_each_level_and_each_solve():
    residual = {"position": np.array([[[0.0], [-3.0], [1.0]], [[0.5], [0.0], [0.0]]])}
    energy = np.array([[5.0, 7.0, 4.0], [1.0, 1.0, 1.0]])
    drift = solution(np.zeros((2, 3, 4)), residual=residual, energy=energy).max_drift()
    np.testing.assert_array_equal(drift["position"], [3.0, 0.5])
    np.testing.assert_array_equal(drift["energy"], [2.0, 0.0])
    single = solution(np.zeros((3, 4)), residual={"position": residual["position"][0]}).max_drift()
    assert single == {"position": 3.0}
    assert isinstance(single["position"], float)


def test_error_is_the_largest_coordinate_difference_at_each_time():
    a = solution([[0.0, 0.0], [1.0, 2.0], [5.0, 1.0]])
    b = solution([[0.0, 0.0], [1.5, 1.0], [5.0, 4.0]])
    np.testing.assert_array_equal(a.error(b), [0.0, 1.0, 3.0])
    assert a.agrees_until(b, tol=0.1) == 0.0
    assert a.agrees_until(b, tol=1.0) == 1.0
    assert a.agrees_until(b, tol=3.0) == 2.0


def test_agreement_ends_at_the_first_difference_even_if_the_solutions_meet_again():
    a, b = solution(np.zeros((2, 4, 1))), solution([[[0.0], [1.0], [0.0], [0.0]], [[1.0], [0.0], [0.0], [0.0]]])
    np.testing.assert_array_equal(a.agrees_until(b), [0.0, -np.inf])


def test_a_wrong_multiplier_is_an_error_and_agreement_is_of_coordinates_unless_asked():
    q, v, lam = np.zeros((3, 2)), np.ones((3, 2)), np.ones((3, 1))
    a, b = (solution(q, v=v, multiplier=lam + wrong * np.eye(3)[:, 1:2]) for wrong in (0.0, 4.0))
    np.testing.assert_array_equal(a.error(b), [0.0, 4.0, 0.0])
    np.testing.assert_array_equal(a.error(b, of="q"), [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(a.error(b, of="multiplier"), a.error(b, of=["lam0", "q1"]))
    assert (a.agrees_until(b), a.agrees_until(b, of="all"), a.agrees_until(b, of="lam0")) == (2.0, 0.0, 0.0)
    np.testing.assert_array_equal(a.error(solution(q)), np.zeros(3))  # which has nothing else
    with pytest.raises(ValueError, match="1 and 2 multipliers; write one in the multipliers of the other"):
        a.error(solution(q, v=v, multiplier=np.ones((3, 2))))
    with pytest.raises(ValueError, match=r"of='multiplier' .* both have the groups q, v and the variables q0, q1, v0"):
        a.error(solution(q, v=v), of="multiplier")
    with pytest.raises(ValueError, match="of names no variable"):
        a.error(b, of=[])


def test_variables_of_a_dae_are_compared_by_name_or_group():
    ts, groups = np.arange(2.0), {"differential": [0], "algebraic": [1]}
    a, b = (Solution(ts, np.array([[0.0, 1.0], [0.0, z]]), ("x", "z"), groups=groups) for z in (1.0, 3.0))
    np.testing.assert_array_equal(a.error(b), [0.0, 2.0])
    np.testing.assert_array_equal(a.error(b, of="algebraic"), [0.0, 2.0])
    np.testing.assert_array_equal(a.error(b, of=sp.Symbol("x").name), [0.0, 0.0])
    assert a.agrees_until(b) == 0.0
    other = Solution(ts, a.x, ("x", "u"), groups=groups)
    with pytest.raises(ValueError, match="different variables: number 0 is 'z' in one and 'u' in the other"):
        a.error(other, of="algebraic")


def test_solutions_of_other_times_or_sizes_are_not_compared():
    a = solution(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"different output times \(3 from 0 to 2 and 4 from 0 to 3\)"):
        a.error(solution(np.zeros((4, 2))))
    with pytest.raises(ValueError, match="2 and 3 coordinates"):
        a.error(solution(np.zeros((3, 3))))


def test_success_is_a_bool_or_one_for_each_solve():
    assert solution(np.zeros((3, 2))).succeeded is True
    assert solution(np.zeros((3, 2)), result="stuck").succeeded is False
    batch = solution(np.zeros((2, 3, 2)), result=np.array(["successful", "stuck"]))
    np.testing.assert_array_equal(batch.succeeded, [True, False])


def test_variables_are_read_by_name_or_symbol_and_solutions_are_told_apart_and_printed():
    a = solution([[0.0, 3.0], [1.0, 2.0]])
    np.testing.assert_array_equal(a[sp.Symbol("q1")], [3.0, 2.0])
    with pytest.raises(KeyError, match="no variable 'p'; there are q0, q1"):
        a["p"]
    assert a != copy.deepcopy(a)
    assert a in {a}
    assert repr(a) == "Solution(q0, q1; ts: 2 from 0 to 1; successful)"
    batch = solution(np.zeros((2, 3, 9)), result=np.array(["successful", "stuck"]))
    assert repr(batch).endswith("q7, ...; ts: 3 from 0 to 2, batch (2,); 1 of 2 successful)")
