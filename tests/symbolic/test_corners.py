"""Abs, Max, Min and sign cost in proportion to what is in them, and have right values and derivatives, also at ties."""

import itertools

import numpy as np
import pytest
import sympy as sp
import torch

from ndae.symbolic import System, dot, parse_expression
from ndae.symbolic.expressions.corners import as_corners
from ndae.symbolic.functions.vector_function import VectorFunction

x, y, z, t = sp.symbols("x y z t")


def nested_abs(depth):
    return parse_expression("Abs(" * depth + "x - 1" + ") - 1" * depth, ["x"], nonsmooth=True)


def maximum(n, kind="Max"):
    names = [f"x{i}" for i in range(n)]
    return parse_expression(f"{kind}({', '.join(names)})", names, nonsmooth=True), sp.symbols(names)


def operations(expression, states):
    """Definitions behind the values and behind the Jacobian, and nodes of the expression that a system keeps."""
    system = System([dot(s) - expression for s in states[:1]] + [dot(s) for s in states[1:]], states)
    function = VectorFunction([system.equations[0]], {"y": states, "rates": [dot(s) for s in states]})
    entries = function.entries("y")[2]
    nodes = sum(1 for _ in sp.preorder_traversal(system.equations[0]))
    return np.array([function.operations(), function.operations(entries), nodes])


@pytest.mark.parametrize("kind", ["Max", "Min"])
def test_the_cost_of_an_extreme_is_linear(kind):
    counts = [operations(*maximum(n, kind)) for n in (5, 10, 20, 40)]
    np.testing.assert_array_equal(counts[3] - counts[2], 2 * (counts[2] - counts[1]))
    np.testing.assert_array_equal(counts[2] - counts[1], 2 * (counts[1] - counts[0]))
    assert (counts[3] < [100, 250, 60]).all()


def test_the_cost_of_nested_absolute_values_is_linear():
    counts = [operations(nested_abs(n), [x]) for n in (5, 10, 20, 40)]
    np.testing.assert_array_equal(counts[3] - counts[2], 2 * (counts[2] - counts[1]))
    assert (counts[3] < [200, 400, 150]).all()


@pytest.mark.parametrize(
    "form",
    [
        "Max(sqrt({}), y)",
        "Min(1/({}), y, x)",
        "Max(log({}), Min(sqrt(x), y))",
        "Max(sqrt(Abs({})), y)",
        "Abs(sqrt({} + 2) - y)",
        "sqrt(Max({}, Min(1/x, y), y*x))",
    ],
)
def test_the_cost_of_roots_nested_in_choices_is_linear(form):
    """What is compared is not what is chosen, whose inputs stand behind guards; it was all there twice each time."""

    def nested(depth):
        text = "x"
        for _ in range(depth):
            text = form.format(text)
        return parse_expression(text, ["x", "y"], nonsmooth=True)

    counts = [operations(nested(n), [x, y]) for n in (4, 8, 12)]
    np.testing.assert_array_less(counts[2] - counts[1], 1.2 * (counts[1] - counts[0]) + 10)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_derivatives_of_roots_nested_in_choices_stay_finite(backend):
    """At x = 0 the roots have infinite slopes, in branches that are not selected."""
    inner = sp.Max(sp.sqrt(x), y, evaluate=False)
    expression = as_corners(sp.Max(sp.sqrt(inner) + x, 3 * y, sp.sqrt(x), evaluate=False))
    f = getattr(VectorFunction([expression], {"y": [x, y]}), backend)()
    for point, slope in ([0.0, 1.0], [0.0, 3.0]), ([0.0, 0.01], [1.0, 5.0]), ([4.0, 1.0], [1 + 2**-2.5 / 2, 0.0]):
        given = torch.tensor(point, dtype=torch.float64, requires_grad=True) if backend == "torch" else np.array(point)
        found = f.jacobian("y", given)
        np.testing.assert_allclose(np.asarray(found.detach() if backend == "torch" else found)[0], slope, rtol=1e-12)
        if backend == "torch":
            (gradient,) = torch.autograd.grad(f(given).sum(), given)
            np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-12)


def test_definitions_share_their_corners():
    """Twenty definitions, each a maximum over the one before it, twice."""
    d = sp.symbols("d:20")
    definitions, before = {}, x
    for symbol in d:
        definitions[symbol] = sp.Max(before - 1, y, evaluate=False)
        before = symbol
    system = System([dot(x) - before, dot(y) + before], [x, y], definitions=definitions)
    function = VectorFunction(system.equations, {"y": [x, y], "rates": [dot(x), dot(y)]})
    assert function.operations() < 100


def test_a_hidden_constraint_of_a_maximum():
    """0 = w - Max(x1, ..., x20) is differentiated once: the rate of w is that of the greatest."""
    expression, states = maximum(20)
    w, u = sp.symbols("w u")
    system = System([w - expression, dot(w) - u, *[dot(s) - (k + 1) for k, s in enumerate(states)]], [*states, w, u])
    reduced = system.reduce()
    f = reduced.numpy()
    assert reduced.index == 2
    point = np.random.default_rng(0).normal(size=f.n_y)
    place = {s: i for i, s in enumerate(reduced.y)}
    rate = dict(zip(reduced.w, f.solve_leading(point)[0], strict=True))[u]
    assert rate == 1 + int(np.argmax([point[place[s]] for s in states]))


