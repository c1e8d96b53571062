"""What a few characters can write and nobody can work with is refused by name; what is long and honest is not."""

import json

import numpy as np
import pytest
import sympy as sp

from ndae.experiments.problems import ProblemFileError, problem_from_text
from ndae.symbolic import Constraint, Function, System, dot, parse_expression
from ndae.symbolic.expressions.limits import MAX_DEPTH, MAX_OPERATIONS, check_size

x, y, a = sp.symbols("x y a")
FILE = {"states": ["x"], "equations": ["x_dot + x"], "initial": {"y": {"x": 1}}, "t_span": [0, 1]}


@pytest.mark.parametrize(
    "text",
    [
        "(" * 6 + "1000001/1000000" + ")**16" * 6 + "*x - 1",
        "(" * 6 + "x + 1000001/1000000" + ")**16" * 6,
        "(" * 4 + "x" + ")**16" * 4,
        "(1000001/1000000)**16*(1000003/1000000)**16*(1000007/1000001)**16*(99999/1000001)**16*(3/7)**16*(1/9)**16" * 1
        + "*((1000001/1000000)**16)**16*x",
    ],
)
def test_numbers_and_powers_that_grow(text):
    for read in (
        lambda: parse_expression(text, ["x"]),
        lambda: parse_expression(text, ["x"], nonsmooth=True),
        lambda: problem_from_text(json.dumps(FILE | {"equations": [f"x_dot + {text}"]})),
        lambda: problem_from_text(json.dumps(FILE | {"initial": {"y": {"x": text.replace("x", "2")}}})),
    ):
        with pytest.raises(ValueError, match=r"digits|beyond|below"):
            read()


def test_definitions_that_double():
    d = sp.symbols("d:60")
    definitions = {s: b * sp.sin(b) for s, b in zip(d, [x, *d[:-1]], strict=True)}
    with pytest.raises(ValueError, match=r"definition d\d+ has .* operations"):
        System([dot(x) - d[-1]], [x], definitions=definitions)
    texts = {s.name: str(e) for s, e in definitions.items()}
    for equation in ("x_dot - d59", "x_dot - x"):
        with pytest.raises(ProblemFileError, match=r"definition d\d+ has .* operations"):
            problem_from_text(json.dumps(FILE | {"definitions": texts, "equations": [equation]}))


def test_what_is_shared_without_end():
    e = x
    for _ in range(100):
        e = e * sp.sin(e)
    for make in (
        lambda: Constraint([e - 1], [x]),
        lambda: System([dot(x) - e], [x]),
        lambda: System([dot(x) - x], [x], invariants={"e": e}),
        lambda: System([dot(x) - x * y], [x], definitions={y: e}),
    ):
        with pytest.raises(ValueError, match="operations"):
            make()


def test_depth_and_digits():
    e = x
    for _ in range(MAX_DEPTH // 2 + 1):
        e = 1 + e**2
    for make in (
        lambda: Function([e], [x]),
        lambda: System([dot(x) - e], [x]),
        lambda: Function([x * sp.Rational(10**5000 + 1, 10**5000)], [x]),
        lambda: Function([x**100_000], [x]),
    ):
        with pytest.raises(ValueError, match=r"nested|digits|exponent"):
            make()


def test_towers_of_parameters():
    tower = sp.exp(sp.exp(sp.exp(a)))
    for make in (
        lambda: Function([x * tower], [x], {a: 99.0}),
        lambda: System([dot(x) - x * tower], [x], {a: 99.0}),
        lambda: problem_from_text(json.dumps(FILE | {"parameters": {"a": 99, "b": "exp(exp(exp(a)))"}})),
        lambda: problem_from_text(json.dumps(FILE | {"parameters": {"a": 99}, "exact": {"x": "t*exp(exp(exp(a)))"}})),
        lambda: Function([x * sp.sqrt(a)], [x], {a: -1.0}),
        lambda: System([dot(x) - x * sp.log(a)], [x], {a: -1.0}),
    ):
        with pytest.raises(ValueError, match="no finite real"):
            make()
    # Branches that the parameter itself shuts off count for nothing.
    System([dot(x) - sp.Piecewise((x / a, a > 0), (sp.sqrt(a + 1), a > -1), (x, True))], [x], {a: 0.0})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "../../etc/passwd"}, "in files' names"),
        ({"name": "..\\x"}, "in files' names"),
        ({"name": ".hidden"}, "in files' names"),
        ({"name": "a/b"}, "in files' names"),
        ({"name": "a\x1b[31mb"}, "not printed"),
        ({"name": "a\nb"}, "not printed"),
        ({"name": "a\u202eb"}, "not printed"),
        ({"name": "x" * 1000}, "1000 characters"),
        ({"name": " "}, "non-empty"),
    ],
)
def test_names_of_problems(changes, message):
    with pytest.raises(ProblemFileError, match=message):
        problem_from_text(json.dumps(FILE | changes))


