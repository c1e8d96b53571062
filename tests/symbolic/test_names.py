"""Names of all kinds in all roles: each works, with right values, or is refused with a sentence; none is ever run."""

import ast
import builtins
import functools
import importlib.util

import numpy as np
import pytest
import sympy as sp
import torch

from ndae.symbolic import Constraint, Function, System, dot
from ndae.symbolic.expressions.names import identifiers, in_docstring, is_identifier, literal
from ndae.symbolic.functions.vector_function import VectorFunction
from tests.symbolic.odd_names import ODD_NAMES

BACKENDS = ("numpy", "torch", "jax")
t = sp.Symbol("zeit")


@pytest.fixture(autouse=True)
def sentinel(monkeypatch):
    """`PWNED`, which the names of `odd_names` call where they are run."""
    calls = []
    monkeypatch.setattr(builtins, "PWNED", lambda: calls.append(1), raising=False)
    yield
    assert not calls, "a name was run as code"


def refused(name) -> bool:
    """Whether a name is refused as that of a state, and then by its kind alone, with a sentence."""
    try:
        Function([sp.Symbol(name) - 1], [sp.Symbol(name)])
    except ValueError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 400
        assert not name.strip() or len(name) > 200 or not name.isprintable()
        return True
    return False


@functools.cache
def accepted():
    return [name for name in ODD_NAMES if not refused(name)]


def chunks(size=60):
    names = accepted()
    return [names[i : i + size] for i in range(0, len(names), size)]


def test_there_are_many_and_most_are_accepted():
    assert len(ODD_NAMES) > 500
    assert 400 < len(accepted()) < len(ODD_NAMES)


@pytest.mark.parametrize(
    "name", ['x": open("PWNED","w"), "y', *"\"'\\\n{", '\\"', "\\'", "'\"", '\\\\\'"""', "a\udc80\u202e"]
)
def test_a_literal_is_the_text(name):
    assert ast.literal_eval(literal(name)) == name and literal(name).isprintable()
    assert literal(name).startswith('"') and literal("it's") == '"it\'s"'


def test_every_literal_docstring_and_identifier():
    for name in ODD_NAMES:
        assert ast.literal_eval(literal(name)) == name
        assert ast.literal_eval(f'"""{in_docstring(name)}."""') == f"{in_docstring(name)}."
    found = identifiers([sp.Symbol(name) for name in ODD_NAMES if len(name) < 300])
    assert all(is_identifier(s.name) for s in found.values()) and len(set(found.values())) == len(found)


def names_as_states_and_parameters(names):
    """Σ k sₖ over states sₖ named so, and Σ k (sₖ + pₖ) with the same names for the parameters."""
    states = [sp.Symbol(f"s{i}_") for i in range(len(names))]
    odd = [sp.Symbol(name) for name in names]

    def terms(symbols):
        return sp.Add(*[(k + 1) * s for k, s in enumerate(symbols)])

    return (
        Function([terms(odd)], odd, name=names[0]),
        Function([terms(states) + terms(odd)], states, dict.fromkeys(odd, 2.0), name=names[-1]),
    )


@pytest.mark.parametrize("names", chunks(), ids=range(len(chunks())))
def test_saved_files_of_every_backend(names, tmp_path):
    y = np.linspace(1.0, 2.0, len(names))
    factors = np.arange(1, len(names) + 1)
    as_states, as_parameters = names_as_states_and_parameters(names)
    for backend in BACKENDS:
        for i, (function, expected) in enumerate([(as_states, factors @ y), (as_parameters, factors @ (y + 2))]):
            if backend == "torch" and any("." in name for name in function.parameters):
                with pytest.raises(ValueError, match="dot in them"):
                    function.save(tmp_path / "refused.py", backend)
                dots = [name for name in names if "." not in name]
                function, expected = names_as_states_and_parameters(dots)[1], None
            path = function.save(tmp_path / f"{backend}_{i}.py", backend)
            text = path.read_text(encoding="utf-8")
            assert all(c.isprintable() or c == "\n" or ord(c) < 128 for c in text)
            if backend == "jax":  # the same text as for NumPy, by another module
                ast.parse(text)
                continue
            module = imported(path)
            point = np.linspace(1.0, 2.0, function.n_states)
            found = module.function.residual(point if backend == "numpy" else torch.tensor(point))
            expected = np.arange(1, len(point) + 1) @ (point + 2) if expected is None else expected
            np.testing.assert_allclose(np.asarray(found), [expected], rtol=1e-12)
            assert list(module.function.state_names) == [s.name for s in function.coordinates]


