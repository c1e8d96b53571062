"""What is given: iterators are read once, arrays stay the user's, a batch may be empty; and what is interrupted."""

import jax
import numpy as np
import pytest
import sympy as sp
import torch

import ndae
from ndae.symbolic import ANCHOR, Constraint, System, VectorFunction, dot, library, norm, point
from ndae.symbolic.ground.kept import Recomputed, kept, remembered

x, y = sp.symbols("x y")
a, b = point("a", 2), point("b", 2)


def test_iterators_are_read_once():
    """`learn` was looked through twice, and the second time nothing was left to be learned."""
    assert list(library.chain(2).torch(learn=iter(["length"])).learned) == ["length"]
    assert VectorFunction(iter([x * y]), {"y": iter([x, y])}).numpy()(np.array([2.0, 3.0])) == 6
    Constraint(iter([x**2 - 1]), iter([x, y]), unconstrained=iter([y]))
    template = Constraint.template(iter([norm(b - a) - 1]), iter([a, b]), over=iter([(ANCHOR, 0), (0, 1)]))
    assert template.n_instances == 2
    system = System(iter([dot(x) + y, y - x]), iter([x, y]), iter([]))
    assert system.reduce().index == 1


def test_arrays_stay_the_users():
    length, ts, values = np.array([1.0, 2.0]), np.array([0.0, 1.0]), np.array([[1.0], [3.0]])
    chain, inputs = library.chain(2, length=length), ndae.forces.sampled_inputs(ts, values)
    compiled = {backend: getattr(chain, backend)() for backend in ("numpy", "torch")}
    q = np.array([0.0, -1.0, 0.0, -3.0])
    length *= 9
    values *= 9
    ts += 1
    np.testing.assert_array_equal(chain.parameters["length"], [1, 2])
    assert float(inputs(0.5)) == 2
    chain.parameters["length"][:] = 9
    np.testing.assert_array_equal(compiled["numpy"].residual(q), 0)
    np.testing.assert_array_equal(compiled["torch"].residual(torch.tensor(q)), 0)


def test_a_solution_keeps_its_own_times():
    system = System([dot(x) + y, y - x], [x, y], name="decay")
    start, ts = np.array([1.0, 1.0]), np.linspace(0, 1, 3)
    solution = ndae.solve(system, start, ts, by="torch", rtol=1e-6)
    np.testing.assert_array_equal((*start, *ts), (1, 1, 0, 0.5, 1))
    before = solution.x.copy()
    start += 1
    ts += 1
    np.testing.assert_array_equal(solution.ts, [0, 0.5, 1])
    np.testing.assert_array_equal(solution.x, before)


@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_empty_batches(backend):
    batches = [np.zeros((n, 4), np.float32) + 0.5 for n in (0, 3)]
    if backend == "torch":
        batches = [torch.tensor(batch) for batch in batches]
    function = getattr(library.chain(2), backend)()
    reduced = library.chain_pendulum(1).reduce()
    functions = getattr(reduced, backend)()
    calls = [
        function.residual, function.jacobian, function.local_jacobian, function.penalty,
        lambda q: function.vjp(q, q[:, :2]), lambda q: function.apply_transpose(function.local_jacobian(q), q[:, :2]),
        lambda q: function.gram_blocks(q)[0], lambda q: function.gram_blocks(q)[1],
        functions.constraints, functions.constraints_jacobian, lambda q: functions.solve_leading(q)[0],
    ]  # fmt: skip
    for call in calls:
        traced = (lambda q, call=call: jax.eval_shape(call, q)) if backend == "jax" else call  # nothing to compile
        empty, three = (tuple(traced(batch).shape) for batch in batches)
        assert empty == (0, *three[1:])


def test_integration_of_an_empty_batch():
    y0, t = torch.zeros(0, 4), torch.tensor([0.0, 1.0])
    for method in ("classical_rk4", "dopri5"):
        assert ndae.solvers.integrate(lambda t, y: -y, y0, t, integrator=method).shape == (0, 2, 4)


def test_what_is_interrupted_leaves_nothing_behind():
    class Slow(Recomputed):
        interrupted = True

        @kept
        def value(self):
            if self.interrupted:
                raise KeyboardInterrupt
            return 42

    slow, known = Slow(), {}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _ = slow.value
        with pytest.raises(KeyboardInterrupt):
            remembered(known, "key", lambda: slow.value)
    assert not known and not slow.__dict__
    slow.interrupted = False
    assert remembered(known, "key", lambda: slow.value) == slow.value == known["key"] == 42
    assert slow.__getstate__() == {"interrupted": False}
