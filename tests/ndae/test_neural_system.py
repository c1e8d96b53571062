"""Equations with networks in them: rolled out, differentiated, kept on their constraints, learned from recordings."""

import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae import dot, methods
from ndae.solvers import GGL, Baumgarte

t = sp.Symbol("t", real=True)


def tanks():
    """Index 2, with an unknown law in the constraint and one in a differential row."""
    h1, h2, q = sp.symbols("h1 h2 q")
    V, F = ndae.unknown("V"), ndae.unknown("F")
    return ndae.System([dot(h1) + q - 1, dot(h2) - q + F(h2), h1 - V(h1) - h2], [h1, h2, q], time=t, name="tanks")


def pendulum():
    """Index 3, with an unknown drag."""
    x, y, u, v, lam = sp.symbols("x y u v lam")
    D = ndae.unknown("D")
    equations = [dot(x) - u, dot(y) - v, dot(u) + 2 * lam * x + D(u), dot(v) + 9.81 + 2 * lam * y + D(v)]
    return ndae.System([*equations, x**2 + y**2 - 1], [x, y, u, v, lam], time=t, name="pendulum")


def networks(*names, seed=0):
    torch.manual_seed(seed)
    return {name: ndae.MLP(1, 1, 6, depth=1) for name in names}


def batch(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture(scope="module")
def of_tanks():
    return tanks(), networks("V", "F")


TIMES = torch.linspace(0, 1, 4, dtype=torch.float64)


def test_it_solves_as_the_reference_does_and_gradients_agree(of_tanks):
    """RK4, dopri5 by both gradients and Radau IIA: states to 1e-7, gradients by weights and starts to 1e-6, against
    central differences as well."""
    system, nets = of_tanks
    weight, found = nets["V"].network[0].weight, {}
    ways = {
        "rk4": {"step": 0.05}, "direct": {"integrator": "dopri5"}, "radau": {"integrator": "radau5"},
        "adjoint": {"integrator": "dopri5", "adjoint": True},
    }  # fmt: skip
    for name, options in ways.items():
        model = ndae.NeuralSystem(system, nets, rtol=1e-9, atol=1e-11, **options)
        y = batch([1.0, 1.0], [0.6, 0.5]).requires_grad_()
        loss = model.seen(model.path(y, TIMES.expand(2, -1))).square().sum()
        found[name] = loss.item(), *torch.autograd.grad(loss, [weight, y])
    value, by_weight, by_start = found["rk4"]
    for name in ways:
        assert abs(found[name][0] - value) < 1e-7
        assert torch.allclose(found[name][1], by_weight, rtol=1e-6, atol=1e-7), name
        assert torch.allclose(found[name][2], by_start, rtol=1e-6, atol=1e-7), name
    model, values = ndae.NeuralSystem(system, nets, step=0.05), []
    for change in (1e-4, -1e-4):
        with torch.no_grad():
            weight[0, 0] += change
            values.append(model.seen(model.path(batch([1.0, 1.0], [0.6, 0.5]), TIMES.expand(2, -1))).square().sum())
            weight[0, 0] -= change
    assert abs(float(values[0] - values[1]) / 2e-4 - float(by_weight[0, 0])) < 1e-6


def test_samples_of_a_batch_do_not_touch_each_other(of_tanks):
    system, nets = of_tanks
    model = ndae.NeuralSystem(system, nets)
    y = batch([1.0, 1.0], [0.6, 0.5], [np.nan, 1.0]).requires_grad_()
    path = model.path(y, torch.stack([TIMES, 2 * TIMES, TIMES]))
    (slope,) = torch.autograd.grad(path.y[0, -1].sum(), y)
    assert slope[0].abs().sum() > 0 and not slope[1:].nan_to_num(0.0).any()
    assert path.y[:2].isfinite().all() and path.y[2, 1:].isnan().all()
    alone = model.path(y[1:2], 2 * TIMES[None])
    assert torch.allclose(alone.y[0], path.y[1], atol=1e-13)


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (methods.SmoothProjection(), 1e-12),
        (methods.Unconstrained(), None),
        (methods.Penalty(3.0, "gram"), None),
        (Baumgarte(3.0), None),
        (GGL(), 1e-5),
    ],
)
def test_methods_keep_the_constraint(method, kept):
    system, nets = pendulum(), networks("D")
    model = ndae.NeuralSystem(system, nets, method=method, step=0.05)
    with torch.no_grad():
        path = model.path(batch([0.6, -0.8, 0.0, 0.0]), torch.linspace(0, 2, 5, dtype=torch.float64)[None])
    off = (path.y[..., 0] ** 2 + path.y[..., 1] ** 2 - 1).abs().max()
    plain = ndae.NeuralSystem(system, nets, method=methods.Unconstrained(), step=0.05)
    with torch.no_grad():
        drift = plain.path(batch([0.6, -0.8, 0.0, 0.0]), torch.linspace(0, 2, 5, dtype=torch.float64)[None])
    drift = (drift.y[..., 0] ** 2 + drift.y[..., 1] ** 2 - 1).abs().max()
    assert drift > 1e-6
    assert off < (kept or 1.001 * drift)
    if isinstance(method, Baumgarte | methods.Penalty):
        assert off < drift


