"""Tables and figures of a study, from its records."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ndae.experiments.drawing.table import Table, make_tables, to_csv
from ndae.experiments.files import write_text
from ndae.experiments.runs.records import Record, group
from ndae.experiments.runs.study import Study
from ndae.experiments.variants import Setting, Variant


def write_results(records: Iterable[Record], out: Path) -> tuple[list[Table], list[Path]]:
    """Write `table.csv` and, from the logs, Figures 4 and 5; return the tables and the files written."""
    records = list(records)
    tables = make_tables(records)
    write_text(out / "table.csv", to_csv(tables))
    return tables, [out / "table.csv", *write_curves_of(records, out)]


def write_curves_of(records: Iterable[Record], out: Path) -> list[Path]:
    """Draw Figures 4 and 5 for every setting in `records`."""
    groups, written = group(records), []
    for setting, runs in groups.items():
        ending = "" if len(groups) == 1 else f"-{setting.name}"
        written += _write_curves(runs, out, setting_title(setting), ending)
    return written


def _write_curves(runs: Mapping[Variant, Sequence[Record]], out: Path, title: str, ending: str) -> list[Path]:
    """Draw Figure 5 (projections with their penalty and auxiliary loss) and, if they were run alone, Figure 4; all that
    is no projection is in both."""
    from ndae.experiments.drawing.figures import curves_figure

    projections = ("end", "smooth")
    plain = {variant: records for variant, records in runs.items() if variant.method not in projections}
    alone = {variant: records for variant, records in runs.items() if variant.alone}
    joined = {v: records for v, records in runs.items() if v.method in projections and not v.alone}
    written = []
    if alone:
        written.append(curves_figure(_in_order(plain | alone), out / f"figure4{ending}.png", title=title))
    if joined or not alone:
        written.append(curves_figure(_in_order(plain | joined), out / f"figure5{ending}.png", title=title))
    return written


def _in_order(runs: Mapping[Variant, Sequence[Record]]) -> dict[Variant, Sequence[Record]]:
    return dict(sorted(runs.items(), key=lambda item: item[0].order))


def write_sweep(records: Iterable[Record], over: str, out: Path) -> tuple[list[Table], list[Path]]:
    """Write a sweep's table and its figure: Figure 7 of the paper over `gamma`, Figure 8 over `eta`."""
    from ndae.experiments.drawing.figures import curves_figure, series_colours

    tables, path = make_tables(records), out / "table.csv"
    write_text(path, to_csv(tables))
    ((setting, runs),) = group(records).items()
    colours = dict(zip(runs, series_colours(len(runs)), strict=True))
    drawn = curves_figure(
        runs, out / f"figure{7 if over == 'gamma' else 8}.png", title=setting_title(setting), colours=colours
    )
    return tables, [path, drawn]


def write_snapshots(study: Study, out: Path, samples: int = 3) -> list[Path]:
    """Write Figure 6 and its data: the first test samples of the first seed, predicted by every variant.

    Of the pendulum, that is; other problems have no picture.
    """
    if study.settings.problem != "pendulum":
        return []
    from ndae.experiments.drawing.figures import snapshots_figure
    from ndae.experiments.drawing.predictions import test_snapshots

    seed = study.seeds[0]
    folders = {variant: out / "runs" / study.name(variant, seed) for variant in study.variants}
    folders = {variant: folder for variant, folder in folders.items() if (folder / "result.json").exists()}
    if not folders:  # all diverged, but other seeds did not
        return []
    snapshots = test_snapshots(folders, samples)
    data = out / "snapshots.json"
    write_text(data, json.dumps(snapshots.to_json()))
    common = study.settings
    title = f"{common.n_train:,} training samples, {common.network} network, seed {seed}"
    return [data, snapshots_figure(snapshots, out / "figure6.png", title=title)]


def setting_title(setting: Setting) -> str:
    """One line for a figure: what all its runs have in common."""
    what = f"{setting.n_train:,} training samples, {setting.horizon} steps ahead, {setting.network} network"
    ending = f", {Path(setting.trajectory).name}" if setting.trajectory else ""
    return f"{setting.problem_name.replace('_', ' ').capitalize()}: {what}{ending}"
