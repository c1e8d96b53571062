"""The neural DAE: open, flow through depth under a method, close (eq. 2 and 11)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ndae._types import Features, Latent, Output, Scalar
from ndae.manifold import Manifold
from ndae.methods import Method, Unconstrained
from ndae.models.maps import LinearMap, NodeMap
from ndae.models.prediction import Prediction
from ndae.solvers import integrate
from ndae.solvers.depth.integrate import ADAPTIVE
from ndae.solvers.tensors import compiled, of_states
from ndae.symbolic.backends._runtime_torch import TorchFunction
from ndae.symbolic.ground.arguments import keeps_arguments
from ndae.symbolic.ground.words import check_known
from ndae.users_code.captured import captured


@keeps_arguments
class NeuralDAE(nn.Module):
    """A continuous-depth network whose output obeys a constraint, as far as its method enforces it.

    `z(0) = K_o x`, `dz/dτ = σ(z, θ_k) + (what the method adds)` over layers `k` of learnable length `h_k`, then
    `y = K_c z`; the method may act on `z` after every layer and after the last (eq. 2 and 11).

    `field`: a module `σ(τ, z)` shared over depth, or a sequence of them, one a layer. `constraint`: over
    the flattened output, symbolic or compiled; `Constraint.torch(learn=[...])` is one whose numbers are trained too.
    `features` and `dim`: physical numbers a node, in and out; the first `dim` inputs are the quantities that come out,
    so that the untrained network predicts no change.
    `integrator`: any method of `solvers.integrate`, one step a layer if it has fixed steps; `adjoint=True` for
    gradients by the adjoint equation. `initial_step`: the length of a layer to begin with. `open`, `close`: maps of
    one's own instead of two LinearMaps, modules with `matrix()` and `orthonormal` such as FixedMap; give both.

    `sizes`: of the features, such as (1.0, 350.0), where they are unlike: states are measured in them, inside and by
    projections, which then move each quantity by what is small for it, and in the loss of `fit`. Where they are left
    out, `fit` takes sizes and centres from the data if these are unlike (`scale_by`).

    States may be arrays or lists, which become tensors in the precision and on the device of the parameters. A sample
    that is not finite gives one that is not, and touches no other.

    Step lengths are `h = exp(s)` of a learned `s`, so that no layer can die: the gradient of `s` never vanishes.
    """

    constraint: TorchFunction  # or a module of the user's, with what the method asks of it
    method: Method
    open: NodeMap
    close: NodeMap
    _depth: Tensor
    input_size: Tensor
    input_center: Tensor

    def __init__(
        self,
        field: Any,
        constraint: Any,
        method: Method | None = None,
        *,
        features: int,
        dim: int,
        latent: int,
        n_layers: int | None = None,
        orthonormal: bool = True,
        open: nn.Module | None = None,
        close: nn.Module | None = None,
        integrator: str = "classical_rk4",
        adjoint: bool = False,
        rtol: float = 1e-5,
        atol: float = 1e-6,
        initial_step: float = 0.05,
        sizes: Any = None,
    ):
        super().__init__()
        constraint = compiled(constraint)
        self.fields, self.n_layers = _by_layer(field, n_layers)
        if dim > features:
            raise ValueError(f"{dim} numbers a node come out but only {features} go in: dim is at most features")
        if not initial_step > 0:
            raise ValueError(f"initial_step is a length in depth: positive, not {initial_step}")
        self.constraint, self.method = constraint, method or Unconstrained()
        self.captured = captured(self.method)
        self.features, self.dim, self.latent = features, dim, latent
        self.integrator, self.adjoint, self.rtol, self.atol = integrator, adjoint, rtol, atol
        if (open is None) != (close is None):
            raise ValueError("give both maps, open= and close=, or neither")
        if open is None:
            self.open = LinearMap(features, latent, orthonormal=orthonormal)
            self.close = LinearMap(dim, latent, orthonormal=orthonormal)
            self.close.start_as(self.open.matrix().detach()[:, :dim])
        else:
            self.open, self.close = cast(NodeMap, open), cast(NodeMap, close)
            for name, n in (("open", features), ("close", dim)):
                if (found := tuple(getattr(self, name).matrix().shape)) != (latent, n):
                    raise ValueError(f"the map {name!r} has a matrix of shape {found}, expected {(latent, n)}")
        self.log_step = nn.Parameter(torch.full((self.n_layers,), float(initial_step)).log())
        self.register_buffer("_depth", torch.tensor([0.0, 1.0]), persistent=False)
        self.register_buffer("input_size", torch.ones(features))
        self.register_buffer("input_center", torch.zeros(features))
        self.scaled = False
        self.register_load_state_dict_post_hook(_look_again)
        if sizes is not None:
            self.scale_by(sizes)

    def scale_by(self, sizes: Any, centers: Any = 0.0) -> None:
        """Measure features in `sizes` (features,), positive, and have the fields see them from `centers` (features,).

        z(0) = K_o (x / sizes) and y = sizes · (K_c z) then, so that the nearest state is so in these units. Raises
        ValueError for sizes that are not positive and finite.
        """
        for name, given in (("input_size", sizes), ("input_center", centers)):
            found = torch.as_tensor(given, dtype=torch.float64)
            if not bool(found.isfinite().all()) or (name == "input_size" and not bool((found > 0).all())):
                raise ValueError(f"{name.replace('input_', '')}s={given!r}: expected {self.features} finite numbers")
            getattr(self, name).copy_(found)
        _look_again(self, None)

    @property
    def output_sizes(self) -> Tensor | None:
        """Units (dim,) in which `fit` counts errors, None for the data's own."""
        return self.input_size[: self.dim] if self.scaled else None

    def opened(self, x: Features) -> Latent:
        """z(0), of states."""
        return (x / self.input_size if self.scaled else x) @ self.open.matrix().mT

    def closing(self) -> Tensor:
        """The matrix K_cᵀ (latent, dim) of this forward pass, with the sizes of the quantities."""
        matrix = self.close.matrix()
        return matrix if self.output_sizes is None else matrix * self.output_sizes

    def center(self) -> Tensor | None:
        """What is subtracted of z before fields see it, (1, latent), None for nothing."""
        return self.opened(self.input_center[None]) if self.scaled else None

    def field(self, layer: int) -> nn.Module:
        """The vector field of a layer."""
        return self.fields[layer % len(self.fields)]

    @of_states
    def forward(self, x: Features) -> Output:
        """The prediction `y` `(batch, nodes, dim)` from `x` `(batch, nodes, features)`."""
        return self.predict(x).y

    @of_states
    def predict(self, x: Features, **parameters: Tensor) -> Prediction:
        """The prediction with the method's loss term and the projections' outcomes.

        `parameters` are those of the constraint that differ from sample to sample, (batch,) each: what an invariant is
        for each of them, say, c(y) = energy(y) - E. `fit` takes them as the third part of its data.
        """
        self._check(x)
        given = self._of_samples(x, parameters)
        manifold = Manifold(
            self.constraint, self.closing(), self.close.orthonormal, sizes=self.output_sizes, parameters=given
        )
        z, center = self.opened(x), self.center()
        steps = self.log_step.exp()
        for layer in range(self.n_layers):
            z = self._layer(layer, z, steps[layer], manifold, center)
            if self.method.projects_layers:
                manifold.record(z)
            z = self.method.after_layer(z, manifold)
        if not self.method.projects_layers:
            manifold.record(z)
        z = self.method.after_last(z, manifold)
        term: Scalar | None = self.method.regularisation(manifold)
        y = manifold.close(z)
        residual = None if given is None else lambda: self.constraint.residual(y.flatten(-2), None, given)
        return Prediction(
            y=y,
            regularisation=z.new_zeros(()) if term is None else term,
            projections=tuple(manifold.projections),
            residual=residual,
        )

    def _of_samples(self, x: Tensor, parameters: Mapping[str, Any]) -> dict[str, Tensor] | None:
        if not parameters:
            return None
        known = getattr(self.constraint, "_names", ())
        check_known(parameters, known, f"the constraint {getattr(self.constraint, 'name', '')!r}")
        found = {name: torch.as_tensor(value, dtype=x.dtype, device=x.device) for name, value in parameters.items()}
        for name, value in found.items():
            if value.shape != x.shape[:-2]:
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(value.shape)}, expected {tuple(x.shape[:-2])}: one a sample"
                )
        return found

    def _layer(self, layer: int, z: Latent, step: Tensor, manifold: Manifold, center: Tensor | None) -> Latent:
        flow = _Flow(self.field(layer), self.method, manifold, step, float(layer), center)
        options = {"integrator": self.integrator, "rtol": self.rtol, "atol": self.atol}
        if self.adjoint:
            # What the layer depends on beside the field's own weights, some of it computed in this forward pass.
            depends = [*flow.parameters(), *self.constraint.parameters(), step, manifold.close_weight]
            depends += [] if center is None else [center]
            options |= {"adjoint": True, "adjoint_parameters": [p for p in depends if p.requires_grad]}
        return integrate(flow, z, self._depth, throw=self.integrator in ADAPTIVE, **options)[..., -1, :]

    def _check(self, x: Tensor) -> None:
        if x.ndim < 2 or x.shape[-1] != self.features:
            raise ValueError(f"the input is (batch, nodes, {self.features}), not {tuple(x.shape)}")
        if x.shape[-2] * self.dim != self.constraint.n_states:
            raise ValueError(
                f"{x.shape[-2]} nodes of {self.dim} numbers are {x.shape[-2] * self.dim} states, "
                f"but the constraint has {self.constraint.n_states}"
            )


