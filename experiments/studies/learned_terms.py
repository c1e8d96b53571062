"""One function missing in known equations, learned from noisy recordings of a part of the states: five problems.

    python -m ndae.experiments.studies.learned_terms [--only tanks] [--seeds 0 1 2]
    python -m ndae.experiments.studies.learned_terms --table

Each run is a JSON in experiments/results/learned_terms; the table is of those that are there.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sympy as sp
import torch

import ndae
from ndae import dot
from ndae.experiments.files import read_json, write_json

RESULTS = Path(__file__).parent.parent / "results" / "learned_terms"
t = sp.Symbol("t", real=True)


@dataclass(frozen=True)
class Missing:
    """A system with one function that is not known, what it truly is, and how it is measured and learned.

    - `truth`: what unknown functions are, `learned` the one that is learned, over `between` (low, high) its argument.
    - `starts`: of the recordings, the last one to validate on; `ts`: times of the measurements; `sigma`: noise.
    - `seen`: names of the outputs that are measured; `known`: whether the start of the recordings is known.
    - `network`, `options`: of the NeuralSystem; `fit`: of ndae.fit.
    """

    system: Any
    truth: Mapping[str, Callable]
    learned: str
    between: tuple[float, float]
    starts: Sequence[Mapping[str, float]]
    ts: np.ndarray
    sigma: Any
    seen: Sequence[str]
    known: bool = False
    by: str = "dopri8"
    network: Callable[[], Any] = lambda: ndae.MLP(1, 1, 12, depth=1)
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)


def batch_reactor() -> Missing:
    """c' = -r(c), p' = r(c), r = 1.5 c²/(0.3 + c): 15 points of both, noise 0.01, one experiment."""
    c, p, r = sp.Symbol("c"), sp.Symbol("p"), ndae.unknown("r")
    system = ndae.System([dot(c) + r(c), dot(p) - r(c)], [c, p], time=t, name="batch reactor")
    return Missing(
        system, {"r": lambda c: 1.5 * c**2 / (0.3 + c)}, "r", (0.11, 1.0), [{"c": 1.0, "p": 0.0}],
        np.linspace(0, 3, 15), 0.01, ("c", "p"), known=True, fit={"epochs": 5, "keep": "last"},
    )  # fmt: skip


def tanks() -> Missing:
    """Two tanks whose levels a valve keeps at h1 - V(h1) = h2 (index 2), V unknown; levels seen with 1 % noise."""
    h1, h2, q = sp.symbols("h1 h2 q")
    law = ndae.unknown("V")
    system = ndae.System(
        [dot(h1) + q - (1 - h1 / 2), dot(h2) - q + sp.Rational(1, 5) * sp.sqrt(h2), h1 - law(h1) - h2],
        [h1, h2, q], time=t, name="two tanks",
    )  # fmt: skip
    return Missing(
        system, {"V": lambda h: 0.1 + 0.12 * h**2}, "V", (0.5, 1.9), [{"h1": a} for a in (0.5, 1.2, 1.9, 0.8)],
        np.linspace(0, 4, 41), {"h1": 0.01, "h2": 0.01}, ("h1", "h2"),
        options={"step": 0.2}, fit={"epochs": 8, "windows": ndae.Windows(10), "keep": "last"},
    )  # fmt: skip


def rectifier() -> Missing:
    """A capacitor charged through a diode, i = D(u) of the algebraic voltage u; the capacitor's voltage seen."""
    v, u, i = sp.symbols("v u i")
    law = ndae.unknown("D")
    source = 2 * sp.sin(3 * t)
    system = ndae.System(
        [dot(v) - i + v / 2, i - law(u), source - i / 5 - u - v], [v, i, u], time=t, name="rectifier"
    )  # fmt: skip
    return Missing(
        system, {"D": lambda u: 0.05 * (np.exp(2.0 * u) - 1)}, "D", (-1.5, 1.5), [{"v": a} for a in (0.0, 0.5, 1.0)],
        np.linspace(0, 4, 81), {"v": 0.002}, ("v",),
        options={"step": 0.05}, fit={"epochs": 8, "windows": ndae.Windows(4), "keep": "last"},
    )  # fmt: skip


def bead() -> Missing:
    """A bead on a wire z = f(x) (index 3), f unknown; x and z seen."""
    x, z, vx, vz, lam = sp.symbols("x z vx vz lam")
    wire = ndae.unknown("f")
    slope = wire(x).diff(x)
    system = ndae.System(
        [dot(x) - vx, dot(z) - vz, dot(vx) - lam * slope, dot(vz) + sp.Float(9.81) + lam, z - wire(x)],
        [x, z, vx, vz, lam], time=t, name="bead on a wire",
    )  # fmt: skip
    return Missing(
        system, {"f": lambda x: 0.5 * x**2 + 0.1 * np.sin(3 * x)}, "f", (-0.9, 0.9),
        [{"x": a, "vx": 0.0} for a in (0.9, -0.7, 0.5)], np.linspace(0, 2, 81), {"x": 0.002, "z": 0.002}, ("x", "z"),
        options={"step": 0.025}, fit={"epochs": 6, "windows": ndae.Windows(5), "keep": "last"},
    )  # fmt: skip