def test_whole_numbers_of_thousands_of_digits():
    for digits in (309, 4299, 4301, 100_000):
        for key, value in (("index", "N"), ("t_span", "[0, N]"), ("notes", "[N]"), ("anything", '{"a": N}')):
            rest = {k: v for k, v in FILE.items() if k != key}
            text = json.dumps(rest)[:-1] + f', "{key}": {value.replace("N", "9" * digits)}}}'
            with pytest.raises(ProblemFileError, match="digits"):
                problem_from_text(text)


def test_the_cost_of_a_product_is_linear():
    def operations(n):
        states = sp.symbols(f"x:{n}")
        programs = Function([sp.Mul(*states) - 1], states).programs
        return np.array(
            [getattr(programs, name)().count_operations() for name in ("local_jacobian", "jvp", "curvature")]
        )

    counts = [operations(n) for n in (16, 32, 64)]
    np.testing.assert_array_equal(counts[2] - counts[1], 2 * (counts[1] - counts[0]))
    assert (counts[2] < [600, 700, 3000]).all()
    states = sp.symbols("x:20")
    function, point = Function([sp.Mul(*states)], states).numpy(), np.linspace(0.5, 1.5, 20)
    np.testing.assert_allclose(function.jacobian(point)[0], np.prod(point) / point, rtol=1e-13)


def nested(form, depth):
    text = "x"
    for _ in range(depth):
        text = form.format(text)
    return parse_expression(f"{text} - 1/2", ["x"])


@pytest.mark.parametrize("form", ["sin({})", "exp({}/9)", "atan({})", "sqrt(1 + {})", "1/(1 + {})", "cos({})**2"])
def test_what_is_shown_of_nested_functions_grows_with_them(form):
    """Jacobian and hidden levels written out grow by the square and cube of the depth: parts are named instead."""
    shown = [len(Constraint([nested(form, n)], [x]).describe()) for n in (20, 40)]
    assert shown[1] < 3 * shown[0] + 4000 and shown[1] < 20_000


def test_what_is_shown_of_a_product_of_forty():
    product = parse_expression("*".join(f"(x + {k})" for k in range(40)) + " - 1", ["x"])
    text = Constraint([product], [x]).describe()
    assert len(text) < 30_000 and "s0 = " in text
    system = System([dot(x) - y, sp.Mul(*[sp.sin(k * x + y) for k in range(1, 41)]) - y + sp.exp(x)], [x, y])
    assert len(system.describe()) < 5_000 and len(system.reduce().describe()) < 30_000


def test_what_is_shown_of_a_long_sum_says_what_is_left_out():
    text = System([dot(x) - sp.Add(*[sp.sin(k * x) for k in range(1, 2001)])], [x]).describe()
    assert "more terms" in text and len(text) < 10_000


def test_named_parts_are_those_of_the_value():
    """The lines of a description, put into one another again."""
    from ndae.symbolic.expressions.written import lines_of

    e = sp.Mul(*[sp.sin(k * x + y) for k in range(1, 41)]) + sp.cos(sp.Mul(*[sp.sin(k * x + y) for k in range(1, 30)]))
    e = sum(e**k for k in range(1, 15))
    lines = lines_of(["e = "], [e])
    assert len(lines) > 3
    values = {"x": x, "y": y}
    for line in lines:
        name, text = line.strip().split(" = ")
        values[name] = parse_expression(text, list(values)).xreplace({sp.Symbol(k): v for k, v in values.items()})
    at = {x: 0.3, y: 0.4}
    assert float(values["e"].subs(at)) == pytest.approx(float(e.subs(at)), rel=1e-12)


def test_a_level_too_long_to_write_out_names_what_computes_it():
    constraint = Constraint([nested("sin({})", 59)], [x])
    with pytest.raises(ValueError, match=r"acceleration level has .* operations written out, at most .*: curvature"):
        constraint.acceleration_level()
    source = constraint.source("numpy", 2)
    assert "# function: its acceleration level has" in source and "def curvature(" in source and len(source) < 100_000


def test_hyperbolic_functions_in_one_another():
    with pytest.raises(ValueError, match="tanh nested deeper than 5"):
        nested("tanh({})", 40)
    r = sp.Symbol("x", real=True)
    e = r
    for _ in range(12):
        e = sp.sinh(e)
    with pytest.raises(ValueError, match="sinh, cosh or tanh nested deeper"):
        System([dot(r) - e], [r])
    assert nested("tanh({} + x)", 4).has(sp.tanh)


def test_the_cost_of_nested_sines_is_linear():
    def operations(n):
        programs = Constraint([parse_expression("sin(" * n + "x" + ")" * n + "-y", [x, y])], [x, y]).programs
        return np.array(
            [getattr(programs, name)().count_operations() for name in ("local_jacobian", "jvp", "curvature")]
        )

    counts = [operations(n) for n in (6, 12, 24)]
    np.testing.assert_array_equal(counts[2] - counts[1], 2 * (counts[1] - counts[0]))


def test_long_and_honest():
    check_size(sp.Add(*[sp.sin(s) * s for s in sp.symbols("x:2000")]), "a sum")
    assert MAX_OPERATIONS >= 100_000
    states = sp.symbols("x:60")
    System([dot(s) - sp.Max(*states[:10], evaluate=False) * s for s in states], states)
