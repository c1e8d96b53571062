"""How good predictions are: error per body, violation of the constraint, and what the projections took."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ndae.solvers.tensors import as_numbers


@dataclass(frozen=True)
class ProjectionSummary:
    """What the projections of many samples took: how many there were, their iterations, how many did not converge."""

    count: int
    iterations_mean: float
    iterations_max: int
    unconverged: int


@dataclass(frozen=True)
class Evaluation:
    """Errors of a model's output over a data set, in the data's unit.

    `mae`: mean over samples and bodies of `|y − target|₂`, of a model with `output_sizes` in these. `violation_mean`,
    `violation_max`: mean and largest `|c(y)|` of the output as a user gets it, nan for a model without constraint.
    `projections` is None where none was made. `errors` (samples,): the mean over bodies of each sample, in the order of
    the data, where it was asked for.
    """

    mae: float
    violation_mean: float
    violation_max: float
    samples: int
    projections: ProjectionSummary | None
    errors: Tensor | None = field(default=None, compare=False, repr=False)


class Data(NamedTuple):
    """Samples: inputs `(n, nodes, features)`, targets `(n, nodes, dim)` or `(n, n_times, nodes, dim)`, and by name what
    else the model is told of each, `(n, ...)`."""

    inputs: Tensor
    targets: Tensor
    conditions: dict[str, Tensor]

    def to(self, device: torch.device) -> "Data":
        """The same on another device."""
        return Data(
            self.inputs.to(device), self.targets.to(device), {k: x.to(device) for k, x in self.conditions.items()}
        )

    def take(self, chosen: Any) -> "Data":
        """The samples chosen, by a slice or by their numbers."""
        return Data(self.inputs[chosen], self.targets[chosen], {k: x[chosen] for k, x in self.conditions.items()})


class Tally:
    """Sums errors and violations over batches in float64, on the data's device, without waiting for it."""

    def __init__(self, model: nn.Module, each: bool = False):
        self.constraint, self.unit = getattr(model, "constraint", None), getattr(model, "output_sizes", None)
        self.each: list[Tensor] | None = [] if each else None
        self.samples = self.bodies = self.residuals = self.projected = 0
        self.error = self.violation = self.worst = self.iterations = self.longest = self.unconverged = 0.0

    def add(self, prediction: Any, target: Tensor) -> Tensor:
        """Count a batch in; return its errors per body `(batch, nodes)`."""
        y = prediction.y.detach()
        off = y - target if self.unit is None else (y - target) / self.unit
        errors = torch.linalg.vector_norm(off, dim=-1)
        self.samples += len(y)
        self.bodies += errors.numel()
        self.error = self.error + errors.sum(dtype=torch.float64)
        if self.each is not None:
            self.each.append(errors.double().flatten(1).mean(1))
        violation = self._violation(prediction, y)
        if violation is not None:
            self.residuals += violation.numel()
            self.violation = self.violation + violation.sum(dtype=torch.float64)
            # amax of the NaN of one sample is NaN, where Python's max would drop it.
            self.worst = torch.maximum(torch.as_tensor(self.worst, device=y.device), violation.amax().double())
        for projection in getattr(prediction, "projections", ()):
            self.projected += projection.converged.numel()
            self.iterations = self.iterations + projection.iterations.sum()
            self.longest = torch.maximum(
                torch.as_tensor(self.longest, device=y.device), projection.iterations.max().double()
            )
            self.unconverged = self.unconverged + (~projection.converged).sum()
        return errors

    def _violation(self, prediction: Any, y: Tensor) -> Tensor | None:
        residual = getattr(prediction, "residual", None)
        if residual is not None:
            return residual().detach().abs()
        return None if self.constraint is None else self.constraint.residual(y.flatten(-2)).detach().abs()

    def result(self) -> Evaluation:
        """Means and maxima of what was counted."""
        projections = None
        if self.projected:
            projections = ProjectionSummary(
                self.projected, float(self.iterations) / self.projected, int(self.longest), int(self.unconverged)
            )
        return Evaluation(
            mae=float(self.error) / self.bodies,
            violation_mean=float(self.violation) / self.residuals if self.residuals else math.nan,
            violation_max=float(self.worst) if self.residuals else math.nan,
            samples=self.samples,
            projections=projections,
            errors=torch.cat(self.each).cpu() if self.each else None,
        )


