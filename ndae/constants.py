"""Constant matrices of a module, kept in full."""

import torch
from torch import Tensor, nn


class WithConstants(nn.Module):
    """A module whose constants are those given in float64, in whatever precision it comes to be.

    A buffer would stay rounded to float32 after `.double()`: enough for a symmetry to hold to 1e-8 only.
    """

    def __init__(self):
        super().__init__()
        self._in_full: dict[str, Tensor] = {}

    def keep(self, name: str, values: Tensor) -> None:
        """Have `values` as the attribute `name`, in the module's precision and on its device."""
        self._in_full[name] = values.double()
        self.register_buffer(name, values.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn, *args, **options):
        super()._apply(fn, *args, **options)
        for name, values in self._in_full.items():
            buffer = getattr(self, name)
            if buffer.device.type != "meta":
                self.register_buffer(name, values.to(buffer), persistent=False)
        return self
