"""The rules of the house: imports run one way, shapes are checked while the tests run."""

import ast
from pathlib import Path

import jaxtyping
import pytest
import torch

ROOT = Path(__file__).parents[1]
ROOMS = ("symbolic", "solvers", "ndae", "experiments")


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    above = ROOMS[ROOMS.index(room) + 1 :]
    upward = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sorted((ROOT / room).rglob("*.py"))
        for name in imported(file)
        if name.split(".")[0] in above
    ]
    assert not upward


def test_shapes_are_checked_at_run_time():
    from ndae.models.maps import LinearMap
    from ndae.symbolic import library

    chain = library.chain(3).torch()
    with pytest.raises(jaxtyping.TypeCheckError):
        chain.vjp(torch.zeros(2, 6), torch.zeros(3, 3))  # batches that differ
    with pytest.raises(jaxtyping.TypeCheckError):
        LinearMap(2, 4).start_as(torch.zeros(4))
