"""Whole fields learned by networks and kept on what each trajectory conserves: the protocol of White et al. (2023).

A. White, N. Kilbertus, M. Gelbrecht, N. Boers: Stabilized neural differential equations (NeurIPS 2023); systems,
numbers and starts are those of their published experiments: 30 + 10 trajectories, points 0.1 apart, windows of three
of them, without noise.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sympy as sp
import torch
from scipy.integrate import solve_ivp

import ndae
from ndae import dot
from ndae.experiments.studies.missing.missing import t
from ndae.training.optimizers import lbfgs

_TRAIN, _CHECK, _TEST = 30, 10, 20


@dataclass(frozen=True)
class Conserved:
    """A system x' of which `invariant` is known and the unknown function F is not.

    - `truth`: x'(x, s), of arrays with states on the first axis; `draw`: a start, of a random generator.
    - `duration`: of training trajectories; `window`: the seconds (from, to) whose relative error counts.
    - `segment`: seconds after which the switch s, a parameter, changes between 0 and 1; None without one.
    """

    system: Any
    truth: Callable
    draw: Callable
    duration: float
    window: tuple[float, float]
    inputs: int
    outputs: int
    step: float = 0.05
    segment: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def two_body() -> Conserved:
    """Two bodies, by their angular momentum; 90 to 100 s."""
    q1, q2, p1, p2 = x = sp.symbols("q1 q2 p1 p2")
    force = ndae.unknown("F", outputs=2)(*x)
    system = ndae.System(
        [dot(q1) - p1, dot(q2) - p2, dot(p1) - force[0], dot(p2) - force[1]], x, time=t, name="two bodies",
        invariants={"invariant": q1 * p2 - q2 * p1},
    )  # fmt: skip

    def truth(x: np.ndarray, s: int) -> Any:
        pull = (x[0] ** 2 + x[1] ** 2) ** -1.5
        return [x[2], x[3], -x[0] * pull, -x[1] * pull]

    def draw(random: Any) -> list[float]:
        e = random.uniform(0.5, 0.7)
        return [1 - e, 0.0, 0.0, np.sqrt((1 + e) / (1 - e))]

    return Conserved(system, truth, draw, 6.2, (90, 100), 4, 2)


def rigid_body() -> Conserved:
    """A rigid body, by its Casimir function; 90 to 110 s."""
    x = sp.symbols("y1 y2 y3")
    rates = ndae.unknown("F", outputs=3)(*x)
    system = ndae.System(
        [dot(a) - b for a, b in zip(x, rates, strict=True)], x, time=t, name="rigid body",
        invariants={"invariant": (x[0] ** 2 + x[1] ** 2 + x[2] ** 2) / 2},
    )  # fmt: skip
    i = 1.6, 1.0, 2 / 3

    def truth(x: np.ndarray, s: int) -> Any:
        return [(1 / i[2] - 1 / i[1]) * x[2] * x[1], (1 / i[0] - 1 / i[2]) * x[0] * x[2],
                (1 / i[1] - 1 / i[0]) * x[1] * x[0]]  # fmt: skip

    def draw(random: Any) -> list[float]:
        angle = random.uniform(0.5, 1.5)
        return [np.cos(angle), 0.0, np.sin(angle)]

    return Conserved(system, truth, draw, 10, (90, 110), 3, 3, step=0.1)


def double_pendulum() -> Conserved:
    """A double pendulum, by its energy; 4.5 to 5 s."""
    a, b, u, v = x = sp.symbols("a b u v")
    force = ndae.unknown("F", outputs=2)(u, v, sp.sin(a), sp.cos(a), sp.sin(b), sp.cos(b))
    energy = u**2 + v**2 / 2 + u * v * sp.cos(a - b) - sp.Float(9.81) * (2 * sp.cos(a) + sp.cos(b))
    system = ndae.System(
        [dot(a) - u, dot(b) - v, dot(u) - force[0], dot(v) - force[1]], x, time=t, name="double pendulum",
        invariants={"invariant": energy},
    )  # fmt: skip

    def truth(x: np.ndarray, s: int) -> Any:
        a, b, u, v = x
        g, below = 9.81, 3 - np.cos(2 * (a - b))
        first = -3 * g * np.sin(a) - g * np.sin(a - 2 * b) - 2 * np.sin(a - b) * (v**2 + u**2 * np.cos(a - b))
        second = 2 * np.sin(a - b) * (2 * u**2 + 2 * g * np.cos(a) + v**2 * np.cos(a - b))
        return [u, v, first / below, second / below]

    def draw(random: Any) -> list[float]:
        angle = random.uniform(np.pi / 4, 3 * np.pi / 4)
        return [angle, angle, 0.0, 0.0]

    return Conserved(system, truth, draw, 10, (4.5, 5), 6, 2)


def converter() -> Conserved:
    """A DC-DC converter with a switch, by its energy; 15 to 25 s."""
    v1, v2, i3 = x = sp.symbols("V1 V2 I3")
    s = sp.Symbol("s")
    rates = ndae.unknown("F", outputs=3)(*x, s)
    c1, c2, l3 = sp.Float(0.1), sp.Float(0.2), sp.Float(0.5)
    system = ndae.System(
        [dot(a) - b for a, b in zip(x, rates, strict=True)], x, parameters=[s], time=t, name="converter",
        invariants={"invariant": (c1 * v1**2 + c2 * v2**2 + l3 * i3**2) / 2},
    )  # fmt: skip

    def truth(x: np.ndarray, s: int) -> Any:
        return [(1 - s) * x[2] / 0.1, s * x[2] / 0.2, (-(1 - s) * x[0] - s * x[1]) / 0.5]

    return Conserved(system, truth, lambda random: list(random.uniform(0, 1, 3)), 9, (15, 25), 4, 3, segment=1.5)


FIELDS: dict[str, Callable[[], Conserved]] = {
    "two_body": two_body, "rigid_body": rigid_body, "double_pendulum": double_pendulum, "converter": converter,
}  # fmt: skip


def _segments(problem: Conserved, end: float) -> list[tuple[float, float, int]]:
    """From, to, and the switch."""
    if problem.segment is None:
        return [(0.0, end, 0)]
    n = int(np.ceil(end / problem.segment - 1e-9))
    return [(k * problem.segment, (k + 1) * problem.segment, k % 2) for k in range(n)]


def _true(problem: Conserved, start: Sequence[float], end: float) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Times, states (n_times, n) and switch of the segments of a trajectory."""
    found, x = [], np.asarray(start, float)
    for a, b, s in _segments(problem, end):
        ts = a + 0.1 * np.arange(round((b - a) / 0.1) + 1)
        made = solve_ivp(lambda _, x, s=s: problem.truth(x, s), (a, ts[-1]), x, "DOP853", ts, rtol=1e-11, atol=1e-12)
        found.append((ts, made.y.T, s))
        x = made.y[:, -1]
    return found


