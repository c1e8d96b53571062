"""Levenberg's iteration on recordings, windows that grow together, and first guesses of what was not seen."""

import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae import dot
from ndae.models.first_guesses import guessed_states
from ndae.training.levenberg import Levenberg
from ndae.training.recordings import RecordingFit

t, x, k = sp.symbols("t x k")
F = ndae.unknown("F")
DECAY = ndae.System([dot(x) + k * x + F(x)], [x], {k: 1.0}, t, name="decay")
TS = np.linspace(0, 2, 13)


def data(seed=0, sigma=0.01):
    """Of x' = −x: F is nothing."""
    noise = np.random.default_rng(seed).normal(size=(3, len(TS)))
    return [
        ndae.Recording(TS, {"x": a * np.exp(-TS) + sigma * e}, sigma=sigma)
        for a, e in zip((1, 0.7, 1.5), noise, strict=True)
    ]


def whole(**windows):
    torch.manual_seed(0)
    model = ndae.NeuralSystem(DECAY, {F: ndae.MLP(1, 1, 3, depth=1)}, learn={"k": 0.5})
    return RecordingFit(model, data(), data(1), ndae.Windows(4, **windows))


def test_its_matrix_and_gradient_are_those_of_the_loss():
    """Jᵀr is n times the gradient of the mean loss by weights, parameters and starts, gaps between windows included."""
    fit = whole(continuity=3.0)
    search = Levenberg().of(fit)(fit.parameters())
    with torch.no_grad():
        fit.moved.add_(0.1 * torch.randn(fit.moved.shape, dtype=torch.float64))
        matrix, gradient = search._normal(search._rest())
    n = len(fit.train_pieces)
    prediction = fit.predict(fit.moved, window=torch.arange(n))
    loss = prediction.y.square().flatten(1).sum(1).mean() / 2 + prediction.regularisation
    slopes = torch.autograd.grad(n * loss, search._moving())
    exact = torch.cat([s.flatten() for s in slopes])
    assert torch.allclose(gradient, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
    assert torch.allclose(matrix, matrix.mT) and torch.linalg.eigvalsh(matrix).min() > -1e-6 * matrix.max()


def test_it_ends_where_the_gradient_is_nothing_and_leaves_networks_as_they_were(tmp_path):
    fit = whole()
    before = [*fit.model.networks.state_dict()]
    ndae.fit(fit.model, data(), data(1), out=tmp_path, epochs=4, windows=ndae.Windows(4), keep="last")
    assert [*fit.model.networks.state_dict()] == before
    assert "forward" not in vars(fit.model.networks["F"])
    # k x + F(x) = x: of the two only the sum is determined.
    at = torch.linspace(0.3, 1.4, 5, dtype=torch.float64)[:, None]
    found = fit.model.parameters_now()["k"] * at + fit.model.functions["F"](at)
    assert (found - at).abs().max() < 0.05


def test_a_prior_by_evidence_leaves_out_what_data_do_not_ask_for(tmp_path):
    """F is nothing, and where only the prior decides between k and F, it is left to k."""
    fit = whole()
    windows, optimizer = ndae.Windows(4), Levenberg(evidence=True)
    ndae.fit(fit.model, data(), data(1), out=tmp_path, epochs=4, windows=windows, keep="last", optimizer=optimizer)
    at = torch.linspace(0.3, 1.4, 5, dtype=torch.float64)[:, None]
    assert fit.model.functions["F"](at).abs().max() < 0.1
    assert abs(fit.model.parameters_now()["k"] - 1) < 0.1


def test_continuity_grows_tenfold_an_epoch_and_joins_windows(tmp_path):
    windows = ndae.Windows(4, continuity=(1.0, 2e4))
    assert [windows.weight(n) for n in (0, 1, 4, 5, 50)] == [1.0, 10.0, 1e4, 2e4, 2e4]
    fit = whole(continuity=(1.0, 2e4))
    search = Levenberg(iterations=4).of(fit)(fit.parameters())
    gaps = []
    for _ in range(5):
        search.step(lambda: fit.predict(fit.moved, window=torch.arange(len(fit.train_pieces))).regularisation)
        with torch.no_grad():
            fit.predict(fit.moved, check=torch.arange(len(fit.check_pieces)))  # an epoch has ended
        gaps.append(float(search._rest()[:, -1].abs().max() / max(fit.weight, 1) ** 0.5))
    assert gaps[-1] < 1e-2 * gaps[0]


@pytest.mark.parametrize("continuity", [-1.0, float("nan"), (2.0, 1.0), (0.0, 5.0), (1.0, float("inf"))])
def test_continuity_that_makes_no_sense_is_refused(continuity):
    with pytest.raises(ValueError, match="continuity="):
        ndae.Windows(4, continuity=continuity)


def test_what_was_not_seen_is_guessed_from_outputs_and_constraints():
    """Of a rod's far end its angle, of that its rate; of linked levels the other one."""
    a, w, y, z = sp.symbols("a w y z")
    rod = ndae.System(
        [dot(a) - w, dot(w) + sp.sin(a) + F(w)], [a, w], time=t, outputs={"h": 2 * sp.sin(a), "d": -2 * sp.cos(a)}
    )
    angle = 0.5 * np.cos(TS)
    seen = ndae.Recording(TS, {"h": 2 * np.sin(angle), "d": -2 * np.cos(angle)})
    guess = guessed_states(ndae.NeuralSystem(rod, {F: ndae.MLP(1, 1, 2)}), seen)
    np.testing.assert_allclose(guess[:, 0], angle, atol=1e-9)
    np.testing.assert_allclose(guess[2:-2, 1], -0.5 * np.sin(TS)[2:-2], atol=0.05)
    linked = ndae.System([dot(y) + w - 1, dot(z) - w + F(z), y - 2 * z], [y, z, w], time=t)  # index 2
    guess = guessed_states(ndae.NeuralSystem(linked, {F: ndae.MLP(1, 1, 2)}), ndae.Recording(TS, {"z": 0.1 * TS}))
    assert [s.name for s in linked.reduce().y] == ["y", "z"]
    np.testing.assert_allclose(guess, np.stack([0.2 * TS, 0.1 * TS], -1), atol=1e-9)