CASES = {
    "max": (lambda a, b, c: max(a, b, c), sp.Max(x, y, z)),
    "min": (lambda a, b, c: min(a, b, c), sp.Min(x, y, z)),
    "abs": (lambda a, b, c: abs(a - abs(b - abs(c))), sp.Abs(x - sp.Abs(y - sp.Abs(z)))),
    "sign": (lambda a, b, c: a * np.sign(b) + b * np.sign(a * c), x * sp.sign(y) + y * sp.sign(x * z)),
    "mixed": (
        lambda a, b, c: max(a * b, abs(c), min(a, c)) * abs(b),
        sp.Max(x * y, sp.Abs(z), sp.Min(x, z)) * sp.Abs(y),
    ),
    "roots": (
        lambda a, b, c: max(a, np.sqrt(b) if b >= 0 else -np.inf) if b >= 0 else a,
        sp.Piecewise((sp.Max(x, sp.sqrt(y)), y >= 0), (x + 0 * z, True)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives(case):
    plain, expression = CASES[case]
    expression = as_corners(expression)
    points = np.random.default_rng(1).normal(size=(40, 3))
    function = VectorFunction([expression], {"y": [x, y, z]})
    values = np.array([plain(*p) for p in points])
    h = 1e-6 * np.eye(3)
    slopes = np.array([[(plain(*(p + d)) - plain(*(p - d))) / 2e-6 for d in h] for p in points])
    for backend in ("numpy", "torch"):
        f = getattr(function, backend)()
        given = points if backend == "numpy" else torch.tensor(points)
        np.testing.assert_allclose(np.asarray(f(given))[:, 0], values, rtol=1e-14)
        np.testing.assert_allclose(np.asarray(f.jacobian("y", given))[:, 0], slopes, rtol=1e-6, atol=1e-8)
    given = torch.tensor(points, requires_grad=True)
    (gradient,) = torch.autograd.grad(function.torch()(given).sum(), given)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-6, atol=1e-8)
    single = np.array([function.numpy()(p)[0] for p in points])
    np.testing.assert_allclose(single, values, rtol=1e-14)


@pytest.mark.parametrize("kind", [sp.Max, sp.Min])
def test_ties_are_those_of_the_first(kind):
    expression = as_corners(kind(x, 2 * y, 3 * z))
    a, b, c = expression.args
    function = VectorFunction([expression], {"y": [x, y, z]}).numpy()
    slopes = [[a.diff(s), b.diff(s), c.diff(s)] for s in (x, y, z)]
    for p in itertools.product([-1.0, 0.0, 1.0], repeat=3):
        point = np.array(p) / [1, 2, 3]
        values = [float(e.subs(dict(zip((x, y, z), point.tolist(), strict=True)))) for e in (a, b, c)]
        first = int((np.argmax if kind is sp.Max else np.argmin)(np.round(values, 12)))
        np.testing.assert_allclose(function(point), [values[first]], atol=1e-15)
        if len(set(np.round(values, 12))) == len(set(values)):  # ties that rounding does not part
            np.testing.assert_array_equal(function.jacobian("y", point)[0], [float(row[first]) for row in slopes])


def test_at_zero_an_absolute_value_has_the_slope_of_its_argument():
    function = VectorFunction([as_corners(sp.Abs(3 * x)), as_corners(sp.sign(x))], {"y": [x]}).numpy()
    np.testing.assert_array_equal(function(np.zeros(1)), [0.0, 0.0])
    np.testing.assert_array_equal(function.jacobian("y", np.zeros(1)), [[3.0], [0.0]])


def test_derivatives_off_the_tape():
    """SymPy's `diff` and the chains of the reduction know the same slopes."""
    from ndae.symbolic.expressions.partials import partials
    from ndae.symbolic.numeric.sampling import Evaluator

    expression = as_corners(CASES["mixed"][1])
    random = np.random.default_rng(2)
    points = {s: random.normal(size=50) for s in (x, y, z)}
    evaluate = Evaluator(points, 50)
    slopes = partials(expression, [x, y, z])
    own = (
        VectorFunction([expression], {"y": [x, y, z]}).numpy().jacobian("y", np.array([points[s] for s in (x, y, z)]).T)
    )
    for i, s in enumerate((x, y, z)):
        np.testing.assert_allclose(evaluate([slopes[s]])[0][0], own[:, 0, i], rtol=1e-12)
        np.testing.assert_allclose(evaluate([expression.diff(s)])[0][0], own[:, 0, i], rtol=1e-12)
    second = partials(slopes[x], [y])[y]
    step = 1e-6
    moved = [Evaluator(points | {y: points[y] + d}, 50)([slopes[x]])[0][0] for d in (step, -step)]
    np.testing.assert_allclose(evaluate([second])[0][0], (moved[0] - moved[1]) / (2 * step), atol=1e-6)


def test_they_read_as_they_are_written():
    system = System([dot(x) - sp.Max(x, y) + sp.sign(y), dot(y) - sp.Abs(x) * sp.Min(x, y)], [x, y])
    assert (
        "Max(x, y)" in system.describe() and "Min(x, y)*Abs(x)" in system.describe() and "sign(y)" in system.describe()
    )
