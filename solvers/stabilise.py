"""Stabilisation by penalty, eq. (14) of the paper: a term in the vector field that flows towards c = 0."""

from collections.abc import Mapping

from torch import Tensor

from solvers._types import State
from solvers.linear import apply_metric
from solvers.problem import Problem


def stabilisation(
    constraint,
    y: State,
    gamma: float | Tensor,
    H: str = "identity",
    inverse_metric: Tensor | None = None,
    *,
    t: float | Tensor | None = None,
    parameters: Mapping | None = None,
    lift: bool = False,
) -> State:
    """-γ A Jᵀ H c at y (..., n_states), of the same shape: the penalty term of eq. (14).

    `H`: "identity", then γ has the unit 1/time for a constraint of unit gradient; or "gram", H = (J A Jᵀ)⁻¹, with which
    c decays as exp(-γ t) along the flow in every direction. `inverse_metric` A as in `project`; `lift=True` leaves the
    leading A away, for a caller that lifts the result by Kᵀ, A = K Kᵀ. γ may be a tensor, which may be learned.

    Differentiable any number of times, with respect to all inputs. Raises ValueError on an unknown H.
    """
    if H == "identity":
        pull = constraint.penalty(y, t, parameters)
    elif H == "gram":
        at = Problem.of(constraint, y, t, parameters, inverse_metric).linearise_start()
        pull = at.transpose(at.gram.solve(at.residual)).reshape(y.shape)
    else:
        raise ValueError(f"H is {H!r}: choose 'identity' or 'gram', (J A Jᵀ)⁻¹")
    return -gamma * (pull if lift else apply_metric(constraint, inverse_metric, pull))
