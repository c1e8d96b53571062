"""Functions generated for torch."""

from collections.abc import Sequence

import torch

from symbolic import _prelude_torch as prelude
from symbolic._runtime_torch import TorchFunction
from symbolic.compile import JOINS, generated_functions, load, specification
from symbolic.names import check_torch_names

_HELPERS = {"torch": torch} | {name: getattr(prelude, name) for name in ("rsqrt", *JOINS)}


class _Generated(dict):
    """Generated functions by name, pickled and copied as the source that they come from."""

    def __init__(self, source: str):
        super().__init__(load(source, _HELPERS))
        self.source = source

    def __reduce__(self):
        return _Generated, (self.source,)


def compile_torch(function, learn: Sequence[str] = ()) -> TorchFunction:
    """Compile a `Function` to a `TorchFunction`; raises ValueError if `learn` names no parameter of it."""
    if isinstance(learn, str):
        raise ValueError(f"{function.name}: learn={learn!r}: expected a list of names: write [{learn!r}]")
    check_torch_names(function)
    method = next((name for name in learn if hasattr(torch.nn.ParameterDict(), name)), None)
    if method is not None and method in function.parameters:
        raise ValueError(
            f"{function.name}: a learned parameter cannot be named {method!r}, as something of torch's ParameterDict "
            "is: rename it"
        )
    return TorchFunction(specification(function), _Generated(generated_functions(function, "torch")), learn)
