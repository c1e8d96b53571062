"""Recordings of a problem with a missing function, learning it from them, and what was missed."""

import time
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sympy import lambdify

import ndae
from ndae.experiments.studies.missing.least_squares import permitted
from ndae.experiments.studies.missing.missing import Missing


def recordings(problem: Missing, seed: int) -> tuple[list[Any], list[Any]]:
    """Recordings with noise and gaps, and the solutions that they are of."""
    random, found, solutions = np.random.default_rng(seed), [], []
    inputs = problem.inputs or [{}] * len(problem.starts)
    for start, given in zip(problem.starts, inputs, strict=True):
        known = problem.system.given({**problem.truth, **given})
        full = ndae.consistent_initial_condition(known, start)
        solution = ndae.solve(known, full, problem.ts, by=problem.by)
        values = {}
        for name in problem.seen:
            sigma = problem.sigma[name] if isinstance(problem.sigma, Mapping) else problem.sigma
            values[name] = shown(problem, solution, name) + sigma * random.normal(size=len(problem.ts))
            if problem.gaps:
                values[name][random.random(len(problem.ts)) < problem.gaps] = np.nan
        known_start = dict(start) if problem.known else None
        found.append(ndae.Recording(problem.ts, values, sigma=problem.sigma, start=known_start, inputs=given))
        solutions.append(solution)
    return found, solutions


def shown(problem: Missing, solution: Any, name: str) -> np.ndarray:
    """An output along a solution."""
    expression = problem.system.outputs.get(name)
    if expression is None:
        return solution[name]
    symbols = sorted(expression.free_symbols, key=str)
    # What is simulated is shown by other code than what is learned.
    return np.asarray(lambdify(symbols, expression, "numpy")(*(solution[s.name] for s in symbols)))


def learn(name: str, problem: Missing, seed: int) -> dict[str, Any]:
    """Learn one problem from one seed's data and weights, and measure."""
    torch.manual_seed(seed)
    data, solutions = recordings(problem, seed)
    functions: dict[str, Any] = dict(problem.truth)
    if problem.learned:
        functions[problem.learned] = problem.network()
    model = ndae.NeuralSystem(problem.system, functions, **problem.options)
    train, check = (data[:-1], data[-1:]) if len(data) > 1 else (data, data)
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        result = ndae.fit(model, train, check, out=folder, seed=seed, **problem.fit)
    seconds = time.perf_counter() - began
    errors = [_resimulated(model, *each) for each in zip(solutions, problem.starts, data, strict=True)]
    measured = {
        "problem": name, "seed": seed, "seconds": seconds, "epochs": len(result.rows),
        "resimulated": [e for e, _ in errors], "residual": max(r for _, r in errors),
        "train_sigma": result.kept.train_mae, "validation_sigma": result.kept.val_mae,
    }  # fmt: skip
    if problem.learned:
        measured |= _of_function(functions[problem.learned], problem)
    if model.learned:
        true_values = {s.name: value for s, value in problem.system.parameters.items()}
        measured["parameters"] = {k: v / true_values[k] - 1 for k, v in model.parameters_now().items()}
    if problem.form:
        measured |= permitted(problem, train, model.parameters_now())
    if problem.ahead:
        measured["ahead"] = _ahead(model, problem, data[-1], solutions[-1])
    return measured


def _of_function(network: Any, problem: Missing) -> dict[str, float]:
    """What the learned function is off the true one by, in its range."""
    x = np.linspace(*problem.between, 201)
    with torch.no_grad():
        found = network(torch.as_tensor(x)[:, None])[:, 0].numpy()
    true = problem.truth[problem.learned](x)
    rmse = float(np.sqrt(np.mean((found - true) ** 2)))
    return {
        "rmse": rmse, "relative": rmse / float(np.abs(true).max()),
        "largest": float(np.abs(found - true).max() / np.abs(true).max()),
    }  # fmt: skip


def _resimulated(model: Any, truth: Any, start: Mapping[str, float], data: Any) -> tuple[float, float]:
    """Root mean square of all states against the truth, from the true start, and the largest residual."""
    known, values = model.known(data.inputs), model.parameters_now()
    full = ndae.consistent_initial_condition(known, start, parameters=values)
    solution = model.predict(full, truth.ts, inputs=data.inputs)
    residual = max(float(np.abs(r).max(initial=0.0)) for r in solution.residual.values()) if solution.residual else 0.0
    return float(np.sqrt(np.mean((solution.x - truth.x) ** 2))), residual


def _ahead(model: Any, problem: Missing, data: Any, truth: Any) -> float:
    """Root mean square error of the outputs over the times `ahead`, from a start fitted to those before."""
    n = problem.before
    start = model.estimate(data.between(problem.ts[0], problem.ts[n - 1])).start
    predicted = model.predict(start, problem.ts[: n + problem.ahead], inputs=data.inputs)
    off = [shown(problem, predicted, k)[n:] - shown(problem, truth, k)[n : n + problem.ahead] for k in problem.seen]
    return float(np.sqrt(np.mean(np.square(off))))
