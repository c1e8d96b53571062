"""Default tolerances go by the residual's own scale: projections in any unit, wherever the origin is."""

import numpy as np
import pytest
import scipy.optimize
import sympy as sp
import torch
from hypothesis import given, settings, strategies as st

from ndae.solvers import project
from ndae.symbolic import ANCHOR, Constraint, norm, point
from tests.solvers import cases

X, Y, Z, SIZE = sp.symbols("x y z size")
A, B, C = (point(name, 3) for name in "abc")
#: Each with states of size 1 that violate it, by a length of this size, and what its residual's size is a power of.
SHAPES = {
    "circle": (Constraint([sp.sqrt(X**2 + Y**2) - SIZE], [X, Y], {SIZE: None}, name="circle"), 1),
    "squared": (Constraint([X**2 + Y**2 - SIZE**2], [X, Y], {SIZE: None}, name="squared"), 2),
    "ellipsoid": (Constraint([X**2 / 4 + Y**2 + Z**2 / 2 - SIZE**2], [X, Y, Z], {SIZE: None}, name="ellipsoid"), 2),
    "cubic": (Constraint([X**3 + 2 * Y**3 - SIZE**3], [X, Y], {SIZE: None}, name="cubic"), 3),
    "curve": (Constraint([X**2 + Y**2 + Z**2 - 2 * SIZE**2, SIZE * Z - X * Y], [X, Y, Z], {SIZE: None}, name="c"), 2),
    "link": (Constraint.template([norm(B - A) - SIZE], [A, B], [(ANCHOR, 0), (0, 1)], parameters={SIZE: None}), 1),
    "molecule": (
        Constraint.template(
            [norm(B - A) - SIZE, norm(C - A) - SIZE, norm(C - B) - sp.Rational(3, 2) * SIZE],
            [A, B, C], [(0, 1, 2)], parameters={SIZE: None},
        ), 1,
    ),
}  # fmt: skip


def states(name: str, n: int, noise: float, seed: int) -> torch.Tensor:
    """States of size 1 near the manifold of size 1."""
    generator = torch.Generator().manual_seed(seed)
    if name == "molecule":
        return cases.molecule_states(n, 1, noise, seed=seed)
    if name == "link":
        return cases.chain_states(n, 2, noise, dim=3, seed=seed)
    f = SHAPES[name][0].torch().double()
    first = torch.rand(n, f.n_states, dtype=torch.float64, generator=generator) * 0.5 + 0.6
    one = project(f, first, parameters={"size": torch.ones((), dtype=torch.float64)}).y
    return one + noise * torch.randn(one.shape, dtype=torch.float64, generator=generator)


