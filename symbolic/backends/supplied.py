"""What generated code calls in the place of an unknown function."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ndae.symbolic.expressions.unknowns import Unknown

#: One value of a function: at which of the places, which output, how often differentiated by each argument.
Wanted = tuple[int, int, tuple[int, ...]]


class Supplied(ABC):
    """A function of `n` arguments for one backend, with its derivatives, in the place of an unknown one."""

    unknown: Unknown
    n: int

    @abstractmethod
    def __call__(self, wanted: Sequence[Wanted], places: Sequence[Sequence[Any]]) -> list[Any]:
        """The wanted values of the function at places, each a list of n numbers or arrays that broadcast."""


def highest(wanted: Sequence[Wanted]) -> int:
    """The highest order of derivative among what is wanted."""
    return max(sum(orders) for _, _, orders in wanted)


def index(output: int, orders: Sequence[int]) -> tuple[int, ...]:
    """Where a partial derivative stands in the array (outputs, n, ..., n) of all of its order."""
    return output, *(j for j, k in enumerate(orders) for _ in range(k))


def wrong_outputs(unknown: Unknown, n: int, shape: Any) -> ValueError:
    """That what was given for a function gives other values than the equations take."""
    return ValueError(
        f"what is given for the unknown function {unknown}, of {n} argument{'s' * (n != 1)}, gives {shape}: expected "
        f"{unknown.outputs} value{'s' * (unknown.outputs != 1)} at each point"
    )
