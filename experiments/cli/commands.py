"""The command line `ndae`. Only what a command uses is imported, inside it: `--help` must answer at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ndae.experiments.cli import options as opt
from ndae.experiments.runs.settings import Settings
from ndae.experiments.terminal import UserError, console, is_users, note, one_line
from ndae.training.interrupts import was_interrupted

app = typer.Typer(
    name="ndae",
    help="Neural DAEs: define a constraint, train a continuous-depth network under it, compare it with the reference.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command and leave with its exit code.

    0 done, 1 an error (one line on stderr), 2 wrong usage (one line on stderr), 130 interrupted.
    """
    # Waiting OpenMP threads spin by default, which starves shared cores; torch reads this when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


# Commands whose work is kept when they are interrupted.
_RESUMED = ("train", "compare", "sweep", "demo")


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code; nothing but a bug under `--debug` is raised."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = _command(arguments)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as error:
        # Lightning turns an interrupt into an exit of its own, typer and rich a reader (`| head`) that has enough.
        if isinstance(error.__context__, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        code = 130 if was_interrupted(error) else error.code
    except Exception as error:
        if debug:
            raise
        if not was_interrupted(error):
            return _report(error)
        code = 130
    if code == 130:
        resumed = bool(arguments) and arguments[0] in _RESUMED
        note("ndae: interrupted" + "; the same command goes on from the last checkpoint" * resumed)
    return code if isinstance(code, int) else 0


def _command(arguments: list[str]) -> int | None:
    try:
        return typer.main.get_command(app).main(arguments, prog_name="ndae", standalone_mode=False)
    except ModuleNotFoundError:
        from ndae.symbolic.ground.extras import needing

        with needing(f"`ndae {arguments[0]}`"):
            raise


def _report(error: Exception) -> int:
    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # the command line itself was wrong
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ndae"
        note(f"ndae: {' '.join(format_message().split())} (see {command} --help)")
        return 2
    if is_users(error):
        note(f"ndae: {one_line(error)}")
    else:
        note(f"ndae: unexpected {type(error).__name__}: {one_line(error)} (add --debug to see where)")
    return 1


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, with any command.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"ndae {installed('ndae')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _train_of_data(
    problem: Any, file: str, given: dict[str, Any], *, threads: int | None, out: Path | None, fresh: bool
) -> None:
    _set_threads(threads)
    from ndae.experiments.runs.of_data import MODEL, describe, train

    folder = out or Path("runs") / f"{Path(file).stem}-s{given.get('seed', 0)}"
    result = train(problem, file, folder, given, fresh=fresh)
    print(describe(result))
    pictures = sorted(path.name for path in folder.glob("*.png"))
    _show_files([folder / name for name in ("config.json", "log.csv", MODEL, "result.json", *pictures)])


def _compare_of_data(
    problem: Any, file: str, given: dict[str, Any], *, methods: str | None, seeds: int, threads: int | None, out: Path,
    results: Path | None, fresh: bool,
) -> None:  # fmt: skip
    _set_threads(threads)
    from ndae.experiments.runs.of_data import METHODS, compare, write_table

    found = compare(problem, file, out, given, (methods or METHODS).split(","), seeds, fresh)
    _show_files(write_table(found, out, results))


@app.command()
@opt.of_a_run(of_data=_train_of_data)
def train(
    settings: Settings,
    *,
    threads: opt.Threads = None,
    out: opt.Out = None,
    fresh: opt.Fresh = False,
) -> None:
    """Train one network by one method; a run that was killed goes on where it was.

    The folder gets config.json, log.csv, checkpoints/ and result.json.
    """
    _set_threads(threads)
    from ndae.experiments.runs.study import Study, train_one
    from ndae.experiments.variants import Variant

    study = Study(settings, (Variant.of(settings.method, **settings.choices()),), (settings.seed,))
    record, folder = train_one(study, out, fresh=fresh)
    _show_run(record)
    written = ("config.json", "log.csv", "result.json", f"checkpoints/{settings.keep}.ckpt")
    _show_files([folder / name for name in written])


