"""Generated vectors of expressions: every backend and form of code against SymPy, Jacobians, corners, errors."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings, strategies as st

from ndae.symbolic.functions.vector_function import VectorFunction

x, y, z, t = sp.symbols("x y z t")
k, m = sp.symbols("k m")
PARAMETERS = {k: 2.5, m: None}
EXPRESSIONS = {
    "arithmetic": [x * y - z / (1 + k**2), -(x - y) / (k * z) - (z - x) ** 5 + 3, (x + y) ** -3 + 1.5 * x, sp.S(7)],
    "roots": [sp.sqrt(1 + x**2) * sp.exp(-y), (x**2 + y**2 + 1) ** sp.Rational(-3, 2), (1 + x**2) ** 0.3, 2**x],
    "functions": [sp.sin(x * t) + sp.atan2(y, z), sp.tanh(x) * sp.log(2 + y**2), sp.asinh(z) - m, sp.atan(x / m)],
    "corners": [sp.Abs(x * y) - sp.sign(z), sp.Max(x, y, z, k - 2) * sp.Min(x, 1, y), sp.Abs(x) ** 3 - x],
    "pieces": [
        sp.Piecewise((sp.log(x) * z / x, x > 0), (x**2 * k, True)),
        sp.Piecewise((x, sp.And(x < y, y <= z)), (sp.sin(y), sp.Or(x > 1, sp.Not(z > y))), (z * t, True)),
        x * sp.Piecewise((sp.Piecewise((sp.sqrt(y), y > 0), (z, True)), sp.Abs(x) > 1), (3, sp.Eq(x, 1)), (y, True)),
    ],
}  # fmt: skip
EVERY = [e for group in EXPRESSIONS.values() for e in group]
CALL = {"t": 0.3, "parameters": {"m": 1.5}}
INPUTS = {"q": (x, y), "z": (z,)}
RNG = np.random.default_rng(0)
Q, Z = RNG.normal(size=(12, 2)) * 1.5, RNG.normal(size=(12, 1)) * 1.5


pytestmark = pytest.mark.usefixtures("double_precision")


def function(expressions, inputs=INPUTS):
    return VectorFunction(expressions, inputs, t, PARAMETERS, name="tried")


def values_of(expressions, point):
    return np.array([float(sp.sympify(e).subs(point)) for e in expressions])


def by_sympy(expressions, q, z_):
    return values_of(expressions, {x: q[0], y: q[1], z: z_[0], t: 0.3, k: 2.5, m: 1.5})


def everywhere(f, method, *which):
    """What each backend gives for the batch, and NumPy for each point."""
    numpy = [getattr(f.numpy(), method)(*which, q, z_, **CALL) for q, z_ in zip(Q, Z, strict=True)]
    return {
        "numpy": getattr(f.numpy(), method)(*which, Q, Z, **CALL),
        "points": np.stack(numpy),
        "jax": getattr(f.jax(), method)(*which, Q, Z, **CALL),
        "vmap": jax.vmap(lambda q, z_: getattr(f.jax(), method)(*which, q, z_, **CALL))(Q, Z),
        "torch": getattr(f.torch(), method)(*which, torch.tensor(Q), torch.tensor(Z), **CALL),
    }


@pytest.mark.parametrize("group", EXPRESSIONS)
def test_values_are_those_of_sympy(group, form):
    expressions = EXPRESSIONS[group]
    expected = np.stack([by_sympy(expressions, q, z_) for q, z_ in zip(Q, Z, strict=True)])
    for name, values in everywhere(function(expressions), "__call__").items():
        assert np.asarray(values).dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("group", ["arithmetic", "roots", "functions"])
@pytest.mark.parametrize("which, symbols", [("q", (x, y)), ("z", (z,))])
def test_jacobians_are_those_of_sympy(group, which, symbols, form):
    expressions = EXPRESSIONS[group]
    entries = [sp.diff(e, s) for e in expressions for s in symbols]
    expected = np.stack([by_sympy(entries, q, z_) for q, z_ in zip(Q, Z, strict=True)]).reshape(12, -1, len(symbols))
    f = function(expressions)
    for name, values in everywhere(f, "jacobian", which).items():
        np.testing.assert_allclose(values, expected, rtol=1e-11, atol=1e-11, err_msg=name)
    present = np.array([sp.diff(e, s) != 0 for e in expressions for s in symbols]).reshape(-1, len(symbols))
    np.testing.assert_array_equal(f.numpy().sparsity(which), present)


def test_jacobians_of_pieces_are_differences(form):
    expressions = EXPRESSIONS["corners"] + EXPRESSIONS["pieces"]
    f = function(expressions)
    g, step = f.numpy(), 1e-6
    columns = [(g(Q + step * e, Z, **CALL) - g(Q - step * e, Z, **CALL)) / (2 * step) for e in np.eye(2)]
    for name, values in everywhere(f, "jacobian", "q").items():
        np.testing.assert_allclose(values, np.stack(columns, -1), rtol=1e-6, atol=1e-6, err_msg=name)


def test_derivatives_of_the_code_are_the_jacobian(form):
    f = function(EVERY)
    expected = f.numpy().jacobian("q", Q, Z, **CALL)
    for mode in (jax.jacfwd, jax.jacrev):
        values = jax.jit(jax.vmap(mode(lambda q, z_: f.jax()(q, z_, **CALL))))(Q, Z)
        np.testing.assert_allclose(values, expected, rtol=1e-11, atol=1e-11)
    q = torch.tensor(Q, requires_grad=True)
    rows = [
        torch.autograd.grad(row.sum(), q, retain_graph=True)[0]
        for row in f.torch()(q, torch.tensor(Z), **CALL)[:, [i for i, e in enumerate(EVERY) if e != 7]].unbind(-1)
    ]
    varying = [i for i, e in enumerate(EVERY) if e != 7]
    np.testing.assert_allclose(torch.stack(rows, 1), expected[:, varying], rtol=1e-11, atol=1e-11)


def test_derivatives_by_parameters_and_time():
    f = function(EVERY).jax()

    def values(mass, time):
        return f(Q[0], Z[0], t=time, parameters={"m": mass})

    by_mass, by_time = jax.jacfwd(values, (0, 1))(1.5, 0.3)
    point = {x: Q[0, 0], y: Q[0, 1], z: Z[0, 0], t: 0.3, k: 2.5, m: 1.5}
    np.testing.assert_allclose(by_mass, values_of([sp.diff(e, m) for e in EVERY], point), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(by_time, values_of([sp.diff(e, t) for e in EVERY], point), rtol=1e-11, atol=1e-12)


# -- corners -------------------------------------------------------------------------------------------------------


BRANCHES = [  # each with a branch that has no finite derivative where the other one holds
    (sp.Piecewise((sp.log(x), x > 0), (x**2, True)), 2 * x),
    (sp.Piecewise((x * sp.sqrt(x), x > 0), (x, True)), sp.Integer(1)),
    (sp.Piecewise((sp.sin(x) / x, x > 1), (x - 1, True)), sp.Integer(1)),
    (sp.Piecewise((sp.exp(x * 1e4), x > 1), (x**3, True)), 3 * x**2),
    (sp.Piecewise((x, x <= 0), (sp.acos(1 + x) * x, x > 5), (sp.Piecewise((1 / x, x > 2), (0, True)), True)), 1),
]


@pytest.mark.parametrize("e, derivative", BRANCHES, ids=range(len(BRANCHES)))
@pytest.mark.parametrize("at", [0.0, -3.0])
def test_branches_that_do_not_hold_leave_no_trace(e, derivative, at, form):
    f = VectorFunction([e * y], {"x": [x], "y": [y]})
    expected = float(sp.sympify(derivative).subs(x, at)) * 3
    point, other = np.array([at]), np.array([3.0])
    assert f.numpy().jacobian("x", point, other) == pytest.approx(expected)
    assert f.numpy().jacobian("x", point[None], other)[0] == pytest.approx(expected)
    code = f.jax()
    assert jax.grad(lambda p: code(p, other)[0])(point)[0] == pytest.approx(expected)
    assert jax.jacfwd(lambda p: code(p, other)[0])(point)[0] == pytest.approx(expected)
    assert code.jacobian("x", point, other)[0, 0] == pytest.approx(expected)
    second = jax.grad(lambda p: code.jacobian("x", p, other)[0, 0])(point)[0]
    assert second == pytest.approx(float(sp.diff(derivative, x).subs(x, at)) * 3)
    tensor = torch.tensor(point, requires_grad=True)
    f.torch()(tensor, torch.tensor(other)).sum().backward()
    assert tensor.grad.item() == pytest.approx(expected)


def test_at_a_kink_the_first_branch_counts():
    f = VectorFunction([sp.Abs(x), sp.Max(x, 0), sp.Piecewise((2 * x, x < 0), (3 * x, True))], {"x": [x]})
    zero = np.zeros(1)
    for g in (f.numpy(), f.jax()):
        np.testing.assert_array_equal(g(zero), 0)
    np.testing.assert_array_equal(f.numpy().jacobian("x", zero)[:, 0], [1, 0, 3])


# -- expressions made at random --------------------------------------------------------------------------------------


def trees():
    leaves = st.sampled_from([x, y, z, t, k, m, sp.Integer(2), sp.Rational(-1, 3), sp.Float(0.7)])

    def grow(inner):
        pair = st.tuples(inner, inner)
        return st.one_of(
            pair.map(lambda p: p[0] + p[1]),
            pair.map(lambda p: p[0] * p[1]),
            pair.map(lambda p: p[0] - 2 * p[1]),
            pair.map(lambda p: p[0] / (1 + p[1] ** 2)),
            pair.map(lambda p: sp.Max(*p)),
            pair.map(lambda p: sp.Piecewise((sp.sin(p[0]), p[0] < p[1]), (p[1], True))),
            inner.map(lambda e: e**2),
            inner.map(lambda e: sp.sqrt(1 + e**2)),
            inner.map(sp.cos),
            inner.map(sp.Abs),
            inner.map(lambda e: sp.exp(-(e**2))),
        )

    return st.recursive(leaves, grow, max_leaves=12)


@settings(max_examples=40)
@given(st.lists(trees(), min_size=1, max_size=4), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_random_expressions(expressions, point):
    point = np.array(point) + 0.01 * np.arange(3)  # apart from one another
    f = function(expressions, {"q": (x, y, z)})
    expected = values_of(expressions, {x: point[0], y: point[1], z: point[2], t: 0.3, k: 2.5, m: 1.5})
    backends = {"numpy": (f.numpy(), np.asarray), "jax": (f.jax(), jnp.asarray), "torch": (f.torch(), torch.tensor)}
    with jax.enable_x64(True), jax.disable_jit():
        for name, (g, convert) in backends.items():
            values = np.asarray(g(convert(point), **CALL))
            np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-10, err_msg=name)
            batch = np.asarray(g(convert(np.stack([point, point + 1])), **CALL))
            np.testing.assert_allclose(batch[0], expected, rtol=1e-9, atol=1e-10, err_msg=name)
        jacobians = [np.asarray(g.jacobian("q", convert(point), **CALL)) for g, convert in backends.values()]
        autodiff = jax.jacfwd(lambda q: backends["jax"][0](q, **CALL))(jnp.asarray(point))
    for jacobian in jacobians:
        np.testing.assert_allclose(jacobian, autodiff, rtol=1e-8, atol=1e-8)


# -- batches, types, names -------------------------------------------------------------------------------------------


def test_batches_broadcast(form):
    f = function([x * t + k * z, y - m])
    times, masses = np.linspace(0, 1, 5), np.array([[1.0], [2.0]])
    expected = np.stack(np.broadcast_arrays(Q[0, 0] * times + 2.5 * Z[0, 0], Q[0, 1] - masses), -1)
    call = {"t": times, "parameters": {"m": masses}}
    np.testing.assert_allclose(f.numpy()(Q[0], Z[0], **call), expected)
    np.testing.assert_allclose(f.jax()(Q[0], Z[0], **call), expected)
    tensors = {"t": torch.tensor(times), "parameters": {"m": torch.tensor(masses)}}
    np.testing.assert_allclose(f.torch()(torch.tensor(Q[0]), torch.tensor(Z[0]), **tensors), expected)
    assert f.numpy().jacobian("z", Q[0], Z[0], **call).shape == (2, 5, 2, 1)
    mapped = jax.vmap(lambda mass: f.jax()(Q[0], Z[0], t=0.0, parameters={"m": mass}))(masses[:, 0])
    np.testing.assert_allclose(mapped, expected[:, 0])


def test_float32_stays_float32(form):
    f = function([x * t + k * z, sp.Piecewise((0.1, x > y), (0.2, True)), sp.Integer(1)])
    q, z_ = Q.astype(np.float32), Z.astype(np.float32)
    for values in (f.numpy()(q, z_, **CALL), f.numpy()(q[0], z_[0], **CALL), f.jax()(q, z_, **CALL)):
        assert values.dtype == np.float32
    assert f.torch()(torch.tensor(q), torch.tensor(z_), **CALL).dtype == torch.float32
    np.testing.assert_allclose(f.numpy()(q, z_, **CALL), f.numpy()(Q, Z, **CALL), rtol=1e-5, atol=1e-6)


def test_where_no_value_exists_there_is_none():
    e = [sp.log(x), 1 / x, y, sp.exp(x * 1000), sp.sqrt(y), sp.Piecewise((1 / x, x > 0), (y, True)), x**0.3]
    f = VectorFunction(e, {"q": [x, y]})
    points = np.array([[-1.0, 2.0], [0.0, 3.0], [1.0, 4.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single, batch = np.stack([f.numpy()(p) for p in points]), f.numpy()(points)
        jacobian = f.numpy().jacobian("q", points[0])
    np.testing.assert_array_equal(single, batch)
    np.testing.assert_array_equal(np.isfinite(batch[0]), [False, True, True, True, True, True, False])
    np.testing.assert_array_equal(batch[1], [-np.inf, np.inf, 3, 1, np.sqrt(3), 3, 0])
    assert batch[2, 3] == np.inf and np.isfinite(batch[2, [0, 1, 2, 4, 5, 6]]).all()
    assert jacobian[2, 1] == 1 and jacobian[5, 1] == 1


def test_names_of_any_kind():
    names = ["lambda", "where", "sin", "s0", "q", "a b", "α", "1x", "values", "s1"]
    symbols = [sp.Symbol(name, real=True) for name in names]
    e = [
        sp.sin(sum(s**2 for s in symbols)),
        sp.Piecewise((symbols[0], symbols[1] > 0), (symbols[2], True)) * symbols[3],
    ]
    f = VectorFunction(e, {"q": symbols})
    point = RNG.normal(size=len(names))
    expected = values_of(e, dict(zip(symbols, point, strict=True)))
    for values in (f.numpy()(point), f.numpy()(point[None])[0], f.jax()(point), f.torch()(torch.tensor(point))):
        np.testing.assert_allclose(values, expected, rtol=1e-13)


def test_no_outputs_and_no_inputs():
    empty = VectorFunction([], {"x": [x]})
    assert empty.numpy()(np.ones((3, 1))).shape == (3, 0)
    assert empty.jax().jacobian("x", np.ones((3, 1))).shape == (3, 0, 1)
    assert empty.torch()(torch.ones(3, 1)).shape == (3, 0)
    nothing = VectorFunction([k + 1], {"x": []}, None, {k: 1.0})
    assert nothing.numpy()(np.ones(0)) == nothing.jax()(np.ones(0)) == nothing.torch()(torch.ones(0)).numpy() == 2
    assert nothing.numpy().jacobian("x", np.ones(0)).shape == (1, 0)


def test_source_is_the_code_that_runs():
    f = function([sp.sqrt(x**2 + y**2) - k, sp.Piecewise((x / z, x > 0), (y, True))])
    text = f.source(["q"])
    assert "def values(q, z_vector, t, k, m):" in text and "def jacobian_q(" in text
    assert "sqrt(" in text and "where(" in text and "guard(" in text
    compile(text, "source", "exec")


def test_large_vectors_are_few_operations():
    n = 30
    states = sp.symbols(f"a0:{n}")
    pairs = [
        [(states[j] - states[i]) / (1 + (states[i] - states[j]) ** 2) for j in range(n) if j != i] for i in range(n)
    ]
    f = VectorFunction([sp.Add(*row) for row in pairs], {"a": states})
    assert f.operations() > 4 * n * (n - 1) // 2
    point = RNG.normal(size=n)
    jaxpr = jax.make_jaxpr(f.jax())(point)
    inner = next(e for e in jaxpr.eqns if "jaxpr" in e.params).params["jaxpr"]
    assert len(inner.jaxpr.eqns) < 150
    gap = point[None] - point[:, None]
    expected = (gap / (1 + gap**2)).sum(1)
    for values in (f.numpy()(point), f.jax()(point), f.torch()(torch.tensor(point)), f.numpy()(point[None])[0]):
        np.testing.assert_allclose(values, expected, rtol=1e-12)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: VectorFunction([x + z], {"q": [x, y]}), "'z'.*not declared"),
        (lambda: VectorFunction([x], {"q": [x], "r": [x]}), "declared twice"),
        (lambda: VectorFunction([x], {"not a name": [x]}), "identifier"),
        (lambda: VectorFunction([x * k], {"q": [x]}, None, {k: "much"}), "expected a number"),
        (lambda: VectorFunction(["x"], {"q": [x]}), "parse_expression"),
        (lambda: VectorFunction([sp.gamma(x)], {"q": [x]}).numpy()(np.ones(1)), "gamma"),
        (lambda: VectorFunction([x / sp.Integer(0)], {"q": [x]}).source(), "finite"),
        (lambda: VectorFunction([sp.Piecewise((x, x > 0))], {"q": [x]}).source(), "True"),
        (lambda: function([x * t]).numpy()(Q, Z, parameters={"m": 1}), "pass t="),
        (lambda: function([x * m]).numpy()(Q, Z), "no default"),
        (lambda: function([x * m]).jax()(Q, Z, parameters={"mm": 1}), "'mm'; it has k, m: did you mean 'm'"),
        (lambda: function([x * m]).torch()(torch.tensor(Q), torch.tensor(Z), parameters={"m": 1, "n": 1}), "no .* 'n'"),
        (lambda: function([x]).numpy()(Q, **CALL), "expected 2"),
        (lambda: function([x]).jax()(Q, Q, **CALL), r"expected \(..., 1\)"),
        (lambda: function([x]).torch()(torch.tensor(Z), torch.tensor(Z), **CALL), r"expected \(..., 2\)"),
        (lambda: function([x]).numpy().jacobian("w", Q, Z, **CALL), "no input 'w'"),
    ],
)  # fmt: skip
def test_errors_say_what_to_mend(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_compiled_once():
    f = function([x])
    assert f.numpy() is f.numpy() and f.jax() is f.jax() and f.torch() is f.torch()


def test_what_sympy_makes_of_symbols_that_are_not_said_to_be_real():
    """|exp(x)| is exp(re(x)) to SymPy; values are those of real numbers."""
    x = sp.Symbol("x")
    written = [abs(sp.exp(x)), abs(sp.exp(sp.I * x) * x), sp.exp(-abs(sp.exp(-(x**2))))]
    assert any(e.has(sp.re) for e in written)
    function = VectorFunction(written, {"y": [x]}).numpy()
    assert np.allclose(function(np.array([0.7])), [np.exp(0.7), 0.7, np.exp(-np.exp(-0.49))])
    assert np.allclose(function.jacobian("y", np.array([0.7]))[0], [np.exp(0.7)])
