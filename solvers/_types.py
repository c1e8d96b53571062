"""Shapes of the arrays of `solvers`; `batch` stands for any number of leading dimensions, also none."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

State = Float[Tensor, "*batch n_states"]
Residual = Float[Tensor, "*batch n_residuals"]
PerSample = Float[Tensor, "*batch"]
Count = Int[Tensor, "*batch"]
Flag = Bool[Tensor, "*batch"]
Trajectory = Float[Tensor, "*batch n_times n_states"]
Times = Float[Tensor, " n_times"]
