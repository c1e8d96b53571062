"""Functions generated for NumPy."""

from collections.abc import Sequence

import numpy as np

from ndae.symbolic.backends._prelude_numpy import as_array, rsqrt, scatter_add
from ndae.symbolic.backends._runtime_array import ArrayFunction, Joins
from ndae.symbolic.backends.loading import Generated, generated_functions, helpers, specification


def _names() -> dict:
    return {"np": np, "rsqrt": rsqrt} | helpers(Joins(np))


def compile_numpy(function, only: Sequence[str] | None = None) -> ArrayFunction:
    """Compile a `Function`, or `only` some of its functions, to pure NumPy functions."""
    functions = Generated(generated_functions(function, "numpy", only), _names)
    return ArrayFunction(specification(function), functions, np, scatter_add, as_array)
