"""Recordings: what goes in comes out, parts hold all of it, and what is wrong is named with its row."""

import copy
import datetime
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import ndae
from ndae.data import sizes
from ndae.data.frames import parts_of

FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def recordings(draw):
    n = draw(st.integers(1, 30))
    times = np.cumsum(draw(hnp.arrays(float, n, elements=st.floats(0.01, 3.0))))
    values = {
        name: draw(hnp.arrays(float, n, elements=FLOATS | st.just(np.nan)))
        for name in draw(st.lists(st.sampled_from(["x", "y", "seen"]), min_size=1, max_size=3, unique=True))
    }
    return times, values, ndae.Recording(times, values, sigma=0.1, parameters={"m": 1.5}, name="run")


@given(recordings())
def test_what_goes_in_comes_out(drawn):
    times, values, recording = drawn
    for kept in (recording, pickle.loads(pickle.dumps(recording)), copy.deepcopy(recording)):
        np.testing.assert_array_equal(kept.times, times)
        assert kept.outputs == tuple(values) and len(kept) == len(times) and dict(kept.parameters) == {"m": 1.5}
        for name in values:
            np.testing.assert_array_equal(kept.values[name], values[name])
            np.testing.assert_array_equal(kept.seen[name], ~np.isnan(values[name]))
            np.testing.assert_array_equal(kept.sigma[name], np.full(len(times), 0.1))


@given(recordings(), st.integers(1, 12), st.integers(1, 12))
def test_windows_of_rows_partition_and_overlap(drawn, length, stride):
    times, values, recording = drawn
    parts = list(recording.windows(length))
    np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), times)
    for name in values:
        np.testing.assert_array_equal(np.concatenate([part.values[name] for part in parts]), values[name])
    assert all(len(part) == length for part in parts[:-1])
    for k, part in enumerate(recording.windows(length, stride=stride)):
        np.testing.assert_array_equal(part.times, times[k * stride : k * stride + length])


@given(recordings(), st.floats(0.05, 20.0))
def test_windows_of_time_partition(drawn, duration):
    times, _, recording = drawn
    parts = list(recording.windows(duration=duration))
    np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), times)
    assert all(part.times[-1] - part.times[0] <= duration for part in parts)


@given(recordings(), st.floats(0, 40), st.floats(0, 40))
def test_between_takes_both_ends(drawn, a, b):
    times, _, recording = drawn
    inside = times[(times >= a) & (times <= b)]
    if len(inside):
        np.testing.assert_array_equal(recording.between(a, b).times, inside)
    else:
        with pytest.raises(ValueError, match="has no times from"):
            recording.between(a, b)


@given(st.lists(recordings(), min_size=1, max_size=4))
def test_sizes_are_positive_and_scale_with_the_values(drawn):
    found = sizes(recording for *_, recording in drawn)
    assert set(found) == {name for _, values, _ in drawn for name in values}
    assert all(size > 0 and size.reason for size in found.values())
    scaled = sizes(
        ndae.Recording(times, {name: 1024 * part for name, part in values.items()}) for times, values, _ in drawn
    )
    for name, size in found.items():
        factor = 1 if size.reason in ("never seen", "always zero") else 1024
        assert scaled[name] == factor * size


def test_sizes_say_what_they_are_of():
    t = np.arange(200.0)
    pulse, wild = np.where(t == 7, 3.0, 1.0), np.sin(t)
    wild[5] = 1e9
    rows = {"wild": wild, "pulse": pulse, "still": 0 * t - 4, "zero": 0 * t, "none": np.nan * t}
    found = sizes([ndae.Recording(t, rows)])
    assert 0.8 < found["wild"] < 1
    assert found == {"wild": found["wild"], "pulse": 1.0, "still": 4.0, "zero": 1.0, "none": 1.0}
    assert [found[name].reason for name in ("still", "zero", "none")] == [
        "constant: its magnitude", "always zero", "never seen",
    ]  # fmt: skip


def test_inputs_are_tables_by_name():
    feed = type("Unknown", (), {"name": "feed"})()
    t = np.array([0.0, 0.5, 2.0])
    recording = ndae.Recording(
        t,
        {"seen": t},
        inputs={feed: ([0, 1, 2], [1.0, np.nan, 3.0]), "held": (t, t, "hold"), "given": ndae.table([0, 9], [1, 2])},
    )
    assert list(recording.inputs) == ["feed", "held", "given"]
    # What is missing is left out: the input is read between what there is.
    np.testing.assert_allclose(recording.inputs["feed"].values([0.5, 1.0]), [1.5, 2.0])
    assert recording.inputs["held"].values(1.9) == 0.5
    assert recording.window(1, 2).inputs["feed"] is recording.inputs["feed"]
    with pytest.raises(ValueError, match=r"input feed is known from 0 to 1, .* goes from 0 to 2: .*outside='hold'"):
        ndae.Recording(t, {"seen": t}, inputs={"feed": ([0, 1], [1, 2])})
    held = ndae.table([0, 1], [1, 2], outside="hold")
    assert ndae.Recording(t, {"seen": t}, inputs={"feed": held}).inputs["feed"] is held


