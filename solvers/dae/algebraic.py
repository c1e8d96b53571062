"""The leading unknowns at a start: Newton's iteration from a guess, and a search block by block where that fails."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from ndae.solvers.dae.descent import Descended, Linearised, descended, far_starts, starts
from ndae.symbolic.forms.reduced_equations import Block
from ndae.symbolic.ground.words import listed, shortened
from ndae.symbolic.numeric.sizes import typical_sizes

#: Relatively, two roots farther apart than this are two.
_APART = 1e-5


def leading_at_start(
    reduced: Any,
    y: Float[np.ndarray, " n_y"],
    guess: Float[np.ndarray, " n_w"],
    t: float,
    parameters: Mapping[str, Any] | None,
    *,
    taken: Float[np.ndarray, " n_w"] | None = None,
) -> tuple[Float[np.ndarray, " n_w"], str]:
    """w with T(y, w, t) = 0, and why there is none, empty where there is one; `guess` is NaN where nothing is guessed.

    First by Newton's iteration from the guess, zero where there is none. Where that fails the blocks of T are solved
    one after the other, each from many starts: around the guess, or around zero of many sizes; of several roots it is
    the first from a guess, else the smallest that was found, and of two as small the positive one, with a warning; or
    the one `taken`, where another search has found it.
    """
    w, found = _newton(reduced, y, np.nan_to_num(guess), t, parameters)
    if found:
        return w, ""
    w, trouble = np.where(np.isfinite(guess), guess, 0.0), ""
    for block in reduced.blocks:
        columns = list(block.unknowns)
        linearised = _of_block(reduced, block, y, w, t, parameters)
        at, others = _searched(linearised, guess[columns], _sizes_of(reduced, block), block.linear)
        if not at.holds:
            return w, _trouble(reduced, block, linearised, at, t)
        if taken is not None:
            found, at = [at.z, *others], at._replace(z=taken[columns])
            others = [z for z in found if np.any(np.abs(z - at.z) > _APART * (np.abs(z) + np.abs(at.z)).max())]
        if others:
            names = [reduced.w[j].name for j in columns]
            warnings.warn(
                f"{listed(names)} can be several things at the start of {reduced.system.name!r}, t = {t:g}: taken is "
                f"{_values(names, at.z)}, and not {_values(names, others[0])}; a guess chooses",
                stacklevel=4,
            )
        w[columns] = at.z
    w, found = _newton(reduced, y, w, t, parameters)
    if not found:
        trouble = (
            f"the equations at t = {t:g} give no values of {listed([s.name for s in reduced.w])}: they are singular "
            "where they hold"
        )
    return w, trouble


def _newton(reduced: Any, y: np.ndarray, guess: np.ndarray, t: float, parameters: Any) -> tuple[np.ndarray, bool]:
    with np.errstate(all="ignore"):
        w, converged = reduced.numpy().solve_leading(y, t, parameters, guess=guess)
    return w, bool(np.all(converged)) and bool(np.all(np.isfinite(w)))


def _of_block(reduced: Any, block: Block, y: np.ndarray, w: np.ndarray, t: float, parameters: Any) -> Linearised:
    rows, columns, functions = list(block.equations), list(block.unknowns), reduced.numpy()

    def linearised(z):
        here = w.copy()
        here[columns] = z
        jacobian = functions.leading_jacobian(y, here, t, parameters)
        return functions.leading_system(y, here, t, parameters)[rows], jacobian[np.ix_(rows, columns)]

    return linearised


def _sizes_of(reduced: Any, block: Block) -> Float[np.ndarray, " n"]:
    symbols = {reduced.w[j]: reduced.w[j] for j in block.unknowns}
    sizes = typical_sizes([reduced.equations[i] for i in block.equations], symbols)
    return np.array([sizes.get(symbol, 1.0) for symbol in symbols])


def _searched(
    linearised: Linearised, guess: np.ndarray, sizes: np.ndarray, linear: bool
) -> tuple[Descended, list[np.ndarray]]:
    """The root of a block, or what comes nearest to one; and other roots that were met, where nothing was guessed."""

    def in_sizes(z):
        residual, jacobian = linearised(sizes * z)
        return residual, jacobian * sizes

    guess, n = guess / sizes, guess.size
    guessed = np.isfinite(guess)
    phases = [starts(n), far_starts(n)]
    if guessed.any():
        random, unit = np.random.default_rng(0), np.where(guess != 0, np.abs(guess), 1.0)
        around = [guess + far * unit * random.normal(size=n) for far in (0.1, 0.3, 1.0, 3.0)]
        near = [np.where(guessed, guess, start) for start in phases[0]]
        phases = [near + [np.where(guessed, start, 1.0) for start in around], *phases]
    found: list[Descended] = []
    for begin in [phases[0][:2]] if linear else phases:
        for start in begin:
            at = descended(in_sizes, start)
            found.append(at._replace(z=sizes * at.z))
            if at.holds and guessed.any():
                return found[-1], []
        if any(at.holds for at in found):
            break
    roots = [at for at in found if at.holds]
    if not roots:
        return min(found, key=lambda at: at.misfit), []
    best = min(roots, key=lambda at: np.round(np.log(np.abs(at.z / sizes).max() + 1e-300), 6))
    unit = np.maximum(np.abs(best.z), sizes)
    return best, [at.z for at in roots if np.any(np.abs(at.z - best.z) > _APART * unit)]


def _trouble(reduced: Any, block: Block, linearised: Linearised, at: Descended, t: float) -> str:
    """Which block has no root that was found, its equations, and how near it came."""
    with np.errstate(all="ignore"):
        residual = linearised(at.z)[0]
    names = [reduced.w[j].name for j in block.unknowns]
    equations = [
        f"0 = {shortened(reduced.equations[i], 80)} (there {value:.3g})"
        for i, value in zip(block.equations, residual, strict=True)
    ]
    if block.linear:
        return f"the equations at t = {t:g} give no values of {listed(names)}: {_first(equations)} is singular there"
    return (
        f"no values of {listed(names)} were found at t = {t:g}: the nearest to {_first(equations)} is "
        f"{_values(names, at.z)}; give a guess of them, or other values of what is given"
    )


def _values(names: list[str], z: np.ndarray) -> str:
    return listed([f"{name} = {value:.4g}" for name, value in zip(names, z, strict=True)])


def _first(equations: list[str]) -> str:
    more = len(equations) - 3
    return "; ".join(equations[:3]) + (f" and {more} more" if more > 0 else "")
