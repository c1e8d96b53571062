"""What torch code is given, made what it works on: compiled constraints, and states as tensors."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ndae.solvers._types import Compiled
from ndae.symbolic.ground.kept import remembered

Method = TypeVar("Method", bound=Callable)
# Of functions: a model compiles its own, which goes with it to other devices and precisions.
_compiled: WeakKeyDictionary[Any, dict] = WeakKeyDictionary()


def compiled(constraint: Any, name: str = "constraint") -> Compiled:
    """A constraint for torch: as it is where it is compiled, and compiled anew where it is symbolic.

    Raises ValueError, with what to give as the argument `name`, for anything else.
    """
    if isinstance(constraint, nn.Module) and hasattr(constraint, "residual") and hasattr(constraint, "n_states"):
        return cast(Compiled, constraint)
    from ndae.symbolic.functions.function import Function  # SymPy, which what is compiled does without
    from ndae.symbolic.systems.system import System

    if isinstance(constraint, Function):
        return constraint.torch()
    if isinstance(constraint, System) and constraint.points is not None:
        mend = f"give its constraint, {name}=system.points.constraint"
    elif hasattr(constraint, "residual"):
        mend = f"it is not compiled for torch: give the symbolic Constraint, or its .torch(), as {name}"
    else:
        mend = f"give a Constraint, such as {name}=ndae.library.chain(2), or its .torch()"
    raise ValueError(f"{name} is {_shown(constraint)}, expected a constraint: {mend}")


def compiled_at(constraint: Any, y: Tensor) -> Compiled:
    """As `compiled`, on the device of y; what a symbolic one is compiled to is kept with it for the next call."""
    if isinstance(constraint, nn.Module) or not hasattr(constraint, "torch"):
        return compiled(constraint)
    known = remembered(_compiled, constraint, dict)
    return remembered(known, y.device, lambda: compiled(constraint).to(y.device))


def as_states(values: Any, name: str, model: nn.Module | None = None) -> Tensor:
    """States as a tensor: a tensor as it is; of an array or lists, one in the precision and on the device of the
    model's parameters, and without these in float32 where they are, else in float64.

    Raises ValueError, naming them, for what holds no real numbers, and for a tensor of whole numbers.
    """
    if isinstance(values, Tensor):
        if not values.is_floating_point():
            raise ValueError(
                f"{name} has dtype {values.dtype}, expected float32 or float64: give {name}.float() or {name}.double()"
            )
        return values
    tensor = as_numbers(values, name)
    like = next(filter(torch.is_floating_point, () if model is None else model.parameters()), None)
    if like is not None:
        return tensor.to(like)
    return tensor if tensor.dtype == torch.float32 else tensor.double()


def as_numbers(values: Any, name: str) -> Tensor:
    """A tensor of what the user gave: a tensor, or anything that NumPy takes, in any byte order and memory layout.

    Raises `ValueError`, naming the data and the mend, for what holds no real numbers, or has masked entries.
    """
    if not isinstance(values, Tensor):
        try:
            array = np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
            if array.dtype == object:
                array = array.astype(float)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: not an array of numbers ({error}): give equally long rows of numbers") from error
        if np.ma.is_masked(array):
            raise ValueError(f"{name}: {np.ma.count_masked(array)} entries are masked: leave those samples out")
        if array.dtype.kind not in "fiubc":
            raise ValueError(f"{name}: an array of {array.dtype} holds no numbers: give floats, .astype(float)")
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:
            array = array.astype(float)
        # torch takes neither foreign byte orders nor negative strides, and warns of memory it may not write to.
        array = np.require(array, array.dtype.newbyteorder("="), ["C", "A", "W"])
        values = torch.as_tensor(array)
    if values.is_complex():
        raise ValueError(f"{name}: complex numbers: give real ones, such as torch.view_as_real(...)")
    return values


def of_states(method: Method) -> Method:
    """A method of a model whose first argument, x, may be what `as_states` takes.

    Where torch fails on a tensor of another precision or device than the model's parameters, that is said.
    """

    @functools.wraps(method)
    def with_tensor(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        x = as_states(x, "x", self)
        try:
            return method(self, x, *args, **kwargs)
        except RuntimeError as error:
            # Mixed precision may be meant, and works where forces allow it, so that it is no error in advance.
            own = next((p for p in self.parameters() if (p.dtype, p.device) != (x.dtype, x.device)), None)
            if type(error) is not RuntimeError or own is None:
                raise
            raise ValueError(
                f"x is of {x.dtype} on {x.device}, the model has parameters of {own.dtype} on {own.device}: give "
                f"x.to(next(model.parameters())), or move the model by model.to(x) ({error})"
            ) from error

    return cast(Method, with_tensor)


def check_finite(x: Tensor, name: str) -> None:
    """Raise ValueError where a sample of states (..., nodes, features) is not finite, naming the first."""
    bad = (~x.detach().isfinite()).flatten(-2).any(-1).flatten().nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{name}: {len(bad)} of {x.shape[:-2].numel()} samples hold a number that is not finite, first sample "
            f"{bad[0]}; remove or mend them"
        )


def _shown(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"
