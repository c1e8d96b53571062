"""L-BFGS for `fit`: for smooth problems with data free of noise, where Adam leaves digits behind."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


def lbfgs(scale: float = 1e8, **options: Any) -> Callable[[Iterable], torch.optim.Optimizer]:
    """A maker of L-BFGS optimisers that descend `scale` times the loss, for `fit(optimizer=lbfgs())`.

    Twenty iterations a step with a strong Wolfe line search (Nocedal, Wright: Numerical Optimization, 2nd ed.,
    algorithm 7.5 and section 3.5); `options` go to torch.optim.LBFGS. Give all samples in one batch (`batch_size` of
    their number), since its line search wants one function, and weights in float64.

    torch's L-BFGS leaves out steps whose curvature is below 1e-10 in absolute terms, which a loss of 1e-10 m² is all
    of; a scale moves that bound and changes nothing else.
    """
    settings = {"lr": 1.0, "max_iter": 20, "history_size": 100, "line_search_fn": "strong_wolfe"}
    settings |= {"tolerance_grad": 0.0, "tolerance_change": 0.0} | options
    return lambda parameters: _ScaledLBFGS(parameters, scale, settings)


class _ScaledLBFGS(torch.optim.LBFGS):
    def __init__(self, parameters: Iterable, scale: float, settings: dict[str, Any]):
        if not scale > 0:
            raise ValueError(f"scale is what the loss is multiplied by, positive, not {scale!r}")
        super().__init__(parameters, **settings)
        self._scale = scale

    def step(self, closure):
        def scaled():
            loss = closure()
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(self._scale)
            return loss * self._scale

        return super().step(scaled)
