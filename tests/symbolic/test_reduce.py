"""Index reduction: index and hidden constraints of known systems, and refusals that name what is left over."""

from itertools import pairwise

import pytest
import sympy as sp

from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.reduction.graphs import StructureError
from ndae.symbolic.systems.system import System
from tests.counting import n_calls

t, x, y, z, u, v, w, lam, k = sp.symbols("t x y z u v w lam k")
g, length, m = sp.symbols("g length m")
a, b, c, d = sp.symbols("a b c d")
CIRCLE = x**2 + y**2 - length**2
EARTH = {g: 9.81, length: 2.0}


def proportional(found, expected):
    """Whether each expected constraint is a nonzero multiple of a found one, and none is left."""
    left = list(found)
    for e in expected:
        match = next((f for f in left if (ratio := sp.simplify(f / e)).is_number and ratio != 0), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def vanishes_on(expressions, system, solution):
    """Whether a known solution in t satisfies expressions over states and their derivatives."""
    table = {dot(s, n) if n else s: solution[s].diff(t, n) for s in system.states for n in range(7)}
    return all(sp.simplify(e.xreplace(table)) == 0 for e in expressions)


def freedom(reduced):
    """How many initial values may be chosen."""
    return len(reduced.y) - len(reduced.constraints)


# -- index 3: the pendulum, however it is written --------------------------------------------------------------------


def test_pendulum_as_five_equations():
    equations = [dot(x) - u, dot(y) - v, m * dot(u) + lam * x, m * dot(v) + lam * y + m * g, CIRCLE]
    reduced = System(equations, [x, y, u, v, lam], {**EARTH, m: 1.5}).reduce()
    assert reduced.index == 3
    assert [s.name for s in reduced.y] == ["x", "y", "u", "v"]
    assert [s.name for s in reduced.w] == ["u_dot", "v_dot", "lam"] and reduced.rates == (u, v, *reduced.w[:2])
    assert proportional(reduced.constraints, [CIRCLE, x * u + y * v])
    hidden = x * dot(u) + u**2 + y * dot(v) + v**2
    assert proportional(reduced.equations, [equations[2], equations[3], hidden])
    assert reduced.states == (x, y, u, v, lam) and reduced.state_rates == (u, v, dot(u), dot(v), None)
    assert reduced.levels["level 2"] == [(2, "leading", 2)] and reduced.origins[2] == (4,)


def test_pendulum_as_three_equations_of_second_order():
    equations = [m * dot(x, 2) + lam * x, m * dot(y, 2) + lam * y + m * g, CIRCLE]
    reduced = System(equations, [x, y, lam], {**EARTH, m: 1.5}).reduce()
    assert reduced.index == 3 and freedom(reduced) == 2
    assert proportional(reduced.constraints, [CIRCLE, x * dot(x) + y * dot(y)])


def test_pendulum_whose_velocities_have_a_factor():
    """2 x' = 2 u is as good an alias as x' = u; 3 u = x' is none that names a derivative."""
    tail = [dot(u) + lam * x, dot(v) + lam * y + g, CIRCLE]
    for first in ([2 * dot(x) - 2 * u, v - dot(y)], [dot(x) - 3 * u, dot(y) - 3 * v]):
        reduced = System(first + tail, [x, y, u, v, lam], EARTH).reduce()
        assert reduced.index == 3 and freedom(reduced) == 2
        assert any(sp.simplify(e / CIRCLE).is_number for e in reduced.constraints)


def test_pendulum_hidden_in_combinations():
    """The constraint stands in no equation alone: structure says index 1 until equations are combined."""
    A, B = dot(x, 2) + lam * x, dot(y, 2) + lam * y + g
    for equations in (
        [A + CIRCLE, B, A],
        [A + B + CIRCLE, A - B, 2 * A - 3 * CIRCLE],
        [A + t * CIRCLE, B + sp.sin(t) * A, A + (1 + t) * B + 2 * CIRCLE],
        [A + x * CIRCLE, B, A * sp.exp(y)],
    ):
        reduced = System(equations, [x, y, lam], EARTH, t).reduce()
        assert reduced.index == 3 and freedom(reduced) == 2
        ratio = sp.simplify(reduced.constraints[0] / CIRCLE)
        assert ratio != 0 and not ratio.free_symbols & {lam, dot(x, 2), dot(y, 2)}


# -- other mechanical systems ----------------------------------------------------------------------------------------


def test_car_axis():
    """Test set for IVP solvers: ten equations; the right wheel's and the axle's length are the constraints."""
    q, p = sp.symbols("xl yl xr yr"), sp.symbols("ul vl ur vr")
    xl, yl, xr, yr = q
    lam1, lam2, eps, M, L, L0, r, omega = sp.symbols("lam1 lam2 eps M L L0 r omega")
    yb = r * sp.sin(omega * t)
    xb = sp.sqrt(L**2 - yb**2)
    left, right = sp.sqrt(xl**2 + yl**2), sp.sqrt((xr - xb) ** 2 + (yr - yb) ** 2)
    force = [
        (L0 - left) * xl / left + lam1 * xb + 2 * lam2 * (xl - xr),
        (L0 - left) * yl / left + lam1 * yb + 2 * lam2 * (yl - yr) - M * eps**2 / 2,
        (L0 - right) * (xr - xb) / right - 2 * lam2 * (xl - xr),
        (L0 - right) * (yr - yb) / right - 2 * lam2 * (yl - yr) - M * eps**2 / 2,
    ]
    held = [xb * xl + yb * yl, (xl - xr) ** 2 + (yl - yr) ** 2 - L**2]
    equations = [dot(s) - rate for s, rate in zip(q, p, strict=True)]
    equations += [M * eps**2 / 2 * dot(s) - f for s, f in zip(p, force, strict=True)]
    parameters = {eps: 0.01, M: 10, L: 1, L0: 0.5, r: 0.1, omega: 10}
    reduced = System(equations + held, [*q, *p, lam1, lam2], parameters, t).reduce()
    assert reduced.index == 3 and freedom(reduced) == 4
    moved = [e.diff(t) + sum(e.diff(s) * rate for s, rate in zip(q, p, strict=True)) for e in held]
    assert proportional(reduced.constraints, held + moved)


def test_a_skate_is_of_index_two():
    angle, spin = sp.symbols("angle spin")
    skate = u * sp.sin(angle) - v * sp.cos(angle)
    inertia = {"mass": [m, m, k], "parameters": {m: 1, k: 2, g: 1}}
    system = System.mechanical(
        [x, y, angle], [u, v, spin], force=[0, -g, 0], velocity_constraints=[skate], multipliers=["mu"], **inertia
    )
    reduced = system.reduce()
    assert reduced.index == 2 and freedom(reduced) == 5
    assert proportional(reduced.constraints, [skate])
    hidden = sp.sin(angle) * dot(u) - sp.cos(angle) * dot(v) + spin * (u * sp.cos(angle) + v * sp.sin(angle))
    assert sp.simplify(reduced.equations[3] - hidden) == 0
    assert reduced.w[-1].name == "mu"


def test_a_disc_that_rolls_along_a_slope():
    """Rolling, x' = R φ', with the slope y = 0 as a second constraint: both levels of constraint in one system."""
    phi, spin, R = sp.symbols("phi spin R")
    system = System.mechanical([x, y, phi], [u, v, spin], mass=[m, m, k], force=[m * g, 0, 0], holonomic=[y],
                                  velocity_constraints=[u - R * spin], parameters={m: 1, k: 2, g: 1, R: 1})  # fmt: skip
    reduced = system.reduce()
    assert reduced.index == 3 and freedom(reduced) == 3
    assert proportional(reduced.constraints, [y, v, u - R * spin])
    found = sp.solve(reduced.equations, reduced.w, dict=True)[0]
    assert sp.simplify(found[dot(u)] - m * g / (m + k / R**2)) == 0


def test_robot_arm_of_index_five():
    """Campbell and Griepentrog (1995), two links with a flexible joint whose end follows a path."""
    q1, q2, q3, u1, u2 = sp.symbols("q1 q2 q3 u1 u2")
    den = 2 - sp.cos(q3) ** 2
    A, B, C, D = 2 / den, sp.cos(q3) / den, sp.sin(q3) / den, sp.sin(q3) * sp.cos(q3) / den
    turn, spring = dot(q1) + dot(q3), 2 * q3 - q2
    path = [1 - sp.exp(t), 1 - sp.exp(t) + t]
    equations = [
        dot(q1, 2) - 2 * C * turn**2 - dot(q1) ** 2 * D - spring * (A + 2 * B) - A * (u1 - u2),
        dot(q2, 2) + 2 * C * turn**2 + dot(q1) ** 2 * D - spring * (1 - 3 * A - 2 * B) + A * u1 - (A + 1) * u2,
        dot(q3, 2) + 2 * C * turn**2 + dot(q1) ** 2 * D - spring * (A - 9 * B) + 2 * dot(q1) ** 2 * C
        + D * turn**2 + (A + B) * (u1 - u2),
        sp.cos(q1) + sp.cos(q1 + q3) - sp.cos(path[0]) - sp.cos(path[1]),
        sp.sin(q1) + sp.sin(q1 + q3) - sp.sin(path[0]) - sp.sin(path[1]),
    ]  # fmt: skip
    reduced = System(equations, [q1, q2, q3, u1, u2], time=t).reduce()
    assert reduced.index == 5 and freedom(reduced) == 0
    solution = {q1: path[0], q3: path[1] - path[0]}  # what the last two equations say
    low = [e for e in reduced.constraints if not e.free_symbols & {q2, dot(q2)}]
    table = {dot(s, n) if n else s: e.diff(t, n) for s, e in solution.items() for n in range(4)}
    assert len(low) >= 8 and all(sp.simplify(e.xreplace(table)) == 0 for e in low[:4])


# -- circuits and linear systems -------------------------------------------------------------------------------------


def test_constant_singular_mass_matrix():
    """Two nodes joined by a capacitor and no other, as in the transistor amplifier: currents add up to zero."""
    U = sp.symbols("U1:5")
    R, C1, C2 = sp.symbols("R C1 C2")
    diode = 1e-6 * (sp.exp((U[1] - U[2]) / 0.026) - 1)
    mass = [[-C1, C1, 0, 0], [C1, -C1, 0, 0], [0, 0, -C2, C2], [0, 0, C2, -C2]]
    current = [(U[0] - sp.sin(t)) / R, U[1] / R + diode, U[2] / R - diode, U[3] / R + U[3] ** 3]
    system = System.linearly_implicit(mass, current, U, {R: 1e3, C1: 1e-6, C2: 2e-6}, t)
    reduced = system.reduce()
    assert reduced.index == 1 and freedom(reduced) == 2
    assert proportional([sp.expand(e) for e in reduced.constraints], [sp.expand(current[0] + current[1]),
                                                                      sp.expand(current[2] + current[3])])  # fmt: skip


def test_ring_modulator_without_its_capacitors():
    """Test set for IVP solvers, C_s = 0, index 2: four diode currents cancel in one combination of four equations.

    Exponentials from 1e-30 to 1e30 in its Jacobian: the combination must be found exactly all the same.
    """
    U, current = sp.symbols("U1:8"), sp.symbols("I1:9")
    U1, U2, U3, U4, U5, U6, U7 = U
    I1, I2, I3, I4, I5, I6, I7, I8 = current
    half, second = sp.Rational(1, 2), 2 * sp.sin(20000 * sp.pi * t)
    q = [40.67286402e-9 * (sp.exp(17.7493332 * e) - 1) for e in (
        U3 - U5 - U7 - second, -U4 + U6 - U7 - second, U4 + U5 + U7 + second, -U3 - U6 + U7 + second)]  # fmt: skip
    equations = [
        1.6e-8 * dot(U1) - I1 + half * I3 - half * I4 - I7 + U1 / 25e3,
        1.6e-8 * dot(U2) - I2 + half * I5 - half * I6 - I8 + U2 / 25e3,
        I3 - q[0] + q[3], -I4 + q[1] - q[2], I5 + q[0] - q[2], -I6 - q[1] + q[3],
        1e-8 * dot(U7) + U7 / 50 - q[0] - q[1] + q[2] + q[3],
        4.45 * dot(I1) + U1, 4.45 * dot(I2) + U2,
        5e-4 * dot(I3) - half * U1 + U3 + 17.3 * I3, 5e-4 * dot(I4) + half * U1 - U4 + 17.3 * I4,
        5e-4 * dot(I5) - half * U2 + U5 + 17.3 * I5, 5e-4 * dot(I6) + half * U2 - U6 + 17.3 * I6,
        2e-3 * dot(I7) + U1 - half * sp.sin(2000 * sp.pi * t) + 86.3 * I7, 2e-3 * dot(I8) + U2 + 636.3 * I8,
    ]  # fmt: skip
    reduced = System(equations, [*U, *current], time=t).reduce()
    assert reduced.index == 2
    assert proportional(reduced.constraints, [I3 + I4 + I5 + I6])


def test_hessenberg_index_two():
    equations = {x: -x + z * y, y: z - sp.cos(t)}
    reduced = System.semi_explicit(equations, [x - y**2], [z], time=t).reduce()
    assert reduced.index == 2 and freedom(reduced) == 1
    assert proportional(reduced.constraints, [x - y**2])
    assert proportional(reduced.equations, [dot(x) + x - z * y, dot(y) - z + sp.cos(t), dot(x) - 2 * y * dot(y)])


@pytest.mark.parametrize("n", [4, 30])
def test_a_chain_of_integrators(n):
    """x_1 = sin t, x_k' = x_{k+1}: index n, nothing free, and x_k is the (k-1)-th derivative."""
    states = sp.symbols(f"s1:{n + 1}")
    reduced = System([states[0] - sp.sin(t), *[dot(p) - q for p, q in pairwise(states)]], states, time=t).reduce()
    assert reduced.index == n and freedom(reduced) == 0
    assert set(reduced.constraints) == {s - sp.sin(t).diff(t, i) for i, s in enumerate(states[:-1])}


def test_brenan():
    """x' − t y' + x − (1 + t) y = 0, y = sin t (Brenan, Campbell and Petzold 1996): index 1, x = e^-t + t sin t."""
    system = System([dot(x) - t * dot(y) + x - (1 + t) * y, y - sp.sin(t)], [x, y], time=t)
    reduced = system.reduce()
    assert reduced.index == 1 and freedom(reduced) == 1
    assert proportional(reduced.constraints, [y - sp.sin(t)])
    solution = {x: sp.exp(-t) + t * sp.sin(t), y: sp.sin(t)}
    assert vanishes_on((*reduced.constraints, *reduced.equations), system, solution)


@pytest.mark.parametrize("eta", [2, -sp.Rational(1, 3)])
def test_a_time_dependent_pencil_that_structure_misjudges(eta):
    """Gear and Petzold 1984: x' + η t y' + (1 + η) y = e^-t, x + η t y = e^-t has index 2."""
    equations = [dot(x) + eta * t * dot(y) + (1 + eta) * y - sp.exp(-t), x + eta * t * y - sp.exp(-t)]
    reduced = System(equations, [x, y], time=t).reduce()
    assert reduced.index == 2 and freedom(reduced) == 0 and not reduced.y
    found = sp.solve(reduced.equations, reduced.w, dict=True)[0]
    # The first minus the derivative of the second is y = e^-t + e^-t.
    assert sp.simplify(found[y] - 2 * sp.exp(-t)) == 0
    assert sp.simplify(found[x] - (1 - 2 * eta * t) * sp.exp(-t)) == 0


def test_a_dense_constant_system():
    """x' + y' = z, 2 x' + 2 y' = x + 3 z: the combination x + z is a constraint that no equation shows."""
    equations = [dot(x) + dot(y) - z, 2 * dot(x) + 2 * dot(y) - x - 3 * z, x - y + z - t]
    reduced = System(equations, [x, y, z], time=t).reduce()
    assert reduced.index == 1 and freedom(reduced) == 1
    assert proportional(reduced.constraints, [x + z, x - y + z - t])


# -- state-dependent mass matrices -----------------------------------------------------------------------------------


def test_state_dependent_singular_mass_matrix():
    """Rows (x, y) and y (x, y): y times the first minus the second is y (1) − (x − y)."""
    system = System.linearly_implicit([[x, y], [x * y, y**2]], [1, x - y], [x, y])
    reduced = system.reduce()
    assert reduced.index == 1 and freedom(reduced) == 1
    assert proportional(reduced.constraints, [2 * y - x])


def test_constraints_by_cancellation():
    """A variable that cancels does not count: (y + 1)² − y² − 2 y has no y."""
    false = (y + 1) ** 2 - y**2 - 2 * y
    reduced = System([dot(x) - y * z, dot(y) - z, x * false - sp.sin(t)], [x, y, z], time=t).reduce()
    assert reduced.index == 2
    assert [sp.simplify(e - (x - sp.sin(t))) for e in reduced.constraints] == [0]
    assert not reduced.constraints[0].has(y)


def test_index_of_a_nonlinear_system_that_structure_misjudges():
    """Reissig, Martinson and Barton (2000) made nonlinear: the difference of two equations is free of y' and z'."""
    for f in (y**3 + y, sp.exp(y), sp.Piecewise((y, y > 0), (2 * y, True)) + sp.atan(x) / 9):
        equations = [dot(y) + dot(z) + x - sp.sin(t), dot(y) + dot(z) + f, z + z**3 - t]
        reduced = System(equations, [x, y, z], time=t).reduce()
        assert reduced.index == 1 and freedom(reduced) == 1
    # With the product the difference contains z' again, and z'' is needed.
    equations = [dot(y) + dot(z) + x - sp.sin(t), dot(y) + dot(z) * (1 + y) + y**3, z + z**3 - t]
    assert System(equations, [x, y, z], time=t).index == 2


def test_products_of_rates():
    """x' y' = z and x' y' = 1 + sin² t: nonlinear in the rates, their difference is a constraint all the same."""
    equations = [dot(x) * dot(y) - z, dot(x) * dot(y) - 1 - sp.sin(t) ** 2, dot(z) - w * x + z, x - t - w]
    reduced = System(equations, [x, y, z, w], time=t).reduce()
    assert sp.simplify(reduced.constraints[0] ** 2 - (z - 1 - sp.sin(t) ** 2) ** 2) == 0
    assert freedom(reduced) == 1


# -- index 0 ---------------------------------------------------------------------------------------------------------


def test_ordinary_differential_equations():
    for equations, states, order in (
        ([dot(x) - u, dot(u) + x], [x, u], 2),
        ([dot(x) - u, dot(u) - x], [x, u], 2),
        ([dot(x) - u, dot(y) - u, dot(u) + x + y], [x, y, u], 3),  # one velocity of two
        ([dot(x, 3) + x, dot(y, 2) - dot(x, 2) * y], [x, y], 5),
        ([dot(x) + 2 * dot(y) - x, dot(x) - dot(y) + y], [x, y], 2),
    ):
        reduced = System(equations, states).reduce()
        assert reduced.index == 0 and not reduced.constraints and freedom(reduced) == order


# -- refusals --------------------------------------------------------------------------------------------------------

SINGULAR = "structurally singular, so no unique solution exists"
REFUSED = {  # equations, states, what the message says, equations and unknowns that it lists
    "too few": ([x - 1], [x, y], "1 equation for 2 unknowns: add equations.*Without an equation.*: unknowns y",
                (), ("y",)),
    "too many": ([x - 1, y - 1, x - y], [x, y], r"3 equations for 2 unknowns: remove .*equation 2 \(0 = x - y\)",
                 (0, 1, 2), ()),
    "none for y": ([x - 1, x - 2], [x, y], SINGULAR + ".*too few equations for the unknowns y", (0, 1), ("y",)),
    "parameter alone": ([k - 1, x], [x, y], "without any unknown: equation 0", (0,), ("y",)),
    "contradiction": ([x + y, x + y - 1], [x, y], "combined to 0 = ", (0, 1), ("x", "y")),
    "duplicate": ([x + y, x + y], [x, y], "combined to 0 = 0", (0, 1), ("x", "y")),
    "multiple": ([x + 2 * y, 3 * x + 6 * y, z - x], [x, y, z], "combined to 0 = 0", (0, 1), ("x", "y", "z")),
    "duplicate rate": ([dot(x) - y, dot(x) - y], [x, y], "combined to 0 = 0", (0, 1), ("x", "y")),
    "derivative of another": ([dot(x) - dot(y), x - y], [x, y], "combined to 0 = 0", (0, 1), ("x", "y")),
    "derivative, nonlinear": ([x * dot(x) + y * dot(y), x**2 + y**2 - 1], [x, y], "combined", (0, 1), ("x", "y")),
    "nonlinear contradiction": ([sp.sin(x + y) - t, sp.sin(x + y)], [x, y], "combined to 0 = -?t", (0, 1), ("x", "y")),
    "identity": ([sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1, dot(x) - y], [x, y], "without any unknown: equation 0", (0,),
                 ("x", "y")),
    "alias twice": ([dot(x) - u, dot(x) - u, dot(u) + x], [x, y, u], "too few equations for the unknowns y", (1,),
                    ("y",)),
    "three alike": ([x + y + z, x - y, 2 * x + z], [x, y, z], "combined to 0 = 0", (0, 1, 2), ("x", "y", "z")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    equations, states, message, numbers, names = REFUSED[case]
    system = System(equations, states, {k: 1.0}, t, name="nonsense")
    with pytest.raises(StructureError, match=message) as error:
        system.reduce()
    assert str(error.value).startswith("nonsense: ")
    assert (error.value.equations, error.value.unknowns) == (numbers, names)
    assert all(f"{i} (0 = " in str(error.value) for i in numbers)
    assert all(name in str(error.value) for name in names)


X3, V3 = (x, y, z), (u, v, w)
REDUNDANT = {
    "the same": [x**2 + y**2 - 1, x**2 + y**2 - 1],
    "a multiple": [x**2 + y**2 - 1, 2 - 2 * x**2 - 2 * y**2],
    "a sum": [x - y, y - z, x - z],
    "on the constraints alone": [x**2 - y, y**2 - z, x**4 - z],
    "a product": [x**2 + y**2 - 1, (x**2 + y**2 - 1) * (z + 3)],
    "a square": [(x**2 + y**2 - 1) ** 2],
    "a point": [x**2 + y**2 + z**2],
    "a tangent plane": [x**2 + y**2 + z**2 - 3, x + y + z - 3],
}


@pytest.mark.parametrize("case", REDUNDANT)
def test_redundant_constraints_are_refused(case):
    constraints = REDUNDANT[case]
    system = System.mechanical(X3, V3, mass=1, holonomic=constraints, name="redundant")
    with pytest.raises(StructureError, match=r"structurally singular|depend on one another") as error:
        system.reduce()
    assert error.value.equations == tuple(range(6, 6 + len(constraints)))
    assert all(f"0 = {e}" in str(error.value) for e in system.equations[6:])


@pytest.mark.parametrize(
    "equations",
    [[x * y**2 - dot(z), y * (t + 1), dot(z) - y], [dot(x) - z * y - 1, y, x - t],
     [x + z - dot(y) - t, x * (x + z - dot(y) - t) + y - 1, z - t]],
    ids=["a zero factor", "a zero factor of index 2", "the Jacobian is an equation"],
)  # fmt: skip
def test_what_nothing_determines_where_the_equations_hold(equations):
    with pytest.raises(StructureError, match="wherever they hold, these equations depend on one another"):
        System(equations, [x, y, z], time=t).reduce()


def test_independent_constraints_are_not():
    for constraints in ([x**2 - y, y**2 - z], [x**2 + y**2 - 1, z * x - 2], [x * y, z - 1], [y**2 - x**3]):
        assert System.mechanical(X3, V3, mass=1, holonomic=constraints).index == 3


def test_more_constraints_than_coordinates():
    system = System.mechanical([x, y], [u, v], mass=1, holonomic=[x - 1, y - 1, x - y])
    with pytest.raises(StructureError, match="too many equations for the unknowns x, y") as error:
        system.reduce()
    assert error.value.equations == (4, 5, 6) and error.value.unknowns == ("lam0", "lam1", "lam2")


def test_dependence_at_the_parameter_values_alone():
    """With k = 2 the rows are parallel, with another k they are not: no formula in k is right for both."""
    system = System([dot(x) + k * dot(y) - z, dot(x) + 2 * dot(y) - x, z - x - y], [x, y, z], {k: 2.0})
    with pytest.raises(StructureError, match=r"at these parameter values alone \(k = 2.0\): write these numbers"):
        system.reduce()


def test_many_left_over_are_counted():
    states = sp.symbols("s1:31")
    with pytest.raises(StructureError, match="s12 and 18 more") as error:
        System([sum(states)], states).reduce()
    assert len(error.value.unknowns) == 30


# -- size ------------------------------------------------------------------------------------------------------------


def ladder(n):
    """A line of n resistors and capacitors with all the currents as unknowns: 3 n equations."""
    U, across, down = sp.symbols(f"U1:{n + 1}"), sp.symbols(f"I1:{n + 1}"), sp.symbols(f"J1:{n + 1}")
    equations = []
    for i in range(n):
        equations.append((U[i - 1] if i else sp.sin(t)) - U[i] - 2 * across[i])
        equations.append(across[i] - down[i] - (across[i + 1] if i + 1 < n else 0))
        equations.append(dot(U[i]) / 3 - down[i])
    return System(equations, [*U, *across, *down], time=t)


def links(n):
    """A pendulum of n links, written out: 5 n equations."""
    p, q, r, s, tension = (sp.symbols(f"{name}1:{n + 1}") for name in ("p", "q", "r", "s", "tension"))
    held = []
    for i in range(n):
        held.append((p[i] - (p[i - 1] if i else 0)) ** 2 + (q[i] - (q[i - 1] if i else 0)) ** 2 - 1)
    equations = [dot(a) - b for a, b in zip((*p, *q), (*r, *s), strict=True)]
    work = sum(e * f for e, f in zip(held, tension, strict=True))
    equations += [dot(r[i]) + work.diff(p[i]) for i in range(n)]
    equations += [dot(s[i]) + g + work.diff(q[i]) for i in range(n)]
    return System(equations + held, [*p, *q, *r, *s, *tension], {g: 9.81})


@pytest.mark.parametrize(
    ("make", "n", "index", "free", "most"),
    [(ladder, 66, 1, 66, 900_000), (links, 20, 3, 40, 5_500_000)],
    ids=["ladder", "links"],
)
def test_work_on_large_systems_stays_small(make, n, index, free, most):
    """Some 300,000 and 1,900,000 calls, a few seconds; work that grows with the cube of n would be cut off."""
    system, found = make(n), []
    n_calls(lambda: found.append(system.reduce()), most)
    assert found[0].index == index and freedom(found[0]) == free