@app.command()
@opt.of_a_run(without=("method", "seed"), of_data=_compare_of_data)
def compare(
    settings: Settings,
    *,
    methods: opt.Methods = None,
    seeds: opt.Seeds = 3,
    threads: opt.Threads = None,
    out: opt.StudyOut = Path("runs/compare"),
    results: opt.Results = None,
    fresh: opt.Fresh = False,
) -> None:
    """Train by all methods and show them side by side: table, CSV, Figures 4 to 6 of the paper.

    Finished runs are used again, so a study can be stopped, gone on with and extended by methods or seeds.
    """
    _set_threads(threads)
    from ndae.experiments.drawing.of_study import write_results, write_snapshots
    from ndae.experiments.runs.study import Study, run_study
    from ndae.experiments.variants import Variant

    names = (_all_methods(settings.problem) if methods is None else methods).split(",")
    study = Study(settings, tuple(Variant.parse(name, **settings.choices()) for name in names), tuple(range(seeds)))
    outcome = run_study(study, out, results=results, fresh=fresh)
    tables, files = write_results(outcome.records, out)
    files += write_snapshots(study, out)
    _show_tables(tables)
    _show_files(files)
    outcome.check()


@app.command()
@opt.of_a_run(without=("method", "seed"))
def sweep(
    settings: Settings,
    *,
    over: opt.Over,
    values: opt.Values = "1,3,10,30",
    method: opt.SweepMethod = None,
    seeds: opt.Seeds = 3,
    threads: opt.Threads = None,
    out: opt.StudyOut = Path("runs/sweep"),
    results: opt.Results = None,
    fresh: opt.Fresh = False,
) -> None:
    """Train at several strengths γ or η: table, CSV and Figure 7 or 8 of the paper."""
    _set_threads(threads)
    from ndae.experiments.drawing.of_study import write_sweep
    from ndae.experiments.runs.study import Study, run_study, sweep_variants

    study = Study(settings, sweep_variants(over, values, method, **settings.choices()), tuple(range(seeds)))
    outcome = run_study(study, out, results=results, fresh=fresh)
    tables, files = write_sweep(outcome.records, over, out)
    _show_tables(tables)
    _show_files(files)
    outcome.check()


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="Folder with exported results (*.json) or with run folders.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table as CSV too.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Draw Figures 4 and 5 into this folder too.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, for a README.")] = False,
) -> None:
    """Show the table of runs made before, from their results alone."""
    from ndae.experiments.drawing.of_study import write_curves_of
    from ndae.experiments.drawing.table import make_tables, to_csv, to_markdown
    from ndae.experiments.files import write_text
    from ndae.experiments.runs.records import read_records

    records = read_records(folder)
    tables = make_tables(records)
    if markdown:
        print(to_markdown(tables))
    else:
        _show_tables(tables)
    if csv:
        write_text(csv, to_csv(tables))
    drawn = write_curves_of(records, figures) if figures else []
    _show_files([*([csv] if csv else []), *drawn])


@app.command()
def constraint(
    expressions: Annotated[
        list[str], typer.Argument(metavar="EXPR...", help="What should vanish, such as 'x**2 + y**2 - L**2'.")
    ],
    states: Annotated[str, typer.Option(help="Names of the state's components, such as x,y.")],
    parameters: Annotated[str | None, typer.Option(help="Names and values of parameters, such as L=1.0.")] = None,
    time: Annotated[str | None, typer.Option(help="Name of the time, if the constraint depends on it.")] = None,
    levels: Annotated[int, typer.Option(min=0, max=2, help="Derive up to 1, velocity, or 2, acceleration level.")] = 2,
    source: Annotated[opt.Backend, typer.Option(help="Also print the functions generated for this library.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write a file for --source that runs without SymPy.")] = None,
) -> None:
    """Show what is derived and generated from a constraint.

    An expression that begins with a minus sign goes after `--`, behind all options.
    """
    from ndae.experiments.cli.typed_constraint import read_constraint

    if save and not source:
        raise UserError("--save needs to know for which library: add --source torch, jax or numpy")
    derived = read_constraint(expressions, states, parameters, time)
    print(derived.describe(levels))
    if save and source:
        save.parent.mkdir(parents=True, exist_ok=True)
        _show_files([derived.save(save, source)])
    elif source:
        print()
        print(derived.source(source, levels=levels))


