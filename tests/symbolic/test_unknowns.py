"""Functions that nobody knows in the equations of a System: written, reduced, given, and solved as if written out."""

import numpy as np
import pytest
import sympy as sp

import ndae
from ndae import dot

t = sp.Symbol("t", real=True)
TS = np.linspace(0.0, 1.5, 4)


def compared(equations, formulas, functions, states, start=None):
    """Largest difference of what is generated for a system with its functions given and with them written out.

    Leading unknowns, hidden constraints and their derivatives, at random points, in NumPy (points and batches), JAX and
    torch.
    """
    import jax
    import torch

    unknown = ndae.System(equations, states, time=t)
    known = unknown.given(formulas)
    written = ndae.System(known.equations, states, time=t)  # anew, and reduced anew
    assert unknown.index == written.index
    exact, found = (s.reduce() for s in (written, unknown.given(functions)))
    assert found.y == exact.y and found.w == exact.w
    y = np.random.default_rng(0).uniform(0.2, 0.9, (3, len(exact.y)))
    guess = np.zeros((3, len(exact.w)))

    def results(functions, y, guess, xp):
        w, good = functions.solve_leading(y, 0.0, guess=guess)
        assert bool(good.all())
        assert bool((functions.leading_error(y, w, 0.0) < 1e-12).all())
        parts = [w, functions.leading_jacobian(y, w, 0.0, by="y")]
        if exact.constraints:
            parts += [functions.constraints(y, 0.0), functions.constraints_jacobian(y, 0.0)]
        return [np.asarray(p.detach() if hasattr(p, "detach") else p) for p in parts]

    want = results(exact.numpy(), y, guess, np)
    errors = []
    points = [results(found.numpy(), *p, np) for p in zip(y, guess, strict=True)]
    with jax.enable_x64(True):
        got = [
            results(found.numpy(), y, guess, np),
            [np.stack(rows) for rows in zip(*points, strict=True)],
            results(found.torch(), torch.as_tensor(y), torch.as_tensor(guess), torch),
            results(found.jax(), y, guess, jax.numpy),
        ]
    for parts in got:
        errors += [np.abs(a - b).max(initial=0.0) for a, b in zip(parts, want, strict=True)]
    return errors


def test_it_is_written_as_in_mathematics():
    """Applications differentiate by the chain rule, print as functions and are told apart by name and outputs."""
    r, F = ndae.unknown("r"), ndae.unknown("F", outputs=2)
    x, y = sp.symbols("x y")
    assert r(x) == ndae.unknown("r")(x) and r(x) != r(y)
    assert str(r(x**2).diff(x)) == "2*x*r'(x**2)"
    assert str(r(x, y).diff(y).diff(x)) == "r_01(x, y)"
    assert F(x, y).shape == (2, 1) and str(F(x, y)[1]) == "F1(x, y)"
    assert sp.latex(r(x).diff(x)) == r"r'\left(x\right)"


@pytest.mark.parametrize("name", ["", "a b", 3])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="unknown"):
        ndae.unknown(name, outputs=0 if name == "a b" else 1)


def test_in_a_differential_row():
    x, y, r = sp.Symbol("x"), sp.Symbol("y"), ndae.unknown("r")
    errors = compared(
        [dot(x) + r(x, y), dot(y) - r(x, y) + y], {r: sp.Lambda((x, y), x**2 / (1 + y))},
        {r: lambda x, y: x**2 / (1 + y)}, [x, y],
    )  # fmt: skip
    assert max(errors) < 1e-12


def test_in_a_constraint_that_is_differentiated_once():
    h1, h2, q = sp.symbols("h1 h2 q")
    V, F = ndae.unknown("V"), ndae.unknown("F")
    errors = compared(
        [dot(h1) + q - 1, dot(h2) - q + F(h2), h1 - V(h1) - h2],
        {V: sp.Lambda(h1, h1**2 / 10), F: sp.Lambda(h2, sp.sqrt(h2) / 2)},
        {V: lambda h: h**2 / 10, F: lambda h: np.sqrt(h) / 2}, [h1, h2, q],
    )  # fmt: skip
    assert max(errors) < 1e-12


def test_in_a_constraint_that_is_differentiated_twice():
    """A track z = f(x, y): first and second derivatives by automatic differentiation."""
    x, y, z, u, v, w, lam = sp.symbols("x y z u v w lam")
    f = ndae.unknown("f")
    track = f(x, y)
    equations = [dot(x) - u, dot(y) - v, dot(z) - w, dot(u) - lam * track.diff(x), dot(v) - lam * track.diff(y)]
    equations += [dot(w) + 9.81 + lam, z - track]
    errors = compared(
        equations, {f: sp.Lambda((x, y), sp.cos(x) * sp.exp(y / 2))}, {f: lambda x, y: np.cos(x) * np.exp(y / 2)},
        [x, y, z, u, v, w, lam],
    )  # fmt: skip
    assert max(errors) < 1e-11


