from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.symbolic.ground import _types as shapes
from ndae.symbolic.ground.words import check_known

State = Float[Any, shapes.STATE]
Residual = Float[Any, shapes.RESIDUAL]
Jacobian = Float[Any, shapes.JACOBIAN]
LocalJacobian = Float[Any, shapes.LOCAL_JACOBIAN]
Blocks = tuple[Float[Any, shapes.DIAGONAL_BLOCKS], Float[Any, shapes.OFF_BLOCKS]]

# --- runtime: everything below is also written, word for word, into stand-alone files ---


class Joins:
    """How generated functions take local arrays apart and join their entries; `xp` is numpy or jax.numpy."""

    def __init__(self, xp):
        self.xp = xp

    def split(self, x, width):
        """The local coordinates of a coordinate-major array (..., width * n_instances), each (..., n_instances)."""
        return self.xp.split(x, width, axis=-1)

    def split_rows(self, w, width):
        """The entries of an instance-major array (..., n_instances * width), each (..., n_instances)."""
        return [w[..., i::width] for i in range(width)]

    def _joinable(self, entries, x, width):
        like = x[..., : x.shape[-1] // width]
        return self.xp.broadcast_arrays(*[self.xp.asarray(e, x.dtype) for e in entries], like)[:-1]

    def rows(self, entries, x, width):
        """Residual-shaped output, instance-major (..., n_instances * n_local)."""
        entries = self._joinable(entries, x, width)
        *batch, n = entries[0].shape
        return self.xp.stack(entries, -1).reshape(*batch, n * len(entries))

    def columns(self, entries, x, width):
        """State-shaped output of each instance, coordinate-major (..., width * n_instances)."""
        return self.xp.concatenate(self._joinable(entries, x, width), -1)

    def matrix(self, entries, x, width):
        """One matrix an instance, (..., n_instances, n_local, width)."""
        entries = self._joinable(entries, x, width)
        return self.xp.stack(entries, -1).reshape(*entries[0].shape, len(entries) // width, width)


class ArrayFunction:
    """A function c(y, t; p) generated for NumPy or JAX, with its derivatives, over any leading batch dimensions.

    The state y has shape (..., n_states), point by point; residuals have shape (..., n_residuals), instance by
    instance. Parameters are given to every call by `parameters={name: value}`, of shape (...) for a plain list and
    (..., n_instances) for a template, or else the defaults hold. `t` is a number or an array of the batch's shape. All
    methods are pure (JAX: fit for jit, vmap and grad) and raise ValueError on a wrong number of states, an unknown or
    missing parameter, or a missing time.
    """

    def __init__(self, spec: dict, functions: dict, xp, scatter_add, as_array):
        self.name, self.structure_kind = spec["name"], spec["structure_kind"]
        self.n_states, self.n_points, self.dim = spec["n_states"], spec["n_points"], spec["dim"]
        self.n_residuals, self.n_instances, self.n_local = spec["n_residuals"], spec["n_instances"], spec["n_local"]
        self.local_states, self.n_pairs = spec["local_states"], spec["n_pairs"]
        self.state_names = tuple(spec["states"])
        self.needs_time, self.template = spec["needs_time"], spec["template"]
        self.parameters = dict(spec["parameters"])
        self._local, self._constants = functions, spec["constants"]
        # 64-bit indices fail in JAX where it has cached, in 32 bits, what it is asked for in 64.
        integer = np.intp if xp is np else np.int32
        tables = {key: np.asarray(table) for key, table in spec["tables"].items()}
        self._tables = {key: t if t.dtype == bool else t.astype(integer, copy=False) for key, t in tables.items()}
        self._xp, self._scatter_add, self._as_array = xp, scatter_add, as_array

    def __getstate__(self) -> dict:
        """With the name of the array module, which nothing can pickle, in its place."""
        return self.__dict__ | {"_xp": self._xp.__name__}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _xp=import_module(state["_xp"]))

    def __repr__(self) -> str:
        sizes = f"n_states={self.n_states}, n_residuals={self.n_residuals}, parameters={list(self.parameters)}"
        return f"{type(self).__name__}({self.name}, {sizes})"

    # -- arguments ---------------------------------------------------------------------------------------------------

    def _extras(self, y, t, parameters: Mapping | None) -> list:
        """Time, where it appears, and the parameters, in the order of the generated functions' arguments."""
        given = parameters or {}
        check_known(given, self.parameters, repr(self.name))
        extras = []
        if self.needs_time:
            if t is None:
                raise ValueError(f"{self.name} depends on time: pass t=")
            t = self._xp.asarray(t, y.dtype)
            extras.append(t[..., None] if t.ndim else t)
        for name, default in self.parameters.items():
            value = given.get(name, default)
            if value is None:
                raise ValueError(f"{self.name}: parameter {name!r} has no default: pass parameters={{{name!r}: value}}")
            value = self._xp.asarray(value, y.dtype)
            if self.template and value.ndim and value.shape[-1] not in (1, self.n_instances):
                raise ValueError(
                    f"{self.name}: parameter {name!r} has shape {tuple(value.shape)}, expected () or (..., "
                    f"{self.n_instances}), one value for each instance"
                )
            extras.append(value if self.template or not value.ndim else value[..., None])
        return extras

    def _check(self, array, size: int, what: str):
        array = self._as_array(array)
        if not self._xp.issubdtype(array.dtype, self._xp.floating):
            raise ValueError(f"{self.name}: {what} has dtype {array.dtype}, expected floating point: convert it")
        if array.ndim == 0 or array.shape[-1] != size:
            names = f" ({', '.join(self.state_names[:8])}{', ...' if len(self.state_names) > 8 else ''})"
            raise ValueError(
                f"{self.name}: {what} has shape {tuple(array.shape)}, expected (..., {size})"
                + (names if size == self.n_states else "")
            )
        return array

    def _gather(self, y, what: str = "y", position: bool = True):
        """Local coordinates of all instances, coordinate-major (..., local_states * n_instances); anchors stay."""
        y = self._check(y, self.n_states, what)
        tables = self._tables
        if "gather" not in tables:
            return y
        x = y[..., tables["gather"]]
        if "fixed" not in tables:
            return x
        anchors = self._constants.get("anchor_values", 0.0) if position else 0.0
        return self._xp.where(tables["fixed"], self._xp.asarray(anchors, y.dtype), x)

    def _scatter(self, x):
        """Sum what belongs to the same state: the transpose of `_gather`."""
        tables = self._tables
        if "gather" not in tables:
            return x
        if "free" in tables:
            x = x[..., tables["free"]]
        return self._scatter_add(self.n_states, tables["scatter"], x)

    def _mask(self, local_jacobian):
        if "fixed_columns" not in self._tables:
            return local_jacobian
        return self._xp.where(self._tables["fixed_columns"], self._xp.zeros((), local_jacobian.dtype), local_jacobian)

    def _call(self, name: str, y, arrays, t, parameters):
        y = self._xp.asarray(y)
        return self._local[name](*arrays, *self._extras(y, t, parameters))

    # -- the function and its derivatives ----------------------------------------------------------------------------

    def __call__(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """The residual."""
        return self.residual(y, t, parameters)

    def residual(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """c(y, t; p), shape (..., n_residuals)."""
        return self._call("residual", y, (self._gather(y),), t, parameters)

    def scale(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """How large the terms are that cancel in each residual, (..., n_residuals): what its tolerance goes by.

        Half the sum of |term|, with what is linear in y as one term: of |b − a| − L, (|b − a| + L)/2. Of a product, the
        product of its factors' sizes.
        """
        return self._call("scale", y, (self._gather(y),), t, parameters)

    def time_derivative(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """∂c/∂t at fixed y, shape (..., n_residuals)."""
        return self._call("time_derivative", y, (self._gather(y),), t, parameters)

    def jvp(self, y: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """J v, shape (..., n_residuals)."""
        return self._call("jvp", y, (self._gather(y), self._gather(v, "v", False)), t, parameters)

    def vjp(self, y: State, w: Residual, t=None, parameters: Mapping | None = None) -> State:
        """Jᵀ w, shape (..., n_states)."""
        w = self._check(w, self.n_residuals, "w")
        return self._scatter(self._call("vjp", y, (self._gather(y), w), t, parameters))

    def hvp(self, y: State, w: Residual, u: State, t=None, parameters: Mapping | None = None) -> State:
        """(Σᵢ wᵢ ∇²cᵢ) u, shape (..., n_states)."""
        w = self._check(w, self.n_residuals, "w")
        return self._scatter(self._call("hvp", y, (self._gather(y), w, self._gather(u, "u", False)), t, parameters))

    def velocity(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """dc/dt = J v + ∂c/∂t along q' = v, shape (..., n_residuals)."""
        return self._call("velocity", q, (self._gather(q, "q"), self._gather(v, "v", False)), t, parameters)

    def curvature(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """d²c/dt² − J a = vᵀ ∇²c v + 2 ∂J/∂t v + ∂²c/∂t², shape (..., n_residuals)."""
        return self._call("curvature", q, (self._gather(q, "q"), self._gather(v, "v", False)), t, parameters)

    def penalty(self, y: State, t=None, parameters: Mapping | None = None) -> State:
        """Jᵀ c = ∇ ½|c|², shape (..., n_states); the paper's eq. (14) with H = I is −γ times it."""
        return self._scatter(self._call("penalty", y, (self._gather(y),), t, parameters))

    def penalty_jvp(self, y: State, v: State, t=None, parameters: Mapping | None = None) -> State:
        """(Jᵀ J + Σᵢ cᵢ ∇²cᵢ) v, shape (..., n_states): the derivative of `penalty`, which is symmetric."""
        x, v = self._gather(y), self._gather(v, "v", False)
        return self._scatter(self._call("penalty_jvp", y, (x, v), t, parameters))

    # -- the local Jacobian and what is built of it ------------------------------------------------------------------

    def local_jacobian(self, y: State, t=None, parameters: Mapping | None = None) -> LocalJacobian:
        """∂c/∂x of each instance, (..., n_instances, n_local, local_states); zero in the columns of anchors."""
        return self._mask(self._call("local_jacobian", y, (self._gather(y),), t, parameters))

    def linearise(self, y: State, t=None, parameters: Mapping | None = None) -> tuple[Residual, LocalJacobian]:
        """The residual and the local Jacobian in one evaluation."""
        c, jacobian = self._call("linearise", y, (self._gather(y),), t, parameters)
        return c, self._mask(jacobian)

    def apply_jacobian(self, local_jacobian: LocalJacobian, v: State) -> Residual:
        """J v from a local Jacobian, (..., n_residuals)."""
        v = self._check(v, self.n_states, "v")
        if "gather" in self._tables:
            v = v[..., self._tables["gather_rows"]]
        product = (local_jacobian * v.reshape(*v.shape[:-1], self.n_instances, 1, self.local_states)).sum(-1)
        return product.reshape(*product.shape[:-2], self.n_residuals)

    def apply_transpose(self, local_jacobian: LocalJacobian, w: Residual) -> State:
        """Jᵀ w from a local Jacobian, (..., n_states)."""
        w = self._check(w, self.n_residuals, "w")
        x = (local_jacobian * w.reshape(*w.shape[:-1], self.n_instances, self.n_local, 1)).sum(-2)
        x = x.reshape(*x.shape[:-2], self.n_instances * self.local_states)
        return self._scatter_add(self.n_states, self._tables["gather_rows"], x) if "gather" in self._tables else x

    def jacobian(self, y: State, t=None, parameters: Mapping | None = None) -> Jacobian:
        """J as a dense matrix, (..., n_residuals, n_states)."""
        local = self.local_jacobian(y, t, parameters)
        if "gather" not in self._tables:
            return local[..., 0, :, :]
        row = self._xp.arange(self.n_residuals).reshape(self.n_instances, self.n_local, 1)
        column = self._tables["gather_rows"].reshape(self.n_instances, 1, self.local_states)
        entries = (row * self.n_states + column).reshape(-1)
        local = local.reshape(*local.shape[:-3], self.n_residuals * self.local_states)
        flat = self._scatter_add(self.n_residuals * self.n_states, entries, local)
        return flat.reshape(*flat.shape[:-1], self.n_residuals, self.n_states)

    def gram_blocks(self, y: State, inverse_metric=None, t=None, parameters: Mapping | None = None) -> Blocks:
        """Blocks of J A Jᵀ at y, as by `gram_from`."""
        return self.gram_from(self.local_jacobian(y, t, parameters), inverse_metric)

    def gram_from(self, local_jacobian: LocalJacobian, inverse_metric=None) -> Blocks:
        """Blocks of J A Jᵀ: (..., n_instances, n_local, n_local) on the diagonal, (..., n_pairs, n_local, n_local)
        off it.

        Row p of the second belongs to the instances (i, j) = structure.pairs[p], block J_i A J_jᵀ. The metric A is the
        identity (None), a number for each point (n_points,), or a block for each point (n_points, dim, dim).
        """
        xp, tables = self._xp, self._tables
        weighted = self._weigh(local_jacobian, inverse_metric)
        diagonal = (weighted[..., :, None, :] * local_jacobian[..., None, :, :]).sum(-1)
        if "pair_first" not in tables:
            return diagonal, xp.zeros((*diagonal.shape[:-3], 0, self.n_local, self.n_local), diagonal.dtype)
        k = self.local_states // self.dim
        slots = [j.reshape(*j.shape[:-1], k, self.dim) for j in (weighted, local_jacobian)]
        shape = (self.n_instances * k, self.n_local, self.dim)
        slots = [xp.swapaxes(j, -2, -3).reshape(*j.shape[:-4], *shape) for j in slots]
        first, second = slots[0][..., tables["pair_first"], :, :], slots[1][..., tables["pair_second"], :, :]
        off = (first[..., :, None, :] * second[..., None, :, :]).sum(-1)
        if "pair_of_shared" in tables:  # some pair shares more than one point
            off = self._scatter_add(self.n_pairs, tables["pair_of_shared"], xp.moveaxis(off, -3, -1))
            off = xp.moveaxis(off, -1, -3)
        return diagonal, off

    def _weigh(self, local_jacobian, inverse_metric):
        if inverse_metric is None:
            return local_jacobian
        inverse_metric = self._xp.asarray(inverse_metric, local_jacobian.dtype)
        if inverse_metric.shape not in ((self.n_points,), (self.n_points, self.dim, self.dim)):
            raise ValueError(
                f"{self.name}: inverse_metric has shape {tuple(inverse_metric.shape)}, expected "
                f"({self.n_points},), one "
                f"number for each point, or ({self.n_points}, {self.dim}, {self.dim}), one block for each point"
            )
        k = self.local_states // self.dim
        blocks = local_jacobian.reshape(*local_jacobian.shape[:-1], k, self.dim)  # (..., n_instances, n_local, k, dim)
        metric = inverse_metric[self._tables["point_of_slot"]]
        metric = metric.reshape(self.n_instances, 1, -1, *metric.shape[1:])
        weighted = blocks * metric[..., None] if inverse_metric.ndim == 1 else (blocks[..., None] * metric).sum(-2)
        return weighted.reshape(local_jacobian.shape)