@app.command()
def crosscheck(
    problem: Annotated[
        str | None,
        typer.Argument(
            help="Problem by name (see --list), a file of your own, JSON or Python, or the folder of a run with data."
        ),
    ] = None,
    rtol: Annotated[float, typer.Option(help="Tightest relative tolerance.")] = 1e-10,
    tolerances: Annotated[
        str | None, typer.Option(help="Relative tolerances, comma-separated; by default 1e-6, 1e-8 and --rtol.")
    ] = None,
    formulations: Annotated[
        str, typer.Option(help="How constraints are kept: projection, ggl, baumgarte, plain; comma-separated.")
    ] = "projection,ggl,baumgarte,plain",
    solver: Annotated[
        str | None,
        typer.Option(help="dopri8, dopri5, tsit5, or radau13 and kvaerno5 (stiff); by default what the problem needs."),
    ] = None,
    against: Annotated[
        str, typer.Option(help="Other solvers: torch (ours too), IDA, Radau; comma-separated; none for none.")
    ] = "torch,IDA,Radau",
    consistent: Annotated[
        str | None, typer.Option(help="Make the start consistent first, keeping these components (comma-separated).")
    ] = None,
    work_precision: Annotated[Path | None, typer.Option(help="Draw digits against seconds into this PNG.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything as JSON into this file; - prints it.")] = None,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Limit for each solve of other solvers.")] = 120.0,
    list_: Annotated[bool, typer.Option("--list", help="Show the problems known by name and leave.")] = False,
) -> None:
    """Solve a DAE by several solvers, formulations and tolerances, and count how many digits of each are right."""
    if list_:
        from ndae.experiments.problems import problem_names

        for name, origin in problem_names().items():
            print(f"{name:24} {origin}")
        return
    if problem is not None and Path(problem).is_dir():
        if _is_of_data(problem):
            _check_run_of_data(Path(problem), json, rtol=rtol)
        else:
            from ndae.experiments.cli.crosscheck import check_network

            check_network(Path(problem), rtol)
        return
    if problem is None:
        raise UserError("which problem? `ndae crosscheck --list` shows those known by name")
    from ndae.experiments.cli.crosscheck import run_crosscheck

    _show_files(
        run_crosscheck(
            problem,
            rtol=rtol,
            tolerances=tolerances,
            formulations=formulations,
            solver=solver,
            against=against,
            consistent=consistent,
            work_precision=work_precision,
            json_path=json,
            max_seconds=max_seconds,
        )
    )


@app.command()
def validate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that `ndae train` or `compare` made.")],
    trajectories: Annotated[int, typer.Option(min=1, help="Held-out states to start from.")] = 50,
    seconds: Annotated[float, typer.Option(help="How long to go on from each, in s.")] = 5.0,
    json: Annotated[Path | None, typer.Option(help="Write all numbers as JSON into this file; - prints it.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the errors over time into this PNG.")] = None,
    threads: opt.Threads = None,
) -> None:
    """Compare a trained network with the reference from held-out states, and say what causes its error.

    With neither --json nor --figure, validation.json and validation.png go into the run's folder.
    """
    _set_threads(threads)
    if _is_of_data(run):
        _check_run_of_data(run, run / "validation.json" if json is None else json, figure=figure)
        return
    from ndae.experiments.cli.validate import run_validate

    _show_files(run_validate(run, trajectories=trajectories, seconds=seconds, json_path=json, figure=figure))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the animation.")] = Path("demo"),
    threads: opt.Threads = None,
    fresh: opt.Fresh = False,
) -> None:
    """Show the whole story in minutes: a constraint, a reference, four networks, a table, plots, an animation."""
    from ndae.experiments.studies.demo import run_demo

    _set_threads(threads)
    run_demo(out, fresh=fresh)


def _is_of_data(folder: str | Path) -> bool:
    from ndae.experiments.runs.of_data import is_run

    return is_run(folder)


def _check_run_of_data(run: Path, json_path: Path | None, *, figure: Path | None = None, **options: Any) -> None:
    """Solve what a run learned by solvers of other makes, on recordings that it did not learn from."""
    import json

    from ndae.experiments.files import write_json
    from ndae.experiments.runs.of_data import check, to_json

    checked, problem = check(run, **options)
    written = []
    if json_path is not None and str(json_path) != "-":
        write_json(json_path, to_json(checked), indent=1)
        written.append(json_path)
    if figure is not None:
        from ndae.experiments.drawing.of_data import recordings_figure

        written.append(recordings_figure(checked, problem.held_out, figure))
    if str(json_path) == "-":
        print(json.dumps(to_json(checked), indent=1))
        return
    print(checked)
    _show_files(written)


def _all_methods(problem: str) -> str:
    """Every method that the problem can have; a soft constraint is for one whose constraints are not rigid."""
    from ndae.experiments.problems.registry import to_learn

    return opt.ALL_METHODS + ",soft" * (to_learn(problem).stiffness is not None)


def _set_threads(threads: int | None) -> None:
    # OpenMP reads it when torch loads, and no command has loaded torch yet.
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _show_run(record) -> None:
    from ndae.experiments.drawing.table import describe_run

    print(describe_run(record))


def _show_tables(tables) -> None:
    from ndae.experiments.drawing.table import print_table

    for made in tables:
        print_table(made, console().print)


def _show_files(paths: list[Path]) -> None:
    for path in paths:
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
