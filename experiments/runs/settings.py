"""The settings of a run: each stands here once, with its default, bounds and help; the command line follows."""

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ndae.experiments.problems.registry import TO_LEARN
from ndae.experiments.variants import CHOICES_OF, FORCES, KEEPS, METHODS, NETWORKS, SCHEDULES, STABILISATIONS

DTYPES = ("float32", "float64")


def setting(
    default: Any,
    help: str = "",
    *,
    choices: Sequence[str] = (),
    least: int | None = None,
    file: bool = False,
    of_problem: bool = False,
    first: bool = False,
) -> Any:
    """The field of one setting.

    Args:
        default: What a run has where it is left out.
        help: Its line on the command line; a setting without one is not asked for there.
        choices: The names that it can have.
        least: The smallest number that it can be. A float without one is above 0.
        file: Whether it is the path of a file.
        of_problem: Whether the command line leaves it to the problem where it is left out there.
        first: Whether it can be given without its name, as problem and method can.
    """
    known = {"help": help, "choices": tuple(choices), "least": least, "file": file, "of_problem": of_problem}
    return dataclasses.field(default=default, metadata=known, kw_only=not first)


@dataclass(frozen=True)
class DataSettings:
    """What is learned: a problem, by name or by the path of a Python file, and samples of it."""

    problem: str = setting(
        "pendulum",
        f"Problem to learn: {', '.join(TO_LEARN)}; or a file of your own: Python, with a "
        "MotionProblem or DataProblem, or JSON with equations and data.",
        first=True,
    )
    trajectory: str | None = setting(
        None, "Take the data from this trajectory, of problems that can (water).", file=True
    )
    frame_step: float | None = setting(
        None, "Time between its frames, in the problem's unit; by default what the file says."
    )
    n_train: int = setting(100, "Training samples.", least=1)
    horizon: int = setting(20, "Steps, of 0.01 s if the problem has no other, to predict ahead.", least=1)
    n_val: int = setting(200, least=1)
    n_test: int = setting(1000, least=1)


@dataclass(frozen=True)
class MethodSettings:
    """How constraints are kept. Strengths left out are the method's own; those that it has no part for are 0."""

    method: str = setting(
        "none",
        "none, auxiliary, penalty, end, smooth, multiplier, tangent (the multiplier of first order) or soft (a "
        "potential of learned stiffness, where constraints are not rigid): how constraints are enforced.",
        choices=METHODS,
        first=True,
    )
    gamma: float | None = setting(
        None, "Strength of the penalty (eq. 14): by default 10 in penalty, end, smooth, 0 in multiplier.", least=0
    )
    eta: float | None = setting(
        None,
        "Strength of the auxiliary loss (eq. 4): by default 10 in auxiliary, end, smooth, 0 in multiplier.",
        least=0,
    )
    stabilisation: str = setting(
        STABILISATIONS[0],
        "Against drift-off, in multiplier: projection, ggl (Gear, Gupta, Leimkuhler), baumgarte, none.",
        choices=STABILISATIONS,
    )
    force: str = setting(
        FORCES[0],
        "What multiplier and soft learn: free, any force, or potential, one with a potential.",
        choices=FORCES,
    )
    max_step: float | None = setting(
        None, "Longest step of multiplier or soft, in the problem's unit of time; by default the problem's."
    )

    def choices(self) -> dict[str, Any]:
        """What a `Variant` of any method takes of these."""
        return {name: getattr(self, name) for name in ("gamma", "eta", "stabilisation", "force")}


@dataclass(frozen=True)
class NetworkSettings:
    """What learns, and how it is integrated over depth or time."""

    network: str = setting(
        "mimetic",
        "mimetic (the paper's graph network; the pendulum's), mimetic-small or mlp (of others); equivariant (the "
        "paper's on molecules), equivariant-small, molecular (distances within and between molecules; soft and "
        "multiplier alone).",
        choices=NETWORKS,
        of_problem=True,
    )
    dtype: str = setting("float32", "Precision of weights and states.", choices=DTYPES)
    integrator: str | None = setting(
        None, "Integrator over depth: classical_rk4, euler, midpoint, dopri5, ...; velocity_verlet (soft's)."
    )
    adjoint: bool = setting(False, "Gradients by the adjoint equation, not by backpropagation.")


@dataclass(frozen=True)
class TrainingSettings:
    """How it is trained."""

    epochs: int = setting(50, "Passes over the training samples.", least=1)
    batch_size: int = setting(10, "Samples a training step.", least=1)
    learning_rate: float = setting(1e-3, "Learning rate of Adam.")
    schedule: str = setting(
        SCHEDULES[0], "Learning rate over the epochs: constant, or cosine, down to zero.", choices=SCHEDULES
    )
    gradient_clip: float | None = setting(None)
    patience: int | None = setting(None, "Stop after so many epochs with no better validation error.", least=1)
    keep: str = setting(
        KEEPS[0], "Weights to test and keep: best, of the smallest validation error, or last.", choices=KEEPS
    )
    device: str = setting("cpu", "Where to train: cpu, cuda, cuda:1, ...")
    seed: int = setting(0, "Seed of the split, the weights and the order of batches.", least=0)


# The fields of the last base come first.
@dataclass(frozen=True)
class Settings(TrainingSettings, NetworkSettings, MethodSettings, DataSettings):
    """All settings of a run as they were given; `RunConfig` checks them and fills in what was left out."""


def kind_of(field: dataclasses.Field) -> tuple[Any, bool]:
    """The type of a setting's value, and whether it can be None."""
    kinds: Sequence[Any] = typing.get_args(field.type) or (field.type,)
    return kinds[0], type(None) in kinds


def foreign_choices(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The settings that were given and that the method has no part for, each with the methods that have one."""
    return {
        name: methods
        for name, methods in CHOICES_OF.items()
        if settings.method not in methods and getattr(settings, name) != getattr(Settings, name)
    }


def checked(field: dataclasses.Field, value: Any) -> Any:
    """The value of one setting, a whole number as a float where it is one; raises `ValueError` for one that no run can
    have."""
    kind, optional = kind_of(field)
    name, choices, least = field.name, field.metadata["choices"], field.metadata["least"]
    if value is None and optional:
        return None
    if choices:
        if value not in choices:
            raise ValueError(f"{name} {value!r} is unknown: give one of {', '.join(choices)}")
    elif kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not _in_range(value, least):
            raise ValueError(
                f"{name} is a finite number {'above 0' if least is None else 'of at least 0'}, not {value!r}"
            )
        return float(value)
    elif kind is int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
            raise ValueError(f"{name} is a whole number of at least {least}, not {value!r}")
    elif not isinstance(value, kind):
        expected = "true or false" if kind is bool else "the path of a file" if field.metadata["file"] else "a name"
        raise ValueError(f"{name} is {expected}, not {value!r}")
    return value


def _in_range(value: float, least: int | None) -> bool:
    return math.isfinite(value) and (value > 0 if least is None else value >= least)