def imported(path):
    spec = importlib.util.spec_from_file_location("saved_odd", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("names", chunks(), ids=range(len(chunks())))
def test_vector_functions(names):
    """What systems generate: names of states and of parameters, single points and batches."""
    y = np.linspace(1.0, 2.0, len(names))
    factors = np.arange(1, len(names) + 1)
    states, odd = [sp.Symbol(f"s{i}_") for i in range(len(names))], [sp.Symbol(name) for name in names]
    as_states = VectorFunction(
        [sp.Add(*[k * x**2 for k, x in zip(factors, odd, strict=True)])], {"y": odd}, name=names[0]
    )
    expression = sp.Add(*[k * x * p for k, x, p in zip(factors, states, odd, strict=True)])
    as_parameters = VectorFunction([expression], {"y": states}, None, dict.fromkeys(odd, 2.0), names[-1])
    for function, expected in [(as_states, factors @ y**2), (as_parameters, 2 * factors @ y)]:
        ast.parse(function.source(["y"]))
        np.testing.assert_allclose(function.numpy()(y), [expected])
        np.testing.assert_allclose(function.numpy()(np.stack([y, y])), [[expected]] * 2)
        np.testing.assert_allclose(function.torch()(torch.tensor(y)), [expected])
    given = {name: float(k) for k, name in enumerate(names)}
    expected = factors @ (y * np.arange(len(names)))
    np.testing.assert_allclose(as_parameters.numpy()(y, parameters=given), [expected])


@pytest.mark.parametrize("names", chunks(120), ids=range(len(chunks(120))))
def test_systems(names):
    """x' = k p, 0 = z² - x² over names of states, parameters and definitions in turn."""
    roles = [[sp.Symbol(name) for name in names[i::3] if not is_rate_of(name, names)] for i in range(3)]
    x, p, d = (role[: min(map(len, roles))] for role in roles)
    z = [sp.Symbol(f"z{i}_") for i in range(len(x))]
    system = System(
        [dot(a) - (k + 1) * c for k, (a, c) in enumerate(zip(x, d, strict=True))]
        + [b - 3 * a for a, b in zip(x, z, strict=True)],
        [*x, *z],
        dict.fromkeys(p, 2.0),
        definitions={c: 5 * b for b, c in zip(p, d, strict=True)},
        invariants={names[0]: x[0] * p[0]},
        name=names[-1],
    )
    f = system.reduce().numpy()
    y = np.linspace(1.0, 2.0, f.n_y)
    w, found = f.solve_leading(y)
    by_name = dict(zip((s.name for s in system.reduce().w), w, strict=True))
    assert found
    for k, (a, b) in enumerate(zip(x, z, strict=True)):
        assert by_name[dot(a).name] == pytest.approx(10.0 * (k + 1))
        place = [s.name for s in system.reduce().y].index(a.name)
        assert by_name[b.name] == pytest.approx(3 * y[place])
    ast.parse(f.leading_source())
    assert system.describe() and system.reduce().describe()


def is_rate_of(name, names):
    return name.endswith("_dot") and name[:-4] in names


def test_names_of_constraints_systems_time_and_input_vectors(tmp_path):
    x, y = sp.symbols("x y")
    for i, name in enumerate(ODD_NAMES):
        if not name.strip():
            with pytest.raises(ValueError, match="non-empty"):
                Function([x - y], [x, y], name=name)
            continue
        function = VectorFunction([x * sp.Symbol("k")], {"y": [x]}, None, {sp.Symbol("k"): 3.0}, name=name)
        assert function.numpy()(np.array([2.0])) == [6.0]
        if i % 10 == 0 or len(name) > 200:
            function = Function([x - y], [x, y], name=name)
            assert imported(function.save(tmp_path / f"f{i}.py", "numpy")).function.name == name
        try:
            function = VectorFunction([x * 2], {name: [x]}, name="f")
        except ValueError as error:
            assert "identifier" in str(error)
        else:
            assert is_identifier(name) and function.numpy()(np.array([2.0])) == [4.0]
    for name in accepted()[::20]:
        time = sp.Symbol(name)
        function = Function([x - 3 * time], [x], time=time)
        assert imported(function.save(tmp_path / "timed.py", "numpy")).function.residual(np.ones(1), 2.0) == [-5.0]


def test_names_of_the_leading_function_own_variables():
    """Newton's guesses and shifts have symbols of their own, whatever the states are called."""
    names = ["guess_0", "guess_1", "shift_0", "shift_1", "z", "outer", "s0", "values", "newton"]
    states = [sp.Symbol(name) for name in names]
    equations = [s + sp.sin(s) / 2 + sp.cos(states[i - 1]) / 4 - (i + 1) * t for i, s in enumerate(states)]
    function = System(equations, states, time=t).reduce().numpy()
    plain = sp.symbols(f"plain:{len(names)}")
    other = System([e.xreplace(dict(zip(states, plain, strict=True))) for e in equations], plain, time=t)
    w, found = function.solve_leading(np.zeros(0), t=0.7)
    expected, _ = other.reduce().numpy().solve_leading(np.zeros(0), t=0.7)
    assert found
    np.testing.assert_allclose(w, expected, rtol=1e-12)
    shift = np.linspace(0.0, 0.3, len(names))
    shifted, _ = function.solve_leading(np.zeros(0), t=0.7, shift=shift)
    residual = function.leading_system(np.zeros(0), shifted, t=0.7) + shift
    assert np.abs(residual).max() < 1e-12


def test_symbols_named_as_those_of_a_tape():
    """The index of a nonlinear system does not depend on how its states are called."""

    def index(names):
        x, y, z = (sp.Symbol(name) for name in names)
        rows = [dot(y) + dot(z) + x - sp.sin(t), dot(y) + dot(z) + y**3 - sp.cos(t), z + z**3 - sp.sin(t) / 2]
        return System(rows, [x, y, z], time=t).index

    assert index(["1'", "0'", "2'"]) == index(["x", "y", "z"]) == 1


def test_learned_names_that_torch_has_for_itself():
    x, y = sp.symbols("x y")
    for name in ("items", "keys", "values", "training", "a.b"):
        p = sp.Symbol(name)
        with pytest.raises(ValueError, match="rename"):
            Constraint([x * p - y], [x, y], {p: 2.0}).torch(learn=[name])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_name_alone(backend, tmp_path):
    x, p = sp.symbols("x p")
    for name in accepted():
        s = sp.Symbol(name)
        if s in (x, p):
            continue
        for states, given in (
            ([s, x], {"parameters": {p: 3.0}}),
            ([p, x], {"parameters": {s: 3.0}}),
            ([p, x], {"time": s}),
        ):
            function = Function([2 * s * p - x], states, name=name, **given)
            if backend == "torch" and "." in name and function.parameters:
                continue
            function = imported(function.save(tmp_path / "one.py", backend)).function
            y = np.array([5.0, 1.0])
            found = function.residual(torch.tensor(y) if backend == "torch" else y, 3.0)
            np.testing.assert_allclose(np.asarray(found), [29.0], rtol=1e-6)
