"""Inputs of many recordings at once: a table of its own for each sample of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndae.symbolic.expressions.tables import Table


class TablesOfSamples:
    """u_b(t_b) for each sample b: piecewise polynomials, called with times (..., batch), and so differentiated.

    Outside of its table a sample is NaN, or holds the end value where the table does.
    """

    def __init__(self, tables: Sequence[Table]):
        width, degree = max(len(t.rows) for t in tables), max(t.degree for t in tables)

        def padded(x: np.ndarray, n: int) -> np.ndarray:
            return np.concatenate([x, np.repeat(x[-1:], n - len(x), axis=0)])

        rows = [np.pad(t.rows, [(0, 0), (degree - t.degree, 0)]) for t in tables]
        begins = [np.pad(t.breaks[: len(t.rows)], (0, width - len(t.rows)), constant_values=np.inf) for t in tables]
        self.rows = torch.as_tensor(np.stack([padded(r, width) for r in rows]))
        self.begins = torch.as_tensor(np.stack(begins))
        self.ends = torch.tensor([[t.first, t.last] for t in tables], dtype=torch.float64)
        self.reach = torch.tensor([t.reach for t in tables], dtype=torch.float64)
        self.held = torch.tensor([t.held for t in tables])

    def take(self, which: Tensor) -> "TablesOfSamples":
        """Those of some of the samples, by their numbers."""
        taken = object.__new__(TablesOfSamples)
        for name, values in vars(self).items():
            setattr(taken, name, values[which])
        return taken

    def __call__(self, x: Tensor) -> Tensor:
        n = len(self.begins)
        x = torch.as_tensor(x, dtype=torch.float64)
        x = x.expand(*x.shape[:-1], n) if x.ndim else x.expand(n)
        low, high = self.ends.unbind(-1)
        inner = torch.where(self.held, torch.minimum(torch.maximum(x, low), high), x)
        flat = inner.detach().reshape(-1, n).mT.contiguous()
        i = (torch.searchsorted(self.begins, flat, right=True) - 1).clamp_min(0).mT.reshape(x.shape)
        sample = torch.arange(n).expand(x.shape)
        row, s = self.rows[sample, i], inner - self.begins[sample, i]
        value = row[..., 0]
        for k in range(1, row.shape[-1]):
            value = value * s + row[..., k]
        known = self.held | ((x >= self.reach[:, 0]) & (x <= self.reach[:, 1]))
        return torch.where(known, value, torch.nan)


def tables_of(values: Sequence[Any] | TablesOfSamples, name: str) -> TablesOfSamples:
    """The tables of one input of several recordings."""
    if isinstance(values, TablesOfSamples):
        return values
    for value in values:
        if not isinstance(value, Table):
            raise ValueError(f"input {name!r} is {value!r}: give ndae.table(times, values)")
    return TablesOfSamples(values)
