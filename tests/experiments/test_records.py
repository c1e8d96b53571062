"""Records of finished runs: what is read is what was written, and damage is named."""

import json
import math
import random
import statistics
from pathlib import Path

import pytest

from ndae.experiments.files import SEAL, file_digest, read_json, unsealed, write_json
from ndae.experiments.paper import PAPER_TABLE_1
from ndae.experiments.runs.config import RunConfig
from ndae.experiments.runs.records import Spread, group, read_record, read_records, read_run, record_name, write_record
from ndae.experiments.variants import FORCES, STABILISATIONS, Variant
from tests.experiments.records_for_tests import ALONE, PAPERS, record, write_run

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def test_variant_keeps_only_strengths_its_method_uses():
    assert Variant.of("none", 10, 10) == Variant("none", 0, 0)
    assert Variant.of("auxiliary", 3, 4) == Variant("auxiliary", 0, 4)
    assert Variant.of("penalty", 3, 4) == Variant("penalty", 3, 0)
    assert Variant.of("smooth", 3, 4) == Variant("smooth", 3, 4)
    assert Variant.of("smooth", 3, 4, "ggl", "potential") == Variant("smooth", 3, 4)
    assert Variant.of("multiplier", 3, 4, "ggl", "potential") == Variant("multiplier", 3, 4, "ggl", "potential")


def test_strengths_left_out_are_the_papers_and_none_with_multipliers():
    assert Variant.of("smooth") == Variant("smooth", 10, 10)
    assert Variant.of("penalty", None, 3) == Variant("penalty", 10, 0)
    assert Variant.of("multiplier") == Variant("multiplier", 0, 0)
    assert Variant.of("end", 0, None) == Variant("end", 0, 10)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("none", "No constraint"),
        ("auxiliary", "Auxiliary loss η=10"),
        ("penalty", "Penalty γ=3"),
        (" end ", "End projection γ=3, η=10"),
        ("smooth-alone", "Smooth projection alone"),
        ("multiplier", "Multiplier γ=3, η=10"),
        ("multiplier-alone", "Multiplier"),
    ],
)
def test_variant_from_the_command_line(text, title):
    assert Variant.parse(text, gamma=3, eta=10).title == title


def test_what_a_multiplier_chooses_is_in_its_names():
    plain, ggl = Variant("multiplier"), Variant.parse("multiplier", stabilisation="ggl", force="potential")
    assert (plain.name, plain.title) == ("multiplier", "Multiplier")
    assert (ggl.name, ggl.title) == ("multiplier-ggl-potential", "Multiplier GGL, potential")
    free = Variant.of("multiplier", 2, None, "none")
    assert (free.name, free.title) == ("multiplier-drifting", "Multiplier drifting, γ=2")
    with pytest.raises(ValueError, match="unknown stabilisation 'glue': expected one of projection, ggl"):
        Variant.of("multiplier", stabilisation="glue")


@pytest.mark.parametrize("text", ["sooth", "", "none-alone", "penalty-alone"])
def test_variant_refuses_unknown_names(text):
    with pytest.raises(ValueError, match="method"):
        Variant.parse(text, 10, 10)


def test_the_papers_table_holds_its_methods_in_its_order():
    assert list(PAPER_TABLE_1[20, 100].values()) == [35.0, 35.1, 32.6, 29.8, 27.9]
    assert PAPER_TABLE_1[50, 10000][Variant("smooth", 10, 10)] == 52.7


def test_a_record_survives_writing(tmp_path):
    made = record(PAPERS[4], seed=2)
    path = tmp_path / "deep" / record_name(made)
    write_record(made, path)
    read = read_record(path)
    assert read.config == made.config
    assert read.result == made.result
    for name, column in made.log.items():
        assert read.log[name] == pytest.approx(column, rel=1e-5)
    assert path.stat().st_size < 20_000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_run_folder_is_read(tmp_path):
    made = record(PAPERS[1], seed=1)
    write_run(made, tmp_path / "a")
    assert read_run(tmp_path / "a") == made
    assert read_records(tmp_path) == [made]


def test_names_tell_runs_apart():
    made = [record(v, s, epochs=e) for v in PAPERS + ALONE for s in range(2) for e in (4, 5)]
    made += [record(PAPERS[0], problem="robot_arm"), record(PAPERS[0], schedule="cosine")]
    motions = [Variant("multiplier", stabilisation=s, force=f) for s in STABILISATIONS for f in FORCES]
    made += [record(v) for v in (*motions, Variant("multiplier", gamma=1.0))]
    assert len({record_name(r) for r in made}) == len(made)


