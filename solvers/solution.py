"""The outcome of a solve, learned or reference, so that any two can be compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

SUCCESS = "successful"
# The groups of a mechanical system, in words.
_WORDS = {"q": "coordinates", "v": "velocities", "multiplier": "multipliers"}
LEVELS = ("position", "velocity", "acceleration")


@dataclass(frozen=True, eq=False, repr=False)  # arrays have no one truth value, and are long
class Solution:
    """Times, states, residuals, invariants and statistics of one solve, or of a batch of solves on the same times.

    Batch axes come first, then time. A solve that failed keeps `n_reached` output points; later ones (present only
    where another solve of its batch got further) hold its last state, and `result` says why it stopped. One that never
    began, for there is no consistent start, has `n_reached` 0, NaN everywhere and counts of 0.

    - `ts` (n_times,): output times, strictly increasing.
    - `x` (*batch, n_times, n): all variables, differential and algebraic, in the order of `names`;
      `solution["lam1"]` is one of them, (*batch, n_times).
    - `names`: the name of each variable; empty where they have none.
    - `residual`: by level, each (*batch, n_times, n_level), in the units of its equations. Of a mechanical system
      "position" c(q, t), "velocity" J v + ∂c/∂t, "acceleration" J a + curvature; of a DAE "level k" its algebraic
      equations differentiated k times, and "redundant" those that follow from them.
    - `invariants`: by name, each (*batch, n_times): what should stay as it was at the start, such as "energy" (J).
    - `stats`: counts a solve, each an int or an array of the batch's shape: `n_steps`, `n_accepted`, `n_rejected`,
      `n_f_evals`.
    - `result`: "successful" or the reason of the failure; an array of strings of the batch's shape for a batch.
    - `n_reached`: number of output points reached, an int or an array of the batch's shape.
    - `groups`: columns of `x` that belong together, by name: "q", "v" and "multiplier" of a mechanical system (read as
      the properties `q`, `v` and `multiplier`), "differential" and "algebraic" of a DAE, and "least_norm" where
      redundant constraints leave multipliers open, of which these are the least in the sum of squares.
    """

    ts: Float[np.ndarray, "n_times"]
    x: Float[np.ndarray, "*batch n_times n"]
    names: Sequence[str] = ()
    residual: Mapping[str, Float[np.ndarray, "*batch n_times _"]] = field(default_factory=dict)
    invariants: Mapping[str, Float[np.ndarray, "*batch n_times"]] = field(default_factory=dict)
    stats: Mapping[str, int | Int[np.ndarray, "*batch"]] = field(default_factory=dict)
    result: str | np.ndarray = SUCCESS
    n_reached: int | Int[np.ndarray, "*batch"] | None = None
    groups: Mapping[str, Sequence[int] | np.ndarray | slice] = field(default_factory=dict)

    @classmethod
    def of_motion(
        cls,
        ts: Float[np.ndarray, "n_times"],
        q: Float[np.ndarray, "*batch n_times n_states"],
        v: Float[np.ndarray, "*batch n_times n_states"] | None = None,
        multiplier: Float[np.ndarray, "*batch n_times n_residuals"] | None = None,
        *,
        energy: Float[np.ndarray, "*batch n_times"] | None = None,
        **fields: Any,
    ) -> "Solution":
        """The solution of a mechanical system from its parts: coordinates, velocities and multipliers, if it has them.

        Variables are named q0, q1, ..., v0, ..., lam0, ...; `energy` joins `invariants`, and `fields` are the others
        of the class.
        """
        parts = {"q": ("q", q), "v": ("v", v), "multiplier": ("lam", multiplier)}
        names, groups, columns = [], {}, []
        for group, (letter, part) in parts.items():
            if part is not None:
                groups[group] = slice(len(names), len(names) + part.shape[-1])
                names += [f"{letter}{i}" for i in range(part.shape[-1])]
                columns.append(part)
        invariants = dict(fields.pop("invariants", {}))
        if energy is not None:
            invariants["energy"] = energy
        x = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=-1)
        return cls(ts=ts, x=x, names=tuple(names), groups=groups, invariants=invariants, **fields)

    def __repr__(self) -> str:
        batch = self.x.shape[:-2]
        good = np.asarray(self.succeeded)
        result = str(self.result) if not batch else f"{np.sum(good)} of {good.size} successful"
        names = [*self.names[:8], *(["..."] if len(self.names) > 8 else [])] or [f"{self.x.shape[-1]} variables"]
        shape = f", batch {batch}" if batch else ""
        least = [str(self.names[int(i)]) for i in np.asarray(self.groups.get("least_norm", ()), dtype=int)]
        least_norm = f"; {', '.join(least)} of least norm" if least else ""
        return f"Solution({', '.join(names)}; ts: {_span(self.ts)}{shape}; {result}{least_norm})"

    def __getitem__(self, name: Any) -> Float[np.ndarray, "*batch n_times"]:
        """One variable over time, by its name or symbol. Raises KeyError with the names there are."""
        name = str(name)
        if name not in self.names:
            raise KeyError(f"no variable {name!r}; there are {', '.join(self.names) or 'no names'}")
        return self.x[..., list(self.names).index(name)]

    @property
    def q(self) -> Float[np.ndarray, "*batch n_times n_states"] | None:
        """Coordinates of a mechanical system, None of another."""
        return self._group("q")

    @property
    def v(self) -> Float[np.ndarray, "*batch n_times n_states"] | None:
        """Velocities of a mechanical system, None where there are none."""
        return self._group("v")

    @property
    def multiplier(self) -> Float[np.ndarray, "*batch n_times n_residuals"] | None:
        """Lagrange multipliers of a mechanical system at the acceleration level, None where there are none."""
        return self._group("multiplier")

    @property
    def energy(self) -> Float[np.ndarray, "*batch n_times"] | None:
        """The invariant of that name, or None."""
        return self.invariants.get("energy")

    @property
    def succeeded(self) -> bool | np.ndarray:
        """Whether each solve reached the last output time: a bool, or an array of the batch's shape."""
        good = np.asarray(self.result) == SUCCESS
        return good if good.ndim else bool(good)

    def max_drift(self) -> dict[str, float | np.ndarray]:
        """Largest absolute residual over time, by level, and of every invariant its largest change since the start.

        Each value is a float, or an array of the batch's shape.
        """
        drift = {
            level: _float_or_array(np.abs(value).max(axis=(-2, -1), initial=0.0))
            for level, value in self.residual.items()
        }
        for name, value in self.invariants.items():
            drift[name] = _float_or_array(np.abs(value - value[..., :1]).max(axis=-1))
        return drift

    def error(self, other: "Solution", of: str | Sequence[str] = "all") -> Float[np.ndarray, "*batch n_times"]:
        """Largest difference |x - x_other| at every output time, over the variables `of`, each in its own unit.

        `of`: "all" that both have, multipliers and other algebraic variables among them, for these may be wrong where
        the states are right; a group of both, such as "q" or "multiplier"; or names of variables. Of two mechanical
        systems the groups q, v and multiplier are compared one by one, whatever the variables are called.

        Raises ValueError unless both solutions have the same output times and the same variables, in the same order.
        """
        if self.ts.shape != other.ts.shape or not np.array_equal(self.ts, other.ts):
            raise ValueError(
                f"the solutions have different output times ({_span(self.ts)} and {_span(other.ts)}); "
                "solve both with the same `ts` to compare them"
            )
        pairs = [(self._compared(part), other._compared(part)) for part in self._parts(other, of)]
        for (mine, names, what), (theirs, others, _) in pairs:
            if mine.shape[-1] != theirs.shape[-1]:
                raise ValueError(
                    f"the solutions have {mine.shape[-1]} and {theirs.shape[-1]} {what}; "
                    f"write one in the {what} of the other to compare them"
                )
            if names and others and names != others:
                i = next(i for i, pair in enumerate(zip(names, others, strict=True)) if pair[0] != pair[1])
                raise ValueError(
                    f"the solutions have different variables: number {i} is {names[i]!r} in one and {others[i]!r} in "
                    "the other; write both over the same states, in the same order, to compare them"
                )
        return np.concatenate([np.abs(mine[0] - theirs[0]) for mine, theirs in pairs], axis=-1).max(axis=-1)

    def agrees_until(self, other: "Solution", tol: float = 1e-6, of: str | Sequence[str] = "q") -> float | np.ndarray:
        """Last output time up to which `error` stays at or below `tol`; -inf where the starts already differ.

        Two solutions of a chaotic system part exponentially, whatever their accuracy: beyond this time neither says
        where the system is, only how it may move. So coordinates are what counts by default, or all variables where
        one of both has no q; `of` as in `error`. A float, or an array of the batch's shape.
        """
        if of == "q" and not ("q" in self.groups and "q" in other.groups):
            of = "all"
        agrees = np.logical_and.accumulate(self.error(other, of) <= tol, axis=-1)
        count = agrees.sum(axis=-1)
        return _float_or_array(np.where(count > 0, self.ts[np.maximum(count, 1) - 1], -np.inf))

    def _group(self, name: str) -> np.ndarray | None:
        return self.x[..., self.groups[name]] if name in self.groups else None

    def without(self, refused: Mapping[tuple[int, ...], str]) -> "Solution":
        """The same with nothing but a reason for those of the batch that never began, by index."""
        if not refused:
            return self
        batch = self.x.shape[:-2]

        def emptied(value: Any, by: Any) -> Any:
            value = np.array(np.broadcast_to(value, batch) if np.ndim(value) < len(batch) else value)
            for index in refused:
                value[index] = by
            return value if value.ndim else value.item()

        result = np.array(np.broadcast_to(self.result, batch), dtype=object)
        for index, reason in refused.items():
            result[index] = reason
        return replace(
            self,
            x=emptied(self.x, np.nan),
            residual={level: emptied(value, np.nan) for level, value in self.residual.items()},
            invariants={name: emptied(value, np.nan) for name, value in self.invariants.items()},
            stats={name: emptied(value, 0) for name, value in self.stats.items()},
            result=result.astype(str) if batch else str(result),
            n_reached=emptied(self.n_reached, 0),
        )

    def _parts(self, other: "Solution", of: str | Sequence[str]) -> list[str | tuple[str, ...]]:
        """The groups to compare one by one, or names; () stands for all variables as they are."""
        both = [name for name in self.groups if name in other.groups]
        if of == "all":
            return [name for name in _WORDS if name in both] if "q" in both else [()]
        if isinstance(of, str) and of in both:
            return [of]
        names = (of,) if isinstance(of, str) else tuple(map(str, of))
        for name in names:
            if name not in self.names or name not in other.names:
                shared = ", ".join(n for n in self.names if n in other.names)
                raise ValueError(
                    f"of={name!r} is in one of the solutions at most: both have the groups "
                    f"{', '.join(both) or '(none)'} and the variables {shared or '(none)'}"
                )
        if not names:
            raise ValueError('of names no variable: give "all", a group such as "multiplier", or names')
        return [names]

    def _compared(self, part: str | tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...], str]:
        """Values of a part, their names where these have to agree, and what they are called."""
        if isinstance(part, str):
            named = self.names and part not in _WORDS
            names = tuple(np.asarray(self.names, dtype=object)[self.groups[part]]) if named else ()
            return self.x[..., self.groups[part]], names, _WORDS.get(part, f"{part} variables")
        if part:
            return np.stack([self[name] for name in part], axis=-1), part, "variables"
        return self.x, tuple(self.names), "variables"


class SolveError(RuntimeError):
    """A solve stopped early: `solution` is what it reached, of ndae.flow a FlowResult; None where it never started."""

    def __init__(self, message: str, solution: Any = None) -> None:
        super().__init__(message)
        self.solution = solution


def _float_or_array(value: np.ndarray | np.floating) -> float | np.ndarray:
    return float(value) if np.ndim(value) == 0 else np.asarray(value)


def _span(ts: np.ndarray) -> str:
    return f"{ts.size} from {ts[0]:g} to {ts[-1]:g}" if ts.size else "none"
