"""What a second of reference solution costs: `make bench`, or pytest experiments/benchmarks/test_reference.py.

Each round solves ten seconds of motion, compiled before; `seconds_per_simulated_second` is in the extra columns
(--benchmark-json). The five-body pendulum starts from rest at the horizontal, with an output every 0.01 s.
"""

import numpy as np
import pytest

from ndae.experiments.problems import pendulum_data as pendulum
from ndae.solvers import solve
from ndae.symbolic import library

SECONDS = 10.0
TS = 0.01 * np.arange(1_001)


def _record(benchmark, solution, n_solves=1):
    drift = solution.max_drift()
    benchmark.extra_info |= {
        "seconds_per_simulated_second": benchmark.stats.stats.median / (SECONDS * n_solves),
        "steps_per_output": float(np.mean(solution.stats["n_steps"])) / (TS.size - 1),
        "position_drift": float(np.max(drift["position"])),
        "energy_drift": float(np.max(drift["energy"])),
    }


@pytest.mark.parametrize("solver", ["dopri8", "dopri5", "kvaerno5"])
@pytest.mark.parametrize("project", [True, False], ids=["projected", "free"])
def test_five_bodies(benchmark, solver, project):
    system, start = pendulum.system(), pendulum.start()
    solution = benchmark.pedantic(
        solve,
        (system, *start, TS),
        {"solver": solver, "project": project},
        rounds=5,
        warmup_rounds=1,
    )
    _record(benchmark, solution)


def test_batch_of_hundred(benchmark):
    angle = np.random.default_rng(0).uniform(-1, 1, (100, 5))
    q0 = np.cumsum(np.stack([np.sin(angle), -np.cos(angle)], axis=-1), axis=1).reshape(100, 10)
    solution = benchmark.pedantic(solve, (pendulum.system(), q0, np.zeros_like(q0), TS), rounds=3, warmup_rounds=1)
    _record(benchmark, solution, n_solves=100)


@pytest.mark.parametrize("n_bodies", [1, 10, 30])
def test_length_of_the_chain(benchmark, n_bodies):
    start = pendulum.start(n_bodies)
    solution = benchmark.pedantic(solve, (library.chain_pendulum(n_bodies), *start, TS), rounds=3, warmup_rounds=1)
    _record(benchmark, solution)
