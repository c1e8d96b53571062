"""The Python of the README runs as it stands there, and the public names it and the docstring promise are there."""

from pathlib import Path

import pytest

from tests.docs.examples import CLAIMS, PAGES, blocks, last_line, run


@pytest.mark.parametrize("code", blocks("readme"))
def test_the_code_runs(code, tmp_path, monkeypatch):
    run(code, tmp_path, monkeypatch)


def test_each_page_with_code_has_its_tests():
    written = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [page for page in PAGES if blocks(page) and f'blocks("{page}"))' not in written] == []


def test_each_claim_is_of_an_example():
    assert set(CLAIMS) <= {last_line(param.values[0]) for page in PAGES for param in blocks(page)}


def test_ndae_names_what_it_has():
    import ndae

    for name in ["Constraint", "NeuralDAE", "consistent_initial_condition", "fit", "methods", "solvers"]:
        assert getattr(ndae, name) is not None
        assert name in dir(ndae)
    with pytest.raises(AttributeError, match="NeuralDAE"):
        _ = ndae.NeuralODE
