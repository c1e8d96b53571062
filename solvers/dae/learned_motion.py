"""A reduced DAE in torch as it is learned in: constraints kept as neural DAEs do, invariants of each sample."""

from collections.abc import Mapping
from math import comb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndae.solvers.dae.formulations import GGL, Baumgarte
from ndae.solvers.dae.reduced_motion import LEAST_SCALE
from ndae.solvers.dae.solve_torch import Time, TorchReduced

# Of Gauss-Newton steps from far away, which come nearer by a share of the distance each.
FAR_ITERATIONS = 60


class Held:
    """What states of a batch are projected on, C(y, t) = 0 and I_k(y, t) = level_k, each sample's own levels.

    Its functions are named as those of ReducedFunctions.
    """

    def __init__(self, reduced: Any, levels: Mapping[str, Tensor]):
        self._functions, self._levels = reduced.torch(), dict(levels)

    def _all(self, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**(parameters or {}), **self._levels}

    def constraints(self, y: Tensor, t: Time, parameters: Any) -> Tensor:
        """All rows (*batch, n_rows), zero where they hold."""
        return self._functions.constraints(y, t, self._all(parameters))

    def constraints_jacobian(self, y: Tensor, t: Time, parameters: Any) -> Tensor:
        """Their derivatives by y (*batch, n_rows, N)."""
        return self._functions.constraints_jacobian(y, t, self._all(parameters))

    def constraints_sizes(self, y: Tensor, t: Time, parameters: Any) -> Tensor:
        """How large what is added up in each of them is (*batch, n_rows)."""
        return self._functions.constraints_sizes(y, t, self._all(parameters))


