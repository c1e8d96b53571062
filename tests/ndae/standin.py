"""A tiny model with the contract that training asks for, and processes that are killed while they train it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

NODES = 3


class UnitCircle(nn.Module):
    """`|r_i| − 1` for every body."""

    def residual(self, y: Tensor) -> Tensor:
        return torch.linalg.vector_norm(y.unflatten(-1, (NODES, 2)), dim=-1) - 1


@dataclass(frozen=True)
class Prediction:
    y: Tensor
    regularisation: Tensor


class Standin(nn.Module):
    """A small network with dropout, so that random numbers are part of its training."""

    def __init__(self, eta: float = 0.1, dropout: float = 0.1):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(NODES * 4, 16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, NODES * 2))
        self.constraint, self.eta = UnitCircle(), eta

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x).y

    def predict(self, x: Tensor) -> Prediction:
        y = x[..., :2] + self.net(x.flatten(-2)).unflatten(-1, (NODES, 2))
        return Prediction(y, self.eta / 2 * self.constraint.residual(y.flatten(-2)).square().sum(-1).mean())


def standin(seed: int = 0, **options) -> Standin:
    """A stand-in with weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Standin(**options)


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bodies on the unit circle that move along it; float64, as a data set would be."""
    generator = torch.Generator().manual_seed(seed)
    angle = 6.3 * torch.rand(n, NODES, generator=generator, dtype=torch.float64)
    speed = torch.randn(n, NODES, generator=generator, dtype=torch.float64)
    position = torch.stack([angle.cos(), angle.sin()], -1)
    velocity = speed[..., None] * torch.stack([-angle.sin(), angle.cos()], -1)
    later = angle + 0.3 * speed
    return torch.cat([position, velocity], -1), torch.stack([later.cos(), later.sin()], -1)


def train_into(out: str, kill: tuple | None = None, **options) -> None:
    """Train the stand-in in `out`; die by SIGKILL at a moment.

    `("step", n)`: after the n-th step of this process. `("before", name, n)`: while the n-th file of that name is being
    written, half of it. `("after", name, n)`: right after it was put in its place.
    """
    from ndae.training.fit import fit

    torch.set_num_threads(1)
    if kill and kill[0] != "step":
        _die_at_replace(*kill)
    steps = iter(range(1, 10**6))

    def report(fraction: float, what: str) -> None:
        if kill == ("step", next(steps)):
            die()

    settings = {"epochs": 4, "batch_size": 10, "seed": 5, "schedule": "cosine"} | options
    fit(standin(), data(47, 0), data(20, 1), out=out, progress=report, **settings)


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_replace(when: str, name: str, count: int) -> None:
    replace, seen = os.replace, iter(range(1, 10**6))

    def replacing(source, target):
        now = Path(target).name == name and next(seen) == count
        if now and when == "before":
            os.truncate(source, os.path.getsize(source) // 2)
            die()
        replace(source, target)
        if now:
            die()

    os.replace = replacing
