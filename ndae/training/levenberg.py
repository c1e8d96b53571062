"""Levenberg's iteration for `fit` on recordings: weights, parameters and starts of few systems with few weights."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ndae.methods import Auxiliary
from ndae.models.neural_system import NeuralSystem
from ndae.models.pieces import lost_misses, missed
from ndae.training.recordings import HUNDREDTH, RecordingFit

# Weights are moved by so much for a difference quotient, starts by so much of their units, both of size one.
_STEP = 1e-5
# Damping at first, its factor where a step made things worse or better, and how often a step is tried.
_DAMPING, _FACTOR, _TRIALS = 1e-3, 10.0, 8
# Steps of starts are held back by this share of the median curvature in them.
_NEAR = 1e-4
# Steps end where the sum of squares falls by less than this share.
_SETTLED = 1e-5
# Above so many weights derivatives one by one cost more than they bring.
MOST_WEIGHTS = 200
# So many windows are predicted at once, at most, if one set of weights has not more.
_BATCH = 3000


@dataclass(frozen=True)
class Levenberg:
    """An optimiser for `fit(optimizer=)` on recordings: Levenberg's and Marquardt's damped Gauss-Newton iteration.

    It takes what is missed for what it is, a sum of squares Σ r(w, s)², and steps in weights w and starts s at once:
    (JᵀJ + λ diag JᵀJ) δ = −Jᵀr with derivatives J by difference quotients, one for each weight, many in one batch. So
    it ends where L-BFGS would in hundreds of iterations, as starts and weights nearly make up for one another. All
    windows are one batch. (Nocedal, Wright: Numerical Optimization, 10.3)

    - `iterations`: at most, in each epoch.
    - `evidence`: with a prior on the weights of networks, α|w|² added to the sum of squares, whose α is where the
      evidence of the data is largest: α = γ/|w|² with γ = n − α tr (JᵀJ + α)⁻¹, the number of weights that the data
      determine. It takes `sigma` for what it says. (MacKay 1992; Foresee and Hagan 1997)
    """

    iterations: int = 3
    evidence: bool = False

    def of(self, whole: RecordingFit) -> "Callable[[Iterable], _Levenberg]":
        """The maker of the optimiser of one training. Raises ValueError for a method with a loss of its own."""
        if not is_sum_of_squares(whole.model):
            raise ValueError("Levenberg minimises what is missed alone: give lbfgs() for a model with Auxiliary")
        return lambda parameters: _Levenberg(parameters, whole, self)

    def __call__(self, parameters: Iterable) -> torch.optim.Optimizer:
        """Not for use: `fit` asks for the one of its recordings."""
        raise ValueError("Levenberg needs what each window misses, so recordings of a NeuralSystem: give lbfgs() here")


def is_sum_of_squares(model: NeuralSystem) -> bool:
    """Whether what is missed, with gaps between windows, is all of a model's loss."""
    return not any(isinstance(part, Auxiliary) for part in getattr(model.method, "parts", ()))


