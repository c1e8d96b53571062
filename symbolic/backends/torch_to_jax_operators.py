"""Operators of torch's graphs (ATen) in JAX: one function each, called as ATen calls it.

Their derivatives are torch's: where torch takes a value at a corner (relu at 0, clamp at its bounds, a norm at 0), so
do these. What torch guards by a formula of its own for the derivative (softplus, xlogy) stands here as such and is not
taken apart: a guarded formula, differentiated, is NaN where the guard is.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import linalg, special

from ndae.symbolic.backends.torch_to_jax_numbers import NUMBERS, entries, magnitude, root
from ndae.symbolic.backends.torch_to_jax_shapes import SHAPES, slice_of


def _axes(dim):
    """Axes of a reduction as JAX takes them; of torch, none is all."""
    return None if dim is None or dim == () else dim


def _over(fn):
    def reduced(x, dim=None, keepdim=False, *, dtype=None):
        x = x if dtype is None else jnp.asarray(x, dtype)
        return fn(x, axis=_axes(dim), keepdims=keepdim)

    return reduced


def _extreme(which):
    def found(x, dim=0, keepdim=False):
        if not x.ndim:
            return x, jnp.zeros((), int)
        at = which(x, axis=dim, keepdims=True)
        value = jnp.take_along_axis(x, at, dim)
        return (value, at) if keepdim else (jnp.squeeze(value, dim), jnp.squeeze(at, dim))

    return found


def _place(which):
    return lambda x, dim=None, keepdim=False: which(x, axis=dim, keepdims=keepdim)


def _variance(x, dim=None, *, correction=None, keepdim=False):
    axes = _axes(dim)
    n = x.size if axes is None else math.prod(x.shape[a] for a in ((axes,) if isinstance(axes, int) else axes))
    away = x - x.mean(axes, keepdims=True)
    free = n - (1 if correction is None else correction)
    return (
        (away * away).sum(axes, keepdims=keepdim) / max(free, 0) if free > 0 else away.sum(axes, keepdims=keepdim) / 0.0
    )


def _norm(x, ord: float | None = 2, dim=None, keepdim=False, *, dtype=None):
    x, axes = (x if dtype is None else jnp.asarray(x, dtype)), _axes(dim)
    ord = 2 if ord is None else ord
    if ord == 2:
        return root(jnp.sum(x * x, axis=axes, keepdims=keepdim))
    size = magnitude(x)
    if abs(ord) == math.inf:
        return (jnp.max if ord > 0 else jnp.min)(size, axis=axes, keepdims=keepdim)
    if ord == 0:
        return jnp.sum(x != 0, axis=axes, keepdims=keepdim)
    if ord == 1:
        return jnp.sum(size, axis=axes, keepdims=keepdim)
    zero = size == 0
    powers = jnp.where(zero, 0.0 if ord > 0 else math.inf, jnp.where(zero, 1.0, size) ** ord)
    total = jnp.sum(powers, axis=axes, keepdims=keepdim)
    none = total == 0
    return jnp.where(none, 0.0, jnp.where(none, 1.0, total) ** (1 / ord))


def _sort(x, dim=-1, descending=False):
    order = jnp.argsort(x, axis=dim, stable=True, descending=descending)
    return jnp.take_along_axis(x, order, dim), order


def _topk(x, k, dim=-1, largest=True, sorted=True):
    values, order = _sort(x, dim, largest)
    return slice_of(values, dim, 0, k), slice_of(order, dim, 0, k)


def _median(x, dim=-1, keepdim=False):
    values, order = _sort(x, dim)
    middle = (x.shape[dim] - 1) // 2
    found = [slice_of(part, dim, middle, middle + 1) for part in (values, order)]
    return tuple(part if keepdim else jnp.squeeze(part, dim) for part in found)


def _softmax(x, dim, half_to_float=False):
    return jax.nn.softmax(x, axis=dim)


def _cumulative(fn):
    return lambda x, dim, *, dtype=None: fn(x if dtype is None else jnp.asarray(x, dtype), axis=dim) if x.ndim else x


_AXES = entries(
    {
        "sum.default sum.dim_IntList": _over(jnp.sum),
        "mean.default mean.dim": _over(jnp.mean),
        "prod.default prod.dim_int": _over(jnp.prod),
        "amax.default": _over(jnp.max),
        "amin.default": _over(jnp.min),
        "any.default any.dim any.dims": _over(jnp.any),
        "all.default all.dim all.dims": _over(jnp.all),
        "max.default": jnp.max,
        "min.default": jnp.min,
        "max.dim": _extreme(jnp.argmax),
        "min.dim": _extreme(jnp.argmin),
        "argmax.default": _place(jnp.argmax),
        "argmin.default": _place(jnp.argmin),
        "var.correction": _variance,
        "var.dim": lambda x, dim, unbiased=True, keepdim=False: _variance(
            x, dim, correction=int(unbiased), keepdim=keepdim
        ),
        "std.correction": lambda *a, **k: root(_variance(*a, **k)),
        "var_mean.correction": lambda x, dim=None, *, correction=None, keepdim=False: (
            _variance(x, dim, correction=correction, keepdim=keepdim),
            x.mean(_axes(dim), keepdims=keepdim),
        ),
        "std_mean.correction": lambda x, dim=None, *, correction=None, keepdim=False: (
            root(_variance(x, dim, correction=correction, keepdim=keepdim)),
            x.mean(_axes(dim), keepdims=keepdim),
        ),
        "linalg_vector_norm.default norm.ScalarOpt_dim norm.Scalar norm.ScalarOpt_dim_dtype": _norm,
        "sort.default": _sort,
        "sort.stable": lambda x, *, stable=None, dim=-1, descending=False: _sort(x, dim, descending),
        "topk.default": _topk,
        "median.dim": _median,
        "cumsum.default": _cumulative(jnp.cumsum),
        "cumprod.default": _cumulative(jnp.cumprod),
        "logsumexp.default": lambda x, dim, keepdim=False: special.logsumexp(x, axis=_axes(dim), keepdims=keepdim),
        "logcumsumexp.default": lambda x, dim: lax.cumlogsumexp(x, dim % x.ndim),
        "_softmax.default": _softmax,
        "_log_softmax.default": lambda x, dim, half_to_float=False: jax.nn.log_softmax(x, axis=dim),
    }
)


# -- layers --------------------------------------------------------------------------------------------------------


def _scaled(x, weight, bias):
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(x, shape, weight, bias, eps):
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(axes, keepdims=True)
    rstd = lax.rsqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)
    return _scaled((x - mean) * rstd, weight, bias), mean, rstd


def _group_norm(x, weight, bias, n, channels, size, groups, eps):
    rows = x.reshape(n, groups, -1)
    mean = rows.mean(-1)
    rstd = lax.rsqrt(((rows - mean[..., None]) ** 2).mean(-1) + eps)
    y = ((rows - mean[..., None]) * rstd[..., None]).reshape(x.shape)
    wide = (1, channels, *(1,) * (x.ndim - 2))
    return _scaled(y, *(part if part is None else part.reshape(wide) for part in (weight, bias))), mean, rstd


def _any_batch_norm(x, weight, bias, mean, variance, training, momentum, eps):
    axes = (0, *range(2, x.ndim))
    if training:
        mean, variance = x.mean(axes), x.var(axes)
    y, *_ = _batch_norm(x, weight, bias, mean, variance, momentum, eps)
    return y, mean, lax.rsqrt(variance + eps)


def _convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    sizes = weight.shape[2:]
    if transposed:
        n_in, n_out = weight.shape[:2]
        weight = jnp.flip(weight, range(2, weight.ndim)).reshape(groups, n_in // groups, n_out, *sizes)
        weight = jnp.swapaxes(weight, 1, 2).reshape(groups * n_out, n_in // groups, *sizes)
        ends = [d * (k - 1) - p for d, k, p in zip(dilation, sizes, padding, strict=True)]
        pads = [(end, end + more) for end, more in zip(ends, output_padding, strict=True)]
    else:
        pads = [(p, p) for p in padding]
    ones = (1,) * len(sizes)
    y = lax.conv_general_dilated(
        x, weight, ones if transposed else stride, pads, lhs_dilation=stride if transposed else ones,
        rhs_dilation=dilation, feature_group_count=groups,
    )  # fmt: skip
    return y if bias is None else y + bias.reshape(-1, *ones)


def _batch_norm(x, weight, bias, mean, variance, momentum, eps):
    wide = (1, -1, *(1,) * (x.ndim - 2))
    parts = [part if part is None else part.reshape(wide) for part in (weight, bias, mean, variance)]
    y = _scaled((x - parts[2]) * lax.rsqrt(parts[3] + eps), parts[0], parts[1])
    return y, jnp.zeros(0, x.dtype), jnp.zeros(0, x.dtype)


def _backward(forward, grad, x, weight, bias, mask):
    """Derivatives of a layer by its input, weight and bias; None where they are not asked for."""
    given = [x, *(part for part in (weight, bias) if part is not None)]
    found = list(jax.vjp(forward, *given)[1](grad))
    by_weight = found.pop(1) if weight is not None else None
    by_bias = found.pop(1) if bias is not None else None
    return tuple(part if wanted else None for part, wanted in zip((found[0], by_weight, by_bias), mask, strict=True))


def _layer_norm_backward(grad, x, shape, mean, rstd, weight, bias, mask):
    axes = tuple(range(x.ndim - len(shape), x.ndim))

    def forward(x, *parts):
        # The rstd that was found has eps in it, which is not handed on: 1/rstd² - variance, held fixed, is it.
        away = x - x.mean(axes, keepdims=True)
        variance = (away**2).mean(axes, keepdims=True)
        eps = lax.stop_gradient(1 / rstd**2 - variance)
        weight_, bias_ = _parts(parts, weight, bias)
        return _scaled(away * lax.rsqrt(variance + eps), weight_, bias_)

    return _backward(forward, grad, x, weight, bias, mask)


def _parts(parts, weight, bias):
    parts = list(parts)
    return parts.pop(0) if weight is not None else None, parts.pop(0) if bias is not None else None


def _trilinear(a, b, c, expand_a, expand_b, expand_c, summed, unroll_dim=1):
    for dims, which in ((expand_a, 0), (expand_b, 1), (expand_c, 2)):
        for dim in sorted(dims):
            a, b, c = (jnp.expand_dims(x, dim) if i == which else x for i, x in enumerate((a, b, c)))
    product = a * b * c
    return product.sum(tuple(summed)) if summed else product


def _distances(a, b, p=2.0, mode=None):
    return _norm(a[..., :, None, :] - b[..., None, :, :], p, -1)


_LAYERS = entries(
    {
        "mm.default bmm.default matmul.default": jnp.matmul,
        "mv.default dot.default vdot.default": jnp.matmul,
        "addmm.default baddbmm.default addmv.default": lambda b, x, y, *, beta=1, alpha=1: (
            (x @ y if alpha == 1 else alpha * (x @ y)) + (b if beta == 1 else beta * b) if beta else alpha * (x @ y)
        ),
        "_trilinear.default": _trilinear,
        "native_layer_norm.default": _layer_norm,
        "native_layer_norm_backward.default": _layer_norm_backward,
        "native_group_norm.default": _group_norm,
        "_native_batch_norm_legit_no_training.default": _batch_norm,
        "native_batch_norm.default": _any_batch_norm,
        "convolution.default": _convolution,
        "_cdist_forward.default": _distances,
    }
)


# -- matrices ------------------------------------------------------------------------------------------------------


def _fine(x):
    """The report of a factorisation that went well; one that did not gives NaN."""
    return jnp.zeros(x.shape[:-2], jnp.int32)


def _solve(a, b, *, left=True, check_errors=False):
    vector = b.ndim == a.ndim - 1 and b.shape == a.shape[:-1]
    b = b[..., None] if vector else b
    x = jnp.linalg.solve(a, b) if left else jnp.linalg.solve(a.mT, b.mT).mT
    return x[..., 0] if vector else x


def _solved(a, b, *, left=True, check_errors=False):
    # The factorisation goes with the result for a derivative that torch takes by it; JAX takes its own.
    lu, pivots, _ = lax.linalg.lu(a)
    return _solve(a, b, left=left), lu, pivots + 1, _fine(a)


def _cholesky(a, *, upper=False, check_errors=False):
    factor = jnp.linalg.cholesky(a)
    return (factor.mT if upper else factor), _fine(a)


def _triangular(a, b, *, upper, left=True, unitriangular=False):
    return lax.linalg.triangular_solve(*_alike(a, b), left_side=left, lower=not upper, unit_diagonal=unitriangular)


def _alike(a, b):
    """Two stacks of matrices, as many of one as of the other."""
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return jnp.broadcast_to(a, batch + a.shape[-2:]), jnp.broadcast_to(b, batch + b.shape[-2:])


def _cholesky_solve(b, factor, upper=False):
    factor, b = _alike(factor, b)
    solve = functools.partial(lax.linalg.triangular_solve, left_side=True)
    if upper:
        return solve(factor, solve(factor, b, lower=False, transpose_a=True), lower=False)
    return solve(factor, solve(factor, b, lower=True), lower=True, transpose_a=True)


def _determinant(a):
    lu, pivots, _ = lax.linalg.lu(a)
    return jnp.linalg.det(a), lu, pivots + 1


def _log_determinant(a):
    lu, pivots, _ = lax.linalg.lu(a)
    return *jnp.linalg.slogdet(a), lu, pivots + 1


def _pseudo_inverse(a, *, atol=None, rtol=None, hermitian=False):
    if atol is not None:
        raise NotImplementedError("linalg.pinv with atol is not known in JAX: give rtol")
    rtol = max(a.shape[-2:]) * jnp.finfo(a.dtype).eps if rtol is None else rtol
    return jnp.linalg.pinv(a, rtol, hermitian)


def _cross(a, b, *, dim=-1):
    a, b = jnp.broadcast_arrays(a, b)
    return jnp.cross(a, b, axis=dim)


_MATRICES = entries(
    {
        "_linalg_solve_ex.default": _solved,
        "linalg_solve.default": _solve,
        "linalg_inv_ex.default": lambda a, *, check_errors=False: (jnp.linalg.inv(a), _fine(a)),
        "linalg_cholesky_ex.default": _cholesky,
        "cholesky.default": lambda a, upper=False: _cholesky(a, upper=upper)[0],
        "cholesky_solve.default": _cholesky_solve,
        "linalg_solve_triangular.default": _triangular,
        "_linalg_det.default": _determinant,
        "_linalg_slogdet.default": _log_determinant,
        "linalg_cross.default": _cross,
        "_linalg_eigh.default": lambda a, UPLO="L", compute_v=True: tuple(
            jnp.linalg.eigh(a, UPLO, symmetrize_input=False)
        ),
        "linalg_pinv.atol_rtol_tensor": _pseudo_inverse,
        "linalg_matrix_exp.default": linalg.expm,
        "trace.default": jnp.trace,
    }
)

# An identity through which no derivative goes stands in graphs where torch takes none.
TABLE = NUMBERS | SHAPES | _AXES | _LAYERS | _MATRICES | {"ndae.cut.default": lax.stop_gradient}
