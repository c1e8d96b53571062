"""Singular postures on the way: where constraints lose rank at one instant, a smooth motion is continued behind it.

At a four-bar that lies flat, or two equal links that fold, the constraint Jacobian loses rank, other motions branch
off, and steps that end too near collapse. The motion that came is analytic there, though, so that it is known on the
other side from values and rates before: by Hermite's polynomial, whose error two of them show and the constraints
confirm.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ndae.solvers.dae.diagnosis import in_units_of, reciprocal_condition
from ndae.solvers.solution import SUCCESS
from ndae.solvers.stepping.jumps import Jumps
from ndae.solvers.stepping.kernel import Outcome

_SINGULAR = (
    1e-3  # smallest over largest singular value, in units of rows and columns, of constraints that may lose rank
)
_NODES = 5  # values and rates that a polynomial goes through
_FARTHEST = 10.0  # of the nodes, in half-widths of the gap
_HALVES = tuple(4.0**-k for k in range(2, 11))  # of the gap, in the time since the start or the gap before
_AGREE = 10.0  # how many times `rtol`, of the size of a variable, polynomials may differ
_GOOD = 0.1  # of what is allowed
_LEAST = 1e-11  # what they may differ by in any case, of that size
_ITERATIONS = 6

#: Among rows, outputs whose w is interpolated: solved for there, it would be rounding.
IN_GAP = "in a gap"

#: The solve from y and w at the times ts, its rows "y" and "w".
Run = Callable[[np.ndarray, np.ndarray, np.ndarray], Outcome]


class _Nodes(NamedTuple):
    """Values at some times, and rates of y."""

    ts: np.ndarray
    y: np.ndarray
    w: np.ndarray
    rates: np.ndarray


class _Point(NamedTuple):
    t: float
    y: np.ndarray
    w: np.ndarray


class _Crossing(NamedTuple):
    """Half the width of the gap, nodes before it, the state behind it, and by how much that is uncertain."""

    half: float
    nodes: _Nodes
    y: np.ndarray
    w: np.ndarray
    error: float


def solved_across(
    reduced: Any,
    run: Run,
    y: np.ndarray,
    w: np.ndarray,
    ts: np.ndarray,
    rtol: float,
    parameters: Mapping[str, Any],
    jumps: Jumps | None,
) -> Outcome:
    """The solve from y (N,) and w (n,), continued across postures where constraints lose rank, with a warning of each.

    Where no smooth motion is found behind one, to about `rtol`, the solve ends there as it did.
    """
    whole = run(y, w, ts)
    begun = _Point(float(ts[0]), y, w)
    while whole.result != SUCCESS and reduced.constraints and _loses_rank(reduced, whole, parameters):
        found = _best(reduced, run, whole, begun, ts.size, rtol, parameters, jumps)
        if found is None:
            break
        warnings.warn(
            f"the constraints of {reduced.system.name!r} lose rank near t = {float(whole.t):.4g}, where other "
            "motions may branch off: the one that is smooth goes on",
            stacklevel=5,
        )
        begun = _Point(float(whole.t) + found.half, found.y, found.w)
        whole = _continued(reduced, run, whole, found, ts)
        if float(whole.t) - begun.t < found.half:
            break  # it got nowhere
    return whole


def _loses_rank(reduced: Any, outcome: Outcome, parameters: Mapping[str, Any]) -> bool:
    y = outcome.y[: len(reduced.y)]
    matrix = reduced.numpy().constraints_jacobian(y, float(outcome.t), parameters)
    return bool(np.all(np.isfinite(matrix))) and reciprocal_condition(in_units_of(matrix, y))[0] < _SINGULAR


def _best(
    reduced: Any,
    run: Run,
    whole: Outcome,
    begun: _Point,
    n_times: int,
    rtol: float,
    parameters: Any,
    jumps: Jumps | None,
) -> _Crossing | None:
    """The widest of gaps behind which polynomials agree well, else the best one, if they agree well enough."""
    at = float(whole.t)
    found: list[_Crossing] = []
    for half in (share * (at - begun.t) for share in _HALVES):
        if jumps is not None and np.any(np.abs(np.asarray(jumps.at) - at) <= _FARTHEST * half):
            continue  # the motion is not smooth there
        crossing = _attempt(reduced, run, whole, begun, half, n_times, rtol, parameters)
        found += [] if crossing is None else [crossing]
        if crossing is not None and crossing.error <= _GOOD:
            return crossing  # of wide gaps multipliers are known best: rounding goes by their third power
    best = min(found, key=lambda crossing: crossing.error, default=None)
    return best if best is not None and best.error <= 1.0 else None


def _attempt(
    reduced: Any, run: Run, whole: Outcome, begun: _Point, half: float, n_times: int, rtol: float, parameters: Any
) -> _Crossing | None:
    """The state behind a gap, and its error in units of what is allowed."""
    at = float(whole.t)
    wanted = at - half * _distances()[::-1]
    base = begun
    for k in np.flatnonzero((whole.ts[: whole.n_reached] > begun.t) & (whole.ts[: whole.n_reached] < wanted[0]))[-1:]:
        base = _Point(float(whole.ts[k]), whole.rows["y"][k], whole.rows["w"][k])
    # As many outputs as the solve has, for which it is compiled.
    more = np.linspace(base.t, wanted[0], max(n_times - _NODES, 2))[:-1]
    nodes = _nodes(reduced, run(base.y, base.w, np.concatenate([more, wanted])), _NODES)
    if nodes is None:
        return None
    there = at + half
    y, coarse = (_hermite(nodes, there, least) for least in (0, 1))
    projected = _projected(reduced, y, there, parameters)
    if projected is None:
        return None
    size = np.maximum(np.abs(nodes.y).max(axis=0), np.abs(whole.rows["y"]).max(axis=0))
    size = np.maximum(size, np.abs(nodes.rates).max(axis=0) * (at - whole.ts[0])) + np.finfo(float).tiny
    off = np.maximum(np.abs(y - coarse), np.abs(projected - y)) / size
    guess = _interpolated(nodes, there)
    with np.errstate(all="ignore"):
        w, solved = reduced.numpy().solve_leading(projected, there, parameters, guess=guess)
    good = bool(np.all(solved)) and bool(np.all(np.isfinite(off)))
    return _Crossing(half, nodes, projected, w, float(off.max() / max(_AGREE * rtol, _LEAST))) if good else None


def _distances() -> np.ndarray:
    """Of the nodes from the singular posture, in halves of the gap, as Chebyshev has them."""
    angles = np.pi * (np.arange(_NODES) + 0.5) / _NODES
    return (1 + _FARTHEST) / 2 - (_FARTHEST - 1) / 2 * np.cos(angles)


def _nodes(reduced: Any, outcome: Outcome, count: int) -> _Nodes | None:
    if outcome.result != SUCCESS:
        return None
    ts, y, w = outcome.ts[-count:], outcome.rows["y"][-count:], outcome.rows["w"][-count:]
    rates = np.asarray(reduced.numpy().rates(y, w))
    return _Nodes(ts, y, w, rates) if np.all(np.isfinite(rates)) else None


def _hermite(nodes: _Nodes, t: Any, least: int = 0) -> np.ndarray:
    """y at t by the polynomial through values and rates, without the first `least` nodes."""
    from scipy.interpolate import KroghInterpolator  # here: it takes a fifth of a second, and most solves cross nothing

    places = np.repeat(nodes.ts[least:], 2)
    values = np.stack([nodes.y[least:], nodes.rates[least:]], axis=1).reshape(places.size, -1)
    middle = places.mean()
    return KroghInterpolator(places - middle, values)(t - middle)


def _interpolated(nodes: _Nodes, t: Any) -> np.ndarray:
    """w at t by the polynomial through its values."""
    from scipy.interpolate import BarycentricInterpolator

    middle = nodes.ts.mean()
    return BarycentricInterpolator(nodes.ts - middle, nodes.w)(t - middle)


def _projected(reduced: Any, y: np.ndarray, t: float, parameters: Any) -> np.ndarray | None:
    """The nearest point of C(y, t) = 0, in units of y; None where there is none so near that few steps find it."""
    functions, size = reduced.numpy(), np.abs(y) + 1e-6 * np.abs(y).max()
    for _ in range(_ITERATIONS):
        residual, jacobian = functions.constraints(y, t, parameters), functions.constraints_jacobian(y, t, parameters)
        jacobian = jacobian * size
        rows = np.maximum(np.abs(jacobian).max(axis=1), np.finfo(float).tiny)
        if not (np.all(np.isfinite(residual)) and np.all(np.isfinite(jacobian))):
            return None
        step = np.linalg.lstsq(jacobian / rows[:, None], residual / rows, rcond=None)[0]
        y = y - size * step
        if np.abs(step).max(initial=0.0) < 1e-13:
            return y
    return y


def _continued(reduced: Any, run: Run, whole: Outcome, found: _Crossing, ts: np.ndarray) -> Outcome:
    """The outcome with outputs in the gap, and those of a further solve behind it."""
    at = float(whole.t)
    behind, before = at + found.half, int(np.searchsorted(whole.ts[: whole.n_reached], at - found.half))
    inside = ts[before:][ts[before:] <= behind]
    parts = [(whole.ts[:before], whole.rows["y"][:before], whole.rows["w"][:before], np.zeros(before, dtype=bool))]
    if inside.size:
        beyond = run(found.y, found.w, np.concatenate([[behind], at + found.half * (_distances() + 1e-3)]))
        nodes = _nodes(reduced, beyond, _NODES)
        both = [found.nodes] if nodes is None else [found.nodes, nodes]
        every = _Nodes(*(np.concatenate(part) for part in zip(*both, strict=True)))
        within = np.ones(inside.size, dtype=bool)
        parts.append((inside, _hermite(every, inside), _interpolated(every, inside), within))
    rest = ts[before + inside.size :]
    following = run(found.y, found.w, np.concatenate([[behind], rest])) if rest.size else None
    stats, last = whole.stats, replace(whole, result=SUCCESS, t=np.asarray(behind), y=found.y)
    if following is not None:
        n = int(following.n_reached)
        parts.append(
            (following.ts[1:n], following.rows["y"][1:n], following.rows["w"][1:n], np.zeros(n - 1, dtype=bool))
        )
        stats = {name: value + following.stats[name] for name, value in stats.items()}
        last = following
    times, y, w, known = (np.concatenate(part) for part in zip(*parts, strict=True))
    # A gap of before is one of what was reached.
    known[:before] = whole.rows.get(IN_GAP, known)[:before]
    return replace(last, ts=times, rows={"y": y, "w": w, IN_GAP: known}, stats=stats, n_reached=times.size)
