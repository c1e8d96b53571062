"""How the learning rate goes on: a function of the share of training that is done, or of the validation errors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ndae.training.history import History

#: Functions of the share of all steps that is done, from 0 to 1, by which the learning rate is multiplied.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


@dataclass(frozen=True)
class Plateau:
    """A learning rate that falls where the validation error does not: `fit(..., schedule=Plateau(patience=5))`.

    It is multiplied by `factor` after each `patience` epochs in a row without a validation error below (1 - `gain`)
    times the smallest before, and never gets below `least` times what it began with.
    """

    factor: float = 0.5
    patience: int = 10
    gain: float = 1e-3
    least: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"factor={self.factor!r}: expected a share between 0 and 1")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"patience={self.patience!r}: expected a whole number of epochs, at least 1")
        for name, value in {"gain": self.gain, "least": self.least}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected a share, at least 0 and below 1")

    def share(self, errors: Sequence[float]) -> float:
        """By what the learning rate is multiplied after epochs with these validation errors."""
        found, best, waited = 1.0, math.inf, 0
        for error in errors:
            waited = 0 if error < (1 - self.gain) * best else waited + 1
            best = min(best, error)
            if waited == self.patience:
                found, waited = max(self.least, found * self.factor), 0
        return found


def checked_schedule(given: Any) -> Any:
    """A schedule as `fit` takes it: a name, a Plateau, or a function of the share done; else a ValueError."""
    if given == "plateau":
        return Plateau()
    if not (isinstance(given, str) and given in SCHEDULES) and not isinstance(given, Plateau) and not callable(given):
        known = ", ".join((*SCHEDULES, "plateau"))
        raise ValueError(f"schedule {given!r} is unknown: give one of {known}, or a function of the share done")
    return given


def factor(schedule: Any, history: History) -> Callable[[float], float]:
    """The learning rate's factor as a function of the share done, in a training with that history.

    It depends on rows that are kept in every checkpoint, and on nothing else, so that there is no state to lose.
    """
    if isinstance(schedule, Plateau):
        seen = {-1: 1.0}

        def now(done: float) -> float:
            n = len(history.rows)
            if n not in seen:
                seen.clear()
                seen[n] = schedule.share([row.val_mae for row in history.rows])
            return seen[n]

        return now
    chosen = SCHEDULES[schedule] if isinstance(schedule, str) else schedule

    def of_share(done: float) -> float:
        found = chosen(done)
        if not (isinstance(found, int | float) and math.isfinite(found) and found >= 0):
            raise ValueError(
                f"the schedule gives {found!r} at {done:.3g} of the training: expected a finite factor, >= 0"
            )
        return float(found)

    return of_share
