"""Constrained equations of motion, from masses or a Lagrangian, as the equations of a DAE."""

from collections.abc import Sequence
from typing import Any

import sympy as sp

from ndae.symbolic.expressions.corners import as_corners
from ndae.symbolic.expressions.derivatives import dot
from ndae.symbolic.expressions.reading import as_expressions


def mechanical_equations(
    q, v, mass, force, potential, lagrangian, holonomic, velocity_constraints, multipliers, time, name
) -> tuple[list[sp.Expr], list[sp.Symbol], dict[str, sp.Expr]]:
    """Equations, states (q, v, multipliers) and invariants of `System.mechanical`; raises ValueError as it says."""
    q, v = _symbols(q, f"{name}: q"), _symbols(v, f"{name}: v")
    n = len(q)
    if len(v) != n:
        raise ValueError(f"{name}: {n} coordinates q and {len(v)} velocities v: give one velocity for each coordinate")
    force = sp.Matrix(_entries(force, n, f"{name}: force"))
    holonomic = _constraints(holonomic, f"{name}: holonomic constraints", [*q, *v])
    velocity_constraints = _constraints(velocity_constraints, f"{name}: velocity constraints", [*q, *v])
    q_vector, v_vector = sp.Matrix(q), sp.Matrix(v)
    if lagrangian is not None:
        if mass is not None or potential is not None:
            raise ValueError(f"{name}: a Lagrangian holds mass and potential already: give either it or these")
        lagrangian = _scalar(lagrangian, f"{name}: lagrangian", [*q, *v])
        momentum = sp.Matrix([lagrangian.diff(s) for s in v])
        inertia = momentum.jacobian(v_vector)
        rest = momentum.jacobian(q_vector) * v_vector - sp.Matrix([lagrangian.diff(s) for s in q])
        if time is not None:
            rest += momentum.diff(time)
        energy = sp.expand((momentum.T * v_vector)[0, 0] - lagrangian)
    else:
        inertia = _mass_matrix(mass, n, name)
        potential = sp.Integer(0) if potential is None else _scalar(potential, f"{name}: potential", [*q, *v])
        if potential.free_symbols & set(v):
            raise ValueError(
                f"{name}: the potential {potential} contains velocities: give a lagrangian, T - V, instead"
            )
        rest = sp.Matrix([potential.diff(s) for s in q])
        energy = (v_vector.T * inertia * v_vector)[0, 0] / 2 + potential
    jacobian = sp.Matrix(holonomic).jacobian(q_vector) if holonomic else sp.zeros(0, n)
    along = sp.Matrix(velocity_constraints).jacobian(v_vector) if velocity_constraints else sp.zeros(0, n)
    for i, c in enumerate(velocity_constraints):
        if not c.free_symbols & set(v):
            raise ValueError(f"{name}: velocity constraint {i} ({c}) contains no velocity: list it as holonomic")
    if along.free_symbols & set(v):
        raise ValueError(f"{name}: velocity constraints must be linear in v, A(q, t) v + b(q, t)")
    for i, c in enumerate(holonomic):
        if c.free_symbols & set(v):
            raise ValueError(
                f"{name}: holonomic constraint {i} ({c}) contains velocities: list it as velocity constraint"
            )
    lam = _multipliers(multipliers, len(holonomic), len(velocity_constraints), name)
    reaction = (jacobian.T.row_join(along.T)) * sp.Matrix(lam) if lam else sp.zeros(n, 1)
    balance = inertia * sp.Matrix([dot(s) for s in v]) + rest - force + reaction
    equations = [dot(x) - u for x, u in zip(q, v, strict=True)] + list(balance) + holonomic + velocity_constraints
    conserved = (
        force.is_zero_matrix
        # With mass(q) the equations are the user's own: whether they conserve this energy depends on `force`.
        and (lagrangian is not None or (inertia.is_symmetric() and not inertia.free_symbols & {*q, *v}))
        and (time is None or not any(e.has(time) for e in [energy, *inertia, *holonomic, *velocity_constraints]))
        and all(sp.expand(c.xreplace(dict.fromkeys(v, sp.Integer(0)))) == 0 for c in velocity_constraints)
    )
    return equations, [*q, *v, *lam], {"energy": energy} if conserved else {}


