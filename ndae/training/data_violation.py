"""How far the data of a training is from the constraint that its predictions obey: measured, and warned of."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ndae.methods import Unconstrained
from ndae.training.evaluation import Data, reference_tensor

# Of many samples so many are measured, evenly spread over them.
SAMPLES = 2000
# What all samples share of their distance is small below this share of their movement, and is no chance above so many
# standard errors. Where distances are as large as that share of the spread, data has little to do with the constraint.
SHARED, SHARED_AFTER_LEARNING, STANDARD_ERRORS, OF_SPREAD = 0.01, 0.1, 5.0, 0.1


@dataclass(frozen=True)
class DataViolation:
    """Distances of samples to a constraint, to first order: `s = c / |∇c|` for every residual, in the data's unit.

    `shared`: root mean square over residuals of the mean of s over samples: what no prediction on the constraint can
    follow. Noise is not shared, a wrong length or unit is. `error`: the standard error of it. `typical`: root mean
    square of s; `largest`: of |s|, at sample `sample`, residual `residual`. `movement`: root mean square distance that
    a node goes from inputs to targets, and `spread` that of a node's positions from their mean over samples; these are
    what distances are compared with. `violation_max`: the largest |c|, in the constraint's unit.
    """

    shared: float
    error: float
    typical: float
    largest: float
    sample: int
    residual: int
    movement: float
    spread: float
    violation_max: float

    def is_small(self, shared: float = SHARED) -> bool:
        """Whether distances are small beside the data, or no more than noise; `shared`: the share of the movement that
        all samples may have in common."""
        scale = self.movement or self.spread
        is_shared = self.shared > shared * scale and self.shared > STANDARD_ERRORS * self.error
        return not is_shared and self.typical <= OF_SPREAD * max(self.spread, self.movement)


def data_violations(model: nn.Module, data: Data) -> dict[str, DataViolation]:
    """Of the "inputs" and the "targets", as far as a model tells: it has a `constraint`, and inputs begin with what is
    predicted where it has `dim` and `features`. A constraint is asked at the times of a NeuralMotion."""
    motion = getattr(model, "motion", model)
    constraint = getattr(motion, "constraint", None)
    if constraint is None:
        return {}
    chosen = torch.arange(len(data.inputs)) if len(data.inputs) <= SAMPLES else _evenly(len(data.inputs))
    data, dim = data.take(chosen.to(data.inputs.device)).to(reference_tensor(model).device), data.targets.shape[-1]
    targets = data.targets if data.targets.ndim > data.inputs.ndim else data.targets.unsqueeze(1)
    starts = data.inputs[..., :dim] if getattr(motion, "dim", None) == dim and hasattr(motion, "features") else None
    movement = 0.0 if starts is None else _size(targets[:, -1] - starts)
    spread = _size(targets[:, -1] - targets[:, -1].mean(0))
    found = {}
    for name, t, states in _parts(model, motion, constraint, starts, targets, data.conditions):
        of_samples = {k: v for k, v in data.conditions.items() if k in getattr(constraint, "_names", ())}
        measured = _measure(constraint, states, t, of_samples)
        if measured is not None:
            distance, residual = measured
            found[name] = _summary(distance, residual, chosen, movement, spread)
    return found


def warn_of_violations(model: nn.Module, found: dict[str, dict[str, DataViolation]], learned: bool = False) -> None:
    """Say once where data is not near the constraint, which sample is farthest, by how much, and what mends it;
    `learned`: after a training of the constraint's numbers, which then need not be right to the last digit."""
    constraint = getattr(getattr(model, "motion", model), "constraint", None)
    far = (
        (f"{data} {part}", v)
        for data, parts in found.items()
        for part, v in parts.items()
        if not v.is_small(SHARED_AFTER_LEARNING if learned else SHARED)
    )
    what, v = next(far, (None, None))  # one sentence is enough: the others have the same cause
    if v is None:
        return
    known = ", ".join(getattr(constraint, "_names", ()))
    numbers = "the constraint's numbers" + (f" ({known})" if known else "")
    mend = "train these further" if learned else "learn these (constraint.torch(learn=[...]))"
    scale = f"moves by {v.movement:.3g}" if v.movement else f"is spread over {v.spread:.3g}"
    warnings.warn(
        f"the {what} are off the constraint {getattr(constraint, 'name', '')!r} by {v.typical:.3g} ({v.shared:.3g} of "
        f"it alike in all samples), most at sample {v.sample}: {v.largest:.3g} at residual {v.residual}, where the "
        f"data {scale}, all in its own unit. Predictions are held on the constraint and cannot follow: check the unit "
        f"and {numbers}, {mend}, or, where the data is to obey the constraint and does not, move it there by "
        "ndae.project",
        stacklevel=3,
    )