def slsqp(f, start: np.ndarray) -> np.ndarray:
    """The nearest point of size 1 by a solver that shares nothing with ours but c and J."""
    size = {"size": torch.ones((), dtype=torch.float64)}
    found = scipy.optimize.minimize(
        lambda x: 0.5 * ((x - start) ** 2).sum(),
        start,
        jac=lambda x: x - start,
        constraints={
            "type": "eq",
            "fun": lambda x: f.residual(torch.from_numpy(x), None, size).numpy(),
            "jac": lambda x: f.jacobian(torch.from_numpy(x)[None], None, size)[0].numpy(),
        },
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    return found.x


def check_against_slsqp(name, scale, dtype, noise, seed, n=3, **options):
    """In the unit of the scale all is as at size one: the manifold is met, and the point is SLSQP's."""
    f, power = SHAPES[name][0].torch().to(dtype), SHAPES[name][1]
    start = (states(name, n, noise, seed) * scale).to(dtype)
    size = {"size": torch.tensor(scale, dtype=dtype)}
    p = project(f, start, parameters=size, throw=False, **options)
    if dtype == torch.float32 and not 1e-26 < scale ** (2 * power - 2) < 1e36:
        # Squares of gradients leave the range of single precision: what is not reached is said, what is said is right.
        p, start = project(f, start[p.converged], parameters=size, **options), start[p.converged]
    assert p.converged.all() and p.minimum.all()
    exact, rtol = SHAPES[name][0].torch().double(), 1e-10 if dtype == torch.float64 else 1e-5
    y = p.y.double() / scale  # the residual, evaluated without rounding of float32
    own = {"size": torch.tensor(scale, dtype=dtype).double() / scale}
    left = exact.residual(y, None, own).abs()
    assert (left <= 2 * rtol * exact.scale(y, None, own) + 64 * torch.finfo(dtype).eps).all(), (left.max(), power)
    for ours, given_ in zip(y, start.double() / scale, strict=True):
        known = slsqp(exact, given_.numpy())
        # Where SLSQP went to another of several nearest points ours must not be farther by more.
        ours_far, known_far = np.linalg.norm(ours - given_), np.linalg.norm(known - given_.numpy())
        if np.linalg.norm(ours.numpy() - known) > 30 * rtol**0.5:
            assert ours_far <= known_far * (1 + 1e-2), (ours, known, given_)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)), st.floats(-10, 9), st.sampled_from([torch.float64, torch.float32]),
    st.floats(0.0, 0.15), st.integers(0, 2**31),
)  # fmt: skip
def test_any_scale_against_slsqp(name, power, dtype, noise, seed):
    check_against_slsqp(name, 10.0**power, dtype, noise, seed)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(SHAPES)), st.floats(-10, 9), st.sampled_from([torch.float64, torch.float32]),
    st.floats(0.0, 0.15), st.integers(0, 2**31), st.sampled_from(["newton", "conjugate_gradient"]),
)  # fmt: skip
def test_any_scale_against_slsqp_at_length(name, power, dtype, noise, seed, solver):
    check_against_slsqp(name, 10.0**power, dtype, noise, seed, n=6, solver=solver)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_water_in_metres():
    """A bond of 1.3e-10 m where 0.957e-10 m is asked is no rounding of zero."""
    size = 0.957e-10
    f = SHAPES["link"][0].torch().double()
    start = torch.tensor([[1.3e-10, 0, 0, 1.3e-10, 0.9e-10, 0]], dtype=torch.float64)
    p = project(f, start, parameters={"size": size})
    lengths = torch.stack([p.y[0, :3].norm(), (p.y[0, 3:] - p.y[0, :3]).norm()])
    assert p.iterations.item() > 0
    torch.testing.assert_close(lengths / size, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [1e-12, 1e-6, 1e3, 1e6, 1e9])
