"""What is trained and what takes part in a model's output: compared once, before a training starts."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ndae.symbolic.ground.arguments import KEPT
from ndae.training.evaluation import Data, predict
from ndae.training.losses import Loss, loss_of
from ndae.users_code.captured import tensors_and_modules

# So many samples show what takes part; a batch would show no more, and cost more.
SAMPLES = 8


def check_taking_part(model: nn.Module, data: Data, loss: Loss | None = None) -> None:
    """Compare the parameters of a model with the tensors that its loss has derivatives by.

    The loss of a few samples is computed twice, by direct differentiation also where a model has `adjoint=True` (an
    adjoint equation knows of the parameters it is told, and no others), and both graphs are walked to their leaves:
    what is in both is a tensor of the model's, what is not was made on the way. Weights, buffers and gradients stay;
    the model is in evaluation mode meanwhile, in which forward passes leave nothing behind.

    Raises ValueError for a leaf that is no parameter of the model, by name: it would stay as it is, whatever the
    training does; and where the loss depends on no parameter. Warns once of parameters that no derivative goes to.
    """
    data = data.take(slice(0, SAMPLES))
    with _as_it_was(model):
        try:
            losses = [_loss(model, data, loss) for _ in range(2)]
        except Exception:
            return  # the first step of the training fails alike, and says where
    first, second = (_leaves(loss) for loss in losses)
    found = {key: leaf for key, leaf in first.items() if key in second}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    strange = [leaf for key, leaf in found.items() if key not in names]
    if strange:
        where = f"{_name_of(strange[0], model)}, of shape {tuple(strange[0].shape)}"
        more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
        raise ValueError(
            f"{where}{more}, wants a gradient and takes part in the loss, but is no parameter of the model, so that it "
            "would not be trained: make it an nn.Parameter, or the module it is of an attribute, of the module that "
            "uses it; or call .requires_grad_(False) on it where it is known"
        )
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wanted and not found:
        raise ValueError(
            "the loss depends on no parameter of the model: something on the way cuts derivatives off (detach(), "
            ".data, no_grad(), NumPy), or the parameters belong to a part that is not used"
        )
    idle = [name for name, parameter in wanted.items() if id(parameter) not in found]
    if idle:
        warnings.warn(
            f"{len(idle)} of {len(wanted)} parameters take no part in the loss of the first {len(data.inputs)} "
            "training samples, so that they stay as they are: "
            f"{', '.join(map(repr, idle[:5]))}{', ...' if idle[5:] else ''}",
            stacklevel=4,
        )


def _loss(model: nn.Module, data: Data, loss: Loss | None) -> Tensor:
    with torch.enable_grad():
        return loss_of(model, loss, predict(model, data.inputs, data.conditions), data.targets)


def _leaves(loss: Tensor) -> dict[int, Tensor]:
    """The leaves of the graph of a loss that want a gradient, by identity."""
    if loss.grad_fn is None:
        return {id(loss): loss} if loss.requires_grad else {}
    leaves, seen, left = {}, set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of the nodes where gradients are accumulated
        if isinstance(variable, Tensor):
            leaves[id(variable)] = variable
        left += [following for following, _ in node.next_functions if following is not None]
    return leaves


def _name_of(tensor: Tensor, model: nn.Module) -> str:
    """Where a model, or a function that it calls, holds a tensor; "a tensor" where that is not found."""
    for prefix, module in model.named_modules():
        own = f"{prefix or type(model).__name__}"
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules", KEPT):
                continue
            for path, held in tensors_and_modules(value):
                if held is tensor:
                    return f"{own}.{name} ({path})"
                if isinstance(held, nn.Module):
                    for inner, parameter in held.named_parameters():
                        if parameter is tensor:
                            return f"{own}.{name} ({path}.{inner})"
    return "a tensor that the model uses"


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no adjoint equations; modes, buffers and random numbers are put back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    buffers: dict[str, Tensor] = {name: buffer.clone() for name, buffer in model.named_buffers()}
    by_adjoint: list[Any] = [module for module in model.modules() if getattr(module, "adjoint", None) is True]
    for module in by_adjoint:
        module.adjoint = False
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module in by_adjoint:
            module.adjoint = True
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
