"""The Python of docs/data.md runs as it stands there."""

import pytest

from tests.docs.examples import blocks, run

pytest.importorskip("pandas", reason="the extra data is not installed")


@pytest.mark.parametrize("code", blocks("data"))
def test_the_code_runs(code, tmp_path, monkeypatch):
    run(code, tmp_path, monkeypatch)
