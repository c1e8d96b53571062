"""What models and projections are given: constraints symbolic or compiled, states as tensors, arrays or lists."""

import re

import numpy as np
import pytest
import torch

import ndae
from ndae import NeuralDAE, NeuralMotion, library, project
from ndae.fields import MLPField
from ndae.forces import MLPForce, MLPPotential, PotentialForce, SoftConstraint
from ndae.methods import SmoothProjection
from ndae.models import MolecularDAE, build_molecular_network, build_network
from ndae.solvers import integrate, project_latent, stabilisation, stabilisation_latent

CHAIN = library.chain(2)
COMPILED = CHAIN.torch()
# Positions of two nodes in the plane, then with velocities.
Q = np.array([[[1.0, 0.1], [1.9, 0.3]], [[0.6, 0.8], [1.2, 1.6]]])
X = np.concatenate([Q, 0.1 * Q[..., ::-1]], -1)


def seeded(make, constraint):
    torch.manual_seed(0)
    return make(constraint)


def neural_dae(constraint, dtype=torch.float64):
    fields = [MLPField(2, latent=4, hidden=4)]
    return NeuralDAE(fields, constraint, SmoothProjection(), features=4, dim=2, latent=4).to(dtype)


def neural_motion(constraint, dtype=torch.float64, **options):
    forces = [MLPForce(2, 2, 4), PotentialForce(MLPPotential(2, 2, 4))]
    return NeuralMotion(constraint, forces, duration=0.1, n_steps=1, starts="project", **options).to(dtype)


def compared(result):
    return [torch.as_tensor(x) for x in ((result.q, result.v) if hasattr(result, "q") else (result,))]


MODELS = {"NeuralDAE": neural_dae, "NeuralMotion": neural_motion}
USES = {
    "project": lambda c, y: project(c, y.reshape(2, 4)).y,
    "stabilisation": lambda c, y: stabilisation(c, y.reshape(2, 4), 2.0, "gram"),
    "NeuralDAE": lambda c, y: seeded(neural_dae, c)(torch.cat([y, y], -1)),
    "build_network": lambda c, y: seeded(
        lambda c: build_network("mlp", c, edges=[(0, 1)], features=2, dim=2, n_layers=1).double(), c
    )(y),
    "NeuralMotion": lambda c, y: seeded(neural_motion, c)(torch.cat([y, y], -1)),
    "velocity_constraints": lambda c, y: seeded(
        lambda c: NeuralMotion(
            c, MLPForce(2, 2), duration=0.1, n_steps=1, velocity_constraints=along(c), starts="project"
        ).double(),
        c,
    )(torch.cat([y, y], -1)),
    "SoftConstraint": lambda c, y: SoftConstraint(c, 3.0).double()(y),
    "project_latent": lambda c, y: project_latent(c, y, torch.eye(2, dtype=y.dtype))[0],
    "stabilisation_latent": lambda c, y: stabilisation_latent(c, y, torch.eye(2, dtype=y.dtype), 2.0),
}  # fmt: skip


def along(constraint):
    """The first node's velocity has one slope, compiled where the constraint is."""
    import sympy as sp

    states = sp.symbols("q0:4 v0:4", real=True)
    free = [s for s in states if s not in states[4:6]]
    found = ndae.Constraint([states[4] + 2 * states[5]], states, name="slope", unconstrained=free)
    return found if isinstance(constraint, ndae.Constraint) else found.torch()


@pytest.mark.parametrize("use", USES)
def test_a_symbolic_constraint_is_taken_as_a_compiled_one(use):
    y = torch.as_tensor(Q)
    assert torch.equal(USES[use](CHAIN, y), USES[use](COMPILED, y))


REFUSING = USES | {
    "build_molecular_network": lambda c, y: build_molecular_network(
        "equivariant-small", c, molecule="OHH", velocity_scale=1.0
    ),
    "velocity_constraints": lambda c, y: NeuralMotion(CHAIN, MLPForce(2, 2), duration=0.1, velocity_constraints=c),
}


