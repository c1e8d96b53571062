"""DAE systems as they are written: every form gives the equations that it says, every mistake a message."""

import math

import pytest
import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.systems.system import System

t, x, y, z, u, v, k = sp.symbols("t x y z u v k")
m, g, length = sp.symbols("m g length", positive=True)
X, Y = sp.Function("X")(t), sp.Function("Y")(t)
mechanical = System.mechanical


def same(equations, expected):
    assert len(equations) == len(expected)
    assert [sp.simplify(a - b) for a, b in zip(equations, expected, strict=True)] == [0] * len(expected)


# -- derivatives -----------------------------------------------------------------------------------------------------


def test_derivatives_of_states():
    assert dot(x) == sp.Symbol("x_dot") and dot(x, 3) == dot(dot(dot(x)))
    assert dot(sp.Symbol("a", positive=True)).is_real and dot(sp.Symbol("a", positive=True)).is_positive is None
    assert dot(X) == X.diff(t) and dot(X, 2) == X.diff(t, t)
    for order in (0, -1, True, 1.0):
        with pytest.raises(ValueError, match="whole number of derivatives, at least 1"):
            dot(x, order)
    for expression in (sp.Matrix([x]), "x", 3):
        with pytest.raises(ValueError, match="expected a state, or one expression"):
            dot(expression)


def test_which_derivative_a_symbol_is():
    system = System([dot(x, 2) - z, z - sp.sin(t)], [x, z], time=t)
    assert system.derivative_of(x) == (x, 0) and system.derivative_of(dot(x, 2)) == (x, 2)
    assert system.derivative_of(t) is None and system.derivative_of(sp.Symbol("x_dot", real=True)) is None
    assert [system.is_algebraic(i) for i in (0, 1)] == [False, True]


# -- plain equations -------------------------------------------------------------------------------------------------


def test_functions_of_time_are_symbols_afterwards():
    system = System([X.diff(t, 2) + k * Y * X.diff(t), sp.Eq(X**2, Y + sp.cos(t))], [X, Y], {k: 2})
    a, b = system.states
    assert (a.name, b.name, system.time) == ("X", "Y", t)
    same(system.equations, [dot(a, 2) + k * b * dot(a), a**2 - b - sp.cos(t)])


def test_derivatives_of_expressions_over_functions_are_carried_out():
    system = System([sp.Derivative(X * Y, t) - 1, Y - t], [X, Y])
    a, b = system.states
    same(system.equations, [a * dot(b) + b * dot(a) - 1, b - t])


def test_equations_one_by_one_as_eq_or_as_matrix():
    same(System(sp.Eq(dot(x), -x), x).equations, [dot(x) + x])
    same(System(sp.Matrix([dot(x) + y, y - 1]), sp.Matrix([x, y])).equations, [dot(x) + y, y - 1])


def test_parameters_and_inputs():
    drive = sp.Symbol("drive")
    equations, definitions = [dot(x) + k * x - drive, y - x * g], {drive: sp.sin(3 * t)}
    system = System(equations, [x, y], {k: 2, g: None}, t, definitions=definitions, name="driven")
    assert system.parameters == {k: 2.0, g: None} and isinstance(system.parameters[k], float)
    same(system.equations, [dot(x) + k * x - sp.sin(3 * t), y - x * g])
    assert System([dot(x) - k], x, [k]).parameters == {k: None}


def test_definitions_are_put_in_in_order():
    a, b = sp.symbols("a b")
    system = System([dot(x) - a - b], [x], definitions={a: x**2, b: a + 1}, invariants={"twice": 2 * b})
    same(system.equations, [dot(x) - 2 * x**2 - 1])
    same([system.invariants["twice"]], [2 * x**2 + 2])
    with pytest.raises(ValueError, match="'a' is not declared"):
        System([dot(x) - a - b], [x], definitions={b: a + 1, a: x**2})


def test_corners_become_piecewise():
    system = System([dot(x) - sp.Abs(y), y - sp.Max(x, 0)], [x, y])
    assert not any(e.has(sp.Abs, sp.Max) for e in system.equations)
    for value in (-1.5, 2.5):
        at = {x: value, y: value, dot(x): 0}
        assert [float(e.subs(at)) for e in system.equations] == [-abs(value), value - max(value, 0)]


def test_describe_and_repr():
    system = System([dot(x) - y, k * x + y], [x, y], {k: 3}, invariants={"sum": x + k}, name="two")
    text = system.describe()
    for part in ("two: 2 equations, 2 states", f"0 = {dot(x) - y}", "states: x, y", "k = 3.0", "invariant sum: k + x"):
        assert part in text
    assert repr(system) == "System('two', n_equations=2, n_states=2, parameters=['k'])"