class LearnedMotion(TorchReduced):
    """y' of a reduced system, with a formulation (Baumgarte, GGL or None) and a penalty that draws to its constraints.

    The penalty is −γ Cᵧᵀ H C(y, t), H the identity or, "gram", (Cᵧ Cᵧᵀ)⁻¹ (eq. 14 of the paper).
    """

    def __init__(
        self,
        reduced: Any,
        parameters: Mapping[str, Any],
        formulation: Any = None,
        penalty: tuple[float, str] | None = None,
        **options: Any,
    ):
        super().__init__(reduced, parameters, **options)
        self._formulation = formulation if reduced.constraints else None
        self._penalty = penalty if self._holds else None

    def leading(self, t: Time, y: Tensor) -> tuple[Tensor, Tensor]:
        """The leading unknowns w (*batch, n), with the formulation's terms, and whether they were found."""
        shift = self._terms(t, y)[0]
        return self.functions.solve_leading(y.view_as(y), t, self._parameters, shift, self.guess)

    def __call__(self, t: Time, y: Tensor) -> Tensor:
        """y'; NaN where the leading unknowns are not found."""
        shift, delta = self._terms(t, y)
        w, found = self.functions.solve_leading(y.view_as(y), t, self._parameters, shift, self.guess)
        rate = self.functions.rates(y, w)
        rate = rate if delta is None else rate + delta
        if self._penalty is not None:
            rate = rate + self._pull(t, y, *self._penalty)
        return torch.where(found[..., None], rate, torch.nan)

    def jacobian(self, t: Time, y: Tensor) -> Tensor:
        """∂y'/∂y (*batch, N, N), without a graph."""
        f, r = self.functions, self.reduced
        with torch.no_grad():
            w, _ = f.solve_leading(y, t, self._parameters, None, self.guess)
            by_y, by_w = (f.leading_jacobian(y, w, t, self._parameters, by=key) for key in ("y", "w"))
            slope = torch.cat([torch.eye(f.n_y).to(y).expand(*y.shape, f.n_y), -torch.linalg.solve(by_w, by_y)], -2)
            place = {s: i for i, s in enumerate((*r.y, *r.w))}
            return slope[..., [place[s] for s in r.rates], :]

    def hold(self, rows: Held) -> None:
        """What states are projected on from now on."""
        self._held, self._holds = rows, True

    def project_start(self, t: Time, y: Tensor) -> Tensor:
        """As `project`, for a state that may be far from the constraints, with the first derivatives of its nearest
        point p: where D⁻² (p - y) + Cᵧᵀ λ = 0 and C(p) = 0, D the sizes, by one Newton step that does not move it."""
        nearest = self.project(t, y, FAR_ITERATIONS)
        if not self._holds or not torch.is_grad_enabled():
            return nearest
        held, values, n = self._held, self._parameters, y.shape[-1]
        size = y.abs()
        scale = size + self.floor.to(y) + LEAST_SCALE * size.amax(-1, keepdim=True)
        point, fixed = nearest.detach().requires_grad_(), scale.detach()
        slopes = held.constraints_jacobian(point, t, values)
        scaled = slopes.detach() * fixed[..., None, :]
        off = ((point - y) / fixed).detach()[..., None]
        lam = -torch.linalg.solve_ex(scaled @ scaled.mT, scaled @ off)[0]
        pull = (slopes.mT @ lam)[..., 0]
        curvature = torch.stack([_slope(pull[..., i].sum(), point) for i in range(n)], -2)
        corner = torch.zeros(*y.shape[:-1], lam.shape[-2], lam.shape[-2], dtype=y.dtype)
        top = torch.cat([torch.diag_embed(fixed**-2) + curvature, slopes.detach().mT], -1)
        matrix = torch.cat([top, torch.cat([slopes.detach(), corner], -1)], -2)
        here = nearest.detach()
        forces = (here - y) / scale**2 + (held.constraints_jacobian(here, t, values).mT @ lam)[..., 0]
        right = torch.cat([forces, held.constraints(here, t, values)], -1)
        return here - torch.linalg.solve_ex(matrix, right[..., None])[0][..., :n, 0]

    def _pull(self, t: Time, y: Tensor, gamma: float, kind: str) -> Tensor:
        residual = self._held.constraints(y, t, self._parameters)[..., None]
        jacobian = self._held.constraints_jacobian(y, t, self._parameters)
        if kind == "gram":
            residual = torch.linalg.solve(jacobian @ jacobian.mT, residual)
        return -gamma * (jacobian.mT @ residual)[..., 0]

    def _terms(self, t: Time, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if isinstance(self._formulation, Baumgarte):
            return self._baumgarte(t, y, self._formulation.alpha), None
        return self._ggl(t, y) if isinstance(self._formulation, GGL) else (None, None)

    def _baumgarte(self, t: Time, y: Tensor, alpha: float) -> Tensor:
        r = self.reduced
        weights = np.zeros((len(r.constraints), len(r.equations)))
        for row, (i, k) in enumerate(r.constraint_of):
            c = r.differentiations[i]
            weights[row, i] = comb(c, k) * float(alpha) ** (c - k)
        return self.functions.constraints(y, t, self._parameters) @ torch.as_tensor(weights).to(y)

    def _ggl(self, t: Time, y: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As ndae.solvers.dae.formulations.GGL has it."""
        r = self.reduced
        place, c = {which: row for row, which in enumerate(r.constraint_of)}, r.differentiations
        low = [(i, k) for i, k in place if k <= c[i] - 2]
        if not low:
            return None, None
        constrained = [i for i in range(len(c)) if c[i]]
        jacobian = self.functions.constraints_jacobian(y, t, self._parameters)
        residual = self.functions.constraints(y, t, self._parameters)
        held = jacobian[..., [place[entry] for entry in low], :]
        rates = residual[..., [place[i, k + 1] for i, k in low]]
        delta = -(held.mT @ torch.linalg.solve(held @ held.mT, rates[..., None]))[..., 0]
        last = jacobian[..., [place[i, c[i] - 1] for i in constrained], :]
        shift = y.new_zeros(*y.shape[:-1], len(c))
        return shift.index_copy(-1, torch.tensor(constrained), (last @ delta[..., None])[..., 0]), delta


def _slope(total: Tensor, x: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(total, x, retain_graph=True, materialize_grads=True)
    return found
