"""A problem whose equations hold functions that nobody knows, and recordings to learn them from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ndae.data.recording import Recording
from ndae.symbolic.expressions.names import check_name
from ndae.symbolic.systems.system import System

if TYPE_CHECKING:
    from ndae.models.neural_system import NeuralSystem


@dataclass(frozen=True, eq=False)
class DataProblem:
    """A `System` with unknown functions, and `Recording`s of it: what `ndae train`, `compare` and `validate` take.

    - `system`: with `ndae.unknown` functions; its `outputs` are what the recordings show.
    - `functions`: makes what these are, `{unknown: module, ...}`, anew for each run, as
      `lambda: {r: ndae.MLP(2, 1)}`; those left out are inputs of the recordings.
    - `train`, `validation`, `test`: recordings. Without `validation`, errors are those of training; without `test`,
      `validation` is what is cross-checked.
    - `learn`: parameters that are trained, as in `NeuralSystem`; `options`: its further arguments (`step`,
      `integrator`, `method`, `invariants`, `sizes`). `fit`: those of `ndae.fit` (`epochs`, `windows`, `optimizer`).

    Raises ValueError for what is no system, function or list of recordings, by name.
    """

    name: str
    system: System
    functions: Callable[[], Mapping[Any, Any]]
    train: Sequence[Recording]
    validation: Sequence[Recording] = ()
    test: Sequence[Recording] = ()
    learn: Sequence[Any] | Mapping[Any, float] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "a problem's name")
        if not isinstance(self.system, System):
            raise ValueError(f"problem {self.name!r}: system={self.system!r}: give an ndae.System")
        if not callable(self.functions):
            raise ValueError(
                f"problem {self.name!r}: functions={self.functions!r}: give a function that makes them anew, such as "
                "lambda: {r: ndae.MLP(1, 1)}, since every run begins with networks of its own"
            )
        for part in ("train", "validation", "test"):
            recordings = getattr(self, part)
            recordings = (recordings,) if isinstance(recordings, Recording) else tuple(recordings)
            strange = [r for r in recordings if not isinstance(r, Recording)]
            if strange:
                raise ValueError(f"problem {self.name!r}: {part} has {strange[0]!r}: give ndae.Recording objects")
            object.__setattr__(self, part, recordings)
        if not self.train:
            raise ValueError(f"problem {self.name!r}: train is empty: give at least one recording")

    @property
    def held_out(self) -> Sequence[Recording]:
        """The recordings that what was learned is checked on, as far from training as there are."""
        return self.test or self.validation or self.train

    def model(self, **options: Any) -> "NeuralSystem":
        """An untrained model; `options` go before those of the problem."""
        from ndae.models.neural_system import NeuralSystem

        return NeuralSystem(self.system, self.functions(), learn=self.learn, **{**self.options, **options})
