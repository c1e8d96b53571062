"""Functions generated for NumPy."""

from collections.abc import Sequence

import numpy as np

from symbolic._prelude_numpy import rsqrt, scatter_add
from symbolic._runtime_array import ArrayFunction, Joins
from symbolic.compile import generated_functions, helpers, load, specification


def compile_numpy(function, only: Sequence[str] | None = None) -> ArrayFunction:
    """Compile a `Function`, or `only` some of its functions, to pure NumPy functions."""
    functions = load(generated_functions(function, "numpy", only), {"np": np, "rsqrt": rsqrt} | helpers(Joins(np)))
    return ArrayFunction(specification(function), functions, np, scatter_add)
