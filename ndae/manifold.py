"""The constraint manifold as methods see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ndae._types import Latent, Output
from ndae.solvers import Projection, project_latent
from ndae.solvers.manifold.closing import close


@dataclass
class Manifold:
    """`{z : c(K_c z) = 0}`: a constraint, the closing matrix of this forward pass, and what the methods recorded.

    `constraint` is a compiled torch constraint over the closed state (all nodes, flattened), `close_weight` is
    `K_cᵀ` with shape `(latent, dim)`, applied to every node; `time` (s) is for a constraint that depends on it, one
    number or one for each sample, where depth is time.
    """

    constraint: Any  # a module; None in a motion that velocity constraints alone hold
    close_weight: Tensor
    orthonormal: bool
    time: float | Tensor | None = None
    sizes: Tensor | None = None  # (dim,) of the quantities: K_c is diag(sizes) times an orthonormal one, or another
    parameters: Mapping[str, Tensor] | None = None  # of the constraint, one number for each sample
    projections: list[Projection] = field(default_factory=list)
    _unprojected: list[tuple[Latent, float | Tensor | None]] = field(default_factory=list)

    def record(self, z: Latent) -> None:
        """Remember a state that a layer, or the last one, ended in before any projection."""
        self._unprojected.append((z, self.time))

    def violations(self) -> list[Tensor]:
        """`c` of the states recorded, each `(batch, n_residuals)`."""
        given = () if self.parameters is None else (self.parameters,)
        return [self.constraint.residual(self.close(z).flatten(-2), t, *given) for z, t in self._unprojected]

    def close(self, z: Latent) -> Output:
        """`y = K_c z`, node by node."""
        return close(z, self.close_weight)

    def project(self, z: Latent, **options) -> Latent:
        """The nearest latent state with `c(K_c z) = 0` (eq. 12); the outcome is recorded."""
        z, projection = project_latent(
            self.constraint,
            z,
            self.close_weight,
            orthonormal=self.orthonormal,
            sizes=self.sizes,
            t=self.time,
            parameters=self.parameters,
            throw=False,
            **options,
        )
        self.projections.append(projection)
        return z
