"""Operators of torch's graphs (ATen) in JAX: one function each, called as ATen calls it.

Their derivatives are torch's: where torch takes a value at a corner (relu at 0, clamp at its bounds, a norm at 0), so
do these. What torch guards by a formula of its own for the derivative (softplus, xlogy) stands here as such and is not
taken apart: a guarded formula, differentiated, is NaN where the guard is.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import linalg, special

TABLE: dict[str, Any] = {}


def _of(names: str):
    """Enter a function under the names of its overloads."""

    def enter(fn):
        TABLE.update(dict.fromkeys((f"aten.{name}" for name in names.split()), fn))
        return fn

    return enter


def _enter(functions: dict[str, Any]) -> None:
    for names, fn in functions.items():
        _of(names)(fn)


# -- one number at a time ----------------------------------------------------------------------------------------------

_SAME_NAMES = """
    acos acosh asin asinh atan atanh ceil cos cosh exp exp2 expm1 floor isinf isnan isfinite isposinf isneginf log
    log10 log1p log2 logical_not sign signbit sin sinc sinh sqrt square tan tanh trunc positive deg2rad rad2deg
"""
_SPECIAL = "erf erfc erfinv digamma entr ndtri log_ndtr"
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
for _name in _SAME_NAMES.split():
    _of(f"{_name}.default")(getattr(jnp, _name))
for _name in _SPECIAL.split():
    _of(f"{_name}.default special_{_name}.default")(getattr(special, _name))
for _name, _ours in _COMPARISONS.items():
    _of(f"{_name}.Tensor {_name}.Scalar")(getattr(jnp, _ours))
for _name in ("and", "or", "xor"):
    _of(f"logical_{_name}.default")(getattr(jnp, f"logical_{_name}"))
    _of(f"bitwise_{_name}.Tensor bitwise_{_name}.Scalar")(getattr(jnp, f"bitwise_{_name}"))


def _identity(x, *_, **__):
    return x


def _power(x, p):
    if isinstance(p, (int, float)):
        whole = jnp.issubdtype(jnp.result_type(x), jnp.inexact) and float(p).is_integer() and abs(p) < 2**31
        return lax.integer_pow(x, int(p)) if whole else jnp.power(x, p)
    return jnp.power(x, p)


def _clamp(x, low=None, high=None):
    # Not jnp.clip, which halves the derivative at the bounds.
    x = x if low is None else jnp.where(x < low, low, x)
    return x if high is None else jnp.where(x > high, high, x)


def _divided(a, b, *, rounding_mode=None):
    if rounding_mode == "floor":
        return jnp.floor_divide(a, b)
    return jnp.trunc(jnp.true_divide(a, b)) if rounding_mode == "trunc" else jnp.true_divide(a, b)


def _elu(x, alpha=1.0, scale=1.0, input_scale=1.0):
    low = jnp.where(x > 0, 0.0, x)
    return jnp.where(x > 0, scale * x, alpha * scale * jnp.expm1(input_scale * low))


def _softplus(x, beta=1.0, threshold=20.0):
    straight = beta * x > threshold
    return jnp.where(straight, x, jnp.logaddexp(jnp.where(straight, 0.0, beta * x), 0.0) / beta)


def _gelu(x, *, approximate="none"):
    if approximate == "tanh":
        return x / 2 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + lax.erf(x * math.sqrt(0.5)))


def _abs(x):
    return x * jnp.sign(x)  # derivative 0 at 0, where that of jnp.abs is 1


def _root(s):
    """√s with the derivative 0 at 0, as torch's norms have."""
    return jnp.where(s == 0, 0.0, jnp.sqrt(jnp.where(s == 0, 1.0, s)))


