"""Numbers that have no value: divisions by what is zero but for rounding, and logarithms and angles of it."""

from collections.abc import Collection, Mapping

import mpmath
import numpy as np
import sympy as sp

from ndae.symbolic.expressions.choices import NON_SMOOTH
from ndae.symbolic.expressions.limits import distinct
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.ground.typed import arguments, branches_of, symbols_of
from ndae.symbolic.ground.words import shortened
from ndae.symbolic.numeric.sampling import Evaluator

_DIGITS = 50
_EXACT = mpmath.mpf(10) ** (4 - _DIGITS)  # relative, what working with so many digits leaves
_HUGE = mpmath.mpf(10) ** 400  # beyond it functions take ever longer
_MARGIN = 8  # of a bound of rounding


def check_divisors(expression: sp.Expr, where: str, parameters: Mapping[sp.Symbol, object] | None = None) -> None:
    """Raise ValueError where a divisor, or the argument of a logarithm, is a number that is zero but for rounding.

    And where what parameters alone make, as the root of one, is no finite real number at their default values.

    Numbers are what holds no symbol, or parameters with default values alone. Each is computed to 50 digits with a
    bound of its error, in which decimal numbers count as doubles: 0.3 - 0.1 - 0.2 is zero, and so is sin(1)² + cos(1)²
    - 1, of which a plain evaluation leaves 1e-125.
    """
    defaults = _values(parameters or {})
    plain = set() if not defaults else set(_unconditional(expression, defaults.keys()))
    for e in distinct(expression):
        for number, role in _must_not_vanish(e):
            if number.has(Applied) or (
                number.free_symbols and not (number.free_symbols <= defaults.keys() and e in plain)
            ):
                continue
            for values in _instances(number, defaults):
                if _vanishes(number, values):
                    at = f" for {', '.join(f'{s} = {v:g}' for s, v in values.items())}" if values else ""
                    raise ValueError(
                        f"{where}: {role} {shortened(number)}, which is zero{at}: there is no such number; write it "
                        "otherwise"
                    )
    _check_finite(expression, where, defaults)


def _unconditional(expression: sp.Basic, parameters: Collection[sp.Symbol]) -> list[sp.Basic]:
    """The nodes that count whatever values parameters have: all but branches that these select."""
    found, stack = {}, [expression]
    while stack:
        e = stack.pop()
        if e in found:
            continue
        found[e] = None
        if not (isinstance(e, sp.Piecewise) and any(symbols_of(c) & set(parameters) for _, c in branches_of(e))):
            stack.extend(e.args)
    return list(found)


def _check_finite(expression: sp.Expr, where: str, defaults: Mapping[sp.Symbol, np.ndarray]) -> None:
    """What holds no other symbols than parameters is a finite real number at their default values."""
    if not defaults:
        return
    for e in _unconditional(expression, defaults.keys()):
        if not e.args or not isinstance(e, sp.Expr) or not e.free_symbols or not e.free_symbols <= defaults.keys():
            continue
        if e.has(Applied):
            continue
        for values in _instances(e, defaults):
            found = Evaluator({s: np.array([v]) for s, v in values.items()}, 1)([e])[0][0, 0]
            if not np.isfinite(found):
                at = ", ".join(f"{s} = {v:g}" for s, v in values.items())
                raise ValueError(
                    f"{where}: {shortened(e)} is no finite real number for {at}: give other default values, or None"
                )


def _must_not_vanish(e: sp.Basic) -> list[tuple[sp.Expr, str]]:
    if isinstance(e, sp.Pow) and e.exp.is_number and e.exp.is_negative:
        return [(factor, "it divides by") for factor in _factors(e.base)]
    if isinstance(e, sp.log):
        return [(factor, "it has the logarithm of") for factor in _factors(arguments(e)[0])]
    if isinstance(e, sp.tan):
        return [(sp.cos(e.args[0]), "it divides, for a tangent, by")]
    if isinstance(e, sp.atanh):
        (a,) = arguments(e)
        return [(1 - a, "it divides, for atanh, by"), (1 + a, "it divides, for atanh, by")]
    if isinstance(e, sp.atan2):
        y, x = arguments(e)
        return [(x**2 + y**2, "it has the angle of a point at the distance² of")]
    return []


