"""Solves with the Gram matrix G = J A Jᵀ of a constraint, chosen by its block structure."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ndae.solvers._types import Residual
from ndae.solvers.manifold.cyclic_reduction import CyclicReduction

#: Up to this many scalar blocks one sweep beats cyclic reduction (measured, CPU, batches of 10 and 1,000).
SWEEP_LIMIT = 16
#: Up to this many samples, and so many residuals, LAPACK beats the sweep on the CPU (measured, threefold at 10).
SMALL_BATCH, SMALL_SYSTEM = 128, 32
#: Up to this many residuals a sparse Gram matrix is solved dense, above by conjugate gradients.
DENSE_LIMIT = 512
#: Up to this size blocks are factored entry by entry, a vector operation over the batch each, above by LAPACK.
UNROLL_LIMIT = 4


class GramSolver(ABC):
    """A factorised Gram matrix."""

    @abstractmethod
    def solve(self, rhs: Residual) -> Residual:
        """G⁻¹ rhs, for rhs of shape (..., n_residuals)."""


def factor_gram(
    constraint,
    local_jacobian: Float[Tensor, "*batch n_instances n_local local_states"],
    inverse_metric: Tensor | None = None,
    *,
    matrix_free: bool = False,
) -> GramSolver:
    """Factorise G = J A Jᵀ, given the local Jacobian of a compiled `constraint` and the inverse metric A.

    Block-diagonal: Cholesky of each block. Block-tridiagonal: one sweep over up to 16 scalar blocks, else block cyclic
    reduction, log2(n_instances) vectorised levels; small batches of small ones, and any other: a
    dense Cholesky factorisation up to 512 residuals, else
    conjugate gradients on products with J and Jᵀ, as with `matrix_free=True`.

    The diagonal is raised by 16 machine epsilons, so that redundant constraints give a finite, harmless multiplier;
    where the gradient of a constraint vanishes its multiplier is large and its effect A Jᵀ λ zero. Nothing is raised:
    whether a step helped is for the caller to see in the residual.
    """
    kind, n, m = constraint.structure_kind, constraint.n_instances, constraint.n_local
    if matrix_free or (kind == "sparse" and n * m > DENSE_LIMIT):
        return MatrixFree(constraint, local_jacobian, inverse_metric)
    diagonal, off = constraint.gram_from(local_jacobian, inverse_metric)
    diagonal = _raise_diagonal(diagonal)
    if kind == "block_diagonal":
        return BlockDiagonal(diagonal)
    if kind == "sparse" or (m == 1 and n <= SMALL_SYSTEM and _is_small(diagonal)):
        return Dense(diagonal, off, constraint.table_pairs)
    order = getattr(constraint, "table_order", None)
    diagonal, upper = _in_order(diagonal, off, constraint.table_pairs, order)
    return Tridiagonal(diagonal, upper, order)


def solve_gram(
    constraint,
    local_jacobian: Float[Tensor, "*batch n_instances n_local local_states"],
    inverse_metric: Tensor | None,
    rhs: Residual,
) -> Residual:
    """(J A Jᵀ)⁻¹ rhs by `factor_gram`, whose gradient is one more solve instead of a record of the factorisation.

    With G = J A Jᵀ, G x = r and G u = x̄, the gradient by r is u, by J it is -(u (A Jᵀ x)ᵀ + x (A Jᵀ u)ᵀ) and by A
    -Jᵀ u (Jᵀ x)ᵀ, of which A's own blocks are kept (Giles 2008, section 2.3.1). Any number of times, also in forward
    mode and under `torch.func`, which go through the factorisation.
    """
    tensors = (local_jacobian, rhs) if inverse_metric is None else (local_jacobian, rhs, inverse_metric)
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)):
        return factor_gram(constraint, local_jacobian, inverse_metric).solve(rhs)
    try:
        return _SolveGram.apply(constraint, local_jacobian, inverse_metric, rhs)
    except RuntimeError:  # forward mode and torch.func differentiate operations alone
        return factor_gram(constraint, local_jacobian, inverse_metric).solve(rhs)


class _SolveGram(torch.autograd.Function):
    @staticmethod
    def forward(ctx, constraint, local_jacobian, inverse_metric, rhs):
        ctx.constraint, ctx.gram = constraint, factor_gram(constraint, local_jacobian, inverse_metric)
        x = ctx.gram.solve(rhs)
        ctx.save_for_backward(local_jacobian, inverse_metric, x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        constraint, (local, metric, x) = ctx.constraint, ctx.saved_tensors
        again = torch.is_grad_enabled()  # the gradient is to be differentiated
        u = solve_gram(constraint, local, metric, gradient) if again else ctx.gram.solve(gradient)
        by_jacobian = by_metric = None
        pushes = [constraint.apply_transpose(local, w) for w in (u, x)]
        if ctx.needs_input_grad[1]:
            lifted = [constraint.localise(apply_metric(constraint, metric, push)) for push in pushes]
            u_rows, x_rows = (w.unflatten(-1, (constraint.n_instances, -1, 1)) for w in (u, x))
            by_jacobian = -(u_rows * lifted[1] + x_rows * lifted[0])
        if ctx.needs_input_grad[2]:
            at_u, at_x = (push.unflatten(-1, (constraint.n_points, constraint.dim)) for push in pushes)
            product = at_u * at_x if metric.dim() == 1 else at_u.unsqueeze(-1) * at_x.unsqueeze(-2)
            by_metric = -(product.sum(-1) if metric.dim() == 1 else product).reshape(-1, *metric.shape).sum(0)
        return None, by_jacobian, by_metric, u


def _raise_diagonal(diagonal: Tensor) -> Tensor:
    info = torch.finfo(diagonal.dtype)
    floor = info.eps**4
    if diagonal.shape[-1] == 1:
        return diagonal.mul(1 + 16 * info.eps).clamp_min(floor)
    return diagonal + torch.diag_embed(diagonal.diagonal(dim1=-2, dim2=-1) * (16 * info.eps) + floor)


def _is_small(diagonal: Tensor) -> bool:
    return diagonal.device.type == "cpu" and diagonal.shape[:-3].numel() <= SMALL_BATCH


def _in_order(diagonal: Tensor, off: Tensor, pairs: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """Diagonal blocks and the n - 1 blocks above them, with the instances listed in `order`."""
    n = diagonal.shape[-3]
    if order is None and len(pairs) == n - 1:  # the pairs are (0, 1), (1, 2), ...
        return diagonal, off
    position = torch.arange(n, device=off.device)
    if order is not None:
        diagonal = diagonal.index_select(-3, order)
        position = position[order.argsort()]
    first, second = position[pairs[:, 0]], position[pairs[:, 1]]
    off = torch.where((first > second)[:, None, None], off.mT, off)
    upper = off.new_zeros((*off.shape[:-3], n - 1, *off.shape[-2:]))
    return diagonal, upper.index_add(-3, torch.minimum(first, second), off)


class Tridiagonal(GramSolver):
    """A block-tridiagonal matrix, with the instances listed in `order`."""

    def __init__(self, diagonal: Tensor, upper: Tensor, order: Tensor | None):
        self._n_local, self._order = diagonal.shape[-1], order
        self._back = None if order is None else order.argsort()
        short = self._n_local == 1 and diagonal.shape[-3] <= SWEEP_LIMIT
        self._inner = ScalarSweep(diagonal[..., 0], upper[..., 0]) if short else CyclicReduction(diagonal, upper)

    def solve(self, rhs: Residual) -> Residual:
        blocks = rhs.unflatten(-1, (-1, self._n_local))
        if self._order is None or self._back is None:
            return self._inner.solve(blocks).flatten(-2)
        return self._inner.solve(blocks.index_select(-2, self._order)).index_select(-2, self._back).flatten(-2)


class ScalarSweep:
    """L D Lᵀ of a tridiagonal matrix with scalar entries, one vector operation over the batch a row."""

    def __init__(self, diagonal: Float[Tensor, "*batch n 1"], upper: Float[Tensor, "*batch n_less_1 1"]):
        pivots, self._factors = list(diagonal.unbind(-2)), []
        for i, above in enumerate(upper.unbind(-2)):
            self._factors.append(above / pivots[i])
            pivots[i + 1] = torch.addcmul(pivots[i + 1], above, self._factors[i], value=-1)
        self._pivots = torch.stack(pivots, -2)

    def solve(self, rhs: Float[Tensor, "*batch n 1"]) -> Float[Tensor, "*batch n 1"]:
        x = list(rhs.unbind(-2))
        for i, factor in enumerate(self._factors):
            x[i + 1] = torch.addcmul(x[i + 1], factor, x[i], value=-1)
        x = list((torch.stack(x, -2) / self._pivots).unbind(-2))
        for i in reversed(range(len(self._factors))):
            x[i] = torch.addcmul(x[i], self._factors[i], x[i + 1], value=-1)
        return torch.stack(x, -2)


class BlockDiagonal(GramSolver):
    """Independent blocks (..., n, m, m)."""

    def __init__(self, blocks: Float[Tensor, "*batch n m m"]):
        self._size = blocks.shape[-1]
        if self._size == 1:
            self._scale = blocks[..., 0, 0]
        elif self._size <= UNROLL_LIMIT:
            self._factors = _unrolled_ldl(blocks)
        else:
            self._lower = torch.linalg.cholesky_ex(blocks)[0]

    def solve(self, rhs: Residual) -> Residual:
        if self._size == 1:
            return rhs / self._scale
        blocks = rhs.unflatten(-1, (-1, self._size))
        if self._size <= UNROLL_LIMIT:
            return _unrolled_solve(self._factors, blocks).flatten(-2)
        return torch.cholesky_solve(blocks.unsqueeze(-1), self._lower).squeeze(-1).flatten(-2)


def _unrolled_ldl(blocks: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Pivots d_j and columns l_ij (i > j) of L D Lᵀ, each (..., n)."""
    size = blocks.shape[-1]
    a = [list(row.unbind(-1)) for row in blocks.unbind(-2)]
    pivots, columns = [], []
    for j in range(size):
        pivots.append(a[j][j])
        columns.append([a[i][j] / a[j][j] for i in range(j + 1, size)])
        for i in range(j + 1, size):
            for k in range(j + 1, i + 1):
                a[i][k] = torch.addcmul(a[i][k], columns[j][i - j - 1], a[k][j], value=-1)
    return pivots, columns


