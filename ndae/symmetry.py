"""Does a function turn with its input? Tried on random rotations, translations and permutations, and the inversion."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GROUPS = ("rotation", "inversion", "translation", "molecules", "atoms")
OUTPUTS = ("positions", "vectors", "scalars")
#: Largest violation that `assert_equivariant` lets pass, absolute and relative to the largest output.
TOLERANCES = {torch.float64: (1e-9, 1e-9), torch.float32: (2e-4, 2e-4)}


@dataclass(frozen=True)
class EquivarianceViolation:
    """How far `f(g x)` was from `g f(x)`: the largest absolute difference of an entry over the elements `g` tried.

    `group`: the one that `g` is of; `largest`: in the unit of the output; `allowed`: the tolerance there.
    """

    group: str
    largest: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance; not so for what is not finite."""
        return self.largest <= self.allowed


def check_equivariance(
    function: Callable[[Tensor], Tensor],
    x: Float[Tensor, "*batch nodes features"],
    *,
    output: str = "positions",
    molecule: Sequence[str] | None = None,
    which: Sequence[str] | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    n_elements: int = 2,
    size: float = 3.0,
    seed: int = 0,
) -> dict[str, EquivarianceViolation]:
    """How far `function` is from turning with its input, for each of several groups.

    `x` `(..., nodes, 3 k)`: blocks of vectors at every node, the first positions, the others (velocities) not moved by
    translations. `output`: what `function` gives, `"positions"` or `"vectors"` `(..., nodes, 3 k)`, of which the first
    block is moved by translations or none is, or `"scalars"` `(...)`, such as energies, which nothing changes.

    `which` of the groups: "rotation", "inversion", "translation" (of each sample by a vector of its own, about `size`
    long), "molecules" (their order), and "atoms" (exchange of like ones in one molecule or more). `molecule`: letters
    of the atoms of a molecule, equal ones alike, such as `("O", "H", "H")`; left out, every node is a molecule of one
    atom. Without `which`, all that there are. `n_elements` of each group are tried, drawn from `seed`. `atol`, `rtol`:
    what is allowed is `atol + rtol max|f|`; 1e-9 in float64 and 2e-4 in float32 if left out.

    Raises a `ValueError` for shapes that do not fit, and for groups that do not exist here.
    """
    molecule = ("A",) if molecule is None else tuple(molecule)
    groups = _groups(x, molecule, which, output)
    default_atol, default_rtol = TOLERANCES.get(x.dtype, TOLERANCES[torch.float32])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        y = function(x)
        if output == "scalars" and y.shape != x.shape[:-2]:
            raise ValueError(f"the function gives {tuple(y.shape)}, expected {tuple(x.shape[:-2])}: a number a sample")
        if output != "scalars" and (y.shape[:-1] != x.shape[:-1] or y.shape[-1] % 3):
            raise ValueError(
                f"the function gives {tuple(y.shape)}, expected {(*x.shape[:-1], 3)}: vectors of every node"
            )
        allowed = (default_atol if atol is None else atol) + (default_rtol if rtol is None else rtol) * float(
            y.abs().max()
        )
        found = {}
        for group in groups:
            differences = []
            for _ in range(n_elements):
                act = _element(group, x, molecule, size, generator)
                expected = y if output == "scalars" else act(y, output == "positions")
                differences.append(float((function(act(x, True)) - expected).abs().max()))
            # max() of Python drops NaN, depending on the order.
            largest = math.nan if any(map(math.isnan, differences)) else max(differences)
            found[group] = EquivarianceViolation(group, largest, allowed)
    return found


def assert_equivariant(function: Callable[[Tensor], Tensor], x: Tensor, **options) -> None:
    """Raise an `AssertionError` that names the groups and the violations unless `check_equivariance` finds all within
    the tolerance; the arguments are the same."""
    found = check_equivariance(function, x, **options)
    broken = [f"{v.group}: {v.largest:.3g} (allowed {v.allowed:.3g})" for v in found.values() if not v.holds]
    if broken:
        raise AssertionError(f"not equivariant: f(g x) differs from g f(x) under {'; '.join(broken)}")


def _groups(x: Tensor, molecule: tuple[str, ...], which: Sequence[str] | None, output: str) -> Sequence[str]:
    if output not in OUTPUTS:
        raise ValueError(f"output={output!r} is unknown: give one of {', '.join(OUTPUTS)}")
    if x.ndim < 2 or x.shape[-1] % 3:
        raise ValueError(f"the input is (..., nodes, 3 k), vectors of every node, not {tuple(x.shape)}")
    if x.shape[-2] % len(molecule):
        raise ValueError(f"{x.shape[-2]} nodes are no whole number of molecules {molecule}")
    impossible = set()
    if x.shape[-2] == len(molecule):
        impossible.add("molecules")
    if len(set(molecule)) == len(molecule):
        impossible.add("atoms")
    if which is None:
        return [group for group in GROUPS if group not in impossible]
    for group in which:
        if group not in GROUPS:
            raise ValueError(f"there is no group {group!r}: give some of {', '.join(GROUPS)}")
        if group in impossible:
            raise ValueError(f"nothing to permute in group {group!r}: {x.shape[-2]} nodes, molecules {molecule}")
    return which


def _element(group: str, x: Tensor, molecule: tuple[str, ...], size: float, generator: torch.Generator):
    """A random element as a function of `(..., nodes, 3 k)` and whether its first block is positions."""
    if group in ("rotation", "inversion"):
        turn = -torch.eye(3, dtype=torch.float64) if group == "inversion" else _rotation(generator)
        turn = turn.to(x)
        return lambda y, positions: (y.unflatten(-1, (-1, 3)) @ turn.mT).flatten(-2)
    if group == "translation":
        by = (size * torch.randn(*x.shape[:-2], 1, 3, generator=generator, dtype=torch.float64)).to(x)
        return lambda y, positions: torch.cat([y[..., :3] + by, y[..., 3:]], -1) if positions else y
    order = _order(group, x.shape[-2], molecule, generator).to(x.device)
    return lambda y, positions: y.index_select(-2, order)


def _rotation(generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q).sign()


def _order(group: str, nodes: int, molecule: tuple[str, ...], generator: torch.Generator) -> Tensor:
    order = torch.arange(nodes).reshape(-1, len(molecule))
    same = torch.arange(nodes)
    while bool((order.flatten() == same).all()):  # the identity would tell nothing
        if group == "molecules":
            order = order[torch.randperm(len(order), generator=generator)]
            continue
        for row, kind in itertools.product(order, set(molecule)):
            places = torch.tensor([a for a, atom in enumerate(molecule) if atom == kind])
            row[places] = row[places[torch.randperm(len(places), generator=generator)]]
    return order.flatten()
