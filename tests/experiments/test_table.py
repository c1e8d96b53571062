"""The table shows the numbers of the runs, and only what is known."""

import csv
import io
import statistics

import pytest

from ndae.experiments.drawing.table import make_tables, print_table, to_csv, to_markdown
from tests.experiments.records_for_tests import ALONE, PAPERS, record


@pytest.fixture
def records():
    made = [record(v, s) for v in PAPERS + ALONE for s in range(3)]
    for run in made:
        run.result["baselines"] = {
            "no motion": {"mae_cm": 78.0 + run.seed, "violation_mean": 0.0, "violation_max": 0.0},
            "constant velocity": {"mae_cm": 95.0, "violation_mean": 0.3, "violation_max": 1.5},
            "nearest training sample": {"mae_cm": 70.0, "violation_mean": 0.0, "violation_max": 0.0},
            "no motion, projected": {"mae_cm": 78.0 + run.seed, "violation_mean": 0.0, "violation_max": 0.0},
            "constant velocity, projected": {"mae_cm": 60.0, "violation_mean": 0.0, "violation_max": 1e-11},
        }
    return made


def test_rows_are_means_over_seeds_beside_the_paper(records):
    (table,) = make_tables(records)
    baselines = ["(no motion)", "(const. velocity)", "(nearest sample)", "(const. velocity, proj.)"]
    assert [row.title for row in table.rows[:5]] == [*baselines, "No constraint"]
    row = next(row for row in table.rows if row.title == "Smooth projection γ,η=10")
    errors = [r.result["test_mae_cm"] for r in records if r.variant == PAPERS[4]]
    assert row.error.mean == pytest.approx(statistics.mean(errors))
    assert row.error.std == pytest.approx(statistics.stdev(errors))
    assert row.paper == 27.9
    assert row.ratio == pytest.approx(240 / 200)
    assert row.violation_max.largest == max(r.result["violation_max"] for r in records if r.variant == PAPERS[4])
    assert table.rows[0].error.mean == pytest.approx(79.0)
    assert table.rows[1].violation_max.largest == 1.5
    assert next(row for row in table.rows if row.title == "End projection alone").paper is None


def test_no_paper_figure_where_the_paper_has_none(records):
    (table,) = make_tables([record(v, horizon=30) for v in PAPERS])
    assert all(row.paper is None for row in table.rows)
    assert not any("paper" in note for note in table.notes)


def test_no_ratio_without_the_unconstrained_network():
    (table,) = make_tables([record(PAPERS[2])])
    assert table.rows[0].ratio is None
    assert table.rows[0].error.std != table.rows[0].error.std  # one seed has no spread


def test_csv_is_complete_and_parses(records):
    tables = make_tables([*records, record(PAPERS[0], n_train=1000)])
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    assert len(rows) == 4 + len(PAPERS + ALONE) + 1
    none = next(row for row in rows if row["method"] == "none" and row["n_train"] == "100")
    errors = [r.result["test_mae_cm"] for r in records if r.variant == PAPERS[0]]
    assert float(none["test_mae_cm"]) == pytest.approx(statistics.mean(errors), rel=1e-15)
    assert none["paper_mae_cm"] == "35.0"
    assert next(row for row in rows if row["n_train"] == "1000")["test_mae_cm_std"] == ""


def test_terminal_table_fits_80_columns_and_shows_the_numbers(records):
    from rich.console import Console

    out = Console(width=80, file=io.StringIO(), highlight=False)
    (table,) = make_tables(records)
    print_table(table, out.print)
    text = out.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for row in table.rows:
        line = next(line for line in text.splitlines() if line.strip().startswith(row.title))
        assert f"{row.error.mean:.1f} ± {row.error.std:.1f}" in line
    assert "5,778,048" in text


def test_markdown_has_equal_columns(records):
    lines = [line for line in to_markdown(make_tables(records)).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 4 + len(PAPERS + ALONE)
