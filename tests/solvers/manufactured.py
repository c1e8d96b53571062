"""Random DAEs of index 1 to 3 whose solutions are known: closed forms put in, so that every residual vanishes."""

from dataclasses import dataclass

import numpy as np
import sympy as sp

from ndae.symbolic import System, dot

t = sp.Symbol("t", real=True)
#: The span of all of them; several closed forms are zero at its ends and at output times.
SPAN = (0.0, 1.5)


@dataclass(frozen=True, eq=False)
class Manufactured:
    """A system, and what its states are: `exact` by symbol, in units of `scales`."""

    seed: int
    system: System
    exact: dict[sp.Symbol, sp.Expr]
    scales: dict[sp.Symbol, float]

    @property
    def start(self):
        """Values of the states whose derivatives are written, by name; the others follow."""
        symbols = set().union(*(e.free_symbols for e in self.system.equations))
        written = [s for s in self.system.states if dot(s) in symbols]
        return {s.name: float(self.exact[s].xreplace({t: sp.Float(SPAN[0])})) for s in written}

    def states(self, ts):
        """(n_times, n_states)."""
        return self._along(self.system.states, ts)

    def y(self, ts):
        """The state of the reduced system, (n_times, n_y)."""
        return self._along(self.system.reduce().y, ts)

    def units(self):
        """(n_states,)."""
        return np.array([self.scales[s] for s in self.system.states])

    def _along(self, symbols, ts):
        columns = []
        for symbol in symbols:
            state, order = self.system.derivative_of(symbol)
            value = sp.diff(self.exact[state], t, order)
            columns.append(np.broadcast_to(sp.lambdify(t, value)(ts), ts.shape))
        return np.stack(columns, -1)


def manufactured(seed: int) -> Manufactured:
    """The system of a seed: kind, closed forms, mixed rows, scales of states and of equations are all drawn from it."""
    random = np.random.default_rng(seed)
    kind = [_index_1, _index_2, _index_3, _pendulum][seed % 4]
    states, residuals = kind(random)
    exact = {s: _closed_form(random, s.name) for s in states}
    rates = {dot(s): sp.diff(e, t) for s, e in exact.items()}
    residuals = [r - r.xreplace(rates | exact) for r in residuals]
    if seed % 3:
        residuals = _mixed(random, residuals)
    wide = seed % 5 > 1
    scales = {s: float(10.0 ** random.integers(-9, 10)) if wide else 1.0 for s in states}
    sizes = [float(10.0 ** random.integers(-9, 10)) if wide else 1.0 for _ in residuals]
    units = {s: s / sp.Float(scales[s]) for s in states} | {dot(s): dot(s) / sp.Float(scales[s]) for s in states}
    equations = [size * r.xreplace(units) for size, r in zip(sizes, residuals, strict=True)]
    order = random.permutation(len(equations))
    system = System([equations[i] for i in order], states, {}, t, name=f"manufactured {seed} ({kind.__name__[1:]})")
    return Manufactured(seed, system, {s: scales[s] * e for s, e in exact.items()}, scales)


def _closed_form(random, name):
    """A smooth function of size 1; of algebraic variables, some are zero at outputs and one all the time."""
    a, b = (sp.Rational(int(random.integers(1, 9)), 4) for _ in range(2))
    forms = [sp.sin(a * t + b), sp.cos(a * t), sp.exp(-a * t) - sp.exp(-b * t) / 2, 1 + t / 2 - t**2 / 3]
    if name[0] in "zl":
        forms += [sp.sin(a * t), t - sp.Rational(1, 2), sp.Integer(0), t**2 * (t - 1)]
    if name[0] in "xy":  # positions keep away from zero together, where constraints lose rank
        forms = [1 + sp.sin(a * t) / 3, sp.Rational(3, 2) + sp.cos(b * t) / 2, 1 + t / 2 - t**2 / 3]
    return forms[int(random.integers(len(forms)))]


def _coefficients(random, n):
    return [sp.Rational(int(c), 4) for c in random.choice([-5, -3, -2, -1, 1, 2, 3, 5], n)]


def _index_1(random):
    """x' = f(x, z, t), and z from equations that are monotone in it, linear or not."""
    x1, x2, z1, z2 = sp.symbols("x1 x2 z1 z2", real=True)
    a, b, c, d = _coefficients(random, 4)
    nonlinear = [z1 + sp.sin(z1) / 4 + a * sp.sin(x1), z2 + z2**3 / 5 + b * x1 * x2 / 3 + z1 / 4]
    rows = [dot(x1) + a * x1 * z2 / 2 + sp.sin(x2), dot(x2) + c * z1 - d * x2 / 3 + x1 * x2 / 4]
    if random.random() < 0.3:
        nonlinear = [z1 * (2 + sp.cos(x1)) + a * z2 / 4, z2 - z1 / 3 + b * sp.sin(x2)]
    return [x1, x2, z1, z2], [*rows, *nonlinear]


def _index_2(random):
    """Hessenberg: z moves x along the gradient of the constraint; and an algebraic variable of index 1 beside it."""
    x1, x2, z, z1 = sp.symbols("x1 x2 z z1", real=True)
    a, b, c = _coefficients(random, 3)
    held = x1**2 + x2**2 if random.random() < 0.5 else x1 + x1**3 / 4 + abs(b) * x2
    rows = [dot(x1) + a * x2 + z * sp.diff(held, x1) + z1 / 3, dot(x2) + b * x1 * x2 / 3 + z * sp.diff(held, x2)]
    return [x1, x2, z, z1], [*rows, held, z1 + z1**3 / 4 + c * sp.sin(x2)]


def _index_3(random):
    """Three coordinates with a force, a holonomic constraint and its multiplier."""
    x, y, u, v, lam = sp.symbols("x y u v lam", real=True)
    a, b, c = _coefficients(random, 3)
    held = [x**2 + abs(a) * y**2, x * y, x + y**2 / 2][int(random.integers(3))]
    return [x, y, u, v, lam], [
        dot(x) - u,
        dot(y) - v,
        dot(u) + lam * sp.diff(held, x) + b * u / 4 + sp.sin(y) / 2,
        dot(v) + lam * sp.diff(held, y) + c * v * u / 8,
        held,
    ]


def _pendulum(random):
    """Index 3 with a law for the force: a spring whose deflection z is found by a nonlinear equation."""
    x, y, u, v, lam, z = sp.symbols("x y u v lam z", real=True)
    a, b = _coefficients(random, 2)
    return [x, y, u, v, lam, z], [
        dot(x) - u,
        dot(y) - v,
        dot(u) + 2 * lam * x + a * z / 2,
        dot(v) + 2 * lam * y + 1,
        x**2 + y**2,
        z + z**3 / 3 + b * sp.sin(x) + u / 4,
    ]


def _mixed(random, residuals):
    """Invertible combinations: rows added to others, those without derivatives to differential ones among them."""
    rows = list(residuals)
    for _ in range(int(random.integers(1, 4))):
        i, j = (int(k) for k in random.choice(len(rows), 2, replace=False))
        rows[i] = rows[i] + _coefficients(random, 1)[0] * rows[j]
    return rows
