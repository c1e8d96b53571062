"""Masses of a motion: given or learned, a number or a block for each node, positive definite by construction."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Mass = Float[Tensor, " nodes"] | Float[Tensor, "nodes dim dim"]


class Masses(nn.Module):
    """M = diag(m₁, …, mₙ), a number (kg) for each node, or a symmetric positive definite block (dim, dim) for each.

    With `learn` what is given is the start of a training: of log m, or of the Cholesky factor L of M = L Lᵀ with the
    logarithm of its diagonal, so that every value the parameters may take is positive definite.

    Raises ValueError for a mass that is not positive (definite) or finite, naming the node and the direction without
    mass, and for a shape that does not fit.
    """

    def __init__(self, mass: Any, nodes: int, dim: int, learn: bool = False):
        super().__init__()
        value = torch.as_tensor(mass, dtype=torch.float64).detach()
        if value.ndim == 0:
            value = value.expand(nodes)
        if value.shape not in ((nodes,), (nodes, dim, dim)):
            raise ValueError(
                f"mass has shape {tuple(value.shape)}: give one number, ({nodes},) for one each of {nodes} nodes, or "
                f"({nodes}, {dim}, {dim}) for a block each"
            )
        if not value.isfinite().all():
            raise ValueError(f"mass={mass!r}: masses are finite, in kg")
        self._check_positive(value)
        self._value, self._inverse = value.clone(), _inverse(value)  # float64, cast to what the state has
        self._is_unit = value.ndim == 1 and bool((value == 1).all())
        self.raw = None
        if learn:
            raw = value.log() if value.ndim == 1 else _log_diagonal(torch.linalg.cholesky(value))
            self.raw = nn.Parameter(raw.to(torch.get_default_dtype()))

    @property
    def value(self) -> Mass:
        """As given, or as learned so far."""
        if self.raw is None:
            return self._value
        if self.raw.ndim == 1:
            return self.raw.exp()
        lower = self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())
        return lower @ lower.mT

    def inverse(self, like: Tensor) -> Mass | None:
        """M⁻¹ in the precision of `like` and where that is; None for unit masses, which cost nothing."""
        if self.raw is not None:
            return _inverse(self.value).to(like)
        return None if self._is_unit else self._inverse.to(like)

    @staticmethod
    def _check_positive(value: Tensor) -> None:
        if value.ndim == 1:
            bad = (value <= 0).nonzero().flatten().tolist()
            if bad:
                raise ValueError(
                    f"the mass of node {bad[0]} is {value[bad[0]]:g} kg: masses are positive. A point without mass has "
                    "no equation of motion of its own: write it as a constraint, or give it a small mass"
                )
            return
        for node, block in enumerate(value):
            if not torch.allclose(block, block.mT, rtol=1e-9, atol=0):
                raise ValueError(f"the mass matrix of node {node} is not symmetric")
            sizes, directions = torch.linalg.eigh(block)
            if sizes[0] <= 1e-12 * sizes[-1].abs():
                raise ValueError(
                    f"the mass matrix of node {node} is not positive definite: along "
                    f"{[round(x, 4) for x in directions[:, 0].tolist()]} it is {sizes[0]:.3g}; a direction without "
                    "mass has no equation of motion: write it as a constraint, or give it a small mass"
                )


def _inverse(value: Tensor) -> Tensor:
    return 1 / value if value.ndim == 1 else torch.linalg.inv(value)


def _log_diagonal(lower: Tensor) -> Tensor:
    return lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).log())
