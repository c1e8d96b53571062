"""Batches of a training: of tensors that stay on the device, or as a DataLoader of the user's gives them."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from ndae.training.evaluation import Data, as_data
from ndae.training.history import epoch_seed

#: The pass through a loader that is made before the first epoch, to look at the data.
_LOOKING = 2**31


class Batches:
    """Batches of tensors that stay on the device, in an order that depends on the seed and the epoch alone."""

    def __init__(self, data: Data, batch_size: int, seed: int):
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.epoch = 0
        self.sampler = self  # Lightning tells the sampler of its loader which epoch begins

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch (counted from 0)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.data.inputs) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Data]]:
        # A generator: the order is drawn when the first batch is asked for, after the epoch is known.
        generator = torch.Generator().manual_seed(epoch_seed(self.seed, self.epoch, 0))
        order = torch.randperm(len(self.data.inputs), generator=generator)
        for chosen in order.split(self.batch_size):
            yield chosen, self.data.take(chosen.to(self.data.inputs.device))


class LoadedBatches:
    """Batches as a DataLoader gives them, drawn from torch's random numbers, which depend on the seed and the epoch.

    Its order, sampler, collation and workers are the loader's own. Numbers of samples are those in which it gives them.
    """

    def __init__(self, loader: DataLoader, seed: int, name: str, device: torch.device, dtype: torch.dtype):
        self.loader, self.seed, self.name, self.device, self.dtype = loader, seed, name, device, dtype
        self.epoch = 0
        self.sizes: list[int] = []
        self.sampler = self
        try:
            len(loader)
        except TypeError as error:
            raise ValueError(f"{name} data: the DataLoader has no length: give its dataset one, __len__") from error

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of this epoch (counted from 0)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Data]]:
        drawn = epoch_seed(self.seed, self.epoch, 0)
        torch.manual_seed(drawn)  # of the loader's order, of its workers, and of what its dataset draws
        for owner in (self.loader, self.loader.sampler, getattr(self.loader.batch_sampler, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if generator is not None:
                generator.manual_seed(drawn)
        count = 0
        for batch in self.loader:
            data = as_data(batch, self.name, self.device, self.dtype)
            yield torch.arange(count, count + len(data.inputs)), data
            count += len(data.inputs)

    def looked_at(self) -> Data:
        """One pass through the loader, as one: what it gives, to check and to know again; `sizes` of its batches."""
        self.epoch, kept = _LOOKING, self.epoch
        with torch.random.fork_rng(devices=[]):
            parts = [data for _, data in self]
        self.epoch, self.sizes = kept, [len(part.inputs) for part in parts]
        if not parts:
            raise ValueError(f"{self.name} data: the DataLoader gives no batch")
        names = parts[0].conditions
        try:
            return Data(
                torch.cat([part.inputs for part in parts]),
                torch.cat([part.targets for part in parts]),
                {key: torch.cat([part.conditions[key] for part in parts]) for key in names},
            )
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{self.name} data: the DataLoader's batches are not of one shape: {error}") from error


def recordings_of(given: Any, name: str) -> tuple[Any, int | None]:
    """Recordings, and the batch size, of what `fit` was given: one, a list, or a DataLoader of them.

    All windows of the recordings are shuffled together, so that an order of the loader's own can't be kept: that is a
    ValueError.
    """
    if hasattr(given, "times"):
        return [given], None
    if not isinstance(given, DataLoader):
        return given, None
    if not isinstance(given.sampler, RandomSampler | SequentialSampler) or given.batch_size is None or given.drop_last:
        raise ValueError(
            f"{name} recordings: windows of all recordings are shuffled together, so that a DataLoader's own sampler, "
            "batch_sampler or drop_last can't be followed: give the list of recordings"
        )
    dataset: Any = given.dataset
    return [dataset[i] for i in range(len(dataset))], given.batch_size