def _unrolled_solve(factors: tuple[list[Tensor], list[list[Tensor]]], rhs: Tensor) -> Tensor:
    pivots, columns = factors
    x = list(rhs.unbind(-1))
    for j, column in enumerate(columns):
        for i, entry in enumerate(column, j + 1):
            x[i] = torch.addcmul(x[i], entry, x[j], value=-1)
    x = [a / b for a, b in zip(x, pivots, strict=True)]
    for j in reversed(range(len(columns))):
        for i, entry in enumerate(columns[j], j + 1):
            x[j] = torch.addcmul(x[j], entry, x[i], value=-1)
    return torch.stack(x, -1)


class Dense(GramSolver):
    """Cholesky factorisation of the assembled matrix."""

    def __init__(
        self,
        diagonal: Float[Tensor, "*batch n m m"],
        off: Float[Tensor, "*batch n_pairs m m"],
        pairs: Tensor,
    ):
        n, m = diagonal.shape[-3], diagonal.shape[-1]
        i, j = pairs.unbind(-1)
        k = torch.arange(n, device=pairs.device)
        place = torch.cat([k * n + k, i * n + j, j * n + i])
        blocks = diagonal.new_zeros((*diagonal.shape[:-3], n * n, m, m))
        blocks = blocks.index_copy(-3, place, torch.cat([diagonal, off, off.mT], -3))
        matrix = blocks.unflatten(-3, (n, n)).transpose(-3, -2).flatten(-4, -3).flatten(-2)
        self._lower = torch.linalg.cholesky_ex(matrix)[0]

    def solve(self, rhs: Residual) -> Residual:
        return torch.cholesky_solve(rhs.unsqueeze(-1), self._lower).squeeze(-1)