# -- semi-explicit and linearly implicit -----------------------------------------------------------------------------


def test_semi_explicit():
    system = System.semi_explicit({x: z - x, y: -x}, [x + y + z - sp.sin(t)], [z], time=t, name="semi")
    assert system.states == (x, y, z) and system.name == "semi"
    same(system.equations, [dot(x) - z + x, dot(y) + x, x + y + z - sp.sin(t)])
    same(System.semi_explicit({X: -X}).equations, [sp.Symbol("X_dot", real=True) + sp.Symbol("X", real=True)])
    assert System.semi_explicit({x: z}, z - x, z).states == (x, z)
    assert System.semi_explicit({x: z}, z - x, z).index == 1
    with pytest.raises(ValueError, match="expected a mapping from each differential state to its rate"):
        System.semi_explicit([x], [y])


def test_linearly_implicit():
    constant = System.linearly_implicit([[1, -1], [-1, 1]], [y - x, sp.sin(t) - y], [x, y], time=t)
    same(constant.equations, [dot(x) - dot(y) - y + x, dot(y) - dot(x) - sp.sin(t) + y])
    assert constant.index == 1
    moving = System.linearly_implicit(sp.Matrix([[x, y], [0, 0]]), [0, x**2 - y - k], [x, y], {k: 1.0})
    same(moving.equations, [x * dot(x) + y * dot(y), -(x**2) + y + k])
    with pytest.raises(ValueError, match=r"mass matrix of shape \(1, 2\) for 1 right-hand sides and 1 states"):
        System.linearly_implicit([[1, 0]], [x], [x])


# -- mechanical ------------------------------------------------------------------------------------------------------


def test_mechanical_with_masses_force_and_potential():
    circle = x**2 + y**2 - length**2
    system = mechanical([x, y], [u, v], mass=m, force=[-k * u, 0], potential=m * g * y, holonomic=circle,
                        parameters={m: 1, g: 9.81, length: 1, k: 0.1}, name="damped")  # fmt: skip
    lam = system.states[-1]
    assert [s.name for s in system.states] == ["x", "y", "u", "v", "lam0"]
    expected = [dot(x) - u, dot(y) - v, m * dot(u) + k * u + 2 * x * lam, m * dot(v) + m * g + 2 * y * lam, circle]
    same(system.equations, expected)
    assert system.invariants == {} and system.index == 3


def test_mechanical_with_one_mass_each_and_with_a_matrix():
    a, b = sp.symbols("a b")
    separate = mechanical([x, y], [u, v], mass=[a, b], potential=x * y, parameters={a: 1, b: 2})
    same(separate.equations[2:], [a * dot(u) + y, b * dot(v) + x])
    same([separate.invariants["energy"]], [a * u**2 / 2 + b * v**2 / 2 + x * y])
    for matrix in ([[a, b * x], [b * x, a]], sp.Matrix([[a, b * x], [b * x, a]])):
        full = mechanical([x, y], [u, v], mass=matrix, force=[0, -g], parameters={a: 1, b: 2, g: 9.81})
        same(full.equations[2:], [a * dot(u) + b * x * dot(v), b * x * dot(u) + a * dot(v) + g])
    # Whether forces make up for the change of the mass is the user's business, so no energy is claimed.
    assert mechanical([x, y], [u, v], mass=[1 + x**2, 1]).invariants == {}
    assert mechanical([x, y], [u, v], mass=[1 + u**2, 1], potential=x).invariants == {}
    assert mechanical([x, y], [u, v], mass=[[2, 1], [0, 2]], potential=x).invariants == {}


def test_mechanical_from_a_lagrangian():
    angle, rate, r = sp.symbols("angle rate r")
    kinetic = m * (u**2 + r**2 * rate**2) / 2
    system = mechanical([r, angle], [u, rate], lagrangian=kinetic + m * g * r * sp.cos(angle), holonomic=[r - length],
                        parameters={m: 1, g: 9.81, length: 1}, multipliers=["tension"])  # fmt: skip
    tension = system.states[-1]
    assert tension.name == "tension"
    radial = m * dot(u) - m * r * rate**2 - m * g * sp.cos(angle) + tension
    turning = m * r**2 * dot(rate) + 2 * m * r * u * rate + m * g * r * sp.sin(angle)
    same(system.equations, [dot(r) - u, dot(angle) - rate, radial, turning, r - length])
    same([system.invariants["energy"]], [kinetic - m * g * r * sp.cos(angle)])
    # On a circle the equation of the mathematical pendulum is left.
    same([turning.subs({r: length, u: 0}) / (m * length)], [length * m * dot(rate) / m + g * sp.sin(angle)])


