"""The table of motion with multipliers: its committed runs are those that its command makes."""

import dataclasses

import pytest

from ndae.experiments.runs.records import read_records
from ndae.experiments.studies import multiplier_table
from ndae.experiments.variants import Variant


@pytest.fixture(scope="module")
def records():
    return read_records(multiplier_table.RESULTS)


@pytest.mark.parametrize("cell", multiplier_table.SIZES, ids=str)
def test_committed_runs_have_the_settings_of_the_command(records, cell):
    study = multiplier_table.study(*cell)
    runs = [r for r in records if r.setting == study.setting and r.variant == Variant("multiplier")]
    assert {run.seed for run in runs} == set(multiplier_table.SEEDS)
    for run in runs:
        wanted = dataclasses.asdict(study.config(Variant("multiplier"), run.seed))
        assert {name: run.result[name] for name in wanted if name in run.result} == {
            name: value for name, value in wanted.items() if name in run.result
        }


def test_a_row_a_cell_with_its_spread(records):
    rows = multiplier_table.table(records).splitlines()[2:]
    assert len(rows) == len(multiplier_table.SIZES) and all("±" in row for row in rows)
    first = multiplier_table.study(20, 100).setting
    errors = [r.result["test_mae_cm"] for r in records if r.setting == first and r.variant == Variant("multiplier")]
    assert rows[0].startswith(f"| 100 | 20 | {sum(errors) / len(errors):.4f} ±")


def test_the_true_force_is_wrong_by_its_steps_alone(monkeypatch):
    monkeypatch.setattr(multiplier_table, "SIZES", {(20, 100): multiplier_table.SIZES[20, 100]})
    coarse, fine = (float(x) for x in multiplier_table.true_force((0.04, 0.02)).splitlines()[2].split("|")[3:5])
    assert coarse > 5 * fine > 0  # fourth order: 16 times for most samples, less for the quickest