def _symbols(entries, what: str) -> list[sp.Symbol]:
    listed: list[Any] = [entries] if isinstance(entries, sp.Expr) else list(entries)
    for s in listed:
        if not isinstance(s, sp.Symbol):
            raise ValueError(f"{what} contains {s!r}: expected SymPy symbols")
    if not listed:
        raise ValueError(f"{what} is empty: give at least one coordinate")
    return listed


def _constraints(entries, what: str, moving: Sequence[sp.Symbol]) -> list[sp.Expr]:
    if entries is None or (isinstance(entries, Sequence) and not len(entries)):
        return []
    return [_checked(c, f"{what}: {c}", moving) for c in as_expressions(entries, what)]


def _scalar(value, what: str, moving: Sequence[sp.Symbol]) -> sp.Expr:
    entries = as_expressions(value, what)
    if len(entries) != 1:
        raise ValueError(f"{what} has {len(entries)} entries: expected one expression")
    return _checked(entries[0], what, moving)


def _checked(expression: sp.Expr, what: str, moving: Sequence[sp.Symbol]) -> sp.Expr:
    """Fit to be differentiated by q and v: free of symbols dot(q), and with |x| of a symbol of any kind closed."""
    rates = {dot(s, order) for s in moving for order in (1, 2)} & expression.free_symbols
    if rates:
        raise ValueError(f"{what} contains {sorted(rates, key=str)[0]}: write velocities by the symbols v")
    return as_corners(expression)


def _entries(value, n: int, what: str) -> list[sp.Expr]:
    if value is None:
        return [sp.Integer(0)] * n
    entries = list(as_expressions(value, what))
    if len(entries) != n:
        raise ValueError(f"{what} has {len(entries)} entries: expected {n}, one for each coordinate")
    return entries


def _mass_matrix(mass, n: int, name: str) -> sp.Matrix:
    if mass is None:
        raise ValueError(f"{name}: give mass= (one number, one for each coordinate, or a matrix) or lagrangian=")
    if isinstance(mass, str):
        raise ValueError(f"{name}: mass={mass!r} is text: turn it into SymPy by parse_expression(text, symbols)")
    if isinstance(mass, sp.MatrixBase) and mass.shape == (n, n):
        return sp.Matrix(mass)
    if hasattr(mass, "__len__") and len(mass) == n and all(hasattr(row, "__len__") for row in mass):
        rows = [list(row) for row in mass]
        if all(len(row) == n for row in rows):
            return sp.Matrix(rows)
    if not hasattr(mass, "__len__"):
        return _entries([mass], 1, f"{name}: mass")[0] * sp.eye(n)
    if isinstance(mass, sp.MatrixBase) or len(mass) != n or any(hasattr(m, "__len__") for m in mass):
        raise ValueError(f"{name}: mass={mass!r}: expected one number, {n} of them, or a matrix ({n}, {n})")
    return sp.diag(*_entries(list(mass), n, f"{name}: mass"))


def _multipliers(names, n_holonomic: int, n_velocity: int, name: str) -> list[sp.Symbol]:
    if names is None:
        names = [f"lam{i}" for i in range(n_holonomic)] + [f"mu{i}" for i in range(n_velocity)]
    names = [names] if isinstance(names, (str, sp.Symbol)) else list(names)
    for s in names:
        if not isinstance(s, (str, sp.Symbol)):
            raise ValueError(f"{name}: multiplier {s!r}: expected a name or a SymPy symbol")
    symbols = [s if isinstance(s, sp.Symbol) else sp.Symbol(s, real=True) for s in names]
    if len(symbols) != n_holonomic + n_velocity:
        raise ValueError(
            f"{name}: {len(symbols)} multipliers named for {n_holonomic} holonomic and {n_velocity} velocity "
            f"constraints: name {n_holonomic + n_velocity}"
        )
    return symbols