def test_circles_of_any_radius(radius, dtype):
    generator = torch.Generator().manual_seed(1)
    f = cases.circle(radius).to(dtype)
    start = (radius * torch.randn(100, 2, dtype=torch.float64, generator=generator)).to(dtype)
    p = project(f, start)
    assert p.converged.all()
    exact = radius * start.double() / start.double().norm(dim=-1, keepdim=True)
    rtol = 1e-9 if dtype == torch.float64 else 3e-5
    assert ((p.y.double().norm(dim=-1) / radius - 1).abs() < rtol).all()
    assert ((p.y.double() - exact).norm(dim=-1) < 10 * rtol**0.5 * radius).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_is_judged_by_its_own_scale(dtype):
    """Sizes from 1e-10 to 1e9 in one batch: each sample comes to what it comes to alone."""
    f = SHAPES["molecule"][0].torch().to(dtype)
    sizes = 10.0 ** torch.arange(-10, 10, dtype=torch.float64)
    start = (states("molecule", 20, 0.1, 5) * sizes[:, None]).to(dtype)
    together = project(f, start, parameters={"size": sizes[:, None].to(dtype).expand(20, 1)})
    assert together.converged.all()
    for i in range(0, 20, 3):
        alone = project(f, start[i], parameters={"size": sizes[i].to(dtype)})
        assert alone.iterations == together.iterations[i]
        torch.testing.assert_close(alone.y / sizes[i], together.y[i] / sizes[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("away", [0.0, 1e2, 1e5])
def test_far_from_the_origin(away):
    """A link is as long there as anywhere, to the rounding of its ends and no worse."""
    f = cases.molecules(1)
    start = cases.molecule_states(50, 1, 0.05) + away
    p = project(f, start)
    apart = p.y.unflatten(-1, (3, 3))
    left = ((apart[:, 1] - apart[:, 0]).norm(dim=-1) - 1).abs().max()
    assert p.converged.all() and left <= max(1e-10, 64 * 2.3e-16 * away)
    again = project(f, p.y)
    assert (again.iterations == 0).all() and torch.equal(again.y, p.y)
    single = project(f.float(), start.float(), throw=False)
    apart = single.y.double().unflatten(-1, (3, 3))
    left = ((apart[:, 1] - apart[:, 0]).norm(dim=-1) - 1).abs().max()
    assert single.converged.all() and left <= max(2e-5, 64 * 1.2e-7 * away)


@pytest.mark.parametrize(
    ("rows", "start", "nearest"),
    [
        ([sp.sin(X) + 0 * Y], [0.3], [0.0]),
        ([X + Y + Z], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
        ([X + Y + Z], [1e-9, 2e-9, -1e-9], [1e-9 / 3, 4e-9 / 3, -5e-9 / 3]),
        ([Y - X], [1e-12, 3e-12], [2e-12, 2e-12]),
        ([X * Y], [1e-3, 5.0], [0.0, 5.0]),
        ([(X - 1) * (Y - 2)], [1.1, 7.0], [1.0, 7.0]),
        ([sp.exp(X) - 1], [0.25], [0.0]),
        ([sp.exp(X) - sp.cos(Y) + Z], [0.0, 0.0, 0.3], None),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_all_terms_vanish_at_the_solution(rows, start, nearest, dtype):
    names = [s for s in (X, Y, Z) if any(s in row.free_symbols for row in rows)]
    f = Constraint(rows, names).torch().to(dtype)
    p = project(f, torch.tensor(start, dtype=dtype))
    assert p.converged
    if nearest is not None:
        size = max(map(abs, start))
        torch.testing.assert_close(p.y, torch.tensor(nearest, dtype=dtype), rtol=0, atol=1e-4 * size)
    again = project(f, p.y)
    assert p.iterations <= 8 and again.iterations <= 8
    torch.testing.assert_close(again.y, p.y, rtol=0, atol=64 * torch.finfo(dtype).eps * max(map(abs, start)))


@pytest.mark.parametrize("radius", [1e-10, 1.0, 1e8])
@pytest.mark.parametrize("make", [lambda: SHAPES["circle"], lambda: SHAPES["squared"]])
def test_the_centre_of_a_circle_of_any_size(make, radius):
    """Where there is no gradient the way out is as long as the constraint says, not a number of metres."""
    f = make()[0].torch().double()
    p = project(f, torch.zeros(1, 2, dtype=torch.float64), parameters={"size": radius})
    assert p.y.norm().item() == pytest.approx(radius, rel=1e-9) and p.iterations.item() < 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_that_vanishes_hides_no_other_residual(dtype):
    """Of a linear residual that is exactly zero nothing is left to compare with, while others are still large."""
    f = Constraint([sp.sqrt(X**2 + Y**2) - 1, Z - 2 * SIZE], [X, Y, Z, SIZE], name="circle and plane").torch()
    y = torch.tensor([[1.3, 0.4, 1.0, 0.5], [0.2, 0.9, 0.7, 0.1], [0.6, 0.8, 2.0, 1.0]], dtype=dtype)
    found = project(f, y)
    exact = 1e-10 if dtype == torch.float64 else 1e-5
    assert found.converged.all()
    assert f.residual(found.y).abs().max() <= exact
    nearest = y[:, :2] / torch.linalg.vector_norm(y[:, :2], dim=-1, keepdim=True)
    torch.testing.assert_close(found.y[:, :2], nearest, rtol=0, atol=exact**0.5)
    assert found.iterations.max() < 6  # nor does what is left of it by rounding keep all others going


def test_absolute_and_relative_tolerances():
    f, start = cases.chain(3), cases.chain_states(20, 3, 0.1)
    loose, tight = (project(f, start, rtol=r).residual.max() for r in (1e-3, 1e-13))
    assert 1e-13 < loose < 2e-3 and tight < 2e-13
    with pytest.raises(ValueError, match="both given"):
        project(f, start, tol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match="rtol=1e-18 is not within reach"):
        project(f, start, rtol=1e-18)
    # In the constraint's unit: of links of 1e-10 m less than the rounding of a metre is within reach, and met.
    small = project(cases.circle(1e-10), start[:, :2] * 1e-10, tol=1e-22)
    assert small.converged.all() and small.residual.max() <= 1e-22


@pytest.mark.parametrize("backend", ["torch", "numpy", "jax"])
def test_scale_is_the_size_of_what_cancels(backend):
    f = Constraint([X**2 + Y**2 - SIZE**2, X - Y - 3, SIZE * (X * Y - Z)], [X, Y, Z], {SIZE: 2.0})
    y = np.array([[3.0, -1.0, 2.0]], dtype=np.float32)
    given_ = torch.tensor(y) if backend == "torch" else y
    found = np.asarray(getattr(f, backend)().scale(given_))
    np.testing.assert_allclose(found, [[(9 + 1 + 4) / 2, (4 + 3) / 2, 2 * (3 + 2) / 2]], rtol=1e-6)
