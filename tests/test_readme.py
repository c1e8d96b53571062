"""The README's Python runs as it stands there, and the public names it and the docstring promise are there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("code", blocks())
def test_the_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    if "model" in namespace:  # the example ends with a network whose output obeys the constraint
        constraint, y = namespace["model"].constraint, namespace["model"](namespace["inputs"])
        assert constraint.residual(y.flatten(-2)).abs().max() < 1e-4


def test_there_is_code_to_run():
    assert blocks()


def test_ndae_gives_the_names_of_the_three_rooms():
    import ndae
    import solvers
    import symbolic

    for name in [*symbolic.__all__, *solvers.__all__, "NeuralDAE", "SmoothProjection", "fit"]:
        assert getattr(ndae, name) is not None
        assert name in dir(ndae)
    with pytest.raises(AttributeError, match="NeuralDAE"):
        _ = ndae.NeuralODE
