"""Shapes of the arrays of `solvers`; `batch` stands for any number of leading dimensions, also none."""

from typing import TYPE_CHECKING, Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

State = Float[Tensor, "*batch n_states"]
Residual = Float[Tensor, "*batch n_residuals"]
PerSample = Float[Tensor, "*batch"]
Count = Int[Tensor, "*batch"]
Flag = Bool[Tensor, "*batch"]
Trajectory = Float[Tensor, "*batch n_times n_states"]
Times = Float[Tensor, " n_times"]

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    from ndae.symbolic.backends._runtime_torch import TorchFunction as Compiled  # what a constraint of torch's has

    AnyState: TypeAlias = State | ArrayLike
    AnyTimes: TypeAlias = Times | ArrayLike
else:  # made tensors and checked by hand, with errors that name the mend, which run-time type checks must not forestall
    AnyState = AnyTimes = Any
    Compiled = nn.Module
