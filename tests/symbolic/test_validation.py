"""Bad input is refused with a sentence that names the thing and the mend."""

import numpy as np
import pytest
import sympy as sp
import torch

from ndae.symbolic import ANCHOR, Constraint, Function, System, library, norm, point

x, y, z, t, L = sp.symbols("x y z t L")
a, b = point("a", 2), point("b", 2)
link = [norm(b - a) - 1]

PLAIN = {
    "undeclared": (lambda: Constraint([x + z], [x]), "'z' in expression 0 .* not declared: add it"),
    "undeclared parameter": (lambda: Constraint([x - L], [x]), r"'L'.*parameters=\{L: value\}"),
    "unused state": (lambda: Constraint([x - 1], [x, y]), r"state 'y' .*unconstrained=\[y\]"),
    "unused parameter": (
        lambda: Constraint([x - 1], [x], {L: 1.0}),
        "parameter 'L' is declared but no expression uses it",
    ),
    "unused time": (lambda: Constraint([x - 1], [x], time=t), "time 't' is declared"),
    "declared twice": (lambda: Constraint([x - 1], [x, x]), "'x' is declared twice"),
    "state and parameter": (lambda: Constraint([x - y], [x, y], {y: 1.0}), "declared twice .as state and as parameter"),
    "same name, other assumptions": (lambda: Constraint([sp.Symbol("x", real=True) - 1], [x]), "other assumptions"),
    "unconstrained but used": (lambda: Constraint([x - y], [x, y], unconstrained=[y]), "uses it"),
    "unconstrained but no state": (lambda: Constraint([x], [x], unconstrained=[y]), "no state"),
    "no state in it": (lambda: Constraint([x - 1, L - 1], [x], {L: 1.0}), "expression 1 .* holds no state"),
    "no expressions": (lambda: Constraint([], [x]), "no expressions"),
    "no states": (lambda: Constraint([x], []), "none given"),
    "text": (lambda: Constraint("x - 1", [x]), "parse_expression"),
    "text in list": (lambda: Constraint(["x - 1"], [x]), "parse_expression"),
    "text as states": (lambda: Constraint([x], "x"), r"sympy.symbols\('x'\)"),
    "states of text": (lambda: Constraint([x], ["x"]), "expected SymPy symbols, got 'x'"),
    "inequality": (lambda: Constraint([x < 1], [x]), r"sympy.Eq\(left, right\)"),
    "no expression": (lambda: Constraint([object()], [x]), "not a SymPy expression"),
    "time is text": (lambda: Constraint([x - t], [x], time="t"), "expected a SymPy symbol"),
    "empty name": (lambda: Constraint([x], [x], name=""), "non-empty"),
    "nan": (lambda: Constraint([x - L], [x], {L: float("nan")}), "'L' is not finite"),
    "inf": (lambda: Constraint([x - L], [x], {L: np.inf}), "'L' is not finite"),
    "text parameter": (lambda: Constraint([x - L], [x], {L: "one"}), "'L' is 'one': expected a number"),
    "array in a plain list": (lambda: Constraint([x - L], [x], {L: [1.0, 2.0]}), r"shape \(2,\), expected a number"),
    "parameter by text": (lambda: Constraint([x - L], [x], {"L": 1.0}), "expected SymPy symbols, got 'L'"),
}
NON_SMOOTH = {
    "Abs": sp.Abs(x),
    "Max": sp.Max(x, 0),
    "Min": sp.Min(x, y),
    "sign": sp.sign(x),
    "floor": sp.floor(x),
    "ceiling": sp.ceiling(x),
    "Mod": sp.Mod(x, 2),
    "Heaviside": sp.Heaviside(x),
    "DiracDelta": sp.DiracDelta(x),
    "Piecewise": sp.Piecewise((x, x > 0), (-x, True)),
    "re": sp.re(x),
    "conjugate": sp.conjugate(x),
}
UNSUPPORTED = {
    "gamma": sp.gamma(x),
    "erf": sp.erf(x),
    "undefined": sp.Function("f")(x),
    "Derivative": sp.Derivative(sp.Function("f")(x), x),
    "Integral": sp.Integral(x, (x, 0, y)),
    "imaginary": sp.I * x,
    "infinite": x + sp.oo,
    "nan": x + sp.nan,
    "complex constant": x + sp.sqrt(-2),
    "beyond doubles": x + sp.exp(1000),
}
TEMPLATE = {
    "index out of range": (
        lambda: Constraint.template(link, [a, b], [(0, 5)], n_points=3),
        r"over\[0\] uses point 5.*0 to 2",
    ),
    "negative index": (lambda: Constraint.template(link, [a, b], [(-1, 0)]), r"over\[0\] = \(-1, 0\) holds -1"),
    "negative in array": (lambda: Constraint.template(link, [a, b], np.array([[-1, 0]])), "numbered from 0"),
    "fraction": (lambda: Constraint.template(link, [a, b], [(0.5, 1)]), "holds 0.5"),
    "bool": (lambda: Constraint.template(link, [a, b], [(True, 0)]), "holds True"),
    "unknown anchor": (lambda: Constraint.template(link, [a, b], [("wall", 0)]), "names the anchor 'wall'; known are"),
    "wrong length": (lambda: Constraint.template(link, [a, b], [(0, 1, 2)]), "3 entries, expected 2"),
    "wrong length of array": (
        lambda: Constraint.template(link, [a, b], np.array([[0, 1, 2]])),
        "3 entries, expected 2",
    ),
    "empty": (lambda: Constraint.template(link, [a, b], []), "over is empty"),
    "anchors alone": (
        lambda: Constraint.template(link, [a, b], [(0, 1), (ANCHOR, ANCHOR)]),
        r"over\[1\] holds anchors alone",
    ),
    "point twice": (
        lambda: Constraint.template(link, [a, b], [(0, 1), (2, 2)]),
        r"over\[1\] = \(2, 2\) uses a point twice",
    ),
    "same tuple": (
        lambda: Constraint.template(link, [a, b], [(0, 1), (1, 2), (0, 1)]),
        r"over\[0\] and over\[2\] are the same",
    ),
    "unused point": (
        lambda: Constraint.template([norm(b) - 1], [a, b], [(0, 1)]),
        r"local point \(a_0, a_1\) is declared",
    ),
    "mixed dimensions": (lambda: Constraint.template(link, [a, point("b", 3)], [(0, 1)]), r"dimensions \[2, 3\]"),
    "anchor of another dimension": (
        lambda: Constraint.template(link, [a, b], [("wall", 0)], anchors={"wall": (1.0,)}),
        "expected 2 finite coordinates",
    ),
    "anchor at nan": (
        lambda: Constraint.template(link, [a, b], [("w", 0)], anchors={"w": (1.0, np.nan)}),
        "expected 2 finite coordinates",
    ),
    "parameter of wrong length": (
        lambda: Constraint.template([norm(b - a) - L], [a, b], [(0, 1)], parameters={L: [1.0, 2.0]}),
        r"shape \(2,\), expected a number or an array \(1,\)",
    ),
    "length of one dimension": (lambda: library.chain(3, 1), "is .x.: use x itself"),
    "dimension zero": (lambda: point("a", 0), "at least 1"),
    "point name": (lambda: point("a b", 2), "identifier"),
}
DEPENDENT = {
    "same": (lambda: Constraint([x - y, y - x], [x, y]), "expressions 0 and 1 are the same"),
    "expanded": (lambda: Constraint([x * (x + y), x**2 + x * y], [x, y]), "are the same"),
    "multiple": (
        lambda: Constraint([x + y, 2 * x + 2 * y], [x, y]),
        r"rank-deficient .*0 \(x \+ y\), 1 \(2\*x \+ 2\*y\)",
    ),
    "function of others": (
        lambda: Constraint([x * y - 1, y + z, x * y * (y + z)], [x, y, z]),
        "residuals 0 .*, 1 .*, 2 .* depend on one another",
    ),
    "on the manifold alone": (
        lambda: Constraint([x + y - 1, (x + y) * z - z], [x, y, z]),
        "where the constraint holds",
    ),
    "squared": (lambda: Constraint([(x**2 + y**2 - 1) ** 2], [x, y]), "gradient of residual 0 .* vanishes"),
    "a square, written out": (
        lambda: Constraint([sp.expand((x - 2 * y - 1) ** 2)], [x, y]),
        "gradient of residual 0 .* vanishes",
    ),
    "too many": (lambda: Constraint([x - 1, x - 2], [x]), "2 constraints on 1 states"),
    "both directions": (
        lambda: Constraint.template(link, [a, b], [(0, 1), (1, 2), (1, 0)]),
        r"0 \(over\[0\].*2 \(over\[2\]",
    ),
    "braced square": (
        lambda: Constraint.template(link, [a, b], [(i, j) for i in range(4) for j in range(i)]),
        "rank-deficient at generic",
    ),
    "whole periodic grid": (lambda: periodic_divergence(4, 5), "20 .*|rank-deficient"),
    "big": (lambda: periodic_divergence(20, 20), r"rank-deficient at generic points: residuals 0 .* and 392 more"),
    "far apart in a long chain": (
        lambda: Constraint.template(link, [a, b], [*[(i, i + 1) for i in range(2000)], (8, 7)]),
        r"residuals 7 \(over\[7\].*\), 2000 \(over\[2000\]",
    ),
}


