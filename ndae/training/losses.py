"""The loss of a batch of predictions: the mean of half the squared distance, or one of the user's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def half_squares(y: Tensor, target: Tensor) -> Tensor:
    """½|y − target|² of each sample (batch,), all its numbers added up (eq. 4)."""
    return (y - target).square().flatten(1).sum(1) / 2


def in_units(model: Any, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets in the sizes of their quantities, of a model that measures them so."""
    unit = getattr(model, "output_sizes", None)
    return (y, target) if unit is None else (y / unit, target / unit)


def loss_of(model: Any, loss: Loss | None, prediction: Any, target: Tensor) -> Tensor:
    """The loss that a batch has: the mean over its samples and the prediction's regularisation.

    Raises ValueError for a loss that is neither a number nor one number a sample.
    """
    each = (loss or half_squares)(*in_units(model, prediction.y, target))
    if not isinstance(each, Tensor) or not (each.ndim == 0 or each.shape == target.shape[:1]):
        found = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
        raise ValueError(
            f"loss(y, target) gave {found}: expected a tensor, the mean over the batch or one number a sample, "
            f"{tuple(target.shape[:1])}"
        )
    return each.mean() + prediction.regularisation


def checked_loss(loss: Any) -> Any:
    """The loss given to `fit`; raises ValueError where it can't be called, or would have to be trained itself."""
    if loss is None:
        return None
    if not callable(loss):
        raise ValueError(f"loss={loss!r}: give a function loss(y, target), such as torch.nn.HuberLoss()")
    trained = isinstance(loss, torch.nn.Module) and any(p.requires_grad for p in loss.parameters())
    if trained:
        raise ValueError(
            "loss has parameters that want a gradient, and is no part of the model: make it one, or fix them"
        )
    return loss
