"""A trained neural DAE beside the continuous dynamics over depth that it stands for, solved by diffrax."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ndae import methods
from ndae.models.neural_dae import NeuralDAE
from ndae.symbolic.ground.arguments import arguments_of

LAYERS, TRAINED, DAE = "its layers", "as trained", "DAE (eq. 6)"
#: Iterations of a projection: first those that come near from afar, then those that double their digits.
_FIRST, _ITERATIONS = 5, 7


@dataclass(frozen=True)
class DepthCheck:
    """What the layers of a `NeuralDAE` compute, and the continuous dynamics of its trained fields.

    By name of the dynamics: `outputs` (batch, nodes, dim), to `rtol`; `distance`, the root mean square over samples and
    nodes of how far what the layers compute is from them, in the data's unit; `largest` of these; `violation`, the
    largest |c| of each, of "its layers" too. `movement`: root mean square of how far the layers move a node.
    """

    method: str
    outputs: Mapping[str, np.ndarray]
    distance: Mapping[str, float]
    largest: Mapping[str, float]
    violation: Mapping[str, float]
    movement: float

    def __str__(self) -> str:
        lines = [
            f"{self.method}: its layers beside its continuous dynamics over depth, by diffrax (nodes move by "
            f"{self.movement:.3g})",
            f"  {'dynamics':34}{'layers are off by':>18}{'at most':>10}{'violation':>11}",
        ]
        for name, violation in self.violation.items():
            off = [f"{v[name]:.1e}" if name in v else "" for v in (self.distance, self.largest)]
            lines.append(f"  {name:34}{off[0]:>18}{off[1]:>10}{violation:>11.1e}")
        return "\n".join(lines)


def depth_check(
    model: NeuralDAE,
    x: Any,
    *,
    parameters: Mapping[str, Any] | None = None,
    gamma: float | None = None,
    rtol: float = 1e-10,
) -> DepthCheck:
    """Solve the trained fields of a neural DAE over depth, from inputs `x` (batch, nodes, features), by diffrax.

    The dynamics, over the layers' learned lengths h_k, z' = σ(τ, z) + ... from K_o x, and y = K_c z at the end:

    - "as trained": with what the method adds to the field, and its projections where the layers have them; what the
      layers are off by is their integrator's (and where they project a rest below 1e-6, since their projection ends
      where c is small, before the state is the nearest to all digits).
    - "no constraint": σ by itself. "penalty (eq. 14)": σ − γ K_cᵀ Jᵀ H c, with the model's γ and H, or `gamma` (10 and
      the identity where it has none).
    - "projection": σ, and the nearest state with c = 0 after every layer.
    - "DAE (eq. 6)": σ − K_cᵀ Jᵀ λ with c(K_c z) = 0 throughout, from the nearest state to K_o x: what all methods stand
      for. λ follows from the constraint differentiated once, and the state is projected after every layer.

    Fields are converted from torch to JAX, constraint and projection are JAX's own, so that nothing but the weights is
    shared with the layers. `parameters`: those of the constraint that each sample has of its own, as in `predict`.

    Raises ValueError for a constraint that was not made of equations, and RuntimeError, diffrax's, where a solve does
    not end.
    """
    x = torch.as_tensor(np.asarray(x.detach() if isinstance(x, Tensor) else x, dtype=np.float64))
    given = {name: np.asarray(value, dtype=np.float64) for name, value in (parameters or {}).items()}
    made = arguments_of(model.constraint)
    if made is None:
        raise ValueError("the constraint of the model was not made of equations: give it an ndae.Constraint")
    double = _in_double(model)
    with torch.no_grad():
        prediction = double.predict(x, **{name: torch.as_tensor(value) for name, value in given.items()})
        z, close, lengths = double.opened(x), double.closing(), double.log_step.exp()
        held = {name: value.numpy() for name, value in double.constraint.values(x).items()} | given
    layers = prediction.y.numpy()
    solve = _Solver(double, made["function"], close.numpy(), lengths.numpy(), held, set(given), rtol)
    outputs = {name: solve(z.numpy(), *how) for name, how in _dynamics(model.method, gamma).items()}
    starts = x[..., : model.dim].numpy()
    off = {name: np.linalg.norm(layers - y, axis=-1) for name, y in outputs.items()}
    return DepthCheck(
        repr(model.method),
        outputs,
        {name: float(np.sqrt(np.mean(e**2))) for name, e in off.items()},
        {name: float(e.max()) for name, e in off.items()},
        {name: solve.violation(y) for name, y in {LAYERS: layers, **outputs}.items()},
        float(np.sqrt(np.mean(np.sum((layers - starts) ** 2, axis=-1)))),
    )


def _in_double(model: NeuralDAE) -> NeuralDAE:
    """The same model in float64, on the CPU, in evaluation mode; the weights are those that there are."""
    return copy.deepcopy(model).to("cpu", torch.float64).eval()


def _dynamics(method: Any, gamma: float | None) -> dict[str, tuple[Any, ...]]:
    """By name: penalty (γ, H) or None, whether on the tangent space, and what is projected: start, layers, end."""
    parts = {type(part): part for part in method.parts}
    penalty = parts.get(methods.Penalty)
    own = None if penalty is None else (penalty.gamma, penalty.H)
    projects = "layers" if methods.SmoothProjection in parts else "end" if methods.EndProjection in parts else ""
    asked = (gamma, own[1] if own else "identity") if gamma is not None else own or (10.0, "identity")
    return {
        TRAINED: (own, methods.Multiplier in parts, projects),
        "no constraint": (None, False, ""),
        f"penalty {asked[0]:g} (eq. 14)": (asked, False, ""),
        "projection": (None, False, "layers"),
        DAE: (None, True, "start, layers"),
    }


class _Flat(nn.Module):
    """A field σ(τ, z) as a function of one vector, (τ, z)."""

    def __init__(self, field: nn.Module, shape: tuple[int, ...], center: Any):
        super().__init__()
        self.field, self.shape, self.center = field, shape, 0.0 if center is None else center.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1 + nodes · latent) to (n, nodes · latent), one point at a time."""
        found = [self.field(p[0], p[1:].reshape(1, *self.shape) - self.center).reshape(1, -1) for p in x]
        return found[0] if len(found) == 1 else torch.cat(found)


