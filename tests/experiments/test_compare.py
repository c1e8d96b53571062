"""Studies make the runs that are missing, and their files hold the numbers of the runs."""

import csv
import sys
import types

import pytest

from ndae.experiments.drawing.of_study import write_curves_of, write_results, write_sweep
from ndae.experiments.runs.records import read_records
from ndae.experiments.runs.settings import Settings
from ndae.experiments.runs.study import Study, run_study, sweep_variants, train_one
from ndae.experiments.terminal import UserError
from ndae.experiments.variants import Variant
from tests.experiments.records_for_tests import ALONE, PAPERS, record, write_run


@pytest.fixture
def made(monkeypatch):
    """A stand-in for training that writes made-up runs at once; the list of what was asked for."""
    asked = []

    def run(config, out, *, resume=True, progress=False, label=""):
        asked.append((config, out, resume))
        if not (out / "result.json").exists():
            variant = Variant.of(config.method, config.gamma, config.eta)
            write_run(record(variant, config.seed, epochs=config.epochs), out)

    monkeypatch.setitem(sys.modules, "ndae.experiments.runs.run", types.SimpleNamespace(run=run))
    return asked


def study(variants=PAPERS, seeds=(0, 1), **settings):
    return Study(Settings(epochs=4, **settings), tuple(variants), tuple(seeds))


def test_every_method_meets_every_seed_once(made, tmp_path):
    records = run_study(study(batch_size=5), tmp_path).records
    asked = [config for config, _, _ in made]
    assert len(asked) == len({(c.method, c.seed) for c in asked}) == len(PAPERS) * 2 == len(records)
    assert {c.batch_size for c in asked} == {5}
    smooth = next(c for c in asked if c.method == "smooth")
    assert (smooth.gamma, smooth.eta, smooth.n_train, smooth.horizon, smooth.epochs) == (10, 10, 100, 20, 4)
    assert len({out for _, out, _ in made}) == len(asked)
    assert len(read_records(tmp_path / "results")) == len(asked)


def test_a_study_resumes_and_starts_over(made, tmp_path):
    run_study(study(seeds=(0,)), tmp_path)
    folders = {out for _, out, _ in made}
    run_study(study(), tmp_path)
    assert folders < {out for _, out, _ in made}
    assert all(resume for _, _, resume in made)
    run_study(study(seeds=(0,)), tmp_path, fresh=True)
    assert not made[-1][2]


def test_table_and_figures_of_a_study(made, tmp_path):
    records = run_study(study(PAPERS + ALONE), tmp_path, results=tmp_path / "kept").records
    (table,), written = write_results(records, tmp_path)
    assert [path.name for path in written] == ["table.csv", "figure4.png", "figure5.png"]
    assert all(path.stat().st_size for path in written)
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(PAPERS + ALONE) == len(table.rows)
    assert len(list((tmp_path / "kept").iterdir())) == 2 * len(PAPERS + ALONE)


def test_a_run_that_diverges_does_not_stop_the_others(made, tmp_path, monkeypatch, capsys):
    from ndae.training.history import NonFiniteError

    runs = sys.modules["ndae.experiments.runs.run"]
    healthy = runs.run

    def run(config, out, **options):
        if config.method == "penalty":
            raise NonFiniteError("the loss is nan at epoch 1")
        healthy(config, out, **options)

    monkeypatch.setattr(runs, "run", run)
    outcome = run_study(study(PAPERS, (0,)), tmp_path)
    assert [r.variant for r in outcome.records] == [v for v in PAPERS if v.method != "penalty"]
    with pytest.raises(UserError, match=r"1 of the runs diverged.*Penalty γ=10, seed 0.*nan"):
        outcome.check()
    assert "the loss is nan at epoch 1" in capsys.readouterr().err
    with pytest.raises(UserError, match="every run diverged"):
        run_study(study(PAPERS[2:3]), tmp_path)


def test_another_error_stops_a_study(made, tmp_path, monkeypatch):
    def run(config, out, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sys.modules["ndae.experiments.runs.run"], "run", run)
    with pytest.raises(RuntimeError, match="out of memory"):
        run_study(study(), tmp_path)