def test_missing_entries_in_their_forms():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], [False, True, False])
    recording = ndae.Recording([0, 1, 2], {"a": masked, "b": [1, None, 3], "c": [True, False, True]})
    assert recording.seen["a"].tolist() == recording.seen["b"].tolist() == [True, False, True]
    assert recording.values["c"].tolist() == [1, 0, 1]


def test_dates_and_durations_are_seconds():
    first = np.datetime64("2026-05-04T12:00:00")
    at = first + np.array([0, 500, 2000]).astype("timedelta64[ms]")
    recording = ndae.Recording(at, {"x": [1, 2, 3]}, inputs={"u": ([first - 1, *at], [5.0, 0.0, 0.0, 4.0])})
    assert recording.times.tolist() == [0, 0.5, 2.0] and recording.origin == first
    assert recording.inputs["u"].values(-0.5) == 2.5  # a second before the recording there is an entry of the input
    assert recording.window(1, 2).times.tolist() == [0.5, 2.0]
    zone = datetime.timezone(datetime.timedelta(hours=2))
    later = [datetime.datetime(2026, 5, 4, 14, 0, s, tzinfo=zone) for s in (0, 3)]
    assert ndae.Recording(later, {"x": [1, 2]}).origin == first
    assert ndae.Recording(["2026-05-04T12:00", "2026-05-04T12:01"], {"x": [1, 2]}).times.tolist() == [0, 60]
    assert ndae.Recording((at - first)[1:], {"x": [1, 2]}).times.tolist() == [0.5, 2.0]
    with pytest.raises(ValueError, match="input u: its times are numbers, those of the recording dates"):
        ndae.Recording(at, {"x": [1, 2, 3]}, inputs={"u": ([0, 9], [0, 0])})


