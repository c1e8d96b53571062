"""Operators of torch's graphs on shapes and places of arrays, in JAX."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ndae.symbolic.backends.torch_to_jax_numbers import entries


def slice_of(x, dim=0, start=None, end=None, step=1):
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
    return tuple(slice_of(x, dim, int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True))


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


def _diagonal_scatter(x, part, offset=0, dim1=0, dim2=1):
    moved = jnp.moveaxis(x, (dim1, dim2), (-2, -1))
    i = np.arange(part.shape[-1])
    put = moved.at[..., i + max(-offset, 0), i + max(offset, 0)].set(part)
    return jnp.moveaxis(put, (-2, -1), (dim1, dim2))


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


_SHAPES = entries(
    {
        "view.default _unsafe_view.default reshape.default view_copy.default _reshape_copy.default": jnp.reshape,
        "expand.default expand_copy.default": _expand,
        "permute.default permute_copy.default": jnp.transpose,
        "transpose.int transpose_copy.int": jnp.swapaxes,
        "t.default t_copy.default": jnp.transpose,
        "unsqueeze.default unsqueeze_copy.default": jnp.expand_dims,
        "squeeze.default squeeze.dim squeeze.dims squeeze_copy.default squeeze_copy.dim squeeze_copy.dims": _squeeze,
        "slice.Tensor slice_copy.Tensor": slice_of,
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
        "diagonal_scatter.default": _diagonal_scatter,
        "_new_zeros_with_same_feature_meta.default": lambda x, other, *, self_num_batch_dims=0: jnp.zeros(
            x.shape[:self_num_batch_dims] + other.shape, x.dtype
        ),
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


# -- places --------------------------------------------------------------------------------------------------------


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


_PLACES = entries(
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

SHAPES = _SHAPES | _PLACES
