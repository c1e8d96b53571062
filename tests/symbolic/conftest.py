"""What tests of generated functions share."""

import pytest


@pytest.fixture(params=["straight", "levelled"])
def form(request, monkeypatch):
    """Both forms of array code, whatever the size."""
    from ndae.symbolic.backends import vector_jax, vector_numpy, vector_torch

    limit = 10**9 if request.param == "straight" else -1
    for module in (vector_numpy, vector_jax, vector_torch):
        monkeypatch.setattr(module, "STRAIGHT_LIMIT", limit)
