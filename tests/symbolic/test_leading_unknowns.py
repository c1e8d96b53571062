"""Leading unknowns by formulas, elimination and Newton's method, on every backend, and their derivatives."""

import jax
import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings, strategies as st

from ndae.symbolic import library
from ndae.symbolic.backends import vector_jax, vector_numpy, vector_torch
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.forms.functions import ReducedFunctions
from ndae.symbolic.forms.leading import LeadingFunction
from ndae.symbolic.forms.reduced import ReducedSystem
from ndae.symbolic.forms.reduced_equations import Block
from ndae.symbolic.systems.system import System
from tests.symbolic.reduced_cases import (
    BACKENDS,
    CASES,
    CONVERT,
    by_sympy,
    car_axis,
    case,
    chain,
    lam,
    pendulum,
    valves,
    x,
)

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("name", CASES)
def test_leading_unknowns_solve_their_equations(name, form):
    reduced, states, _, call = case(name)
    shift = np.random.default_rng(1).normal(size=(5, len(reduced.w))) / 10
    size = by_sympy(reduced.equations, reduced, states, np.ones((5, len(reduced.w))), call)
    found = {}
    for backend in BACKENDS:
        f, convert = ReducedFunctions(reduced, backend), CONVERT[backend]
        w, good = f.solve_leading(convert(states), **call, shift=convert(shift))
        assert tuple(good.shape) == (5,) and bool(good.all())
        residual = np.asarray(f.leading_system(convert(states), w, **call)) + shift
        assert np.all(np.abs(residual) <= 1e-13 * (1 + np.abs(size) + np.abs(np.asarray(w)).max()))
        found[backend] = np.asarray(w)
    w, good = reduced.numpy().solve_leading(states[2], **call, shift=shift[2])
    assert good.shape == () and good
    np.testing.assert_allclose(w, found["numpy"][2], rtol=1e-11, atol=1e-11)
    mapped, good = jax.jit(jax.vmap(lambda y, s: reduced.jax().solve_leading(y, **call, shift=s)))(states, shift)
    assert good.all()
    for w in (found["jax"], found["torch"], mapped):
        np.testing.assert_allclose(w, found["numpy"], rtol=1e-10, atol=1e-10)
    still, good = reduced.numpy().solve_leading(states, **call)
    without, good = reduced.numpy().solve_leading(states, **call, shift=np.zeros(len(reduced.w)))
    np.testing.assert_allclose(still, without, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_leading_unknowns(name):
    reduced, states, _, call = case(name)
    numpy, step = reduced.numpy(), 1e-6
    point = states[1]
    shift = np.full(len(reduced.w), 0.1)

    def differences(of, at):
        return np.stack([(of(at + step * e)[0] - of(at - step * e)[0]) / (2 * step) for e in np.eye(len(at))], -1)

    by_y = differences(lambda p: numpy.solve_leading(p, **call, shift=shift), point)
    by_shift = differences(lambda s: numpy.solve_leading(point, **call, shift=s), shift)
    scale = np.abs(by_y).max() + np.abs(by_shift).max()

    def with_jax(p, s):
        return reduced.jax().solve_leading(p, **call, shift=s)[0]

    for mode in (jax.jacfwd, jax.jacrev):
        for found, expected in zip(jax.jit(mode(with_jax, (0, 1)))(point, shift), (by_y, by_shift), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-7 * scale)
    torch_y, torch_shift = torch.tensor(point), torch.tensor(shift)
    found = torch.autograd.functional.jacobian(
        lambda p, s: reduced.torch().solve_leading(p, **call, shift=s)[0], (torch_y, torch_shift)
    )
    np.testing.assert_allclose(found[0], by_y, atol=1e-7 * scale)
    np.testing.assert_allclose(found[1], by_shift, atol=1e-7 * scale)
    name, value = next((s.name, d) for s, d in reduced.parameters.items() if d is not None)
    given = call.get("parameters", {})

    def of_parameter(p):
        return reduced.jax().solve_leading(point, call.get("t"), given | {name: p})[0]

    derivative = jax.jacrev(of_parameter)(float(value))
    ahead, behind = (
        numpy.solve_leading(point, call.get("t"), given | {name: value + s})[0] for s in (step * value, -step * value)
    )
    np.testing.assert_allclose(derivative, (ahead - behind) / (2 * step * value), atol=1e-6 * np.abs(derivative).max())


def test_a_sample_fails_alone():
    """At rest on the pivot the pendulum's multiplier is undetermined; the neighbours are solved as ever."""
    reduced, states, _, _ = case("pendulum")
    states = states.copy()
    states[1] = 0
    call = {"t": 0.0, "parameters": {"speed": 0.0}}
    good_rows = [0, 2, 3, 4]
    expected, _ = reduced.numpy().solve_leading(states[good_rows], **call)
    for backend in BACKENDS:
        w, good = ReducedFunctions(reduced, backend).solve_leading(CONVERT[backend](states), **call)
        np.testing.assert_array_equal(good, [True, False, True, True, True])
        np.testing.assert_allclose(np.asarray(w)[good_rows], expected, rtol=1e-12)
    assert not reduced.numpy().solve_leading(states[1], **call)[1]


def root(equation):
    """x' = 1 beside one algebraic equation for lam."""
    return System([dot(x) - 1, equation], [x, lam], name="root").reduce()


@pytest.mark.parametrize("backend", BACKENDS)
def test_newton(backend):
    convert = CONVERT[backend]
    start = convert(np.array([[2.0]]))
    # A long way down a steep wall, flat places where full steps go too far, a root at zero, a small one.
    for equation, guess, expected in [
        (sp.exp(lam) - x, 30.0, np.log(2)), (sp.atan(lam) - x / 4, 20.0, np.tan(0.5)), (lam**3 - x, 1e-3, 2 ** (1 / 3)),
        (lam + lam**3, 3.0, 0.0), (1 / sp.sqrt(lam) + sp.log(lam) - x, 0.05, None),
        (lam**3 + lam - 1e-12 * x, 1.0, 2e-12),
    ]:  # fmt: skip
        reduced = root(equation)
        f = ReducedFunctions(reduced, backend)
        w, good = f.solve_leading(start, guess=convert(np.array([[0.0, guess]])))
        found = float(w[0, 1])
        assert good[0]
        if expected is not None:
            assert found == pytest.approx(expected, rel=1e-14, abs=1e-300)
        assert abs(float(f.leading_system(start, w)[0, 1])) < 1e-14
    for equation, guess in [(lam**2 + x, 1.0), (sp.exp(lam) + x, 0.0), (sp.log(lam) - x, -1.0)]:  # no root, no start
        w, good = ReducedFunctions(root(equation), backend).solve_leading(start, guess=convert([[0.0, guess]]))
        assert not good[0]
    f = ReducedFunctions(root(lam**2 - x), backend)
    states = convert(np.array([[2.0], [-1.0], [9.0]]))
    w, good = f.solve_leading(states, guess=convert(np.tile([0.0, -1.0], (3, 1))))
    np.testing.assert_array_equal(good, [True, False, True])
    np.testing.assert_allclose(np.asarray(w)[[0, 2], 1], [-np.sqrt(2), -3], rtol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_newton_where_an_unknown_is_exactly_zero(backend):
    """The residual is then rounding of what is known, in which the unknown has no part."""
    convert = CONVERT[backend]
    points = convert(np.tile(np.linspace(-2, 2, 40)[:, None], (3, 1, 1)))
    guess = convert(np.tile(np.array([0.0, 0.3, -1e-3])[:, None, None], (1, 40, 2)))
    unlike = (sp.sin(x) ** 2 - (1 - sp.cos(2 * x)) / 2) / 2  # zero, but for its rounding
    for equation in [
        1e-9 * (lam + sp.sin(lam) / 4 + unlike),
        lam + sp.sin(lam) / 4 + 1e9 * unlike,
        sp.sinh(3 * lam + 3 * unlike) * (2 + sp.cos(lam)),  # inside of a function, in a product
        sp.exp(lam) - sp.exp(unlike),
        sp.Max(lam**3 + lam * x**2, lam / 2) + unlike * x**2,
    ]:
        reduced = root(equation)
        assert not all(block.linear for block in reduced.blocks)
        f = ReducedFunctions(reduced, backend)
        w, good = f.solve_leading(points, guess=guess)
        assert bool(good.all()), f"{equation}: {int((~np.asarray(good)).sum())} of 120 not found"
        left = np.abs(np.asarray(f.leading_system(points, w)))[..., 1]
        assert (left <= 4 * np.finfo(float).eps * np.asarray(f.leading_sizes(points, w))[..., 1]).all()


def test_one_unknown_is_zero_beside_one_that_is_not():
    """The zero one never stops by its own size, the other one never by the rounding of the first equation alone."""
    other = sp.Symbol("other", real=True)
    equations = [lam + sp.sin(other) / 4 - sp.sin(x) / 4, other + other**3 * 1e9 - lam - x - 1e9 * x**3]
    reduced = System([dot(x) - 1, *equations], [x, lam, other], name="two").reduce()
    points = np.linspace(-2, 2, 41)[:, None]
    w, good = reduced.numpy().solve_leading(points, guess=np.full((41, 3), 0.1))
    assert good.all()
    place = [s.name for s in reduced.w]
    np.testing.assert_allclose(w[:, place.index("other")], points[:, 0], rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(w[:, place.index("lam")], 0, atol=1e-16)


def test_sizes_of_terms():
    """Sums count their terms, whatever cancels; what does not move is as large as it is; products repeat."""
    f = root((lam - x) * (lam + 3) + sp.sin(lam - x) - (x - 1)).numpy()
    point, w = np.array([1.5]), np.array([1.0, 1.5])
    inner = 1.5 + 1.5
    product = inner * 4.5 + 0.0 * (1.5 + 3.0)
    assert f.leading_sizes(point, w)[1] == pytest.approx(product + inner + 1.5 + 1.0, rel=1e-15)
    np.testing.assert_allclose(f.leading_system(point, w), 0.0 * w + [0.0, -0.5], atol=1e-16)


def test_newton_in_single_precision():
    f = root(lam**3 + lam - x)
    start, guess = np.array([[2.0], [10.0]], np.float32), np.zeros((2, 2), np.float32)
    for w, good in (
        f.jax().solve_leading(start, guess=guess),
        f.torch().solve_leading(torch.tensor(start), guess=torch.tensor(guess)),
    ):
        assert bool(good.all()) and str(w.dtype) in ("float32", "torch.float32")
        np.testing.assert_allclose(w[:, 1], [1, 2], rtol=1e-6)


# -- what is solved by formulas --------------------------------------------------------------------------------------


def sizes(reduced):
    return [(s.size, s.linear, s.level) for s in LeadingFunction(reduced, False).plan.solves]


def test_tearing():
    assert sizes(chain(5)) == [(5, True, 1)]  # the Gram matrix of the links
    assert sizes(pendulum()) == []  # one multiplier: a division
    assert sizes(car_axis()) == [(2, True, 1)]
    assert sizes(valves()) == [(1, False, 1), (1, False, 1), (1, False, 2), (1, False, 1)]
    text = LeadingFunction(valves(), False).source()
    assert text.count("newton(") == 2  # alike and independent ones together


def test_a_chain_is_the_mechanical_system():
    system, reduced = library.chain_pendulum(5), chain(5)
    rng = np.random.default_rng(3)
    states = rng.normal(size=(4, 20))
    mechanics = system.points.jax()
    expected = mechanics.acceleration(states[:, :10], states[:, 10:])
    multiplier = mechanics.multiplier(states[:, :10], states[:, 10:])
    for backend in BACKENDS:
        w, good = ReducedFunctions(reduced, backend).solve_leading(CONVERT[backend](states))
        assert bool(good.all())
        np.testing.assert_allclose(w[:, :10], expected, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(w[:, 10:], multiplier, rtol=1e-10, atol=1e-11)


@settings(max_examples=25)
@given(st.integers(2, 7), st.floats(0.2, 1.0), st.integers(0, 2**32 - 1))
def test_random_linear_blocks(n, density, seed):
    """Matrices of numbers, parameters, states and zeros mixed, one irreducible block, against NumPy's solve."""
    rng = np.random.default_rng(seed)
    w = sp.symbols(f"w0:{n}")
    states, parameters = sp.symbols("y0:3"), dict(zip(sp.symbols("p0:3"), [0.5, -2.0, 1.3], strict=True))
    kinds = [
        lambda: sp.Float(rng.normal()), lambda: sp.Integer(int(rng.integers(-2, 3))),
        lambda: rng.choice(list(parameters)) * int(rng.integers(1, 3)),
        lambda: rng.choice(states) + sp.Float(rng.normal()),
    ]  # fmt: skip
    matrix = sp.Matrix(n, n, lambda i, j: rng.choice(kinds)() if i == j or rng.random() < density else 0)
    right = [sp.sin(states[i % 3]) + i for i in range(n)]
    order = rng.permutation(n)  # rows in any order
    equations = tuple((matrix * sp.Matrix(w))[i] - right[i] for i in order)
    reduced = ReducedSystem(
        system=None, index=1, y=states, w=w, rates=w[:1] * 3, equations=equations, differentiations=(0,) * n,
        constraints=(), constraint_of=(), algebraic_equations=(), states=w, state_rates=(None,) * n,
        blocks=(Block(tuple(range(n)), tuple(range(n)), linear=True),), parameters=parameters,
    )  # fmt: skip
    points = rng.normal(size=(3, 3))
    values = [dict(zip(states, p, strict=True)) | parameters for p in points]
    numbers = [np.array(matrix.subs(v)).astype(float) for v in values]
    if max(map(np.linalg.cond, numbers)) > 1e6:
        return
    expected = [np.linalg.solve(a, [float(e.subs(v)) for e in right]) for a, v in zip(numbers, values, strict=True)]
    with jax.enable_x64(True), jax.disable_jit():
        for backend in BACKENDS:
            w_found, good = ReducedFunctions(reduced, backend).solve_leading(CONVERT[backend](points))
            assert bool(good.all())
            for a, b in zip(np.asarray(w_found), expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7 * np.abs(b).max())
        single = reduced.numpy().solve_leading(points[0])[0]
    np.testing.assert_allclose(single, expected[0], rtol=1e-7, atol=1e-7 * np.abs(expected[0]).max())


def test_many_equations_are_few_operations(monkeypatch):
    """Points on a sphere that repel each other (Fekete), 36 equations of force coupled all to all."""
    monkeypatch.setattr(vector_jax, "STRAIGHT_LIMIT", 900)
    n = 12
    q = [sp.symbols(f"x{i} y{i} z{i}") for i in range(n)]
    p = [sp.symbols(f"u{i} v{i} w{i}") for i in range(n)]
    square = [[sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) for two in q] for one in q]
    forces = [[sum((q[i][k] - q[j][k]) / square[i][j] for j in range(n) if j != i) for k in range(3)] for i in range(n)]
    flat_q, flat_p = [s for g in q for s in g], [s for g in p for s in g]
    system = System.mechanical(
        flat_q, flat_p, mass=[1] * 3 * n, force=[f - s / 2 for row, b in zip(forces, p, strict=True)
        for f, s in zip(row, b, strict=True)], holonomic=[sum(s**2 for s in g) - 1 for g in q], name="repelling points",
    )  # fmt: skip
    reduced = system.reduce()
    assert sizes(reduced) == []
    assert LeadingFunction(reduced, False).operations() > 900
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 6 * n))
    f = reduced.jax()
    jaxpr = jax.make_jaxpr(lambda y: f.solve_leading(y)[0])(states[0])
    calls = [e.params["jaxpr"] for e in jaxpr.eqns if "jaxpr" in e.params]
    assert max(len(call.jaxpr.eqns) for call in calls) < 300
    w, good = f.solve_leading(states[0])
    assert good
    assert np.abs(reduced.numpy().leading_system(states[0], np.asarray(w))).max() < 1e-10 * np.abs(w).max()
    for backend in BACKENDS:
        found, good = ReducedFunctions(reduced, backend).solve_leading(CONVERT[backend](states))
        assert bool(good.all())
        np.testing.assert_allclose(found[0], w, rtol=1e-9, atol=1e-9 * np.abs(w).max())


def test_second_derivatives_of_what_newton_finds():
    """z + sin(z)/4 = x² p: dz/dx and d²z/dx dp by hand, where one step with a frozen Jacobian has the first alone."""
    z, p, s = sp.Symbol("z", real=True), sp.Symbol("p", positive=True), sp.Symbol("s", real=True)
    system = System([dot(s) - z, z + sp.sin(z) / 4 - s**2 * p], [s, z], {p: 1.3}, name="implicit")
    reduced = system.reduce()
    f, place = reduced.torch(), [str(w) for w in reduced.w].index("z")

    def found(state, value):
        w, good = f.solve_leading(state, 0.0, {"p": value}, guess=torch.full((len(reduced.w),), 0.5).double())
        assert bool(good.all())
        return w[place]

    inputs = torch.tensor([0.8], dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    ours = torch.autograd.functional.hessian(found, inputs)
    (x0,), p0 = inputs
    at = float(found(*inputs))
    slope, bend = 1 + np.cos(at) / 4, -np.sin(at) / 4  # F(z) = x² p with F' and F''
    first = 2 * float(x0) * float(p0) / slope, float(x0) ** 2 / slope
    known_xx = (2 * float(p0) - bend * first[0] ** 2) / slope
    known_xp = (2 * float(x0) - bend * first[0] * first[1]) / slope
    known_pp = -bend * first[1] ** 2 / slope
    np.testing.assert_allclose(
        [float(ours[0][0]), float(ours[0][1]), float(ours[1][1])], [known_xx, known_xp, known_pp], rtol=1e-9
    )


def test_newton_by_levels_is_newton_of_each_block(monkeypatch):
    """z_i³ + z_i = x_i and u_i + exp(u_i) = z_i, of three i at once; dz/dx = 1 / (3 z² + 1)."""
    for module in (vector_jax, vector_numpy, vector_torch):
        monkeypatch.setattr(module, "STRAIGHT_LIMIT", 0)
    monkeypatch.setattr(vector_jax, "REPEATED", 0)
    x, z, u = (sp.symbols(f"{name}0:3") for name in "xzu")
    equations = [dot(a) + c for a, c in zip(x, u, strict=True)]
    equations += [b**3 + b - a for a, b in zip(x, z, strict=True)]
    equations += [c + sp.exp(c) - b for b, c in zip(z, u, strict=True)]
    reduced = System(equations, [*x, *z, *u]).reduce()
    assert reduced.y == x
    right = np.array([[0.3, 1.2, 0.7], [-0.4, 0.1, -0.2]])
    y, slope = right**3 + right, 1 / (3 * right**2 + 1)
    of_z, of_u = ([reduced.w.index(s) for s in group] for group in (z, u))
    w, found = reduced.numpy().solve_leading(y)
    assert found.all()
    np.testing.assert_allclose(w[:, of_z], right, rtol=0, atol=1e-15)
    np.testing.assert_allclose(w[:, of_u] + np.exp(w[:, of_u]), right, rtol=0, atol=1e-15)
    slopes = jax.jit(jax.jacrev(lambda y: reduced.jax().solve_leading(y)[0]))(y[0])
    np.testing.assert_allclose(np.asarray(slopes)[of_z], np.diag(slope[0]), rtol=0, atol=1e-14)
    tensor = torch.tensor(y, requires_grad=True)
    (gradient,) = torch.autograd.grad(reduced.torch().solve_leading(tensor)[0][:, of_z].sum(), tensor)
    np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-14)