class _Flow(nn.Module):
    """One layer as a vector field over unit depth: `dz/ds = h (σ(τ, z) + …)`, `τ = layer + s`."""

    def __init__(
        self,
        field: nn.Module,
        method: Method,
        manifold: Manifold,
        step: Tensor,
        layer: float,
        center: Tensor | None,
    ):
        super().__init__()
        self.network = field
        self.method, self.manifold, self.step, self.layer, self.center = method, manifold, step, layer, center

    def forward(self, s: Tensor, z: Latent) -> Latent:
        velocity = self.network(self.layer + s, z if self.center is None else z - self.center)
        return self.step * self.method.field(velocity, z, self.manifold)


def _look_again(model: NeuralDAE, _: Any) -> None:
    """Whether its features are measured in units of their own."""
    model.scaled = bool((model.input_size != 1).any()) or bool(model.input_center.any())


def _by_layer(field: Any, n_layers: int | None) -> tuple[nn.ModuleList, int]:
    """The fields, one for all layers or one a layer, and how many layers there are."""
    several = isinstance(field, Sequence | nn.ModuleList)
    fields = list(field) if several else [field]
    for i, part in enumerate(fields):
        if not isinstance(part, nn.Module):
            name = f"field[{i}]" if several else "field"
            raise ValueError(
                f"{name}={part!r}: give a module that maps (τ, z) to dz/dτ, such as ndae.fields.MLPField, and "
                "n_layers, or a list of them, one a layer"
            )
    if several and n_layers not in (None, len(fields)):
        raise ValueError(f"{len(fields)} fields given, one a layer, but n_layers={n_layers}: leave n_layers out")
    n_layers = len(fields) if several else n_layers
    if n_layers is None:
        raise ValueError("one field shared over depth needs n_layers; or give a list of fields, one a layer")
    if n_layers < 1:
        raise ValueError("a neural DAE needs at least one layer")
    return nn.ModuleList(fields), n_layers