class _Solver:
    """Solves the fields of a model by diffrax, layer by layer, for a batch at once."""

    def __init__(self, model, function, close, lengths, held, of_samples, rtol):
        import jax

        from ndae.symbolic.backends.torch_to_jax import converted

        self.close, self.lengths, self.rtol = close, lengths, rtol
        self.held = {k: v for k, v in held.items() if k not in of_samples}
        self.own = {k: v for k, v in held.items() if k in of_samples}
        self.constraint, self.shape = function.jax(), (-1, close.shape[0])
        nodes = function.n_states // close.shape[1]
        shape = nodes, close.shape[0]
        fields = {id(f): converted(_Flat(f, shape, model.center()), 1 + nodes * close.shape[0]) for f in model.fields}
        self.fields = [fields[id(model.field(k))] for k in range(model.n_layers)]
        self._layer = jax.jit(self._of_layer, static_argnames=("tangent", "H"))
        self._projected = jax.jit(self._nearest)

    def __call__(self, z: np.ndarray, penalty: Any, tangent: bool, projects: str) -> np.ndarray:
        """y (batch, nodes, dim) at the end, from z (batch, nodes, latent)."""
        import jax

        flat: Any = z.reshape(len(z), -1)
        gamma, kind = penalty or (0.0, None)
        with jax.enable_x64(True):
            if "start" in projects:
                flat = self._projected(flat, self.own)
            for k, (field, h) in enumerate(zip(self.fields, self.lengths, strict=True)):
                flat = self._layer(field, flat, float(k), h, gamma, self.own, tangent=tangent, H=kind)
                last = k == len(self.fields) - 1
                if "layers" in projects or (last and "end" in projects):
                    flat = self._projected(flat, self.own)
            flat = np.asarray(flat)
        return flat.reshape(*z.shape) @ self.close

    def violation(self, y: np.ndarray) -> float:
        """The largest |c|."""
        import jax

        with jax.enable_x64(True):
            found = jax.vmap(self._residual)(y.reshape(len(y), -1), self.own)
            return float(np.abs(np.asarray(found)).max(initial=0.0))

    def _residual(self, y: Any, own: Mapping[str, Any]) -> Any:
        return self.constraint.residual(y, None, {**self.held, **own})

    def _at(self, z: Any, own: Mapping[str, Any]) -> tuple[Any, Any]:
        """c(K z) and its Jacobian by z, (n,) and (n, nodes · latent), of one state."""
        import jax

        closed = lambda z: self._residual((z.reshape(self.shape) @ self.close).reshape(-1), own)  # noqa: E731
        return closed(z), jax.jacfwd(closed)(z)

    def _nearest(self, flat: Any, own: Mapping[str, Any]) -> Any:
        """The nearest z with c(K z) = 0 (eq. 12): z − z0 + Aᵀ λ = 0, c = 0 with A = ∂c/∂z, by Newton's iteration, begun
        with A as it is where z has come to."""
        import jax
        import jax.numpy as jnp

        def one(z0, own):
            def multipliers(z):
                c, jac = self._at(z, own)
                return jac, jnp.linalg.solve(jac @ jac.T, c + jac @ (z0 - z))

            def first(_, z):
                jac, lam = multipliers(z)
                return z0 - jac.T @ lam

            def rest(u):
                z, lam = u[: z0.size], u[z0.size :]
                c, jac = self._at(z, own)
                return jnp.concatenate([z - z0 + jac.T @ lam, c])

            z = jax.lax.fori_loop(0, _FIRST, first, z0)
            u = jnp.concatenate([z, multipliers(z)[1]])
            u = jax.lax.fori_loop(0, _ITERATIONS, lambda _, u: u - jnp.linalg.solve(jax.jacfwd(rest)(u), rest(u)), u)
            return u[: z0.size]

        return jax.vmap(one)(flat, own)

    def _of_layer(self, field, flat, k, h, gamma, own, *, tangent: bool, H: str | None):
        """The states after a layer: its field over unit depth, h (σ + ...)."""
        import diffrax
        import jax
        import jax.numpy as jnp

        def rate(s, z, own):
            velocity = field(jnp.concatenate([jnp.atleast_1d(k + s), z]))
            if not tangent and H is None:
                return h * velocity
            c, jac = self._at(z, own)
            gram = jac @ jac.T
            if tangent:
                velocity = velocity - jac.T @ jnp.linalg.solve(gram, jac @ velocity)
            if H is not None:
                velocity = velocity - gamma * jac.T @ (jnp.linalg.solve(gram, c) if H == "gram" else c)
            return h * velocity

        def one(z, own):
            steps = diffrax.PIDController(self.rtol, 1e-3 * self.rtol)
            term: Any = diffrax.ODETerm(rate)
            found = diffrax.diffeqsolve(
                term, diffrax.Dopri8(), 0.0, 1.0, None, z, own, stepsize_controller=steps, max_steps=100_000
            )
            ends: Any = found.ys
            return ends[-1]

        return jax.vmap(one)(flat, own)
