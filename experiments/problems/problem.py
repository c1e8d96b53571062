"""A problem: a DAE system, where it starts, how long it runs, and what its end values should be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp

from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.ground.words import check_known


@dataclass(frozen=True, eq=False)  # a system is compiled by identity
class Problem:
    """A DAE with a start, a span of time and, where known, the solution at its end.

    - `system`: a System.
    - `initial`: values by state name at `t_span[0]`. Those left out (multipliers, say) are solved for, all given ones
      kept.
    - `rates`: derivatives of states at the start, by state name: guesses from which equations that are nonlinear in
      them are solved, and the values where the system is of higher order in a state.
    - `t_span`: start and end (s).
    - `reference`: published values by state name at the end; text keeps every digit. `recomputed`: better ones, by
      which the published are judged too. `exact`: the solution as expressions of the system's time, by state name.
      Each may leave states out, which are then not scored.
    - `index`: the differentiation index that the source states, or None.
    - `title`, `source`, `notes`, and `texts`: everything else that was said of it, for a reader; among it as
      "reference_origin" where `reference` comes from.

    Raises ValueError for names that the system does not have, values that are no finite numbers, or a span that does
    not go forward.
    """

    name: str
    system: Any
    initial: Mapping[str, float]
    t_span: tuple[float, float]
    reference: Mapping[str, float | str] | None = None
    recomputed: Mapping[str, float | str] | None = None
    exact: Mapping[str, sp.Expr] | None = None
    rates: Mapping[str, float] | None = None
    index: int | None = None
    title: str = ""
    source: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    texts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a problem's name must be text, got {self.name!r}")
        check_name(self.name, "a problem's name")
        if self.name.startswith(".") or any(c in self.name for c in "/\\:"):
            raise ValueError(f"a problem's name is in files' names, got {self.name!r}: no . in front, no / \\ or :")
        for part in ("initial", "rates", "reference", "recomputed"):
            values = getattr(self, part)
            if values is not None:
                object.__setattr__(self, part, self._checked(part, values))
        if self.exact is not None:
            self._known("exact", self.exact)
        if not self.initial:
            raise ValueError(f"problem {self.name!r}: `initial` is empty; give the states' values at the start")
        try:
            start, end = (float(t) for t in self.t_span)
        except (TypeError, ValueError):
            raise ValueError(
                f"problem {self.name!r}: t_span must be two times, start and end, got {self.t_span!r}"
            ) from None
        if not (np.isfinite(start) and np.isfinite(end) and start < end):
            raise ValueError(f"problem {self.name!r}: t_span must go forward between finite times, got {self.t_span!r}")
        object.__setattr__(self, "t_span", (start, end))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the system's states, in its order."""
        return tuple(symbol.name for symbol in self.system.states)

    def exact_states(self, ts: Any) -> dict[str, np.ndarray] | None:
        """The exact solution at times `ts` (n_times,), an array of that shape by state name, or None."""
        if not self.exact:
            return None
        ts = np.asarray(ts, dtype=np.float64)
        time = self.system.time
        values = {}
        for name, expression in self.exact.items():
            # 30 digits each: a solution such as exp(-t) + t sin(t) at t = 100 must not lose any to its evaluation.
            values[name] = np.array([_number(sp.sympify(expression).subs(time, sp.Float(t, 30))) for t in ts])
        return values

    def best_reference(self) -> tuple[dict[str, float], str] | None:
        """The best known values at the end by state name, and which they are: "exact", "recomputed" or "published"."""
        if self.exact:
            exact: Any = self.exact_states([self.t_span[1]])
            return {name: float(v[0]) for name, v in exact.items()}, "exact"
        for values, kind in ((self.recomputed, "recomputed"), (self.reference, "published")):
            if values:
                return {name: float(value) for name, value in values.items()}, kind
        return None

    def _checked(self, part: str, values: Mapping[str, Any]) -> dict[str, Any]:
        self._known(part, values)
        for name, value in values.items():
            try:
                finite = bool(np.isfinite(float(value)))
            except (TypeError, ValueError):
                finite = False
            if not finite:
                raise ValueError(f"problem {self.name!r}: {part}[{name!r}] must be a finite number, got {value!r}")
        keep_text = part in ("reference", "recomputed")
        return {n: v if keep_text and isinstance(v, str) else float(v) for n, v in values.items()}

    def _known(self, part: str, values: Mapping[str, Any]) -> None:
        check_known(values, self.states, f"`{part}`: problem {self.name!r}", "state")


def _number(expression: Any) -> float:
    return float(expression.evalf(30))