def test_an_auxiliary_loss_is_what_drift_makes():
    system, nets = pendulum(), networks("D")
    start, times = batch([0.6, -0.8, 0.0, 0.0]), torch.linspace(0, 1, 3, dtype=torch.float64)[None]
    model = ndae.NeuralSystem(system, nets, method=methods.Auxiliary(2.0), step=0.1)
    assert model.path(start, times).regularisation > 0
    with pytest.raises(ValueError, match="method"):
        ndae.NeuralSystem(system, nets, method="projection")


def test_each_sample_keeps_its_own_invariant():
    """Lotka and Volterra's orbits, one for each start, with coarse steps."""
    a, b, r = sp.Symbol("a", positive=True), sp.Symbol("b", positive=True), ndae.unknown("r")
    system = ndae.System(
        [dot(a) - a * (1 - b) * (1 + r(t)), dot(b) - b * (a - 1) * (1 + r(t))], [a, b], time=t,
        invariants={"orbit": a + b - sp.log(a) - sp.log(b)},
    )  # fmt: skip
    y, times = batch([1.5, 1.0], [0.4, 0.9]), torch.linspace(0, 6, 13, dtype=torch.float64).expand(2, -1)
    found = {}
    for kept in ((), ("orbit",)):
        model = ndae.NeuralSystem(system, networks("r"), invariants=kept)
        with torch.no_grad():
            x = model.path(y, times).y
        orbit = x.sum(-1) - x.log().sum(-1)
        found[kept] = (orbit - orbit[:, :1]).abs().max()
    assert found["orbit",] < 1e-12 < 1e-4 < found[()]
    start = y.clone().requires_grad_()
    model = ndae.NeuralSystem(system, networks("r"), invariants=["orbit"])
    level = lambda x: x.sum(-1) - x.log().sum(-1)  # noqa: E731
    (slope,) = torch.autograd.grad(level(model.path(start, times).y[:, -1]).sum(), start)
    assert torch.allclose(slope, 1 - 1 / y, atol=1e-10)  # the end's level is the start's
    with pytest.raises(ValueError, match="energy"):
        ndae.NeuralSystem(system, networks("r"), invariants=["energy"])


