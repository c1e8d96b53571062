"""The figures draw the numbers they are given."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ndae.experiments.drawing import figures
from ndae.experiments.drawing.figures import Snapshots, curves_figure, snapshots_figure
from ndae.experiments.problems.pendulum_data import link_lengths
from tests.experiments.records_for_tests import ALONE, PAPERS, chain, record, snapshots

PNG = b"\x89PNG"


@pytest.fixture
def sheets(monkeypatch):
    """Figures as they were when saved."""
    saved = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda sheet, path: (saved.append(sheet), save(sheet, path))[1])
    return saved


def test_curves_are_the_mean_and_one_standard_deviation(tmp_path, sheets):
    runs = {PAPERS[0]: [record(PAPERS[0], seed) for seed in range(3)]}
    path = curves_figure(runs, tmp_path / "new" / "figure4.png", title="a study")
    assert path.read_bytes().startswith(PNG)
    error, violation = sheets[0].axes
    values = np.array([run.log["val_mae_cm"] for run in runs[PAPERS[0]]])
    solid, dashed = error.lines
    np.testing.assert_allclose(solid.get_ydata(), values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(dashed.get_ydata(), values.mean(0) / 2, rtol=1e-14)
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    band = error.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((values.mean(0) + values.std(0, ddof=1)).max())
    assert band[:, 1].min() == pytest.approx((values.mean(0) - values.std(0, ddof=1)).min())
    largest = np.array([run.log["val_violation_max"] for run in runs[PAPERS[0]]])
    np.testing.assert_allclose(violation.lines[0].get_ydata(), largest.mean(0), rtol=1e-14)
    assert "(cm)" in error.get_ylabel() and "(m)" in violation.get_ylabel()
    assert {text.get_text() for text in sheets[0].legends[0].texts} >= {"No constraint", "validation", "training"}


def test_a_band_wider_than_its_mean_stays_on_the_logarithmic_axis(tmp_path, sheets):
    runs = [record(PAPERS[0], seed) for seed in range(2)]
    for run, value in zip(runs, (1e-6, 1.0), strict=True):
        run.log["val_violation_max"][:] = [value] * 4
    curves_figure({PAPERS[0]: runs}, tmp_path / "f.png")
    band = sheets[0].axes[1].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(1e-6)


def test_seeds_that_stopped_early_leave_the_mean_to_the_others(tmp_path, sheets):
    runs = [record(PAPERS[0], 0, epochs=3), record(PAPERS[0], 1, epochs=5)]
    curves_figure({PAPERS[0]: runs}, tmp_path / "f.png")
    line = sheets[0].axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(line.get_ydata()[3:], runs[1].log["val_mae_cm"][3:])


def test_each_method_keeps_its_own_colour(tmp_path, sheets):
    assert len(set(figures.METHOD_COLOURS.values())) == len(figures.METHOD_COLOURS)
    curves_figure({v: [record(v)] for v in PAPERS}, tmp_path / "a.png")
    curves_figure({v: [record(v)] for v in reversed(PAPERS[2:])}, tmp_path / "b.png")
    colours = [{line.get_color() for line in sheet.axes[0].lines} for sheet in sheets]
    assert colours[1] < colours[0]


def test_snapshots_draw_truth_prediction_and_error(tmp_path, sheets):
    shots = snapshots(samples=2)
    path = snapshots_figure(shots, tmp_path / "figure6.png")
    assert path.read_bytes().startswith(PNG)
    assert len(sheets[0].axes) == 2 * len(PAPERS)
    last = sheets[0].axes[-1]
    truth, predicted = np.array(shots.truth[1]), np.array(shots.predictions[PAPERS[4].title][1])
    drawn = [np.column_stack(line.get_data())[1:] for line in last.lines if len(line.get_xdata()) == 6]
    np.testing.assert_array_equal(drawn[1], truth)
    np.testing.assert_array_equal(drawn[2], predicted)
    by_hand = sum(100 * np.hypot(*(predicted[i] - truth[i])) for i in range(5)) / 5
    assert last.get_xlabel() == f"{by_hand:.1f} cm"


def test_lengths_and_violations_of_a_stretched_chain():
    straight = chain(np.zeros((1, 3)))
    np.testing.assert_allclose(link_lengths(straight), [[1, 1, 1]])
    stretched = straight.copy()
    stretched[0, 2, 1] -= 0.25
    shots = Snapshots([0.0], straight.tolist(), straight.tolist(), {"x": stretched.tolist()}, {"x": "none"}, 20)
    assert shots.violations("x") == pytest.approx([0.25])
    assert shots.errors_cm("x") == pytest.approx([25 / 3])
    assert Snapshots(**json.loads(json.dumps(shots.to_json()))) == shots


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no runs"):
        curves_figure({}, tmp_path / "f.png")
    with pytest.raises(ValueError, match="no snapshots"):
        snapshots_figure(Snapshots([], [], [], {}, {}, 20), tmp_path / "f.png")
    assert not list(tmp_path.iterdir())


def test_no_text_overlaps(tmp_path, sheets):
    curves_figure({v: [record(v, s) for s in range(2)] for v in PAPERS + ALONE}, tmp_path / "a.png", title="a title")
    snapshots_figure(snapshots(3), tmp_path / "b.png", title="a title")
    for sheet in sheets:
        canvas = FigureCanvasAgg(sheet)
        canvas.draw()
        renderer = canvas.get_renderer()
        boxes = [text.get_window_extent(renderer) for text in _texts(sheet)]
        for i, box in enumerate(boxes):
            assert sheet.bbox.x0 <= box.x0 and box.x1 <= sheet.bbox.x1
            assert sheet.bbox.y0 <= box.y0 and box.y1 <= sheet.bbox.y1
            assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def _texts(sheet):
    texts = [*sheet.texts, *sheet.legends[0].texts]
    for axes in sheet.axes:
        shown = []
        for labels, (low, high), i in (
            (axes.get_xticklabels(), axes.get_xlim(), 0),
            (axes.get_yticklabels(), axes.get_ylim(), 1),
        ):
            shown += [label for label in labels if low <= label.get_position()[i] <= high]
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *shown]
    return [text for text in texts if text.get_text()]
