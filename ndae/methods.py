"""How a neural DAE enforces its constraint: small objects with four hooks, freely combined with `+`.

The hooks are called by `NeuralDAE` in this order: `field` (at every evaluation of the vector field), `after_layer`,
`after_last`, `regularisation` (once a forward pass). Each gets the `Manifold`: the constraint seen from the latent
space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ndae._types import Latent, Scalar
from ndae.manifold import Manifold
from ndae.solvers import stabilisation_latent
from ndae.solvers.manifold.multipliers import tangent_latent


class Method:
    """A way to enforce a constraint; the base class enforces nothing (eq. 2)."""

    def field(self, velocity: Latent, z: Latent, manifold: Manifold) -> Latent:
        """The vector field at `z`, given what the network says there."""
        return velocity

    def after_layer(self, z: Latent, manifold: Manifold) -> Latent:
        """The state after a layer, before the next one."""
        return z

    def after_last(self, z: Latent, manifold: Manifold) -> Latent:
        """The state after the last layer, before it is closed for good."""
        return z

    def regularisation(self, manifold: Manifold) -> Scalar | None:
        """What is added to the loss, given the states that were recorded in the manifold."""
        return None

    @property
    def projects_layers(self) -> bool:
        """Whether every layer's state is projected, so that each has a violation of its own to regularise."""
        return False

    @property
    def parts(self) -> Sequence[Method]:
        """The methods that this one is combined of: itself, where it is one."""
        return [self]

    def __add__(self, other: Method) -> Combined:
        return Combined([*self.parts, *other.parts])

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class Unconstrained(Method):
    """No constraint: the plain residual network of eq. 2."""


class Auxiliary(Method):
    """`η/2 c(y_c)ᵀ c(y_c)` added to a sample's loss (eq. 4), with `c` from before any projection.

    Where every layer is projected, the violations that the layers make are added up: each is what one layer did.
    """

    def __init__(self, eta: float):
        self.eta = _strength("eta", eta)

    def regularisation(self, manifold: Manifold) -> Scalar:
        squares = [c.square().sum(-1).mean() for c in manifold.violations()]
        return self.eta / 2 * torch.stack(squares).sum()


class Penalty(Method):
    """`−γ K_cᵀ Jᵀ H c` added to the vector field (eq. 14), so that the integrator integrates the flow to `c = 0`.

    `H` is `"identity"` (the paper's) or `"gram"`, `(J K_c K_cᵀ Jᵀ)⁻¹`, with which violations decay as `exp(−γ τ)` in
    every direction. With the identity the rate is `γ` times an eigenvalue of `J K_c K_cᵀ Jᵀ` (below 4 for a chain of
    distances), and classical RK4 over a layer of length `h` is stable while `h γ eigenvalue < 2.78`.
    """

    def __init__(self, gamma: float, H: str = "identity"):
        self.gamma = _strength("gamma", gamma)
        if H not in ("identity", "gram"):
            raise ValueError(f"H is 'identity' or 'gram', not {H!r}")
        self.H = H

    def field(self, velocity: Latent, z: Latent, manifold: Manifold) -> Latent:
        return velocity + stabilisation_latent(
            manifold.constraint,
            z,
            manifold.close_weight,
            self.gamma,
            self.H,
            orthonormal=manifold.orthonormal,
            sizes=manifold.sizes,
            t=manifold.time,
            parameters=manifold.parameters,
        )


class Multiplier(Method):
    """The field on the tangent space (eq. 6): `z' = σ − K_cᵀ Jᵀ λ` with `λ` such that `d/dτ c(K_c z) = 0`.

    `(J K_c K_cᵀ Jᵀ) λ = J K_c σ`, solved at every evaluation: the index-1 form of the multiplier DAE. What `c` is at
    the start stays, but for the integrator's drift; a penalty, which is added to the tangent field, or a projection
    removes that.
    """

    def field(self, velocity: Latent, z: Latent, manifold: Manifold) -> Latent:
        return tangent_latent(
            manifold.constraint,
            z,
            velocity,
            manifold.close_weight,
            orthonormal=manifold.orthonormal,
            sizes=manifold.sizes,
            t=manifold.time,
            parameters=manifold.parameters,
        )


class _Projecting(Method):
    def __init__(
        self,
        *,
        tol: float | None = None,
        max_iterations: int | None = None,
        solver: str = "newton",
        backward: str = "implicit",
    ):
        if tol is not None and not tol > 0:
            raise ValueError(f"tol is the largest violation left, in the constraint's unit: positive, not {tol}")
        self.tol, self.max_iterations, self.solver, self.backward = tol, max_iterations, solver, backward

    def _project(self, z: Latent, manifold: Manifold) -> Latent:
        return manifold.project(
            z, tol=self.tol, max_iterations=self.max_iterations, solver=self.solver, backward=self.backward
        )


class EndProjection(_Projecting):
    """The last state is projected onto the constraint (section 2.2), to a largest violation of `tol` in its unit, such
    as the paper's 5e-5 m, or (None) to 1e-10 in float64, 1e-5 in float32 of the terms that cancel in it."""

    def after_last(self, z: Latent, manifold: Manifold) -> Latent:
        return self._project(z, manifold)


class SmoothProjection(_Projecting):
    """The state is projected onto the constraint after every layer (eq. 11c); `tol` as in `EndProjection`."""

    def after_layer(self, z: Latent, manifold: Manifold) -> Latent:
        return self._project(z, manifold)

    @property
    def projects_layers(self) -> bool:
        return True


class Combined(Method):
    """Several methods at once; each hook is applied in the order given, but for the multiplier's, which comes first."""

    def __init__(self, methods: Sequence[Method]):
        # After a penalty it would take away what that added: a penalty points off the tangent space.
        self.methods = sorted(methods, key=lambda method: not isinstance(method, Multiplier))
        kinds = [type(method) for method in self.methods]
        twice = {kind.__name__ for kind in kinds if kinds.count(kind) > 1}
        if twice:
            raise ValueError(
                f"combined twice: {', '.join(sorted(twice))}; give each method once, with the strength wanted"
            )

    def field(self, velocity: Latent, z: Latent, manifold: Manifold) -> Latent:
        for method in self.methods:
            velocity = method.field(velocity, z, manifold)
        return velocity

    def after_layer(self, z: Latent, manifold: Manifold) -> Latent:
        for method in self.methods:
            z = method.after_layer(z, manifold)
        return z

    def after_last(self, z: Latent, manifold: Manifold) -> Latent:
        for method in self.methods:
            z = method.after_last(z, manifold)
        return z

    def regularisation(self, manifold: Manifold) -> Scalar | None:
        terms = [term for method in self.methods if (term := method.regularisation(manifold)) is not None]
        total: Any = sum(terms)
        return total if terms else None

    @property
    def parts(self) -> Sequence[Method]:
        return self.methods

    @property
    def projects_layers(self) -> bool:
        return any(method.projects_layers for method in self.methods)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.methods))


def _strength(name: str, value: float) -> float:
    if not (value >= 0 and value != float("inf")):
        raise ValueError(f"{name} is a strength: finite and not negative, not {value}")
    return float(value)