def test_the_energy_is_conserved_by_the_equations():
    system = mechanical([x, y], [u, v], lagrangian=m * (u**2 + 2 * y * u * v + (1 + y**2) * v**2) / 2 - k * x**2 * y,
                        parameters={m: 1, k: 3})  # fmt: skip
    rates = sp.solve(system.equations, [dot(x), dot(y), dot(u), dot(v)], dict=True)[0]
    energy = system.invariants["energy"]
    change = sum(energy.diff(s) * rates[dot(s)] for s in (x, y, u, v))
    assert sp.simplify(change) == 0 and energy.has(u, v)


def test_corners_are_differentiated_branch_by_branch():
    """x without assumptions: SymPy would write d|x|/dx by its real and imaginary part."""
    system = mechanical([x], [u], lagrangian=u**2 / 2 - sp.Abs(x))
    assert [system.equations[1].subs({x: s, dot(u): 0}) for s in (-2, 3)] == [-1, 1]


def test_a_lagrangian_that_moves_in_time_has_no_energy():
    system = mechanical([x], [u], lagrangian=(u + sp.cos(t)) ** 2 / 2 - k * x**2 / 2, parameters={k: 1}, time=t)
    same(system.equations, [dot(x) - u, dot(u) - sp.sin(t) + k * x])
    assert system.invariants == {}
    assert mechanical([x, y], [u, v], mass=1, holonomic=[x - sp.sin(t)], time=t).invariants == {}


def test_velocity_constraints():
    angle, spin = sp.symbols("angle spin")
    skate = u * sp.sin(angle) - v * sp.cos(angle)
    system = mechanical([x, y, angle], [u, v, spin], mass=[m, m, k], holonomic=[x - y], velocity_constraints=[skate],
                        parameters={m: 1, k: 1})  # fmt: skip
    lam, mu = system.states[-2:]
    assert (lam.name, mu.name) == ("lam0", "mu0")
    expected = [m * dot(u) + lam + mu * sp.sin(angle), m * dot(v) - lam - mu * sp.cos(angle), k * dot(spin)]
    same(system.equations[3:], [*expected, x - y, skate])
    assert "energy" in system.invariants
    # A constraint that drives, A v + b with b ≠ 0, does work.
    assert mechanical([x], [u], mass=1, velocity_constraints=[u - 1]).invariants == {}