def learn_field(name: str, seed: int) -> dict[str, Any]:
    """Learn a field from one seed's trajectories and weights, and follow twenty others."""
    problem, random = FIELDS[name](), np.random.default_rng(seed)
    torch.manual_seed(seed)
    names = [s.name for s in problem.system.states]

    def recorded() -> list[Any]:
        return [
            ndae.Recording(ts, dict(zip(names, x.T, strict=True)), parameters={"s": s} if problem.segment else {})
            for ts, x, s in _true(problem, problem.draw(random), problem.duration)
        ]

    train, check = ([r for _ in range(n) for r in recorded()] for n in (_TRAIN, _CHECK))
    model = ndae.NeuralSystem(
        problem.system, {"F": ndae.MLP(problem.inputs, problem.outputs, 64, depth=2)}, invariants=["invariant"],
        step=problem.step,
    )  # fmt: skip
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        result = ndae.fit(
            model, train, check, out=folder, seed=seed, epochs=20, keep="last",
            windows=ndae.Windows(2, continuity=0.0, starts="measured"), optimizer=lbfgs(max_iter=20),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    relative, kept = _followed(problem, model, [problem.draw(random) for _ in range(_TEST)])
    return {
        "problem": name, "seed": seed, "seconds": seconds, "error": float(relative.mean()),
        "median": float(np.median(relative.mean(1))), "violation": kept, "missed": result.kept.val_mae,
    }  # fmt: skip


def _followed(problem: Conserved, model: Any, starts: list[list[float]]) -> tuple[np.ndarray, float]:
    """|û − u|/|u| of each trajectory at times in the window, and the largest relative change of the invariant."""
    low, high = problem.window
    truths = [_true(problem, start, high) for start in starts]
    x, errors, kept = np.asarray(starts, float), [], 0.0
    of = sp.lambdify(problem.system.states, problem.system.invariants["invariant"])
    level = of(*x.T)
    for k, (ts, _, s) in enumerate(truths[0]):
        made = model.predict(x, ts, parameters={"s": float(s)} if problem.segment else None).x
        true = np.stack([truth[k][1] for truth in truths])
        inside = (ts >= low - 1e-9) & (ts <= high + 1e-9)
        errors.append((np.linalg.norm(made - true, axis=-1) / np.linalg.norm(true, axis=-1))[:, inside])
        kept = max(kept, float(np.abs(of(*np.moveaxis(made, -1, 0)).T / level - 1).max()))
        x = made[:, -1]
    return np.concatenate(errors, 1), kept