def robertson() -> Missing:
    """Robertson's kinetics with the rate of the second reaction, 3e7 y2², unknown as r(y2): stiff."""
    a, b, c = sp.symbols("y1 y2 y3")
    rate = ndae.unknown("r")
    k1, k3 = sp.Float(0.04), sp.Float(1e4)
    system = ndae.System(
        [dot(a) + k1 * a - k3 * b * c, dot(c) - rate(b), a + b + c - 1], [a, b, c], time=t, name="Robertson",
        outputs={"y1": a, "y3": c},
    )  # fmt: skip
    return Missing(
        system, {"r": lambda b: 3e7 * b**2}, "r", (1.0e-5, 3.6e-5), [{"y1": 1.0, "y3": 0.0}, {"y1": 0.8, "y3": 0.2}],
        np.concatenate([[0.0], np.geomspace(1e-4, 40.0, 40)]), 1e-4, ("y1", "y3"), known=True, by="radau13",
        options={"integrator": "radau5"}, fit={"epochs": 3, "keep": "last"},
        network=lambda: Scaled(ndae.MLP(1, 1, 12, depth=1), 3e-5, 0.03),
    )  # fmt: skip


class Scaled(torch.nn.Module):
    """A network of one argument in units of its own."""

    def __init__(self, network: torch.nn.Module, argument: float, value: float):
        super().__init__()
        self.network, self.argument, self.value = network, argument, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The value, zero at zero."""
        return self.value * (x / self.argument) * (1 + self.network(x / self.argument))


PROBLEMS: dict[str, Callable[[], Missing]] = {
    "reactor": batch_reactor, "tanks": tanks, "rectifier": rectifier, "bead": bead, "robertson": robertson,
}  # fmt: skip


def recordings(problem: Missing, seed: int) -> tuple[list[Any], list[Any]]:
    """Recordings with noise, and the solutions that they are of."""
    random, found, solutions = np.random.default_rng(seed), [], []
    known = problem.system.given(problem.truth)
    for start in problem.starts:
        full = ndae.consistent_initial_condition(known, start)
        solution = ndae.solve(known, full, problem.ts, by=problem.by)
        values = {}
        for name in problem.seen:
            sigma = problem.sigma[name] if isinstance(problem.sigma, Mapping) else problem.sigma
            values[name] = solution[name] + sigma * random.normal(size=len(problem.ts))
        known_start = dict(start) if problem.known else None
        found.append(ndae.Recording(problem.ts, values, sigma=problem.sigma, start=known_start))
        solutions.append(solution)
    return found, solutions


def learn(name: str, seed: int) -> dict[str, Any]:
    """Learn one problem from one seed's data and weights, and measure."""
    problem = PROBLEMS[name]()
    torch.manual_seed(seed)
    data, solutions = recordings(problem, seed)
    known = {n: f for n, f in problem.truth.items() if n != problem.learned}
    network = problem.network()
    model = ndae.NeuralSystem(problem.system, {problem.learned: network, **known}, **problem.options)
    train, check = (data[:-1], data[-1:]) if len(data) > 1 else (data, data)
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        result = ndae.fit(model, train, check, out=folder, seed=seed, **problem.fit)
    seconds = time.perf_counter() - began
    x = np.linspace(*problem.between, 201)
    with torch.no_grad():
        found = network(torch.as_tensor(x)[:, None])[:, 0].numpy()
    true = problem.truth[problem.learned](x)
    errors = [_resimulated(model, s, start) for s, start in zip(solutions, problem.starts, strict=True)]
    return {
        "problem": name, "seed": seed, "seconds": seconds, "epochs": len(result.rows),
        "rmse": float(np.sqrt(np.mean((found - true) ** 2))),
        "relative": float(np.sqrt(np.mean((found - true) ** 2)) / np.abs(true).max()),
        "largest": float(np.abs(found - true).max() / np.abs(true).max()),
        "resimulated": [e for e, _ in errors], "residual": max(r for _, r in errors),
        "train_sigma": result.kept.train_mae, "validation_sigma": result.kept.val_mae,
    }  # fmt: skip


def _resimulated(model: Any, truth: Any, start: Mapping[str, float]) -> tuple[float, float]:
    """Root mean square of all states against the truth, from the true start, and the largest residual."""
    full = ndae.consistent_initial_condition(model.system, start)
    solution = model.predict(full, truth.ts)
    residual = max(float(np.abs(r).max(initial=0.0)) for r in solution.residual.values()) if solution.residual else 0.0
    return float(np.sqrt(np.mean((solution.x - truth.x) ** 2))), residual


def table(folder: Path) -> str:
    """What was learned so far, a row a problem: every seed's figure, in the order of seeds."""
    lines = [
        "| problem | error of the function, % of its largest value | the same at its worst point, % | re-simulated | "
        "largest residual |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, problem in PROBLEMS.items():
        runs = [read_json(file) for file in sorted(folder.glob(f"{name}-s*.json"))]
        if not runs:
            continue
        cells = [
            ", ".join(f"{100 * run['relative']:.2g}" for run in runs),
            ", ".join(f"{100 * run['largest']:.2g}" for run in runs),
            ", ".join(f"{max(run['resimulated']):.2g}" for run in runs),
            f"{max(run['residual'] for run in runs):.1g}",
        ]
        lines.append(f"| {problem.__doc__ or name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the problems asked for, and write a JSON each."""
    parser = argparse.ArgumentParser(description="Learn what is missing in known equations.")
    parser.add_argument("--only", nargs="+", choices=[*PROBLEMS], default=[*PROBLEMS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there, and learn nothing")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.out))
        return
    torch.set_num_threads(1)
    for name in options.only:
        for seed in options.seeds:
            found = learn(name, seed)
            write_json(options.out / f"{name}-s{seed}.json", found)
            print(json.dumps(found))


if __name__ == "__main__":
    main()
