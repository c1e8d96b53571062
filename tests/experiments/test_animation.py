"""The animation has the frames it is given."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from ndae.experiments.drawing.animation import animate
from ndae.experiments.drawing.figures import drift_figure
from tests.experiments.records_for_tests import PAPERS, snapshots


def test_a_frame_a_sample_and_they_differ(tmp_path):
    told = []
    path = tmp_path / "new" / "a.gif"
    animate(snapshots(4, PAPERS[::2]), path, dt=0.01, frame_ms=50, report=lambda *news: told.append(news))
    with Image.open(path) as film:
        assert film.n_frames == 4
        frames = []
        for index in range(4):
            film.seek(index)
            assert film.info["duration"] == 50
            frames.append(np.asarray(film.convert("RGB")))
    assert all((a != b).any() for a, b in pairwise(frames))
    assert [fraction for fraction, _ in told] == [0.25, 0.5, 0.75, 1.0]


def test_one_frame_is_no_animation(tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        animate(snapshots(1), tmp_path / "a.gif", dt=0.01)


def test_drift_against_time_is_drawn(tmp_path):
    assert drift_figure(snapshots(4, PAPERS[:3]), tmp_path / "d.png", dt=0.01).read_bytes().startswith(b"\x89PNG")