@dataclass(frozen=True)
class PlainPrediction:
    """The prediction of a module that has no `predict`: its output, and nothing to add to the loss."""

    y: Tensor
    regularisation: Tensor
    projections: tuple = ()


def predict(model: nn.Module, x: Tensor, conditions: Mapping[str, Tensor] | None = None) -> Any:
    """`model.predict(x)`, or `model(x)` of a module that has no such method as a prediction without regularisation."""
    if hasattr(model, "predict"):
        predicting: Any = model.predict
        return predicting(x, **(conditions or {}))
    y = model(x, **(conditions or {}))
    return PlainPrediction(y, y.new_zeros(()))


def evaluate(
    model: nn.Module, inputs: Any, targets: Any, conditions: Mapping[str, Any] | None = None, *, batch_size: int = 250
) -> Evaluation:
    """Errors and violations of `model` over samples: inputs `(n, nodes, features)`, targets `(n, nodes, dim)`.

    `conditions`: what else `model.predict` is told of each sample, as in `fit`.
    The model is run in evaluation mode without gradients, on the device and in the precision of its weights.

    Raises `ValueError` if the shapes don't fit each other or a number in the data is not finite.
    """
    like = reference_tensor(model)
    data = as_data((inputs, targets, conditions or {}), "evaluation", like.device, like.dtype)
    tally = Tally(model, each=True)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(data.inputs), batch_size):
                x, target, known = data.take(slice(start, start + batch_size))
                prediction = predict(model, x, known)
                check_output(prediction.y, target)
                tally.add(prediction, target)
    finally:
        model.train(was_training)
    return tally.result()


def reference_tensor(model: nn.Module) -> Tensor:
    """The first floating-point parameter or buffer: where the model is, and in which precision."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.zeros(())


def as_data(parts: Any, name: str, device: torch.device, dtype: torch.dtype) -> Data:
    """(inputs, targets) or (inputs, targets, conditions) as tensors on `device`; raises `ValueError` naming what does
    not fit and where."""
    if not isinstance(parts, tuple | list) or len(parts) not in (2, 3):
        raise ValueError(f"{name} data: give a pair (inputs, targets), not {type(parts).__name__}")
    inputs, targets = (
        as_numbers(part, f"{name} {what}").to(device=device, dtype=dtype)
        for part, what in zip(parts, ("inputs", "targets"), strict=False)
    )
    several = (
        inputs.ndim == 3 and targets.ndim == 4 and (len(inputs), inputs.shape[1]) == (len(targets), targets.shape[2])
    )
    fits = several or (inputs.ndim >= 3 and targets.ndim >= 3 and inputs.shape[:-1] == targets.shape[:-1])
    if not fits or not len(inputs):
        raise ValueError(
            f"{name} data: expected inputs (n, nodes, features) and targets (n, nodes, dim), or (n, n_times, nodes, "
            f"dim), with n >= 1, got {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    conditions = {}
    further = parts[2] if len(parts) == 3 else {}
    if not isinstance(further, Mapping):
        raise ValueError(f"{name} data: the third part maps names to numbers of each sample, {{name: (n, ...)}}")
    for key, values in further.items():
        values = as_numbers(values, f"{name} {key}")
        conditions[key] = values.to(device=device, dtype=dtype if values.is_floating_point() else values.dtype)
        if not values.ndim or len(values) != len(inputs):
            raise ValueError(f"{name} data: {key} has shape {tuple(values.shape)}, expected ({len(inputs)}, ...)")
    for part, tensor in (("inputs", inputs), ("targets", targets), *conditions.items()):
        finite = tensor.isfinite().reshape(len(tensor), -1).all(1)
        if not finite.all():
            samples = (~finite).nonzero().flatten().tolist()
            raise ValueError(
                f"{name} {part}: {len(samples)} of {len(tensor)} samples hold a number that is not finite, "
                f"first sample {samples[0]}; remove or mend them"
            )
    return Data(inputs, targets, conditions)


def check_output(y: Tensor, target: Tensor) -> None:
    """Raise `ValueError` unless prediction and target have one shape (a broadcast would train on nonsense)."""
    if y.shape != target.shape:
        raise ValueError(f"the model gives {tuple(y.shape)}, the targets are {tuple(target.shape)}: expected the same")