_enter(
    {
        "add.Tensor add.Scalar": lambda a, b, alpha=1: a + b if alpha == 1 else a + alpha * b,
        "sub.Tensor sub.Scalar": lambda a, b, alpha=1: a - b if alpha == 1 else a - alpha * b,
        "rsub.Tensor rsub.Scalar": lambda a, b, alpha=1: b - alpha * a,
        "mul.Tensor mul.Scalar": jnp.multiply,
        "div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode": _divided,
        "floor_divide.default floor_divide.Scalar": jnp.floor_divide,
        "remainder.Tensor remainder.Scalar remainder.Scalar_Tensor": jnp.remainder,
        "fmod.Tensor fmod.Scalar": jnp.fmod,
        "abs.default": _abs,
        "neg.default": jnp.negative,
        "reciprocal.default": lambda x: 1 / x,
        "rsqrt.default": lambda x: lax.rsqrt(x),
        "round.default": jnp.round,
        "bitwise_not.default": jnp.bitwise_not,
        "atan2.default": jnp.arctan2,
        "hypot.default": jnp.hypot,
        "copysign.Tensor copysign.Scalar": jnp.copysign,
        "logaddexp.default": jnp.logaddexp,
        "logaddexp2.default": jnp.logaddexp2,
        "xlogy.Tensor xlogy.Scalar_Other xlogy.Scalar_Self": special.xlogy,
        "special_xlog1py.default special_xlog1py.other_scalar special_xlog1py.self_scalar": special.xlog1py,
        "lgamma.default": special.gammaln,
        "polygamma.default": lambda n, x: special.polygamma(n, x),
        "pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar": _power,
        "maximum.default": jnp.maximum,
        "minimum.default": jnp.minimum,
        "fmax.default": jnp.fmax,
        "fmin.default": jnp.fmin,
        "clamp.default clamp.Tensor": _clamp,
        "clamp_min.default clamp_min.Tensor": lambda x, low: _clamp(x, low),
        "clamp_max.default clamp_max.Tensor": lambda x, high: _clamp(x, None, high),
        "where.self where.ScalarOther where.ScalarSelf where.Scalar": jnp.where,
        "sigmoid.default": jax.nn.sigmoid,
        "relu.default": jax.nn.relu,
        "elu.default": _elu,
        "gelu.default": _gelu,
        "softplus.default": _softplus,
        "log_sigmoid_forward.default": lambda x: (-jnp.logaddexp(-x, 0.0), jnp.zeros(0, x.dtype)),
        "leaky_relu.default": lambda x, slope=0.01: jnp.where(x > 0, x, slope * x),
        "hardtanh.default": lambda x, low=-1, high=1: jnp.where(x <= low, low, jnp.where(x >= high, high, x)),
        "_to_copy.default": lambda x, dtype=None: x if dtype is None else jnp.asarray(x, dtype),
        "copy.default": lambda x, other: jnp.broadcast_to(other, x.shape),
        "alias.default clone.default detach.default lift.default lift_fresh.default lift_fresh_copy.default "
        "contiguous.default alias_copy.default detach_copy.default": _identity,
    }
)
TABLE["ndae.cut.default"] = lax.stop_gradient


# -- shapes ------------------------------------------------------------------------------------------------------------


def _slice(x, dim=0, start=None, end=None, step=1):
    n = x.shape[dim]
    places = [slice(None)] * x.ndim
    places[dim] = slice(start, None if end is None or end >= n else end, step)
    return x[tuple(places)]


def _scattered(x, part, dim, places):
    return jnp.moveaxis(jnp.moveaxis(x, dim, 0).at[places].set(jnp.moveaxis(part, dim, 0)), 0, dim)


def _slice_scatter(x, part, dim=0, start=None, end=None, step=1):
    end = None if end is None or end >= x.shape[dim] else end
    return _scattered(x, part, dim, slice(start, end, step))


def _select_scatter(x, part, dim, index):
    return jnp.moveaxis(jnp.moveaxis(x, dim, 0).at[index].set(part), 0, dim)


def _split(x, sizes, dim=0):
    n = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, n - at) for at in range(0, n, sizes)]
    ends = np.cumsum(sizes)
    return tuple(_slice(x, dim, int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True))


def _unbind(x, dim=0):
    return tuple(lax.index_in_dim(x, i, dim, keepdims=False) for i in range(x.shape[dim]))


def _expand(x, shape, implicit=False):
    old = (1,) * (len(shape) - x.ndim) + x.shape
    return jnp.broadcast_to(x, tuple(o if new == -1 else new for o, new in zip(old, shape, strict=True)))


def _squeeze(x, dims=None):
    dims = range(x.ndim) if dims is None else (dims,) if isinstance(dims, int) else dims
    return jnp.squeeze(x, tuple(d for d in dims if x.ndim and x.shape[d] == 1))


def _cat(xs, dim=0):
    kept = [x for x in xs if x.shape != (0,)] or list(xs[:1])  # torch leaves out what is empty, whatever its shape
    return jnp.concatenate(kept, dim)


def _pad(x, widths, value=0):
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2) + [tuple(widths[i : i + 2]) for i in range(0, len(widths), 2)][::-1]
    return lax.pad(x, jnp.asarray(value, x.dtype), [(a, b, 0) for a, b in pairs])


def _unfold(x, dim, size, step):
    x = jnp.moveaxis(x, dim, -1)
    places = np.arange(0, x.shape[-1] - size + 1, step)[:, None] + np.arange(size)
    return jnp.moveaxis(x[..., places], -2, dim % x.ndim)