def holds_predictions(model: nn.Module, with_learned: bool = False) -> bool:
    """Whether a model's predictions are held on its constraint; one whose numbers are learned, and so are wrong at the
    start of a training, does not count but `with_learned`."""
    motion = getattr(model, "motion", model)
    by_method = not isinstance(getattr(motion, "method", None), Unconstrained)
    constraint = getattr(motion, "constraint", None)
    is_learned = constraint is not None and any(p.requires_grad for p in constraint.parameters())
    return (by_method or getattr(motion, "multipliers", False)) and (with_learned or not is_learned)


def as_plain(found: dict[str, dict[str, DataViolation]]) -> dict[str, Any]:
    """What was found, for a checkpoint."""
    return {data: {part: asdict(v) for part, v in parts.items()} for data, parts in found.items()}


def _evenly(n: int) -> Tensor:
    return torch.linspace(0, n - 1, SAMPLES, dtype=torch.float64).round().long()


def _size(x: Tensor) -> float:
    """Root mean square length of a node's vector."""
    return float(x.double().square().sum(-1).mean().sqrt())


def _parts(model, motion, constraint, starts, targets, conditions) -> Iterator[tuple[str, Any, Tensor]]:
    """Name, time and states (n, n_states) or (n, n_times, n_states) of what is measured."""
    t0 = t1 = None
    if getattr(constraint, "needs_time", False):
        if not hasattr(motion, "duration"):
            return
        like = targets[:, 0, 0, 0]
        t0 = model.begins[conditions["window"]] if "window" in conditions else conditions.get("t0", 0 * like)
        steps = torch.linspace(0, 1, motion.n_times + 1).to(like)[-targets.shape[1] :]
        t1 = t0[:, None] + conditions.get("duration", motion.duration + 0 * like)[:, None] * steps
    if starts is not None:
        yield "inputs", t0, starts.flatten(-2)
    yield "targets", t1, targets.flatten(-2)


def _measure(constraint: Any, y: Tensor, t: Any, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """`c / |∇c|` and c, (n, ..., n_residuals); None of a constraint without a Jacobian, or that is not asked so."""
    with torch.no_grad():
        if hasattr(constraint, "local_jacobian"):
            spread = {name: v.reshape(len(y), *[1] * (y.ndim - 2)) for name, v in parameters.items()}
            given = () if t is None and not spread else (t, spread) if spread else (t,)
            c, local = (f(y, *given) for f in (constraint.residual, constraint.local_jacobian))
            slope = torch.linalg.vector_norm(local, dim=-1).flatten(-2)
        else:
            try:
                c = constraint.residual(y)
                flat = y.reshape(-1, y.shape[-1])
                rows = torch.func.vmap(torch.func.jacrev(constraint.residual))(flat)
                slope = torch.linalg.vector_norm(rows, dim=-1).reshape(c.shape)
            except Exception:  # a module of the user's, of which only the residual of predictions is promised
                return None
    return (c / slope).double(), c


def _summary(s: Tensor, c: Tensor, chosen: Tensor, movement: float, spread: float) -> DataViolation:
    c = c.reshape(-1, c.shape[-1])
    per_sample = len(c) // len(s)
    s = s.reshape(-1, s.shape[-1])
    sound = s.isfinite()  # where a gradient vanishes there is no distance to first order
    s = torch.where(sound, s, 0.0)
    mean = s.mean(0)
    error = s.std(0) / len(s) ** 0.5 if len(s) > 1 else 0 * mean
    worst = int(s.abs().argmax())
    row, residual = divmod(worst, s.shape[-1])
    return DataViolation(
        shared=float(_rms(mean)),
        error=float(_rms(error)),
        typical=float(_rms(s)),
        largest=float(s.abs().max()),
        sample=int(chosen[row // per_sample]),
        residual=residual,
        movement=movement,
        spread=spread,
        violation_max=float(c.abs().max()),
    )


def _rms(x: Float[Tensor, "..."]) -> Tensor:
    return x.square().mean().sqrt()
