"""Operators of torch's graphs on one number at a time, in JAX."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special


def entries(functions: dict[str, Any]) -> dict[str, Callable]:
    """Functions by the names of operators, from functions by several overloads of one, as "add.Tensor add.Scalar"."""
    return {f"aten.{name}": fn for names, fn in functions.items() for name in names.split()}


_SAME_NAMES = """
    acos acosh asin asinh atan atanh ceil cos cosh exp exp2 expm1 floor isinf isnan isfinite isposinf isneginf log
    log10 log1p log2 logical_not sign signbit sin sinc sinh sqrt square tan tanh trunc positive deg2rad rad2deg
"""
_SPECIAL = "erf erfc erfinv digamma entr ndtri log_ndtr"
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
_LOGIC = ("and", "or", "xor")


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


def magnitude(x):
    return x * jnp.sign(x)  # derivative 0 at 0, where that of jnp.abs is 1


def root(s):
    """√s with the derivative 0 at 0, as torch's norms have."""
    return jnp.where(s == 0, 0.0, jnp.sqrt(jnp.where(s == 0, 1.0, s)))


NUMBERS = entries(
    {f"{name}.default": getattr(jnp, name) for name in _SAME_NAMES.split()}
    | {f"{name}.default special_{name}.default": getattr(special, name) for name in _SPECIAL.split()}
    | {f"{name}.Tensor {name}.Scalar": getattr(jnp, ours) for name, ours in _COMPARISONS.items()}
    | {f"logical_{name}.default": getattr(jnp, f"logical_{name}") for name in _LOGIC}
    | {f"bitwise_{name}.Tensor bitwise_{name}.Scalar": getattr(jnp, f"bitwise_{name}") for name in _LOGIC}
    | {
        "add.Tensor add.Scalar": lambda a, b, alpha=1: a + b if alpha == 1 else a + alpha * b,
        "sub.Tensor sub.Scalar": lambda a, b, alpha=1: a - b if alpha == 1 else a - alpha * b,
        "rsub.Tensor rsub.Scalar": lambda a, b, alpha=1: b - alpha * a,
        "mul.Tensor mul.Scalar": jnp.multiply,
        "div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode": _divided,
        "floor_divide.default floor_divide.Scalar": jnp.floor_divide,
        "remainder.Tensor remainder.Scalar remainder.Scalar_Tensor": jnp.remainder,
        "fmod.Tensor fmod.Scalar": jnp.fmod,
        "abs.default": magnitude,
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