class MatrixFree(GramSolver):
    """Conjugate gradients on x -> J A Jᵀ x, each sample until its own residual is small (or its own limit)."""

    def __init__(self, constraint, local_jacobian: Tensor, inverse_metric: Tensor | None):
        self._constraint, self._jacobian, self._metric = constraint, local_jacobian, inverse_metric

    def solve(self, rhs: Residual) -> Residual:
        def product(x: Tensor) -> tuple[Tensor, Tensor]:
            force = apply_metric(self._constraint, self._metric, self._constraint.apply_transpose(self._jacobian, x))
            return self._constraint.apply_jacobian(self._jacobian, force), x

        # In units of its own size: squares of single precision end at 1e38.
        unit = rhs.detach().abs().amax(-1, keepdim=True)
        unit = torch.where((unit > 0) & unit.isfinite(), unit, 1)
        scaled = rhs / unit
        enough = (scaled.detach() ** 2).sum(-1, keepdim=True) * (100 * torch.finfo(rhs.dtype).eps) ** 2
        return unit * conjugate_gradients(product, scaled, enough=enough, limit=2 * rhs.shape[-1] + 10)


def conjugate_gradients(
    product: Callable[[Tensor], tuple[Tensor, Tensor]],
    rhs: Float[Tensor, "*batch n"],
    *,
    enough: Float[Tensor, "*batch 1"],
    limit: int,
    curvature: float = 0.0,
    metric: Callable[[Tensor], Tensor] = lambda x: x,
) -> Float[Tensor, "*batch n"]:
    """Solve M x = rhs from x = 0, sample by sample, until rᵀ A r ≤ `enough`.

    M is self-adjoint in the inner product of the metric A; `product(p)` gives M p and A p. A sample stops, and keeps
    what it has, at the limit of steps and where pᵀ A M p > curvature · pᵀ A p fails, as it does for numbers that are
    not finite.
    """
    x, r = torch.zeros_like(rhs), rhs
    rr = (r * metric(r)).sum(-1, keepdim=True)
    p, active = r, rr > enough
    for _ in range(limit):
        if not bool(active.any()):
            break
        q, metric_p = product(p)
        pq = (metric_p * q).sum(-1, keepdim=True)
        active = active & (pq > (curvature * (metric_p * p).sum(-1, keepdim=True) if curvature else 0))
        step = torch.where(active, rr, 0) / torch.where(active, pq, 1)
        # Samples that stopped are left out by selection: zero times a number that is not finite would spoil them.
        x = torch.where(active, x + step * p, x)
        r = torch.where(active, r - step * q, r)
        rr_next = (r * metric(r)).sum(-1, keepdim=True)
        active = active & (rr_next > enough)
        p = r + torch.where(active, rr_next, 0) / torch.where(active, rr, 1) * p
        rr = rr_next
    return x


def apply_metric(constraint, inverse_metric: Tensor | None, v: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """A v for the inverse metric A: None (identity), (n_points,) or (n_points, dim, dim)."""
    if inverse_metric is None:
        return v
    points = v.unflatten(-1, (constraint.n_points, constraint.dim))
    if inverse_metric.dim() == 1:
        return (points * inverse_metric[:, None]).flatten(-2)
    return (inverse_metric * points.unsqueeze(-2)).sum(-1).flatten(-2)