@pytest.fixture
def drawn(monkeypatch):
    """Titles of the variants drawn, by the name of the picture."""
    from ndae.experiments.drawing import figures

    pictures = {}

    def curves_figure(runs, path, **options):
        pictures[path.name] = [variant.title for variant in runs]
        return path

    monkeypatch.setattr(figures, "curves_figure", curves_figure)
    return pictures


def test_figure_4_has_projections_alone_and_figure_5_with_their_helpers(drawn, tmp_path):
    write_curves_of([record(variant) for variant in PAPERS + ALONE], tmp_path)
    shared = ["No constraint", "Auxiliary loss η=10", "Penalty γ=10"]
    assert drawn["figure4.png"] == [*shared, "End projection alone", "Smooth projection alone"]
    assert drawn["figure5.png"] == [*shared, "End projection γ,η=10", "Smooth projection γ,η=10"]


def test_multipliers_are_in_both_figures_behind_the_projections(drawn, tmp_path):
    multipliers = (Variant("multiplier"), Variant("multiplier", stabilisation="ggl"))
    write_curves_of([record(variant) for variant in (*multipliers, *PAPERS, ALONE[1])], tmp_path)
    assert drawn["figure5.png"][-3:] == ["Smooth projection γ,η=10", "Multiplier", "Multiplier GGL"]
    assert set(drawn["figure4.png"][-3:]) == {"Smooth projection alone", "Multiplier", "Multiplier GGL"}


def test_by_default_all_methods_are_compared():
    from ndae.experiments.cli.options import ALL_METHODS
    from ndae.experiments.variants import METHOD_TITLES

    variants = [Variant.parse(name) for name in ALL_METHODS.split(",")]
    assert {variant.method for variant in variants} == set(METHOD_TITLES) - {"soft"}
    assert set(PAPERS + ALONE) < set(variants)
    assert Variant("multiplier") in variants


def test_what_a_study_sets_reaches_its_runs(made, tmp_path):
    variants = (Variant.of("none"), Variant.of("multiplier", stabilisation="baumgarte", force="potential"))
    outcome = run_study(study(variants, (0,), schedule="cosine"), tmp_path)
    none, multiplier = (config for config, _, _ in made)
    assert (none.schedule, none.stabilisation, none.force) == ("cosine", "projection", "free")
    assert (multiplier.stabilisation, multiplier.force) == ("baumgarte", "potential")
    assert made[1][1].name == "multiplier-baumgarte-potential-mimetic-n100-k20-ep4-cosine-s0"
    assert len(outcome.records) == 2


def test_figures_of_several_settings_do_not_overwrite_each_other(drawn, tmp_path):
    write_curves_of([record(PAPERS[0]), record(PAPERS[0], n_train=1000)], tmp_path)
    assert len(drawn) == 2


def test_one_run_goes_to_its_own_folder(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, folder = train_one(study(PAPERS[2:3], (1,)), None)
    assert folder.parts[0] == "runs" and "penalty" in folder.name and folder.name.endswith("s1")
    record_there, there = train_one(study(PAPERS[2:3], (1,)), tmp_path / "here")
    assert there == tmp_path / "here" and record_there.variant == PAPERS[2]


def test_variants_of_sweeps():
    assert sweep_variants("gamma", "1, 3,10", None, gamma=5, eta=5) == tuple(
        Variant("penalty", gamma=g) for g in (1, 3, 10)
    )
    assert sweep_variants("eta", "0.5", None, gamma=5, eta=5) == (Variant("auxiliary", eta=0.5),)
    assert sweep_variants("eta", "1,2", "end", gamma=5, eta=7) == (Variant("end", 5, 1), Variant("end", 5, 2))


def test_a_sweep_draws_its_figure(made, tmp_path):
    variants = sweep_variants("gamma", "1,3,10", None, gamma=10, eta=10)
    records = run_study(study(variants), tmp_path).records
    (table,), written = write_sweep(records, "gamma", tmp_path)
    assert [path.name for path in written] == ["table.csv", "figure7.png"]
    assert [row.gamma for row in table.rows] == [1, 3, 10]
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_an_empty_study_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        study(variants=())
    with pytest.raises(ValueError, match="at least one"):
        study(seeds=())
