import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from ndae.experiments.cache import cache_folder, cache_path, cached_arrays

CONFIG = {"n_steps": 3, "dt": 0.01}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NDAE_CACHE", str(tmp_path / "cache"))


class Maker:
    """Makes arrays and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"r": np.arange(6.0).reshape(2, 3), "flag": np.array([True, False]), "n": np.array(7)}


def test_second_read_comes_from_the_file_and_equals_the_first():
    make = Maker()
    first = cached_arrays("a", CONFIG, make)
    second = cached_arrays("a", CONFIG, make)
    assert make.calls == 1
    assert second.keys() == first.keys()
    for key in first:
        assert second[key].dtype == first[key].dtype
        np.testing.assert_array_equal(second[key], first[key])


def test_other_configurations_get_other_files():
    make = Maker()
    cached_arrays("a", CONFIG, make)
    cached_arrays("a", CONFIG | {"dt": 0.02}, make)
    cached_arrays("b", CONFIG, make)
    assert make.calls == 3
    assert len(list(cache_folder().glob("*.npz"))) == 3
    assert cache_path("a", {"x": 1, "y": 2}) == cache_path("a", {"y": 2, "x": 1})


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.97])
def test_truncated_file_is_reported_and_made_again(keep, capsys):
    make = Maker()
    cached_arrays("a", CONFIG, make)
    path = cache_path("a", CONFIG)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    again = cached_arrays("a", CONFIG, make)
    assert make.calls == 2
    assert "damaged" in capsys.readouterr().err
    np.testing.assert_array_equal(again["r"], np.arange(6.0).reshape(2, 3))
    cached_arrays("a", CONFIG, make)
    assert make.calls == 2, "the file made again is whole"


def test_no_single_flipped_byte_yields_other_arrays(capsys):
    """Wherever one byte of the file is damaged, what is returned is what was made."""
    make = Maker()
    good = cached_arrays("a", CONFIG, make)
    path = cache_path("a", CONFIG)
    data = path.read_bytes()
    noticed = 0
    for position in range(0, len(data), 5):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        calls = make.calls
        read = cached_arrays("a", CONFIG, make)
        noticed += make.calls > calls
        assert read.keys() == good.keys()
        for key in good:
            np.testing.assert_array_equal(read[key], good[key])
    assert noticed > 50
    assert capsys.readouterr().err.count("damaged") == noticed


def test_consistent_file_with_other_content_fails_the_checksum(capsys):
    """A well-formed npz whose numbers were changed, so that every zip check passes."""
    make = Maker()
    cached_arrays("a", CONFIG, make)
    path = cache_path("a", CONFIG)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["r"] = arrays["r"] + 1e-9
    np.savez(path, **arrays)
    read = cached_arrays("a", CONFIG, make)
    assert make.calls == 2
    assert "checksum" in capsys.readouterr().err
    np.testing.assert_array_equal(read["r"], np.arange(6.0).reshape(2, 3))


def test_file_of_another_recipe_is_stale(capsys):
    make = Maker()
    cached_arrays("a", CONFIG, make, recipe={"version": 1})
    cached_arrays("a", CONFIG, make, recipe={"version": 2})
    assert make.calls == 2
    assert "stale" in capsys.readouterr().err
    cached_arrays("a", CONFIG, make, recipe={"version": 2})
    assert make.calls == 2


def test_pickled_file_is_never_loaded(capsys):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(cache_folder() / "trapped"),))

    make = Maker()
    cached_arrays("a", CONFIG, make)
    np.savez(cache_path("a", CONFIG), r=np.array([Trap()], dtype=object))
    cached_arrays("a", CONFIG, make)
    assert make.calls == 2
    assert not (cache_folder() / "trapped").exists()
    assert "damaged" in capsys.readouterr().err


def test_failed_make_leaves_no_file():
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached_arrays("a", CONFIG, fail)
    assert not cache_folder().exists() or not list(cache_folder().iterdir())


def test_object_arrays_and_unserialisable_configurations_are_refused():
    with pytest.raises(ValueError, match="'r' of 'a' holds Python objects"):
        cached_arrays("a", CONFIG, lambda: {"r": np.array([object()])})
    with pytest.raises(ValueError, match="configuration of 'a' is not JSON"):
        cached_arrays("a", {"x": object()}, Maker())


def test_folder_that_can_not_be_written_costs_a_line_not_the_result(tmp_path, monkeypatch, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("NDAE_CACHE", str(blocked / "cache"))
    read = cached_arrays("a", CONFIG, Maker())
    assert read["n"] == 7
    assert "could not be written" in capsys.readouterr().err


def test_platform_folder_without_the_environment_variable(monkeypatch):
    monkeypatch.delenv("NDAE_CACHE")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere/cache")
    assert cache_folder().name == "ndae"
    assert cache_folder().is_absolute()


def _one_of_many(folder: str, seed: int, queue) -> None:
    os.environ["NDAE_CACHE"] = folder
    good = True
    for _ in range(20):
        value = cached_arrays("shared", {}, lambda: {"x": np.full(50_000, seed)}, recipe={"seed": seed})["x"]
        good &= bool((value == seed).all())
    queue.put(good)


def test_processes_that_replace_one_file_never_read_a_torn_one(tmp_path):
    """Two recipes fight for one file: each process always gets its own whole array, and no temporary file stays."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_one_of_many, args=(str(tmp_path), seed, queue)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    outcomes = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert outcomes == [True, True]
    assert [path.suffix for path in Path(tmp_path).iterdir()] == [".npz"]
