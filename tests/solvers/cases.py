"""Constraints and states that the tests of the solvers share."""

import math

import sympy as sp
import torch

from ndae.symbolic import ANCHOR, Constraint, norm, point


def chain(n: int, dim: int = 2, learn: tuple[str, ...] = (), per_link: bool = False):
    """n links from the origin, |b - a| - length, compiled for float64."""
    a, b, length = point("a", dim), point("b", dim), sp.Symbol("length")
    over = [(ANCHOR if i == 0 else i - 1, i) for i in range(n)]
    value = torch.linspace(0.8, 1.2, n, dtype=torch.float64).numpy() if per_link else 1.0
    return (
        Constraint.template([norm(b - a) - length], [a, b], over, parameters={length: value})
        .torch(learn=learn)
        .double()
    )


def molecules(n: int):
    """n rigid triangles of three points in space."""
    a, b, c = (point(name, 3) for name in "abc")
    rows = [norm(a - b) - 1, norm(a - c) - 1, norm(b - c) - 1.5]
    return Constraint.template(rows, [a, b, c], [(3 * i, 3 * i + 1, 3 * i + 2) for i in range(n)]).torch().double()


def ring(n: int):
    """n points, each at distance 1 from the next, in a ring: a Gram matrix that is neither diagonal nor tridiagonal."""
    a, b = point("a", 2), point("b", 2)
    return Constraint.template([norm(b - a) - 1], [a, b], [(i, (i + 1) % n) for i in range(n)]).torch().double()


def circle(radius: float = 1.0, learn: tuple[str, ...] = ()):
    """|y| - r in the plane, as a plain list."""
    x, y, r = sp.symbols("x y r")
    return Constraint([sp.sqrt(x**2 + y**2) - r], states=[x, y], parameters={r: radius}).torch(learn=learn).double()


def moving_ellipse():
    """x²/4 + y² - (1 + t/2)², with an explicit time."""
    x, y, t = sp.symbols("x y t")
    return Constraint([x**2 / 4 + y**2 - (1 + t / 2) ** 2], states=[x, y], time=t).torch().double()


def two_surfaces():
    """A sphere cut by a paraboloid: two residuals over three states, as a plain list."""
    x, y, z = sp.symbols("x y z")
    return Constraint([x**2 + y**2 + z**2 - 2, z - x * y], states=[x, y, z]).torch().double()


def chain_states(batch: int, n: int, noise: float, *, dim: int = 2, seed: int = 0, lengths=None) -> torch.Tensor:
    """Random links of length one (or `lengths`), every coordinate displaced by normal noise (m); (batch, n * dim)."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(batch, n, dim, dtype=torch.float64, generator=generator)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    if lengths is not None:
        direction = direction * lengths[:, None]
    displaced = direction.cumsum(1) + noise * torch.randn(batch, n, dim, dtype=torch.float64, generator=generator)
    return displaced.flatten(1)


def molecule_states(batch: int, n: int, noise: float, *, seed: int = 0) -> torch.Tensor:
    """Triangles that obey `molecules`, moved about and displaced by normal noise; (batch, 9 n)."""
    generator = torch.Generator().manual_seed(seed)
    height = math.sqrt(1 - 0.75**2)
    triangle = torch.tensor([[0.0, 0, 0], [0.75, height, 0], [-0.75, height, 0]], dtype=torch.float64)
    centre = 3 * torch.randn(batch, n, 1, 3, dtype=torch.float64, generator=generator)
    displaced = centre + triangle + noise * torch.randn(batch, n, 3, 3, dtype=torch.float64, generator=generator)
    return displaced.flatten(1)
