"""The Python of docs/unknown.md runs as it stands there."""

import pytest

from tests.docs.examples import blocks, run


@pytest.mark.parametrize("code", blocks("unknown"))
def test_the_code_runs(code, tmp_path, monkeypatch):
    run(code, tmp_path, monkeypatch)
