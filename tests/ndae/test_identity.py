"""A training is what its result depends on: one that differs in anything is refused by name, the same one goes on."""

import copy
import functools
import itertools
import math
import re
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch
from torch import nn

import ndae
from ndae.symbolic import Constraint, library
from ndae.symbolic.expressions.points import ANCHOR, point
from ndae.training.checkpoints import CheckpointError, load_weights
from ndae.training.fit import fit
from tests.ndae.trainings import train_drifting

EDGES = [(None, 0), (0, 1)]
OPTIONS = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "seed": 3, "device": "cpu"}
SPRING = 2.0


def states(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A chain of two links at rest, and positions near to where it is."""
    angles = np.random.default_rng(seed).uniform(0, 6, (n, 2))
    q = np.stack([np.cos(angles), np.sin(angles)], -1).cumsum(1)
    return np.concatenate([q, 0 * q], -1), q + 0.01, {"t0": np.linspace(0, 1, n)}


DATA = states(8, 0), states(4, 1)


# --- models, each from a few settings --------------------------------------------------------------------------------


def known_force(k: float = 1.0, drag: float = 0.1) -> Callable:
    return lambda t, y: -k * y[..., :2] - drag * y[..., 2:]


def another_force(k: float = 1.0, drag: float = 0.1) -> Callable:
    return lambda t, y: -k * y[..., :2] - drag * y[..., 2:].abs()


def of_a_global(t, y):
    return -SPRING * y[..., :2]


@functools.cache
def generated(of: Callable, *arguments) -> nn.Module:
    """What takes a tenth of a second to derive, and is copied for every model."""
    return of(**dict(arguments))


def constraint(kind: str = "chain", length: float = 1.0, learn: tuple = ()) -> nn.Module:
    if kind == "chain":
        return library.chain(2, 2, length).torch(learn=learn)
    a, b, L = point("a", 2), point("b", 2), sp.Symbol("L", positive=True)
    power = {"squares": 2, "fourth powers": 4}[kind]
    link = sum(x**power for x in b - a) - L
    return Constraint.template([link], [a, b], [(ANCHOR, 0), (0, 1)], 2, {L: length}, name="links").torch(learn=learn)


def motion(
    links=(), hidden=4, depth=1, known=known_force, force=(), further=(), table=(0.0, 1.0), weight=(), g=None, **options
) -> nn.Module:
    """All kinds of forces: learned, known as a function, as a table of inputs, and as a system in SymPy."""
    inputs = ndae.forces.InputForce(ndae.forces.sampled_inputs([0.0, 5.0], table), 2, 2)
    # A mass that is learned is the system's as well, another one is told to the force.
    weight = copy.deepcopy(generated(weight_force, *weight, ("g", g)))
    forces = [ndae.forces.MLPForce(2, 2, hidden, depth=depth), known(**dict(force)), inputs, weight, *further]
    options = {"duration": 0.1, "n_steps": 1, "starts": "given", "method": ndae.methods.Penalty(10.0)} | options
    return ndae.NeuralMotion(copy.deepcopy(generated(constraint, *links)), forces, **options)


def weight_force(g: float | None, mass=1.0, **options) -> nn.Module:
    given = {"mass": None if mass is None else torch.as_tensor(mass), "gravity": g}
    given = {name: value for name, value in given.items() if value is not None}
    return ndae.forces.SystemForce(library.chain_pendulum(2, **options), given)


def network(links=(), **options) -> nn.Module:
    options = {"method": ndae.methods.SmoothProjection() + ndae.methods.Auxiliary(1.0), "n_layers": 1} | options
    return ndae.models.build_network(
        "mlp", copy.deepcopy(generated(constraint, *links)), edges=EDGES, features=4, dim=2, **options
    )


class Own(nn.Module):
    """A module of a user's, with all kinds of attributes."""

    scale = 1.0

    def __init__(self, **attributes):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Dropout(0.1), nn.Linear(4, 4))
        self.register_buffer("centre", torch.zeros(2))
        self.register_buffer("radius", torch.ones(8), persistent=False)
        self.table, self.settings, self.function = [1, 2.0, "three"], {"a": (1, 2)}, math.sin
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x, t0):
        flat = torch.cat([x.flatten(-2), x.flatten(-2) * self.scale], -1)
        return x[..., :2] + self.net(flat).unflatten(-1, (2, 2)) + 0 * self.centre


class Changed(Own):
    def forward(self, x, t0):
        return super().forward(x, t0) * 1.0


def own(change: Callable[[Own], None] | None = None, kind: type = Own, **attributes) -> nn.Module:
    model = kind(**attributes)
    if change is not None:
        change(model)
    return model


MODELS = {"motion": motion, "network": network, "own": own}


