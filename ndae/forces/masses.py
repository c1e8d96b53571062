"""Masses of a motion: given or learned, a number or a block for each node, positive definite by construction."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Mass = Float[Tensor, " nodes"] | Float[Tensor, "nodes dim dim"]


class Masses(nn.Module):
    """M = diag(m₁, …, mₙ), a number (kg) for each node, or a symmetric positive definite block (dim, dim) for each.

    With `learn` what is given is the start of a training: of log m, or of the Cholesky factor L of M = L Lᵀ with the
    logarithm of its diagonal, so that every value the parameters may take is positive definite. `learn`: True for all
    nodes, a mask (nodes,), or the numbers of the nodes whose masses are unknown; the others stay as given.

    Raises ValueError for a mass that is not positive (definite) or finite, naming the node and the direction without
    mass, and for a shape, a mask or a node number that does not fit.
    """

    unknown: Tensor

    def __init__(self, mass: Any, nodes: int, dim: int, learn: Any = False):
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
        self.raw, self._all = None, False
        unknown = _unknown(learn, nodes)
        if unknown:
            start = value[unknown]
            raw = start.log() if value.ndim == 1 else _log_diagonal(torch.linalg.cholesky(start))
            self.raw = nn.Parameter(raw.to(torch.get_default_dtype()))
            self._all = len(unknown) == nodes
            self.register_buffer("unknown", torch.tensor(unknown), persistent=False)

    @property
    def value(self) -> Mass:
        """As given, or as learned so far."""
        if self.raw is None:
            return self._value
        if self.raw.ndim == 1:
            learned = self.raw.exp()
        else:
            lower = self.raw.tril(-1) + torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())
            learned = lower @ lower.mT
        return learned if self._all else self._value.to(learned).index_copy(0, self.unknown, learned)

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


def _unknown(learn: Any, nodes: int) -> list[int]:
    """Numbers of the nodes whose masses are learned, in order."""
    if isinstance(learn, bool):
        return list(range(nodes)) if learn else []
    said = (
        f"learn_mass={learn!r}: give True, a mask of {nodes} truth values, or numbers of nodes from 0 to {nodes - 1}, "
        "each once"
    )
    try:
        chosen = torch.as_tensor(learn)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(said) from error
    if chosen.dtype == torch.bool and chosen.shape == (nodes,):
        return chosen.nonzero().flatten().tolist()
    if chosen.dtype == torch.bool or chosen.is_floating_point() or chosen.ndim != 1 or not len(chosen):
        raise ValueError(said)
    numbers = sorted(chosen.tolist())
    if numbers != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= nodes:
        raise ValueError(said)
    return numbers


def _inverse(value: Tensor) -> Tensor:
    return 1 / value if value.ndim == 1 else torch.linalg.inv(value)


def _log_diagonal(lower: Tensor) -> Tensor:
    return lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).log())
