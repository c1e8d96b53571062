"""Functions generated for torch."""

from collections.abc import Sequence

import torch

from symbolic import _prelude_torch as prelude
from symbolic._runtime_torch import TorchFunction
from symbolic.compile import generated_functions, load, specification

_HELPERS = {"torch": torch} | {n: getattr(prelude, n) for n in ("rsqrt", "split", "split_rows", "rows", "columns", "matrix")}


def compile_torch(function, learn: Sequence[str] = ()) -> TorchFunction:
    """Compile a `Function` to a `TorchFunction`; raises ValueError if `learn` names no parameter of it."""
    source = generated_functions(function, "torch")
    return TorchFunction(specification(function), load(source, _HELPERS), learn)
