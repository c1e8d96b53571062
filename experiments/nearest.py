"""Positions that obey a constraint, nearest to those given."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ndae.symbolic import Constraint


def nearest_positions(constraint: "Constraint", r: np.ndarray, mass: np.ndarray | None = None) -> np.ndarray:
    """The points of the manifold nearest to positions (B, nodes, dim), in the metric of the masses (nodes,) if given.

    A sample whose projection does not converge stays as it was.
    """
    import torch

    from ndae.solvers import project

    y = torch.as_tensor(r.reshape(len(r), -1))
    metric = None if mass is None else torch.as_tensor(1.0 / mass)
    with torch.no_grad():
        outcome = project(constraint.torch(), y, inverse_metric=metric, tol=1e-10, throw=False)
    y = torch.where(outcome.converged[:, None], outcome.y, y)
    return y.numpy().reshape(r.shape)
