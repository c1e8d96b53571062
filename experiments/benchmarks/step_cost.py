"""What a constraint costs: a training step of each method as a ratio to a step without constraint.

    python -m ndae.experiments.benchmarks.step_cost [--network mimetic] [--late 300] [--rounds 20] [--out FILE]

The models of a study sit in one process and take turns, a step each, in an order that rotates, so that whatever
else the machine does falls on all alike; a round gives a ratio a method, and the median of the rounds and their
quartiles are printed. "Early" is from the fifth step on, "late" after `--late` steps of training on 100 samples.
"""

import argparse
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin take the cores from the others

import torch

from ndae.experiments.benchmarks.turns import measure

# As the paper combines them (γ = η = 10 in both projections), and the projections alone.
METHODS = ("none", "auxiliary", "penalty", "end-alone", "smooth-alone", "end", "smooth")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--network", default="mimetic")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--late", type=int, default=300, help="training steps before the late measurement")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON too")
    options = parser.parse_args()
    result = {"network": options.network, "dtype": options.dtype, "threads": torch.get_num_threads(), "batch": 10}
    result |= {
        "machine": platform.processor() or platform.machine(),
        "late_steps": options.late,
        "torch": torch.__version__,
    }
    steps = {name: _stepper(name, options.network, getattr(torch, options.dtype)) for name in METHODS}
    for name in METHODS:
        _repeat(steps[name], 4)
    result["early"] = measure(steps, "none", options.rounds)
    for name in METHODS:
        _repeat(steps[name], max(0, options.late - 4 - options.rounds))
    result["late"] = measure(steps, "none", options.rounds)
    for when in ("early", "late"):
        print(f"{when}: median ms of a step, ratio to none (median and quartiles of {options.rounds} rounds)")
        for name, r in result[when].items():
            print(f"  {name:13s} {r['ms']:6.1f}  {r['ratio']:.3f}  ({r['low']:.3f} to {r['high']:.3f})")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def _stepper(method: str, network: str, dtype: torch.dtype):
    """A function that takes one training step on the next ten of the paper's samples."""
    from ndae.experiments.problems.pendulum_data import pendulum_data
    from ndae.experiments.runs.config import RunConfig
    from ndae.experiments.runs.models import build_model
    from ndae.experiments.variants import Variant

    data = pendulum_data(n_train=100, horizon=20, seed=0).train
    inputs, targets = (torch.as_tensor(array, dtype=dtype) for array in (data.inputs, data.targets))
    torch.manual_seed(0)
    variant = Variant.parse(method, gamma=10.0, eta=10.0)
    config = RunConfig(method=variant.method, gamma=variant.gamma, eta=variant.eta, network=network)
    model = build_model(config).to(dtype)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    count = 0

    def step() -> None:
        nonlocal count
        batch = torch.arange(count * 10, count * 10 + 10) % len(inputs)
        count += 1
        optimiser.zero_grad()
        prediction = model.predict(inputs[batch])
        loss = (prediction.y - targets[batch]).square().sum((1, 2)).mean() / 2 + prediction.regularisation
        loss.backward()
        optimiser.step()

    return step


def _repeat(step, times: int) -> None:
    for _ in range(times):
        step()


if __name__ == "__main__":
    main()
