"""Points of local coordinates, and what a person writes with them."""

from collections.abc import Iterable

import sympy as sp

#: Name of the fixed point that a template has without being told; it lies at the origin unless `anchors` moves it.
ANCHOR = "anchor"


def point(name: str, dim: int) -> sp.Matrix:
    """A local point of a template: the column (name_0, ..., name_{dim-1}) of real symbols, shape (dim, 1).

    Raises ValueError if the name is no identifier or dim is not a positive integer.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"point name {name!r} is not an identifier: write a name like 'a'")
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise ValueError(f"point {name!r} has dimension {dim!r}: expected a whole number of coordinates, at least 1")
    return sp.Matrix([sp.Symbol(f"{name}_{i}", real=True) for i in range(dim)])


def norm(vector: sp.MatrixBase | Iterable[sp.Expr]) -> sp.Expr:
    """Euclidean length √(Σ vᵢ²); its generated derivatives stay finite where the vector is zero."""
    return sp.sqrt(sum((entry**2 for entry in sp.flatten(vector)), sp.Integer(0)))