def _factors(e: sp.Expr) -> list[sp.Expr]:
    """What a product of powers vanishes with."""
    if isinstance(e, sp.Mul):
        return [f for a in e.args for f in _factors(a)]
    return _factors(e.base) if isinstance(e, sp.Pow) and e.exp.is_number and e.exp.is_positive else [e]


def _values(parameters: Mapping[sp.Symbol, object]) -> dict[sp.Symbol, np.ndarray]:
    return {s: np.atleast_1d(np.asarray(v, dtype=float)) for s, v in parameters.items() if v is not None}


def _instances(number: sp.Expr, defaults: Mapping[sp.Symbol, np.ndarray]) -> list[dict[sp.Symbol, float]]:
    """The different values that the parameters in a number have, in one instance or many."""
    symbols = sorted(symbols_of(number), key=str)
    if not symbols:
        return [{}]
    table = np.unique(np.stack(np.broadcast_arrays(*[defaults[s] for s in symbols]), -1), axis=0)
    return [dict(zip(symbols, map(float, row), strict=True)) for row in table]


def _vanishes(number: sp.Expr, values: Mapping[sp.Symbol, float]) -> bool:
    with mpmath.workdps(_DIGITS):
        known: dict[sp.Basic, tuple] = {}
        try:
            for e in distinct(number):
                known[e] = _bounded(e, known, values)
        except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError):
            return False  # what has no value for another reason is refused as that
        value, error = known[number]
        return bool(abs(value) <= _MARGIN * error)


def _bounded(e: sp.Basic, known: Mapping, values: Mapping[sp.Symbol, float]) -> tuple:
    """A number and a bound of its error, from those of what it is made of."""
    if isinstance(e, sp.Symbol):
        return mpmath.mpf(values[e]), abs(mpmath.mpf(values[e])) * mpmath.mpf(2) ** -52
    if isinstance(e, sp.Float):
        value = mpmath.mpf(e._mpf_)
        return value, abs(value) * mpmath.mpf(2) ** (1 - e._prec)
    if not e.args:
        exact = isinstance(e, sp.Rational)
        value = mpmath.mpf(e.p) / e.q if exact else mpmath.mpf(sp.N(e, _DIGITS)._mpf_)
        return value, mpmath.mpf(0) if exact and e.q == 1 else abs(value) * _EXACT
    if isinstance(e, NON_SMOOTH):
        raise ValueError
    inner = [known[a] for a in e.args]
    if isinstance(e, sp.Add):
        return sum(v for v, _ in inner), sum(err + abs(v) * _EXACT for v, err in inner)
    if isinstance(e, sp.Mul):
        value, error = mpmath.mpf(1), mpmath.mpf(0)
        for v, err in inner:
            value, error = value * v, abs(value) * err + error * (abs(v) + err)
        return value, error + abs(value) * _EXACT
    if any(abs(v) > _HUGE for v, _ in inner):
        raise ValueError
    function = (lambda a, b: a**b) if isinstance(e, sp.Pow) else getattr(mpmath, type(e).__name__)
    if isinstance(e, (sp.exp, sp.sinh, sp.cosh)) and abs(inner[0][0]) > 10_000:
        raise ValueError
    value = function(*[v for v, _ in inner])
    error = abs(value) * _EXACT
    for i, (v, err) in enumerate(inner):  # how far the value moves where an argument moves by its error
        if err:
            moved = [[w for w, _ in inner] for _ in range(2)]
            moved[0][i], moved[1][i] = v + err, v - err
            error += max(abs(function(*m) - value) for m in moved)
    return mpmath.mpf(value), error  # a complex value is a TypeError
