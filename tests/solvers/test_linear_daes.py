"""Random linear DAEs of known index whose solution is known: E x' = A x + f, from their Weierstrass form.

With P, Q regular, N nilpotent (N^ν = 0, N^(ν-1) ≠ 0), E = P diag(I, N) Q and A = P diag(C, -I) Q have index ν and as
many free initial values as C has rows. Any smooth x is the solution for f = E x' - A x. P and Q are integer matrices
of determinant one, dense, so that no equation and no unknown shows which part it belongs to.
"""

from functools import cache
from random import Random

import numpy as np
import pytest
import sympy as sp
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from ndae.solvers.dae.solve import solve_dae
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.reduction.graphs import StructureError
from ndae.symbolic.systems.system import System

t = sp.Symbol("t")
steady = settings(
    max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
PIECES = (sp.sin(2 * t), sp.cos(t), sp.exp(-t), t**2 / 2 - 1, 1 + t, sp.exp(t / 2) * sp.sin(t), t**3 / 3)
END = 1.5


def unimodular(n, rng, entries, count):
    """A matrix of determinant one by additions of rows."""
    matrix = sp.eye(n)
    for _ in range(count):
        i, j = rng.sample(range(n), 2)
        matrix[i, :] += rng.choice(entries) * matrix[j, :]
    return matrix.applyfunc(sp.expand)


def nilpotent(blocks):
    return sp.diag(*[sp.Matrix(b, b, lambda i, j: int(j == i + 1)) for b in blocks])


@cache
def linear(index, seed, moving=False):
    """The system, its solution, and its number of free initial values.

    With `moving`, P and Q depend on t: of z = Q x, diag(I, N) z' = diag(C, -I) z + g is the same system.
    """
    rng = Random(1000 * index + seed)
    free = rng.randint(1, 2 if moving else 3)
    blocks = [index, *[rng.randint(1, index) for _ in range(rng.randint(0, 0 if moving else 2))]]
    rng.shuffle(blocks)
    n = free + sum(blocks)
    leading = sp.diag(sp.eye(free), nilpotent(blocks))
    rest = sp.diag(sp.Matrix(free, free, lambda i, j: rng.randint(-2, 1)), -sp.eye(sum(blocks)))
    entries, count = ((-1, 1, t, -t / 2, sp.sin(t)), n + 1) if moving else ((-1, 1), 2 * n)
    P, Q = unimodular(n, rng, entries, count), unimodular(n, rng, entries, count)
    E, A = P * leading * Q, P * (rest * Q - leading * Q.diff(t))
    solution = sp.Matrix([sum(rng.choice((-2, -1, 1, 2)) * e for e in rng.sample(PIECES, 2)) for _ in range(n)])
    states = sp.symbols(f"x1:{n + 1}")
    rates = sp.Matrix([dot(s) for s in states])
    f = (E * solution.diff(t) - A * solution).applyfunc(sp.expand)
    name = f"index {index}, seed {seed}"
    return System(list(E * rates - A * sp.Matrix(states) - f), states, time=t, name=name), solution, free


def check_structure(system, solution, free, index):
    reduced = system.reduce()
    assert reduced.index == system.index == index
    assert len(reduced.y) - len(reduced.constraints) == free
    table = {
        dot(s, k) if k else s: e.diff(t, k)
        for s, e in zip(system.states, solution, strict=True)
        for k in range(index + 2)
    }
    for e in (*reduced.constraints, *reduced.equations):
        assert abs(sp.N(e.xreplace(table).subs(t, sp.Rational(7, 10)), 30)) < 1e-20


@steady
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_the_index_is_found(index, seed):
    check_structure(*linear(index, seed), index)


@settings(steady, max_examples=15)
@given(st.integers(1, 3), st.integers(0, 10**6))
def test_the_index_of_systems_that_vary_in_time(index, seed):
    check_structure(*linear(index, seed, moving=True), index)


@settings(steady, max_examples=15)
@given(st.integers(1, 3), st.integers(0, 10**6))
def test_systems_without_a_unique_solution_are_refused(index, seed):
    """One equation replaced by a combination of the others."""
    system, _, _ = linear(index, seed)
    rng = Random(seed)
    i = rng.randrange(len(system.equations))
    others = [e for k, e in enumerate(system.equations) if k != i]
    equations = [*others, sum(rng.choice((-1, 1)) * e for e in others)]
    with pytest.raises(StructureError, match="no unique solution"):
        System([sp.expand(e) for e in equations], system.states, time=t).reduce()


def values(system, solution, time):
    """States and derivatives of states at a time, by name, as the reduced system holds them."""
    table = {
        dot(s, k).name if k else s.name: e.diff(t, k)
        for s, e in zip(system.states, solution, strict=True)
        for k in range(4)
    }
    wanted = {s.name for s in (*system.reduce().y, *system.states)}
    return {name: float(e.subs(t, time)) for name, e in table.items() if name in wanted}


def check_residuals(found, system, tolerance):
    """Every hidden constraint is on some level and holds at every output."""
    entries = [entry for level in system.reduce().levels.values() for entry in level]
    assert {m for _, kind, m in entries if kind == "constraint"} == set(range(len(system.reduce().constraints)))
    assert sum(residual.shape[-1] for residual in found.residual.values()) == len(entries) > 0
    for level, residual in found.residual.items():
        assert np.abs(residual).max() < tolerance, level


def solved(index, seed, moving, formulation):
    system, solution, _ = linear(index, seed, moving)
    exact = sp.lambdify(t, list(solution), "numpy")
    ts = np.array([0.0, 0.4, 1.0, END])
    found = solve_dae(system, values(system, solution, 0), ts, method=formulation, rtol=1e-11, atol=1e-12)
    expected = np.array([exact(time) for time in ts], dtype=float)
    return found, np.abs(found.x - expected) / np.abs(expected).max()


# Every one compiles for seconds, so half of them run with the slow tests.
CASES = [(index, seed, False) for seed in range(4) for index in (1, 2, 3)] + [(index, 0, True) for index in (3, 2, 1)]
SOLVED = [case if case[1:] in ((0, False), (1, False)) or case == (3, 0, True)
          else pytest.param(*case, marks=pytest.mark.slow) for case in CASES]  # fmt: skip


@pytest.mark.parametrize(("index", "seed", "moving"), SOLVED)
def test_the_solution_is_reached(index, seed, moving):
    """1e-8 relative, all states, the algebraic ones included; constraints within 1e-12 by projection."""
    found, error = solved(index, seed, moving, "projection")
    assert error.max() < 1e-8
    check_residuals(found, linear(index, seed, moving)[0], 1e-12)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_the_solution_is_reached_without_projection(index):
    found, error = solved(index, 0, False, "plain")
    assert error.max() < 1e-8
    check_residuals(found, linear(index, 0)[0], 1e-9)
