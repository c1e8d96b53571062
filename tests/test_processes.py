"""Objects in other processes and threads: forks after a solve, workers of either kind, two threads at once."""

import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import ndae
from ndae.solvers import solve
from ndae.solvers.consistent import consistent_initial_condition
from ndae.solvers.dae.solve import solve_dae
from ndae.solvers.dae.solve_torch import solve_torch
from ndae.symbolic import System, dot, library
from tests.solvers.dae_cases import pendulum, valve, x, z
from tests.systems import hanging

TS = np.linspace(0, 1, 5)
SECONDS = 120  # after which a child counts as one that hangs
needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")


def outcome_in_child(context, function, *arguments):
    """What `function` returns in a child process, or the error that it raises; a child that hangs fails the test."""
    context = multiprocessing.get_context(context)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, function, arguments))
    child.start()
    try:
        assert receiver.poll(SECONDS), f"{function.__name__} hangs in a child"
        return receiver.recv()
    finally:
        child.kill()
        child.join()


def _send(sender, function, arguments):
    torch.set_num_threads(1)  # as a DataLoader does in its workers
    try:
        sender.send(function(*arguments))
    except BaseException as error:
        sender.send(error)


class OnCircle(Dataset):
    """Residuals of the states that a compiled constraint and a reduced system give."""

    def __init__(self, system):
        self.constraint, self.functions = library.chain(1).torch(), system.reduce().numpy()
        self.numpy = library.chain(1).numpy()
        self.angles = np.linspace(0, 1, 4)

    def __len__(self):
        return len(self.angles)

    def __getitem__(self, i):
        a = self.angles[i]
        y = np.array([np.sin(a), -2 * np.cos(a)])
        other = self.functions.constraints(np.array([*y, 0.0, 0.0]))[0]
        return np.stack([self.constraint.residual(torch.tensor(y)).numpy()[0], self.numpy(y)[0], other])


@pytest.fixture(scope="module", autouse=True)
def running_jax():
    """JAX has run, with its threads."""
    solve_dae(pendulum(), hanging(0.4), TS, rtol=1e-6)


# -- forks -------------------------------------------------------------------------------------------------------------


def _jax_function():
    return library.chain(1).jax().residual(np.ones(2))


def _vector_function():
    return pendulum().reduce().jax().constraints(np.ones(4))


def _flow():

    return ndae.flow(pendulum())(hanging(0.4), TS)


def _solve():
    return solve_dae(pendulum(), hanging(0.4), TS, rtol=1e-6)


def _reference():
    system = library.chain_pendulum(1)
    return solve(system, {"q": [0.0, -1.0], "v": [1.0, 0.0]}, TS)


def _mechanics():
    return library.chain_pendulum(1).points.jax().energy(np.ones(2), np.ones(2))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("function", [_solve, _flow, _reference, _jax_function, _vector_function, _mechanics])
def test_jax_is_refused_in_a_child_made_by_fork(function):
    found = outcome_in_child("fork", function)
    assert isinstance(found, RuntimeError)
    assert "start workers by spawn" in str(found)
    assert "hangs here" in str(found)


def _without_jax():
    """A system written, reduced, started and solved without JAX."""
    system = System([dot(x) + 2 * x, z - x**2], [x, z], name="decay")
    start = consistent_initial_condition(system, {"x": 1.0, "z": 1.0}, keep=["x"])
    rest = pendulum().reduce().numpy().constraints(np.array([0.6, -0.8, 0.0, 0.0]))
    return start.as_dict(), rest, solve_torch(system, {"x": 1.0}, TS, rtol=1e-8)["x"]


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_reduction_numpy_and_torch_work_in_a_child_made_by_fork():
    found = outcome_in_child("fork", _without_jax)
    if isinstance(found, BaseException):
        raise found
    start, rest, path = found
    assert start == {"x": 1.0, "z": 1.0}
    np.testing.assert_allclose(rest, 0, atol=1e-15)
    np.testing.assert_allclose(path, np.exp(-2 * TS), rtol=1e-7)


@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "context", [pytest.param("fork", marks=needs_fork), pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_workers_of_a_data_loader(context):
    data = OnCircle(pendulum())
    loader = DataLoader(data, batch_size=2, num_workers=1, multiprocessing_context=context, timeout=SECONDS)
    found = torch.cat(list(loader)).numpy()
    np.testing.assert_array_equal(found, np.stack([data[i] for i in range(len(data))]))
    assert np.abs(found[:, 2]).max() > 0.1  # numbers, not zeros


# -- the same numbers --------------------------------------------------------------------------------------------------


def _solved(pickled):
    system = pickle.loads(pickled)
    solution = solve_dae(system, hanging(0.4), TS, rtol=1e-6)
    return solution.x, solution.stats["n_steps"]


@pytest.mark.slow
def test_a_system_from_another_process_solves_to_the_same_numbers():
    """Spawned: its hashes of names are others, so that no set has the same order."""
    own = solve_dae(pendulum(), hanging(0.4), TS, rtol=1e-6)
    x, n_steps = outcome_in_child("spawn", _solved, pickle.dumps(pendulum()))
    np.testing.assert_array_equal(x, own.x)
    assert n_steps == own.stats["n_steps"]


# -- threads -----------------------------------------------------------------------------------------------------------


def in_threads(function, n):
    """The results of `function(i)` in n threads that begin at once."""
    results, barrier = [None] * n, threading.Barrier(n)

    def run(i):
        barrier.wait()
        try:
            results[i] = function(i)
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return results


def test_threads_reduce_a_system_once():
    system = System(valve().equations, valve().states, valve().parameters)
    first, *others = in_threads(lambda _: system.reduce(), 4)
    assert all(other is first for other in others)
    first, *others = in_threads(lambda _: system.reduce().numpy(), 4)
    assert all(other is first for other in others)


def test_threads_that_generate_at_once_get_the_right_numbers():
    """Values and Jacobians come from one tape, which grows as each is asked for."""
    system = library.chain_pendulum(8)
    alone = System(system.equations, system.states, system.parameters).reduce().numpy()
    together = System(system.equations, system.states, system.parameters).reduce().numpy()
    y, w = np.random.default_rng(0).normal(size=(2, max(alone.n_y, alone.n_w)))
    y, w = y[: alone.n_y], w[: alone.n_w]
    calls = [
        lambda f: f.leading_system(y, w), lambda f: f.leading_jacobian(y, w), lambda f: f.solve_leading(y)[0],
        lambda f: f.leading_jacobian(y, w, by="y"), lambda f: f.constraints_jacobian(y), lambda f: f.constraints(y),
    ]  # fmt: skip
    found = in_threads(lambda i: calls[i % len(calls)](together), 2 * len(calls))
    for i, value in enumerate(found):
        np.testing.assert_allclose(value, calls[i % len(calls)](alone), rtol=1e-12, atol=1e-12)


def test_two_threads_solve_one_system_at_once():
    system = System(pendulum().equations, pendulum().states, pendulum().parameters, name="shared")
    starts, options = [hanging(0.4), hanging(1.1)], {"rtol": 1e-6, "integrator": "dopri5", "method": "plain"}
    found = in_threads(lambda i: solve_dae(system, starts[i], TS, **options), 2)
    for start, solution in zip(starts, found, strict=True):
        np.testing.assert_array_equal(solution.x, solve_dae(system, start, TS, **options).x)
