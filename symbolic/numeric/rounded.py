"""Sums of terms with rounded numbers in them, of which what cancels is told from what is small."""

from collections.abc import Iterable

import sympy as sp

from ndae.symbolic.numeric.sampling import ROUNDING


def joined(terms: Iterable[sp.Expr]) -> sp.Expr:
    """The sum of some terms without those that cancel up to rounding: of 0.1 x + 0.2 x − 0.3 x nothing remains."""
    sums: dict[sp.Expr, list[sp.Expr]] = {}
    for term in terms:
        number, rest = term.as_coeff_Mul()
        sums.setdefault(rest, []).append(number)
    result = []
    for rest, numbers in sums.items():
        total = sp.Add(*numbers)
        if total.has(sp.Float) and abs(total) <= ROUNDING * max(abs(n) for n in numbers):
            continue
        result.append(total * rest)
    return sp.Add(*result)


def sum_apart(coefficients: Iterable[sp.Expr], expressions: Iterable[sp.Expr]) -> sp.Expr:
    """Σ uᵢ eᵢ as it stands, for an Evaluator to see how large the terms are that cancel.

    SymPy would join 1e15 x and −1e15 x, where these are rounded, to x / 8, whose own size says nothing.
    """
    products = [sp.Mul(u, e, evaluate=False) for u, e in zip(coefficients, expressions, strict=True)]
    return sp.Add(*products, evaluate=False)
