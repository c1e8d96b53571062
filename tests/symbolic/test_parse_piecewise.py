"""Text with corners: what is read in the equations of a DAE beyond smooth expressions, and what still is not."""

import json
from pathlib import Path

import pytest
import sympy as sp

from ndae.symbolic import parse_expression
from tests.counting import n_calls
from tests.symbolic.test_parse import ESCAPES

x, y = sp.symbols("x y")


def read(text, names=("x", "y")):
    return parse_expression(text, names, nonsmooth=True)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Abs(x*y) - sign(x)", sp.Abs(x * y) - sp.sign(x)),
        ("Max(x, y, 2) + Min(x, -1)", sp.Max(x, y, 2) + sp.Min(x, -1)),
        ("Rational(174, -100)*x", sp.Rational(-87, 50) * x),
        ("Piecewise((x**2, x > y), (1/y, True))", sp.Piecewise((x**2, x > y), (1 / y, True))),
        ("Piecewise((1, x <= 0), (2, y >= x), (3, x < 2), (4, True))",
         sp.Piecewise((1, x <= 0), (2, y >= x), (3, x < 2), (4, True))),
        ("x - Piecewise((Piecewise((y, y < 1), (0, True)), Abs(x) > 1), (x, True))",
         x - sp.Piecewise((sp.Piecewise((y, y < 1), (0, True)), sp.Abs(x) > 1), (x, True))),
        ("Piecewise((x, 1 < 2), (y, True))", x),
        ("- x - (y - 2) + 3*x - 1", 2 * x - y + 1),
    ],
)  # fmt: skip
def test_reads_corners(text, expected):
    assert read(text) == expected


def test_reads_long_sums():
    text = "+".join(f"{i}*x" for i in range(1, 2500)) + "-y"
    assert 10_000 < len(text) < 20_000
    assert read(text) == sp.Integer(2499 * 2500 // 2) * x - y
    with pytest.raises(ValueError, match="20000"):
        read("x" + " " * 20_000 + "+ y")


def test_only_on_request():
    for text in ("Abs(x)", "Max(x, y)", "Piecewise((x, x > 0), (0, True))", "Rational(1, 2)", "sign(x)"):
        with pytest.raises(ValueError, match="functions are"):
            parse_expression(text, ["x", "y"])
    assert parse_expression("Abs + sign", ["Abs", "sign"]) == sp.Symbol("Abs") + sp.Symbol("sign")
    with pytest.raises(ValueError, match="taken"):
        read("Abs", ["Abs"])


STILL = [t for t in ESCAPES if t not in ("Abs(x)", "Max(x, y)", "x" + "+x" * 400, "x+" * 2000 + "x")]
REFUSED = [
    ("Piecewise((x, x > 0))", "last condition"),
    ("Piecewise((x, True), (y, True))", "last condition"),
    ("Piecewise((x, x > 0), (y, False))", "last condition"),
    ("Piecewise((x, x > 0), (y, 1))", "last condition"),
    ("Piecewise((x, x > 0, 1), (y, True))", "no pair"),
    ("Piecewise(x, (y, True))", "no pair"),
    ("Piecewise(*x, (y, True))", "plain argument"),
    ("Piecewise((*x, True))", "no pair|not allowed"),
    ("Piecewise()", "plain argument"),
    ("Piecewise((x, x), (y, True))", "no comparison"),
    ("Piecewise((x, x == 0), (y, True))", "no comparison"),
    ("Piecewise((x, 0 < x < 1), (y, True))", "no comparison"),
    ("Piecewise((x, x > 0 and y > 0), (y, True))", "no comparison"),
    ("Piecewise((x, not x > 0), (y, True))", "no comparison"),
    ("Piecewise((x, (x > 0) & (y > 0)), (y, True))", "no comparison"),
    ("Piecewise((x, x > eval('1')), (y, True))", "not allowed"),
    ("Piecewise((x.real, x > 0), (y, True))", "not allowed"),
    ("Piecewise((x, x > 0), (1/0, True))", "division by zero"),
    ("Piecewise((x, x > 0), (y, True), evaluate=False)", "plain argument"),
    ("Max(x)", "at least 2"),
    ("Max(x, y, evaluate=False)", "at least 2"),
    ("Min()", "at least 2"),
    ("Abs(x, y)", "takes 1"),
    ("Abs", "without its argument"),
    ("Rational(1, 0)", "not zero"),
    ("Rational(x, 2)", "whole numbers"),
    ("Rational(0.5, 2)", "whole numbers"),
    ("Rational('1/2')", "takes 2"),
    ("Rational(1, 10)**16**16", "beyond"),
    ("(((Rational(1, 10)**16)**16)**16)**16", "1e-300"),
    ("x > 0", "comparison"),
    ("True", "no real number"),
    ("Max(" * 61 + "x" + ", y)" * 61, "deeper"),
    ("+".join(["x"] * 9_000), "too complex"),
]


@pytest.mark.parametrize("text, reason", REFUSED, ids=range(len(REFUSED)))
def test_says_why_not(text, reason):
    with pytest.raises(ValueError, match=reason):
        read(text)


@pytest.mark.parametrize("text", STILL + [t for t, _ in REFUSED], ids=range(len(STILL) + len(REFUSED)))
def test_refuses_quickly_and_in_one_line(text):
    with pytest.raises(ValueError) as error:
        n_calls(lambda: read(text), most=50_000)  # some thousand are made
    assert type(error.value) is ValueError
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 400


def test_reads_the_pipes_of_a_water_network():
    file = Path(__file__).parents[2] / "experiments" / "problems" / "data" / "water_tube.json"
    data = json.loads(file.read_text())
    names = [*data["states"], *(f"{s}_dot" for s in data["states"]), *data["parameters"], *data["definitions"], "t"]
    equations = [read(text, names) for text in data["equations"]]
    assert len(equations) == 49 and all(e.free_symbols for e in equations)
    assert sum(e.has(sp.Piecewise) for e in equations) == sum(e.has(sp.Max) for e in equations) == 18
