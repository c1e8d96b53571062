"""Functions generated for torch."""

from collections.abc import Sequence

import torch

from ndae.symbolic.backends import _prelude_torch as prelude
from ndae.symbolic.backends._runtime_torch import TorchFunction
from ndae.symbolic.backends.loading import JOINS, Generated, generated_functions, specification
from ndae.symbolic.expressions.names import check_torch_names
from ndae.symbolic.ground.arguments import KEPT


def _names() -> dict:
    return {"torch": torch} | {name: getattr(prelude, name) for name in ("rsqrt", *JOINS)}


def compile_torch(function, learn: Sequence[str] = ()) -> TorchFunction:
    """Compile a `Function` to a `TorchFunction`; raises ValueError if `learn` names no parameter of it."""
    if isinstance(learn, str):
        raise ValueError(f"{function.name}: learn={learn!r}: expected a list of names: write [{learn!r}]")
    learn = tuple(learn)  # looked through more than once
    check_torch_names(function)
    method = next((name for name in learn if hasattr(torch.nn.ParameterDict(), name)), None)
    if method is not None and method in function.parameters:
        raise ValueError(
            f"{function.name}: a learned parameter cannot be named {method!r}, as something of torch's ParameterDict "
            "is: rename it"
        )
    compiled = TorchFunction(specification(function), Generated(generated_functions(function, "torch"), _names), learn)
    compiled.__dict__[KEPT] = {"function": function, "learn": learn}  # by which it is written to files
    return compiled
