"""Options of `ndae` that several commands share; those of a run follow from its `Settings`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ndae.experiments.problems.registry import check_to_learn, data_problem, is_file, to_learn
from ndae.experiments.runs.settings import Settings, foreign_choices, kind_of
from ndae.experiments.terminal import UserError

Seeds = Annotated[int, typer.Option(min=1, help="How many seeds to run, from 0 up.")]
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
    str | None,
    typer.Option(metavar="NAME", help="Method to vary; by default penalty for gamma and auxiliary for eta."),
]
Backend = Literal["torch", "jax", "numpy"] | None


def of_a_run(
    without: tuple[str, ...] = (), of_data: Callable[..., None] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose first parameter is a run's `Settings`: typer is shown an option for each.

    `without`: settings that are no options of this command. `of_data`: what does the work for a file with equations,
    unknown functions and recordings: it gets the problem, the file, the settings that were typed, and the command's
    own options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        fields = [f for f in dataclasses.fields(Settings) if f.metadata["help"] and f.name not in without]
        own = list(inspect.signature(command).parameters.values())[1:]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        options = [context, *map(_option, fields), *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]

        @functools.wraps(command)
        def read(**given: Any) -> None:
            context = given.pop("context")
            asked = {field.name: given.pop(field.name) for field in fields}
            file = asked["problem"]
            made = data_problem(file) if is_file(file) else None
            if made is None:
                command(_settings(asked), **given)
            elif of_data is None:
                raise UserError(f"{file} is a system with data, which this command does not take: give `ndae compare`")
            else:
                of_data(made, file, _typed_of_data(asked, context), **given)

        read.__signature__ = inspect.Signature(options)  # pyright: ignore[reportAttributeAccessIssue]
        read.__annotations__ = {option.name: option.annotation for option in options}
        return read

    return decorate


def _option(field: dataclasses.Field) -> inspect.Parameter:
    """A setting as typer reads it."""
    (kind, optional), known, default = kind_of(field), field.metadata, field.default
    if field.name == "problem":
        shown, default = typer.Argument(help=known["help"], callback=_known), inspect.Parameter.empty
    else:
        # More than a few names are in the line of help.
        metavar = "FILE" if known["file"] else "NAME" if known["choices"] and field.name != "dtype" else None
        shown = typer.Option(_typed(field.name), help=known["help"], min=known["least"], metavar=metavar)
    if known["of_problem"]:
        optional, default = True, None
    kind: Any = Literal[known["choices"]] if known["choices"] else kind
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind | None if optional else kind, shown],
    )


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _typed_of_data(asked: dict[str, Any], context: typer.Context) -> dict[str, Any]:
    """The settings that were typed, by name; raises UserError for one that a system with data does not have."""
    from ndae.experiments.runs.of_data import SETTINGS

    sources = {name: context.get_parameter_source(name) for name in asked if name != "problem"}
    typed = {name: asked[name] for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    foreign = [_typed(name) for name in typed if name not in SETTINGS]
    if foreign:
        raise UserError(f"{foreign[0]} is not of a system with data, whose file says it: leave it out")
    return typed


def _known(name: str) -> str:
    try:
        check_to_learn(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return name


def _settings(given: dict[str, Any]) -> Settings:
    """The settings of a command line, checked where its own words say more than those of `RunConfig`."""
    of_problem = [f.name for f in dataclasses.fields(Settings) if f.metadata["of_problem"] and given[f.name] is None]
    given |= {name: getattr(to_learn(given["problem"]), name) for name in of_problem}
    settings = Settings(**given)
    # A study leaves out what its methods have no part for.
    for name, methods in foreign_choices(settings).items() if "method" in given else ():
        raise UserError(f"{_typed(name)} is of --method {' or '.join(methods)}: the method is {settings.method}")
    if settings.trajectory is None and settings.frame_step is not None:
        raise UserError("--frame-step is the time between the frames of a trajectory: give --trajectory FILE too")
    if settings.trajectory is not None and not Path(settings.trajectory).is_file():
        raise UserError(f"--trajectory {settings.trajectory}: there is no such file")
    return settings