def test_of_an_algebraic_variable():
    """Newton's iteration in the block uses the derivative of what is given."""
    x, i, u, D = sp.Symbol("x"), sp.Symbol("i"), sp.Symbol("u"), ndae.unknown("D")
    errors = compared(
        [dot(x) + x - i, i - D(u), u + x - 2 + i], {D: sp.Lambda(u, (sp.exp(u) - 1) / 10)},
        {D: lambda u: (np.exp(u) - 1) / 10}, [x, i, u],
    )  # fmt: skip
    assert max(errors) < 1e-12


def test_it_is_solved_as_if_it_were_written_out():
    """By this project's own, torchdiffeq and IDA, with a law in a constraint and one of a differential row."""
    h1, h2, q = sp.symbols("h1 h2 q")
    V, F = ndae.unknown("V"), ndae.unknown("F")
    system = ndae.System([dot(h1) + q - 1, dot(h2) - q + F(h2), h1 - V(h1) - h2], [h1, h2, q], time=t)
    functions = {V: lambda h: h**2 / 10, F: lambda h: np.sqrt(h) / 2}
    written = ndae.System([dot(h1) + q - 1, dot(h2) - q + sp.sqrt(h2) / 2, h1 - h1**2 / 10 - h2], [h1, h2, q], time=t)
    start = ndae.consistent_initial_condition(system, {"h1": 1.0}, functions=functions)
    exact = ndae.solve(written, start, TS)
    errors = {
        by: np.abs(ndae.solve(system, start, TS, functions=functions, by=by).x - exact.x).max()
        for by in ("dopri8", "torch", "ida")
    }
    assert errors["dopri8"] < 1e-10 and errors["torch"] < 1e-9 and errors["ida"] < 1e-5


def test_several_outputs_several_places_and_one_in_another():
    """r(c1), r(c2) in one call, F with two outputs, and r(s(x))."""
    a, b = sp.symbols("a b")
    r, s, F = ndae.unknown("r"), ndae.unknown("s"), ndae.unknown("F", outputs=2)
    both = F(a, b)
    equations = [dot(a) + r(a) + r(s(b)) - both[0], dot(b) + r(b) - both[1]]
    system = ndae.System(equations, [a, b], time=t)
    source = system.reduce().numpy().leading_source()
    assert source.count("unknown_r(") == 2 and source.count("unknown_F(") == 1
    errors = compared(
        equations,
        {r: sp.Lambda(a, sp.sin(a)), s: sp.Lambda(a, a**2), F: sp.Lambda((a, b), sp.Tuple(a * b, a - b))},
        {r: np.sin, s: lambda a: a**2, F: lambda a, b: (a * b, a - b)}, [a, b],
    )  # fmt: skip
    assert max(errors) < 1e-12


def test_many_places_are_called_level_by_level():
    """Code that is too long for straight lines calls the function at all places of a level at once."""
    n = 40
    x, r = sp.symbols(f"x0:{n}"), ndae.unknown("r")
    equations = [dot(a) + r(a) - r(b) + sp.sin(a) * sp.cos(b) for a, b in zip(x, (*x[1:], x[0]), strict=True)]
    system = ndae.System(equations, x, time=t).given({r: lambda a: a**3})
    y = np.linspace(0.1, 1.0, 2 * n).reshape(2, n)
    want = -(y**3) + np.roll(y, -1, 1) ** 3 - np.sin(y) * np.cos(np.roll(y, -1, 1))
    import torch

    reduced = system.reduce()
    found = reduced.numpy().solve_leading(y, 0.0)[0], reduced.torch().solve_leading(torch.as_tensor(y), 0.0)[0].numpy()
    for w in found:
        assert np.allclose(w, want, atol=1e-13)


def test_what_is_given_may_be_a_table_or_a_function_of_any_library():
    import jax.numpy as jnp
    import torch

    x, u, r = sp.Symbol("x"), ndae.unknown("u"), ndae.unknown("r")
    system = ndae.System([dot(x) + r(x) - u(t)], [x], time=t)
    grid = np.linspace(0, 2, 9)
    table = ndae.table(grid, grid**3, kind="cubic")
    written = ndae.System([dot(x) + sp.tanh(x) - t**3], [x], time=t)
    exact = ndae.solve(written, {"x": 0.5}, TS)
    for tanh in (np.tanh, jnp.tanh, torch.tanh):
        found = ndae.solve(system, {"x": 0.5}, TS, functions={r: tanh, u: table}, by="torch")
        assert np.abs(found.x - exact.x).max() < 1e-9


def test_a_jax_function_has_derivatives_in_torch():
    import jax.numpy as jnp
    import torch

    x, y, q = sp.symbols("x y q")
    V = ndae.unknown("V")
    system = ndae.System([dot(x) + q, dot(y) - q, y - V(x)], [x, y, q], time=t).given({V: lambda x: jnp.sin(x)})
    w, _ = system.reduce().torch().solve_leading(torch.tensor([0.5, np.sin(0.5)], requires_grad=True), 0.0)
    assert np.allclose(w.detach().numpy(), [0.0, 0.0, 0.0])


