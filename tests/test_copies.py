"""Objects that are copied and pickled: before and after a solve, without what they keep, with the symbols they had."""

import copy
import importlib.util
import io
import pickle
import sys

import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae.experiments.problems import Problem
from ndae.experiments.problems.library.robot_arm import PROBLEM as ROBOT_ARM
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.errors import ProjectionError
from ndae.symbolic import Constraint, System, VectorFunction, dot, library
from ndae.symbolic.forms.implicit_form import implicit_form
from ndae.symbolic.ground.extras import MissingExtraError
from tests.solvers.dae_cases import pendulum
from tests.systems import hanging

TS = np.linspace(0, 1, 5)
WAYS = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}
ways = pytest.mark.parametrize("copied", WAYS.values(), ids=WAYS)
FAST = {"integrator": "dopri5", "method": "plain", "rtol": 1e-6}


@pytest.fixture(scope="module")
def solved():
    """A system of its own that was reduced, compiled for every backend and solved."""
    system = System(pendulum().equations, pendulum().states, pendulum().parameters, name="pendulum")
    point = np.array([0.6, -0.8, 0.8, 0.6])
    system.reduce().numpy().solve_leading(point), system.reduce().numpy().constraints_jacobian(point)
    system.reduce().torch().solve_leading(torch.tensor(point))
    return system, solve_dae(system, hanging(0.4), TS, **FAST)


def test_a_solved_system(solved):
    system, solution = solved
    again = WAYS["deepcopy"](WAYS["pickle"](WAYS["deepcopy"](system)))
    assert (again.states, again.equations, again.parameters) == (system.states, system.equations, system.parameters)
    found = solve_dae(again, hanging(0.4), TS, **FAST)
    np.testing.assert_array_equal(found.x, solution.x)
    assert found.stats == solution.stats


def test_what_is_kept_is_not_pickled(solved):
    system, _ = solved
    fresh = System(pendulum().equations, pendulum().states, pendulum().parameters, name="pendulum")
    assert pickle.dumps(system) == pickle.dumps(fresh)
    assert b"jax" not in pickle.dumps(system.reduce())
    constraint = library.chain(2)
    before = pickle.dumps(constraint)
    constraint.describe(), constraint.torch(), constraint.structure, constraint.states
    assert pickle.dumps(constraint) == before


@ways
def test_reduced_systems_and_their_functions(solved, copied):
    reduced, point = solved[0].reduce(), np.array([0.6, -0.8, 0.8, 0.6])
    for source in (reduced, copied(reduced)):
        for backend in ("numpy", "torch"):
            functions = getattr(source, backend)()
            y = torch.tensor(point) if backend == "torch" else point
            for compiled in (functions, copied(functions)):
                w, found = compiled.solve_leading(y)
                assert found
                np.testing.assert_array_equal(w, functions.solve_leading(y)[0])
    form = implicit_form(reduced, "ggl")
    Y, Yp = form.start(point, np.zeros(len(reduced.w)))
    expected = form.residual(0.0, Y, Yp)
    np.testing.assert_array_equal(copied(form).residual(0.0, Y, Yp), expected)


@ways
@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_compiled_functions(copied, backend):
    a, b = sp.symbols("a b")
    vector = VectorFunction([a * b, sp.Max(a, b)], {"y": [a, b]})
    constraint = library.chain(2)
    y = np.linspace(0.5, 1, 4, dtype=np.float32)
    y = torch.tensor(y) if backend == "torch" else y
    compiled, values = getattr(constraint, backend)(), getattr(vector, backend)()
    expected = compiled.residual(y), compiled.jacobian(y), values(y[:2]), values.jacobian("y", y[:2])
    compiled, values = copied(compiled), copied(values)
    found = compiled.residual(y), compiled.jacobian(y), values(y[:2]), values.jacobian("y", y[:2])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert copied(constraint).expressions == constraint.expressions


def test_a_torch_function_never_takes_a_table_for_another():
    """Tables were known by the address of an array, which a copy, or the next array, may have too."""
    from ndae.symbolic.backends.vector_torch import TorchNumerics

    numerics, like = TorchNumerics(), torch.zeros((), dtype=torch.float64)
    for i in range(200):  # each array is freed, and its address given to the next
        assert float(numerics.constant(np.full(3, float(i)), like)[0]) == i


