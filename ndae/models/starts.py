"""Whether a motion can start from given states: constraints that determine their multipliers, and states on them."""

from typing import Any

import torch
from torch import Tensor

# A Gram matrix of rows of length one whose smallest eigenvalue is below this times the precision has dependent rows.
_DEPENDENT = 100


def check_starts(constraint: Any, along: Any, q: Tensor, v: Tensor, t: Tensor | None, tolerance: float | None) -> None:
    """Raise ValueError naming the sample where `c(q, t)` or its rate, or `along`, is above `tolerance` (None: any), or
    where the rows of the Jacobians depend on each other; states are (..., n_states)."""
    q, v = (x.reshape(-1, x.shape[-1]) for x in (q, v))
    t = None if t is None else t.reshape(-1)
    rows, levels = [], []
    if constraint is not None:
        rows.append(constraint.jacobian(q, t))
        levels.append((constraint.name, "c", constraint.residual(q, t)))
        levels.append((constraint.name, "dc/dt", constraint.velocity(q, v, t)))
    if along is not None:
        y = torch.cat([q, v], -1)
        rows.append(along.jacobian(y, t)[..., q.shape[-1] :])
        levels.append((along.name, "A v + b", along.residual(y, t)))
    if tolerance is not None:
        for name, level, residual in levels:
            _check_residual(name, level, residual.abs(), tolerance)
    _check_independent(" and ".join(dict.fromkeys(name for name, *_ in levels)), torch.cat(rows, -2))


def _check_residual(name: str, level: str, size: Tensor, tolerance: float) -> None:
    bad = ~(size <= tolerance).all(-1)
    if not bad.any():
        return
    sample = int(bad.nonzero()[0, 0])
    worst = int(size[sample].nan_to_num(torch.inf).argmax())
    what = "velocities that are not tangent" if level == "dc/dt" else "a start that is off the constraint"
    raise ValueError(
        f"{name}: {int(bad.sum())} of {len(size)} samples have {what}, first sample {sample}, where {level} number "
        f"{worst} is {float(size[sample, worst]):.3g} (at most {tolerance:g}, start_tol): give consistent states, or "
        'starts="project" to start from the nearest ones'
    )


def _check_independent(name: str, rows: Tensor) -> None:
    rows = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    sizes, directions = torch.linalg.eigh(rows @ rows.mT)
    bad = ~(sizes[..., 0] > _DEPENDENT * torch.finfo(rows.dtype).eps)
    if not bad.any():
        return
    sample = int(bad.nonzero()[0, 0])
    share = directions[sample, :, 0].abs()
    involved = (share > 0.05 * share.max()).nonzero().flatten().tolist()
    raise ValueError(
        f"{name}: at sample {sample} the constraints number {', '.join(map(str, involved))} are redundant, their "
        "gradients depend on each other, so that their multipliers are not determined: leave out those that follow "
        "from the others; where none does, as of distances between points in a line or a plane, place points by linear "
        "constraints on others, as ndae.library.rigid_molecules(positions=...) does"
    )