# -- refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "no name": (lambda: System([dot(x)], x, name=" "), "expected a non-empty text"),
    "no equations": (lambda: System([], x), "no expressions: give at least one"),
    "no states": (lambda: System([dot(x)], []), "no states: give at least one"),
    "text as state": (lambda: System([dot(x)], ["x"]), "state 'x': expected a SymPy symbol, or a function of time"),
    "text as equation": (lambda: System(["x"], x), r"text \('x'\)"),
    "truth value": (lambda: System([True], x), "not a scalar SymPy expression"),
    "text as time": (lambda: System([dot(x)], x, time="t"), "time='t': expected a SymPy symbol"),
    "another time": (lambda: System([X], [X], time=k), r"state X\(t\) is no function of the time k"),
    "two times": (lambda: System([X], [X, sp.Function("Y")(k)]), r"state Y\(k\) is no function of the time t"),
    "undeclared": (lambda: System([dot(x) - y], x), r"equation 0 \(x_dot - y\): the symbol 'y' is not declared"),
    "undeclared input": (lambda: System([X.diff(t) - Y], [X]), r"function Y\(t\) is not declared: .* input"),
    "another x": (lambda: System([dot(x) - sp.Symbol("x", real=True)], x), "'x' is not the one declared"),
    "another x_dot": (lambda: System([sp.Symbol("x_dot", real=True)], x), r"derivatives by dot\(x\)"),
    "twice a state": (lambda: System([dot(x)], [x, x]), "'x' is declared twice"),
    "state and parameter": (lambda: System([dot(x)], [x], [x]), "as state and as parameter"),
    "state and definition": (lambda: System([dot(x)], x, definitions={x: y}), "as state and as definition"),
    "parameter x_dot": (lambda: System([dot(x)], x, [dot(x)]), "name of a derivative of the state 'x'"),
    "state x_dot": (lambda: System([dot(x)], [x, dot(x)]), "name of a derivative of the state 'x'"),
    "text as parameter": (lambda: System([dot(x)], x, {"k": 1}), "parameter 'k': expected a SymPy symbol as key"),
    "value is text": (lambda: System([dot(x)], x, {k: "a"}), "parameter k is 'a': expected a number, or None"),
    "infinite value": (lambda: System([dot(x)], x, {k: math.inf}), "k is inf: expected a finite number"),
    "text as definition": (lambda: System([dot(x)], x, definitions={"k": x}), "definition 'k': expected a SymPy"),
    "rate as invariant": (lambda: System([dot(x)], x, invariants={"e": dot(x)}), "contains the derivative x_dot"),
    "undeclared invariant": (lambda: System([dot(x)], x, invariants={"e": y}), "invariant 'e': the symbol 'y'"),
    "text as invariant": (lambda: System([dot(x)], x, invariants={"e": "x"}), "invariant 'e': .* is text"),
    "a jump": (lambda: System([dot(x) - sp.floor(x)], x), r"floor\(x\) jumps when the states say so"),
    "a rare function": (lambda: System([dot(x) - sp.gamma(x)], x), "unsupported gamma"),
    "imaginary": (lambda: System([dot(x) - sp.I * x], x), "imaginary unit"),
    "infinity": (lambda: System([dot(x) - sp.oo], x), "only finite numbers"),
    "expression as a state": (lambda: System.semi_explicit({x**2: x}), r"state x\*\*2: expected a SymPy symbol"),
    "one velocity": (lambda: mechanical([x, y], [u], mass=1), "2 coordinates q and 1 velocities v"),
    "no coordinates": (lambda: mechanical([], [], mass=1), "q is empty"),
    "expression as q": (lambda: mechanical(x**2, [u], mass=1), r"q contains x\*\*2: expected SymPy symbols"),
    "function as q": (lambda: mechanical([X], [u], mass=1), r"q contains X\(t\): expected SymPy symbols"),
    "no mass": (lambda: mechanical([x], [u]), "give mass= .* or lagrangian="),
    "two masses": (lambda: mechanical([x], [u], mass=[1, 2]), r"expected one number, 1 of them, or a matrix \(1, 1\)"),
    "ragged mass": (lambda: mechanical([x, y], [u, v], mass=[[1, 0], [0]]), r"a matrix \(2, 2\)"),
    "a column": (lambda: mechanical([x, y], [u, v], mass=sp.Matrix([1, 2])), r"a matrix \(2, 2\)"),
    "one force": (lambda: mechanical([x, y], [u, v], mass=1, force=[1]), "force has 1 entries: expected 2"),
    "both": (lambda: mechanical([x], [u], mass=1, lagrangian=u**2), "a Lagrangian holds mass and potential already"),
    "velocity in c": (lambda: mechanical([x], [u], mass=1, holonomic=[u]), r"constraint 0 \(u\) contains velocities"),
    "no velocity": (lambda: mechanical([x], [u], mass=1, velocity_constraints=[x]), "list it as holonomic"),
    "quadratic": (lambda: mechanical([x], [u], mass=1, velocity_constraints=[u**2 - 1]), "must be linear in v"),
    "rates in L": (lambda: mechanical([x], [u], lagrangian=dot(x) ** 2 / 2 + u**2), "lagrangian contains x_dot: write"),
    "rates in c": (lambda: mechanical([x], [u], mass=1, holonomic=[x * dot(x)]), "contains x_dot: write velocities by"),
    "text as L": (lambda: mechanical([x], [u], lagrangian="u**2"), "system: lagrangian: expected a list of SymPy"),
    "velocity in V": (lambda: mechanical([x], [u], mass=1, potential=x * u), "potential u.x contains velocities"),
    "text as mass": (lambda: mechanical([x], [u], mass="m"), "mass='m' is text"),
    "forces by name": (lambda: mechanical([x], [u], mass=1, force={x: 1}), "force: expected a list of SymPy"),
    "number as name": (lambda: mechanical([x], [u], mass=1, holonomic=[x], multipliers=[3]), "multiplier 3: expected"),
    "states None": (lambda: System([x], None), "states=None: expected a list of SymPy symbols"),
    "rate of k": (lambda: System([dot(x) - dot(k)], x, {k: 1}), "the derivative k_dot of k, a parameter, which is"),
    "k of t": (lambda: System([dot(x)], x, {Y: 1}), r"Y\(t\): parameters are constant; write an input as an"),
    "imaginary state": (lambda: System([x], sp.Symbol("q", imaginary=True)), "'q' is declared not to be real"),
    "a huge number": (lambda: System([x - 10**400], x), r"contains -?1000.*\.\.\. \(40\d characters\), which is no"),
    "names": (lambda: mechanical([x], [u], mass=1, holonomic=[x], multipliers=["a", "b"]), "2 multipliers named for 1"),
    "name in use": (lambda: mechanical([x], [u], mass=1, holonomic=[x], multipliers=["x"]), "'x' is declared twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()