@ways
def test_symbols_stay_the_ones_they_were(copied):
    """Also those that are told apart by a number, not by a name."""
    x, y, p = sp.Dummy("x"), sp.Symbol("y", positive=True), sp.Dummy("p", real=True)
    system = System([dot(x) + p * x, y - x], [x, y], {p: 2.0}, name="dummies")
    again = copied(system)
    assert again.states == (x, y)
    assert list(again.parameters) == [p]
    assert again.equations == system.equations
    assert again.derivative_of(dot(x)) == (x, 1)
    constraint = copied(Constraint([x**2 + y**2 - p**2], [x, y], {p: 1.0}))
    assert constraint.coordinates == (x, y)
    assert constraint.expressions == (x**2 + y**2 - p**2,)


@ways
def test_mechanical_systems(copied):
    system, q = library.chain_pendulum(1), np.array([0.6, -0.8], np.float32)
    expected = system.points.jax().force(q, q)
    again = copied(system)
    assert again.equations == system.equations
    for compiled in (again.points.jax(), copied(system.points.jax())):
        np.testing.assert_array_equal(compiled.force(q, q), expected)


@ways
def test_outcomes_and_errors(solved, copied):
    system, solution = solved
    again = copied(solution)
    assert again.names == solution.names
    np.testing.assert_array_equal(again["lam"], solution["lam"])
    start = ndae.consistent_initial_condition(system, hanging(0.4))
    assert copied(start).as_dict() == start.as_dict()
    errors = [
        ndae.SolveError("stopped", solution), ProjectionError("off", (1, 2)),
        MissingExtraError("IDA", "scikit-sundae", "crosscheck"), ndae.StructureError("twice", [0, 1], ["x"]),
    ]  # fmt: skip
    for error in errors:  # a pool of workers hangs where the error of one can't be read
        found = copied(error)
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert found.__dict__.keys() == error.__dict__.keys()
    assert copied(errors[1]).samples == (1, 2)


@ways
def test_problems(copied):
    problem = Problem("pendulum", pendulum(), initial=hanging(0.4), t_span=(0.0, 1.0))
    assert copied(problem).initial == problem.initial
    ROBOT_ARM.system.reduce(), ROBOT_ARM.constraint.torch()
    arm = copied(ROBOT_ARM)
    assert arm.system.equations == ROBOT_ARM.system.equations
    assert "constraint" not in ROBOT_ARM.__getstate__()


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [*WAYS.values(), _saved], ids=[*WAYS, "torch.save"])
def test_models(copied):
    torch.manual_seed(0)
    chain = library.chain_pendulum(2)
    learned = ndae.Constraint.template(
        [ndae.norm(ndae.point("b", 2) - ndae.point("a", 2)) - sp.Symbol("length")],
        [ndae.point("a", 2), ndae.point("b", 2)], over=[(ndae.ANCHOR, 0), (0, 1)], parameters={sp.Symbol("length"): 1},
    ).torch(learn=["length"])  # fmt: skip
    potential = ndae.forces.MLPPotential(nodes=2, dim=2, hidden=4)
    force = [ndae.forces.PotentialForce(potential), ndae.forces.SystemForce(chain)]
    motion = ndae.NeuralMotion(learned, force, duration=0.1, n_steps=2, learn_mass=True)
    x = torch.tensor([[[0.0, -1.0, 0.5, 0.0], [0.0, -2.0, 1.0, 0.0]]])
    fields = [ndae.fields.MLPField(nodes=2, latent=4, hidden=4)]
    network = ndae.NeuralDAE(fields, learned, ndae.methods.SmoothProjection(), features=4, dim=2, latent=4)
    for model in (motion, network):
        expected = model(x)
        again = copied(model)
        torch.testing.assert_close(again(x), expected, rtol=0, atol=0)
        again.double()(x.double()).sum().backward()
        assert all(p.dtype == torch.float64 and p.grad is not None for p in again.parameters() if p.requires_grad)
        assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_functions_of_a_saved_file(tmp_path, backend):
    path = library.chain(2).save(tmp_path / f"chain_{backend}.py", backend)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as an import would, so that pickles find its functions
    try:
        spec.loader.exec_module(module)
        y = np.linspace(0.5, 1, 4, dtype=np.float32)
        y = torch.tensor(y) if backend == "torch" else y
        for copied in WAYS.values():
            np.testing.assert_array_equal(copied(module.function).jacobian(y), module.function.jacobian(y))
    finally:
        del sys.modules[path.stem]