def _diag_embed(x, offset=0, dim1=-2, dim2=-1):
    n = x.shape[-1] + abs(offset)
    i = np.arange(x.shape[-1])
    y = jnp.zeros((*x.shape[:-1], n, n), x.dtype).at[..., i + max(-offset, 0), i + max(offset, 0)].set(x)
    return jnp.moveaxis(y, (-2, -1), (dim1, dim2))


def _roll(x, shifts, dims=()):
    if not dims:
        return jnp.roll(jnp.ravel(x), shifts[0] if isinstance(shifts, tuple) else shifts).reshape(x.shape)
    return jnp.roll(x, shifts, dims)


def _full(shape, value=0, dtype=None):
    return jnp.full(shape, value, dtype)


def _full_like(x, value=0, dtype=None):
    return jnp.full(x.shape, value, dtype or x.dtype)


def _arange(*ends, dtype=None):
    return jnp.asarray(np.arange(*ends), dtype)


_enter(
    {
        "view.default _unsafe_view.default reshape.default view_copy.default _reshape_copy.default": jnp.reshape,
        "expand.default expand_copy.default": _expand,
        "permute.default permute_copy.default": jnp.transpose,
        "transpose.int transpose_copy.int": jnp.swapaxes,
        "t.default t_copy.default": jnp.transpose,
        "unsqueeze.default unsqueeze_copy.default": jnp.expand_dims,
        "squeeze.default squeeze.dim squeeze.dims squeeze_copy.default squeeze_copy.dim squeeze_copy.dims": _squeeze,
        "slice.Tensor slice_copy.Tensor": _slice,
        "select.int select_copy.int": lambda x, dim, i: lax.index_in_dim(x, i, dim, keepdims=False),
        "slice_scatter.default": _slice_scatter,
        "select_scatter.default": _select_scatter,
        "split.Tensor split_with_sizes.default split_copy.Tensor split_with_sizes_copy.default": _split,
        "unbind.int unbind_copy.int": _unbind,
        "cat.default": _cat,
        "stack.default": lambda xs, dim=0: jnp.stack(xs, dim),
        "flip.default": jnp.flip,
        "roll.default": _roll,
        "repeat.default": jnp.tile,
        "tril.default": jnp.tril,
        "triu.default": jnp.triu,
        "diagonal.default diagonal_copy.default": lambda x, offset=0, dim1=0, dim2=1: jnp.diagonal(
            x, offset, dim1, dim2
        ),
        "diag_embed.default": _diag_embed,
        "constant_pad_nd.default": _pad,
        "unfold.default": _unfold,
        "full.default": _full,
        "zeros.default empty.memory_format empty.default": lambda shape, dtype=None: jnp.zeros(shape, dtype),
        "ones.default": lambda shape, dtype=None: jnp.ones(shape, dtype),
        "empty_strided.default": lambda shape, _, dtype=None: jnp.zeros(shape, dtype),
        "full_like.default fill.Scalar": _full_like,
        "fill.Tensor": lambda x, value: jnp.broadcast_to(value, x.shape),
        "zeros_like.default empty_like.default": _full_like,
        "ones_like.default": lambda x, dtype=None: _full_like(x, 1, dtype),
        "new_zeros.default new_empty.default": lambda x, shape, dtype=None: jnp.zeros(shape, dtype or x.dtype),
        "new_ones.default": lambda x, shape, dtype=None: jnp.ones(shape, dtype or x.dtype),
        "new_full.default": lambda x, shape, value, dtype=None: jnp.full(shape, value, dtype or x.dtype),
        "scalar_tensor.default": lambda value, dtype=None: jnp.asarray(value, dtype),
        "eye.default": lambda n, dtype=None: jnp.eye(n, dtype=dtype),
        "eye.m": lambda n, m, dtype=None: jnp.eye(n, m, dtype=dtype),
        "arange.default arange.start arange.start_step": _arange,
        "linspace.default": lambda a, b, n, dtype=None: jnp.linspace(a, b, n, dtype=dtype),
    }
)


# -- places ------------------------------------------------------------------------------------------------------------


def _indices(x, indices):
    return tuple(slice(None) if i is None else i for i in indices)


def _searched(edges, x, *, right=False, side=None, sorter=None, out_int32=False):
    side = side or ("right" if right else "left")
    if edges.ndim == 1:
        return jnp.searchsorted(edges, x, side=side)
    rows = (part.reshape(-1, part.shape[-1]) for part in (edges, x))
    return jax.vmap(functools.partial(jnp.searchsorted, side=side))(*rows).reshape(x.shape)