def test_inputs_and_parameters_of_each_recording():
    """Tables and parameters of each sample are those of ndae.solve for it alone."""
    x, k, u, r = sp.Symbol("x"), sp.Symbol("k"), ndae.unknown("u"), ndae.unknown("r")
    system = ndae.System([dot(x) + k * r(x) - u(t)], [x], {k: 1.0}, time=t)
    nets, grid = networks("r"), np.linspace(0, 1, 6)
    tables = [ndae.table(grid, np.sin(grid), kind="cubic"), ndae.table([0.0, 2.0], [1.0, 0.0])]
    model = ndae.NeuralSystem(system, nets, step=0.02)
    assert model.inputs == ("u",)
    k = torch.tensor([0.5, 2.0], dtype=torch.float64)
    with torch.no_grad():
        path = model.path(batch([1.0], [1.0]), TIMES.expand(2, -1), {"k": k}, {"u": tables})
    for i, table in enumerate(tables):
        one = model.predict({"x": 1.0}, TIMES.numpy(), parameters={"k": float(k[i])}, inputs={u: table})
        assert np.abs(one["x"] - path.y[i, :, 0].numpy()).max() < 1e-12
    shown = ndae.System(system.equations, system.states, system.parameters, t, outputs={"both": x + u(t)})
    model = ndae.NeuralSystem(shown, nets, step=0.02)  # as many samples as times, which must not be taken for another
    four, ks = [*tables, *tables[::-1]], torch.cat([k, k.flip(0)])
    with torch.no_grad():
        seen = model.seen(model.path(torch.ones(4, 1).double(), TIMES.expand(4, -1), {"k": ks}, {"u": four}))
    for i, table in enumerate(tables):
        want = path.y[i, :, 0] + torch.as_tensor(table.values(TIMES.numpy()))
        assert torch.allclose(seen[i, :, 0], want, atol=1e-13) and torch.equal(seen[i], seen[3 - i])
    known = model.known({"u": tables[0]})
    exact = ndae.solve(known, {"x": 1.0}, TIMES.numpy(), parameters={"k": 0.5}, by="torch")
    assert np.abs(exact["x"] - path.y[0, :, 0].numpy()).max() < 1e-8
    with pytest.raises(ValueError, match="u"):
        model.path(batch([1.0]), TIMES[None])


def test_a_parameter_and_a_start_are_learned_from_what_is_seen(tmp_path):
    """x' = -k x, of which 2 x is seen with gaps: k and the start to the digits of the integrator."""
    x, k = sp.Symbol("x"), sp.Symbol("k")
    system = ndae.System([dot(x) + k * x], [x], {k: 0.5}, time=t, outputs={"twice": 2 * x})
    ts = np.linspace(0, 2, 9)
    seen = 2 * np.exp(-1.3 * ts)
    seen[3] = np.nan
    model = ndae.NeuralSystem(system, learn=["k"], step=0.05)
    data = ndae.Recording(ts, {"twice": seen}, sigma=0.01)
    result = ndae.fit(model, data, out=tmp_path, epochs=3)
    assert abs(model.parameters_now()["k"] - 1.3) < 1e-5 and result.best.val_mae < 1e-3
    found = model.estimate(data)
    assert abs(found.start["x"] - 1.0) < 1e-5 and 0 < found.spread["x"] < 0.01
    again = ndae.fit(model, data, out=tmp_path, epochs=3)  # which is finished
    assert again.resumed_from == 3


def test_what_was_learned_is_checked_by_other_solvers(of_tanks):
    system, nets = of_tanks
    model = ndae.NeuralSystem(system, nets, step=0.05)
    ts = np.linspace(0, 1, 5)
    data = ndae.Recording(ts, {"h1": 1 + 0 * ts, "h2": 1 + 0 * ts}, sigma=0.1, name="one")
    check = ndae.crosscheck(model, data, by=["torch", "IDA"])
    assert check.least > 8 and set(check.recordings[0].missed) == {"h1", "h2"}
    assert "one" in str(check) and "IDA" in str(check)


def test_what_is_wrong_is_named(of_tanks, tmp_path):
    system, nets = of_tanks
    model, ts = ndae.NeuralSystem(system, nets), np.linspace(0, 1, 5)
    good = ndae.Recording(ts, {"h1": ts})
    for wrong, name in (
        (lambda: ndae.NeuralSystem(system, {"W": nets["V"]}), "W"),
        (lambda: ndae.NeuralSystem(system, nets, learn=["g"]), "g"),
        (lambda: ndae.NeuralSystem(system, nets, integrator="rk9"), "rk9"),
        (lambda: ndae.NeuralSystem(system, nets, step=-1.0), "step"),
        (lambda: ndae.fit(model, [3.0], out=tmp_path), "recording 0"),
        (lambda: ndae.fit(model, ndae.Recording(ts, {"h3": ts}), out=tmp_path), "h3"),
        (lambda: ndae.crosscheck(model, good, by=["cvode"]), "cvode"),
        (lambda: ndae.Windows(0), "length"),
        (lambda: ndae.fit(model, good, out=tmp_path, precision="16-mixed"), "float64"),
        (lambda: ndae.fit(model, ndae.Recording(ts, {"h1": ts}, parameters={"g": 1}), out=tmp_path), "g"),
        (lambda: ndae.MLP(0), "n_in"),
    ):
        with pytest.raises(ValueError, match=name):
            wrong()