def test_what_is_wrong_is_named():
    x, y = sp.symbols("x y")
    r = ndae.unknown("r")
    system = ndae.System([dot(x) + r(x)], [x], time=t)
    for wrong in (
        lambda: ndae.solve(system, {"x": 1.0}, TS),
        lambda: system.given({"s": lambda x: x}),
        lambda: system.given({r: 3.0}),
        lambda: system.given({r: ndae.table([0, 1], [0, 1]), "r": lambda x: x}),
        lambda: ndae.System([dot(x) + r(x), dot(y) + r(x, y)], [x, y], time=t),
        lambda: ndae.System([dot(x) + ndae.unknown("x")(x)], [x], time=t),
        lambda: ndae.solve(system, {"x": 1.0}, TS, functions={r: lambda x: (x, x)}),
        lambda: r(),
        lambda: r([x, y]),
    ):
        with pytest.raises(ValueError, match=r"[rxs]"):
            wrong()
    assert "unknown functions" in system.describe() and "r(·)" in system.describe()


def test_a_constraint_over_points_refuses_it():
    x = sp.Symbol("x")
    with pytest.raises(ValueError, match="r"):
        ndae.Constraint([x - ndae.unknown("r")(x)], [x])


def test_compiled_once_whatever_the_function_is():
    x, r = sp.Symbol("x"), ndae.unknown("r")
    system = ndae.System([dot(x) + r(x)], [x], time=t)
    first, second = (system.given({r: f}).reduce() for f in (np.sin, np.cos))
    assert first.numpy()._known is second.numpy()._known
    assert first.base is second.base is system.reduce()


def test_flow_is_differentiable_by_the_weights_of_a_pytree():
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Linear(eqx.Module):
        slope: jax.Array

        def __call__(self, x):
            return self.slope * x

    x, r = sp.Symbol("x"), ndae.unknown("r")
    flow = ndae.flow(ndae.System([dot(x) + r(x)], [x], time=t))
    with jax.enable_x64(True):
        end = lambda k: flow({"x": 1.0}, TS, functions={r: Linear(k)}).x[-1, 0]  # noqa: E731
        value, slope = jax.value_and_grad(end)(jnp.asarray(0.7))
    assert np.allclose([value, slope], [np.exp(-1.05), -1.5 * np.exp(-1.05)], rtol=1e-9)


def test_functions_of_many_makers():
    """NumPy's own functions, polynomials, interpolation, a module of float32; what can't be differentiated says so."""
    import torch
    from scipy.interpolate import CubicSpline

    x, y, q, r = *sp.symbols("x y q"), ndae.unknown("r")
    system = ndae.System([dot(x) + q, dot(y) - q, y - r(x)], [x, y, q], time=t)  # r' is asked
    point = np.array([0.5, 0.5])
    for function, slope in (
        (np.sin, np.cos(0.5)),
        (np.poly1d([2, 0, 0]), 2.0),
        (lambda x: np.interp(x, [0, 1, 2], [0, 3, 4]), 3.0),
        (lambda x: np.where(x > 0, np.exp(x), 0.0), np.exp(0.5)),
        (torch.nn.Linear(1, 1), None),
    ):
        reduced = system.given({r: function}).reduce()
        slope = float(function.weight.detach()) if slope is None else slope
        jacobian = reduced.numpy().constraints_jacobian(point, 0.0)
        assert np.allclose(jacobian[0], [-slope, 1.0], rtol=1e-6)
    with pytest.raises(TypeError, match="table"):
        system.given({r: CubicSpline([0, 1, 2, 3], [0, 1, 2, 3])}).reduce().numpy().constraints_jacobian(point, 0.0)
    with pytest.raises(ValueError, match="1 number"):
        system.given({r: torch.nn.Linear(2, 1)}).reduce().numpy().constraints_jacobian(point, 0.0)


def test_a_check_of_jumps_uses_the_weights_of_now():
    """A constraint with an input that switches and a module: solved again after its weights were changed."""
    import torch

    x, y, q, r = *sp.symbols("x y q"), ndae.unknown("r")
    rising = ndae.table([0.0, 0.7, 2.0], [1.0, 1.0, 2.0])(t)
    system = ndae.System([dot(x) + q, dot(y) - q, y - r(x) * rising], [x, y, q], time=t)
    module = torch.nn.Linear(1, 1).double()
    known = system.given({r: module})
    for weight in (0.5, 2.0):
        with torch.no_grad():
            module.weight.fill_(weight)
            module.bias.fill_(0.1)
        written = ndae.System([dot(x) + q, dot(y) - q, y - (weight * x + 0.1) * rising], [x, y, q], time=t)
        start = ndae.consistent_initial_condition(written, {"x": 1.0})
        found, exact = (ndae.solve(s, start, TS) for s in (known, written))
        assert np.abs(found.x - exact.x).max() < 1e-9
