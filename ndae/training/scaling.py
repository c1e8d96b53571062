"""Features of unlike size, measured in units that are taken from the data."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ndae.data.change import size_of
from ndae.models.neural_dae import NeuralDAE
from ndae.progress import say
from ndae.training.evaluation import Data

#: From which ratio on features are unlike, of their sizes, or of where they are to how much they change.
UNLIKE = 30.0


def scale_by_data(model: nn.Module, data: Data) -> None:
    """Have a NeuralDAE measure its features in the sizes of their changes, where quantities that come out are unlike.

    What else goes in may have any size: velocities beside positions are in another unit. A size is half the range that
    the middle 90 % of a feature's values span, over all samples and nodes; the centre is their mean. A model that has
    sizes keeps them.
    """
    if not isinstance(model, NeuralDAE) or model.scaled:
        return
    columns: Any = data.inputs.detach().double().cpu().reshape(-1, data.inputs.shape[-1]).numpy()
    sizes = np.array([size_of(column) for column in columns.T])
    centers = columns.mean(axis=0)
    # A quantity that stays as it is has no change to be measured by.
    moving = np.ptp(columns, axis=0)[: model.dim] > 0
    of_quantities, middle = sizes[: model.dim][moving], centers[: model.dim][moving]
    if not moving.any() or (
        of_quantities.max() <= UNLIKE * of_quantities.min() and (np.abs(middle) <= UNLIKE * of_quantities).all()
    ):
        return
    model.scale_by(torch.as_tensor(sizes), torch.as_tensor(centers))
    listing = ", ".join(f"{size:.3g}" for size in sizes)
    say(f"features are measured in sizes from the data, {listing}, and errors counted in these")
