"""Whether two solves agree at every output time, in every variable: an end value tells nothing of a wrong one before.

Accelerations, multipliers and other algebraic variables are solved for anew at every output, so one of them may be
wrong at one output alone, with states that are right to all digits and residuals at rounding.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndae.experiments.crosscheck.digits import correct_digits

#: An algebraic variable has the digits of the differential ones, less what its equations cost; with so many fewer it
#: is none that the states determine.
_LOST = 5.0


@dataclass(frozen=True)
class Agreement:
    """Digits in which a solve agrees with the `other` at its worst output, by kind of variable (None: there are none).

    Digits are against the largest magnitude of a variable; `variable` and `at` say which algebraic one is worst, when.
    """

    other: str
    differential: float | None
    algebraic: float | None
    variable: str = ""
    at: float = 0.0

    @property
    def least(self) -> float | None:
        """Of all variables."""
        found = [digits for digits in (self.differential, self.algebraic) if digits is not None]
        return min(found, default=None)

    @property
    def suspicious(self) -> bool:
        """Whether the states agree and what follows from them does not."""
        if self.differential is None or self.algebraic is None:
            return False
        return self.algebraic < self.differential - _LOST


def agreement(name: str, solution: Any, other: Any, differential: Collection[str], names: Sequence[str]) -> Agreement:
    """How two Solutions on the same times agree; `name` is the other's, `names` are the variables that count."""
    least: dict[bool, tuple[float, str, float]] = {}
    for variable in names:
        mine, theirs = solution[variable], other[variable]
        error = np.nan_to_num(np.abs(mine - theirs), nan=np.inf)
        k = int(np.argmax(error))
        digits = correct_digits(float(mine[k]), float(theirs[k]), float(np.max(np.abs(theirs))))
        kind = variable in differential
        least[kind] = min(least.get(kind, (np.inf, "", 0.0)), (digits, variable, float(solution.ts[k])))
    algebraic = least.get(False, (None, "", 0.0))
    return Agreement(name, least[True][0] if True in least else None, *algebraic)
