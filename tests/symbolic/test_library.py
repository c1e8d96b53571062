"""The ready-made constraints against their formulas, written out with NumPy."""

import numpy as np
import pytest

from ndae.symbolic import library

random = np.random.default_rng(0)


def test_chain():
    r = random.normal(size=(4, 5, 3))
    f = library.chain(5, 3, [1, 2, 3, 4, 5]).numpy()
    links = np.linalg.norm(np.diff(r, axis=1, prepend=0.0), axis=-1)
    np.testing.assert_allclose(f.residual(r.reshape(4, 15)), links - [1, 2, 3, 4, 5])


def test_fixed_distances_and_water():
    r = random.normal(size=(4, 6, 3))
    f = library.fixed_distances([(0, 3), ("anchor", 1), (5, 2), (4, 5)], [1.0, 2.0, 3.0, 0.5]).numpy()
    pairs = [r[:, 0] - r[:, 3], r[:, 1], r[:, 5] - r[:, 2], r[:, 4] - r[:, 5]]
    np.testing.assert_allclose(f.residual(r.reshape(4, 18)), np.linalg.norm(pairs, axis=-1).T - [1, 2, 3, 0.5])
    water = library.rigid_molecules(2).numpy()
    o, h1, h2 = np.moveaxis(r.reshape(4, 2, 3, 3), 2, 0)
    expected = np.stack([np.linalg.norm(d, axis=-1) for d in (h1 - o, h2 - o, h2 - h1)], -1) - [0.957, 0.957, 1.513]
    np.testing.assert_allclose(water.residual(r.reshape(4, 18)), expected.reshape(4, 6))
    assert water.residual(r.reshape(4, 18), parameters={"d12": 0.0})[0, 2] == pytest.approx(
        np.linalg.norm((h2 - h1)[0, 0])
    )


def test_unit_norm():
    q = random.normal(size=(4, 3, 4))
    np.testing.assert_allclose(
        library.unit_norm(3, 4).numpy().residual(q.reshape(4, 12)), np.linalg.norm(q, axis=-1) - 1
    )


def test_divergence_free():
    """A field that is the curl of a stream function on the corners has none; the last cell's is minus the others'."""
    nx, ny, hx, hy = 5, 4, 0.1, 0.3
    f = library.divergence_free(nx, ny, (hx, hy)).numpy()
    stream = random.normal(size=(nx, ny))
    u = (np.roll(stream, -1, 1) - stream) / hy
    v = -(np.roll(stream, -1, 0) - stream) / hx
    np.testing.assert_allclose(f.residual(np.stack([u, v], -1).reshape(-1)), np.zeros(nx * ny - 1), atol=1e-12)
    u, v = random.normal(size=(2, nx, ny))
    divergence = (np.roll(u, -1, 0) - u) / hx + (np.roll(v, -1, 1) - v) / hy
    np.testing.assert_allclose(f.residual(np.stack([u, v], -1).reshape(-1)), divergence.reshape(-1)[:-1])
    assert divergence.sum() == pytest.approx(0.0, abs=1e-10)
    assert np.linalg.matrix_rank(f.jacobian(np.zeros(2 * nx * ny))) == nx * ny - 1


def test_linear_invariant():
    weights = np.array([[1.0, 0.25, 0.0], [0.0, 3.0, 0.0]])
    y = random.normal(size=(5, 3))
    f = library.linear_invariant(weights, [1.0, 2.0]).numpy()
    np.testing.assert_allclose(f.residual(y), y @ weights.T - [1.0, 2.0])
    np.testing.assert_allclose(f.jacobian(y), np.broadcast_to(weights, (5, 2, 3)))
    np.testing.assert_allclose(
        library.linear_invariant([1.0, 0.1], 0.5).numpy().residual(y[:, :2]), y[:, :2] @ [[1.0], [0.1]] - 0.5
    )


def test_energy_invariant():
    mass = np.array([1.0, 2.0, 0.5])
    f = library.energy_invariant(library.chain_pendulum(3, 1.0, mass, 9.81), -3.0).numpy()
    q, v = random.normal(size=(2, 4, 3, 2))
    energy = 0.5 * (mass * (v**2).sum(-1)).sum(-1) + 9.81 * (mass * q[..., 1]).sum(-1)
    state = np.concatenate([q.reshape(4, 6), v.reshape(4, 6)], -1)
    np.testing.assert_allclose(f.residual(state)[:, 0], energy + 3.0)
    np.testing.assert_allclose(f.jacobian(state)[:, 0, 6:], np.repeat(mass, 2) * v.reshape(4, 6))