def test_committed_results_keep_their_names():
    paths = [path for path in RESULTS.glob("*.json") if "log" in json.loads(path.read_text())]
    assert len(paths) > 40
    assert {record_name(read_record(path)) for path in paths} == {path.name for path in paths}
    assert any(read_record(path).variant == Variant("multiplier") for path in paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[1]", "damaged"),
        (json.dumps({"config": {}, "result": {}}), "'log'"),
        (json.dumps({"config": {}, "result": {"method": "none"}, "log": {}}), "test_mae_cm"),
    ],
)
def test_damage_is_named_with_the_file(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_records(tmp_path)
    assert "x.json" in str(caught.value)


def test_flipped_bits_change_no_number_of_a_record(tmp_path):
    path, chance = tmp_path / "x.json", random.Random(0)
    write_record(record(PAPERS[0]), path)
    sound, content = read_record(path), path.read_bytes()
    refused = 0
    for bit in (chance.randrange(8 * len(content)) for _ in range(300)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert read_record(path) == sound  # white space that became another
        except ValueError as error:
            assert "x.json" in str(error)
            refused += 1
    assert refused > 280


def test_damage_to_what_a_run_is_read_from_is_noticed(tmp_path):
    """A configuration or a log of which a number has changed is no other run."""
    made = record(PAPERS[0])
    write_run(made, tmp_path / "a")
    config, log, result = (tmp_path / "a" / name for name in ("config.json", "log.csv", "result.json"))
    write_json(config, made.config)
    write_json(result, {**made.result, "log_digest": file_digest(log)})
    assert read_run(tmp_path / "a") == made
    for path, old, new in ((config, '"seed": 0', '"seed": 1'), (log, "1.", "9.")):
        sound = path.read_text()
        assert old in sound
        path.write_text(sound.replace(old, new, 1))
        with pytest.raises(ValueError, match=rf"{path.name} is damaged: its digest is not that of its content"):
            read_run(tmp_path / "a")
        path.write_text(sound)
    assert read_run(tmp_path / "a") == made


def test_flipped_bits_of_a_configuration_are_noticed():
    text, chance = RunConfig(keep="last", gamma=3.0, method="penalty").to_json(), random.Random(0)
    sound, refused = RunConfig.from_json(text), 0
    for bit in (chance.randrange(8 * len(text)) for _ in range(300)):
        damaged = bytearray(text.encode())
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert RunConfig.from_json(damaged.decode()) == sound  # white space that became another
        except ValueError:
            refused += 1
    assert refused > 250


def test_committed_studies_are_as_they_were_written():
    studies = [*(RESULTS / "crosscheck").glob("*.json"), *(RESULTS / "chnn").glob("*.json"), RESULTS / "rollout.json"]
    paths = [*studies, *(RESULTS / "water").glob("*.json"), *(p for p in RESULTS.glob("*.json") if "-n" in p.name)]
    assert len(paths) > 100
    assert [path.name for path in paths if SEAL not in json.loads(path.read_text())] == []
    assert all(read_json(path) for path in paths)
    damaged = RESULTS / "rollout.json"
    content = json.loads(damaged.read_text())
    with pytest.raises(ValueError, match="rollout is damaged"):
        unsealed(content | {"step_s": 1.5 * content["step_s"]}, "rollout")


def test_other_json_files_are_passed_over(tmp_path):
    write_record(record(PAPERS[0]), tmp_path / "a.json")
    (tmp_path / "benchmark.json").write_text('{"step": 1}')
    assert len(read_records(tmp_path)) == 1


def test_a_damaged_log_is_named(tmp_path):
    write_run(record(PAPERS[0]), tmp_path / "a")
    with (tmp_path / "a" / "log.csv").open("a") as file:
        file.write("5,1.0\n")
    with pytest.raises(ValueError, match=r"log\.csv"):
        read_run(tmp_path / "a")


def test_an_empty_folder_and_none_at_all(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        read_records(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_records(tmp_path / "nowhere")


def test_groups_are_in_the_papers_order_and_settings_apart():
    made = [record(v, s) for v in reversed(PAPERS + ALONE) for s in (1, 0)] + [record(PAPERS[0], n_train=1000)]
    groups = group(made)
    assert len(groups) == 2
    hundred = next(runs for setting, runs in groups.items() if setting[2] == 100)
    assert list(hundred) == [*PAPERS, *ALONE]
    assert [r.seed for r in hundred[PAPERS[0]]] == [0, 1]


def test_a_seed_twice_is_refused():
    with pytest.raises(ValueError, match="seed 0"):
        group([record(PAPERS[0]), record(PAPERS[0])])


def test_spread_against_the_standard_library():
    values = [1.0, 2.5, 7.25, -3.0]
    spread = Spread.of(values)
    assert spread.mean == pytest.approx(statistics.mean(values), rel=1e-15)
    assert spread.std == pytest.approx(statistics.stdev(values), rel=1e-15)
    assert spread.largest == 7.25
    assert math.isnan(Spread.of([3.0]).std)
