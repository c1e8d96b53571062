"""Unknown functions supplied to NumPy's code: the function itself, and for derivatives another library's."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ndae.symbolic.backends.supplied import Supplied, Wanted, highest, wrong_outputs
from ndae.symbolic.expressions.unknowns import Unknown
from ndae.symbolic.numeric.generic import generic


class NumpySupplied(Supplied):
    """A function of numbers and arrays; `otherwise`(wanted, arrays) gives derivatives, or all where `function` is None.

    Arrays (n_places, *batch, n) go to `otherwise`, and arrays (*batch) by each argument to `function`.
    """

    def __init__(self, unknown: Unknown, n: int, function: Callable | None, otherwise: Callable):
        self.unknown, self.n, self.function, self.otherwise = unknown, n, function, otherwise

    def __call__(self, wanted: Sequence[Wanted], places: Sequence[Sequence[Any]]) -> list[Any]:
        single = all(isinstance(x, float) for place in places for x in place)
        if self.function is None or highest(wanted):
            arrays = np.stack([np.stack(np.broadcast_arrays(*place), -1) for place in _alike(places)])
            values = self.otherwise(wanted, arrays)
            return [float(v) for v in values] if single else values
        found = [self._outputs(place) for place in places]
        values = [found[place][output] for place, output, _ in wanted]
        return [float(v) for v in values] if single else values

    def _outputs(self, place: Sequence[Any]) -> Any:
        assert self.function is not None
        values: Any = self.function(*place)
        if self.unknown.outputs == 1:
            values = values if isinstance(values, list | tuple) else [values]
        elif isinstance(values, np.ndarray):
            values = np.moveaxis(values, -1, 0)
        if len(values) != self.unknown.outputs:
            raise wrong_outputs(self.unknown, self.n, f"{len(values)} values")
        return values


class GenericSupplied(Supplied):
    """A function drawn at random in the place of an unknown one, to judge equations by whatever it is."""

    def __init__(self, unknown: Unknown, n: int):
        self.unknown, self.n = unknown, n

    def __call__(self, wanted: Sequence[Wanted], places: Sequence[Sequence[Any]]) -> list[Any]:
        function = generic(self.unknown, self.n)
        values = [function.value(output, orders, list(places[place])) for place, output, orders in wanted]
        return [float(v) if np.ndim(v) == 0 else v for v in values]


def _alike(places: Sequence[Sequence[Any]]) -> list[list[np.ndarray]]:
    shape = np.broadcast_shapes(*[np.shape(x) for place in places for x in place])
    return [[np.broadcast_to(x, shape) for x in place] for place in places]