@pytest.mark.parametrize("use", REFUSING)
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (2, "of type int, .*=ndae.library.chain"),
        (torch.nn.Linear(1, 1), "of type Linear, .*=ndae.library.chain"),
        (
            CHAIN.numpy(),
            "of type ArrayFunction, .* not compiled for torch: give the symbolic Constraint, or its .torch",
        ),
        (library.chain_pendulum(2), "=system.points.constraint"),
    ],
    ids=["int", "Linear", "numpy", "system"],
)
def test_what_is_no_constraint_is_refused_by_name(use, wrong, match):
    name = "velocity_constraints" if use == "velocity_constraints" else "constraint"
    with pytest.raises(ValueError, match=rf"^{name} is .*{match}"):
        REFUSING[use](wrong, torch.as_tensor(Q))


@pytest.mark.parametrize("use", [use for use in REFUSING if use != "velocity_constraints"])
def test_no_constraint_is_refused_where_one_is_needed(use):
    missing = "a motion without any constraint: give constraint=" if use == "NeuralMotion" else "constraint is None, .*"
    with pytest.raises(ValueError, match=f"^{missing}"):
        REFUSING[use](None, torch.as_tensor(Q))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NeuralMotion(COMPILED, None, duration=0.1), r"^force=None: give a function F\(t, y\)"),
        (lambda: NeuralMotion(COMPILED, [MLPForce(2, 2), None], duration=0.1), r"^force\[1\]=None: give a function"),
        (lambda: NeuralDAE(None, CHAIN, features=4, dim=2, latent=4), "^field=None: give a module.*a list of them"),
        (lambda: NeuralDAE([None], CHAIN, features=4, dim=2, latent=4), r"^field\[0\]=None: give a module"),
        (lambda: MolecularDAE(None, 3, velocity_scale=1.0), "^dae=None: give a NeuralDAE"),
    ],
)
def test_what_is_missing_is_told_at_construction(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_model_compiles_a_constraint_of_its_own():
    """It goes with the model to other precisions; a function's is compiled once."""
    one, other = neural_dae(CHAIN), neural_dae(CHAIN, torch.float32)
    assert one.constraint is not other.constraint
    assert one.constraint.value_length.dtype == torch.float64
    assert other.constraint.value_length.dtype == torch.float32


def test_projections_compile_a_symbolic_constraint_once(monkeypatch):
    made, constraint = [], library.chain(3)
    compile_it = type(constraint).torch
    monkeypatch.setattr(type(constraint), "torch", lambda self: made.append(self) or compile_it(self))
    for _ in range(3):
        project(constraint, np.ones((2, 6)))
    assert made == [constraint]


CALLS = {
    "project": (lambda y: project(CHAIN, y).y, Q.reshape(2, 4)),
    "stabilisation": (lambda y: stabilisation(CHAIN, y, 1.0), Q.reshape(2, 4)),
    "integrate": (lambda y: integrate(lambda t, y: -y, y, [0.0, 0.5, 1.0], integrator="midpoint"), Q.reshape(2, 4)),
}
METHODS = {
    "forward": lambda m, x: m(x),
    "predict": lambda m, x: m.predict(x).y,
    "states": lambda m, x: m.states(x),
    "trajectory": lambda m, x: m.trajectory(x, [0.0, 0.1]),
    "multiplier": lambda m, x: m.multiplier(x),
    "energy": lambda m, x: m.energy(x),
    "check": lambda m, x: m.check(x) or torch.zeros(()),
}
OF_MODELS = [("NeuralDAE", "forward"), ("NeuralDAE", "predict"), *(("NeuralMotion", name) for name in METHODS)]


@pytest.mark.parametrize("call", CALLS)
def test_functions_take_arrays_and_lists(call):
    f, y = CALLS[call]
    expected = f(torch.as_tensor(y))
    for given in (y, y.tolist(), np.asfortranarray(y), y.astype(">f8")):
        assert torch.equal(f(given), expected)
    assert f(y.astype(np.float32)).dtype == torch.float32
    assert f(np.array([[1, 0, 2, 0]])).dtype == torch.float64


@pytest.mark.parametrize(("model", "method"), OF_MODELS)
def test_models_take_arrays_and_lists_in_their_own_precision(model, method):
    f = METHODS[method]
    for dtype in (torch.float64, torch.float32):
        m = seeded(lambda c, dtype=dtype: MODELS[model](c, dtype), CHAIN)
        expected = compared(f(m, torch.as_tensor(X).to(dtype)))
        for given in (X, X.tolist(), X[:, ::-1][:, ::-1]):
            for found, wanted in zip(compared(f(m, given)), expected, strict=True):
                assert found.dtype == wanted.dtype
                assert torch.equal(found, wanted)


def test_evaluate_takes_arrays():
    m = neural_dae(CHAIN)
    assert ndae.evaluate(m, X, Q) == ndae.evaluate(m, torch.as_tensor(X), torch.as_tensor(Q))


@pytest.mark.parametrize(("model", "method"), OF_MODELS)
def test_states_that_no_model_takes(model, method):
    m, x, f = MODELS[model](CHAIN, torch.float32), torch.as_tensor(X).float(), METHODS[method]
    with pytest.raises(ValueError, match=r"x has dtype torch.int64, expected float32 or float64: give x.float\(\)"):
        f(m, x.long())
    with pytest.raises(ValueError, match=r"\(batch, .*, 4\).*\(2, 2, 3\)"):
        f(m, x[..., :3])
    with pytest.raises(ValueError, match="x: an array of <U3 holds no numbers"):
        f(m, "abc")
    with pytest.raises(ValueError, match=r"x: not an array of numbers.*equally long rows"):
        f(m, [[1.0], [1.0, 2.0]])
    if method != "check":  # which works without the network
        match = r"x is of torch.float64 on cpu, the model has parameters of torch.float32.*model.to\(x\)"
        with pytest.raises(ValueError, match=match):
            f(m, x.double())
    for result in compared(f(m, x[:0])):
        assert method == "check" or len(result) == 0


@pytest.mark.parametrize(("model", "method"), OF_MODELS)
def test_a_sample_that_is_not_finite_touches_no_other_or_is_named(model, method):
    m, x, f = MODELS[model](CHAIN), torch.as_tensor(X).clone(), METHODS[method]
    x[1, 0, 0] = torch.nan
    if method in ("trajectory", "check"):
        with pytest.raises(ValueError, match="1 of 2 samples hold a number that is not finite, first sample 1"):
            f(m, x)
        return
    try:
        found = f(m, x)
    except ndae.ProjectionError as error:
        assert error.samples == (1,)
        return
    assert found[0].isfinite().all()
    assert not found[1].isfinite().all()


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.ones((2, 3)), r"y has shape \(2, 3\), expected \(..., 4\)"),
        (torch.ones(2, 4).long(), r"y has dtype torch.int64, expected float32 or float64: give y.float\(\)"),
        (torch.ones(2, 4).half(), r"y has dtype torch.float16: project in float32 or float64, as in y.float"),
        (None, r"y has shape \(\)"),
        ("abc", "y: an array of <U3 holds no numbers"),
        (np.ones((2, 4)) * 1j, "y: complex numbers"),
    ],
)
def test_states_that_no_projection_takes(y, match):
    with pytest.raises(ValueError, match=match):
        project(CHAIN, y)


def test_projections_of_no_samples_and_of_none_that_is_finite():
    assert project(CHAIN, np.zeros((0, 4))).y.shape == (0, 4)
    with pytest.raises(ndae.ProjectionError, match=re.escape("sample(s) 1 (input not finite)")):
        project(CHAIN, [[1.0, 0.0, 2.0, 0.0], [np.nan, 0.0, 2.0, 0.0]])
    metric = project(CHAIN, Q.reshape(2, 4), inverse_metric=np.array([1, 2])).y
    assert torch.equal(metric, project(CHAIN, Q.reshape(2, 4), inverse_metric=torch.tensor([1.0, 2.0]).double()).y)
