"""One function of a learned system by itself: to call, to tabulate, and to draw where there was data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndae.data.recording import Recording
from ndae.symbolic.backends.given import Given
from ndae.symbolic.expressions.tables import table
from ndae.symbolic.expressions.unknowns import Unknown, applied_in
from ndae.symbolic.ground.words import listed


class LearnedFunction:
    """An unknown function of a `NeuralSystem` as it is now: `model.function("r")`.

    Called with n arrays that broadcast, it gives their values as an array, or (..., outputs) of several outputs.
    `module`: the torch module (..., n) -> (..., outputs), None of a function that is known. `arguments`: what it is
    called with in the equations, as text, for each place.
    """

    def __init__(self, model: Any, unknown: Unknown, given: Given):
        self.model, self.unknown, self._given = model, unknown, given
        found = {e.places for e in applied_in(model.system.equations) if e.unknown == unknown}
        self._places = sorted(found, key=str)
        self.arguments = tuple(tuple(map(str, places)) for places in self._places)

    @property
    def module(self) -> Any:
        """The torch module that it is, or None."""
        return self._given.module

    def __call__(self, *arguments: Any) -> np.ndarray:
        """Its values at n numbers or arrays."""
        n = self._given.n
        if len(arguments) != n:
            raise ValueError(f"{self.unknown} takes {n} argument{'s' * (n != 1)}, and got {len(arguments)}")
        places = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in arguments))
        wanted = [(0, output, (0,) * n) for output in range(self.unknown.outputs)]
        values = [np.asarray(v) for v in self._given.numpy()(wanted, [list(places)])]
        values = [np.broadcast_to(v, places[0].shape) for v in values]
        return values[0] if len(values) == 1 else np.stack(values, -1)

    def table(self, low: float, high: float, n: int = 201, kind: str = "cubic") -> Any:
        """An `ndae.table` of it between two numbers, of n equal steps, to be put in its place; of one argument and
        output alone, else a ValueError."""
        if (self._given.n, self.unknown.outputs) != (1, 1):
            raise ValueError(
                f"{self.unknown} has {self._given.n} arguments and {self.unknown.outputs} outputs: a table has one each"
            )
        x = np.linspace(low, high, n)
        return table(x, self(x), kind=kind, name=self.unknown.name)

    def visited(self, recordings: Recording | Sequence[Recording]) -> np.ndarray:
        """Where it was asked along the learned motions of recordings, from the starts that fit them: (n, n_arguments),
        the places of every recording and of all that the equations ask."""
        recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
        found = []
        for r in recordings:
            numbers, inputs = dict(r.parameters), {name: r.inputs[name] for name in self.model.inputs}
            solution = self.model.predict(self.model.estimate(r).start, r.times, parameters=numbers, inputs=inputs)
            for places in self._places:
                named = {str(i): e for i, e in enumerate(places)}
                found.append(np.stack(list(self.model.along(solution, r, named).values()), -1))
        return np.concatenate(found) if found else np.zeros((0, self._given.n))

    def plot(
        self,
        path: str | Path,
        recordings: Recording | Sequence[Recording] = (),
        *,
        between: Sequence[float | int] | None = None,
        truth: Any = None,
    ) -> Path:
        """Draw it against its argument, of several against each while the others are at their medians, with where there
        was data; `truth`: a function of the same arguments, drawn beside.

        `between`: the range of a single argument; by default where the recordings came. Raises ValueError where neither
        says a range.
        """
        import matplotlib.figure

        recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
        seen = self.visited(recordings) if recordings else np.zeros((0, self._given.n))
        seen = seen[np.isfinite(seen).all(-1)]
        if between is None and not len(seen):
            raise ValueError(f"nothing says where to draw {self.unknown}: give recordings, or between=(low, high)")
        if between is not None and self._given.n != 1:
            raise ValueError(f"between= is of one argument, and {self.unknown} has {self._given.n}: give recordings")
        figure = matplotlib.figure.Figure(figsize=(4.2 * self._given.n, 3.2), layout="constrained")
        for j, axes in enumerate(np.atleast_1d(figure.subplots(1, self._given.n))):
            low, high = between if between is not None else (float(seen[:, j].min()), float(seen[:, j].max()))
            middle = [float(np.median(seen[:, i])) if len(seen) else 0.0 for i in range(self._given.n)]
            places: list[Any] = [np.full(201, m) for m in middle]
            places[j] = np.linspace(low, high, 201)
            for label, function, style in (("true", truth, "k--"), ("learned", self, "C0-")):
                if function is not None:
                    axes.plot(places[j], np.reshape(np.asarray(function(*places)), (201, -1)), style, label=label)
            axes.plot(seen[:, j], np.full(len(seen), 0.02), "|", color="0.5", transform=axes.get_xaxis_transform())
            shown = sorted({arguments[j] for arguments in self.arguments})
            axes.set_xlabel(listed(shown, 3))
            axes.set_ylabel(self.unknown.name)
            axes.legend()
        figure.savefig(path, dpi=150)
        return Path(path)
