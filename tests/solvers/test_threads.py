"""Linear algebra takes one thread during solves, and what it took before after them."""

import threading

import numpy as np
import pytest
import scipy.linalg  # noqa: F401  # whose BLAS is there before it is limited
import sympy as sp
from threadpoolctl import threadpool_info, threadpool_limits

from ndae.solvers import solve
from ndae.solvers.threads import one_blas_thread
from ndae.symbolic import System, dot


def threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


def test_one_thread_inside_and_as_before_outside(two_threads):
    with one_blas_thread():
        assert threads() == {1}
        with one_blas_thread():
            assert threads() == {1}
        assert threads() == {1}
    assert threads() == {2}
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        raise ZeroDivisionError
    assert threads() == {2}


def test_of_solves_in_two_threads_the_first_holds_and_gives_back(two_threads):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        assert inside.wait(60)
        assert threads() == {1}
    assert threads() == {2}
    leave.set()
    thread.join()
    assert threads() == {2}


@pytest.mark.parametrize("by", ["dopri8", "ida", "radau"])
def test_solves_hold_them(by):
    seen = []
    x = sp.Symbol("x")
    system = System([dot(x) + x], [x])

    def run():
        solve(system, {"x": 1.0}, np.linspace(0, 1, 3), by=by, progress=lambda *news: seen.append(threads()))

    run()  # and load what brings a BLAS of its own, which the limit below does not know
    seen.clear()
    with threadpool_limits(2, user_api="blas"):
        run()
        assert threads() == {2}
    assert seen and all(found == {1} for found in seen)
