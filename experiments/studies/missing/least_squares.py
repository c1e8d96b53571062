"""What the noise permits: least squares of the true form of a model on the same recordings, with standard errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import ndae
from ndae.experiments.studies.missing.missing import Missing
from ndae.models.neural_system import NeuralSystem
from ndae.training.recordings import RecordingFit

_STEP, _ITERATIONS = 1e-4, 6


def least_squares(model: NeuralSystem, data: list[Any]) -> tuple[dict[str, float], np.ndarray]:
    """Parameters that a model of the true form learns, and the covariance of their estimates, in their order.

    By Gauss-Newton steps for the parameters `model.learned` and all starts at once, each recording as a whole, with
    derivatives by central differences; starts that are known stay. The parameters of the model are those found.
    """
    fit = RecordingFit(model, data, data, ndae.Windows())
    pieces, unit, names = fit.train_pieces, fit.unit, [*model.learned]
    n_p, n_s, n_d = len(names), len(unit), len(pieces)
    start = pieces.guess.clone()
    shifts = torch.cat([torch.eye(n_p + n_s), -torch.eye(n_p + n_s)]).double() * _STEP
    normal = torch.zeros(0)
    with torch.no_grad():
        for _ in range(_ITERATIONS):
            now = torch.tensor([float(model.learned[n]) for n in names])
            jacobian, missed = [], []
            for d in range(n_d):
                which = torch.full((2 * (n_p + n_s) + 1,), d)
                moved = torch.cat([shifts, torch.zeros(1, n_p + n_s)]).double()
                values = {n: (now[k] + moved[:, k]) * model.units[n] for k, n in enumerate(names)}
                given, inputs = pieces.conditions(which)
                y = start[d] + moved[:, n_p:] * unit * pieces.free[d]
                path = model.path(y, pieces.t[which], given | values, inputs, pieces.w[which])
                off = ((pieces.seen[which] - model.seen(path)) * pieces.weight[which]).flatten(1)
                jacobian.append((off[: n_p + n_s] - off[n_p + n_s : -1]).T / (2 * _STEP))
                missed.append(off[-1])
            step, normal = _step(jacobian, missed, n_p, n_s)
            for k, n in enumerate(names):
                model.learned[n] += step[k]
            start = start + step[n_p:].view(n_d, n_s) * unit
    units = np.array([model.units[n] for n in names])
    covariance = np.linalg.pinv(normal.numpy(), hermitian=True)[:n_p, :n_p] * np.outer(units, units)
    return model.parameters_now(), covariance


def permitted(problem: Missing, data: list[Any], found: Mapping[str, float]) -> dict[str, Any]:
    """What least squares of the true form comes to: of a function, its root mean square error, and the one to be
    expected of such noise; of parameters, how far those found are from it and from the truth, in standard errors."""
    assert problem.form is not None
    system, law = problem.form()
    truth = {s.name: value for s, value in system.parameters.items()}
    model = NeuralSystem(system, learn=[*truth], step=problem.options.get("step"))
    best, covariance = least_squares(model, data)
    errors = np.sqrt(np.diag(covariance))
    if law is None:
        pairs = list(zip(model.learned, errors, strict=True))
        return {
            "standard_errors": {k: float(e) for k, e in pairs},
            "off_least_squares": {k: float((found[k] - best[k]) / e) for k, e in pairs},
            "off_truth": {k: float((found[k] - truth[k]) / e) for k, e in pairs},
        }
    x = np.linspace(*problem.between, 201)
    moved = [best | {k: best[k] + 1e-5 * e} for k, e in zip(model.learned, errors, strict=True)]
    slopes = np.stack([(law(m, x) - law(best, x)) / (1e-5 * e) for m, e in zip(moved, errors, strict=True)], -1)
    return {
        "permitted_rmse": float(np.sqrt(np.mean((law(best, x) - law(truth, x)) ** 2))),
        "permitted_expected": float(np.sqrt(np.einsum("ij,jk,ik->i", slopes, covariance, slopes).mean())),
    }


def _step(jacobian: list[Any], missed: list[Any], n_p: int, n_s: int) -> tuple[Any, Any]:
    """The step of least norm to the least squares, and the matrix of the normal equations."""
    size = n_p + n_s * len(jacobian)
    normal, right = torch.zeros(size, size).double(), torch.zeros(size).double()
    for d, (j, m) in enumerate(zip(jacobian, missed, strict=True)):
        place = torch.cat([torch.arange(n_p), n_p + d * n_s + torch.arange(n_s)])
        normal[place[:, None], place] += j.T @ j
        right[place] -= j.T @ m
    return torch.linalg.pinv(normal, hermitian=True, rtol=1e-10) @ right, normal
