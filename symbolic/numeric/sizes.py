"""Sizes of unknowns, guessed from equations: those at which the terms of each equation are as large as one another."""

from collections.abc import Iterable, Mapping
from math import log2

import numpy as np
import sympy as sp

_USUAL = 100.0  # sizes between 1 / 100 and 100 are as good as one
_LEAST, _LARGEST = -100, 100  # powers of two
_WEAK = 1e-3  # weight of the guess 1 where no term says anything


def typical_sizes(equations: Iterable[sp.Expr], variable: Mapping[sp.Symbol, sp.Symbol]) -> dict[sp.Symbol, float]:
    """A power of two for each variable, none where all are near one; `variable` says to which one a symbol belongs.

    A term c Π xⱼ^aⱼ of equation i has the logarithm log |c| + Σ aⱼ log(size of xⱼ), which should be that of the row;
    each argument of a function should be of size one. Both in least squares.
    """
    place = {x: j for j, x in enumerate(dict.fromkeys(variable.values()))}
    conditions: list[tuple[dict[int, float], float]] = []
    row = len(place)

    def add(terms, row: int | None):
        for term in terms:
            number, rest = term.as_coeff_Mul()
            powers: dict[int, float] = {} if row is None else {row: -1.0}
            for base, exponent in (f.as_base_exp() for f in sp.Mul.make_args(rest)):
                if isinstance(base, sp.Symbol) and base in variable and exponent.is_number:
                    j = place[variable[base]]
                    powers[j] = powers.get(j, 0.0) + float(exponent)
            if number.is_real and number != 0:
                conditions.append((powers, -log2(abs(float(number)))))

    for e in equations:
        for term in sp.Add.make_args(sp.expand(e) if e.count_ops() < 300 else e):
            add([term], row)
        for f in e.atoms(sp.Function):
            for a in f.args:
                if isinstance(a, sp.Expr) and not a.is_number and a.free_symbols <= variable.keys():
                    add(sp.Add.make_args(a), None)
        row += 1
    matrix, right = np.zeros((len(conditions) + row, row)), np.zeros(len(conditions) + row)
    for k, (powers, value) in enumerate(conditions):
        matrix[k, list(powers)], right[k] = list(powers.values()), value
    matrix[len(conditions) :] = _WEAK * np.eye(row)
    found = np.linalg.lstsq(matrix, right, rcond=None)[0]
    sizes = {x: float(2.0 ** np.clip(np.round(found[j]), _LEAST, _LARGEST)) for x, j in place.items()}
    return {} if all(1 / _USUAL <= size <= _USUAL for size in sizes.values()) else sizes
