from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ndae.symbolic.ground import _types as shapes
from ndae.symbolic.ground.words import check_known

State = Float[Tensor, shapes.STATE]
Residual = Float[Tensor, shapes.RESIDUAL]
Jacobian = Float[Tensor, shapes.JACOBIAN]
LocalJacobian = Float[Tensor, shapes.LOCAL_JACOBIAN]
Blocks = tuple[Float[Tensor, shapes.DIAGONAL_BLOCKS], Float[Tensor, shapes.OFF_BLOCKS]]

# --- runtime: everything below is also written, word for word, into stand-alone files ---


class TorchFunction(torch.nn.Module):
    """A function c(y, t; p) generated for torch, with its derivatives, over any leading batch dimensions.

    The state y has shape (..., n_states), point by point; residuals have shape (..., n_residuals), instance by
    instance. Parameters are given to every call by `parameters={name: value}`, of shape (...) for a plain list and
    (..., n_instances) for a template, or else the defaults hold; those named in `learn` are `nn.Parameter`s in
    `learned`. `t` is a number or a tensor of the batch's shape. All methods raise ValueError on a wrong number of
    states, an unknown or missing parameter, or a missing time.
    """

    def __init__(self, spec: dict, functions: dict, learn: Sequence[str] = ()):
        super().__init__()
        learn = tuple(learn)
        check_known(learn, spec["parameters"], f"learn: {spec['name']!r}")
        self.name, self.structure_kind, self.state_names = spec["name"], spec["structure_kind"], tuple(spec["states"])
        self.n_states, self.n_points, self.dim = spec["n_states"], spec["n_points"], spec["dim"]
        self.n_residuals, self.n_instances, self.n_local = spec["n_residuals"], spec["n_instances"], spec["n_local"]
        self.local_states, self.n_pairs = spec["local_states"], spec["n_pairs"]
        self.needs_time, self.template, self.affine = spec["needs_time"], spec["template"], spec["affine"]
        self._local = functions
        self.learned = torch.nn.ParameterDict()
        self._constants: dict[str, Tensor] = {}
        for key, value in spec["tables"].items():
            self.register_buffer("table_" + key, torch.as_tensor(value), persistent=False)
        for key, value in spec["constants"].items():
            self._constant(key, value)
        self._names, self._learned_names = tuple(spec["parameters"]), frozenset(learn)
        for name, value in spec["parameters"].items():
            if name in learn:
                if value is None:
                    raise ValueError(f"{self.name}: learned parameter {name!r} has no start: give its default value")
                self.learned[name] = torch.as_tensor(value, dtype=torch.get_default_dtype()).clone()
            elif value is not None:
                self._constant("value_" + name, value)
        self._refresh()

    def _constant(self, name: str, value) -> None:
        """Keep the float64 master beside the working copy, so that no chain of dtype changes loses digits."""
        self._constants[name] = torch.as_tensor(value, dtype=torch.float64)
        self.register_buffer(name, self._constants[name].to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, master in self._constants.items():
            buffer = self._buffers[name]
            if buffer is not None and not buffer.is_meta:
                self._buffers[name] = master.to(buffer.device, buffer.dtype)
        self._refresh()
        return self

    def _refresh(self) -> None:
        # Looked up on every call: a plain dict is several times quicker than nn.Module's attributes.
        held = {name: b for name, b in self._buffers.items() if b is not None}
        self._tables = {name[6:]: b for name, b in held.items() if name.startswith("table_")}
        self._values = {name: b for name, b in held.items() if name in self._constants}

    def extra_repr(self) -> str:
        sizes = f"n_states={self.n_states}, n_residuals={self.n_residuals}"
        return f"{self.name}, {sizes}, parameters={list(self._names)}"

    # -- arguments ---------------------------------------------------------------------------------------------------

    def _value(self, name: str, y: Tensor) -> Tensor:
        value = self._values[name]
        if value.dtype != y.dtype:
            value = self._constants[name].to(y.device, y.dtype)
        return value

    def _extras(self, y: Tensor, t, parameters: Mapping | None) -> list:
        """Time, where it appears, and the parameters, in the order of the generated functions' arguments."""
        check_known(parameters or (), self._names, repr(self.name))
        extras = []
        if self.needs_time:
            if t is None:
                raise ValueError(f"{self.name} depends on time: pass t=")
            t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=y.dtype, device=y.device)
            extras.append(t.unsqueeze(-1) if t.dim() else t)
        for name in self._names:
            if parameters and name in parameters:
                value = parameters[name]
                if isinstance(value, float) and not -torch.inf < value < torch.inf:
                    raise ValueError(f"{self.name}: parameter {name!r} is {value}: give a finite number")
                value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=y.dtype, device=y.device)
                if self.template and value.dim() and value.shape[-1] not in (1, self.n_instances):
                    raise ValueError(
                        f"{self.name}: parameter {name!r} has shape {tuple(value.shape)}, expected () or (..., "
                        f"{self.n_instances}), one value for each instance"
                    )
            elif name in self._learned_names:
                value = self.learned[name]
                value = value if value.dtype == y.dtype else value.to(y.dtype)
            elif "value_" + name in self._values:
                value = self._value("value_" + name, y)
            else:
                raise ValueError(f"{self.name}: parameter {name!r} has no default: pass parameters={{{name!r}: value}}")
            extras.append(value if self.template or not value.dim() else value.unsqueeze(-1))
        return extras

    def values(self, y: Tensor) -> dict[str, Tensor]:
        """The parameters that have values, learned or given, in the precision of y."""
        known = {name: self._value("value_" + name, y) for name in self._names if "value_" + name in self._values}
        return known | {name: value.to(y.dtype) for name, value in self.learned.items()}

    def one_instance(self) -> "TorchFunction":
        """The function of one instance over its own local states, (..., local_states), of a template without anchors.

        It has no parameters of its own: all are given to every call, of shape (..., 1). It does not follow this one to
        another device or precision, and needs not: it holds no numbers.
        """
        one = TorchFunction.__new__(TorchFunction)
        one.__dict__ = dict(self.__dict__)
        one._buffers, one._modules, one._parameters = {}, {"learned": torch.nn.ParameterDict()}, {}
        one._constants, one._values, one._learned_names = {}, {}, frozenset()
        one.n_instances, one.n_pairs, one.n_residuals = 1, 0, self.n_local
        one.n_states, one.n_points = self.local_states, self.local_states // self.dim
        one._tables = {"point_of_slot": torch.arange(one.n_points, device=self._tables["point_of_slot"].device)}
        return one

    def _check(self, array: Tensor, size: int, what: str) -> None:
        if not array.is_floating_point():
            raise ValueError(
                f"{self.name}: {what} has dtype {array.dtype}, expected floating point: convert it by .to(...)"
            )
        if array.dim() == 0 or array.shape[-1] != size:
            names = f" ({', '.join(self.state_names[:8])}{', ...' if len(self.state_names) > 8 else ''})"
            raise ValueError(
                f"{self.name}: {what} has shape {tuple(array.shape)}, expected (..., {size})"
                + (names if size == self.n_states else "")
            )

    def _gather(self, y: Tensor, what: str = "y", position: bool = True) -> Tensor:
        """Local coordinates of all instances, coordinate-major (..., local_states * n_instances); anchors stay."""
        self._check(y, self.n_states, what)
        tables = self._tables
        if "gather" not in tables:
            return y
        x = y.index_select(-1, tables["gather"])
        if "fixed" not in tables:
            return x
        if position and "anchor_values" in self._values:
            return torch.where(tables["fixed"], self._value("anchor_values", y), x)
        return x.masked_fill(tables["fixed"], 0.0)

    def _scatter(self, x: Tensor) -> Tensor:
        """Sum what belongs to the same state: the transpose of `_gather`."""
        tables = self._tables
        if "gather" not in tables:
            return x
        if "free" in tables:
            x = x.index_select(-1, tables["free"])
        return x.new_zeros((*x.shape[:-1], self.n_states)).index_add(-1, tables["scatter"], x)

    def _mask(self, local_jacobian: Tensor) -> Tensor:
        fixed = self._tables.get("fixed_columns")
        return local_jacobian if fixed is None else local_jacobian.masked_fill(fixed, 0.0)

    # -- the function and its derivatives ----------------------------------------------------------------------------

    def forward(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """The residual."""
        return self.residual(y, t, parameters)

    def residual(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """c(y, t; p), shape (..., n_residuals)."""
        return self._local["residual"](self._gather(y), *self._extras(y, t, parameters))

    def scale(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """How large the terms are that cancel in each residual, (..., n_residuals): what its tolerance goes by.

        Half the sum of |term|, with what is linear in y as one term: of |b − a| − L, (|b − a| + L)/2. Of a product, the
        product of its factors' sizes.
        """
        return self._local["scale"](self._gather(y), *self._extras(y, t, parameters))

    def time_derivative(self, y: State, t=None, parameters: Mapping | None = None) -> Residual:
        """∂c/∂t at fixed y, shape (..., n_residuals)."""
        return self._local["time_derivative"](self._gather(y), *self._extras(y, t, parameters))

    def jvp(self, y: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """J v, shape (..., n_residuals)."""
        return self._local["jvp"](self._gather(y), self._gather(v, "v", False), *self._extras(y, t, parameters))

    def vjp(self, y: State, w: Residual, t=None, parameters: Mapping | None = None) -> State:
        """Jᵀ w, shape (..., n_states)."""
        self._check(w, self.n_residuals, "w")
        return self._scatter(self._local["vjp"](self._gather(y), w, *self._extras(y, t, parameters)))

    def hvp(self, y: State, w: Residual, u: State, t=None, parameters: Mapping | None = None) -> State:
        """(Σᵢ wᵢ ∇²cᵢ) u, shape (..., n_states)."""
        self._check(w, self.n_residuals, "w")
        x, u = self._gather(y), self._gather(u, "u", False)
        return self._scatter(self._local["hvp"](x, w, u, *self._extras(y, t, parameters)))

    def velocity(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """dc/dt = J v + ∂c/∂t along q' = v, shape (..., n_residuals)."""
        x, v = self._gather(q, "q"), self._gather(v, "v", False)
        return self._local["velocity"](x, v, *self._extras(q, t, parameters))

    def curvature(self, q: State, v: State, t=None, parameters: Mapping | None = None) -> Residual:
        """d²c/dt² − J a = vᵀ ∇²c v + 2 ∂J/∂t v + ∂²c/∂t², shape (..., n_residuals)."""
        x, v = self._gather(q, "q"), self._gather(v, "v", False)
        return self._local["curvature"](x, v, *self._extras(q, t, parameters))

    def penalty(self, y: State, t=None, parameters: Mapping | None = None) -> State:
        """Jᵀ c = ∇ ½|c|², shape (..., n_states); the paper's eq. (14) with H = I is −γ times it."""
        return self._scatter(self._local["penalty"](self._gather(y), *self._extras(y, t, parameters)))

    def penalty_jvp(self, y: State, v: State, t=None, parameters: Mapping | None = None) -> State:
        """(Jᵀ J + Σᵢ cᵢ ∇²cᵢ) v, shape (..., n_states): the derivative of `penalty`, which is symmetric."""
        x, v = self._gather(y), self._gather(v, "v", False)
        return self._scatter(self._local["penalty_jvp"](x, v, *self._extras(y, t, parameters)))

    # -- the local Jacobian and what is built of it ------------------------------------------------------------------

    def local_jacobian(self, y: State, t=None, parameters: Mapping | None = None) -> LocalJacobian:
        """∂c/∂x of each instance, (..., n_instances, n_local, local_states); zero in the columns of anchors."""
        return self._mask(self._local["local_jacobian"](self._gather(y), *self._extras(y, t, parameters)))

    def linearise(self, y: State, t=None, parameters: Mapping | None = None) -> tuple[Residual, LocalJacobian]:
        """The residual and the local Jacobian in one evaluation."""
        c, jacobian = self._local["linearise"](self._gather(y), *self._extras(y, t, parameters))
        return c, self._mask(jacobian)

    def linearise_scaled(
        self, y: State, t=None, parameters: Mapping | None = None
    ) -> tuple[Residual, LocalJacobian, Residual]:
        """The residual, the local Jacobian and the scale in one evaluation."""
        c, jacobian, scale = self._local["linearise_scaled"](self._gather(y), *self._extras(y, t, parameters))
        return c, self._mask(jacobian), scale

    def apply_jacobian(self, local_jacobian: LocalJacobian, v: State) -> Residual:
        """J v from a local Jacobian, (..., n_residuals)."""
        return (local_jacobian * self.localise(v)).sum(-1).flatten(-2)

    def localise(self, v: State) -> Float[Tensor, "*batch n_instances 1 local_states"]:
        """The entries of v that each instance's local Jacobian multiplies."""
        self._check(v, self.n_states, "v")
        if "gather" in self._tables:
            v = v.index_select(-1, self._tables["gather_rows"])
        return v.unflatten(-1, (self.n_instances, 1, self.local_states))

    def apply_transpose(self, local_jacobian: LocalJacobian, w: Residual) -> State:
        """Jᵀ w from a local Jacobian, (..., n_states)."""
        self._check(w, self.n_residuals, "w")
        if self.n_local == 1:
            x = (local_jacobian.squeeze(-2) * w.unsqueeze(-1)).flatten(-2)
        else:
            x = (local_jacobian * w.unflatten(-1, (self.n_instances, self.n_local, 1))).sum(-2).flatten(-2)
        if "gather" not in self._tables:
            return x
        return x.new_zeros((*x.shape[:-1], self.n_states)).index_add(-1, self._tables["gather_rows"], x)

    def jacobian(self, y: State, t=None, parameters: Mapping | None = None) -> Jacobian:
        """J as a dense matrix, (..., n_residuals, n_states)."""
        local = self.local_jacobian(y, t, parameters)
        if "gather" not in self._tables:
            return local.squeeze(-3)
        row = torch.arange(self.n_residuals, device=y.device).view(self.n_instances, self.n_local, 1)
        column = self._tables["gather_rows"].view(self.n_instances, 1, self.local_states)
        entries = (row * self.n_states + column).flatten()
        flat = local.new_zeros((*local.shape[:-3], self.n_residuals * self.n_states))
        return flat.index_add(-1, entries, local.flatten(-3)).unflatten(-1, (self.n_residuals, self.n_states))

    def gram_blocks(
        self, y: State, inverse_metric: Tensor | None = None, t=None, parameters: Mapping | None = None
    ) -> Blocks:
        """Blocks of J A Jᵀ at y, as by `gram_from`."""
        return self.gram_from(self.local_jacobian(y, t, parameters), inverse_metric)

    def gram_from(self, local_jacobian: LocalJacobian, inverse_metric: Tensor | None = None) -> Blocks:
        """Blocks of J A Jᵀ: (..., n_instances, n_local, n_local) on the diagonal, (..., n_pairs, n_local, n_local)
        off it.

        Row p of the second belongs to the instances (i, j) = structure.pairs[p], block J_i A J_jᵀ. The metric A is the
        identity (None), a number for each point (n_points,), or a block for each point (n_points, dim, dim).
        """
        weighted = self._weigh(local_jacobian, inverse_metric)
        diagonal = _products(weighted, local_jacobian)
        tables = self._tables
        if "pair_first" not in tables:
            return diagonal, diagonal.new_zeros((*diagonal.shape[:-3], 0, self.n_local, self.n_local))
        blocks = [j.unflatten(-1, (-1, self.dim)).transpose(-2, -3).flatten(-4, -3) for j in (weighted, local_jacobian)]
        first = blocks[0].index_select(-3, tables["pair_first"])
        off = _products(first, blocks[1].index_select(-3, tables["pair_second"]))
        if "pair_of_shared" in tables:  # some pair shares more than one point
            zeros = off.new_zeros((*off.shape[:-3], self.n_pairs, self.n_local, self.n_local))
            off = zeros.index_add(-3, tables["pair_of_shared"], off)
        return diagonal, off

    def _weigh(self, local_jacobian: Tensor, inverse_metric: Tensor | None) -> Tensor:
        if inverse_metric is None:
            return local_jacobian
        if inverse_metric.shape not in ((self.n_points,), (self.n_points, self.dim, self.dim)):
            raise ValueError(
                f"{self.name}: inverse_metric has shape {tuple(inverse_metric.shape)}, expected "
                f"({self.n_points},), one "
                f"number for each point, or ({self.n_points}, {self.dim}, {self.dim}), one block for each point"
            )
        blocks = local_jacobian.unflatten(-1, (-1, self.dim))  # (..., n_instances, n_local, k, dim)
        metric = inverse_metric.index_select(0, self._tables["point_of_slot"]).unflatten(0, (self.n_instances, -1))
        if inverse_metric.dim() == 1:
            return (blocks * metric[:, None, :, None]).flatten(-2)
        return (blocks.unsqueeze(-1) * metric[:, None]).sum(-2).flatten(-2)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ of small matrices; LAPACK-free for the tiny ones, where elementwise is quicker."""
    if a.shape[-2] == 1:
        return (a * b).sum(-1, keepdim=True)
    if a.shape[-2] <= 4:
        return (a.unsqueeze(-2) * b.unsqueeze(-3)).sum(-1)
    return a @ b.mT