class _Levenberg(torch.optim.Optimizer):
    def __init__(self, parameters: Iterable, whole: RecordingFit, settings: Levenberg):
        numbers = {"iterations": settings.iterations, "evidence": settings.evidence}
        super().__init__(parameters, {"lr": 1.0, "damping": _DAMPING, "alpha": 0.0, **numbers})
        self._whole = [whole]  # hidden from what walks through attributes
        self._weights = [p for g in self.param_groups for p in g["params"] if p is not whole.moved and p.requires_grad]
        of_networks = {id(p) for p in whole.model.networks.parameters()}
        self._drawn = torch.cat([torch.full((p.numel(),), float(id(p) in of_networks)) for p in self._weights]).double()

    def step(self, closure: Any = None) -> Any:
        """Some iterations; the loss is that before them."""
        with torch.enable_grad():
            loss = closure()
        group = self.param_groups[0]
        with torch.no_grad():
            cost, rest = self._cost(group)
            for _ in range(group["iterations"]):
                matrix, gradient = self._normal(rest)
                if group["evidence"]:
                    group["alpha"] = self._evidence(matrix, group["alpha"])
                    cost = self._cost(group, rest)[0]
                drawn = torch.zeros(len(matrix)).double()
                drawn[: len(self._drawn)] = group["alpha"] * self._drawn
                gradient[: len(self._drawn)] += drawn[: len(self._drawn)] * self._flat()
                before, found = cost, self._descend(matrix + torch.diag(drawn), gradient, cost, group)
                if found is None:
                    break
                cost, rest = found
                if before - cost < _SETTLED * cost:
                    break
        return loss

    def covariance(self) -> Tensor:
        """Of weights and parameters as they are, starts being estimated with them, where misses are in standard
        deviations: the inverse of JᵀJ + α (Nocedal, Wright, 10.1)."""
        with torch.no_grad():
            matrix = self._normal(self._rest())[0]
            block = self._of_weights(matrix) + self.param_groups[0]["alpha"] * torch.diag(self._drawn)
            return torch.linalg.pinv(block, hermitian=True)

    def _of_weights(self, matrix: Tensor) -> Tensor:
        """The block of weights with starts eliminated."""
        n = len(self._drawn)
        others = torch.linalg.pinv(matrix[n:, n:], hermitian=True) if len(matrix) > n else matrix[n:, n:]
        return matrix[:n, :n] - matrix[:n, n:] @ others @ matrix[n:, :n]

    def _descend(self, matrix: Tensor, gradient: Tensor, cost: float, group: dict[str, Any]) -> Any:
        """Take the step that makes the cost smaller: the cost then, and what it is of; None where none does."""
        diagonal, n_w = matrix.diagonal(), len(self._drawn)
        size = diagonal.clamp_min(1e-10 * float(diagonal.max()))
        near = torch.zeros_like(size)
        if len(size) > n_w:  # starts stay where nothing is known of them, as off constraints
            near[n_w:] = _NEAR * float(diagonal[n_w:].median())
        kept = [p.clone() for p in self._moving()]
        for _ in range(_TRIALS):
            change, info = torch.linalg.solve_ex(matrix + torch.diag(group["damping"] * size + near), -gradient)
            if not int(info) and bool(change.isfinite().all()):
                self._add(change)
                found = self._cost(group)
                if found[0] < cost:
                    group["damping"] = max(group["damping"] / _FACTOR, 1e-12)
                    return found
            for p, old in zip(self._moving(), kept, strict=True):
                p.copy_(old)
            group["damping"] = min(group["damping"] * _FACTOR, 1e6)
        return None

    def _evidence(self, matrix: Tensor, alpha: float) -> float:
        """The prior's next strength."""
        w, block = self._flat() * self._drawn, self._of_weights(matrix)
        values = torch.linalg.eigvalsh(block[self._drawn > 0][:, self._drawn > 0]).clamp_min(0.0)
        alpha = alpha or 1e-2
        determined = float((values / (values + alpha)).sum())
        return determined / max(float(w.square().sum()), 1e-12)

    # -- weights and starts as one vector ----------------------------------------------------------------------------

    def _moving(self) -> list[Tensor]:
        moved = self._whole[0].moved
        return [*self._weights, moved] if moved.requires_grad else [*self._weights]

    def _flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self._weights])

    def _add(self, change: Tensor) -> None:
        for p, part in zip(self._moving(), change.split([p.numel() for p in self._moving()]), strict=True):
            p.add_(part.view_as(p))

    # -- what is missed ----------------------------------------------------------------------------------------------

    def _cost(self, group: dict[str, Any], rest: Any = None) -> tuple[float, Tensor]:
        rest = self._rest() if rest is None else rest
        total = float(rest.square().sum() + group["alpha"] * (self._drawn * self._flat().square()).sum())
        return (total if total == total else float("inf")), rest

    def _rest(
        self, copies: int = 1, moved: Tensor | None = None, parameters: dict[str, Tensor] | None = None
    ) -> Tensor:
        """What windows miss and the gaps after them, (copies * windows, n), of starts moved from the present ones; the
        start after a gap is not moved."""
        whole, which = self._whole[0], torch.arange(len(self._whole[0].train_pieces))
        starts = whole.starts(which)
        start = starts.repeat(copies, 1) if moved is None else (starts + moved).flatten(0, 1)
        misses, path = missed(whole.model, whole.train_pieces, which.repeat(copies), start, parameters)
        good = misses.flatten(1).isfinite().all(1) & path.y.flatten(1).isfinite().all(1)
        units = self._gap_units().repeat(copies, 1) * good[:, None]
        misses = torch.where(good[:, None], misses.flatten(1), lost_misses(whole.train_pieces))
        gaps = torch.where(units > 0, (path.y[:, -1] - starts.roll(-1, 0).repeat(copies, 1)) * units, 0.0)
        return torch.cat([misses, gaps], 1)

    def _by_weights(self, rest: Tensor) -> Tensor:
        """∂r/∂w, (windows, n, weights)."""
        model, n, n_w = self._whole[0].model, len(rest), len(self._drawn)
        together, columns, begin = max(1, _BATCH // n), [], 0
        while begin < n_w:
            shifts = _STEP * torch.eye(n_w).double()[begin : begin + together]
            try:
                columns.append(self._moved(model, shifts, n))
            except RuntimeError:
                if together == 1:
                    raise
                together = 1  # a module that torch.vmap does not take
                continue
            begin += together
        return ((torch.cat(columns) - rest) / _STEP).movedim(0, -1)

    def _moved(self, model: Any, shifts: Tensor, n: int) -> Tensor:
        """What is missed with weights moved by rows of `shifts` (copies, weights), (copies, windows, n)."""
        sizes = [p.numel() for p in self._weights]
        moved = {
            id(p): p + part.view(-1, *p.shape) for p, part in zip(self._weights, shifts.split(sizes, 1), strict=True)
        }
        learned = {k: moved[id(p)].repeat_interleave(n) * model.units[k] for k, p in model.learned.items()}
        with _copies(model.networks, moved, n):
            return self._rest(len(shifts), None, learned).view(len(shifts), n, -1)

    def _gap_units(self) -> Tensor:
        whole = self._whole[0]
        return whole.train_pieces.goes_on[:, None] * whole.weight**0.5 / (HUNDREDTH * whole.unit)

    def _normal(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        """JᵀJ and Jᵀr over weights, then starts of all windows."""
        whole = self._whole[0]
        n_w, (n, n_s) = len(self._drawn), whole.moved.shape
        columns = [self._by_weights(rest)]
        places = torch.arange(n_w).expand(n, -1)
        if whole.moved.requires_grad:
            shifts = torch.diag(_STEP * whole.unit)[:, None] * whole.train_pieces.free
            ends = self._rest(n_s, shifts).view(n_s, n, -1)
            columns.append(((ends - rest) / _STEP).movedim(0, -1))
            following = torch.zeros(n, rest.shape[1], n_s).double()
            gaps = -self._gap_units() * whole.unit * whole.train_pieces.free.roll(-1, 0)
            following[:, -n_s:] = torch.diag_embed(gaps)
            own = n_w + torch.arange(n * n_s).view(n, n_s)
            places = torch.cat([places, own, own.roll(-1, 0)], 1)
            columns.append(following)
        slopes = torch.cat(columns, -1)
        # A window that is lost for the quotient alone says nothing.
        slopes = torch.where(slopes.abs() * _STEP < lost_misses(whole.train_pieces) / 2, slopes, 0.0)
        size = n_w + whole.moved.numel() * whole.moved.requires_grad
        matrix, gradient = torch.zeros(size, size).double(), torch.zeros(size).double()
        matrix.index_put_((places[:, :, None], places[:, None, :]), slopes.mT @ slopes, accumulate=True)
        gradient.index_put_((places,), (slopes.mT @ rest[..., None])[..., 0], accumulate=True)
        return matrix, gradient


@contextmanager
def _copies(networks: nn.ModuleDict, weights: dict[int, Tensor], n: int) -> Iterator[None]:
    """Within, each network computes for a batch of copies of n samples, of each by its own weights, (copies, ...); they
    are given by `id` of the parameters that they stand for. The batch is the last axis of points."""
    changed = []
    for module in networks.values():
        mine = {name: weights[id(p)] for name, p in module.named_parameters() if id(p) in weights}
        if mine:
            changed.append((module, module.__dict__.get("forward")))
            module.forward = _stacked(deepcopy(module), mine, n)
    try:
        yield
    finally:
        for module, before in changed:
            del module.forward
            if before is not None:
                module.forward = before


def _stacked(module: nn.Module, weights: dict[str, Tensor], n: int) -> Callable[[Tensor], Tensor]:
    def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(module, weights, (x,))

    def forward(x: Tensor) -> Tensor:
        k = len(next(iter(weights.values())))
        by_copy = x.view(-1, k, n, x.shape[-1]).movedim(1, 0).flatten(1, 2)
        found = torch.vmap(one)(weights, by_copy)
        return found.view(k, -1, n, found.shape[-1]).movedim(0, 1).reshape(len(x), -1)

    return forward