def built(model: str, seed: int = 0, **settings) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MODELS[model](**settings)


def run(out: Path, model: nn.Module, options=(), data=DATA):
    (x, y, known), (x_val, y_val, known_val) = data
    given = (known, known_val) if not hasattr(model, "fields") else ({}, {})
    return fit(model, (x, y, given[0]), (x_val, y_val, given[1]), out=out, **OPTIONS | dict(options))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A finished training of each model."""
    folders = {model: tmp_path_factory.mktemp(model) for model in MODELS}
    for model, out in folders.items():
        run(out, built(model))
    return folders


# --- two hundred changes, none silent --------------------------------------------------------------------------------


def each(setting: str, *values, path: str | None = None) -> list[tuple[str, dict]]:
    return [(path or f"model.{setting}", {setting: value}) for value in values]


METHODS = [
    *(ndae.methods.Penalty(gamma) for gamma in (10.5, 1.0, 9.999999)), ndae.methods.Penalty(10.0, H="gram"),
    ndae.methods.Unconstrained(),
    *(ndae.methods.Auxiliary(eta) for eta in (0.1, 1.0)), ndae.methods.EndProjection(), ndae.methods.SmoothProjection(),
    ndae.methods.Multiplier(),
    ndae.methods.SmoothProjection(tol=1e-6), ndae.methods.SmoothProjection(max_iterations=7),
    ndae.methods.Penalty(10.0) + ndae.methods.Auxiliary(2.0),
    ndae.methods.EndProjection(solver="steepest_descent"), ndae.methods.EndProjection(backward="unrolled"),
]  # fmt: skip
LINKS = [
    (("length", 1.25),), (("length", 0.999),), (("length", (1.0, 2.0)),), (("learn", ("length",)),),
    *((("kind", kind), ("length", length)) for kind in ("squares", "fourth powers") for length in (1.0, 2.0)),
    (("kind", "squares"), ("learn", ("L",))),
]  # fmt: skip


def _hill(q):
    return q.square().sum((-2, -1))


def potential(of) -> nn.Module:
    return ndae.forces.PotentialForce(of)


WEIGHTS = [("mass", 2.0), ("mass", (1.0, 3.0)), ("gravity", 1.62), ("length", 2.0)]
OF_MOTIONS = [
    *each("method", *METHODS),
    *each("links", *LINKS, path="model.constraint"),
    *each("duration", 0.2, 0.11, 0.05, 1.0, 0.1000001),
    *each("n_steps", 2, 3), ("model.n_times", {"n_steps": 2, "n_times": 2}),
    *each("mass", 2.0, [1.0, 2.0], torch.eye(2).expand(2, 2, 2) * 3, path="model.masses"),
    ("model.masses", {"learn_mass": True, "weight": (("mass", None),)}),
    *each("baumgarte", 0.5, 2.0), *each("starts", "project"), *each("start_tol", 1e-3, 1e-5),
    *each("integrator", "euler", "midpoint", "heun3", "three_eighths_rk4", "dopri5"),
    *each("rtol", 1e-6), *each("atol", 1e-8), *each("adjoint", True),
    *each("hidden", 5, 8, path="model.force"), *each("depth", 2, path="model.force"),
    *each("force", (("k", 2.0),), (("k", -1.0),), (("drag", 0.2),), (("drag", 0.0),), path="model.force"),
    *each("known", another_force, lambda: of_a_global, path="model.force"),
    *each("further", (ndae.forces.Damping(2, 2),), (lambda t, y: 0 * y[..., :2],), path="model.force"),
    *each("further", (potential(ndae.forces.MLPPotential(2, 2, 3)),), (potential(_hill),), path="model.force"),
    *each("table", (0.0, 1.5), (0.0, 1.0000001), ((0.0, 1.0), (1.0, 0.0)), path="model.force"),
    *each("weight", *((part,) for part in WEIGHTS), path="model.force"),
    *each("g", 1.62, 9.81001, path="model.force"),
]  # fmt: skip
OF_NETWORKS = [
    *each("method", *METHODS),
    *each("links", *LINKS, path="model.constraint"),
    *each("n_layers", 2, 3), *each("integrator", "euler", "dopri5"), *each("adjoint", True), *each("rtol", 1e-4),
    *each("atol", 1e-7), *each("orthonormal", False, path="model.open"),
    ("began with other weights: 1 of", {"initial_step": 0.1}),
]  # fmt: skip


def _hooked(model):
    model.net.register_forward_hook(lambda module, given, result: 2 * result)


def _activation(model):
    model.net[1] = nn.ReLU()


def _frozen(model):
    model.net[0].weight.requires_grad_(False)


def _centre(model):
    model.centre += 1


def _radius(model):
    model.radius[3] += 1e-6


def _weight(model):
    model.net[3].bias.data[2] += 1e-7


def _dropout(p):
    return lambda model: setattr(model.net[2], "p", p)


OF_OWN = [
    *each("table", [1, 2.0, "four"], [1, 2.0], (1, 2.0, "three"), [1, 2, "three"], list(range(100))),
    *each("settings", {"a": (1, 3)}, {"b": (1, 2)}, {"a": (1, 2), "b": None}, {"a": [1, 2]}),
    *each("function", math.cos, lambda x: x, abs, np.sin, torch.sin),
    *each("further", 1, 1.0, True, None, "text", np.arange(3), np.float32(1), torch.ones(3), sp.Symbol("x"), b"bytes"),
    *each("scale", 2.0, 1),
    *each("kind", Changed, path="model"),
    ("model.net._forward_hooks", {"change": _hooked}), ("model.net.1", {"change": _activation}),
    ("model.net.0.weight", {"change": _frozen}), ("model.radius", {"change": _radius}),
    *(("model.net.2.p", {"change": _dropout(p)}) for p in (0.0, 0.2, 0.1000001)),
    ("began with other weights: 1 of 5 differ, first 'centre'", {"change": _centre}),
    ("began with other weights: 1 of 5 differ, first 'net.3.bias'", {"change": _weight}),
    *(("began with other weights: 4 of 5 differ", {"seed": seed}) for seed in (1, 2)),
]  # fmt: skip


def by(kind: str, **settings) -> Callable:
    return lambda parameters: getattr(torch.optim, kind)(parameters, **{"lr": 1e-2} | settings)


def _two_groups(parameters):
    first, *others = parameters
    return torch.optim.Adam([{"params": [first], "lr": 1e-3}, {"params": others}], lr=1e-2)


OPTIMIZERS = [
    by("Adam"), by("Adam", betas=(0.9, 0.99)), by("Adam", eps=1e-6), by("Adam", weight_decay=0.1), by("AdamW"),
    by("Adam", amsgrad=True), by("SGD"), by("SGD", momentum=0.9), by("SGD", momentum=0.9, nesterov=True),
    by("RMSprop"), by("RMSprop", alpha=0.9), ndae.training.lbfgs(), ndae.training.lbfgs(1e4),
    ndae.training.lbfgs(max_iter=3), _two_groups,
]  # fmt: skip
OF_FIT = [
    *({"seed": seed} for seed in (0, 1, 4)), *({"batch_size": size} for size in (1, 3, 8)),
    *({"learning_rate": rate} for rate in (1e-3, 0.0100001, 1.0, 1e-5)), {"schedule": "cosine"},
    *({"gradient_clip": size} for size in (1.0, 0.5, 1e-3)), {"precision": "bf16-mixed"},
]  # fmt: skip


def test_two_hundred_changes_are_refused_by_name(folders):
    changes = [("motion", *change) for change in OF_MOTIONS] + [("network", *change) for change in OF_NETWORKS]
    changes += [("own", *change) for change in OF_OWN]
    asked = [(model, path, lambda m=model, s=settings: built(m, **s), {}) for model, path, settings in changes]
    for model, options in itertools.product(MODELS, OF_FIT):
        asked.append((model, next(iter(options)), lambda m=model: built(m), options))
    asked += [("own", "optimizer", lambda: built("own"), {"optimizer": optimizer}) for optimizer in OPTIMIZERS]
    assert len(asked) >= 200
    silent = []
    for model, path, build, options in asked:
        named = rf"training (with another .*{re.escape(path)}|that {re.escape(path)})"
        try:
            run(folders[model], build(), options)
        except CheckpointError as error:
            if not re.search(named, str(error)):
                silent.append((model, path, f"refused for another reason: {error}"))
        else:
            silent.append((model, path, "silent"))
    assert not silent


@pytest.mark.parametrize("model", MODELS)
def test_changed_data_are_named(folders, model):
    for part, which in itertools.product((0, 1), (0, 1)):
        data = [list(part) for part in DATA]
        data[part][which] = data[part][which].copy()
        data[part][which][0, 0, 0] += 1e-6
        name = f"data.{('training', 'validation')[part]}.{('inputs', 'targets')[which]}"
        with pytest.raises(CheckpointError, match=f"another {name} "):
            run(folders[model], built(model), data=data)
    if model == "motion":
        renamed = [(x, y, {"duration": 1 + known["t0"]}) for x, y, known in DATA]
        with pytest.raises(CheckpointError, match=r"another data\.training\.duration not there"):
            run(folders[model], built(model), data=renamed)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_training_goes_on_and_a_finished_one_is_evaluated_again(tmp_path, capsys, model):
    first = run(tmp_path, built(model), {"epochs": 2})
    assert first.resumed_from == 0 and capsys.readouterr().err == ""
    generated.cache_clear()  # generated anew, as in another process
    again = built(model)
    second = run(tmp_path, again, {"epochs": 2})
    assert "is finished: its weights of epoch" in capsys.readouterr().err
    assert (second.resumed_from, repr(second.best)) == (2, repr(first.best))
    (x, y, known) = DATA[1]
    assert ndae.evaluate(again, x, y, known if model != "network" else None).mae == second.best.val_mae
    # The same object once more, whose weights are those that the training came to; and one that got them by hand.
    third = run(tmp_path, again, {"epochs": 3})
    assert third.resumed_from == 2 and "from epoch 3 of 3" in capsys.readouterr().err
    run(tmp_path, load_weights(built(model, seed=9), third.last_checkpoint), {"epochs": 4})


def test_a_global_constant_and_a_class_attribute_count(tmp_path, monkeypatch):
    run(tmp_path / "motion", built("motion", known=lambda: of_a_global))
    monkeypatch.setitem(globals(), "SPRING", 3.0)
    with pytest.raises(CheckpointError, match=rf"another global {__name__}\.SPRING 2\.0 \(now 3\.0\):"):
        run(tmp_path / "motion", built("motion", known=lambda: of_a_global))
    run(tmp_path / "own", built("own"))
    monkeypatch.setattr(Own, "scale", 2.0)
    with pytest.raises(CheckpointError, match=rf"another class {__name__}\.Own\.scale 1\.0 \(now 2\.0\):"):
        run(tmp_path / "own", built("own"))


def test_the_code_of_a_method_counts_and_its_place_does_not(tmp_path):
    def classes(source: str, line: int):
        module = types.ModuleType("a_module_of_a_user")
        exec(compile("\n" * line + source, "a_module_of_a_user.py", "exec"), module.__dict__)
        return module.Model

    source = (
        "from torch import nn\nclass Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(2, 2)\n    def forward(self, x, t0):\n"
        "        return x[..., :2] + self.layer(x[..., 2:])\n"
    )
    run(tmp_path, own(kind=classes(source, 0)), {"epochs": 1})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pytest.raises(CheckpointError, match=r"Model\.forward\.code code .* \(now code"):
            run(tmp_path, own(kind=classes(source.replace("+", "-"), 0)))
        with pytest.raises(CheckpointError, match="began with other weights"):
            run(tmp_path, own(kind=classes(source, 5)))


def test_what_cannot_be_described_is_said(tmp_path):
    with open(tmp_path / "handle", "w") as handle:
        with pytest.warns(UserWarning, match=r"can't be gone on with .*model\.log \(a _io\.TextIOWrapper"):
            run(tmp_path / "out", built("own", log=handle))
        with pytest.raises(
            CheckpointError, match=r"another model\.log, of which nobody can tell: a _io\.TextIOWrapper"
        ):
            run(tmp_path / "out", built("own", log=handle))
        with pytest.warns(UserWarning, match="can't be gone on with"):
            run(tmp_path / "out", built("own", log=handle), {"resume": False})


def test_an_early_stop_that_would_have_come_before_is_refused(tmp_path):
    """The validation error only grows, so that with patience 2 training ends after epoch 3."""
    train_drifting(tmp_path)
    train_drifting(tmp_path, early_stopping=8)
    with pytest.raises(CheckpointError, match=r"early_stopping=2 would have ended training after epoch 3, .* 9 ep"):
        train_drifting(tmp_path, early_stopping=2)


def test_other_versions_of_packages_are_warned_of(tmp_path, monkeypatch):
    from ndae.training import identity

    run(tmp_path, built("own"))
    monkeypatch.setattr(identity.metadata, "version", lambda name: "0.0.1")
    with pytest.warns(UserWarning, match=r"another .*torch .* \(now 0\.0\.1\)"):
        run(tmp_path, built("own"))


def test_a_model_that_scores_otherwise_than_when_it_was_trained_is_warned_of(tmp_path):
    """Something that no description can hold: here, a file that the model reads."""
    (tmp_path / "number").write_text("1.0")
    path = str(tmp_path / "number")

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x, t0):
            return self.scale * float(Path(path).read_text()) * x[..., :2]

    first = run(tmp_path / "out", Reading())
    (tmp_path / "number").write_text("2.0")
    with pytest.warns(UserWarning, match="have a validation error of .* here, and had"):
        second = run(tmp_path / "out", Reading())
    assert second.best.val_mae > 2 * first.best.val_mae
    assert repr(second.rows) == repr(first.rows)  # by text: a violation that is not a number equals itself there