def periodic_divergence(nx, ny):
    """All cells, the last of which is minus the sum of the others."""
    p, east, north = point("p", 2), point("e", 2), point("n", 2)
    cells = [(i, j) for i in range(nx) for j in range(ny)]
    over = [(i * ny + j, (i + 1) % nx * ny + j, i * ny + (j + 1) % ny) for i, j in cells]
    return Constraint.template([east[0] - p[0] + north[1] - p[1]], [p, east, north], over)


@pytest.mark.parametrize(
    "make, message", (PLAIN | TEMPLATE | DEPENDENT).values(), ids=(PLAIN | TEMPLATE | DEPENDENT).keys()
)
def test_refused_with_name_and_mend(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", NON_SMOOTH)
def test_non_smooth(name):
    with pytest.raises(ValueError, match=rf"contains {name} .*not smooth.*rewrite"):
        Function([NON_SMOOTH[name] + x + y], [x, y])


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(name):
    with pytest.raises(ValueError, match=r"supported are|only finite|imaginary|no finite real"):
        Function([UNSUPPORTED[name] + x + y], [x, y])


GOOD = {
    "equation": lambda: Constraint([sp.Eq(x**2, y)], [x, y]),
    "bare symbol": lambda: Constraint([x], [x]),
    "matrix": lambda: Constraint(sp.Matrix([x - y, x * y - 1]), [x, y]),
    "single": lambda: Constraint(x - y, [x, y]),
    "free state": lambda: Constraint([x - 1], [x, y], unconstrained=y),
    "closed ring": lambda: Constraint.template(link, [a, b], [(0, 1), (1, 2), (2, 0)]),
    "singular at a point alone": lambda: Constraint([x**2 + y**2 - z**2], [x, y, z]),
    "needs positive states": lambda: Constraint([sp.log(x) + sp.sqrt(y) - L], [x, y], [L]),
    "same tuple, other lengths": lambda: Function.template(
        [norm(b - a) - L], [a, b], [(0, 1), (0, 1)], parameters={L: [1.0, 2.0]}
    ),
    "names that Python reserves": lambda: Constraint(
        [sp.Symbol("lambda") * sp.Symbol("rows") - sp.Symbol("s0") ** 2 - sp.Symbol("x y") - sp.Symbol("xs")],
        (*sp.symbols("lambda rows s0 xs"), sp.Symbol("x y")),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_accepted(name):
    function = GOOD[name]()
    f = function.torch().double()
    given = {key: 1.0 for key, value in function.parameters.items() if value is None}
    state = torch.rand(3, f.n_states, dtype=torch.float64) + 0.5
    exact = torch.func.vmap(torch.func.jacrev(lambda y: f.residual(y, None, given)))(state)
    torch.testing.assert_close(f.jacobian(state, None, given), exact)


@pytest.mark.parametrize("backend", ["torch", "numpy", "jax"])
class TestCalls:
    def make(self, backend, function, shape):
        compiled = getattr(function, backend)()
        return compiled, {"torch": torch.ones, "numpy": np.ones, "jax": np.ones}[backend](shape)

    def test_wrong_state_shape(self, backend):
        f, state = self.make(backend, library.chain(3), (4, 5))
        with pytest.raises(
            ValueError, match=r"chain of 3 links: y has shape \(4, 5\), expected \(..., 6\) \(0.0, 0.1, 1.0"
        ):
            f.residual(state)

    def test_missing_and_unknown_parameter(self, backend):
        f, state = self.make(backend, Constraint([x - L], [x], [L]), (4, 1))
        with pytest.raises(ValueError, match=r"'L' has no default: pass parameters=\{'L': value\}"):
            f.residual(state)
        with pytest.raises(ValueError, match=r"has no parameter 'M'; it has L"):
            f.residual(state, parameters={"L": 1.0, "M": 2.0})

    def test_missing_time(self, backend):
        f, state = self.make(backend, Constraint([x - t], [x], time=t), (4, 1))
        with pytest.raises(ValueError, match="depends on time: pass t="):
            f.residual(state)

    def test_parameter_of_wrong_shape(self, backend):
        f, state = self.make(backend, library.chain(3), (4, 6))
        with pytest.raises(ValueError, match=r"'length' has shape \(4,\), expected \(\) or \(..., 3\)"):
            f.residual(state, parameters={"length": state[:, 0]})

    def test_metric_of_wrong_shape(self, backend):
        f, state = self.make(backend, library.chain(3), (4, 6))
        with pytest.raises(ValueError, match=r"inverse_metric has shape \(4,\), expected \(3,\)"):
            f.gram_blocks(state, state[:, 0])


def test_learning_what_is_not_there():
    with pytest.raises(ValueError, match=r"learn: .* has no parameter 'mass'; it has length"):
        library.chain(2).torch(learn=["mass"])
    with pytest.raises(ValueError, match=r"write \['length'\]"):
        library.chain(2).torch(learn="length")
    with pytest.raises(ValueError, match="no start"):
        Constraint([x - L], [x], [L]).torch(learn=["L"])


def test_library_and_systems_refuse():
    for make, message in [
        (lambda: library.chain(0), "n=0"),
        (lambda: library.chain(2, length=-1.0), "positive"),
        (lambda: library.chain(2, length=[1.0, 2.0, 3.0]), r"shape \(3,\)"),
        (lambda: library.rigid_molecules(2, [1.0] * 10, atoms=5), "redundant"),
        (lambda: library.rigid_molecules(2, [1.0, 1.0]), "expected 3"),
        (lambda: library.divergence_free(1, 5), "nx=1"),
        (lambda: library.divergence_free(3, 3, 0.0), "positive"),
        (lambda: library.linear_invariant([[1, 1], [2, 2]]), "rank-deficient"),
        (lambda: library.linear_invariant([1.0, np.nan]), "finite"),
        (lambda: library.linear_invariant([[1, 0], [0, 1]], [1.0, 2.0, 3.0]), "expected one number or 2"),
        (lambda: library.chain_pendulum(3, mass=[1.0, 2.0]), "one for each body"),
        (lambda: System.of_points(library.chain(2), mass=0.0), "positive"),
        (lambda: System.of_points(library.chain(2), potential=library.chain(3)), "6 states"),
        (lambda: System.of_points(library.chain(2), force=library.chain(2)), "2 numbers"),
        (lambda: library.chain(2).describe(3), "levels=3"),
        (lambda: library.chain(2).source("tensorflow"), "one of torch, jax, numpy"),
        (lambda: library.chain(2).expanded([x]), "1 states given, expected 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("radius", [1e-10, 1e-7, 1.0, 1e6])
@pytest.mark.parametrize("write", [lambda r: x**2 + y**2 - r**2, lambda r: x * y - r**2], ids=["circle", "hyperbola"])
def test_constraints_in_small_or_large_units_are_no_double_roots(radius, write):
    assert Constraint([write(radius)], [x, y]).n_residuals == 1
