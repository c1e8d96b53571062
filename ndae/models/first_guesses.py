"""What states may be along a recording, before anything is fitted: seen, slopes of that, and what follows from them."""

from typing import Any

import numpy as np
import sympy as sp

from ndae.data.recording import Recording
from ndae.symbolic.expressions.unknowns import Applied
from ndae.symbolic.functions.vector_function import VectorFunction

# A slope is first guessed from so many observations on each side, by a parabola through them.
_AROUND = 3
# Gauss-Newton steps towards constraints, of states that were not seen.
_CORRECTIONS = 20


def guessed_states(model: Any, r: Recording) -> np.ndarray:
    """A first guess of the differential variables at every time, (n_times, N).

    As observed, or slopes of that; then where outputs that depend on several are as observed, with slopes of that; then
    where constraints hold best. Of unknown functions nothing is asked.
    """
    reduced, observed = model.reduced, observed_values(model, r)
    guess, found = np.zeros((len(r.times), len(reduced.y))), set()
    place = {symbol: j for j, symbol in enumerate(reduced.y)}

    def take_slopes() -> None:
        for symbol, rate in zip(reduced.y, reduced.rates, strict=True):
            if place[symbol] in found and place.get(rate, place[symbol]) not in found:
                guess[:, place[rate]] = _slopes(r.times, guess[:, place[symbol]])
                found.add(place[rate])

    for symbol, j in place.items():
        if symbol in observed or symbol.name in r.start:
            guess[:, j] = observed.get(symbol, r.start.get(symbol.name))
            found.add(j)
        guess[0, j] = r.start.get(symbol.name, guess[0, j])
    take_slopes()
    # An output less what is observed of it is a constraint as others are.
    shown = {name: e for name, e in model.system.outputs.items() if e not in observed and _is_seen(r, name)}
    symbols = {sp.Dummy(name): _between(r, name) for name in shown}
    outputs = [e - s for e, s in zip(shown.values(), symbols, strict=True)]
    for conditions in (outputs, list(reduced.constraints)):
        unseen = [j for j in place.values() if j not in found]
        found |= _complete(model, r, guess, unseen, conditions, symbols)
        take_slopes()
    return guess


def observed_values(model: Any, r: Recording) -> dict[Any, np.ndarray]:
    """Of states that are outputs themselves, what was observed at every time, on straight lines over gaps."""
    shown = model.system.outputs or {s.name: s for s in model.system.states}
    return {e: _between(r, name) for name, e in shown.items() if e.is_Symbol and _is_seen(r, name)}


def _is_seen(r: Recording, name: str) -> bool:
    return name in r.values and int(np.isfinite(r.values[name]).sum()) >= 2


def _between(r: Recording, name: str) -> np.ndarray:
    there = np.isfinite(r.values[name])
    return np.interp(r.times, r.times[there], r.values[name][there])


def _complete(
    model: Any, r: Recording, guess: np.ndarray, unseen: list[int], conditions: list[Any], observed: dict[Any, Any]
) -> set[int]:
    """Move the states `unseen` of guesses (n_times, N) to where conditions hold best, by Gauss-Newton steps in them
    alone; places of those that were moved, none where such values are not found at all times."""
    reduced, free = model.reduced, {model.reduced.y[j] for j in unseen}
    known = {*reduced.y, *reduced.parameters, *observed, reduced.time}
    rows = [c for c in conditions if not c.has(Applied) and c.free_symbols & free and c.free_symbols <= known]
    places = [j for j in unseen if any(reduced.y[j] in c.free_symbols for c in rows)]
    values = {s.name: v for s, v in reduced.parameters.items()} | model.parameters_now() | dict(r.parameters)
    if not rows or None in values.values():
        return set()
    inputs = {"y": reduced.y, "observed": tuple(observed)}
    function = VectorFunction(rows, inputs, reduced.time, reduced.parameters, "first guesses").numpy()
    seen = np.stack([*observed.values(), r.times], -1)[:, :-1]
    moved, change = guess.copy(), np.zeros((len(guess), len(places)))
    with np.errstate(all="ignore"):
        for _ in range(_CORRECTIONS):
            residual = function(moved, seen, t=r.times, parameters=values)
            slopes = function.jacobian("y", moved, seen, t=r.times, parameters=values)[..., places]
            if not (np.isfinite(slopes).all() and np.isfinite(residual).all()):
                return set()
            change = (np.linalg.pinv(slopes, rcond=1e-6) @ residual[..., None])[..., 0]
            moved[:, places] -= change
    if not (np.abs(change) <= 1e-3 * (1e-3 + np.abs(moved[:, places]).max(0))).all():
        return set()
    guess[:] = moved
    return {*places}


def observed_states(model: Any, r: Recording) -> set[int]:
    """Places of the differential variables that are outputs themselves, and were seen in a recording."""
    shown = model.system.outputs or {s.name: s for s in model.system.states}
    symbols = {e for name, e in shown.items() if name in r.values and np.isfinite(r.values[name]).any()}
    return {j for j, s in enumerate(model.reduced.y) if s in symbols}


def _slopes(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of lines through the observations around each time."""
    found = np.zeros(len(t))
    for i in range(len(t)):
        near = slice(max(0, i - _AROUND), i + _AROUND + 1)
        found[i] = np.polyfit(t[near] - t[i], x[near], min(2, len(t[near]) - 1))[-2]
    return found