def test_nothing_in_it_can_be_changed():
    given_values = np.zeros(3)
    recording = ndae.Recording([0, 1, 2], {"x": given_values}, sigma={"x": [1, 2, 3]})
    given_values[0] = 9
    assert recording.values["x"][0] == 0
    for array in (recording.times, recording.values["x"], recording.seen["x"], recording.window(0, 2).values["x"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        recording.values["x"] = given_values
    with pytest.raises(AttributeError):
        recording.name = "other"
    assert recording != ndae.Recording([0, 1, 2], {"x": given_values})


def test_it_shows_itself_in_a_line():
    recording = ndae.Recording(
        [0, 1.5, 2],
        {"x": [1, np.nan, 2], "y": [1, 2, 3]},
        inputs={"u": ([0, 2], [1, 1])},
        parameters={"m": 2},
        name="a",
    )
    assert repr(recording) == "Recording('a'; 0 to 2 in 3 times; seen x 2, y 3; inputs u; m=2)"
    assert recording.only(["y"]).outputs == recording.only("y").outputs == ("y",)


REFUSED = {
    "times of rows 1 and 2, 2 and 1, go back": lambda: ndae.Recording([0, 2, 1], {"x": [1, 2, 3]}),
    "times of rows 1 and 2, 1 and 1, are the same": lambda: ndae.Recording([0, 1, 1], {"x": [1, 2, 3]}),
    "times, row 1: nan is no time": lambda: ndae.Recording([0, np.nan], {"x": [1, 2]}),
    "has no rows": lambda: ndae.Recording([], {"x": []}),
    r"times have shape \(1, 2\)": lambda: ndae.Recording([[0, 1]], {"x": [1, 2]}),
    "shows no output": lambda: ndae.Recording([0, 1], {}),
    "outputs are list, expected a dict": lambda: ndae.Recording([0, 1], [1, 2]),
    r"x has shape \(3,\), expected \(2,\)": lambda: ndae.Recording([0, 1], {"x": [1, 2, 3]}),
    "x, row 1 is infinite": lambda: ndae.Recording([0, 1], {"x": [1, np.inf]}),
    "x, row 1 is the text 'off'": lambda: ndae.Recording([0, 1], {"x": [1, "off"]}),
    "decimal comma": lambda: ndae.Recording([0, 1], {"x": [1, "3,5"]}),
    "x holds complex128": lambda: ndae.Recording([0, 1], {"x": [1, 2j]}),
    "m is nan, expected a finite number": lambda: ndae.Recording([0, 1], {"x": [1, 2]}, parameters={"m": np.nan}),
    "m is True, expected a finite": lambda: ndae.Recording([0, 1], {"x": [1, 2]}, parameters={"m": True}),
    "sigma of x, row 0 is 0, expected a standard": lambda: ndae.Recording([0, 1], {"x": [1, 2]}, sigma=0),
    "sigma of x, row 1 is -1": lambda: ndae.Recording([0, 1], {"x": [1, 2]}, sigma={"x": [1, -1]}),
    "has no output 'seem'; it has seen: did": lambda: ndae.Recording([0, 1], {"seen": [1, 2]}, sigma={"seem": 1}),
    "sigma is an array": lambda: ndae.Recording([0, 1], {"x": [1, 2], "y": [1, 2]}, sigma=[1, 1]),
    "input u: expected": lambda: ndae.Recording([0, 1], {"x": [1, 2]}, inputs={"u": 3}),
    "outputs x are given twice": lambda: ndae.Recording(
        [0, 1], {"x": [1, 2], type("Named", (), {"name": "x"})(): [1, 2]}
    ),
    "rows 1 to 3 of .* it has rows 0 to 1": lambda: ndae.Recording([0, 1], {"x": [1, 2]}).window(1, 3),
    "give length, a number of rows, or duration": lambda: ndae.Recording([0, 1], {"x": [1, 2]}).windows(),
    "are numbers of rows: give duration=": lambda: ndae.Recording([0, 1], {"x": [1, 2]}).windows(0.5),
    "both are positive": lambda: ndae.Recording([0, 1], {"x": [1, 2]}).windows(1, stride=0),
    "no outputs are left": lambda: ndae.Recording([0, 1], {"x": [1, 2]}).only([]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_wrong_is_named(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


# -- frames and files --------------------------------------------------------------------------------------------------


def two_runs():
    return {
        "t": [0.0, 1.0, 0.0, 0.5, 2.0],
        "run": ["a", "a", "b", "b", "b"],
        "x": [1.0, np.nan, 3.0, 4.0, 5.0],
        "u": [0.0, 1.0, 2.0, np.nan, 4.0],
        "m": [1.0, 1.0, 2.0, 2.0, 2.0],
        "s": [0.1, 0.1, 0.2, 0.2, 0.2],
    }


ROLES = {
    "outputs": {"seen": "x"}, "inputs": {"feed": ("u", "hold")}, "parameters": ["m"], "sigma": {"seen": "s"},
}  # fmt: skip


def check_two_runs(found, name):
    assert [recording.name for recording in found] == [f"{name} run=a", f"{name} run=b"]
    first, second = found
    np.testing.assert_array_equal(first.values["seen"], [1, np.nan])
    np.testing.assert_array_equal(second.times, [0, 0.5, 2])
    assert second.parameters["m"] == 2 and second.sigma["seen"].tolist() == [0.2] * 3
    assert second.inputs["feed"].values(1.0) == 2


def test_a_dict_of_arrays_is_a_frame():
    rows = {name: column[2:] for name, column in two_runs().items()}
    one = ndae.Recording.from_frame(rows, time="t", **ROLES, name="b")
    assert one.times.tolist() == [0, 0.5, 2] and one.name == "b"
    with pytest.raises(ValueError, match=r"row 2 has time 0, after 1 in row 1: give sort=True .*, and by= where"):
        ndae.Recording.from_frame(two_runs(), time="t", outputs="x")
    with pytest.raises(ValueError, match="rows of the same time: 0 and 2 at 0: keep one"):
        ndae.Recording.from_frame(two_runs(), time="t", outputs="x", sort=True)
    with pytest.raises(ValueError, match="parameter m is 1 in row 0 and 2 in row 2"):
        ndae.Recording.from_frame(two_runs(), every=0.1, outputs="x", parameters="m")
    with pytest.raises(ValueError, match=r"has no column 'time'; it has t, run, .*time=, or give every="):
        ndae.Recording.from_frame(two_runs(), time="time", outputs="x")
    with pytest.raises(ValueError, match=r"has no column 'rum'; .*did you mean 'run'"):
        ndae.Recording.from_frame(two_runs(), time="t", outputs="rum")
    assert ndae.Recording.from_frame(two_runs(), every=0.5, outputs="x").times.tolist() == [0, 0.5, 1, 1.5, 2]
    mixed = {"t": [3, 1, 2], "x": [30, 10, 20]}
    assert ndae.Recording.from_frame(mixed, time="t", outputs="x", sort=True).values["x"].tolist() == [10, 20, 30]


def test_a_file_without_its_library_names_the_extra(tmp_path, monkeypatch):
    for package, suffix in (("pandas", "csv"), ("h5py", "h5"), ("xarray", "nc"), ("pandas", "parquet")):
        (tmp_path / f"a.{suffix}").write_text("t,x\n")
        with (
            monkeypatch.context() as patch,
            pytest.raises(ndae.MissingExtraError, match=rf"reading \.{suffix} needs the package .*ndae\[data\]"),
        ):
            patch.setitem(sys.modules, package, None)
            ndae.read_recordings(tmp_path / f"a.{suffix}", outputs="x")


def test_frames_of_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(two_runs())
    check_two_runs([ndae.Recording(**parts) for parts in parts_of(frame, time="t", by="run", name="f", **ROLES)], "f")
    index = pd.DatetimeIndex(["2026-05-04 12:00", "2026-05-04 12:01"], tz="Europe/Oslo")
    whole = pd.DataFrame({"n": pd.array([1, None], dtype="Int64")}, index=index)
    recording = ndae.Recording.from_frame(whole, outputs="n")
    np.testing.assert_array_equal(recording.values["n"], [1, np.nan])
    assert recording.times.tolist() == [0, 60] and recording.origin == np.datetime64("2026-05-04T10:00")
    series = ndae.Recording(frame["t"][2:], {"x": frame["x"][2:]})
    assert series.values["x"].tolist() == [3, 4, 5]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "parquet", "h5", "nc"])
def test_files_hold_what_was_written(tmp_path, suffix):
    pd = pytest.importorskip("pandas")
    frame, path = pd.DataFrame(two_runs()), tmp_path / f"f.{suffix}"
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    elif suffix == "nc":
        pytest.importorskip("xarray")
        frame.to_xarray().to_netcdf(path, engine="h5netcdf")
    elif suffix == "h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            for name, column in two_runs().items():
                file[name] = column
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    check_two_runs(ndae.read_recordings(path, by="run", **ROLES), "f")


def test_several_files_and_what_is_wrong_in_them(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)

    def written(name, text):
        (tmp_path / name).write_text(text)
        return name

    written("run_2.csv", "t,x\n0,1\n1,2\n")
    written("run_1.csv", "t,x\n0,3\n1,\n")
    found = ndae.read_recordings("run_*.csv", outputs="x")
    assert [recording.name for recording in found] == ["run_1", "run_2"]
    assert ndae.read_recordings(["run_2.csv"], outputs={"y": "x"})[0].values["y"].tolist() == [1, 2]
    euro = written("euro.csv", "t;x\n0;1,5\n1;2,5\n")
    assert ndae.read_recordings(euro, outputs="x", sep=";", decimal=",")[0].values["x"].tolist() == [1.5, 2.5]
    dates = written("dates.csv", "t,x\n2026-05-04T12:00:00Z,1\n2026-05-04T12:00:02.5Z,\n")
    assert ndae.read_recordings(dates, outputs="x")[0].times.tolist() == [0, 2.5]
    unseen = written("unseen.csv", "t,x,y\n0,1,\n1,2,\n")
    assert not ndae.read_recordings(unseen, outputs=["x", "y"])[0].seen["y"].any()
    for text, message in {
        "": r"a\.csv: the file is empty",
        "t,x\n": "has no rows",
        "t;x\n0;1\n": "has one column, 't;x': give sep=';'",
        "t,x\n0,1\n1,broken\n": "x, row 1 is the text 'broken'",
        "t,x\n0,__import__('os')\n": "x, row 0 is the text",
        "t,x\n0,1\nlater,2\n": "t, row 1 is the text 'later'",
        "t,x\n2026-05-04,1\nlater,2\n": "t, row 1: 'later' is neither a number nor a date",
        "t,x\n0,1\n,2\n": "t, row 1: nan is no time",
        "t,x\n1,1\n0,2\n": "row 1 has time 0, after 1 in row 0: give sort=True",
        "t,x\n0,1\n0,2\n": "rows of the same time: 0 and 1 at 0",
        "time,x\n0,1\n": "has no column 't'; it has time, x",
        "t,X\n0,1\n": "has no column 'x'",
    }.items():
        with pytest.raises(ValueError, match=message):
            ndae.read_recordings(written("a.csv", text), outputs="x")
    (tmp_path / "old.2026.csv").write_bytes(b"t,x\n0,1\n1,2\n")
    assert ndae.read_recordings("old.2026.csv", outputs="x")[0].name == "old.2026"
    (tmp_path / "old.csv").write_bytes("t,größe\n0,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="encoding='latin-1'"):
        ndae.read_recordings("old.csv", outputs="größe")
    assert ndae.read_recordings("old.csv", outputs="größe", encoding="latin-1")[0].outputs == ("größe",)
    with pytest.raises(FileNotFoundError, match=r"no file none\.csv; in \. there is: .*run_1\.csv"):
        ndae.read_recordings("none.csv", outputs="x")
    with pytest.raises(ValueError, match=r"files \.xyz are not read"):
        ndae.read_recordings(written("a.xyz", ""), outputs="x")
    with pytest.raises(ValueError, match="run, row 1 is empty"):
        ndae.read_recordings(written("b.csv", "t,x,run\n0,1,a\n1,2,\n"), outputs="x", by="run")
