"""What constraints cost on 32 water molecules: a training step of each method, and one projection.

    python -m ndae.experiments.benchmarks.water_cost [--rounds 15] [--out FILE]

Batches of 10 in float32, horizon 5 fs. The network is `equivariant-small`, by each of the paper's methods and by the
multiplier of first order; beside it stand the methods with forces between atoms, with the network `molecular`. The
projection is of 10 x 32 molecules (960 distances a sample) from the true positions 5 fs later, which are off by 3 pm as
a trained network's are, to the paper's 5e-4 Å; forward, and with the implicit gradient.

All of them sit in one process and take turns in an order that rotates, so that whatever else the machine does falls on
all alike; a round gives a ratio to the step of `none` for each, and medians and quartiles of the rounds are printed.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

import torch

from ndae.experiments.benchmarks.turns import measure

BATCH, HORIZON = 10, 50
TIMES = 10  # projections a turn, so that one that another process interrupts does not count alone
NETWORK, BASE = "equivariant-small", "none"
# As the paper combines them (γ = η = 10 in both projections), and the projections alone.
METHODS = ("none", "auxiliary", "penalty", "end-alone", "smooth-alone", "end", "smooth", "tangent")
FORCES = {"multiplier, molecular": "multiplier", "soft, molecular": "soft"}
FORWARD, BOTH = "projection", "projection and its gradient"
AIM = 0.02  # of a step


def main() -> None:
    from ndae.experiments.crosscheck.report import machine

    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON too")
    options = parser.parse_args()
    inputs, targets = _samples()
    turns = {name: _stepper(name, NETWORK, inputs, targets) for name in METHODS}
    turns |= {name: _stepper(method, "molecular", inputs, targets) for name, method in FORCES.items()}
    turns |= {FORWARD: _projector(targets, gradient=False), BOTH: _projector(targets, gradient=True)}
    for turn in turns.values():
        for _ in range(3):
            turn()
    result = {
        "machine": machine(), "threads": torch.get_num_threads(), "dtype": "float32", "batch": BATCH,
        "molecules": targets.shape[-2] // 3, "horizon_fs": HORIZON / 10, "rounds": options.rounds,
    }  # fmt: skip
    result["figures"] = measure(turns, BASE, options.rounds, {FORWARD: TIMES, BOTH: TIMES})
    result["iterations"] = _iterations(targets)
    print(report(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def report(result: Mapping[str, Any]) -> str:
    """What is printed: a line a method, and whether the projection keeps to its share."""
    machine, figures = result["machine"], result["figures"]
    lines = [
        f"{machine}, {result['threads']} threads, batch {result['batch']}, "
        f"{result['molecules']} molecules, {result['dtype']}; medians (and quartiles) of {result['rounds']} rounds",
        "",
        f"| a step of | ms | ratio to {BASE} |",
        "| --- | ---: | ---: |",
    ]
    for name, f in figures.items():
        lines.append(f"| {name} | {f['ms']:.1f} | {f['ratio']:.3f} ({f['low']:.3f} to {f['high']:.3f}) |")
    share = figures[FORWARD]["ratio"]
    return "\n".join(
        [
            *lines,
            "",
            f"One projection is {100 * share:.2f} % of a step of {BASE} (aim: below {100 * AIM:g} %), in "
            f"{result['iterations']} iterations at most.",
        ]
    )


def _samples() -> tuple[torch.Tensor, torch.Tensor]:
    from ndae.experiments.water.data import water_data

    data = water_data(n_train=100, horizon=HORIZON, seed=0).train
    return torch.as_tensor(data.inputs), torch.as_tensor(data.targets)


def _stepper(method: str, network: str, inputs: torch.Tensor, targets: torch.Tensor) -> Callable[[], None]:
    """A function that takes one training step on the next batch."""
    from ndae.experiments.runs.config import RunConfig
    from ndae.experiments.runs.models import build_model
    from ndae.experiments.variants import Variant

    variant = Variant.parse(method)
    config = RunConfig(
        problem="water", method=variant.method, gamma=variant.gamma, eta=variant.eta, network=network, horizon=HORIZON
    )
    model = build_model(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    rows = _batches(len(inputs))

    def step() -> None:
        batch = next(rows)
        optimiser.zero_grad()
        prediction = model.predict(inputs[batch])
        loss = (prediction.y - targets[batch]).square().sum((1, 2)).mean() / 2 + prediction.regularisation
        loss.backward()
        optimiser.step()

    return step


def _projector(targets: torch.Tensor, gradient: bool) -> Callable[[], None]:
    """A function that projects the next batches, with the gradient of a sum of squares where asked for."""
    from ndae.solvers import project

    constraint, tol, rows = *_constraint(targets), _batches(len(targets))

    def step() -> None:
        for _ in range(TIMES):
            y = targets[next(rows)].flatten(-2).requires_grad_(gradient)
            projected = project(constraint, y, tol=tol).y
            if gradient:
                projected.square().sum().backward()

    return step


def _constraint(targets: torch.Tensor) -> tuple[Any, float]:
    from ndae.experiments.problems.library.water import WaterProblem
    from ndae.experiments.water.baselines import constraint

    return constraint(targets.shape[-2] // 3).torch().to(targets.dtype), WaterProblem.projection_tol


def _iterations(targets: torch.Tensor) -> int:
    from ndae.solvers import project

    constraint, tol = _constraint(targets)
    return int(project(constraint, targets.flatten(-2), tol=tol).iterations.max())


def _batches(n: int):
    count = 0
    while True:
        yield torch.arange(count, count + BATCH) % n
        count += BATCH


if __name__ == "__main__":
    main()
