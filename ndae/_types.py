"""Shapes of this package's arrays: `batch` is any number of leading axes, `nodes` bodies or one whole state."""

from jaxtyping import Float
from torch import Tensor

Latent = Float[Tensor, "*batch nodes latent"]
Features = Float[Tensor, "*batch nodes features"]
Output = Float[Tensor, "*batch nodes dim"]
Scalar = Float[Tensor, ""]
