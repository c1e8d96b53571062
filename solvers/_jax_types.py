"""Shapes of the JAX arrays of `solvers`: one state, since batches go through jax.vmap. References are float64."""

from jaxtyping import Array, Bool, Float64, Int64

PhaseState = Float64[Array, "two_n_states"]  # (q, v), one after the other
Coordinates = Float64[Array, " n_states"]
Leading = Float64[Array, " n_leading"]  # w of a reduced DAE
Residual = Float64[Array, " n_residuals"]
JacobianMatrix = Float64[Array, "n_residuals n_states"]
Time = Float64[Array, ""]
Times = Float64[Array, " n_times"]
Count = Int64[Array, ""]
Flag = Bool[Array, ""]
