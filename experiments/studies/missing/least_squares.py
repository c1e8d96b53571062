"""What the noise permits: least squares of the true form of a model on the same recordings, with standard errors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import ndae
from ndae.experiments.studies.missing.missing import Missing
from ndae.models.neural_system import NeuralSystem
from ndae.training.levenberg import Levenberg
from ndae.training.recordings import RecordingFit


def least_squares(model: NeuralSystem, data: list[Any]) -> tuple[dict[str, float], np.ndarray]:
    """Parameters that a model of the true form learns, and the covariance of their estimates, in their order.

    Each recording is one window, whose start is estimated with them. The parameters of the model are those found.
    """
    fit = RecordingFit(model, data, data, ndae.Windows())
    search = Levenberg(iterations=30).of(fit)(fit.parameters())
    search.step(lambda: fit.predict(fit.moved, window=torch.arange(len(data))).regularisation)
    units = np.array([model.units[n] for n in model.learned])
    return model.parameters_now(), search.covariance().numpy() * np.outer(units, units)


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