def _index_put(x, indices, values, accumulate=False):
    if getattr(indices[0], "dtype", None) == jnp.bool_:  # one number, wherever it holds
        mask = indices[0].reshape(indices[0].shape + (1,) * (x.ndim - indices[0].ndim))
        return jnp.where(mask, (x if accumulate else 0) + values.reshape(()), x)
    at = x.at[_indices(x, indices)]
    return at.add(values) if accumulate else at.set(values)


def _along(x, dim, index):
    """Places of x that an index of scatter and gather names: along `dim`, as far as the index reaches elsewhere."""
    grid = list(jnp.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim % x.ndim] = index
    return tuple(grid)


def _scatter(x, dim, index, source, *, reduce=None):
    if x.ndim == 0:
        return source if reduce is None else {"add": jnp.add, "multiply": jnp.multiply}[reduce](x, source)
    source = source[tuple(slice(n) for n in index.shape)] if jnp.ndim(source) else source
    at = x.at[_along(x, dim, index)]
    return at.set(source) if reduce is None else at.add(source) if reduce == "add" else at.multiply(source)


def _scatter_reduce(x, dim, index, source, reduce, include_self=True):
    source, places = source[tuple(slice(n) for n in index.shape)], _along(x, dim, index)
    if not include_self:
        first = {"sum": 0, "mean": 0, "prod": 1, "amax": -math.inf, "amin": math.inf}[reduce]
        x = x.at[places].set(first)
    if reduce == "mean":
        count = jnp.full(x.shape, int(include_self)).at[places].add(1)
        return x.at[places].add(source) / jnp.maximum(count, 1)
    return getattr(x.at[places], {"sum": "add", "prod": "multiply", "amax": "max", "amin": "min"}[reduce])(source)


def _by_index(how):
    def put(x, dim, index, source, alpha=1):
        source = jnp.moveaxis(source, dim, 0) if jnp.ndim(source) > 1 else source
        at = jnp.moveaxis(x, dim, 0).at[jnp.atleast_1d(index)]
        return jnp.moveaxis(getattr(at, how)(source if alpha == 1 else alpha * source), 0, dim)

    return put


def _gather(x, dim, index, sparse_grad=False):
    return x[_along(x, dim, index)] if x.ndim else jnp.broadcast_to(x, index.shape)


def _embedding(weight, index, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return weight[index]


_enter(
    {
        "index.Tensor _unsafe_index.Tensor": lambda x, indices: x[_indices(x, indices)],
        "index_put.default _unsafe_index_put.default": _index_put,
        "index_select.default": lambda x, dim, i: jnp.take(x, jnp.atleast_1d(i), axis=dim) if x.ndim else x,
        "index_add.default": _by_index("add"),
        "index_copy.default": _by_index("set"),
        "gather.default": _gather,
        "searchsorted.Tensor searchsorted.Scalar": _searched,
        "bucketize.Tensor bucketize.Scalar": lambda x, edges, *, out_int32=False, right=False: jnp.searchsorted(
            edges, x, side="right" if right else "left"
        ),
        "scatter.src scatter.value scatter.reduce scatter.value_reduce": _scatter,
        "scatter_add.default": lambda x, dim, index, source: _scatter(x, dim, index, source, reduce="add"),
        "scatter_reduce.two": _scatter_reduce,
        "embedding.default": _embedding,
    }
)


# -- over axes ---------------------------------------------------------------------------------------------------------


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
        return _root(jnp.sum(x * x, axis=axes, keepdims=keepdim))
    size = _abs(x)
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
    return _slice(values, dim, 0, k), _slice(order, dim, 0, k)


def _median(x, dim=-1, keepdim=False):
    values, order = _sort(x, dim)
    middle = (x.shape[dim] - 1) // 2
    found = [_slice(part, dim, middle, middle + 1) for part in (values, order)]
    return tuple(part if keepdim else jnp.squeeze(part, dim) for part in found)


def _softmax(x, dim, half_to_float=False):
    return jax.nn.softmax(x, axis=dim)


def _cumulative(fn):
    return lambda x, dim, *, dtype=None: fn(x if dtype is None else jnp.asarray(x, dtype), axis=dim) if x.ndim else x


_enter(
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
        "std.correction": lambda *a, **k: _root(_variance(*a, **k)),
        "var_mean.correction": lambda x, dim=None, *, correction=None, keepdim=False: (
            _variance(x, dim, correction=correction, keepdim=keepdim),
            x.mean(_axes(dim), keepdims=keepdim),
        ),
        "std_mean.correction": lambda x, dim=None, *, correction=None, keepdim=False: (
            _root(_variance(x, dim, correction=correction, keepdim=keepdim)),
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


# -- layers ------------------------------------------------------------------------------------------------------------


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


_enter(
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


# -- matrices ----------------------------------------------------------------------------------------------------------


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


_enter(
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
