"""Options that several commands of `ndae` share, described once."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ndae.experiments.problems.registry import TO_LEARN, check_to_learn


def _known(name: str) -> str:
    try:
        check_to_learn(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


Problem = Annotated[
    str,
    typer.Argument(
        help=f"Problem to learn: {', '.join(TO_LEARN)}; or a Python file of your own with a MotionProblem.",
        callback=_known,
    ),
]
Method = Annotated[
    Literal["none", "auxiliary", "penalty", "end", "smooth", "tangent", "multiplier", "soft"],
    typer.Option(
        metavar="NAME",
        help="none, auxiliary, penalty, end, smooth, multiplier, tangent (the multiplier of first order) or soft (a "
        "potential of learned stiffness, where constraints are not rigid): how constraints are enforced.",
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(
        min=0, help="Strength of the penalty (eq. 14): by default 10 in penalty, end, smooth, 0 in multiplier."
    ),
]
Eta = Annotated[
    float | None,
    typer.Option(
        min=0, help="Strength of the auxiliary loss (eq. 4): by default 10 in auxiliary, end, smooth, 0 in multiplier."
    ),
]
MaxStep = Annotated[
    float | None,
    typer.Option(help="Longest step of multiplier or soft, in the problem's unit of time; by default the problem's."),
]
Stabilisation = Annotated[
    Literal["projection", "ggl", "baumgarte", "none"],
    typer.Option(
        metavar="NAME",
        help="Against drift-off, in multiplier: projection, ggl (Gear, Gupta, Leimkuhler), baumgarte, none.",
    ),
]
Force = Annotated[
    Literal["free", "potential"],
    typer.Option(
        metavar="NAME", help="What multiplier and soft learn: free, any force, or potential, one with a potential."
    ),
]
Schedule = Annotated[
    Literal["constant", "cosine"],
    typer.Option(metavar="NAME", help="Learning rate over the epochs: constant, or cosine, down to zero."),
]
TrainingSamples = Annotated[int, typer.Option("--n-train", min=1, help="Training samples.")]
Horizon = Annotated[int, typer.Option(min=1, help="Steps, of 0.01 s if the problem has no other, to predict ahead.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the order of batches.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds to run, from 0 up.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training samples.")]
Network = Annotated[
    Literal["mimetic", "mimetic-small", "mlp", "equivariant", "equivariant-small", "molecular"] | None,
    typer.Option(
        metavar="NAME",
        help="mimetic (the paper's graph network; the pendulum's), mimetic-small or mlp (of others); equivariant (the "
        "paper's on molecules), equivariant-small, molecular (distances within and between molecules; soft and "
        "multiplier alone).",
    ),
]
Trajectory = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Take the data from this trajectory, of problems that can (water)."),
]
FrameStep = Annotated[
    float | None,
    typer.Option(help="Time between its frames, in the problem's unit; by default what the file says."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a training step.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate of Adam.")]
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs with no better validation error.")]
Keep = Annotated[
    Literal["best", "last"],
    typer.Option(metavar="NAME", help="Weights to test and keep: best, of the smallest validation error, or last."),
]
Device = Annotated[str, typer.Option(help="Where to train: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[Literal["float32", "float64"], typer.Option(help="Precision of weights and states.")]
Integrator = Annotated[
    str | None,
    typer.Option(help="Integrator over depth: classical_rk4, euler, midpoint, dopri5, ...; velocity_verlet (soft's)."),
]
Adjoint = Annotated[bool, typer.Option("--adjoint", help="Gradients by the adjoint equation, not by backpropagation.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; by default torch's choice.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the run; by default under runs/, named after it.")]
StudyOut = Annotated[Path, typer.Option(help="Folder for runs, table and figures.")]
Results = Annotated[Path | None, typer.Option(help="Folder for one small JSON a run; by default results/ under --out.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over where a run can be resumed or is finished.")]

ALL_METHODS = "none,auxiliary,penalty,end,smooth,end-alone,smooth-alone,tangent,multiplier"
Methods = Annotated[
    str | None,
    typer.Option(
        help="Methods, comma-separated; end-alone and smooth-alone are projections without γ and η. By default all: "
        f"{ALL_METHODS.replace(',', ', ')}, and soft where constraints are not rigid."
    ),
]
Over = Annotated[Literal["gamma", "eta"], typer.Option(help="Which strength to vary.")]
Values = Annotated[str, typer.Option(help="Strengths to try, comma-separated.")]
SweepMethod = Annotated[
    Literal["auxiliary", "penalty", "end", "smooth", "tangent", "multiplier"] | None,
    typer.Option(metavar="NAME", help="Method to vary; by default penalty for gamma and auxiliary for eta."),
]
Backend = Literal["torch", "jax", "numpy"] | None


@dataclass(frozen=True)
class Motion:
    """Options of methods that have a motion in time, and of where its data is from."""

    stabilisation: Stabilisation = "projection"
    force: Force = "free"
    max_step: MaxStep = None
    trajectory: Trajectory = None
    frame_step: FrameStep = None


@dataclass(frozen=True)
class Training:
    """Options of every run, whatever its method."""

    n_train: TrainingSamples = 100
    horizon: Horizon = 20
    epochs: Epochs = 50
    network: Network = None
    batch_size: BatchSize = 10
    learning_rate: LearningRate = 1e-3
    schedule: Schedule = "constant"
    patience: Patience = None
    keep: Keep = "best"
    device: Device = "cpu"
    dtype: Dtype = "float32"
    integrator: Integrator = None
    adjoint: Adjoint = False
    threads: Threads = None


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as typer reads it: the fields of a parameter that is `Motion` or `Training` are options one by one."""
    bundles: dict[str, Any] = {}
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if not dataclasses.is_dataclass(parameter.annotation):
            options.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        bundles[name] = parameter.annotation
        for field in dataclasses.fields(parameter.annotation):
            options.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
                )
            )

    @functools.wraps(command)
    def read(**given: Any) -> None:
        for name, kind in bundles.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        command(**given)

    read.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
    read.__annotations__ = {option.name: option.annotation for option in options}
    return read
