"""Constraints: functions that should vanish, with the levels hidden in them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

if TYPE_CHECKING:
    Expressions = Sequence[sp.Expr | sp.Equality | sp.Matrix] | sp.Expr | sp.Equality | sp.Matrix
    Symbols = Sequence[sp.Symbol] | sp.Symbol
    Points = Sequence[sp.Matrix]
    Over = Sequence[Sequence[int | str]] | np.ndarray
    Parameters = Mapping[sp.Symbol, float | Sequence[float] | np.ndarray | None] | Sequence[sp.Symbol] | None
    Anchors = Mapping[str, Sequence[float]] | None
    Time = sp.Symbol | None
else:  # checked by hand, with errors that name the mend, which run-time type checks must not forestall
    Expressions = Symbols = Points = Over = Parameters = Anchors = Time = Any
from ndae.symbolic.functions.function import Function


class Constraint(Function):
    """A function that should vanish: c(y, t; p) = 0 (paper, eq. 1b), with its hidden levels.

    Beside what a `Function` refuses, raises ValueError on constraints given twice, and on constraints that depend on
    one another: a Jacobian that is rank-deficient at generic points, or wherever the constraint holds. The message
    names which.
    """

    def _read(self, *args, **kwargs):
        super()._read(*args, **kwargs)
        from ndae.symbolic.functions.independence import check_independent

        check_independent(self)
